"""The cluster basis: clusters and correlation functions as CLEASE defines them, or from the lattice's symmetry alone.

CLEASE 1.2 cuts on twice the largest distance of a cluster's sites from their centroid; published expansions (and CLEASE
before 1.0) cut on the largest distance between two sites. Both rules are offered by name.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from scipy.spatial.distance import pdist

from segalflow.errors import ExpansionError, suggest
from segalflow.expansion.correlations import PointFunctions, cell_correlations, correlation_matrix
from segalflow.expansion.figures import enumerate_clusters
from segalflow.expansion.hamiltonian import Cluster, translation_classes
from segalflow.lattice import ParentLattice, Supercell, lattice_operations


def _centroid_bound(order: int, diameter: float) -> float:
    # The distance from the centroid is at most (k - 1)/k of the largest distance between two of k sites.
    return diameter * (2 * (order - 1) / order)


# rule: the cut-off to ask CLEASE for, given the order and the largest size
SIZE_RULES: dict[str, Callable[[int, float], float]] = {
    "clease": lambda order, size: size,
    "largest_distance": _centroid_bound,
}


GENERATORS = ("clease", "symmetry")


@dataclass(frozen=True, eq=False)
class ClusterBasis:
    """Clusters without ECIs, and the evaluation of their correlation functions.

    Attributes:
        lattice: parent lattice.
        clusters: the clusters, the constant first.
        point_functions: per sublattice, the values of each point function by species (as CLEASE assigns them).
        clease_names: CLEASE's own name of each cluster's correlation function (empty without CLEASE).
        settings: the CLEASE settings object, or None where the figures themselves are evaluated.
    """

    lattice: ParentLattice
    clusters: tuple[Cluster, ...]
    point_functions: tuple[tuple[tuple[float, ...], ...], ...]
    clease_names: tuple[str, ...] = ()
    settings: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the clusters."""
        return tuple(c.name for c in self.clusters)

    def correlations(self, structures: Sequence[Atoms]) -> np.ndarray:
        """Return the correlation functions, shape (n_structures, n_clusters), of ideal decorated structures."""
        if self.settings is None:
            return correlation_matrix(self.clusters, self.point_functions, self.lattice, structures)
        from clease.tools import wrap_and_sort_by_position
        from clease_cxx import PyCEUpdater

        names = list(self.clease_names)
        ones = dict.fromkeys(names, 1.0)
        rows: list[list[float]] = [[] for _ in structures]
        template: tuple[bytes, bytes] | None = None
        # CLEASE takes the atoms to be in the order of its template, which is wrapped and sorted by position.
        # Preparing a template is by far its dearest step, so structures that share one follow each other.
        prepared = [
            wrap_and_sort_by_position(Atoms(s.get_chemical_symbols(), s.positions, cell=s.cell, pbc=True))
            for s in structures
        ]
        keys = [(np.round(a.cell.array, 6).tobytes(), np.round(a.positions, 6).tobytes()) for a in prepared]
        for number in sorted(range(len(prepared)), key=keys.__getitem__):
            atoms = prepared[number]
            if keys[number] != template:
                template = keys[number]
                self.settings.set_active_template(atoms=atoms)
            updater = PyCEUpdater(atoms, self.settings, dict(ones), dict(ones), self.settings.cluster_list)
            values = updater.calculate_cf_from_scratch(atoms, names)
            rows[number] = [values[name] for name in names]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.clusters))


