"""Draw the phase diagram of one cell with all criteria and methods, against composition and chemical potential."""

from pathlib import Path

import pandas as pd

from segalflow.artefacts import read_table
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import read_boundaries
from segalflow.plotting.phase_diagram import MEASURED, plot_phase_diagram, plot_phase_diagram_delta_mu
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    boundaries = read_boundaries(snakemake.input.boundaries)
    boundaries = boundaries[boundaries["cell"] == snakemake.wildcards.cell]
    tables = {table.attrs["method"]: table for table in map(read_ensemble, snakemake.input.tables)}
    species = [str(s) for s in next(iter(tables.values()))["species"].values]
    hull = (
        read_table(snakemake.input.hull)
        if snakemake.input.get("hull")
        else pd.DataFrame(columns=["source", "x", "name"])
    )
    measured = read_table(snakemake.input.measured, MEASURED) if snakemake.input.get("measured") else None
    save_figure(
        *plot_phase_diagram(boundaries, tables, hull, species, measured),
        Path(snakemake.output.diagram).with_suffix(""),
    )
    save_figure(
        *plot_phase_diagram_delta_mu(boundaries, tables, species), Path(snakemake.output.delta_mu).with_suffix("")
    )
