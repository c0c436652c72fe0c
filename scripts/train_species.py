"""Train SEGAL for more than two species on one cell; interrupted training resumes from its checkpoint in `work/`."""

from pathlib import Path

from segalflow.cells import read_axes, read_cell
from segalflow.energy.registry import read_energy_model
from segalflow.scripting import logged
from segalflow.segal.checkpoint import write_sampler
from segalflow.segal.species_training import train_species

with logged(snakemake.log[0]) as log:
    cell, grid = read_cell(snakemake.input.cell), read_axes(snakemake.input.grid)
    sampler = train_species(
        read_energy_model(snakemake.input.model, cell),
        cell,
        grid.temperature,
        grid.axes,
        seed=snakemake.params.seed,
        work=Path("work") / snakemake.wildcards.study / "segal" / snakemake.wildcards.cell,
        **snakemake.params.settings,
    )
    write_sampler(sampler, snakemake.output.model, snakemake.output.weights, snakemake.output.history)
