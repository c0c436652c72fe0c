"""The pool of structures: its manifest, and reading it back with a check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from segalflow.artefacts import read_structures
from segalflow.errors import ArtefactError, LatticeError
from segalflow.lattice import ParentLattice, map_to_supercell
from segalflow.structures.identity import structure_id

if TYPE_CHECKING:
    import pandas as pd
    import spglib

# Trivial names of fcc orderings by (atoms of the primitive cell, species-1 fraction, space group number of the ideal
# decorated structure). Without the number of atoms, R-3m planes stacked AABB would pass for L1_1.
_FCC_NAMES = {
    (4, 0.25, 221): "L1_2",
    (4, 0.75, 221): "L1_2",
    (2, 0.5, 123): "L1_0",
    (2, 0.5, 166): "L1_1",
    (4, 0.25, 139): "D0_22",
    (4, 0.75, 139): "D0_22",
}


def _symmetry(atoms: Atoms) -> spglib.SpglibDataset:
    import spglib  # late: only manifests need it

    return spglib.get_symmetry_dataset(
        (np.array(atoms.cell), atoms.get_scaled_positions(), atoms.numbers), symprec=1e-4
    )


def space_group(atoms: Atoms) -> tuple[str, int]:
    """Return the international symbol and number of the space group of an ideal decorated structure."""
    found = _symmetry(atoms)
    return found.international, int(found.number)


def structure_formula(atoms: Atoms, lattice: ParentLattice) -> str:
    """Return the reduced formula, the most frequent species first (Cu3Au), of equals the lattice's first (CuAu)."""
    symbols = atoms.get_chemical_symbols()
    counts = {name: symbols.count(name) for name in lattice.elements if name in symbols}
    divisor = math.gcd(*counts.values())
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return "".join(name + (str(n // divisor) if n > divisor else "") for name, n in ordered)


def structure_name(atoms: Atoms, lattice: ParentLattice) -> str:
    """Return a name a person recognises: formula with the Strukturbericht symbol, or with the space group."""
    formula = structure_formula(atoms, lattice)
    if len(set(atoms.numbers)) == 1:
        return formula
    found = _symmetry(atoms)
    n_primitive = len(set(found.mapping_to_primitive))
    x = float(atoms.get_array("occupation").mean())
    trivial = _FCC_NAMES.get((n_primitive, round(x, 6), found.number)) if lattice.name == "fcc" else None
    return f"{formula} {trivial or found.international}"


def pool_table(pool: Sequence[Atoms], lattice: ParentLattice) -> pd.DataFrame:
    """Return the manifest: structure, name, formula, n_atoms, x_<species 1>, space_group, cell (rows of the matrix)."""
    import pandas as pd

    species = lattice.species[0][1] if len(lattice.species[0]) > 1 else lattice.species[0][0]
    rows = []
    for atoms in pool:
        cell, _ = map_to_supercell(atoms, lattice)
        rows.append(
            {
                "structure": atoms.info["structure"],
                "name": structure_name(atoms, lattice),
                "formula": atoms.get_chemical_formula(mode="metal"),
                "n_atoms": len(atoms),
                f"x_{species}": float(np.mean([s == species for s in atoms.get_chemical_symbols()])),
                "space_group": space_group(atoms)[0],
                "cell": " ".join(str(v) for v in cell.matrix.ravel()),
            }
        )
    return pd.DataFrame(rows)


def read_pool(path: str | Path, lattice: ParentLattice) -> list[Atoms]:
    """Read a pool and check each structure against its id.

    Raises:
        ArtefactError: if the file is missing, cut short, or a structure is not what its id says.
    """
    pool = read_structures(path)
    for atoms in pool:
        try:
            found = structure_id(atoms, lattice)
        except LatticeError as error:
            raise ArtefactError(f"{path}: {error}") from None
        if found != atoms.info.get("structure"):
            raise ArtefactError(
                f"{path}: structure {atoms.info.get('structure')} has the decoration of {found}; "
                "delete the file and run again to have it remade"
            )
    return pool
