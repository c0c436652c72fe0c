"""Sum over all decorations of a small cell: the exact answer every sampler must agree with."""

from segalflow.cells import read_cell, read_grid
from segalflow.energy.polynomial import place_expansion
from segalflow.ensemble import write_ensemble
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.provenance import file_sha256
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
        attributes={
            "cell": snakemake.wildcards.cell,
            "reference": expansion.reference,
            "model_sha256": file_sha256(snakemake.input.model),
        },
    )
    write_ensemble(snakemake.output.table, table)
