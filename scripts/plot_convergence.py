"""Draw how far energies are from those with the last value of each setting."""

from pathlib import Path

from segalflow.artefacts import read_json, read_table
from segalflow.dft.convergence import SCHEMA
from segalflow.plotting.convergence import plot_convergence
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    summary = read_json(snakemake.input.summary, SCHEMA)
    figure, data = plot_convergence(read_table(snakemake.input.table), summary["settings"])
    save_figure(figure, data, Path(snakemake.output.convergence).with_suffix(""))
