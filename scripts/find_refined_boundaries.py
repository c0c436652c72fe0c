"""Find the boundaries of a refined SNIS sweep by every refined criterion; as they were where nothing was added."""

from segalflow.artefacts import write_json
from segalflow.cells import read_grid
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import read_boundaries, write_boundaries
from segalflow.phases.criteria import NOTES_SCHEMA
from segalflow.phases.refinement import find_refined_boundaries, points_of
from segalflow.samples import read_samples
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    table = read_ensemble(snakemake.input.table)
    grids = [read_grid(path) for path in snakemake.input.grids]
    notes = [grid.origin for grid in grids]
    boundaries = points_of(table, map(read_boundaries, snakemake.input.points))
    if grids[-1].wanted.any():
        boundaries, said = find_refined_boundaries(
            table,
            read_samples(snakemake.input.samples),
            criteria=snakemake.params.criteria,
            seed=snakemake.params.seed,
            **snakemake.params.free_energy,
        )
        notes += said
    for sentence in notes:
        log.info(sentence)
    write_boundaries(snakemake.output.boundaries, boundaries)
    head = f"refinement of cell {snakemake.wildcards.cell}"
    write_json(snakemake.output.notes, {"criterion": head, "notes": notes}, NOTES_SCHEMA)
