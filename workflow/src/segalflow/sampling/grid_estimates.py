"""Estimates and errors of chains on a grid of conditions: means, fluctuations and log Z from series of U and N."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from segalflow.sampling.convexity import below_bounds
from segalflow.sampling.statistics import (
    autocorrelation_time,
    bennett_ratio,
    jackknife_error,
    leave_one_out_means,
    student_factor,
)

MIN_INDEPENDENT = 200
"""Independent samples (all chains) below which a condition is marked unreliable."""
MIN_BLOCK_LENGTH = 8.0
"""Autocorrelation times a block must hold for its mean to count as independent."""
AGREEMENT = 4.0
"""Combined standard errors by which the chains from the two starts may differ."""
AGREEMENT_FLOOR = 2e-3
"""Difference in composition (and in energy over the largest field scale) that is always allowed."""


def _moments(energy: np.ndarray, n_plus: np.ndarray, n_blocks: int) -> np.ndarray:
    """Return block means of U, N, U^2, N^2 and U N, shape (5, n_blocks, ...), of series with time first."""

    def blocks(values: np.ndarray) -> np.ndarray:
        return values.reshape(n_blocks, -1, *values.shape[1:]).mean(axis=1)

    return np.stack([blocks(energy), blocks(n_plus), blocks(energy**2), blocks(n_plus**2), blocks(energy * n_plus)])


def _derived(moments: np.ndarray, beta: np.ndarray, delta_mu: np.ndarray, n_sites: int) -> dict[str, np.ndarray]:
    """x, U, C, chi of moments (5, ..., n_beta, n_delta_mu)."""
    u, n, uu, nn, un = moments
    var_u, var_n, cov = uu - u * u, nn - n * n, un - u * n
    var_e = var_u - 2 * delta_mu * cov + delta_mu**2 * var_n
    b = beta[:, None]
    return {
        "composition": n / n_sites,
        "energy": u / n_sites,
        "heat_capacity": var_e * b**2 / n_sites,
        "susceptibility": var_n * b / n_sites,
    }


def grid_estimates(
    n_sites: int,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    energy: np.ndarray,
    n_plus: np.ndarray,
    n_blocks: int,
    measure_every: int,
) -> dict[str, np.ndarray]:
    """Estimates and errors of series (n_measured, n_beta, n_delta_mu, n_chains); rows of the result follow `beta`."""
    n_measured, _, _, n_chains = energy.shape
    # Moments about a condition's mean: differences of large numbers would lose digits.
    shift_u, shift_n = energy.mean(axis=(0, 3)), n_plus.mean(axis=(0, 3))
    moments = _moments(energy - shift_u[..., None], n_plus - shift_n[..., None], n_blocks)
    moments = np.moveaxis(moments, -1, 1).reshape(5, n_chains * n_blocks, *shift_u.shape)  # pool chains and blocks

    def finish(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            **values,
            "composition": values["composition"] + shift_n / n_sites,
            "energy": values["energy"] + shift_u / n_sites,
        }

    def derived(m: np.ndarray) -> dict[str, np.ndarray]:
        return finish(_derived(m, beta, delta_mu, n_sites))

    pooled = derived(moments.mean(axis=1))
    left_out = derived(leave_one_out_means(moments, axis=1))
    errors = {name: jackknife_error(value) for name, value in left_out.items()}
    half = moments.reshape(5, n_chains, n_blocks, *shift_u.shape)
    sides = [derived(half[:, side::2].mean(axis=(1, 2))) for side in (0, 1)]
    side_errors = [
        {
            name: jackknife_error(value)
            for name, value in derived(
                leave_one_out_means(half[:, side::2].reshape(5, -1, *shift_u.shape), axis=1)
            ).items()
        }
        for side in (0, 1)
    ]

    grand = energy - delta_mu[:, None] * n_plus
    # In measurements; the slower chain and the slower of U - dmu N and N decide: at a symmetric coexistence
    # U - dmu N forgets quickly what N remembers.
    tau_grand, tau_n = (_slowest_time(series) for series in (grand, n_plus))
    tau = np.maximum(tau_grand, tau_n)
    length = n_measured / n_blocks
    # Blocks of length b underestimate the variance by (1 - tau/b): put it back, at most by a factor 2.
    correction = student_factor(n_chains * n_blocks) / np.sqrt(np.clip(1.0 - tau / length, 0.25, 1.0))
    difference = {name: np.abs(sides[0][name] - sides[1][name]) for name in pooled}
    agree = np.ones(shift_u.shape, dtype=bool)
    scale = {"composition": 1.0, "energy": max(float(np.ptp(pooled["energy"])), 1e-12)}
    for name, unit in scale.items():
        combined = np.hypot(side_errors[0][name], side_errors[1][name]) * correction
        agree &= difference[name] <= AGREEMENT * combined + AGREEMENT_FLOOR * unit
    independent = n_measured * n_chains / (2 * tau)
    floor = _unseen_excitation(n_sites, beta, grand, independent)
    unseen = _unseen_phase(n_sites, beta, energy, n_plus, grand, tau_grand, tau_n)
    for name in errors:
        doubt = np.where(agree, 0.0, difference[name] / 2)
        errors[name] = np.sqrt((errors[name] * correction) ** 2 + doubt**2 + unseen[name] ** 2) + floor[name]
    reliable = agree & (independent >= MIN_INDEPENDENT) & (length >= MIN_BLOCK_LENGTH * tau)

    log_z, log_z_error = _log_partition(n_sites, beta, grand, n_blocks, correction)
    missed = below_bounds(
        beta, delta_mu, log_z, log_z_error, n_sites * pooled["energy"], n_sites * errors["energy"],
        n_sites * pooled["composition"], n_sites * errors["composition"], reliable,
    )  # fmt: skip
    # Decorations pass between neighbouring temperatures, so those beside one that misses a phase lack it too, where it
    # holds too little weight yet for a bound to tell.
    missed[1:] |= missed[:-1].copy()
    missed[:-1] |= missed[1:].copy()
    reliable &= ~missed
    b = np.where(beta > 0, beta, np.nan)[:, None]
    x, dx = pooled["composition"], errors["composition"]
    result = {
        "log_z": log_z,
        "log_z_stderr": log_z_error,
        "grand_potential": -log_z / b / n_sites,
        "grand_potential_stderr": log_z_error / b / n_sites,
        "composition": np.stack([1 - x, x], axis=-1),
        "composition_stderr": np.stack([dx, dx], axis=-1),
        "autocorrelation_time": tau_grand * measure_every,
        "reliable": reliable.astype(float),
        "hysteresis": difference["composition"],
        "independent": independent,
    }
    for name in ("energy", "heat_capacity", "susceptibility"):
        result[name], result[f"{name}_stderr"] = pooled[name], errors[name]
    return result


def _slowest_time(series: np.ndarray) -> np.ndarray:
    """Largest integrated autocorrelation time of a condition's chains, (n_beta, n_delta_mu), chains last."""
    return np.stack(
        [autocorrelation_time(np.moveaxis(series[:, k], 0, -1)).max(axis=-1) for k in range(series.shape[1])]
    )


