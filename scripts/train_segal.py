"""Train SEGAL on one cell; interrupted training resumes from its checkpoint in `work/` to the same result."""

from pathlib import Path

from segalflow.cells import read_cell, read_grid
from segalflow.energy.polynomial import place_expansion
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.scripting import logged
from segalflow.segal.checkpoint import write_sampler
from segalflow.segal.training import train

with logged(snakemake.log[0]) as log:
    cell = read_cell(snakemake.input.cell)
    grid = read_grid(snakemake.input.grid)
    sampler = train(
        place_expansion(read_expansion(snakemake.input.model), cell),
        cell,
        grid.temperature,
        grid.delta_mu,
        network=snakemake.params.segal["network"],
        training=snakemake.params.segal["training"],
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "segal" / snakemake.wildcards.cell,
        device=snakemake.params.segal["device"],
    )
    write_sampler(sampler, snakemake.output.model, snakemake.output.weights, snakemake.output.history)
