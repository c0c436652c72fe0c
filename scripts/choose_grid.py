"""Choose the temperatures and chemical potentials of a sweep, from the hull's slopes where the config is silent."""

from segalflow.artefacts import read_table
from segalflow.cells import choose_grid, write_grid
from segalflow.expansion.ground_states import hull_slopes
from segalflow.scripting import logged
from segalflow.units import BOLTZMANN_EV_PER_K

with logged(snakemake.log[0]) as log:
    slopes = []
    if snakemake.input.get("hull"):
        slopes = hull_slopes(read_table(snakemake.input.hull, ["structure", "x", "formation_energy", "source"]))
    grid = choose_grid(
        snakemake.params.grid["temperature"],
        snakemake.params.grid["delta_mu"],
        slopes,
        BOLTZMANN_EV_PER_K,
        key=f"cells.{snakemake.wildcards.cell}.grid",
    )
    log.info("%d temperatures x %d delta_mu, %s", *grid.shape, grid.origin)
    write_grid(snakemake.output.grid, grid, snakemake.params.energy_unit)
