"""Draw the maps of the effective sample size of importance sampling for more than two species."""

from pathlib import Path

from segalflow.ensemble import read_ensemble
from segalflow.plotting.species import plot_species_ness
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    save_figure(*plot_species_ness(read_ensemble(snakemake.input.table)), Path(snakemake.output.ness).with_suffix(""))
