"""Clusters of any parent lattice from its symmetry alone: no CLEASE, any number of sublattices and species."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.distance import pdist

from segalflow.errors import ExpansionError
from segalflow.expansion.correlations import PointFunctions
from segalflow.expansion.hamiltonian import Cluster
from segalflow.lattice import ParentLattice, lattice_operations

# A decorated site: (sublattice, i, j, k, point function); a figure is a sorted tuple of them.
_Site = tuple[int, int, int, int, int]
_Figure = tuple[_Site, ...]


def orthogonal_point_functions(lattice: ParentLattice) -> PointFunctions:
    """Return point functions of every sublattice, orthonormal over equally frequent species and to the constant.

    Discrete polynomials in the species index: -1, +1 for two species.
    """
    functions = []
    for names in lattice.species:
        n = len(names)
        powers = np.vander(np.arange(n) - (n - 1) / 2, increasing=True)
        orthogonal, triangular = np.linalg.qr(powers)
        values = orthogonal * np.sign(np.diag(triangular)) * np.sqrt(n)
        functions.append(tuple(tuple(float(round(v, 14)) + 0.0 for v in column) for column in values.T[1:]))
    return tuple(functions)


def _size(positions: np.ndarray, size_rule: str) -> float:
    if len(positions) < 2:
        return 0.0
    if size_rule == "largest_distance":
        return float(pdist(positions).max())
    return 2.0 * float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max())


class _Orbits:
    """Symmetry orbits of decorated figures, modulo lattice translations."""

    def __init__(self, lattice: ParentLattice) -> None:
        self.lattice = lattice
        self.maps = []
        for rotation, shift in lattice_operations(lattice):
            # x = cell + basis goes to R x + t: where each sublattice goes, and with which whole shift.
            moved = lattice.basis @ rotation.T + shift
            difference = moved[:, None] - lattice.basis[None]
            hit = np.abs(difference - np.round(difference)).max(axis=2) < 1e-5
            target = hit.argmax(axis=1)
            whole = np.round(difference[np.arange(len(target)), target]).astype(np.int64)
            self.maps.append((rotation.T.astype(np.int64), target, whole))

    @staticmethod
    def standard(sites: np.ndarray) -> _Figure:
        """Return the one name of a figure, sites (order, 5), among its translations and orders of sites."""
        ordered = sites[np.lexsort(sites.T[::-1])]
        first = min(range(len(ordered)), key=lambda n: (ordered[n, 0], ordered[n, 4], *ordered[n, 1:4]))
        shifted = ordered.copy()
        shifted[:, 1:4] -= ordered[first, 1:4]
        return tuple(sorted(tuple(row) for row in shifted.tolist()))

    def of(self, figure: _Figure) -> list[_Figure]:
        """Return all figures of the orbit, sorted."""
        sites = np.array(figure)
        found = set()
        for rotation, target, whole in self.maps:
            image = sites.copy()
            image[:, 0] = target[sites[:, 0]]
            image[:, 1:4] = sites[:, 1:4] @ rotation + whole[sites[:, 0]]
            found.add(self.standard(image))
        return sorted(found)

    def positions(self, figure: _Figure) -> np.ndarray:
        """Return Cartesian positions, shape (order, 3), Angstrom."""
        sites = np.array(figure)
        return (sites[:, 1:4] + self.lattice.basis[sites[:, 0]]) @ self.lattice.cell


def _sites_within(lattice: ParentLattice, reach: float, n_functions: Sequence[int]) -> np.ndarray:
    """Return decorated sites within `reach` of any site of the primitive cell at the origin, shape (n, 5)."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(lattice.cell), axis=0)
    ranges = [
        range(-int(reach / h) - 2, int(reach / h) + 3) if periodic else (0,)
        for h, periodic in zip(heights, lattice.pbc, strict=True)
    ]
    cells = np.array(list(itertools.product(*ranges)))
    found = []
    for sub, base in enumerate(lattice.basis):
        distance = np.linalg.norm(((cells + base)[:, None] - lattice.basis[None]) @ lattice.cell, axis=2).min(axis=1)
        near = cells[distance <= reach + 1e-6]
        for function in range(n_functions[sub]):
            found.append(np.column_stack([np.full(len(near), sub), near, np.full(len(near), function)]))
    return np.concatenate(found)


