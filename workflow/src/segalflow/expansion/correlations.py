"""Correlation functions of many decorations from the figures themselves: any lattice, published lists too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from segalflow.expansion.hamiltonian import Cluster
from segalflow.lattice import ParentLattice, Supercell, map_to_supercell

PointFunctions = tuple[tuple[tuple[float, ...], ...], ...]
"""Per sublattice, a tuple of functions; each function is a tuple of values, one per species."""


def cell_correlations(
    clusters: Sequence[Cluster], point_functions: PointFunctions, cell: Supercell, occupations: np.ndarray
) -> np.ndarray:
    """Return the correlation functions of decorations of one cell, shape (batch, n_clusters).

    Each is the mean over all primitive cells and all figures of the product of point functions, periodic images
    wrapped (coinciding sites multiply).

    Args:
        clusters: clusters with figures and decorations.
        point_functions: values by sublattice, function, species.
        cell: supercell of the decorations.
        occupations: species indices, shape (batch, n_sites) or (n_sites,).
    """
    occupations = np.atleast_2d(occupations)
    sublattice = cell.sites[:, 0]
    n_functions = max(len(functions) for functions in point_functions)
    # Value of each point function on each site: (n_functions, batch, n_sites).
    values = np.zeros((n_functions, *occupations.shape))
    for sub, functions in enumerate(point_functions):
        here = np.flatnonzero(sublattice == sub)
        for number, table in enumerate(functions):
            values[number][:, here] = np.asarray(table, dtype=float)[occupations[:, here]]
    result = np.ones((len(occupations), len(clusters)))
    for column, cluster in enumerate(clusters):
        if cluster.order == 0:
            continue
        moved = cell.offsets[:, None, None, :] + cluster.figures[None, :, :, 1:]
        sites = cell.site_index(cluster.figures[None, :, :, 0], moved).reshape(-1, cluster.order)
        functions = np.broadcast_to(cluster.decorations, (cell.n_cells, *cluster.decorations.shape))
        functions = functions.reshape(-1, cluster.order)
        product = values[functions[:, 0], :, sites[:, 0]]
        for k in range(1, cluster.order):
            product = product * values[functions[:, k], :, sites[:, k]]
        result[:, column] = product.mean(axis=0)
    return result


def correlation_matrix(
    clusters: Sequence[Cluster], point_functions: PointFunctions, lattice: ParentLattice, structures: Sequence[Atoms]
) -> np.ndarray:
    """Return the correlation functions of structures on ideal positions, shape (n_structures, n_clusters).

    Structures that share a supercell are evaluated together.

    Raises:
        LatticeError: if a structure is not on the lattice.
    """
    mapped = [map_to_supercell(atoms, lattice) for atoms in structures]
    groups: dict[bytes, list[int]] = {}
    for number, (cell, _) in enumerate(mapped):
        groups.setdefault(cell.matrix.tobytes(), []).append(number)
    design = np.empty((len(mapped), len(clusters)))
    for members in groups.values():
        occupations = np.array([mapped[number][1] for number in members])
        design[members] = cell_correlations(clusters, point_functions, mapped[members[0]][0], occupations)
    return design
