"""Sweep the grid with canonical chains at every composition, joined by the work of exchanging one atom."""

from pathlib import Path

from segalflow.ensemble import write_ensemble
from segalflow.sampling.canonical import sample_canonical
from segalflow.sampling.inputs import read_inputs
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_canonical(
        *inputs.system,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "canonical" / snakemake.wildcards.cell,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
