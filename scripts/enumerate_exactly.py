"""Sum over every decoration of a small cell: the exact ensemble table."""

from segalflow.ensemble import write_ensemble
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.inputs import read_inputs
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    write_ensemble(snakemake.output.table, enumerate_exactly(*inputs.system, attributes=inputs.attributes))
