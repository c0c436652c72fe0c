"""Variance-constrained semi-grand-canonical chains: the inside of a miscibility gap without a barrier.

Every chain feels ``U/kT + kappa N (x - x_w)^2`` (Sadigh & Erhart, Phys. Rev. B 86, 134204 (2012), with x_w = -phi/2):
windows of composition that overlap, each of them stable where the semi-grand ensemble would fall into one phase or the
other. Windows exchange decorations with their neighbours and with other temperatures; the histograms of all windows
are joined by the weighted histogram analysis method (Kumar et al. 1992), exact here as compositions are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from segalflow.compilation import numba
from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import anchored_observables, end_member_line, estimate_with_errors

BLOCKS = 6
"""Blocks of each walker for the errors."""
SWAP_EVERY = 2
"""Sweeps between sweeps of swaps, which order what exchanges of single atoms do not."""
MAX_DISAGREEMENT = 3.0
"""Error from the spread of whole walkers over that from blocks, above which walkers have not met."""
_TOLERANCE, _MAX_ITERATIONS = 1e-6, 20_000  # of the windows' free energies, kT; far below any statistical error
MIN_EXCHANGE = 0.02
"""Accepted share of exchanges between neighbouring windows below which a temperature is marked unreliable."""


def sample_vcsgc(
    model: SpinPolynomial,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    windows: int = 33,
    stiffness: float = 0.7,
    walkers: int = 4,
    equilibration: int = 1000,
    sweeps: int = 6000,
    exchange_every: int = 5,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``vcsgc``), composition-resolved and at every delta_mu.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,); reached by reweighting.
        seed: seed of all random draws.
        windows: centres x_w, evenly spaced from 0 to 1; at most one per atom is used.
        stiffness: kT that the constraint adds half-way between two neighbouring centres, times four
            (``kappa N spacing^2``).
        walkers: independent chains of every window and temperature.
        equilibration: sweeps before the first measurement.
        sweeps: measured sweeps, a multiple of `BLOCKS`.
        exchange_every: sweeps between exchanges of windows, and of temperatures, in turn; 0 turns them off.
        attributes: extra attributes of the table.

    Errors are jackknife errors over blocks of all walkers. A temperature is reliable if every composition was visited,
    neighbouring windows exchange, and whole walkers differ no more than their blocks let expect.

    Raises:
        SamplingError: for budgets that make no sense.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    if windows < 2 or not stiffness > 0 or walkers < 1 or sweeps < BLOCKS or sweeps % BLOCKS:
        raise SamplingError(
            f"vcsgc: expected windows >= 2, stiffness > 0, walkers >= 1 and sweeps in multiples of {BLOCKS}, found "
            f"{windows}, {stiffness}, {walkers}, {sweeps}"
        )
    n_t, n_sites = len(temperature), model.n_sites
    windows = min(windows, n_sites + 1)
    shape = (n_t, windows, walkers)
    beta = 1.0 / (model.boltzmann * temperature)
    centre = np.linspace(0, 1, windows)
    bias = stiffness * ((np.arange(n_sites + 1) / n_sites - centre[:, None]) * (windows - 1)) ** 2
    t, window, _ = np.indices(shape).reshape(3, -1)
    rng = np.random.default_rng(seed)
    chains = LockstepChains(model, temperature[t], np.zeros(len(t)), seed)
    ranks = np.argsort(rng.random((len(t), n_sites)), axis=1)
    chains.set_spins(np.where(ranks < np.round(centre[window] * n_sites)[:, None], 1, -1))
    visits, sums, exchanged = _produce(chains, shape, bias, equilibration, sweeps, exchange_every, rng)
    line = end_member_line(model)
    groups = walkers * BLOCKS
    start = _join(visits.sum(axis=-1), bias, np.zeros((n_t, windows)))[1]

    def estimate(chosen: np.ndarray) -> dict[str, np.ndarray]:
        log_weight, _ = _join(visits[..., chosen].sum(axis=-1), bias, start)
        return anchored_observables(line, beta, delta_mu, log_weight, sums[..., chosen].sum(axis=-1))

    values, errors = estimate_with_errors(model, beta, estimate, groups, sums[0].sum(axis=-1))
    covered = (visits.sum(axis=(1, 3)) > 0).all(axis=1)
    reliable = covered & ((exchanged >= MIN_EXCHANGE) | (exchange_every == 0))
    if walkers > 1:

        def by_walker(chosen: np.ndarray) -> dict[str, np.ndarray]:
            return estimate(np.repeat(chosen, BLOCKS))

        _, coarse = estimate_with_errors(model, beta, by_walker, walkers, sums[0].sum(axis=-1))
        ratio = np.sqrt(
            np.mean(coarse["composition"] ** 2, axis=(1, 2)) / np.mean(errors["composition"] ** 2, axis=(1, 2))
        )
        reliable &= ratio <= MAX_DISAGREEMENT
    grid = (n_t, len(delta_mu))
    settings = {
        "seed": seed,
        "windows": windows,
        "stiffness": stiffness,
        "walkers": walkers,
        "equilibration": equilibration,
        "sweeps": sweeps,
        "exchange_every": exchange_every,
    }

    def spread(by_temperature: np.ndarray) -> np.ndarray:
        return np.broadcast_to(by_temperature[:, None], grid).copy()

    return ensemble_table(
        "vcsgc",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **{f"{name}_stderr": value for name, value in errors.items()},
            "n_samples": spread(np.full(n_t, float(sweeps * walkers * windows))),
            "energy_evaluations": np.full(grid, chains.energy_evaluations / np.prod(grid)),
            "full_energy_evaluations": spread(np.full(n_t, sweeps * walkers * windows / len(delta_mu))),
            "reliable": spread(reliable.astype(float)),
        },
        {
            "n_sites": n_sites,
            "settings": settings,
            "window_exchange": np.round(exchanged, 4).tolist(),
            **(attributes or {}),
        },
        model.energy_unit,
    )


def _produce(
    chains: LockstepChains,
    shape: tuple[int, int, int],
    bias: np.ndarray,
    equilibration: int,
    sweeps: int,
    exchange_every: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return visits, sums over samples, and the least accepted share of exchanges between windows.

    Shapes: visits (n_t, windows, n_sites + 1, groups), sums (3, n_t, n_sites + 1, groups) of 1, U - line and its
    square, once a sweep; shares (n_t,). A group is a block of one walker, number ``walker * BLOCKS + block``.
    """
    n_t, windows, walkers = shape
    model, n_bins = chains.model, chains.model.n_sites + 1
    t, window, walker = np.indices(shape).reshape(3, -1)
    line, beta = end_member_line(model), 1.0 / (model.boltzmann * chains.temperature)
    kept = np.zeros((chains.n_chains, n_bins, BLOCKS), dtype=np.int64)
    sums = np.zeros((3, n_t, n_bins, walkers, BLOCKS))
    tried, taken = np.zeros((2, n_t, max(windows - 1, 1)))
    moves = [(axis, parity) for parity in (0, 1) for axis in (1, 0) if shape[axis] > 1]
    exchanges = 0
    with bar(equilibration + sweeps, "VCSGC", "sweep") as shown:
        for done in range(1, equilibration + sweeps + 1):
            visits = np.zeros((chains.n_chains, n_bins), dtype=np.int64)
            chains.biased_sweep(1, bias, window, 0.0, visits)
            if done % SWAP_EVERY == 0:
                chains.swap_sweep(1)  # keeps the composition, so it keeps the constrained distribution too
            energy, n_plus = chains.energies(), chains.n_plus()
            if done > equilibration:
                block = (done - equilibration - 1) * BLOCKS // sweeps
                kept[:, :, block] += visits
                excess = energy - line[n_plus]
                for power in range(3):
                    np.add.at(sums[power, ..., block], (t, n_plus, walker), excess**power)
            if exchange_every and done % exchange_every == 0:
                axis, parity = moves[exchanges % len(moves)]
                exchanges += 1
                numbers = np.moveaxis(np.arange(chains.n_chains).reshape(shape), axis, 0)
                a, b = numbers[parity:-1:2].ravel(), numbers[parity + 1 :: 2].ravel()
                if len(a):
                    log_ratio = (beta[a] - beta[b]) * (energy[a] - energy[b]) - (
                        bias[window[a], n_plus[b]] + bias[window[b], n_plus[a]] - bias[window[a], n_plus[a]]
                        - bias[window[b], n_plus[b]]
                    )  # fmt: skip
                    hit = np.log(1.0 - rng.random(len(a))) < log_ratio
                    chains.swap(a[hit], b[hit])
                    if axis == 1 and done > equilibration:
                        np.add.at(tried, (t[a], window[a]), 1)
                        np.add.at(taken, (t[a], window[a]), hit)
            shown.update(1)
    share = (taken / np.maximum(tried, 1)).min(axis=1)
    by_group = kept.reshape(n_t, windows, walkers, n_bins, BLOCKS).transpose(0, 1, 3, 2, 4)
    return by_group.reshape(n_t, windows, n_bins, -1), sums.reshape(3, n_t, n_bins, -1), share


