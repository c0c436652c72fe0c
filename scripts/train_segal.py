"""Train SEGAL on one cell; interrupted training resumes from its checkpoint in `work/` to the same result."""

from pathlib import Path

from segalflow.cells import read_cell, read_grid
from segalflow.energy.registry import read_energy_model
from segalflow.scripting import logged
from segalflow.segal.checkpoint import read_sampler, write_sampler
from segalflow.segal.training import train

with logged(snakemake.log[0]) as log:
    cell, grid = read_cell(snakemake.input.cell), read_grid(snakemake.input.grid)
    start = None
    if snakemake.input.start:
        other_cell, *other_network = snakemake.input.start
        other = read_cell(other_cell)
        start = read_sampler(*other_network, read_energy_model(snakemake.input.model, other), other)
    sampler = train(
        read_energy_model(snakemake.input.model, cell),
        cell,
        grid.temperature,
        grid.delta_mu,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "segal" / snakemake.wildcards.cell,
        start=start,
        **snakemake.params.settings,
    )
    write_sampler(sampler, snakemake.output.model, snakemake.output.weights, snakemake.output.history)
