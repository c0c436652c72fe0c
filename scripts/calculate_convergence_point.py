"""Calculate one point of a convergence study: one structure with one value of one setting."""

from pathlib import Path

from segalflow.artefacts import write_json
from segalflow.dft.calculation import SCHEMA
from segalflow.dft.convergence import find_structures
from segalflow.dft.convergence_runs import RUNNERS
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice, names = lattice_from_settings(snakemake.params.lattice), snakemake.wildcards
    pool, label = read_pool(snakemake.input.pool, lattice), snakemake.params.label
    structure, _ = find_structures(pool, [label], lattice)[label]
    work = Path("work") / names.study / "vasp" / f"{names.calculation}-convergence"
    record = RUNNERS[snakemake.params.way](structure, lattice, snakemake.params.settings, work)
    log.info("%s: %s %s", record["structure"], record["status"], record["reason"])
    write_json(snakemake.output.record, record, SCHEMA)
