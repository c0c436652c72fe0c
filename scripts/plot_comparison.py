"""Draw the z-scores of every method against the one its cell is judged by, beside the unit normal."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.plotting.ensemble import plot_comparison
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    save_figure(
        *plot_comparison(read_table(snakemake.input.comparison)), Path(snakemake.output.comparison).with_suffix("")
    )
