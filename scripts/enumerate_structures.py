"""Make the pool of structures: all symmetry-distinct decorations of the parent lattice up to a number of atoms, or a
selection of them.

Each structure's id is a hash of its decorated primitive cell, so a larger pool never repeats a calculation. Beside the
pool and its manifest, one small file a structure lets the calculations depend on their own structure alone.
"""

from pathlib import Path

from segalflow.artefacts import write_structures, write_table
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.enumeration import enumerate_pool
from segalflow.structures.pool import pool_table

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    settings = snakemake.params.structures
    pool = enumerate_pool(
        lattice, settings["max_atoms"], settings["max_structures"], settings["selection"], settings["only"]
    )
    log.info("%d structures", len(pool))
    for structure in pool:
        write_structures(Path(snakemake.output.folder) / f"{structure.info['structure']}.extxyz", [structure])
    write_structures(snakemake.output.pool, pool)
    write_table(snakemake.output.manifest, pool_table(pool, lattice))
