"""Sweep the grid with self-normalised importance sampling from a trained SEGAL network."""

from functools import partial

from segalflow.ensemble import write_ensemble
from segalflow.samples import write_samples
from segalflow.sampling.importance import sample_importance
from segalflow.sampling.inputs import read_inputs
from segalflow.scripting import logged
from segalflow.segal.checkpoint import read_sampler

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_importance(
        read_sampler(snakemake.input.segal, snakemake.input.weights, inputs.model, inputs.cell),
        *inputs.system[1:],
        seed=snakemake.params.seed,
        collect=partial(write_samples, snakemake.output.samples),
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
