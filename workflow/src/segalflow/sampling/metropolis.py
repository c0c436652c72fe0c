"""Semi-grand-canonical Markov chains over a whole (temperature, delta_mu) grid at once.

Half of the chains of every condition start from pure species 0, half from pure species 1, so metastability shows as
their disagreement (hysteresis). log Z is absolute: a ladder of further temperatures leads to beta = 0, where
log Z = n_sites ln 2, and neighbouring temperatures are joined by Bennett's acceptance ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import maximum_filter, minimum_filter

from segalflow.energy.base import EnergyModel
from segalflow.energy.batch_chains import make_chains
from segalflow.energy.lockstep import exchange_grid
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.samples import sample_set
from segalflow.sampling.chains import ChainRun
from segalflow.sampling.statistics import (
    autocorrelation_time,
    bennett_ratio,
    jackknife_error,
    leave_one_out_means,
)

MIN_INDEPENDENT = 200
"""Independent samples (all chains) below which a condition is marked unreliable."""
MIN_BLOCK_LENGTH = 8.0
"""Autocorrelation times a block must hold for its mean to count as independent."""
AGREEMENT = 4.0
"""Combined standard errors by which the chains from the two starts may differ."""
AGREEMENT_FLOOR = 2e-3
"""Difference in composition (and in energy over the largest field scale) that is always allowed."""


def temperature_ladder(temperature: np.ndarray, boltzmann: float, n_ladder: int) -> np.ndarray:
    """Return beta of all rungs, decreasing to 0: the grid's, then `n_ladder` evenly spaced ones, then beta = 0."""
    grid = np.sort(1.0 / (boltzmann * np.asarray(temperature, float)))[::-1]
    return np.concatenate([grid, np.linspace(grid[-1], 0.0, n_ladder + 2)[1:]])


def _check_grid(temperature: np.ndarray, delta_mu: np.ndarray) -> None:
    if temperature.ndim != 1 or not len(temperature) or np.any(temperature <= 0) or np.any(np.diff(temperature) <= 0):
        raise SamplingError(f"temperatures must be positive and increasing, found {temperature.tolist()}")
    if delta_mu.ndim != 1 or not len(delta_mu) or np.any(np.diff(delta_mu) <= 0):
        raise SamplingError(f"delta_mu must be increasing, found {delta_mu.tolist()}")


