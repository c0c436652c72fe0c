"""Judge VASP runs that exist, in folders the workflow wrote or the config names; a row for each reject."""

from pathlib import Path

from segalflow.artefacts import write_structures, write_table
from segalflow.dft.ingestion import find_runs, ingest_vasp, require_some, write_records
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    settings = snakemake.params.calculation
    pool = read_pool(snakemake.input.pool, lattice) if snakemake.input.pool else None
    known = {atoms.info["structure"]: atoms for atoms in pool or []}
    if snakemake.input.manifest:
        runs = find_runs({"manifest": snakemake.input.manifest})
        what = f"VASP inputs of {len(runs)} structures are written, see {Path(snakemake.input.instructions)}"
    else:
        runs, what = find_runs(settings["runs"]), "VASP runs"
    gathered = ingest_vasp([(path, known.get(name, name)) for path, name in runs], lattice, settings, pool)
    log.info("\n%s", gathered.summary.to_string(index=False))
    require_some(gathered, what)
    write_structures(snakemake.output.pool, gathered.structures)
    write_records(snakemake.output.records, gathered)
    write_table(snakemake.output.rejects, gathered.rejects)
    write_table(snakemake.output.summary, gathered.summary)
