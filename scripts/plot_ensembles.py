"""Draw isotherms of composition and heat capacities of one cell, by method."""

from pathlib import Path

from segalflow.ensemble import read_ensemble
from segalflow.plotting.ensemble import plot_heat_capacity, plot_isotherms
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    tables = {table.attrs["method"]: table for table in map(read_ensemble, snakemake.input.tables)}
    save_figure(
        *plot_isotherms(tables, snakemake.params.figures["isotherms"]),
        Path(snakemake.output.isotherms).with_suffix(""),
    )
    save_figure(
        *plot_heat_capacity(tables, snakemake.params.figures["heat_capacities"]),
        Path(snakemake.output.heat_capacity).with_suffix(""),
    )
