"""Sweep the grid from one Wang-Landau density of states in energy and composition."""

from pathlib import Path

from segalflow.ensemble import write_ensemble
from segalflow.sampling.inputs import read_inputs
from segalflow.sampling.wang_landau import sample_wang_landau
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_wang_landau(
        *inputs.system,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "wang_landau" / snakemake.wildcards.cell,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
