"""VASP input folders: exactly the settings asked for, the same bytes every time, and no licensed file.

The POTCAR is licensed: its spec is always written, the file itself only on a site where pymatgen finds the library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from segalflow.artefacts import atomic_path
from segalflow.dft.calculation import scaled_to_elements
from segalflow.dft.gate import CHECKS, VaspRequest, mesh_for
from segalflow.errors import EngineError, SettingsError, suggest
from segalflow.provenance import content_hash

PRESETS: dict[str, dict[str, Any]] = {
    # The settings of the paper: PBE + D3, 520 eV, 1e-6 eV, 10 meV/A, cell and positions relaxed; the others are
    # VASP's usual ones for metals.
    "paper": {
        "ALGO": "Normal",
        "EDIFF": 1e-6,
        "EDIFFG": -0.01,
        "ENCUT": 520,
        "GGA": "PE",
        "IBRION": 2,
        "ISIF": 3,
        "ISMEAR": 1,
        "ISPIN": 1,
        "IVDW": 11,
        "LASPH": True,
        "LCHARG": False,
        "LREAL": False,
        "LWAVE": False,
        "NELM": 100,
        "NSW": 100,
        "PREC": "Accurate",
        "SIGMA": 0.1,
    }
}
_XC = {"PBE": "PAW_PBE", "LDA": "PAW", "PW91": "PAW_GGA"}
POTCAR_VARIABLES = ("PMG_VASP_PSP_DIR", "VASP_PP_PATH")


@dataclass(frozen=True, eq=False)
class VaspInputs:
    """The inputs of one structure.

    Attributes:
        structure: id of the structure.
        files: text of each file by its name (INCAR, KPOINTS, POSCAR, POTCAR.spec).
        atoms: the starting structure in the order of POSCAR.
        request: what the gate will ask of the output.
    """

    structure: str
    files: dict[str, str]
    atoms: Atoms
    request: VaspRequest

    @property
    def fingerprint(self) -> str:
        """Hash of the files: it names the folder, so that other settings never meet old outputs."""
        return content_hash(self.files, 8)


def incar_of(vasp: Mapping[str, Any], structure: str | None = None) -> dict[str, Any]:
    """Return the INCAR tags: the preset, the study's overrides, then those of one structure; ``null`` removes a tag.

    Raises:
        SettingsError: for an unknown preset.
    """
    name = vasp["preset"]
    if name not in PRESETS:
        raise SettingsError(f"vasp.preset: unknown preset '{name}', expected one of {', '.join(PRESETS)}")
    tags = dict(PRESETS[name])
    overrides = [vasp["incar"]]
    if structure is not None:
        overrides.append(vasp["structures"].get(structure, {}).get("incar", {}))
    for override in overrides:
        for tag, value in override.items():
            tags[tag.upper()] = value
    return {tag: tags[tag] for tag in sorted(tags) if tags[tag] is not None}


def request_of(vasp: Mapping[str, Any], structure: str | None = None) -> VaspRequest:
    """Return what the gate asks of an output (settings of the block ``vasp``).

    Raises:
        SettingsError: for an unknown preset, check or POTCAR family.
    """
    for name in vasp["unchecked"]:
        if name not in CHECKS:
            raise SettingsError(
                f"vasp.unchecked: unknown check '{name}', expected one of {', '.join(CHECKS)}{suggest(name, CHECKS)}"
            )
    family = vasp["potcar_functional"]
    xc = _XC.get(family.split("_")[0])
    if xc is None:
        raise SettingsError(f"vasp.potcar_functional: expected a family like PBE_54, LDA_54 or PW91, found '{family}'")
    own = vasp["structures"].get(structure, {}) if structure is not None else {}
    density = own.get("kpoints", vasp["kpoints"])
    return VaspRequest(incar_of(vasp, structure), dict(vasp["potcar"]), xc, density, frozenset(vasp["unchecked"]))


def starting_cell(ideal: Atoms, elements: tuple[str, ...], scale: bool) -> Atoms:
    """Return the structure as POSCAR holds it: compact cell, atoms inside it, sorted by species.

    Args:
        ideal: structure on ideal positions.
        elements: order of the species.
        scale: whether the volume is that of the elements (the start of a relaxation of the cell).
    """
    atoms = scaled_to_elements(ideal) if scale else ideal.copy()
    cell = np.array(minkowski_reduce(np.array(atoms.cell))[0])
    if np.linalg.det(cell) < 0:  # VASP refuses left-handed cells
        cell = -cell
    compact = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=cell, pbc=True)
    # Positions just below 1 belong to 0.
    fractional = np.mod(np.round(compact.get_scaled_positions(wrap=False), 10), 1.0)
    fractional[fractional > 1 - 1e-9] = 0.0
    order = sorted(range(len(compact)), key=lambda i: (elements.index(compact[i].symbol), *np.round(fractional[i], 6)))
    compact.set_scaled_positions(fractional)
    return compact[order]


def _incar_value(value: Any) -> str:
    """An INCAR value as it is given (pymatgen would write GGA = Pe)."""
    if isinstance(value, bool):
        return ".TRUE." if value else ".FALSE."
    if isinstance(value, list | tuple):
        return " ".join(_incar_value(v) for v in value)
    return str(value)


def _poscar(atoms: Atoms, comment: str) -> str:
    """POSCAR with the species in the order of the atoms (already sorted)."""
    symbols = atoms.get_chemical_symbols()
    species = list(dict.fromkeys(symbols))
    lines = [comment, "1.0"]
    lines += [" ".join(f"{v + 0.0:16.10f}" for v in np.round(row, 10)) for row in np.array(atoms.cell)]
    lines += [" ".join(species), " ".join(str(symbols.count(s)) for s in species), "direct"]
    for row, symbol in zip(np.round(atoms.get_scaled_positions(), 10), symbols, strict=True):
        lines.append(" ".join(f"{v + 0.0:13.10f}" for v in row) + f" {symbol}")
    return "\n".join(lines) + "\n"


def vasp_inputs(ideal: Atoms, elements: tuple[str, ...], vasp: Mapping[str, Any]) -> VaspInputs:
    """Return the inputs of one structure.

    Args:
        ideal: structure on ideal positions with ``info["structure"]``.
        elements: order of the species in POSCAR (the lattice's).
        vasp: settings of the block ``vasp``: preset, incar, kpoints (1/Angstrom^3, or three divisions), kpoints_scheme,
            potcar, potcar_functional, structures, unchecked.

    Raises:
        SettingsError: for an unknown preset, check or POTCAR family, or a k-point setting that makes no mesh.
    """
    name = ideal.info["structure"]
    request = request_of(vasp, name)
    relaxes_cell = int(request.incar.get("ISIF", 2)) in (3, 6, 7) and int(request.incar.get("NSW", 0)) > 0
    atoms = starting_cell(ideal, elements, scale=relaxes_cell)
    mesh = mesh_for(atoms, request.density)
    style = {"gamma": "Gamma", "monkhorst": "Monkhorst-Pack"}[vasp["kpoints_scheme"]]
    formula = atoms.get_chemical_formula(mode="metal")
    species = list(dict.fromkeys(atoms.get_chemical_symbols()))
    files = {
        "INCAR": "".join(f"{tag} = {_incar_value(value)}\n" for tag, value in request.incar.items()),
        "KPOINTS": (
            f"{request.density:g} k-points per inverse cubic Angstrom\n0\n{style}\n{' '.join(map(str, mesh))}\n0 0 0\n"
        ),
        "POSCAR": _poscar(atoms, f"{formula} {name}"),
        "POTCAR.spec": "".join(f"{request.potcar.get(s, s)}\n" for s in species),
    }
    return VaspInputs(name, files, atoms, request)


def potcar_library() -> Path | None:
    """Return the site's POTCAR folder as pymatgen knows it (its settings file or the environment), or None."""
    from pymatgen.core import SETTINGS

    for variable in POTCAR_VARIABLES:
        folder = os.environ.get(variable) or SETTINGS.get(variable)
        if folder and Path(folder).is_dir():
            return Path(folder)
    return None


def assemble_potcar(symbols: list[str], family: str) -> str:
    """Return the text of the POTCAR of some symbols, from the site's licensed library.

    Args:
        symbols: POTCAR symbols in the order of POSCAR.
        family: pymatgen's name of the family, e.g. ``PBE_54``.

    Raises:
        EngineError: if the site has no library, or a symbol is missing in it, or the title is not the one asked for.
    """
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp.inputs import Potcar

    library = potcar_library()
    if library is None:
        raise EngineError(
            "POTCAR: no licensed POTCAR library is configured on this machine; set PMG_VASP_PSP_DIR (in the "
            "environment or in ~/.config/.pmgrc.yaml) to pymatgen's POTCAR folder, or put the POTCAR of each "
            "POTCAR.spec in place yourself"
        )
    before = SETTINGS.get("PMG_VASP_PSP_DIR")
    SETTINGS["PMG_VASP_PSP_DIR"] = str(library)
    try:
        potcar = Potcar(symbols, functional=family)
    except Exception as error:  # OSError, ValueError and pymatgen's own, by version
        raise EngineError(
            f"POTCAR: the library {library} has no {', '.join(symbols)} of family {family} "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    finally:
        SETTINGS["PMG_VASP_PSP_DIR"] = before
    for single, symbol in zip(potcar, symbols, strict=True):
        words = single.TITEL.split()
        if words[:2] != [_XC[family.split("_")[0]], symbol]:
            raise EngineError(f"POTCAR: expected the title of {symbol} ({family}), the library gives '{single.TITEL}'")
    return str(potcar)


def write_inputs(folder: Path, inputs: VaspInputs, family: str, potcar: bool = True) -> bool:
    """Write the input files into a folder that is named by their fingerprint; files that are there are left alone.

    A continued run has the last CONTCAR as its POSCAR, and that must survive.

    Args:
        folder: target; made if missing.
        inputs: the inputs.
        family: family of the POTCARs.
        potcar: whether to assemble the POTCAR where the site has a library.

    Returns:
        Whether a POTCAR is in place.

    Raises:
        EngineError: if the site has a library that lacks a POTCAR.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in inputs.files.items():
        path = folder / name
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    if potcar and not (folder / "POTCAR").exists() and potcar_library() is not None:
        text = assemble_potcar(inputs.files["POTCAR.spec"].split(), family)
        with atomic_path(folder / "POTCAR") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return (folder / "POTCAR").exists()


INSTRUCTIONS = """VASP inputs of study '{study}', calculation '{calculation}'
{rule}
{n} folders, one a structure, listed in {manifest}. Each holds INCAR, KPOINTS, POSCAR and POTCAR.spec{potcar}.

1. POTCAR: {potcar_step}
2. Run VASP in each folder. A run that was cut short or did not converge may be continued in place
   (cp CONTCAR POSCAR) as often as needed; leave vasprun.xml and OUTCAR there (gzip is fine).
3. Run the same snakemake command again: {outcome}
"""

OUTCOME = """finished folders pass the gate and become the dataset; the others are listed
   with their reasons in excluded.csv.
   Folders calculated elsewhere can be brought in by `mode: ingest` with `runs.folders` (a glob) or `runs.manifest`."""


def instructions(
    study: str, calculation: str, manifest: str, n: int, family: str, in_place: int, outcome: str = OUTCOME
) -> str:
    """Return what a person has to do with the written folders, and what becomes of them."""
    title = f"VASP inputs of study '{study}', calculation '{calculation}'"
    ready = in_place == n
    return INSTRUCTIONS.format(
        study=study,
        calculation=calculation,
        rule="=" * len(title),
        n=n,
        manifest=manifest,
        outcome=outcome,
        potcar=" and POTCAR" if ready else "",
        potcar_step=(
            "assembled from this site's library."
            if ready
            else f"put the {family} POTCARs named in POTCAR.spec together, in that order, on a licensed machine\n"
            "   (or set PMG_VASP_PSP_DIR to pymatgen's POTCAR folder and delete this file: they are assembled then)."
        ),
    )
