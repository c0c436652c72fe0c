"""One calculation of one structure: relaxation, its check against the parent lattice, its status record.

A record is plain data. A calculation that fails, does not converge or leaves its parent lattice is a record with that
status and its reason, not a crash. Imports are kept light: such jobs start by the hundred.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, reference_states
from ase.geometry import find_mic, minkowski_reduce

from segalflow.dft.engines import create_engine
from segalflow.errors import EngineError
from segalflow.lattice import ParentLattice

SCHEMA = "segalflow.calculation/1"

CONVERGED, UNCONVERGED, FAILED, COLLAPSED = "converged", "unconverged", "failed", "collapsed"

_SITES_PER_CUBE = {"fcc": 4, "bcc": 2, "sc": 1, "diamond": 8}


def elemental_volume(symbol: str) -> float | None:
    """Return the volume per atom of an element's reference crystal (ASE's table), cubic Angstrom, or None."""
    state = reference_states[atomic_numbers[symbol]]
    if state is None or state["symmetry"] not in _SITES_PER_CUBE | {"hcp": 2}:
        return None
    if state["symmetry"] == "hcp":
        return float(state["a"] ** 3 * state["c/a"] * np.sqrt(3) / 4)
    return float(state["a"] ** 3 / _SITES_PER_CUBE[state["symmetry"]])


def scaled_to_elements(atoms: Atoms) -> Atoms:
    """Return a copy with the volume that its elements have on average (Zen's law): a relaxation's starting point."""
    volumes = [elemental_volume(s) for s in atoms.get_chemical_symbols()]
    scaled = atoms.copy()
    if all(v is not None for v in volumes):
        factor = (sum(volumes) / atoms.get_volume()) ** (1 / 3)
        scaled.set_cell(atoms.cell * factor, scale_atoms=True)
    return scaled


def deformation(ideal: Atoms, relaxed: Atoms) -> dict[str, float]:
    """Return how far a relaxed structure is from its parent lattice.

    Returns:
        ``volume_ratio`` (relaxed to ideal), ``deviatoric_strain`` (Frobenius norm of the Lagrangian strain after the
        volume change is taken out, dimensionless) and ``max_displacement`` (largest distance of an atom from its site
        in the deformed lattice, after removing the mean shift, Angstrom).
    """
    gradient = np.linalg.solve(np.array(ideal.cell), np.array(relaxed.cell))
    volume = float(abs(np.linalg.det(gradient)))
    shape = gradient / volume ** (1 / 3)
    strain = 0.5 * (shape @ shape.T - np.eye(3))
    shift, _ = find_mic(
        relaxed.positions - ideal.get_scaled_positions() @ np.array(relaxed.cell), relaxed.cell, pbc=True
    )
    shift -= shift.mean(axis=0)
    return {
        "volume_ratio": volume,
        "deviatoric_strain": float(np.linalg.norm(strain)),
        "max_displacement": float(np.linalg.norm(shift, axis=1).max()),
    }


def volume_change(atoms: Atoms) -> float | None:
    """Return the volume against the mean of the elements' reference crystals, minus 1; None where one is not known."""
    volumes = [elemental_volume(s) for s in atoms.get_chemical_symbols()]
    return None if any(v is None for v in volumes) else float(atoms.get_volume() / sum(volumes) - 1)


def left_lattice(
    change: Mapping[str, float],
    max_strain: float,
    max_displacement: float,
    volume: tuple[float | None, float] = (None, 0),
) -> str:
    """Return why a relaxed structure is not on its parent lattice any more, or an empty text.

    Args:
        change: see `deformation`.
        max_strain: largest deviatoric strain.
        max_displacement: largest distance of an atom from its site, Angstrom.
        volume: of a relaxed cell its `volume_change` and the largest one allowed.
    """
    if change["deviatoric_strain"] > max_strain:
        return f"left its parent lattice: strain {change['deviatoric_strain']:.3f}, allowed {max_strain}"
    if change["max_displacement"] > max_displacement:
        return (
            f"left its parent lattice: an atom moved {change['max_displacement']:.2f} A, allowed {max_displacement} A"
        )
    found, allowed = volume
    if found is not None and abs(found) > allowed:
        return (
            f"left its parent lattice: its volume is {100 * found:+.0f}% off the mean of its elements, allowed "
            f"{100 * allowed:.0f}%"
        )
    return ""


def _relax(atoms: Atoms, relax: str, fmax: float, max_steps: int) -> tuple[bool, int]:
    """Relax in place; return whether it converged and the number of steps."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    if relax == "none":
        atoms.get_potential_energy()
        return True, 0
    target = FrechetCellFilter(atoms) if relax == "full" else atoms
    with BFGS(target, logfile=io.StringIO(), maxstep=0.1) as optimiser:
        converged = optimiser.run(fmax=fmax, steps=max_steps)
        return bool(converged), int(optimiser.get_number_of_steps())


def run_calculation(
    structure: Atoms, lattice: ParentLattice, engine: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Calculate one structure and return its record.

    Args:
        structure: ideal decorated structure with ``info["structure"]`` and the array ``occupation``.
        lattice: its parent lattice.
        engine: name in `segalflow.dft.engines.ENGINES`.
        settings: ``parameters`` of the engine, ``relax``, ``fmax`` (eV/Angstrom), ``max_steps``, ``max_strain``,
            ``max_displacement`` (Angstrom), ``max_volume_change``.

    Returns:
        Plain types: structure, status, reason, energy (eV, whole cell), cell, positions, symbols, occupation,
        max_force, n_steps, deformation, and what made it.

    Raises:
        EngineError: if the engine is unknown or not installed (a mistake of the config, not of the structure).
    """
    made = create_engine(engine, settings["parameters"])
    record: dict[str, Any] = {
        "structure": structure.info["structure"],
        "symbols": structure.get_chemical_symbols(),
        "occupation": [int(v) for v in structure.get_array("occupation")],
        "lattice": lattice.name,
        "engine": made.name,
        "engine_version": made.version,
        "settings": {k: settings[k] for k in sorted(settings)},
    }
    atoms = scaled_to_elements(structure) if settings["relax"] == "full" else structure.copy()
    reduction = minkowski_reduce(np.array(atoms.cell))[1] if made.reduce_cell else np.eye(3, dtype=int)
    atoms.set_cell(reduction @ np.array(atoms.cell))
    try:
        atoms.calc = made.calculator(atoms)
        converged, n_steps = _relax(atoms, settings["relax"], settings["fmax"], settings["max_steps"])
        energy = float(atoms.get_potential_energy())
        forces = atoms.get_forces()
        if not (np.isfinite(energy) and np.all(np.isfinite(forces))):
            raise ValueError(f"energy or forces are not finite (energy {energy})")
        atoms.calc = None
        atoms.set_cell(np.linalg.solve(reduction, np.array(atoms.cell)))  # the record's cell is the pool's
        change = deformation(structure, atoms)
        record.update(
            energy=energy,
            energy_per_atom=energy / len(atoms),
            n_steps=n_steps,
            max_force=float(np.linalg.norm(forces, axis=1).max()),
            cell=np.array(atoms.cell).tolist(),
            positions=atoms.positions.tolist(),
            deformation=change,
        )
    except EngineError:  # the engine is not installed: that is not about this structure
        raise
    except Exception as error:  # whatever a calculator raises is data about this structure
        return {**record, "status": FAILED, "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    if not converged:
        reason = f"not converged to {settings['fmax']} eV/A in {n_steps} steps"
        return {**record, "status": UNCONVERGED, "reason": reason}
    volume = volume_change(atoms) if settings["relax"] == "full" else None
    reason = left_lattice(
        change, settings["max_strain"], settings["max_displacement"], (volume, settings["max_volume_change"])
    )
    return {**record, "status": COLLAPSED if reason else CONVERGED, "reason": reason}