def build_basis(
    lattice: ParentLattice,
    max_diameters: Mapping[int, float],
    size_rule: str = "largest_distance",
    generator: str = "clease",
) -> ClusterBasis:
    """Return the clusters of a lattice up to the given sizes.

    Args:
        lattice: parent lattice (for CLEASE fcc, bcc or sc with two species).
        max_diameters: largest size by number of sites (2, 3, ...), Angstrom; orders must run from 2 without a gap.
        size_rule: ``largest_distance`` or ``clease`` (see the module's docstring).
        generator: ``clease``, or ``symmetry`` for our own enumeration of the figures (the same clusters; no limit on
            sizes, where CLEASE merges clusters beyond some).

    Raises:
        ExpansionError: for an unknown rule or generator, a gap in the orders, a size that holds no cluster or
            (CLEASE 1.2 at fault) merges inequivalent ones, or a lattice CLEASE cannot build here.
    """
    if size_rule not in SIZE_RULES:
        raise ExpansionError(
            f"basis.size_rule: unknown rule '{size_rule}', expected one of {', '.join(SIZE_RULES)}"
            f"{suggest(size_rule, SIZE_RULES)}"
        )
    if generator not in GENERATORS:
        raise ExpansionError(
            f"basis.generator: unknown generator '{generator}', expected one of {', '.join(GENERATORS)}"
            f"{suggest(generator, GENERATORS)}"
        )
    if generator == "symmetry":
        return ClusterBasis(lattice, *enumerate_clusters(lattice, max_diameters, size_rule))
    orders = sorted(max_diameters)
    if orders != list(range(2, 2 + len(orders))):
        raise ExpansionError(f"basis.max_diameters: expected sizes for 2, 3, ... sites without a gap, found {orders}")
    if not lattice.is_binary or lattice.name not in ("fcc", "bcc", "sc"):
        raise ExpansionError(
            f"basis: expected a binary fcc, bcc or sc lattice, found '{lattice.name}' with {lattice.species}"
        )
    settings = _clease_settings(lattice, [SIZE_RULES[size_rule](k, max_diameters[k]) for k in orders])
    to_offsets = np.array(settings.prim_cell.cell) @ np.linalg.inv(lattice.cell)
    kept = []
    for found in settings.cluster_list:
        figures = np.array([[[v.ix, v.iy, v.iz] for v in figure.components] for figure in found.figures], dtype=float)
        offsets = np.round(figures.reshape(-1, 3) @ to_offsets).astype(np.int64)
        offsets = offsets.reshape(len(found.figures), found.size, 3)
        if found.size > 1 and _count_orbits(offsets, lattice) > 1:
            raise ExpansionError(
                f"basis.max_diameters: CLEASE puts inequivalent figures of {found.size} sites and size "
                f"{found.diameter:.3f} A into one cluster ({found.name}); choose a smaller size for {found.size} "
                "sites, or generator: symmetry"
            )
        diameter = float(pdist(offsets[0] @ lattice.cell).max()) if found.size > 1 else 0.0
        if size_rule == "largest_distance" and found.size > 1 and diameter > max_diameters[found.size] + 1e-6:
            continue
        kept.append((found, offsets, diameter))
    for order in orders:
        if not any(found.size == order for found, _, _ in kept):
            raise ExpansionError(
                f"basis.max_diameters: no cluster of {order} sites within {max_diameters[order]} A "
                f"(the nearest neighbours are {_nearest_distance(lattice):.3f} A apart)"
            )
    # Names count sizes within the kept clusters, so that they do not depend on what CLEASE was asked for.
    sizes = {k: sorted({round(f.diameter, 4) for f, _, _ in kept if f.size == k}) for k in orders}
    counters: dict[str, int] = {}
    clusters, clease_names = [], []
    for found, offsets, diameter in sorted(kept, key=lambda k: (k[0].size, round(k[0].diameter, 4), k[0].name)):
        if found.size < 2:
            name = clease_name = "c0" if found.size == 0 else "c1_0"
        else:
            stem = f"c{found.size}_d{sizes[found.size].index(round(found.diameter, 4)):04d}"
            number = counters.setdefault(stem, 0)
            counters[stem] += 1
            decoration = "0" * found.size
            name, clease_name = f"{stem}_{number}_{decoration}", f"{found.name}_{decoration}"
        if found.size == 0:
            sites = np.zeros((1, 0, 4), dtype=np.int64)
        else:
            sites = translation_classes(np.concatenate([np.zeros((*offsets.shape[:2], 1), np.int64), offsets], axis=2))
        clusters.append(Cluster(name, found.size, diameter, sites, np.zeros(sites.shape[:2], dtype=np.int64)))
        clease_names.append(clease_name)
    values = tuple(float(settings.basis_functions[0][species]) for species in lattice.species[0])
    return ClusterBasis(lattice, tuple(clusters), ((values,),), tuple(clease_names), settings)


def _nearest_distance(lattice: ParentLattice) -> float:
    steps = np.array([s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)])
    return float(np.linalg.norm(steps @ lattice.cell, axis=1).min())


def _count_orbits(offsets: np.ndarray, lattice: ParentLattice) -> int:
    """Return into how many symmetry orbits figures, offsets (n_figures, order, 3) of one sublattice, fall."""

    def key(sites: np.ndarray) -> tuple:
        ordered = sites[np.lexsort(sites.T[::-1])]
        return tuple(map(tuple, (ordered - ordered[0]).tolist()))

    left = {key(f) for f in offsets}
    orbits = 0
    while left:
        orbits += 1
        seed = np.array(next(iter(left)))
        left -= {key(seed @ rotation.T) for rotation, _ in lattice_operations(lattice)}
    return orbits


def _clease_settings(lattice: ParentLattice, max_cluster_dia: Sequence[float]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clease.settings import CEBulk, Concentration

        per_cell = abs(np.linalg.det(lattice.cell))
        constant = float((per_cell * {"fcc": 4, "bcc": 2, "sc": 1}[lattice.name]) ** (1 / 3))
        # CLEASE insists on a database file; nothing is kept in it.
        with tempfile.TemporaryDirectory() as folder:
            settings = CEBulk(
                Concentration(basis_elements=[sorted(lattice.species[0])]),
                crystalstructure=lattice.name,
                a=constant,
                supercell_factor=8,
                max_cluster_dia=[float(d) + 1e-6 for d in max_cluster_dia],
                db_name=str(Path(folder) / "clease.db"),
            )
            settings.ensure_clusters_exist()
        return settings


def figure_correlations(
    clusters: Sequence[Cluster], point_functions: PointFunctions, cell: Supercell, occupations: np.ndarray
) -> np.ndarray:
    """Return the correlation functions of one decoration from the figures themselves, shape (n_clusters,).

    The twin of CLEASE's; see `cell_correlations` for a batch.
    """
    return cell_correlations(clusters, point_functions, cell, occupations)[0]
