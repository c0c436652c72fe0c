"""Gather the records of all calculations into the dataset, with formation energies against its own end members."""

from segalflow.artefacts import read_json, write_structures, write_table
from segalflow.dft.calculation import SCHEMA
from segalflow.dft.dataset import build_dataset
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    dataset = build_dataset(
        read_pool(snakemake.input.pool, lattice),
        [read_json(path, SCHEMA) for path in snakemake.input.records],
        lattice,
        snakemake.params.minimum_fraction,
    )
    log.info("%d usable, %d excluded", len(dataset.structures), len(dataset.excluded))
    write_structures(snakemake.output.dataset, dataset.structures)
    write_table(snakemake.output.table, dataset.table)
    write_table(snakemake.output.excluded, dataset.excluded)