def enumerate_clusters(
    lattice: ParentLattice, max_diameters: Mapping[int, float], size_rule: str = "largest_distance"
) -> tuple[tuple[Cluster, ...], PointFunctions]:
    """Return all clusters up to the given sizes, the constant and points first, and the point functions.

    Args:
        lattice: parent lattice; sublattices of one species carry no clusters.
        max_diameters: largest size by number of sites (2, 3, ...), Angstrom; orders must run from 2 without a gap.
        size_rule: ``largest_distance`` between two sites, or ``clease`` (twice the largest distance from the centroid).

    Raises:
        ExpansionError: for a gap in the orders, or a size that holds no cluster.
    """
    orders = sorted(max_diameters)
    if orders != list(range(2, 2 + len(orders))):
        raise ExpansionError(f"basis.max_diameters: expected sizes for 2, 3, ... sites without a gap, found {orders}")
    functions = orthogonal_point_functions(lattice)
    n_functions = [len(f) for f in functions]
    orbits = _Orbits(lattice)
    # A figure of k + 1 sites is a figure of k sites, no larger in pair distance, and one more site.
    reach = {k: max(max_diameters[j] for j in orders if j >= k) for k in orders}
    points = [((sub, 0, 0, 0, f),) for sub in range(lattice.n_sublattices) for f in range(n_functions[sub])]
    layer = _distinct(orbits, points)
    clusters = [Cluster("c0", 0, 0.0, np.zeros((1, 0, 4), np.int64), np.zeros((1, 0), np.int64))]
    clusters += _named(orbits, layer, 1, size_rule)
    for k in orders:
        near = _sites_within(lattice, reach[k], n_functions)
        spots = (near[:, 1:4] + lattice.basis[near[:, 0]]) @ lattice.cell
        grown = []
        for orbit in layer:
            base = orbits.positions(orbit[0])
            apart = np.linalg.norm(spots[:, None] - base[None], axis=2)
            fits = (apart.max(axis=1) <= reach[k] + 1e-6) & (apart.min(axis=1) > 1e-6)
            grown += [(*orbit[0], tuple(row)) for row in near[fits].tolist()]
        layer = _distinct(orbits, grown)
        kept = [o for o in layer if _size(orbits.positions(o[0]), size_rule) <= max_diameters[k] + 1e-6]
        if not kept:
            raise ExpansionError(f"basis.max_diameters: no cluster of {k} sites within {max_diameters[k]} A")
        clusters += _named(orbits, kept, k, size_rule)
    return tuple(clusters), functions


def _distinct(orbits: _Orbits, figures: Sequence[_Figure]) -> list[list[_Figure]]:
    """Return the orbits of some figures, each once."""
    seen: set[_Figure] = set()
    found = []
    for figure in figures:
        key = orbits.standard(np.array(figure))
        if key not in seen:
            orbit = orbits.of(key)
            seen.update(orbit)
            found.append(orbit)
    return found


def _named(orbits: _Orbits, found: Sequence[list[_Figure]], order: int, size_rule: str) -> list[Cluster]:
    """Return clusters sorted and named as CLEASE does: number of sites, rank of the size, number, decoration."""

    def key(orbit: list[_Figure]) -> tuple:
        return round(_size(orbits.positions(orbit[0]), "clease"), 4), len(orbit), orbit[0]

    ordered = sorted(found, key=key)
    ranks = sorted({key(o)[0] for o in ordered})
    counters: dict[int, int] = {}
    clusters = []
    for orbit in ordered:
        decoration = "".join(str(site[4]) for site in orbit[0])
        rank = ranks.index(key(orbit)[0])
        number = counters[rank] = counters.get(rank, -1) + 1
        name = f"c{order}_d{rank:04d}_{number}_{decoration}"
        if order == 1:
            name = "c1_0" if len(found) == 1 else f"c1_{len(clusters)}_{decoration}"
        sites = np.array(orbit, dtype=np.int64)
        diameter = _size(orbits.positions(orbit[0]), "largest_distance")
        clusters.append(Cluster(name, order, diameter, sites[:, :, :4].copy(), sites[:, :, 4].copy()))
    return clusters
