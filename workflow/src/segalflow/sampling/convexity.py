"""Conditions of a grid whose log Z is below a bound that their neighbours set: chains there miss the stable phase.

log Z is convex in (1/kT, delta_mu/kT), so it lies above the tangent plane at every condition (Jensen's inequality):

    log Z_b >= log Z_a - (1/kT_b - 1/kT_a) <U>_a + (delta_mu_b/kT_b - delta_mu_a/kT_a) <N>_a.

Chains that all settle in a metastable phase agree with each other and report a log Z of that phase alone. It is too
low, and a neighbour in the stable phase tells so.
"""

from __future__ import annotations

import numpy as np

N_SIGMA = 4.0
"""Combined standard errors by which log Z must fall short of a bound."""
SHORTFALL = 0.5
"""Least amount by which it must: a phase that is missed holds then 40 % of the weight."""


def below_bounds(
    beta: np.ndarray,
    delta_mu: np.ndarray,
    log_z: np.ndarray,
    log_z_stderr: np.ndarray,
    energy: np.ndarray,
    energy_stderr: np.ndarray,
    n_atoms: np.ndarray,
    n_atoms_stderr: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """Return which conditions have a log Z below the bound of one of their four neighbours, (n_beta, n_delta_mu).

    A condition found so is no source of bounds any more, and the others are looked at again; that takes nothing back,
    since a metastable phase can only set bounds that are too low.

    Args:
        beta: 1/kT, shape (n_beta,), in order.
        delta_mu: chemical potentials, (n_delta_mu,), in order.
        log_z, log_z_stderr: of the whole cell, (n_beta, n_delta_mu).
        energy, energy_stderr: mean U of the whole cell, alike.
        n_atoms, n_atoms_stderr: mean number of atoms of species 1, alike.
        known: which conditions may set bounds, bool.
    """
    field = beta[:, None] * delta_mu
    b = np.broadcast_to(beta[:, None], field.shape)
    found = np.zeros(field.shape, dtype=bool)
    for axis in (0, 1):
        for step in (1, -1):
            here, there = _pairs(axis, step)
            d_beta, d_field = b[here] - b[there], field[here] - field[there]
            bound = log_z[there] - d_beta * energy[there] + d_field * n_atoms[there]
            error = np.sqrt(
                log_z_stderr[here] ** 2
                + log_z_stderr[there] ** 2
                + (d_beta * energy_stderr[there]) ** 2
                + (d_field * n_atoms_stderr[there]) ** 2
            )
            found[here] |= known[there] & (bound - log_z[here] > np.maximum(N_SIGMA * error, SHORTFALL))
    return found


def _pairs(axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the conditions that have a neighbour `step` further along an axis, and of these neighbours."""
    first, last = slice(None, -1), slice(1, None)
    here, there = (first, last) if step > 0 else (last, first)
    whole = slice(None)
    return ((here, whole), (there, whole)) if axis == 0 else ((whole, here), (whole, there))
