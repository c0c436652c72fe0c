"""Table of a convergence study, and the value that it recommends for each setting."""

from pathlib import Path

from segalflow.artefacts import read_json, read_table, write_json, write_table
from segalflow.dft.calculation import SCHEMA as RECORD_SCHEMA
from segalflow.dft.convergence import SCHEMA, convergence_table, find_structures, plan_points, recommend, require_points
from segalflow.dft.convergence_runs import judge_points
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged
from segalflow.structures.pool import read_pool

with logged(snakemake.log[0]) as log:
    lattice, settings = lattice_from_settings(snakemake.params.lattice), snakemake.params.calculation
    study, pool = settings["convergence"], read_pool(snakemake.input.pool, lattice)
    points = plan_points(settings, lattice.elements)
    what = f"calculations.{snakemake.wildcards.calculation}.convergence"
    if snakemake.input.manifest:
        rows = read_table(snakemake.input.manifest, ["point", "folder"])
        base = Path(snakemake.input.manifest).parent
        folders = {row.point: base / row.folder for row in rows.itertuples()}
        records = judge_points(points, pool, lattice, folders)
        what += f": VASP inputs are written, see {snakemake.input.instructions}"
    else:
        records = {Path(path).stem: read_json(path, RECORD_SCHEMA) for path in snakemake.input.records}
    named = find_structures(pool, (point.label for point in points), lattice)
    names = {label: name for label, (_, name) in named.items()}
    table = convergence_table(points, records, names, lattice.elements, study["scan"])
    require_points(table, what)
    found = recommend(table, study["scan"], study["tolerance"], settings)
    log.info("%s", found)
    write_table(snakemake.output.table, table)
    write_json(snakemake.output.summary, {"settings": found, "relax": study["relax"], "units": "eV/atom"}, SCHEMA)
