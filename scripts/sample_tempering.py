"""Sweep the grid by replica exchange in temperature and delta_mu; the state is kept in `work/`."""

from functools import partial
from pathlib import Path

from segalflow.ensemble import write_ensemble
from segalflow.samples import write_samples
from segalflow.sampling.inputs import read_inputs
from segalflow.sampling.tempering import sample_tempering
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_tempering(
        *inputs.system,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "tempering" / snakemake.wildcards.cell,
        collect=partial(write_samples, snakemake.output.samples),
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
