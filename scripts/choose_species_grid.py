"""Write the temperatures and the chemical potentials of every exchange of species that a cell is swept on."""

from segalflow.cells import choose_axes, read_cell, write_axes
from segalflow.energy.potentials import ExchangePotentials
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    potentials = ExchangePotentials.of(read_cell(snakemake.input.cell))
    grid = choose_axes(
        snakemake.params.grid["temperature"],
        snakemake.params.grid["delta_mu"],
        potentials.axis_names,
        key=f"cells.{snakemake.wildcards.cell}.grid",
    )
    log.info("%d temperatures, delta_mu: %s", len(grid.temperature), {k: len(v) for k, v in grid.delta_mu.items()})
    write_axes(snakemake.output.grid, grid, snakemake.params.energy_unit)
