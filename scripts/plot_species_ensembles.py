"""Draw the compositions of one cell of more than two species: by every chemical potential, and as maps."""

from pathlib import Path

from segalflow.ensemble import read_ensemble
from segalflow.plotting.species import plot_species_isotherms, plot_species_maps
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    tables = {table.attrs["method"]: table for table in map(read_ensemble, snakemake.input.tables)}
    shown = snakemake.params.figures["isotherms"]
    save_figure(*plot_species_isotherms(tables, shown), Path(snakemake.output.isotherms).with_suffix(""))
    drawn = tables.get("snis", next(iter(tables.values())))
    save_figure(*plot_species_maps(drawn, shown), Path(snakemake.output.maps).with_suffix(""))
