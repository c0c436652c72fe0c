"""All symmetry-distinct decorations of a parent lattice up to a number of atoms (Hart and Forcade, via icet)."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator

import numpy as np
from ase import Atoms

from segalflow.errors import SettingsError
from segalflow.lattice import ParentLattice, atoms_on_sites, map_to_supercell
from segalflow.structures.identity import decoration_id
from segalflow.structures.pool import structure_name
from segalflow.structures.selection import select_structures


def iterate_structures(lattice: ParentLattice, max_atoms: int) -> Iterator[Atoms]:
    """Yield all symmetry-distinct decorations with up to `max_atoms` atoms in the primitive cell, one by one.

    Each structure is on ideal positions and carries ``info["structure"]`` (its id) and the array ``occupation`` (the
    species index of each atom, carried along and never re-derived). Smaller cells come first.

    Args:
        lattice: parent lattice with its species, of any number on any number of sublattices.
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
    raw: Atoms | None = None
    cell, order, allowed = None, None, None
    for found in enumerate_structures(lattice.atoms(), sizes, [list(s) for s in lattice.species]):
        # All decorations of one cell come in a row, on the same positions: where its sites are is found once.
        if raw is None or not (np.array_equal(raw.cell, found.cell) and np.array_equal(raw.positions, found.positions)):
            raw, cell = found, map_to_supercell(found, lattice)[0]
            order = atoms_on_sites(found, cell)
            allowed = [cell.species_of(site) for site in range(cell.n_sites)]
        symbols = found.get_chemical_symbols()
        occupations = np.array([allowed[site].index(symbols[atom]) for site, atom in enumerate(order)])
        atoms = cell.atoms(occupations)
        atoms.info = {"structure": decoration_id(cell, occupations)}
        atoms.set_array("occupation", occupations)
        yield atoms


def enumerate_pool(
    lattice: ParentLattice,
    max_atoms: int,
    number: int | None = None,
    selection: str = "spread",
    only: Collection[str] | None = None,
) -> list[Atoms]:
    """Return the structures of `iterate_structures`, or a selection of them, sorted by number of atoms and composition.

    Args:
        lattice: parent lattice with its species.
        max_atoms: largest number of atoms in a primitive cell.
        number: most structures to return, None for all.
        selection: which ones (`segalflow.structures.selection.SELECTIONS`).
        only: ids or names (`segalflow.structures.pool.structure_name`) of the structures to choose from, besides the
            pure elements; None for all.

    Raises:
        SettingsError: if `max_atoms` is below 1, `number` too small for the pure elements, or one of `only` not found.
    """
    stream = iterate_structures(lattice, max_atoms)
    if only is not None:
        stream = _named(stream, lattice, max_atoms, only)
    return sorted(select_structures(stream, number, selection), key=_order)


def _named(stream: Iterator[Atoms], lattice: ParentLattice, max_atoms: int, only: Collection[str]) -> Iterator[Atoms]:
    """Yield the pure structures of a stream, and those with an id or a name in `only`."""
    missing = set(only)
    for atoms in stream:
        known = {atoms.info["structure"], structure_name(atoms, lattice)} & set(only)
        missing -= known
        if known or len(set(atoms.numbers)) == 1:
            yield atoms
    if missing:
        raise SettingsError(
            f"structures.only: no structure with up to {max_atoms} atoms has the id or name '{min(missing)}' "
            "(names are those of the column 'name' of manifest.csv, e.g. 'Cu3Au L1_2')"
        )


def _order(atoms: Atoms) -> tuple[int, float, str]:
    return len(atoms), float(atoms.get_array("occupation").mean()), atoms.info["structure"]
