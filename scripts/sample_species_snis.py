"""Sweep the grid of more than two species with importance sampling from a trained network."""

from segalflow.ensemble import write_ensemble
from segalflow.sampling.species import sample_species_importance
from segalflow.sampling.species_inputs import read_species_inputs
from segalflow.scripting import logged
from segalflow.segal.checkpoint import read_sampler

with logged(snakemake.log[0]) as log:
    inputs = read_species_inputs(
        snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell
    )
    table = sample_species_importance(
        read_sampler(snakemake.input.segal, snakemake.input.weights, inputs.model, inputs.cell),
        inputs.grid.temperature,
        inputs.grid.axes,
        seed=snakemake.params.seed,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
