"""Observables of every delta_mu from weights by composition: exact sums, metadynamics, canonical chains, VCSGC."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from segalflow.sampling.statistics import jackknife_error, student_factor, time_of_error

if TYPE_CHECKING:  # compiled, and most readers of tables have no model
    from segalflow.energy.polynomial import SpinPolynomial

Estimate = Callable[[np.ndarray], dict[str, np.ndarray]]


def estimate_with_errors(
    model: SpinPolynomial, beta: np.ndarray, estimate: Estimate, walkers: int, n_samples: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return ensemble variables and their jackknife errors over independent walkers.

    Args:
        model: the energy.
        beta: 1/kT, shape (n_temperatures,).
        estimate: variables (with ``composition_log_weight``) from the walkers chosen by a mask, (walkers,).
        walkers: number of walkers, at least 2.
        n_samples: samples at each composition, all walkers, shape (n_temperatures, n_sites + 1).
    """
    everyone = np.ones(walkers, dtype=bool)
    pooled = estimate(everyone)
    left_out = [estimate(np.arange(walkers) != walker) for walker in range(walkers)]
    errors, wider = {}, student_factor(walkers)
    for name in pooled:
        stacked = np.stack([part[name] for part in left_out])
        finite = np.all(np.isfinite(stacked), axis=0)
        errors[name] = np.where(finite, wider * jackknife_error(np.where(finite, stacked, 0.0)), np.nan)
    # One unseen excitation per composition, as in `segalflow.sampling.metropolis`: rare events give no spread at all.
    share = np.exp(pooled["composition_log_weight"])
    once = np.sqrt(np.sum((share / np.maximum(n_samples, 1.0)[:, None, :]) ** 2, axis=2))
    cost = 2.0 * np.sqrt(sum(float(np.sum(c**2)) for c in model.coefficients) / model.n_sites)
    errors["energy"] = errors["energy"] + once * cost / model.n_sites
    errors["heat_capacity"] = errors["heat_capacity"] + once * (cost * beta[:, None]) ** 2 / model.n_sites
    return pooled, errors


def condition_times(
    values: dict[str, np.ndarray], errors: dict[str, np.ndarray], beta: np.ndarray, sweeps: float
) -> np.ndarray:
    """Return the autocorrelation time of x at every condition, from its error (`time_of_error`), in sweeps.

    Args:
        values, errors: as `estimate_with_errors` returns them.
        beta: 1/kT, shape (n_temperatures,).
        sweeps: sweeps of all walkers of a temperature.
    """
    n_sites = values["composition_log_weight"].shape[-1] - 1
    variance = values["susceptibility"] / beta[:, None] / n_sites
    return time_of_error(errors["composition"][..., 1], variance, sweeps)


def end_member_line(model: SpinPolynomial) -> np.ndarray:
    """Return the straight line between the energies of the two pure decorations, eV, shape (n_sites + 1,)."""
    pure = model.energy_of_spins(np.array([[-1] * model.n_sites, [1] * model.n_sites]))
    return np.linspace(pure[0], pure[1], model.n_sites + 1)


def anchored_observables(
    line: np.ndarray,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    log_weight: np.ndarray,
    sums: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the ensemble variables, log Z absolute because both end members are single states of known energy.

    Args:
        line: `end_member_line`.
        beta: 1/kT, shape (n_temperatures,).
        delta_mu: shape (n_delta_mu,).
        log_weight: composition-resolved weights up to a constant per temperature, (n_temperatures, n_sites + 1).
        sums: sums over samples of 1, U - line and its square by composition, shape (3, n_temperatures, n_sites + 1).
    """
    n_t, n_bins = log_weight.shape
    count = np.maximum(sums[0], 1.0)
    mean, square = sums[1] / count, sums[2] / count
    for t in range(n_t):  # a composition without samples takes its neighbours' energy
        seen = sums[0, t] > 0
        if not seen.all() and seen.any():
            n = np.arange(n_bins)
            mean[t] = np.interp(n, n[seen], mean[t, seen])
            square[t] = np.interp(n, n[seen], square[t, seen])
    variance = np.maximum(square - mean**2, 0.0)
    # The two end members fix the constant; each is trusted where it is near (linear in the mean composition).
    at_zero, at_one = -beta * line[0] - log_weight[:, 0], -beta * line[-1] - log_weight[:, -1]
    values = observables_by_composition(log_weight, mean + line, variance, beta, delta_mu)
    x = values["composition"][..., 1]
    constant = np.where(
        np.isfinite(at_zero)[:, None] & np.isfinite(at_one)[:, None],
        (1 - x) * at_zero[:, None] + x * at_one[:, None],
        np.nan,
    )
    values["log_z"] = values["log_z"] + constant
    values["grand_potential"] = -values["log_z"] / beta[:, None] / (n_bins - 1)
    return values


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
