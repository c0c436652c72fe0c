"""Sweep the grid with self-normalised importance sampling from a trained SEGAL network."""

from segalflow.cells import read_cell, read_grid
from segalflow.energy.polynomial import place_expansion
from segalflow.ensemble import source_attributes, write_ensemble
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.sampling.importance import sample_importance
from segalflow.scripting import logged
from segalflow.segal.checkpoint import read_sampler

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    grid = read_grid(snakemake.input.grid)
    expansion = read_expansion(snakemake.input.model)
    model = place_expansion(expansion, cell)
    table = sample_importance(
        read_sampler(snakemake.input.segal, snakemake.input.weights, model, cell),
        cell.lattice.species[0],
        grid.temperature,
        grid.delta_mu,
        seed=snakemake.params.seed,
        attributes=source_attributes(snakemake.wildcards.cell, expansion.reference, snakemake.input.model),
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
