"""Gather the boundary points of all criteria into one table, and name the phases after the nearest ground states."""

from segalflow.artefacts import read_table
from segalflow.phases.boundaries import merge_boundaries, read_boundaries, write_boundaries
from segalflow.phases.naming import name_phases
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    boundaries = merge_boundaries(map(read_boundaries, snakemake.input.tables))
    named = [
        name_phases(boundaries[boundaries["cell"] == cell], read_table(hull).query("source == 'model'"))
        for cell, hull in zip(snakemake.params.cells, snakemake.input.hulls, strict=True)
    ]
    write_boundaries(snakemake.output.boundaries, merge_boundaries(named))