def _unseen_excitation(
    n_sites: int, beta: np.ndarray, grand: np.ndarray, independent: np.ndarray
) -> dict[str, np.ndarray]:
    """What one single-site excitation, met once in the independent samples, would change each mean by.

    In an ordered or pure phase excitations are rare events: k of them give a spread of sqrt(k), and none would give
    an error of zero. Added to the error, one more event makes it the usual upper limit 1 + sqrt(k) of a Poisson count
    (Gehrels 1986); where excitations are common it is negligible. Its energy is taken from the fluctuation of
    U - dmu N at beta = 0, where the spins are independent: (2/sqrt(n_sites)) std.
    """
    cost = 2.0 * grand[:, -1].std(axis=(0, 2)) / np.sqrt(n_sites)  # (n_delta_mu,)
    share = 1.0 / (independent * n_sites)
    b = beta[:, None]
    return {
        "composition": share,
        "energy": share * cost,
        "heat_capacity": share * (cost * b) ** 2,
        "susceptibility": share * b,
    }


def _unseen_phase(
    n_sites: int,
    beta: np.ndarray,
    energy: np.ndarray,
    n_plus: np.ndarray,
    grand: np.ndarray,
    tau_grand: np.ndarray,
    tau_n: np.ndarray,
) -> dict[str, np.ndarray]:
    """What one visit to the most distant state seen at a condition or its neighbours would change each mean by.

    Beside a coexistence the other phase is a rare, long visit that a run may miss, and then no spread tells of it.
    Its extent is read from the neighbouring conditions (in T and delta_mu), and so is the number of independent
    visits: the fewest of the neighbourhood.
    """
    n_samples = energy.shape[0] * energy.shape[3]
    visits, visits_n = (n_samples / 2 / maximum_filter(tau, size=3, mode="nearest") for tau in (tau_grand, tau_n))

    def reach(series: np.ndarray) -> np.ndarray:
        mean = series.mean(axis=(0, 3))
        high = maximum_filter(series.max(axis=(0, 3)), size=3, mode="nearest")
        low = minimum_filter(series.min(axis=(0, 3)), size=3, mode="nearest")
        return np.maximum(high - mean, mean - low)

    # U - dmu N is compared as a fluctuation: its mean differs between neighbours by dmu alone.
    fluctuation = grand - grand.mean(axis=(0, 3), keepdims=True)
    b, n = beta[:, None], reach(n_plus.astype(float))
    return {
        "composition": n / n_sites / visits_n,
        "energy": reach(energy) / n_sites / visits,
        "heat_capacity": (b * reach(fluctuation)) ** 2 / n_sites / visits,
        "susceptibility": b * n**2 / n_sites / visits_n,
    }


