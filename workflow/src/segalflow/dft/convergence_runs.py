"""Running the points of a convergence study, or writing their VASP inputs and taking in what has been run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ase import Atoms

from segalflow.dft.calculation import run_calculation
from segalflow.dft.convergence import Point, find_structures
from segalflow.dft.gate import examine
from segalflow.dft.ingestion import candidate_of, gather, limits_of
from segalflow.dft.vasp_inputs import request_of
from segalflow.dft.vasp_run import run_vasp, write_all_inputs
from segalflow.dft.ways import ENGINE, RUN
from segalflow.lattice import ParentLattice


def _by_engine(structure: Atoms, lattice: ParentLattice, settings: Mapping[str, Any], work: Path) -> dict[str, Any]:
    return run_calculation(structure, lattice, settings["engine"], {k: v for k, v in settings.items() if k != "engine"})


# way: (structure, its lattice, settings with the scanned value, folder of VASP runs) -> record
RUNNERS: dict[str, Callable[[Atoms, ParentLattice, Mapping[str, Any], Path], dict[str, Any]]] = {
    ENGINE: _by_engine,
    RUN: run_vasp,
}
"""Ways of calculating a point in a job; the others write VASP inputs for a person to run."""


def write_point_inputs(
    points: Sequence[Point], pool: Sequence[Atoms], lattice: ParentLattice, work: Path, manifest: Path
) -> tuple[pd.DataFrame, int]:
    """Write the VASP inputs of all points.

    Args:
        points: of `segalflow.dft.convergence.plan_points`.
        pool: structures, among them those of the points.
        lattice: their parent lattice.
        work: folder that holds one folder a point.
        manifest: where the returned table will be.

    Returns:
        The table of `segalflow.dft.vasp_run.write_all_inputs` with a column point, and the number of POTCARs in place.
    """
    tables, in_place = [], 0
    structures = find_structures(pool, (p.label for p in points), lattice)
    for point in points:
        structure, _ = structures[point.label]
        table, n = write_all_inputs([structure], lattice, point.settings["vasp"], work, manifest)
        tables.append(table.assign(point=point.name))
        in_place += n
    return pd.concat(tables, ignore_index=True), in_place


def judge_points(
    points: Sequence[Point], pool: Sequence[Atoms], lattice: ParentLattice, folders: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Return the record of each point by its name, from the VASP runs in their folders, as the gate judges them."""
    records = {}
    structures = find_structures(pool, (p.label for p in points), lattice)
    for point in points:
        structure, _ = structures[point.label]
        request = request_of(point.settings["vasp"], structure.info["structure"])
        found = examine(folders[point.name], request, limits_of(point.settings), lattice, structure)
        common = {"engine": "vasp", "engine_version": "VASP", "settings": {"vasp": point.settings["vasp"]}}
        gathered = gather([candidate_of(folders[point.name], found, structure)], lattice, common, [structure])
        records[point.name] = gathered.records[0]
    return records
