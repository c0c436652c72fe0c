"""Gather the structures of all generations of a calculation, with the generation and the reason of each."""

from pathlib import Path

from segalflow.artefacts import read_structures, read_table, write_structures, write_table
from segalflow.expansion.generations import CHOICE_COLUMNS, selection_table
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    pool = [read_structures(path)[0] for path in snakemake.input.structures]
    # .../expansion/<expansion>/generations/<generation>/proposed.csv
    places = [Path(path).parts for path in snakemake.input.choices]
    tables = [read_table(path, CHOICE_COLUMNS) for path in snakemake.input.choices]
    table = selection_table(pool, {(p[-4], int(p[-2])): t for p, t in zip(places, tables, strict=True)})
    log.info("%d structures in %d generations", len(table), table["generation"].nunique())
    write_structures(snakemake.output.pool, pool)
    write_table(snakemake.output.table, table)
