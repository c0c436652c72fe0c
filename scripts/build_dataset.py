"""Gather the records of all calculations into the dataset, with formation energies against its own end members."""

from segalflow.artefacts import read_table, write_structures, write_table
from segalflow.dft.dataset import build_dataset, read_records
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    records, end_members = read_records(snakemake.input.records)
    dataset = build_dataset(
        read_pool(snakemake.input.pool, lattice),
        records,
        lattice,
        snakemake.params.minimum_fraction,
        end_members,
        read_table(snakemake.input.rejects) if snakemake.input.rejects else None,
    )
    log.info("%d usable, %d excluded", len(dataset.structures), len(dataset.excluded))
    write_structures(snakemake.output.dataset, dataset.structures)
    write_table(snakemake.output.table, dataset.table)
    write_table(snakemake.output.excluded, dataset.excluded)
