"""Sum over every decoration of a small cell of more than two species: the exact ensemble table."""

from segalflow.ensemble import write_ensemble
from segalflow.sampling.species import enumerate_species
from segalflow.sampling.species_inputs import read_species_inputs
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    inputs = read_species_inputs(
        snakemake.input.model, snakemake.input.cell, snakemake.input.grid, snakemake.wildcards.cell
    )
    write_ensemble(snakemake.output.table, enumerate_species(*inputs.system, attributes=inputs.attributes))
