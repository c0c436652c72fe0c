"""Extrapolate the invariant temperatures of cells of several sizes to the infinite crystal."""

from segalflow.artefacts import read_table, write_table
from segalflow.cells import read_cell
from segalflow.phases.finite_size import finite_size_series
from segalflow.phases.invariants import COLUMNS
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    cells = {}
    for (name, expansion), path in zip(snakemake.params.cells.items(), snakemake.input.cells, strict=True):
        cell = read_cell(path)
        cells[name] = {"n_sites": cell.n_sites, "expansion": expansion, "dimensions": sum(cell.lattice.pbc)}
    table, notes = finite_size_series(read_table(snakemake.input.invariants, COLUMNS), cells)
    for sentence in notes:
        log.info(sentence)
    write_table(snakemake.output.table, table)
