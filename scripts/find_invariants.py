"""List eutectoids, peritectoids, congruent and critical points, and what the windows of the sweeps cut off."""

from segalflow.artefacts import read_json, write_json, write_table
from segalflow.phases.boundaries import read_boundaries
from segalflow.phases.invariants import NOTES_SCHEMA, find_cuts, find_empty, find_invariants
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    boundaries = read_boundaries(snakemake.input.boundaries)
    grids = dict(zip(snakemake.params.cells, map(read_json, snakemake.input.grids), strict=True))
    windows = {cell: (grid["temperature"], grid["delta_mu"]) for cell, grid in grids.items()}
    cuts, notes = find_cuts(boundaries, windows)
    notes += find_empty(boundaries, snakemake.params.cells, windows)
    for sentence in cuts + notes:
        log.info(sentence)
    write_table(snakemake.output.table, find_invariants(boundaries))
    write_json(snakemake.output.notes, {"cuts": cuts, "notes": notes}, NOTES_SCHEMA)
