"""Sweep the grid of more than two species with heat-bath chains and replica exchange."""

from segalflow.ensemble import write_ensemble
from segalflow.sampling.species import sample_species_metropolis
from segalflow.sampling.species_inputs import read_species_inputs
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_species_inputs(
        snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell
    )
    table = sample_species_metropolis(
        *inputs.system, seed=snakemake.params.seed, attributes=inputs.attributes, **snakemake.params.settings
    )
    write_ensemble(snakemake.output.table, table)
