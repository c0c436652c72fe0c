"""Draw the convex hull of data and network and the parity plot of one crystal-graph model."""

from pathlib import Path

from segalflow.artefacts import read_json, read_table
from segalflow.lattice import lattice_from_settings
from segalflow.plotting.expansion import plot_hull, plot_parity
from segalflow.plotting.style import composition_label, save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    hull, predictions = read_table(snakemake.input.hull), read_table(snakemake.input.predictions)
    label = composition_label(lattice_from_settings(snakemake.params.lattice).species[0])
    save_figure(*plot_hull(hull, predictions, label), Path(snakemake.output.hull).with_suffix(""))
    save_figure(
        *plot_parity(predictions, read_json(snakemake.input.metrics)), Path(snakemake.output.parity).with_suffix("")
    )
