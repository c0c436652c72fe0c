"""Canonical ids of decorated structures.

Two structures get the same id exactly when one is the other after a symmetry operation of the parent lattice, another
choice of cell, origin or order of atoms. The lattice constant does not count.
"""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms

from segalflow.lattice import ParentLattice, Supercell, lattice_operations, map_to_supercell
from segalflow.provenance import content_hash

ID_LENGTH = 12


def hermite_normal_form(rows: np.ndarray) -> np.ndarray:
    """Return the 3x3 row-style Hermite normal form of the lattice spanned by integer rows, shape (n, 3), of rank 3.

    Upper triangular, positive diagonal, entries above a pivot in ``[0, pivot)``: one matrix for each sublattice.
    """
    a = [[int(v) for v in row] for row in rows]
    for column in range(3):
        while True:
            nonzero = [r for r in range(column, len(a)) if a[r][column]]
            pivot = min(nonzero, key=lambda r: abs(a[r][column]))
            a[column], a[pivot] = a[pivot], a[column]
            if a[column][column] < 0:
                a[column] = [-v for v in a[column]]
            for r in range(column + 1, len(a)):
                factor = a[r][column] // a[column][column]
                a[r] = [v - factor * p for v, p in zip(a[r], a[column], strict=True)]
            if not any(a[r][column] for r in range(column + 1, len(a))):
                break
        for r in range(column):
            factor = a[r][column] // a[column][column]
            a[r] = [v - factor * p for v, p in zip(a[r], a[column], strict=True)]
    return np.array(a[:3], dtype=np.int64)


def primitive_decoration(cell: Supercell, occupations: np.ndarray) -> tuple[Supercell, np.ndarray]:
    """Return the smallest cell (in Hermite normal form) and occupations that repeat to the given decoration."""
    same = np.array([np.array_equal(occupations[t], occupations) for t in cell.translations])
    reduced = Supercell(cell.lattice, hermite_normal_form(np.concatenate([cell.matrix, cell.offsets[same]])))
    index = cell.site_index(reduced.sites[:, 0], reduced.sites[:, 1:])
    return reduced, np.asarray(occupations)[index]


@functools.cache
def _supercell(key: tuple, lattice: ParentLattice) -> Supercell:
    return Supercell(lattice, np.array(key).reshape(3, 3))


@functools.cache
def _operations(lattice: ParentLattice) -> list[tuple[np.ndarray, np.ndarray]]:
    return lattice_operations(lattice)


def canonical_decoration(cell: Supercell, occupations: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the canonical (Hermite normal form, occupations) of a decoration, both flattened.

    The smallest pair over all operations of the parent lattice and all origins.
    """
    cell, occupations = primitive_decoration(cell, occupations)
    lattice = cell.lattice
    best: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    for rotation, shift in _operations(lattice):
        form = hermite_normal_form(cell.matrix @ rotation.T)
        key = tuple(form.ravel().tolist())
        if best is not None and key > best[0]:
            continue
        image = _supercell(key, lattice)
        moved = (cell.sites[:, 1:] + lattice.basis[cell.sites[:, 0]]) @ rotation.T + shift
        decorated = np.empty(image.n_sites, dtype=np.int64)
        for sub, base in enumerate(lattice.basis):
            delta = moved - base
            whole = np.round(delta).astype(np.int64)
            hit = np.all(np.abs(delta - whole) < 1e-5, axis=1)
            decorated[image.site_index(sub, whole[hit])] = occupations[hit]
        for translation in image.translations:
            candidate = (key, tuple(decorated[translation].tolist()))
            if best is None or candidate < best:
                best = candidate
    assert best is not None
    return best


def structure_id(atoms: Atoms, lattice: ParentLattice) -> str:
    """Return the id of a structure on ideal lattice positions: 12 hex digits of a hash of its canonical decoration.

    Raises:
        LatticeError: if the structure is not on the lattice.
    """
    form, occupations = canonical_decoration(*map_to_supercell(atoms, lattice))
    return content_hash(
        {"lattice": lattice.name, "species": lattice.species, "form": form, "occupations": occupations}, ID_LENGTH
    )
