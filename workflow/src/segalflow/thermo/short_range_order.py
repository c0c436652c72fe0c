"""Short-range order and structure factors of every condition, from the samples of a sweep.

Warren-Cowley parameter of a shell of neighbours (Cowley, Phys. Rev. 77, 669, 1950): ``alpha = 1 - P(B | A) / x_B``,
with P the probability that a neighbour of an A atom is B; 0 in a random solution, negative where unlike atoms attract.
In spins s = +-1 of mean m it is ``(<s_i s_j> - m^2) / (1 - m^2)``. The structure factor at a wave vector k is
``|sum_i (s_i - m) exp(2 pi i k r_i)|^2 / (n (1 - m^2))``, the mean over the star of k: 1 in a random solution, of the
order of n in an ordered phase. Both take the mean composition of the condition, so that they hold its fluctuations too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from segalflow.errors import SamplingError
from segalflow.lattice import Supercell, lattice_operations
from segalflow.samples import spins_of

SAME = 1e-4
"""Distances closer than this, in lattice constants, are one shell."""
PIECE = 4096
"""Decorations projected on waves together."""
WIDE = 16384
"""Decorations whose pairs are counted together."""
PRIMITIVE = {"fcc": 4, "bcc": 2}
"""Sites of the conventional cell of a lattice; 1 of any other."""


def lattice_constant(cell: Supercell) -> float:
    """Return the edge of the conventional cubic (square) cell, Angstrom."""
    lattice = cell.lattice
    if not all(lattice.pbc):
        return float(np.linalg.norm(lattice.cell[0]))
    return float((PRIMITIVE.get(lattice.name, 1) * abs(np.linalg.det(lattice.cell))) ** (1 / 3))


def neighbour_shells(cell: Supercell, number: int) -> list[tuple[float, np.ndarray]]:
    """Return distance (Angstrom) and adjacency, (n_sites, n_sites), of the first shells; rows hold counts.

    A neighbour that is met through the periodic boundary more than once counts as often.
    """
    constant, points = lattice_constant(cell), cell.positions
    reach = 1.0
    while True:
        spans = np.linalg.norm(np.linalg.inv(cell.cell), axis=0)
        repeats = [int(np.ceil(reach * constant * s)) if p else 0 for s, p in zip(spans, cell.lattice.pbc, strict=True)]
        grid = np.array(np.meshgrid(*(np.arange(-r, r + 1) for r in repeats), indexing="ij")).reshape(3, -1).T
        shifts = grid @ cell.cell
        distance = np.linalg.norm(points[None, :, None] + shifts - points[:, None, None], axis=-1)
        inside = (distance > SAME * constant) & (distance <= reach * constant)
        shells = np.unique(np.round(distance[inside] / (SAME * constant)).astype(int))
        if len(shells) > number:  # the last one may be cut
            break
        reach += 0.5
    marks = np.round(distance / (SAME * constant)).astype(int)
    return [(float(shell) * SAME * constant, (marks == shell).sum(axis=-1)) for shell in shells[:number]]


def pair_products(spins: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """Return ``sum_ij s_i s_j A_ij / d_i / n_sites`` of decorations, d_i the number of neighbours of a site, (n,).

    Args:
        spins: +-1 spins, int8, (n, n_sites).
        adjacency: counts A of neighbours, symmetric, (n_sites, n_sites).
    """
    n_sites = len(adjacency)
    share = 1.0 / adjacency.sum(axis=1)
    # Both directions of a bond together; bonds of one weight are summed as integers, one site after the other.
    weight = np.round(np.triu(adjacency * (share[:, None] + share), 1), 12)
    found = np.full(len(spins), float(np.diag(adjacency) @ share))
    for value in np.unique(weight[weight > 0]):
        bonds = [(i, np.flatnonzero(row)) for i, row in enumerate(weight == value) if row.any()]
        for first in range(0, len(spins), WIDE):
            sites = np.ascontiguousarray(spins[first : first + WIDE].T)
            total = np.zeros(sites.shape[1], dtype=np.int32)
            for i, others in bonds:
                beside = sites[others[0]].astype(np.int8 if len(others) < 128 else np.int32)
                for j in others[1:]:
                    beside += sites[j]
                beside *= sites[i]
                total += beside
            found[first : first + WIDE] += value * total
    return found / n_sites


def star_of(wave_vector: Sequence[float], cell: Supercell) -> np.ndarray:
    """Return all wave vectors equivalent by the lattice's symmetry, in 2 pi / constant, (n_vectors, 3).

    Raises:
        SamplingError: if none of them fits into the periodic cell.
    """
    lattice = cell.lattice
    to_cartesian = np.asarray(lattice.cell, dtype=float)
    found = []
    for rotation, _ in lattice_operations(lattice):
        # Integer rotations act on lattice coordinates (columns); in Cartesian axes they are orthogonal.
        cartesian = to_cartesian.T @ rotation @ np.linalg.inv(to_cartesian.T)
        found.append(cartesian @ np.asarray(wave_vector, dtype=float))
    star = np.unique(np.round(found, 6), axis=0)
    phases = (star @ cell.cell.T / lattice_constant(cell))[:, np.array(lattice.pbc)]
    fits = np.all(np.abs(phases - np.round(phases)) < 1e-4, axis=1)
    if not fits.any():
        raise SamplingError(
            f"wave vector {list(map(float, wave_vector))}: no equivalent of it fits into the cell, expected one that "
            "is periodic in it"
        )
    return star[fits]


def correlation_table(
    samples: xr.Dataset, cell: Supercell, shells: int = 3, wave_vectors: Sequence[Sequence[float]] = ()
) -> pd.DataFrame:
    """Return Warren-Cowley parameters and structure factors of every condition.

    Args:
        samples: samples artefact of the cell.
        cell: the cell.
        shells: shells of neighbours.
        wave_vectors: in 2 pi / lattice constant, Cartesian; those that do not fit into the cell are left out.

    Returns:
        A row a condition: temperature, delta_mu, composition, ``alpha_<shell>`` and ``S(<k>)``, each with ``_stderr``
        from the effective number of samples. NaN where only one species is there.

    Raises:
        SamplingError: if the samples are of another cell.
    """
    if int(samples.attrs["n_sites"]) != cell.n_sites:
        raise SamplingError(f"the samples have {samples.attrs['n_sites']} sites, the cell has {cell.n_sites}")
    spins = spins_of(samples)
    shape, n_sites = spins.shape[:-1], cell.n_sites
    spins, valid = spins.reshape(-1, n_sites), samples["valid"].values > 0
    weight = np.where(valid, np.exp(samples["log_weight"].values), 0.0)
    weight /= np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    n_atoms = samples["n_atoms"].values
    m = 2 * (weight * n_atoms).sum(axis=-1) / n_sites - 1
    room = np.where(1 - m**2 > 1e-9, 1 - m**2, np.nan)
    independent = np.maximum(samples["independent_samples"].values, 1.0)
    values = {}
    for k, (_, adjacency) in enumerate(neighbour_shells(cell, shells), 1):
        pair = pair_products(spins, adjacency).reshape(shape)
        values[f"alpha_{k}"] = (pair - m[..., None] ** 2) / room[..., None]
    for vector in wave_vectors:
        try:
            star = star_of(vector, cell)
        except SamplingError:
            continue
        phase = 2 * np.pi * cell.positions @ star.T / lattice_constant(cell)
        waves = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
        # What the mean of the spins has of a wave: nothing where there is one site in the primitive cell.
        of_one = np.where(np.abs(waves.sum(axis=0)) > 1e-9 * n_sites, waves.sum(axis=0), 0.0).astype(np.float32)
        mean = m.ravel().repeat(shape[-1]).astype(np.float32) if of_one.any() else None
        columns = waves.astype(np.float32)
        power = np.empty(len(spins))
        for first in range(0, len(spins), PIECE):
            part = slice(first, first + PIECE)
            amplitude = spins[part].astype(np.float32) @ columns
            if mean is not None:
                amplitude -= mean[part, None] * of_one
            power[part] = np.einsum("sk,sk->s", amplitude, amplitude) / len(star)
        name = f"S({','.join(f'{v:g}' for v in vector)})"
        values[name] = power.reshape(shape) / (n_sites * room[..., None])
    temperature, mu = np.meshgrid(samples["temperature"].values, samples["delta_mu"].values, indexing="ij")
    columns = {"temperature": temperature, "delta_mu": mu, "composition": (m + 1) / 2}
    for name, value in values.items():
        average = np.einsum("tms,tms->tm", weight, value)
        away = value - average[..., None]
        spread = np.einsum("tms,tms,tms->tm", weight, away, away)
        columns |= {name: average, f"{name}_stderr": np.sqrt(spread / independent)}
    kept = valid.any(axis=-1).ravel()
    frame = pd.DataFrame({name: np.asarray(value).ravel()[kept] for name, value in columns.items()})
    for place, key in enumerate(("method", "cell")):
        frame.insert(place, key, str(samples.attrs.get(key, "")))
    return frame
