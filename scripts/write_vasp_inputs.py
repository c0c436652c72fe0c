"""Write a VASP input folder for each structure of the pool, their list, and what a person has to do with them."""

from pathlib import Path

from segalflow.artefacts import atomic_path, write_table
from segalflow.dft.vasp_inputs import instructions
from segalflow.dft.vasp_run import write_all_inputs
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    names = snakemake.wildcards
    table, in_place = write_all_inputs(
        read_pool(snakemake.input.pool, lattice),
        lattice,
        snakemake.params.vasp,
        Path("work") / names.study / "vasp" / names.calculation,
        Path(snakemake.output.manifest),
    )
    text = instructions(
        names.study,
        names.calculation,
        snakemake.output.manifest,
        len(table),
        snakemake.params.vasp["potcar_functional"],
        in_place,
    )
    log.info("%d folders, %d with a POTCAR", len(table), in_place)
    with atomic_path(snakemake.output.instructions) as path:
        path.write_text(text, encoding="utf-8")
    write_table(snakemake.output.manifest, table)
