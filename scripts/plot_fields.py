"""Draw the phase diagram of one cell as named fields with the sampling error and the expansion's own error."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.phases.boundaries import read_boundaries
from segalflow.phases.model_error import COLUMNS as MODEL_ERROR
from segalflow.plotting.fields import plot_fields
from segalflow.plotting.phase_diagram import MEASURED
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged
from segalflow.thermo.order_parameters import COLUMNS as LABELS

with logged(snakemake.log[0]) as log:
    given = snakemake.input
    boundaries = read_boundaries(given.boundaries)
    model_error = read_table(given.model_error, MODEL_ERROR) if given.get("model_error") else None
    if model_error is not None:
        model_error = model_error[model_error["cell"] == snakemake.wildcards.cell]
    save_figure(
        *plot_fields(
            boundaries[boundaries["cell"] == snakemake.wildcards.cell],
            snakemake.params.species,
            read_table(given.labels[0], LABELS) if given.get("labels") else None,
            model_error,
            read_table(given.measured, MEASURED) if given.get("measured") else None,
            snakemake.params.energy_unit,
        ),
        Path(snakemake.output.fields).with_suffix(""),
    )
