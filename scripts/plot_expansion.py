"""Draw the convex hull of data and model, the parity plot and the ECIs of one expansion."""

from pathlib import Path

from segalflow.artefacts import read_json, read_table
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.plotting.expansion import plot_ecis, plot_hull, plot_parity
from segalflow.plotting.style import composition_label, save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    expansion = read_expansion(snakemake.input.model)
    hull, predictions = read_table(snakemake.input.hull), read_table(snakemake.input.predictions)
    label = composition_label(expansion.lattice.species[0])
    save_figure(*plot_hull(hull, predictions, label), Path(snakemake.output.hull).with_suffix(""))
    save_figure(
        *plot_parity(predictions, read_json(snakemake.input.metrics)), Path(snakemake.output.parity).with_suffix("")
    )
    save_figure(*plot_ecis(expansion), Path(snakemake.output.ecis).with_suffix(""))