def _join(visits: np.ndarray, bias: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log weights of the compositions, (n_t, n_sites + 1), and free energies of the windows, (n_t, windows).

    Self-consistent WHAM: ``weight(n) = sum_w H_w(n) / sum_w M_w exp(f_w - B_w(n))`` with
    ``exp(-f_w) = sum_n weight(n) exp(-B_w(n))``, from the window free energies `start`.
    """
    with np.errstate(divide="ignore"):
        total, size = np.log(visits.sum(axis=1)), np.log(visits.sum(axis=2))
    free, log_weight = start.copy(), np.empty_like(total)
    _iterate(total, size, bias, free, log_weight, _TOLERANCE, _MAX_ITERATIONS)
    return log_weight, free


@numba.njit(cache=True, fastmath=False)
def _iterate(total, size, bias, free, log_weight, tolerance, max_iterations):  # pragma: no cover - compiled
    windows, n_bins = bias.shape
    for t in range(total.shape[0]):
        for _ in range(max_iterations):
            for n in range(n_bins):
                top = -np.inf
                for w in range(windows):
                    top = max(top, size[t, w] + free[t, w] - bias[w, n])
                summed = 0.0
                for w in range(windows):
                    summed += np.exp(size[t, w] + free[t, w] - bias[w, n] - top)
                log_weight[t, n] = total[t, n] - top - np.log(summed)
            change, first = 0.0, 0.0
            for w in range(windows):
                top = -np.inf
                for n in range(n_bins):
                    top = max(top, log_weight[t, n] - bias[w, n])
                summed = 0.0
                for n in range(n_bins):
                    summed += np.exp(log_weight[t, n] - bias[w, n] - top)
                new = -top - np.log(summed)
                if w == 0:
                    first = new
                change = max(change, abs(new - first - free[t, w]))
                free[t, w] = new - first
            if change < tolerance:
                break
