"""All symmetry-distinct decorations of a parent lattice up to a number of atoms (Hart and Forcade, via icet)."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms

from segalflow.errors import SettingsError
from segalflow.lattice import ParentLattice, map_to_supercell
from segalflow.structures.identity import structure_id


def enumerate_pool(lattice: ParentLattice, max_atoms: int) -> list[Atoms]:
    """Return all symmetry-distinct decorations with up to `max_atoms` atoms in the primitive cell.

    Each structure is on ideal positions and carries ``info["structure"]`` (its id) and the array ``occupation`` (the
    species index of each atom, carried along and never re-derived). Sorted by number of atoms, composition and id.

    Args:
        lattice: parent lattice with its species.
        max_atoms: largest number of atoms in a primitive cell, at least 1.

    Raises:
        SettingsError: if `max_atoms` is below 1.
    """
    if max_atoms < 1:
        raise SettingsError(f"structures.max_atoms: expected at least 1, found {max_atoms}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from icet.tools import enumerate_structures

    sizes = range(1, max_atoms // lattice.n_sublattices + 1)
    pool = []
    for raw in enumerate_structures(lattice.atoms(), sizes, [list(s) for s in lattice.species]):
        cell, occupations = map_to_supercell(raw, lattice)
        atoms = cell.atoms(occupations)
        atoms.info = {"structure": structure_id(atoms, lattice)}
        atoms.set_array("occupation", np.asarray(occupations, dtype=int))
        pool.append(atoms)
    return sorted(pool, key=_order)


def _order(atoms: Atoms) -> tuple[int, float, str]:
    return len(atoms), float(atoms.get_array("occupation").mean()), atoms.info["structure"]
