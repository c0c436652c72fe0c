"""Sum over all decorations of a small cell: the exact answer every sampler must agree with."""

from segalflow.cells import read_cell, read_grid
from segalflow.energy.polynomial import place_expansion
from segalflow.ensemble import source_attributes, write_ensemble
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    grid = read_grid(snakemake.input.grid)
    expansion = read_expansion(snakemake.input.model)
    table = enumerate_exactly(
        place_expansion(expansion, cell),
        cell.lattice.species[0],
        grid.temperature,
        grid.delta_mu,
        attributes=source_attributes(snakemake.wildcards.cell, expansion.reference, snakemake.input.model),
    )
    write_ensemble(snakemake.output.table, table)
