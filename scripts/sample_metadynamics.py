"""Sweep the grid with metadynamics in composition: one biased run a temperature, every delta_mu by reweighting."""

from pathlib import Path

from segalflow.ensemble import write_ensemble
from segalflow.sampling.inputs import read_inputs
from segalflow.sampling.metadynamics import sample_metadynamics
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_inputs(snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell)
    table = sample_metadynamics(
        *inputs.system,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "metadynamics" / snakemake.wildcards.cell,
        attributes=inputs.attributes,
        **snakemake.params.settings,
    )
    write_ensemble(snakemake.output.table, table)
