"""Gather the boundary points of all criteria into one table."""

from segalflow.phases.boundaries import merge_boundaries, read_boundaries, write_boundaries
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    write_boundaries(snakemake.output.boundaries, merge_boundaries(map(read_boundaries, snakemake.input.tables)))
