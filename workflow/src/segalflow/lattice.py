"""The parent lattice, its supercells, their site order and their symmetry.

A decoration of a supercell is an integer array ``occupations`` of shape ``(n_sites,)`` (or ``(batch, n_sites)``): entry
``i`` is the index of the species on site ``i`` in its sublattice's species list. Species 0 is the reference of the
chemical potential. Sites are ordered by their primitive-cell coordinates, the first coordinate slowest, then by
sublattice; every artefact uses this one order.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from segalflow.errors import LatticeError, suggest

_HALF = 0.5
# name: (primitive vectors in units of the lattice constant, periodic directions)
_LATTICES: dict[str, tuple[list[list[float]], tuple[bool, bool, bool]]] = {
    "fcc": ([[0, _HALF, _HALF], [_HALF, 0, _HALF], [_HALF, _HALF, 0]], (True, True, True)),
    "bcc": ([[-_HALF, _HALF, _HALF], [_HALF, -_HALF, _HALF], [_HALF, _HALF, -_HALF]], (True, True, True)),
    "sc": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (True, True, True)),
    "square": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (True, True, False)),
}

TOY_SPECIES = ("down", "up")
"""Species names allowed beside the chemical elements: the spins of Ising and toy systems."""


@dataclass(frozen=True, eq=False)
class ParentLattice:
    """A primitive cell and the species allowed on each of its sublattices.

    Attributes:
        name: ``fcc``, ``bcc``, ``sc``, ``square``, or a user's own name.
        cell: primitive vectors as rows, shape (3, 3), Angstrom.
        basis: fractional coordinates of the sublattices, shape (n_sublattices, 3).
        species: allowed species per sublattice; index 0 is the reference of the chemical potential.
        pbc: periodic directions.
    """

    name: str
    cell: np.ndarray
    basis: np.ndarray
    species: tuple[tuple[str, ...], ...]
    pbc: tuple[bool, bool, bool] = (True, True, True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", np.array(self.cell, dtype=float))
        object.__setattr__(self, "basis", np.array(self.basis, dtype=float).reshape(-1, 3))
        object.__setattr__(self, "species", tuple(tuple(s) for s in self.species))
        if len(self.species) != len(self.basis):
            raise LatticeError(
                f"lattice '{self.name}' has {len(self.basis)} sublattices but species for {len(self.species)}"
            )
        for names in self.species:
            if len(set(names)) != len(names) or not names:
                raise LatticeError(f"lattice species: expected distinct species on a sublattice, found {list(names)}")
            for name in names:
                if name not in chemical_symbols[1:] and name not in TOY_SPECIES:
                    raise LatticeError(
                        f"lattice species: '{name}' is not a chemical element{suggest(name, chemical_symbols[1:])}"
                    )

    @property
    def n_sublattices(self) -> int:
        """Number of sites in the primitive cell."""
        return len(self.basis)

    @property
    def elements(self) -> tuple[str, ...]:
        """All species of all sublattices, in order of first appearance."""
        return tuple(dict.fromkeys(name for names in self.species for name in names))

    @property
    def is_binary(self) -> bool:
        """Whether there is one sublattice with two species (the fast path)."""
        return len(self.species) == 1 and len(self.species[0]) == 2

    def to_dict(self) -> dict[str, Any]:
        """Return the plain description that artefacts carry (inverse: `from_dict`)."""
        return {
            "name": self.name,
            "cell": self.cell.tolist(),
            "basis": self.basis.tolist(),
            "species": [list(s) for s in self.species],
            "pbc": list(self.pbc),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ParentLattice:
        """Build a lattice from `to_dict`'s description."""
        return cls(
            content["name"],
            np.array(content["cell"]),
            np.array(content["basis"]),
            tuple(tuple(s) for s in content["species"]),
            tuple(content["pbc"]),
        )

    def same_as(self, other: ParentLattice, tolerance: float = 1e-6) -> bool:
        """Whether both have the same cell, sublattices and species (names of lattices do not count)."""
        return (
            self.basis.shape == other.basis.shape
            and np.allclose(self.cell, other.cell, atol=tolerance)
            and np.allclose(self.basis, other.basis, atol=tolerance)
            and self.species == other.species
        )

    def atoms(self) -> Atoms:
        """Return the primitive cell as `ase.Atoms`, each sublattice occupied by its species 0."""
        symbols = [names[0] if names[0] in chemical_symbols else "H" for names in self.species]
        return Atoms(symbols, scaled_positions=self.basis, cell=self.cell, pbc=self.pbc)


