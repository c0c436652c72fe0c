"""Draw the errors of the fit and its violations of the hull over the generations."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.expansion.generations import COLUMNS
from segalflow.plotting.expansion import plot_generations
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    table = read_table(snakemake.input.table, COLUMNS)
    save_figure(*plot_generations(table), Path(snakemake.output.generations).with_suffix(""))
