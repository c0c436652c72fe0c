"""Draw which phase every condition is in, by method."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.plotting.phases import plot_phases
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged
from segalflow.thermo.order_parameters import COLUMNS

with logged(snakemake.log[0]) as log:
    tables = [read_table(path, COLUMNS) for path in snakemake.input.labels]
    save_figure(*plot_phases(tables, snakemake.params.species), Path(snakemake.output.phases).with_suffix(""))
