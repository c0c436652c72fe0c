"""Compositions beside a pure element: all their decorations are summed, and nothing of them is left to samples.

With one or two atoms of the other species a cell has few decorations that translations do not relate, so the ratios of
these weights are known exactly. Samples know them as counts of rare visits: at 200 K a dilute phase of Cu-Au holds one
atom in 17 000 sites. What stays an estimate is the weight of that end of the isotherm relative to the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.special import logsumexp

from segalflow.energy.base import EnergyModel
from segalflow.lattice import Supercell
from segalflow.thermo.free_energy import FreeEnergy

REACH = 2
"""Most atoms of the minority species."""
SAME = 1e-9
"""Relative difference of energies of decorations that translations relate."""

Levels = Mapping[int, tuple[np.ndarray, np.ndarray]]
"""Energies of the decorations with N atoms of species 1, eV, and how many decorations have each, by N."""


def dilute_levels(model: EnergyModel, cell: Supercell) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return the energies of all decorations with up to `REACH` atoms of either species.

    Nothing where the model is not that of a binary on every site, or not the same after a translation, or the cell has
    hardly more compositions than these.
    """
    n = cell.n_sites
    if np.any(np.asarray(model.n_species) != 2) or n < 4 * REACH:
        return {}
    offset = cell.sites[:, 1:]
    first = np.flatnonzero((offset == cell.offsets[0]).all(axis=1))
    found = {}
    for host in (0, 1):

        def energies(*guests: np.ndarray, host: int = host) -> np.ndarray:
            occupation = np.full((len(guests[0]), n), host)
            for guest in guests:
                occupation[np.arange(len(guest)), guest] = 1 - host
            return model.energy(occupation)

        pure = model.energy(np.full((1, n), host))
        single = energies(np.arange(n))
        for site in first:
            alike = single[cell.sites[:, 0] == cell.sites[site, 0]]
            if np.ptp(alike) > SAME * max(float(np.abs(pure).max()), 1.0):
                return {}
        a = np.repeat(first, n - 1)
        b = np.concatenate([np.delete(np.arange(n), site) for site in first])
        levels = [
            (pure, np.ones(1)),
            (single, np.ones(n)),
            (energies(a, b), np.full(len(a), cell.n_cells / 2)),  # every pair is met from both its sites
        ]
        for guests, level in enumerate(levels):
            found[guests if host == 0 else n - guests] = level
    return found


def with_dilute_ends(free: FreeEnergy, levels: Levels) -> FreeEnergy:
    """Return free energies in which the weights of dilute compositions have their exact ratios.

    Each end of an isotherm is shifted as a whole to where the samples put it: by the mean difference of estimate and
    exact sum over its compositions, each counting as often as the conditions of the sweep hold it.

    Args:
        free: free energies from samples or biased walks.
        levels: `dilute_levels` of their model and cell.
    """
    if not levels or "refused" in free.attributes:
        return free
    n, beta = free.n_sites, free.beta
    value, draws = free.log_weight.copy(), free.replicates.copy()
    energy = None if free.energy is None else free.energy.copy()
    variance = None if free.energy_variance is None else free.energy_variance.copy()
    often = _occurrence(free)
    for end in ([k for k in sorted(levels) if k <= n // 2], [k for k in sorted(levels) if k > n // 2]):
        terms = [np.log(count) - beta[:, None] * u for u, count in (levels[k] for k in end)]
        exact = np.stack([logsumexp(term, axis=1) for term in terms], axis=1)  # (n_t, compositions)
        known = np.isfinite(value[:, end]) & np.isfinite(draws[..., end]).all(axis=0)
        share = np.where(known, often[:, end], 0.0)
        rows = np.flatnonzero(share.sum(axis=1) > 0)
        share = share[rows] / share[rows].sum(axis=1, keepdims=True)

        def joined(curves: np.ndarray, rows=rows, share=share, exact=exact, end=end) -> np.ndarray:
            apart = np.where(share > 0, curves[..., rows, :][..., end] - exact[rows], 0.0)
            return exact[rows] + np.sum(share * apart, axis=-1, keepdims=True)

        place = np.ix_(rows, end)
        value[place] = joined(free.log_weight)
        draws[np.ix_(np.arange(len(draws)), rows, end)] = joined(free.replicates)
        if energy is not None and variance is not None:
            for k, term, (u, _) in zip(end, terms, (levels[k] for k in end), strict=True):
                p = np.exp(term[rows] - term[rows].max(axis=1, keepdims=True))
                p /= p.sum(axis=1, keepdims=True)
                energy[rows, k] = p @ u
                variance[rows, k] = np.maximum(p @ u**2 - (p @ u) ** 2, 0.0)
    return replace(free, log_weight=value, replicates=draws, energy=energy, energy_variance=variance)


def _occurrence(free: FreeEnergy) -> np.ndarray:
    """How often the conditions of the sweep hold each composition at each temperature, (n_t, n_sites + 1)."""
    n = np.arange(free.n_sites + 1)
    with np.errstate(invalid="ignore"):
        logs = free.log_weight[:, None] + free.beta[:, None, None] * free.delta_mu[:, None] * n
        logs -= logs.max(axis=2, keepdims=True)
    return np.nan_to_num(np.exp(logs) / np.exp(logs).sum(axis=2, keepdims=True)).sum(axis=1)
