"""Draw the training of SEGAL: loss and effective sample size against steps."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.plotting.ensemble import plot_training
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    save_figure(
        *plot_training(read_table(snakemake.input.history, ["step", "loss"])),
        Path(snakemake.output.training).with_suffix(""),
    )
