"""Running VASP in a job: inputs, the site's command, the gate, and restarts from CONTCAR.

The folder is kept between jobs, so a run that a time limit killed goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.io import read

from segalflow.dft.calculation import FAILED, UNCONVERGED
from segalflow.dft.gate import MISSING, Examined, examine
from segalflow.dft.ingestion import candidate_of, gather, limits_of
from segalflow.dft.vasp_inputs import vasp_inputs, write_inputs
from segalflow.dft.vasp_outputs import output_files
from segalflow.errors import EngineError
from segalflow.lattice import ParentLattice

_KEPT = ("OUTCAR", "OUTCAR.gz", "vasprun.xml", "vasprun.xml.gz", "OSZICAR")


def _usable_contcar(folder: Path, atoms: Atoms) -> bool:
    """Whether CONTCAR is whole and holds the structure's atoms."""
    try:
        found = read(folder / "CONTCAR", format="vasp")
    except Exception:  # a killed run leaves an empty or a half CONTCAR
        return False
    return found.get_chemical_symbols() == atoms.get_chemical_symbols() and bool(
        np.all(np.isfinite(found.positions)) and found.get_volume() > 0
    )


def _set_aside(folder: Path) -> None:
    """Move the last attempt's outputs into a folder of their own."""
    number = 1 + sum(1 for p in folder.glob("attempt_*") if p.is_dir())
    target = folder / f"attempt_{number}"
    target.mkdir()
    shutil.copy2(folder / "POSCAR", target / "POSCAR")
    for name in _KEPT:
        if (folder / name).exists():
            shutil.move(folder / name, target / name)


def run_vasp(structure: Atoms, lattice: ParentLattice, settings: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Calculate one structure with VASP and return its record.

    Args:
        structure: ideal structure with ``info["structure"]``.
        lattice: its parent lattice.
        settings: of the calculation: vasp (with ``command`` and ``attempts``), max_strain, max_displacement,
            max_volume_change.
        work: folder of all runs of this calculation; the run's own folder is named by structure and settings.

    Returns:
        The record, see `segalflow.dft.calculation.run_calculation`.

    Raises:
        EngineError: if there is no POTCAR, or the command does not exist.
    """
    vasp = settings["vasp"]
    inputs = vasp_inputs(structure, lattice.elements, vasp)
    folder = work / f"{inputs.structure}-{inputs.fingerprint}"
    if not write_inputs(folder, inputs, vasp["potcar_functional"]):
        raise EngineError(
            f"POTCAR: {folder} has none and no licensed POTCAR library is configured on this machine; set "
            "PMG_VASP_PSP_DIR to pymatgen's POTCAR folder, put a POTCAR there yourself, or use mode: write"
        )
    limits = limits_of(settings)

    def judged() -> Examined:
        return examine(folder, inputs.request, limits, lattice, structure)

    found = judged()
    for _ in range(vasp["attempts"]):
        if found.status not in (MISSING, UNCONVERGED, FAILED):
            break
        if output_files(folder):
            restart = _usable_contcar(folder, inputs.atoms)
            _set_aside(folder)
            if restart:
                shutil.copy2(folder / "CONTCAR", folder / "POSCAR")
        with (folder / "vasp.log").open("ab") as log:
            done = subprocess.run(
                vasp["command"], shell=True, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        found = judged()
        if done.returncode == 127 and found.status == MISSING:
            raise EngineError(
                f"vasp.command: '{vasp['command']}' does not exist on this machine (see {folder}/vasp.log)"
            )
    common = {"engine": "vasp", "engine_version": "VASP", "settings": {"vasp": dict(vasp)}}
    gathered = gather([candidate_of(folder, found, structure)], lattice, common, [structure])
    return gathered.records[0]


def write_all_inputs(
    pool: list[Atoms], lattice: ParentLattice, vasp: Mapping[str, Any], work: Path, manifest: Path
) -> tuple[pd.DataFrame, int]:
    """Write the input folders of all structures.

    Args:
        pool: ideal structures.
        lattice: their parent lattice.
        vasp: settings of the block ``vasp``.
        work: folder that holds one folder a structure.
        manifest: where the returned table will be: its folders are relative to that file.

    Returns:
        The table (structure, formula, n_atoms, folder, kpoints) and the number of folders with a POTCAR.

    Raises:
        SettingsError, EngineError: see `segalflow.dft.vasp_inputs`.
    """
    rows, in_place = [], 0
    for structure in pool:
        inputs = vasp_inputs(structure, lattice.elements, vasp)
        folder = work / f"{inputs.structure}-{inputs.fingerprint}"
        in_place += write_inputs(folder, inputs, vasp["potcar_functional"])
        rows.append(
            {
                "structure": inputs.structure,
                "formula": structure.get_chemical_formula(mode="metal"),
                "n_atoms": len(structure),
                "kpoints": inputs.files["KPOINTS"].splitlines()[3].replace(" ", "x"),
                "folder": os.path.relpath(folder, manifest.parent),
            }
        )
    return pd.DataFrame(rows), in_place
