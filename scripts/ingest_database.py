"""Read a database of energies, place its structures on the parent lattice; a row for each entry that is not used."""

from pathlib import Path

from segalflow.artefacts import write_structures, write_table
from segalflow.dft.databases import ingest_database, locate
from segalflow.dft.ingestion import require_some, write_records
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    settings = snakemake.params.calculation
    fetched = snakemake.input.fetched
    path = locate(settings["database"], Path(fetched) if fetched else None)
    pool = read_pool(snakemake.input.pool, lattice) if snakemake.input.pool else []
    gathered = ingest_database(path, lattice, settings, {atoms.info["structure"]: atoms for atoms in pool})
    log.info("\n%s", gathered.summary.to_string(index=False))
    require_some(gathered, str(path))
    write_structures(snakemake.output.pool, gathered.structures)
    write_records(snakemake.output.records, gathered)
    write_table(snakemake.output.rejects, gathered.rejects)
    write_table(snakemake.output.summary, gathered.summary)