def parent_lattice(name: str, constant: float, species: Sequence[str] | Sequence[Sequence[str]]) -> ParentLattice:
    """Return a named one-sublattice lattice.

    Args:
        name: ``fcc``, ``bcc``, ``sc`` or ``square``.
        constant: conventional lattice constant, Angstrom.
        species: allowed species; the first is the reference of the chemical potential.

    Raises:
        LatticeError: for an unknown lattice or element, or a constant that is not positive.
    """
    if name not in _LATTICES:
        raise LatticeError(
            f"lattice.name: unknown lattice '{name}', expected one of {', '.join(_LATTICES)}{suggest(name, _LATTICES)}"
        )
    if not constant > 0:
        raise LatticeError(f"lattice.constant: expected a positive length in Angstrom, found {constant}")
    vectors, pbc = _LATTICES[name]
    names = (tuple(species),) if isinstance(species[0], str) else tuple(tuple(s) for s in species)
    return ParentLattice(name, np.array(vectors) * constant, np.zeros((1, 3)), names, pbc)


def lattice_from_settings(settings: Mapping[str, Any]) -> ParentLattice:
    """Return the parent lattice of a study's ``lattice`` block (name, constant, species).

    Raises:
        LatticeError: for an unknown lattice or element, or a constant that is not positive.
    """
    return parent_lattice(settings["name"], settings["constant"], settings["species"])


def supercell_matrix(repeat: Sequence[int] | Sequence[Sequence[int]]) -> np.ndarray:
    """Return a (3, 3) integer matrix from three repeats or from a full matrix (rows: vectors in primitive vectors).

    Raises:
        LatticeError: if the shape is wrong, an entry is not whole, or the determinant is not positive.
    """
    matrix = np.array(repeat)
    if matrix.shape == (3,):
        matrix = np.diag(matrix)
    if matrix.shape != (3, 3) or not np.all(matrix == np.round(matrix)):
        raise LatticeError(f"cell: expected three whole repeats or a 3x3 integer matrix, found {repeat}")
    matrix = matrix.astype(np.int64)
    if round(np.linalg.det(matrix)) < 1:
        raise LatticeError(
            f"cell: the supercell matrix {repeat} has determinant {np.linalg.det(matrix):.0f}, expected > 0"
        )
    return matrix


def _adjugate(matrix: np.ndarray) -> np.ndarray:
    a = [[int(v) for v in row] for row in matrix]
    cofactor = np.empty((3, 3), dtype=np.int64)
    for i in range(3):
        for j in range(3):
            r, c = [k for k in range(3) if k != i], [k for k in range(3) if k != j]
            cofactor[j, i] = (-1) ** (i + j) * (a[r[0]][c[0]] * a[r[1]][c[1]] - a[r[0]][c[1]] * a[r[1]][c[0]])
    return cofactor


