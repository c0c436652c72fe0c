"""Sweep the grid with variance-constrained chains: windows of composition, joined into every delta_mu."""

from pathlib import Path

from segalflow.ensemble import write_ensemble
from segalflow.sampling.inputs import read_inputs
from segalflow.sampling.vcsgc import sample_vcsgc
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_vcsgc(
        *inputs.system,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "vcsgc" / snakemake.wildcards.cell,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
