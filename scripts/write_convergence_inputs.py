"""Write a VASP input folder for each point of a convergence study, their list, and what to do with them."""

from pathlib import Path

from segalflow.artefacts import atomic_path, write_table
from segalflow.dft.convergence import plan_points
from segalflow.dft.convergence_runs import write_point_inputs
from segalflow.dft.vasp_inputs import instructions
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice, names = lattice_from_settings(snakemake.params.lattice), snakemake.wildcards
    settings, manifest = snakemake.params.calculation, snakemake.output.manifest
    points = plan_points(settings, lattice.elements)
    work = Path("work") / names.study / "vasp" / f"{names.calculation}-convergence"
    pool = read_pool(snakemake.input.pool, lattice)
    table, in_place = write_point_inputs(points, pool, lattice, work, Path(manifest))
    log.info("%d folders, %d with a POTCAR", len(table), in_place)
    outcome = "finished folders pass the gate and become the convergence study."
    named = (names.study, f"{names.calculation} (convergence)", manifest)
    family = settings["vasp"]["potcar_functional"]
    with atomic_path(snakemake.output.instructions) as path:
        path.write_text(instructions(*named, len(table), family, in_place, outcome), encoding="utf-8")
    write_table(manifest, table)