def _log_partition(
    n_sites: int, beta: np.ndarray, grand: np.ndarray, n_blocks: int, correction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log Z and its error, (n_beta, n_delta_mu), from U - dmu N of shape (n_measured, n_beta, n_delta_mu, n_chains)."""
    _, n_beta, n_mu, n_chains = grand.shape
    log_z = np.empty((n_beta, n_mu))
    error = np.zeros((n_beta, n_mu))
    log_z[-1] = n_sites * np.log(2.0)
    # Influence of every block on the running sum. Neighbouring ratios share samples, and decorations wander between
    # rungs within a block, so the influences of all rungs are added before they are squared.
    running = np.zeros((n_mu, n_chains * n_blocks))

    def by_block(influence: np.ndarray) -> np.ndarray:  # (n_mu, n_chains * n_measured) -> (n_mu, n_chains * n_blocks)
        return influence.reshape(n_mu, n_chains * n_blocks, -1).sum(axis=-1)

    def samples(rung: int) -> np.ndarray:
        return np.ascontiguousarray(grand[:, rung].transpose(1, 2, 0)).reshape(n_mu, -1)

    many = n_chains * n_blocks / (n_chains * n_blocks - 1)
    above = samples(n_beta - 1)
    for rung in range(n_beta - 2, -1, -1):
        here = samples(rung)
        gap = beta[rung] - beta[rung + 1]
        ratio, (from_above, from_here) = bennett_ratio(-gap * above, -gap * here)
        log_z[rung] = log_z[rung + 1] + ratio
        running = running + by_block(from_above) * correction[rung + 1][:, None]
        running = running + by_block(from_here) * correction[rung][:, None]
        error[rung] = np.sqrt(many * (running**2).sum(axis=-1))
        above = here
    return log_z, error
