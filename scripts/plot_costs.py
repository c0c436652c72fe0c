"""Draw the energy evaluations of every method on every cell, training apart."""

from pathlib import Path

from segalflow.artefacts import read_table
from segalflow.ensemble import read_ensembles
from segalflow.plotting.ensemble import plot_energy_evaluations
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    tables = read_ensembles(snakemake.input.tables)
    training = {
        Path(path).parent.name: float(read_table(path, ["energy_evaluations"])["energy_evaluations"].max())
        for path in snakemake.input.histories
    }
    save_figure(*plot_energy_evaluations(tables, training), Path(snakemake.output.costs).with_suffix(""))