def sample_metropolis(
    model: EnergyModel,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    sweeps: int = 4000,
    equilibration: int = 1000,
    chains_per_condition: int = 2,
    n_ladder: int = 10,
    measure_every: int = 2,
    exchange_every: int = 10,
    n_blocks: int = 20,
    rule: str = "heat_bath",
    target_error: float | None = None,
    max_sweeps: int = 64000,
    keep_samples: int = 256,
    collect: Callable[[xr.Dataset], None] | None = None,
    work: Path | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``metropolis``) of lock-step Markov chains.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,).
        seed: seed of all random draws.
        sweeps: production sweeps per chain; a sweep visits every site once.
        equilibration: sweeps before them.
        chains_per_condition: even; half start from species 0, half from species 1.
        n_ladder: temperatures between the highest one and infinite temperature, evenly spaced in 1/T.
        measure_every: sweeps between measurements.
        exchange_every: sweeps between replica exchanges (in T, then in delta_mu, separately for each of the
            `chains_per_condition` copies of the grid); 0 turns exchange off.
        n_blocks: blocks per chain for the errors.
        rule: acceptance rule (`segalflow.energy.lockstep.RULES`).
        target_error: the sweeps are doubled until the standard error of the composition is at most this at every
            condition, or `max_sweeps` are done; None does `sweeps`.
        max_sweeps: see `target_error`.
        keep_samples: most samples of each condition that `collect` gets, evenly spaced in time, shared by its chains.
        collect: called once with the samples artefact (`segalflow.samples`); None keeps no decorations.
        work: folder of the chains' state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.

    Errors are jackknife errors over all blocks of all chains of a condition. Where the two starts disagree, half of
    their difference is added in quadrature and the condition is marked unreliable; so is one with fewer than
    `MIN_INDEPENDENT` independent samples or with blocks shorter than `MIN_BLOCK_LENGTH` autocorrelation times.

    Raises:
        SamplingError: for a grid or budgets that make no sense.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    _check_grid(temperature, delta_mu)
    n_measured = sweeps // measure_every // n_blocks * n_blocks
    if chains_per_condition < 2 or chains_per_condition % 2:
        raise SamplingError(f"chains_per_condition: expected an even number, found {chains_per_condition}")
    if n_measured < 4 * n_blocks or n_blocks < 2:
        raise SamplingError(
            f"sweeps: {sweeps} sweeps give {sweeps // max(measure_every, 1)} measurements, "
            f"expected at least 4 in each of {n_blocks} blocks"
        )
    beta = temperature_ladder(temperature, model.boltzmann, n_ladder)
    shape = (len(beta), len(delta_mu), chains_per_condition)
    n_rungs = len(temperature)
    keep = 0 if collect is None else max(1, keep_samples // chains_per_condition)
    run = _chain_run(
        model, beta, delta_mu, shape, seed, rule, equilibration, measure_every, exchange_every, work,
        (keep, n_rungs * len(delta_mu) * chains_per_condition),
    )  # fmt: skip
    while True:
        run.run(n_measured)
        energy, n_plus = (series.reshape(n_measured, *shape) for series in (run.energy(), run.n_plus()))
        values = _estimates(model.n_sites, beta, delta_mu, energy, n_plus, n_blocks, measure_every)
        worst = float(values["composition_stderr"][:n_rungs].max())
        if target_error is None or worst <= target_error or 2 * n_measured * measure_every > max_sweeps:
            break
        n_measured *= 2
    chains, accepted = run.chains, run.acceptance().reshape(shape).mean(axis=2)
    spent = chains.energy_evaluations / (n_rungs * len(delta_mu))
    # The grid was run from the lowest temperature up to beta = 0; rows 0..n_rungs-1 are the wanted ones.
    kept = {name: value[:n_rungs] for name, value in values.items()}
    grid = (n_rungs, len(delta_mu))
    kept["acceptance"] = accepted[:n_rungs]
    kept["n_samples"] = np.full(grid, float(n_measured * chains_per_condition))
    kept["energy_evaluations"] = np.full(grid, spent)
    kept["full_energy_evaluations"] = np.full(grid, n_measured * chains_per_condition * len(beta) / n_rungs)
    settings = {
        "seed": seed,
        "sweeps": n_measured * measure_every,
        "equilibration": equilibration,
        "chains_per_condition": chains_per_condition,
        "n_ladder": n_ladder,
        "measure_every": measure_every,
        "exchange_every": exchange_every,
        "n_blocks": n_blocks,
        "rule": rule,
        "target_error": target_error,
    }
    hysteresis, independent = kept.pop("hysteresis"), kept.pop("independent")
    source = {"n_sites": model.n_sites, "settings": settings, **(attributes or {})}
    if collect is not None:
        content = _kept_samples(run, n_rungs, energy, n_plus)
        content["independent_samples"] = np.minimum(independent, content["energy"].shape[-1])
        collect(sample_set("metropolis", temperature, delta_mu, species, content, source, model.energy_unit))
    doubts = {"largest_hysteresis": float(hysteresis.max()), "hysteresis": np.round(hysteresis, 6).tolist()}
    return ensemble_table("metropolis", temperature, delta_mu, species, kept, {**source, **doubts}, model.energy_unit)


def _kept_samples(run: ChainRun, n_rungs: int, energy: np.ndarray, n_plus: np.ndarray) -> dict[str, np.ndarray]:
    """Variables of the samples artefact; series have the shape (n_measured, n_beta, n_delta_mu, n_chains)."""
    packed, taken = run.decorations()
    grid = (n_rungs, *energy.shape[2:])

    def by_condition(values: np.ndarray) -> np.ndarray:  # (n_kept, T, mu, chain, ...) -> (T, mu, chain * n_kept, ...)
        moved = np.moveaxis(values, 0, 3)
        return moved.reshape(*moved.shape[:2], -1, *moved.shape[4:])

    series = by_condition(energy[taken, :n_rungs])
    return {
        "occupation": by_condition(packed.reshape(len(taken), *grid, -1)),
        "energy": series,
        "n_atoms": by_condition(n_plus[taken, :n_rungs]),
        "log_weight": np.zeros(series.shape),
        "chain": np.repeat(np.arange(grid[2]), len(taken)),
    }


def _chain_run(
    model: EnergyModel,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    shape: tuple[int, int, int],
    seed: int,
    rule: str,
    equilibration: int,
    measure_every: int,
    exchange_every: int,
    work: Path | None,
    kept: tuple[int, int],
) -> ChainRun:
    """Chains on (rungs, delta_mu, copies), started from both pure ends, exchanging in T and delta_mu in turn."""
    rungs, columns, _ = np.indices(shape).reshape(3, -1)
    with np.errstate(divide="ignore"):
        kelvin = 1.0 / (model.boltzmann * beta)
    chains = make_chains(model, kelvin[rungs], delta_mu[columns], seed, rule)
    starts = np.where(np.arange(chains.n_chains) % 2 == 0, -1, 1)  # the last axis of `shape` alternates
    chains.set_spins(np.repeat(starts[:, None], model.n_sites, axis=1))
    rng = np.random.default_rng(seed)
    moves = [(axis, parity) for parity in (0, 1) for axis in (0, 1) if shape[axis] > 1]

    def exchange(number: int) -> None:
        axis, parity = moves[number % len(moves)]
        exchange_grid(chains, shape, axis, parity, rng)

    return ChainRun(
        chains, chains.sweep, exchange if moves else None, rng, equilibration=equilibration,
        measure_every=measure_every, exchange_every=exchange_every, work=work, inputs=["metropolis", seed, *shape],
        keep=kept[0], kept_chains=kept[1],
    )  # fmt: skip


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


def _estimates(
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
    correction = 1.0 / np.sqrt(np.clip(1.0 - tau / length, 0.25, 1.0))
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
    # Influence of every block of every rung on the running sum: neighbouring ratios share samples.
    pending = np.zeros((n_mu, n_chains * n_blocks))
    settled = np.zeros(n_mu)

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
        complete = pending + by_block(from_above)
        settled = settled + many * (complete**2).sum(axis=-1) * correction[rung + 1] ** 2
        pending = by_block(from_here)
        error[rung] = np.sqrt(settled + many * (pending**2).sum(axis=-1) * correction[rung] ** 2)
        above = here
    return log_z, error
