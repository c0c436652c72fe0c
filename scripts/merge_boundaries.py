"""Gather the boundary points of all criteria, refined ones in their place, and name the phases by order or hull."""

from segalflow.artefacts import read_table
from segalflow.phases.boundaries import merge_boundaries, read_boundaries, replace_refined, write_boundaries
from segalflow.phases.naming import name_by_order, name_phases
from segalflow.scripting import logged
from segalflow.thermo.phase_weights import read_phase_weights

with logged(snakemake.log[0]) as log:
    boundaries = merge_boundaries(map(read_boundaries, snakemake.input.tables))
    boundaries = replace_refined(boundaries, merge_boundaries(map(read_boundaries, snakemake.input.refined)))
    hulls = dict(zip(snakemake.params.hulls, snakemake.input.hulls, strict=True))
    weights = {}
    for found in map(read_phase_weights, snakemake.input.weights):
        weights.setdefault(found.attributes["cell"], {})[found.attributes["method"]] = found
    named = []
    for cell, expansion in snakemake.params.cells.items():
        part = name_by_order(boundaries[boundaries["cell"] == cell], weights.get(cell, {}))
        # A model without a hull has no ground states to name phases after.
        known = expansion in hulls and cell not in weights
        named.append(name_phases(part, read_table(hulls[expansion]).query("source == 'model'")) if known else part)
    write_boundaries(snakemake.output.boundaries, merge_boundaries(named))
