"""Which decoration of the parent lattice a structure is: rotated, strained, displaced, in any choice of cell.

Databases and finished calculations come with cells of their own (CLEASE stores rotated ones, VASP relaxed ones), where
`segalflow.lattice.map_to_supercell` wants ideal positions. The cell is matched by its metric, so rotations do not
count; the match with the smallest strain wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from segalflow.dft.calculation import deformation
from segalflow.errors import LatticeError
from segalflow.lattice import ParentLattice, Supercell, lattice_operations
from segalflow.structures.identity import structure_id

# Half-width of the search in relative length and in cosine. The Bain path from fcc to bcc shortens one axis by 21 %:
# a structure that went that far must still be matched, for its strain to be told.
_REACH = 0.3
# A match this good (strain; Angstrom from the sites) is taken without looking for a better one.
_GOOD, _CLOSE = 0.02, 0.3
# So many of the supercells nearest in shape are tried: of some cells a wrong one has the smaller strain.
_CANDIDATES = 24


@dataclass(frozen=True, eq=False)
class Match:
    """A structure on its parent lattice.

    Attributes:
        ideal: the decoration on ideal positions of the study's lattice, with ``info["structure"]`` and ``occupation``.
        actual: the given structure with the same order of atoms, cell vectors and origin as `ideal`.
        deformation: see `segalflow.dft.calculation.deformation`.
    """

    ideal: Atoms
    actual: Atoms
    deformation: dict[str, float]


def _strain(ideal: np.ndarray, actual: np.ndarray) -> float:
    gradient = np.linalg.solve(ideal, actual)
    gradient /= abs(np.linalg.det(gradient)) ** (1 / 3)
    return float(np.linalg.norm(0.5 * (gradient @ gradient.T - np.eye(3))))


def _lattice_vectors(lattice: ParentLattice, longest: float) -> np.ndarray:
    """Integer coordinates of all lattice vectors up to a length, shape (n, 3)."""
    reach = np.ceil(longest * np.linalg.norm(np.linalg.inv(lattice.cell), axis=0)).astype(int)
    axes = [np.arange(-r, r + 1) for r in reach]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(grid @ lattice.cell, axis=1)
    return grid[(lengths > 1e-8) & (lengths <= longest)]


def _representatives(vectors: np.ndarray, lattice: ParentLattice) -> np.ndarray:
    """One vector of each orbit under the proper rotations of the lattice."""
    seen: set[tuple[int, ...]] = set()
    rotations = [r for r, _ in lattice_operations(lattice) if round(np.linalg.det(r)) == 1]
    kept = []
    for vector in vectors:
        if tuple(vector) not in seen:
            kept.append(vector)
            seen.update(tuple(int(v) for v in r @ vector) for r in rotations)
    return np.array(kept)


def supercells_near(cell: np.ndarray, lattice: ParentLattice, n_cells: int) -> list[np.ndarray]:
    """Return the supercell matrices of `lattice` nearest to a cell in shape, nearest first; empty if none is near.

    Args:
        cell: cell vectors as rows, shape (3, 3), of the handedness of the lattice's; size and orientation do not count.
        lattice: parent lattice.
        n_cells: number of primitive cells in it.
    """
    target = cell * abs(n_cells * np.linalg.det(lattice.cell) / np.linalg.det(cell)) ** (1 / 3)
    lengths = np.linalg.norm(target, axis=1)
    pool = _lattice_vectors(lattice, lengths.max() * (1 + _REACH))
    norms = np.linalg.norm(pool @ lattice.cell, axis=1)
    near = [pool[np.abs(norms / length - 1) <= _REACH] for length in lengths]
    if any(len(n) == 0 for n in near):
        return []
    places = [n @ lattice.cell for n in near]
    metric = target @ target.T
    allowed = _REACH * np.outer(lengths, lengths)
    first = _representatives(near[0], lattice)
    inverse = np.linalg.inv(target)
    found: list[tuple[float, np.ndarray]] = []
    for a in first:
        place = a @ lattice.cell
        seconds = np.flatnonzero(np.abs(places[1] @ place - metric[0, 1]) <= allowed[0, 1])
        fits = np.flatnonzero(np.abs(places[2] @ place - metric[0, 2]) <= allowed[0, 2])
        normals = np.cross(a, near[1][seconds])
        pairs = np.argwhere(
            (normals @ near[2][fits].T == n_cells)
            & (np.abs(places[1][seconds] @ places[2][fits].T - metric[1, 2]) <= allowed[1, 2])
        )
        if not len(pairs):
            continue
        b, c = seconds[pairs[:, 0]], fits[pairs[:, 1]]
        ideal = np.empty((len(pairs), 3, 3))
        ideal[:, 0], ideal[:, 1], ideal[:, 2] = place, places[1][b], places[2][c]
        # The strain of the way back, from the actual cell to the ideal one: it ranks the candidates as well.
        backward = inverse @ ideal
        strains = np.linalg.norm(backward @ backward.transpose(0, 2, 1) - np.eye(3), axis=(1, 2))
        for i in np.argsort(strains, kind="stable")[:_CANDIDATES]:
            found.append((float(strains[i]), np.array([a, near[1][b[i]], near[2][c[i]]])))
    found.sort(key=lambda entry: entry[0])
    return [matrix for _, matrix in found[:_CANDIDATES]]


def _assign(coordinates: np.ndarray, symbols: list[str], lattice: ParentLattice) -> tuple[np.ndarray, ...]:
    """Nearest site of each atom that its species may occupy: sublattice, offset, residual (primitive coordinates)."""
    sublattices = np.full(len(symbols), -1)
    offsets = np.zeros((len(symbols), 3), dtype=np.int64)
    residuals = np.zeros((len(symbols), 3))
    best = np.full(len(symbols), np.inf)
    for sub, base in enumerate(lattice.basis):
        delta = coordinates - base
        whole = np.round(delta)
        distance = np.linalg.norm((delta - whole) @ lattice.cell, axis=1)
        distance[[s not in lattice.species[sub] for s in symbols]] = np.inf
        nearer = distance < best - 1e-9
        best[nearer], sublattices[nearer] = distance[nearer], sub
        offsets[nearer], residuals[nearer] = whole[nearer].astype(np.int64), (delta - whole)[nearer]
    return sublattices, offsets, residuals, best


@dataclass(frozen=True, eq=False)
class _Placed:
    """Atoms on the sites of a candidate supercell; `coordinates`, shape (n, 3), are in primitive vectors."""

    matrix: np.ndarray
    sites: np.ndarray
    species: list[int]
    coordinates: np.ndarray
    distance: float
    strain: float


def _place(atoms: Atoms, cell: np.ndarray, lattice: ParentLattice, matrix: np.ndarray) -> _Placed | None:
    """Put the atoms on the sites of a supercell; None if they do not fill them one to one."""
    symbols = atoms.get_chemical_symbols()
    raw = np.linalg.solve(cell.T, atoms.positions.T).T @ matrix
    best: _Placed | None = None
    for sub, base in enumerate(lattice.basis):
        if symbols[0] not in lattice.species[sub]:
            continue
        shift = base - raw[0]
        for _ in range(3):  # the first atom may itself be displaced: centre, and assign again
            _, _, residuals, distances = _assign(raw + shift, symbols, lattice)
            if not np.all(np.isfinite(distances)):
                break
            shift = shift - residuals.mean(axis=0)
        sublattices, offsets, _, distances = _assign(raw + shift, symbols, lattice)
        if not np.all(np.isfinite(distances)):
            continue
        sites = Supercell(lattice, matrix).site_index(sublattices, offsets)
        if len(set(sites.tolist())) == len(atoms) and (best is None or distances.max() < best.distance):
            species = [lattice.species[s].index(name) for s, name in zip(sublattices, symbols, strict=True)]
            strain = _strain(matrix @ lattice.cell, cell)
            best = _Placed(matrix, sites, species, raw + shift, float(distances.max()), strain)
    return best


def match_to_lattice(atoms: Atoms, lattice: ParentLattice) -> Match:
    """Return the decoration of the parent lattice that a structure is nearest to.

    Args:
        atoms: periodic structure in any orientation, scale, choice of cell and origin; relaxed or ideal.
        lattice: parent lattice with its species.

    Raises:
        LatticeError: if its species, number of atoms or cell do not fit the lattice, or two atoms share a site.
    """
    formula = atoms.get_chemical_formula()
    symbols = atoms.get_chemical_symbols()
    for symbol in symbols:
        if symbol not in lattice.elements:
            raise LatticeError(f"structure {formula}: {symbol} is not among the species {', '.join(lattice.elements)}")
    n_cells, rest = divmod(len(atoms), lattice.n_sublattices)
    if rest or not n_cells:
        raise LatticeError(
            f"structure {formula}: {len(atoms)} atoms do not fill primitive cells of {lattice.n_sublattices} sites"
        )
    if not (np.all(np.isfinite(atoms.cell)) and np.all(np.isfinite(atoms.positions)) and atoms.cell.rank == 3):
        raise LatticeError(f"structure {formula}: its cell or its positions are not finite and three-dimensional")
    spacing = (abs(np.linalg.det(lattice.cell)) / lattice.n_sublattices) ** (1 / 3)
    cell = np.array(minkowski_reduce(np.array(atoms.cell))[0])
    if np.linalg.det(cell) * np.linalg.det(lattice.cell) < 0:
        cell = -cell
    target = cell * abs(n_cells * np.linalg.det(lattice.cell) / np.linalg.det(cell)) ** (1 / 3)
    direct = np.round(target @ np.linalg.inv(lattice.cell)).astype(np.int64)
    placed = None
    if round(np.linalg.det(direct)) == n_cells and _strain(direct @ lattice.cell, target) < _GOOD:
        placed = _place(atoms, cell, lattice, direct)
    if placed is None or placed.distance > _CLOSE:
        candidates = [_place(atoms, cell, lattice, m) for m in supercells_near(cell, lattice, n_cells)]
        if not candidates:
            raise LatticeError(f"structure {formula}: its cell is near no supercell of lattice '{lattice.name}'")
        whole = [c for c in candidates if c is not None]
        if not whole:
            raise LatticeError(
                f"structure {formula}: its atoms do not fill the sites of lattice '{lattice.name}' one to one"
            )
        placed = min(whole, key=lambda c: c.distance / spacing + c.strain)
    supercell = Supercell(lattice, placed.matrix)
    occupations = np.empty(len(atoms), dtype=int)
    order = np.empty(len(atoms), dtype=int)
    order[placed.sites] = np.arange(len(atoms))
    occupations[placed.sites] = placed.species
    ideal = supercell.atoms(occupations)
    ideal.set_array("occupation", occupations)
    ideal.info = {"structure": structure_id(ideal, lattice)}
    actual = Atoms(
        [symbols[i] for i in order],
        positions=(placed.coordinates @ np.linalg.inv(placed.matrix) @ cell)[order],
        cell=cell,
        pbc=lattice.pbc,
    )
    return Match(ideal, actual, deformation(ideal, actual))
