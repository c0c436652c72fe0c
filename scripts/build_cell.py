"""Build a cell to sample: its sites, species and symmetry; warn of every ground state that does not fit it."""

import sys

from segalflow.artefacts import read_table
from segalflow.cells import build_cell, write_cell
from segalflow.expansion.ground_states import check_commensurate
from segalflow.lattice import Supercell, lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    warnings = []
    if snakemake.input.get("hull"):
        hull = read_table(snakemake.input.hull, ["structure", "x"])
        ground_states = [
            s for s in read_pool(snakemake.input.pool, lattice) if s.info["structure"] in set(hull["structure"])
        ]
        cell = Supercell(lattice, snakemake.params.repeat)
        warnings = check_commensurate(ground_states, cell, key=f"cells.{snakemake.wildcards.cell}.repeat")
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    write_cell(
        snakemake.output.cell,
        build_cell(snakemake.wildcards.cell, lattice, snakemake.params.repeat, warnings),
    )
