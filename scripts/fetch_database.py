"""Keep a database that was fetched from its URL, if its checksum is the expected one."""

from pathlib import Path

from segalflow.dft.databases import keep_fetched
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    keep_fetched(Path(snakemake.input.url), snakemake.params.database, Path(snakemake.output.database))
    log.info("kept %s of %s", snakemake.output.database, snakemake.params.database["url"])
