"""Draw invariant temperatures against the size of the cell, extrapolated to the infinite crystal."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.phases.finite_size import COLUMNS
from segalflow.plotting.finite_size import plot_finite_size
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    table = read_table(snakemake.input.table, COLUMNS)
    save_figure(*plot_finite_size(table), Path(snakemake.output.sizes).with_suffix(""))
