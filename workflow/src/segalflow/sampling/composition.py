"""Observables of every delta_mu from composition-resolved weights (exact sums, metadynamics)."""

from __future__ import annotations

import numpy as np


def observables_by_composition(
    log_weight: np.ndarray, energy_mean: np.ndarray, energy_variance: np.ndarray, beta: np.ndarray, delta_mu: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the ensemble variables on the grid.

    Args:
        log_weight: ``log sum_{states with n} exp(-U/kT)``, shape (n_temperatures, n_sites + 1); -inf where nothing is.
        energy_mean: mean U at each n, eV, same shape.
        energy_variance: variance of U at each n, eV^2, same shape.
        beta: 1/kT, shape (n_temperatures,).
        delta_mu: shape (n_delta_mu,).
    """
    n_sites = log_weight.shape[1] - 1
    n = np.arange(n_sites + 1)
    tilted = log_weight[:, None, :] + (beta[:, None] * delta_mu[None, :])[..., None] * n
    top = tilted.max(axis=2, keepdims=True)
    log_z = top[..., 0] + np.log(np.exp(tilted - top).sum(axis=2))
    share = tilted - log_z[..., None]
    p = np.exp(share)
    mean_n = p @ n
    var_n = (p * (n - mean_n[..., None]) ** 2).sum(axis=2)
    u, spread = energy_mean[:, None, :], energy_variance[:, None, :]
    mean_u = (p * u).sum(axis=2)
    e = u - delta_mu[None, :, None] * n
    mean_e = (p * e).sum(axis=2)
    var_e = (p * (spread + (e - mean_e[..., None]) ** 2)).sum(axis=2)
    b = beta[:, None]
    x = mean_n / n_sites
    return {
        "log_z": log_z,
        "grand_potential": -log_z / b / n_sites,
        "composition": np.stack([1 - x, x], axis=-1),
        "energy": mean_u / n_sites,
        "heat_capacity": var_e * b**2 / n_sites,
        "susceptibility": var_n * b / n_sites,
        "composition_log_weight": share,
    }
