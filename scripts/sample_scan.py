"""Lead chains up and down the chemical potential: both branches of every transition and their hysteresis."""

from pathlib import Path

from segalflow.ensemble import write_ensemble
from segalflow.sampling.inputs import read_inputs
from segalflow.sampling.scan import sample_scan
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_scan(
        *inputs.system,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "scan" / snakemake.wildcards.cell,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
