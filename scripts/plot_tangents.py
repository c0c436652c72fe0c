"""Draw the free energy of mixing of one cell at a handful of temperatures with its common tangents."""

from pathlib import Path

from segalflow.phases.boundaries import read_boundaries
from segalflow.plotting.free_energy import plot_tangents
from segalflow.plotting.style import save_figure
from segalflow.scripting import logged
from segalflow.thermo.free_energy import read_free_energy

with logged(snakemake.log[0]) as log:
    boundaries = read_boundaries(snakemake.input.boundaries)
    own = (boundaries["cell"] == snakemake.wildcards.cell) & (boundaries["method"] == snakemake.params.method)
    free = read_free_energy(snakemake.input.free_energy)
    save_figure(*plot_tangents(free, boundaries[own]), Path(snakemake.output.tangents).with_suffix(""))
