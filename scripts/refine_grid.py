"""Choose the conditions that a round of refinement adds to a SNIS sweep, from its boundaries so far."""

from segalflow.cells import write_grid
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import read_boundaries
from segalflow.phases.refinement import plan_refinement, points_of
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    table = read_ensemble(snakemake.input.table)
    grid, notes = plan_refinement(
        points_of(table, map(read_boundaries, snakemake.input.points)),
        table,
        number=int(snakemake.wildcards.round),
        **snakemake.params.settings,
    )
    for sentence in notes:
        log.info(sentence)
    write_grid(snakemake.output.grid, grid, table.attrs["energy_unit"])
