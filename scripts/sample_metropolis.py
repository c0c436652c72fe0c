"""Sweep the grid with semi-grand-canonical Metropolis chains, all conditions in lock step."""

from segalflow.cells import read_cell, read_grid
from segalflow.energy.polynomial import place_expansion
from segalflow.ensemble import source_attributes, write_ensemble
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    grid = read_grid(snakemake.input.grid)
    expansion = read_expansion(snakemake.input.model)
    table = sample_metropolis(
        place_expansion(expansion, cell),
        cell.lattice.species[0],
        grid.temperature,
        grid.delta_mu,
        seed=snakemake.params.seed,
        attributes=source_attributes(snakemake.wildcards.cell, expansion.reference, snakemake.input.model),
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
