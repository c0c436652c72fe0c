"""The gate: which finished VASP runs may become data.

A run passes when it is whole, was made with the settings asked for, converged in its electrons and its ions, and ended
on the parent lattice as the decoration that was asked for. Everything else is a verdict with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from segalflow.dft.calculation import (
    COLLAPSED,
    CONVERGED,
    FAILED,
    UNCONVERGED,
    deformation,
    left_lattice,
    volume_change,
)
from segalflow.dft.matching import Match, match_to_lattice
from segalflow.dft.vasp_outputs import UnreadableOutput, VaspOutput, output_files, read_output
from segalflow.errors import LatticeError
from segalflow.lattice import ParentLattice

MISMATCH, DUPLICATE, MISSING = "mismatch", "duplicate", "missing"
"""Statuses beside those of `segalflow.dft.calculation`: not what was asked for, a repeated structure, no output."""

CHECKS = ("FUNCTIONAL", "ENCUT", "EDIFF", "ISIF", "RELAXATION", "ISPIN", "POTCAR", "KPOINTS", "FORCES", "PRESSURE")
"""The checks against the request that can be left out by name (``vasp.unchecked``)."""


@dataclass(frozen=True)
class VaspRequest:
    """What a run was asked to be.

    Attributes:
        incar: INCAR tags asked for (upper case).
        potcar: POTCAR symbol by element, e.g. ``{"Cu": "Cu_pv"}``; elements not named take their own symbol.
        xc: first word of the POTCAR titles, e.g. ``PAW_PBE``.
        density: k-points per inverse cubic Angstrom, or None for no check of the mesh.
        unchecked: names in `CHECKS` that are left out.
    """

    incar: Mapping[str, Any]
    potcar: Mapping[str, str] = field(default_factory=dict)
    xc: str = "PAW_PBE"
    density: float | None = None
    unchecked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limits:
    """What still counts as the parent lattice and as a sane energy.

    Attributes:
        max_strain: largest deviatoric strain.
        max_displacement: largest distance of an atom from its site, Angstrom.
        max_volume_change: largest `segalflow.dft.calculation.volume_change` of a run that relaxed its cell.
        max_pressure: largest remaining pressure of a run that relaxed its cell, kbar.
        energy_range: lowest and highest sane energy, eV/atom.
    """

    max_strain: float = 0.1
    max_displacement: float = 0.6
    max_volume_change: float = 0.3
    max_pressure: float = 10.0
    energy_range: tuple[float, float] = (-30.0, 0.0)


def _tag(settings: Mapping[str, Any], tag: str, default: Any) -> Any:
    value = settings.get(tag)
    return default if value in (None, "", "--", "F", "NONE") else value


_GGA = {"PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE", "91": "PW91", "AM": "AM05", "CA": "LDA"}
_XC = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW": "LDA"}
_DISPERSION = {1: "D2", 10: "D2", 11: "D3", 12: "D3(BJ)", 13: "D4", 2: "TS", 20: "TS", 21: "TS/HI", 4: "dDsC"}


def functional(settings: Mapping[str, Any], xc: str) -> str:
    """Return the functional in words (``PBE``, ``PBE+D3``, ``R2SCAN``), from INCAR tags and the POTCAR's first word."""
    meta = str(_tag(settings, "METAGGA", "")).upper()
    gga = str(_tag(settings, "GGA", "")).upper()
    name = meta or (_GGA.get(gga, gga) if gga else _XC.get(xc, xc))
    if _tag(settings, "LHFCALC", False):
        name += " hybrid"
    if _tag(settings, "LDAU", False):
        name += "+U"
    dispersion = int(_tag(settings, "IVDW", 0))
    if dispersion:
        name += f"+{_DISPERSION.get(dispersion, f'IVDW {dispersion}')}"
    if _tag(settings, "LUSE_VDW", False):
        name += "+vdW-DF"
    return name


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def mesh_for(atoms: Atoms, density: float) -> tuple[int, int, int]:
    """Return the divisions of the k-point mesh of a cell at `density` k-points per inverse cubic Angstrom."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp.inputs import Kpoints

    structure = AseAtomsAdaptor.get_structure(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True))
    return tuple(int(n) for n in Kpoints.automatic_density_by_vol(structure, density, force_gamma=True).kpts[0])


def _is_static(settings: Mapping[str, Any]) -> bool:
    return int(_number(settings.get("NSW", 0)) if settings.get("NSW") is not None else 0) <= 0 or (
        int(_tag(settings, "IBRION", -1)) == -1
    )


def _relaxes_cell(settings: Mapping[str, Any]) -> bool:
    return not _is_static(settings) and int(_tag(settings, "ISIF", 2)) in (3, 6, 7)


def _settings_fault(output: VaspOutput, request: VaspRequest) -> str:
    """What differs from the request, or an empty text."""
    found, asked, skip = output.settings, request.incar, request.unchecked
    symbols = list(dict.fromkeys(output.final.get_chemical_symbols()))
    first = {t.split()[0] for t in output.titles if t}
    if "POTCAR" not in skip:
        if not output.titles:
            return "POTCAR: the output names no POTCAR titles"
        given = {}
        for title in output.titles:
            words = title.split()
            if len(words) < 2:
                return f"POTCAR: title '{title}' is not of the form 'PAW_PBE Cu 22Jun2005'"
            given[words[1].split("_")[0]] = (words[0], words[1])
        for symbol in symbols:
            wanted = (request.xc, request.potcar.get(symbol, symbol))
            if given.get(symbol) != wanted:
                shown = " ".join(given[symbol]) if symbol in given else "none"
                return f"POTCAR: expected '{' '.join(wanted)}' for {symbol}, found '{shown}'"
    if "FUNCTIONAL" not in skip:
        has = functional(found, first.pop() if len(first) == 1 else request.xc)
        wants = functional(asked, request.xc)
        if has != wants:
            return f"functional: expected {wants}, found {has}"
    if "ENCUT" not in skip and "ENCUT" in asked and not abs(_number(found.get("ENCUT")) - float(asked["ENCUT"])) < 0.5:
        return f"ENCUT: expected {asked['ENCUT']} eV, found {found.get('ENCUT')}"
    # OUTCAR prints two digits: a small excess of EDIFF is rounding.
    if "EDIFF" not in skip and "EDIFF" in asked and not _number(found.get("EDIFF")) <= 1.01 * float(asked["EDIFF"]):
        return f"EDIFF: expected {asked['EDIFF']} eV or less, found {found.get('EDIFF')}"
    if "ISPIN" not in skip and "ISPIN" in asked and int(_tag(found, "ISPIN", 1)) != int(asked["ISPIN"]):
        return f"ISPIN: expected {asked['ISPIN']}, found {found.get('ISPIN')}"
    if "RELAXATION" not in skip:
        relaxed, wanted = not _is_static(found), not _is_static(asked)
        if wanted and not relaxed:
            return f"a static run (NSW {found.get('NSW')}, IBRION {found.get('IBRION')}), expected a relaxation"
        if relaxed and not wanted:
            return f"a relaxation (NSW {found.get('NSW')}, IBRION {found.get('IBRION')}), expected a static run"
    if "ISIF" not in skip and not _is_static(asked) and "ISIF" in asked and found.get("ISIF") != asked["ISIF"]:
        return f"ISIF: expected {asked['ISIF']}, found {found.get('ISIF')}"
    if "KPOINTS" in skip or request.density is None or output.mesh is None:
        return ""
    # A restart or another lattice constant changes the starting cell a little: that must not cost a division.
    if np.prod(output.mesh) < np.prod(mesh_for(output.initial, 0.85 * request.density)):
        wanted = mesh_for(output.initial, request.density)
        return f"KPOINTS: expected a mesh of at least {_mesh(wanted)}, found {_mesh(output.mesh)}"
    return ""


def _mesh(mesh: Sequence[int]) -> str:
    return "x".join(str(n) for n in mesh)


def _convergence_fault(output: VaspOutput, request: VaspRequest, limits: Limits) -> str:
    found, asked = output.settings, request.incar
    limit = _number(found.get("NELM", 60))
    if output.electronic_steps >= limit:
        return f"electrons: not converged in the NELM = {limit:.0f} steps of the last ionic step"
    if output.loop_failed:
        return "electrons: OUTCAR says that EDIFF was not reached in the last ionic step"
    threshold = _number(found.get("EDIFF", 1e-4))
    # VASP compares with EDIFF itself; the factor is for the rounding of what it prints.
    if output.electronic_change is not None and not output.electronic_change <= max(10 * threshold, 1e-6):
        return (
            f"electrons: the energy still changed by {output.electronic_change:.1e} eV in the last step, "
            f"EDIFF is {threshold:.0e}"
        )
    if _is_static(found):
        return ""
    steps = _number(found.get("NSW"))
    if output.accuracy_reached is False or (output.accuracy_reached is None and output.ionic_steps >= steps):
        return f"ions: the required accuracy was not reached in {output.ionic_steps} of NSW = {steps:.0f} steps"
    criterion = _number(asked.get("EDIFFG", found.get("EDIFFG", -0.01)))
    if "FORCES" not in request.unchecked:
        if criterion < 0 and output.forces is not None:
            largest = float(np.linalg.norm(output.forces, axis=1).max())
            if not largest <= 1.05 * abs(criterion):
                return f"ions: the largest force is {largest:.4f} eV/A, EDIFFG asks for {abs(criterion)}"
        if criterion > 0 and output.ionic_change is not None and not output.ionic_change <= max(criterion, 1e-6) * 1.5:
            return f"ions: the energy still changed by {output.ionic_change:.1e} eV, EDIFFG asks for {criterion}"
    left = None if output.pressure is None else abs(output.pressure - _number(asked.get("PSTRESS", 0.0)))
    if (
        "PRESSURE" not in request.unchecked
        and _relaxes_cell(found)
        and left is not None
        and not left <= limits.max_pressure
    ):
        return f"cell: a pressure of {output.pressure:.1f} kbar is left, allowed {limits.max_pressure}"
    return ""


def judge_run(output: VaspOutput, request: VaspRequest, limits: Limits | None = None) -> tuple[str, str]:
    """Return the status and reason of a run by itself: whole, as requested, converged, with a sane energy."""
    limits = Limits() if limits is None else limits
    if output.unfinished:
        return FAILED, f"unfinished: {output.unfinished}"
    if not np.isfinite(output.energy):
        return FAILED, f"unparsable: the energy is {output.energy}"
    if output.contradictions:
        return FAILED, f"contradiction: {output.contradictions[0]}"
    for name, values in (
        ("a force", output.forces),
        ("a position", output.final.positions),
        ("the cell", np.array(output.final.cell)),
    ):
        if values is not None and not np.all(np.isfinite(values)):
            return FAILED, f"unparsable: {name} is not a finite number"
    fault = _settings_fault(output, request)
    if fault:
        return MISMATCH, f"settings: {fault}"
    fault = _convergence_fault(output, request, limits)
    if fault:
        return UNCONVERGED, fault
    per_atom = output.energy / len(output.final)
    low, high = limits.energy_range
    if not (low <= per_atom < high) or abs(output.energy) < 1e-8:
        return FAILED, f"energy: {per_atom:.4f} eV/atom is outside {low} to {high}"
    return CONVERGED, ""


def judge_deformation(change: Mapping[str, float], limits: Limits, relaxed: Atoms | None = None) -> tuple[str, str]:
    """Return the status and reason of a structure by its distance from the parent lattice.

    Args:
        change: see `segalflow.dft.calculation.deformation`.
        limits: what still counts as the parent lattice.
        relaxed: the structure, if its cell was relaxed: then its volume counts too.
    """
    volume = None if relaxed is None else volume_change(relaxed)
    reason = left_lattice(change, limits.max_strain, limits.max_displacement, (volume, limits.max_volume_change))
    return (COLLAPSED, reason) if reason else (CONVERGED, "")


@dataclass(frozen=True, eq=False)
class Examined:
    """What the gate says of one run.

    Attributes:
        status, reason: the verdict.
        files: the files it rests on.
        output: what was read, or None if nothing could be.
        match: the structure on the parent lattice, or None if it could not be placed.
    """

    status: str
    reason: str
    files: tuple[str, ...]
    output: VaspOutput | None = None
    match: Match | None = None


def _formula(atoms: Atoms) -> str:
    return atoms.get_chemical_formula(mode="metal")


def _same_composition(a: Atoms, b: Atoms) -> bool:
    first, second = Counter(a.get_chemical_symbols()), Counter(b.get_chemical_symbols())
    return set(first) == set(second) and all(first[s] * len(b) == second[s] * len(a) for s in first)


def examine(
    path: Path,
    request: VaspRequest,
    limits: Limits,
    lattice: ParentLattice,
    expected: Atoms | str | None = None,
) -> Examined:
    """Read one run and judge it; whatever the files hold, the answer is a verdict, never an exception.

    Args:
        path: its folder or one of its files.
        request: what it was asked to be.
        limits: what still counts as the parent lattice and as a sane energy.
        lattice: parent lattice of the study.
        expected: the ideal structure that the run is of, or its id, where that is known.
    """
    files = output_files(path)
    named = tuple(str(p) for p in files)
    if not files:
        return Examined(MISSING, "no output: there is neither a vasprun.xml nor an OUTCAR", (str(path),))
    try:
        output = read_output(files)
    except UnreadableOutput as error:
        return Examined(FAILED, str(error), named)
    except Exception as error:  # a defect of a parser on a damaged file is a reject like any other
        return Examined(FAILED, f"unparsable: {type(error).__name__}: {' '.join(str(error).split())[:200]}", named)
    match, status, reason = None, CONVERGED, ""
    try:
        status, reason = judge_run(output, request, limits)
        if isinstance(expected, Atoms) and not _same_composition(output.final, expected):
            reason = f"composition: expected {_formula(expected)}, found {_formula(output.final)}"
            return Examined(MISMATCH, reason, named, output)
        foreign = sorted(set(output.final.get_chemical_symbols()) - set(lattice.elements))
        if foreign:
            reason = f"composition: {foreign[0]} is not among the species {', '.join(lattice.elements)}"
            return Examined(MISMATCH, reason, named, output)
        match = match_to_lattice(output.initial, lattice)
        name = match.ideal.info["structure"]
        wanted = expected.info["structure"] if isinstance(expected, Atoms) else expected or name
        if status == CONVERGED and name != wanted:
            status, reason = MISMATCH, f"structure: expected {wanted}, the run started from {name}"
        if status == CONVERGED:
            status, reason, match = _judge_structure(output, match, lattice, limits)
    except LatticeError as error:
        if status == CONVERGED:
            status, reason = COLLAPSED, f"not on its parent lattice: {error}"
    except Exception as error:
        status, reason = FAILED, f"unparsable: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Examined(status, reason, named, output, match)


def _judge_structure(
    output: VaspOutput, start: Match, lattice: ParentLattice, limits: Limits
) -> tuple[str, str, Match]:
    """Judge the relaxed structure: strain and displacement against its own sites, then the occupation it maps to."""
    # Strain and displacement from one state to the other, atom by atom, on top of what the start had.
    change = deformation(output.initial, output.final)
    status, reason = judge_deformation(change, limits)
    if status != CONVERGED:
        return status, reason, start
    try:
        end = match_to_lattice(output.final, lattice)
    except LatticeError as error:
        return COLLAPSED, f"left its parent lattice: {error}", start
    relaxed = output.final if _relaxes_cell(output.settings) else None
    status, reason = judge_deformation(end.deformation, limits, relaxed)
    if status == CONVERGED and end.ideal.info["structure"] != start.ideal.info["structure"]:
        status = COLLAPSED
        reason = (
            f"left its parent lattice: it started as {start.ideal.info['structure']} "
            f"and ended as {end.ideal.info['structure']}"
        )
    return status, reason, end if status == CONVERGED else start
