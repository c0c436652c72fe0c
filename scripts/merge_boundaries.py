"""Gather the boundary points of all criteria, refined ones in their place, and name the phases after ground states."""

from segalflow.artefacts import read_table
from segalflow.phases.boundaries import merge_boundaries, read_boundaries, replace_refined, write_boundaries
from segalflow.phases.naming import name_phases
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    boundaries = merge_boundaries(map(read_boundaries, snakemake.input.tables))
    boundaries = replace_refined(boundaries, merge_boundaries(map(read_boundaries, snakemake.input.refined)))
    hulls = dict(zip(snakemake.params.hulls, snakemake.input.hulls, strict=True))
    named = []
    for cell, expansion in snakemake.params.cells.items():
        part = boundaries[boundaries["cell"] == cell]
        # A model without a hull has no ground states to name phases after.
        known = expansion in hulls
        named.append(name_phases(part, read_table(hulls[expansion]).query("source == 'model'")) if known else part)
    write_boundaries(snakemake.output.boundaries, merge_boundaries(named))
