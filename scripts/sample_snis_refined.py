"""Add the conditions of a round of refinement to a SNIS sweep, drawn from the network that is there."""

from segalflow.ensemble import read_ensemble, write_ensemble
from segalflow.samples import read_samples, write_samples
from segalflow.sampling.inputs import read_inputs
from segalflow.sampling.refined import add_conditions
from segalflow.scripting import logged
from segalflow.segal.checkpoint import read_sampler

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table, samples = add_conditions(
        read_ensemble(snakemake.input.table),
        read_samples(snakemake.input.samples),
        read_sampler(snakemake.input.segal, snakemake.input.weights, inputs.model, inputs.cell),
        inputs.grid,
        number=int(snakemake.wildcards.round),
        seed=snakemake.params.seed,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
    write_samples(snakemake.output.samples, samples)