@dataclass(frozen=True, eq=False)
class Supercell:
    """A periodic cell of a parent lattice with its sites in the project's one order.

    Attributes:
        lattice: the parent lattice.
        matrix: supercell vectors as rows in units of the primitive vectors, shape (3, 3), integers.
    """

    lattice: ParentLattice
    matrix: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", supercell_matrix(self.matrix))

    @property
    def n_cells(self) -> int:
        """Number of primitive cells."""
        return round(np.linalg.det(self.matrix))

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self.n_cells * self.lattice.n_sublattices

    @property
    def cell(self) -> np.ndarray:
        """Supercell vectors as rows, shape (3, 3), Angstrom."""
        return self.matrix @ self.lattice.cell

    @functools.cached_property
    def _adjugate(self) -> np.ndarray:
        return _adjugate(self.matrix)

    def _keys(self, offsets: np.ndarray) -> np.ndarray:
        """Integers that are equal exactly for primitive-cell offsets equal modulo the supercell, any shape (..., 3)."""
        volume = self.n_cells
        reduced = np.mod(np.asarray(offsets, dtype=np.int64) @ self._adjugate, volume)
        return (reduced[..., 0] * volume + reduced[..., 1]) * volume + reduced[..., 2]

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """Primitive-cell coordinates of the cells, shape (n_cells, 3), wrapped into the supercell and sorted."""
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ self.matrix
        low, high = corners.min(axis=0), corners.max(axis=0)
        grid = np.stack(
            np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(low, high, strict=True)], indexing="ij"), -1
        ).reshape(-1, 3)
        scaled = grid @ self._adjugate
        inside = grid[np.all((scaled >= 0) & (scaled < self.n_cells), axis=1)]
        return inside[np.lexsort((inside[:, 2], inside[:, 1], inside[:, 0]))]

    @functools.cached_property
    def _key_order(self) -> tuple[np.ndarray, np.ndarray]:
        keys = self._keys(self.offsets)
        order = np.argsort(keys)
        return keys[order], order

    @functools.cached_property
    def sites(self) -> np.ndarray:
        """Sites as rows (sublattice, i, j, k), shape (n_sites, 4)."""
        n_sub = self.lattice.n_sublattices
        cells = np.repeat(self.offsets, n_sub, axis=0)
        return np.column_stack([np.tile(np.arange(n_sub), self.n_cells), cells])

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Ideal Cartesian positions of the sites, shape (n_sites, 3), Angstrom."""
        return (self.sites[:, 1:] + self.lattice.basis[self.sites[:, 0]]) @ self.lattice.cell

    def site_index(self, sublattice: np.ndarray | int, offsets: np.ndarray) -> np.ndarray:
        """Return the site numbers of (sublattice, primitive-cell offset), wrapped into the cell; any shape (..., 3)."""
        keys, order = self._key_order
        cells = order[np.searchsorted(keys, self._keys(offsets))]
        return cells * self.lattice.n_sublattices + np.asarray(sublattice)

    @functools.cached_property
    def translations(self) -> np.ndarray:
        """Lattice translations as permutations, shape (n_cells, n_sites): site i moves to ``translations[t, i]``."""
        moved = self.sites[None, :, 1:] + self.offsets[:, None, :]
        return self.site_index(self.sites[None, :, 0], moved)

    @functools.cached_property
    def point_permutations(self) -> np.ndarray:
        """Space-group operations modulo translations that map the cell to itself, shape (n_ops, n_sites)."""
        found = []
        for rotation, shift in lattice_operations(self.lattice):
            # Offsets transform as x' = R x (fractional columns); the superlattice must be mapped onto itself.
            image = self.matrix @ rotation.T @ self._adjugate
            if np.any(image % self.n_cells):
                continue
            moved = (self.sites[:, 1:] + self.lattice.basis[self.sites[:, 0]]) @ rotation.T + shift
            permutation = np.full(self.n_sites, -1)
            for sub, base in enumerate(self.lattice.basis):
                delta = moved - base
                whole = np.round(delta)
                hit = np.all(np.abs(delta - whole) < 1e-5, axis=1)
                permutation[hit] = self.site_index(sub, whole[hit].astype(np.int64))
            if np.any(permutation < 0):  # pragma: no cover - spglib returned a non-symmetry
                raise LatticeError(f"lattice '{self.lattice.name}': an operation does not map sites onto sites")
            found.append(permutation)
        return np.unique(np.array(found), axis=0)

    def symmetry_permutations(self) -> np.ndarray:
        """Return every space-group operation of the cell, shape (n_ops, n_sites): site i moves to ``p[op, i]``."""
        combined = self.translations[:, self.point_permutations].reshape(-1, self.n_sites)
        return np.unique(combined, axis=0)

    def random_permutations(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return `n` operations drawn evenly from `symmetry_permutations`, which large cells have no room to list."""
        shift = self.translations[rng.integers(0, len(self.translations), n)]
        point = self.point_permutations[rng.integers(0, len(self.point_permutations), n)]
        return np.take_along_axis(shift, point, axis=1)

    def species_of(self, site: int) -> tuple[str, ...]:
        """Return the species allowed on a site."""
        return self.lattice.species[self.sites[site, 0]]

    def atoms(self, occupations: np.ndarray) -> Atoms:
        """Return a decoration, shape (n_sites,), as `ase.Atoms` on ideal positions."""
        symbols = [self.species_of(i)[int(o)] for i, o in enumerate(occupations)]
        return Atoms(symbols, positions=self.positions, cell=self.cell, pbc=self.lattice.pbc)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain description that artefacts carry (inverse: `from_dict`)."""
        return {"lattice": self.lattice.to_dict(), "matrix": self.matrix.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Supercell:
        """Build a supercell from `to_dict`'s description."""
        return cls(ParentLattice.from_dict(content["lattice"]), np.array(content["matrix"]))


