"""Convex hulls, the ground-state transitions they imply, and cells that ground states fit into."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.lattice import Supercell, lattice_operations, map_to_supercell
from segalflow.structures.identity import primitive_decoration
from segalflow.structures.pool import structure_name


def lower_hull(x: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Return the indices of the points on the lower convex hull of energy (eV/atom) against x, in order of x.

    Andrew's monotone chain; of points with equal x only the lowest counts, and points on an edge are left out.
    """
    order = np.lexsort((energy, x))
    first = [i for n, i in enumerate(order) if n == 0 or x[i] > x[order[n - 1]] + 1e-9]
    hull: list[int] = []
    for i in first:
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (energy[b] - energy[a]) * (x[i] - x[a]) < (energy[i] - energy[a]) * (x[b] - x[a]) - 1e-12:
                break
            hull.pop()
        hull.append(int(i))
    return np.array(hull, dtype=int)


def above_hull(x: np.ndarray, energy: np.ndarray, hull: np.ndarray) -> np.ndarray:
    """Return the distance of every point above the hull, shape (n,), eV/atom."""
    return energy - np.interp(x, x[hull], energy[hull])


def lower_surface(x: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower convex hull over any number of composition axes: its corners and its height at every point.

    Args:
        x: fractions of all species but the first, shape (n, k), or (n,) for two species, where this is `lower_hull`.
            The pure species must be among the points: they span all compositions.
        energy: formation energies, shape (n,), eV/atom.

    Returns:
        Indices of the corners, in order of x for two species, and the hull's energy at the composition of every point,
        shape (n,), eV/atom.
    """
    x = x.reshape(len(x), -1)
    if x.shape[1] == 1:
        hull = lower_hull(x[:, 0], energy)
        return hull, np.interp(x[:, 0], x[hull, 0], energy[hull])
    scale = max(float(np.ptp(energy)), 1e-6)
    planes, faces = _lower_faces(x, energy / scale)
    heights = scale * (-(x @ planes[:, :-2].T + planes[:, -1]) / planes[:, -2]).max(axis=1)
    corners = np.unique(faces[faces < len(x)])
    return corners[energy[corners] - heights[corners] < 1e-9], heights


def _lower_faces(x: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations and corners of the faces of the convex hull that look down in energy, energies of order one."""
    from scipy.spatial import ConvexHull  # late: only three species and more need it

    # A point high above all others gives the hull a volume even where nothing mixes and all energies are zero.
    top = np.append(x.mean(axis=0), energy.max() + 10.0)
    hull = ConvexHull(np.vstack([np.column_stack([x, energy]), top]))
    down = hull.equations[:, -2] < -1e-9  # outward normals
    return hull.equations[down], hull.simplices[down]


def tie_energies(x: np.ndarray, energy: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return other `values` of the hull's corners along the hull's own tie lines, at the composition of every point.

    Args:
        x: as for `lower_surface`.
        energy: formation energies whose lower hull says which ground states coexist, shape (n,), eV/atom.
        values: of the same points, shape (n,), eV/atom; those of corners count.

    Returns:
        Shape (n,), eV/atom.
    """
    x = x.reshape(len(x), -1)
    if x.shape[1] == 1:
        hull = lower_hull(x[:, 0], energy)
        return np.interp(x[:, 0], x[hull, 0], values[hull])
    _, faces = _lower_faces(x, energy / max(float(np.ptp(energy)), 1e-6))
    found, best = np.empty(len(x)), np.full(len(x), -np.inf)
    fractions = np.column_stack([x, np.ones(len(x))])
    for face in faces:
        shares = np.linalg.lstsq(fractions[face].T, fractions.T, rcond=None)[0].T
        # The face that holds a point is the one where its least share is largest: zero or more, up to rounding.
        inside = shares.min(axis=1) > best
        best[inside], found[inside] = shares.min(axis=1)[inside], (shares @ values[face])[inside]
    return found


def hull_slopes(hull: pd.DataFrame, source: str = "model") -> list[float]:
    """Return delta_mu of the transitions between neighbouring ground states at T = 0, eV per atom exchanged.

    Args:
        hull: table with columns source, x, formation_energy (eV/atom).
        source: ``model`` (the expansion's own energies, which the samplers see) or ``data``.
    """
    points = hull[hull["source"] == source].sort_values("x")
    x, energy = points["x"].to_numpy(), points["formation_energy"].to_numpy()
    return (np.diff(energy) / np.diff(x)).tolist()


def fits_into(matrix: np.ndarray, cell: Supercell) -> bool:
    """Whether a superlattice (rows in primitive vectors) repeats to `cell` in any of its symmetric orientations."""
    for rotation, _ in lattice_operations(cell.lattice):
        repeats = cell.matrix @ np.linalg.inv(matrix @ rotation.T)
        if np.allclose(repeats, np.round(repeats), atol=1e-6):
            return True
    return False


def fitting_cell(matrices: Sequence[np.ndarray], cell: Supercell, largest: int = 12) -> tuple[int, int, int] | None:
    """Return three repeats of the primitive vectors into which all superlattices fit, of a size near that of `cell`.

    None if there is none with at most `largest` repeats of each vector.
    """
    repeats = itertools.combinations_with_replacement(range(1, largest + 1), 3)
    near = sorted(
        repeats, key=lambda r: (abs(np.prod(r) * cell.lattice.n_sublattices - cell.n_sites), max(r) - min(r), r)
    )
    for candidate in near:
        trial = Supercell(cell.lattice, np.diag(candidate))
        if all(fits_into(m, trial) for m in matrices):
            return tuple(sorted(candidate, reverse=True))
    return None


def check_commensurate(ground_states: Sequence[Atoms], cell: Supercell, key: str = "cell") -> list[str]:
    """Return a warning for the ground states that do not fit into a cell, naming a cell that fits them all.

    Args:
        ground_states: ideal decorated structures.
        cell: the cell to be sampled.
        key: the config key to name.
    """
    primitive = [primitive_decoration(*map_to_supercell(s, cell.lattice))[0].matrix for s in ground_states]
    misfits = [s for s, m in zip(ground_states, primitive, strict=True) if not fits_into(m, cell)]
    if not misfits:
        return []
    names = ", ".join(structure_name(s, cell.lattice) for s in misfits)
    better = fitting_cell(primitive, cell)
    advice = f"; a cell that fits all of them: repeat {list(better)} ({np.prod(better)} sites)" if better else ""
    return [
        f"{key}: {len(misfits)} ground state(s) of the expansion cannot form in this cell of {cell.n_sites} sites "
        f"({names}), so the fields of these phases are missing from its results{advice}"
    ]
