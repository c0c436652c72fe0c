"""Write the table of generations: what was known once each was calculated."""

from segalflow.artefacts import read_json, write_table
from segalflow.expansion.generations import STATUS_SCHEMA, generations_table
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    table = generations_table([read_json(path, STATUS_SCHEMA) for path in snakemake.input.statuses])
    log.info("%s", table.to_string())
    write_table(snakemake.output.table, table)
