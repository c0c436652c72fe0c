"""Orders in which a network places the sites of a cell. To add one, write a function and register it in `ORDERS`.

Artefacts, energies and chains know the cell's own site order only; a trained sampler turns decorations at its door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell


def nearest_distances(cell: Supercell) -> np.ndarray:
    """Return the distance of every two sites by their nearest images, (n_sites, n_sites), Angstrom."""
    images = np.array([i for i in np.ndindex(3, 3, 3)]) - 1
    images = images[[all(p or not o for p, o in zip(cell.lattice.pbc, image, strict=True)) for image in images]]
    shifts = images @ cell.cell
    nearest = np.empty((cell.n_sites, cell.n_sites))
    for i in range(cell.n_sites):
        apart = cell.positions - cell.positions[i]
        nearest[i] = np.linalg.norm(apart[:, None] + shifts, axis=2).min(axis=1)
    return nearest


def raster_order(cell: Supercell, seed: int) -> np.ndarray:
    """The cell's own order, row by row."""
    return np.arange(cell.n_sites)


def growing_order(cell: Supercell, seed: int) -> np.ndarray:
    """Outwards from the first site, by distance."""
    return np.argsort(nearest_distances(cell)[0].round(6), kind="stable")


def coarse_to_fine_order(cell: Supercell, seed: int) -> np.ndarray:
    """Always the site farthest from all placed ones: a sparse skeleton first, then what lies between."""
    distance = nearest_distances(cell).round(6)
    order, gap = [0], distance[0].copy()
    while len(order) < cell.n_sites:
        gap[order[-1]] = -1.0
        order.append(int(gap.argmax()))
        gap = np.minimum(gap, distance[order[-1]])
    return np.array(order)


def random_order(cell: Supercell, seed: int) -> np.ndarray:
    """By lot, from the training's seed."""
    return np.random.default_rng([seed, cell.n_sites]).permutation(cell.n_sites)


ORDERS: dict[str, Callable[[Supercell, int], np.ndarray]] = {
    "raster": raster_order,
    "growing": growing_order,
    "coarse_to_fine": coarse_to_fine_order,
    "random": random_order,
}


def placement(network: Mapping[str, Any], cell: Supercell, seed: int) -> np.ndarray | None:
    """Return the sites in the order that a network's settings name (key ``order``), (n_sites,); None for ``raster``.

    Raises:
        TrainingError: for an unknown order.
    """
    name = network.get("order", "raster")
    if name not in ORDERS:
        raise TrainingError(
            f"segal.network.order: unknown order '{name}', expected one of {', '.join(ORDERS)}{suggest(name, ORDERS)}"
        )
    return None if name == "raster" else ORDERS[name](cell, seed)
