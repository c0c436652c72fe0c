"""Draw the error on unseen structures against the number of structures fitted."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.plotting.expansion import plot_learning_curve
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    figure, data = plot_learning_curve(read_table(snakemake.input.curve))
    save_figure(figure, data, Path(snakemake.output.learning).with_suffix(""))
