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
    occupations = np.asarray(occupations)
    same = (occupations[cell.translations] == occupations).all(axis=1)
    form = hermite_normal_form(np.concatenate([cell.matrix, cell.offsets[same]]))
    reduced = _supercell(tuple(form.ravel().tolist()), cell.lattice)
    index = cell.site_index(reduced.sites[:, 0], reduced.sites[:, 1:])
    return reduced, occupations[index]


@functools.lru_cache(maxsize=4096)
def _supercell(key: tuple, lattice: ParentLattice) -> Supercell:
    return Supercell(lattice, np.array(key).reshape(3, 3))


@functools.cache
def _operations(lattice: ParentLattice) -> list[tuple[np.ndarray, np.ndarray]]:
    return lattice_operations(lattice)


def _images(key: tuple, lattice: ParentLattice) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the smallest Hermite normal form that a cell is turned into, and how sites are moved into it.

    Args:
        key: the cell's Hermite normal form, flattened.
        lattice: parent lattice.

    Returns:
        The smallest form over all operations of the lattice, flattened, and one row for each operation that leads to it
        and each origin: the sites whose occupations are the image's, shape (n_images, n_sites).
    """
    cell = _supercell(key, lattice)
    forms = [hermite_normal_form(cell.matrix @ rotation.T) for rotation, _ in _operations(lattice)]
    best = min(tuple(form.ravel().tolist()) for form in forms)
    image = _supercell(best, lattice)
    rows = []
    for (rotation, shift), form in zip(_operations(lattice), forms, strict=True):
        if tuple(form.ravel().tolist()) != best:
            continue
        moved = (cell.sites[:, 1:] + lattice.basis[cell.sites[:, 0]]) @ rotation.T + shift
        came_from = np.empty(cell.n_sites, dtype=np.int64)
        for sub, base in enumerate(lattice.basis):
            delta = moved - base
            whole = np.round(delta).astype(np.int64)
            hit = np.all(np.abs(delta - whole) < 1e-5, axis=1)
            came_from[image.site_index(sub, whole[hit])] = np.flatnonzero(hit)
        rows.append(came_from[image.translations])
    return best, np.unique(np.concatenate(rows), axis=0)


_cached_images = functools.lru_cache(maxsize=1024)(_images)
# Decorations of one small cell come by the thousand, those of a large one (its images fill megabytes) one by one.
_SMALL = 32


def canonical_decoration(cell: Supercell, occupations: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the canonical (Hermite normal form, occupations) of a decoration, both flattened.

    The smallest pair over all operations of the parent lattice and all origins.
    """
    cell, occupations = primitive_decoration(cell, occupations)
    key = tuple(cell.matrix.ravel().tolist())
    form, images = (_cached_images if cell.n_sites <= _SMALL else _images)(key, cell.lattice)
    decorated = occupations[images]
    first = np.lexsort(decorated.T[::-1])[0]
    return form, tuple(decorated[first].tolist())


def decoration_id(cell: Supercell, occupations: np.ndarray) -> str:
    """Return the id of a decoration, shape (n_sites,), of a cell: 12 hex digits of a hash of its canonical form."""
    lattice = cell.lattice
    form, occupations = canonical_decoration(cell, occupations)
    return content_hash(
        {"lattice": lattice.name, "species": lattice.species, "form": form, "occupations": occupations}, ID_LENGTH
    )


def structure_id(atoms: Atoms, lattice: ParentLattice) -> str:
    """Return the id of a structure on ideal lattice positions (see `decoration_id`).

    Raises:
        LatticeError: if the structure is not on the lattice.
    """
    return decoration_id(*map_to_supercell(atoms, lattice))
