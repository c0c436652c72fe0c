"""Draw the map of the effective sample size of importance sampling."""

from pathlib import Path

from segalflow.ensemble import read_ensemble
from segalflow.plotting.ensemble import plot_ness_map
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    save_figure(*plot_ness_map(read_ensemble(snakemake.input.table)), Path(snakemake.output.ness).with_suffix(""))