def lattice_operations(lattice: ParentLattice) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the space-group operations of the parent lattice modulo its translations.

    Sublattices are told apart by their species lists. Each operation is a pair (rotation (3, 3) integers, translation
    (3,)) acting on fractional coordinates of the primitive cell as ``x' = R x + t`` (spglib's convention).
    """
    import spglib  # late: only cells need symmetry

    kinds = {names: number + 1 for number, names in enumerate(dict.fromkeys(lattice.species))}
    numbers = [kinds[names] for names in lattice.species]
    found = spglib.get_symmetry((lattice.cell, lattice.basis, numbers), symprec=1e-5)
    operations = list(zip(found["rotations"].astype(np.int64), found["translations"], strict=True))
    if all(lattice.pbc):
        return operations
    # A two-dimensional lattice keeps the operations that leave its missing directions alone.
    open_axes = [axis for axis, periodic in enumerate(lattice.pbc) if not periodic]
    kept = []
    for rotation, shift in operations:
        if all(
            rotation[a, a] == 1 and np.count_nonzero(rotation[a]) == 1 and np.count_nonzero(rotation[:, a]) == 1
            for a in open_axes
        ):
            kept.append((rotation, shift))
    return kept


def map_to_supercell(atoms: Atoms, lattice: ParentLattice, tolerance: float = 0.05) -> tuple[Supercell, np.ndarray]:
    """Return the supercell and occupations of a structure on ideal lattice positions.

    Args:
        atoms: structure whose cell vectors are lattice vectors of `lattice` and whose atoms sit on its sites.
        lattice: parent lattice.
        tolerance: largest distance of an atom from its site, Angstrom.

    Returns:
        The supercell and its occupations, shape (n_sites,), int8.

    Raises:
        LatticeError: if the cell is not a supercell of the lattice or an atom is on no site.
    """
    inverse = np.linalg.inv(lattice.cell)
    fractional = np.array(atoms.cell) @ inverse
    matrix = np.round(fractional).astype(np.int64)
    if np.abs((fractional - matrix) @ lattice.cell).max() > tolerance:
        raise LatticeError(
            f"structure {atoms.get_chemical_formula()}: its cell is not a supercell of lattice '{lattice.name}'"
        )
    if np.linalg.det(matrix) < 0:
        matrix = -matrix
    supercell = Supercell(lattice, matrix)
    on_site = atoms_on_sites(atoms, supercell, tolerance)
    occupations = np.full(supercell.n_sites, -1, dtype=np.int8)
    symbols = atoms.get_chemical_symbols()
    for site in np.flatnonzero(on_site >= 0):
        names, symbol = supercell.species_of(site), symbols[on_site[site]]
        if symbol not in names:
            raise LatticeError(
                f"structure {atoms.get_chemical_formula()}: {symbol} is not allowed on its site ({', '.join(names)})"
            )
        occupations[site] = names.index(symbol)
    if len(atoms) != supercell.n_sites or np.any(occupations < 0):
        raise LatticeError(
            f"structure {atoms.get_chemical_formula()}: its atoms do not fill the sites of lattice '{lattice.name}' "
            "one to one"
        )
    return supercell, occupations


def atoms_on_sites(atoms: Atoms, cell: Supercell, tolerance: float = 0.05) -> np.ndarray:
    """Return the number of the atom on each site of a cell, -1 where there is none, shape (n_sites,).

    Args:
        atoms: structure on ideal positions, in a cell of the same lattice.
        cell: the cell.
        tolerance: largest distance of an atom from its site, Angstrom.
    """
    on_site = np.full(cell.n_sites, -1)
    coordinates = atoms.positions @ np.linalg.inv(cell.lattice.cell)
    for sub, base in enumerate(cell.lattice.basis):
        delta = coordinates - base
        whole = np.round(delta)
        near = np.flatnonzero(np.linalg.norm((delta - whole) @ cell.lattice.cell, axis=1) < tolerance)
        on_site[cell.site_index(sub, whole[near].astype(np.int64))] = near
    return on_site


def square_sides(cell: Supercell) -> tuple[int, int] | None:
    """Return the sides of a cell of the square lattice along its vectors, or None for any other cell."""
    matrix = np.asarray(cell.matrix)
    if cell.lattice.name != "square" or np.any(matrix != np.diag(np.diag(matrix))) or abs(matrix[2, 2]) != 1:
        return None
    return abs(int(matrix[0, 0])), abs(int(matrix[1, 1]))
