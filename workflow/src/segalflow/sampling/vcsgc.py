"""Variance-constrained semi-grand-canonical chains: the inside of a miscibility gap without a barrier.

Every chain feels ``U/kT + kappa N (x - x_w)^2`` (Sadigh & Erhart, Phys. Rev. B 86, 134204 (2012), with x_w = -phi/2):
windows of composition that overlap, each of them stable where the semi-grand ensemble would fall into one phase or the
other. Windows exchange decorations with their neighbours and with other temperatures; the histograms of all windows
are joined by the weighted histogram analysis method (Kumar et al. 1992), exact here as compositions are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.compilation import numba
from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import (
    anchored_observables,
    condition_times,
    end_member_line,
    estimate_with_errors,
)
from segalflow.sampling.inputs import check_grid
from segalflow.sampling.state_file import Doubling, StateFile
from segalflow.sampling.statistics import student_factor

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
    target_error: float | None = None,
    max_sweeps: int = 96000,
    work: Path | None = None,
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
        target_error: the measured sweeps are doubled until the standard error of the composition is at most this at
            every condition, or `max_sweeps` are done; None does `sweeps`.
        max_sweeps: see `target_error`.
        work: folder of the state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.

    Errors are jackknife errors over blocks of all walkers. A temperature is reliable if every composition was visited,
    neighbouring windows exchange, and whole walkers differ no more than their blocks let expect.

    Raises:
        SamplingError: for budgets that make no sense.
    """
    temperature, delta_mu = check_grid(temperature, delta_mu)
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
    budget = Doubling(target_error, sweeps, max_sweeps)
    settings = {
        "seed": seed,
        "windows": windows,
        "stiffness": stiffness,
        "walkers": walkers,
        "equilibration": equilibration,
        "sweeps": sweeps,
        "exchange_every": exchange_every,
    }
    inputs = [settings, temperature.tolist(), delta_mu.tolist()]
    run = _Run(chains, shape, bias, rng, StateFile(work, "vcsgc", model, inputs, __file__, chains, rng), budget)
    while True:
        done = budget.length(run.errors)
        run.produce(equilibration, done, exchange_every)
        values, errors, reliable, exchanged = _estimates(model, beta, delta_mu, run, shape)
        run.errors.append(float(errors["composition"].max()))
        if budget.enough(run.errors):
            break
        run.double()
    settings |= {"sweeps": done, "target_error": target_error}
    if exchange_every:
        reliable &= exchanged >= MIN_EXCHANGE
    grid = (n_t, len(delta_mu))

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
            "n_samples": spread(np.full(n_t, float(done * walkers * windows))),
            "energy_evaluations": np.full(grid, chains.energy_evaluations / np.prod(grid)),
            "full_energy_evaluations": spread(np.full(n_t, done * walkers * windows / len(delta_mu))),
            "autocorrelation_time": condition_times(values, errors, beta, done * walkers * windows),
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


def _estimates(
    model: SpinPolynomial, beta: np.ndarray, delta_mu: np.ndarray, run: _Run, shape: tuple[int, int, int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return variables, errors, which temperatures are reliable, and the least share of window exchanges of each."""
    n_t, windows, walkers = shape
    visits, sums, exchanged = run.results()
    line, bias = end_member_line(model), run.bias
    groups = walkers * BLOCKS
    start = _join(visits.sum(axis=-1), bias, np.zeros((n_t, windows)))[1]

    def estimate(chosen: np.ndarray) -> dict[str, np.ndarray]:
        log_weight, _ = _join(visits[..., chosen].sum(axis=-1), bias, start)
        return anchored_observables(line, beta, delta_mu, log_weight, sums[..., chosen].sum(axis=-1))

    values, errors = estimate_with_errors(model, beta, estimate, groups, sums[0].sum(axis=-1))
    reliable = (visits.sum(axis=(1, 3)) > 0).all(axis=1)
    if walkers > 1:

        def by_walker(chosen: np.ndarray) -> dict[str, np.ndarray]:
            return estimate(np.repeat(chosen, BLOCKS))

        _, coarse = estimate_with_errors(model, beta, by_walker, walkers, sums[0].sum(axis=-1))
        ratio = np.sqrt(
            np.mean(coarse["composition"] ** 2, axis=(1, 2)) / np.mean(errors["composition"] ** 2, axis=(1, 2))
        ) * (student_factor(groups) / student_factor(walkers))
        reliable &= ratio <= MAX_DISAGREEMENT
    return values, errors, reliable, exchanged


class _Run:
    """The measured sweeps, continued from a state file.

    `visits` (chains, n_sites + 1, blocks) count steps; `sums` (3, n_t, n_sites + 1, walkers, blocks) are those of 1,
    U - line and its square over samples, once a sweep; `tried` and `taken` (n_t, windows - 1) count window exchanges.
    """

    def __init__(
        self,
        chains: LockstepChains,
        shape: tuple[int, int, int],
        bias: np.ndarray,
        rng: np.random.Generator,
        file: StateFile,
        budget: Doubling,
    ) -> None:
        self.chains, self.shape, self.bias, self.rng, self.file = chains, shape, bias, rng, file
        n_t, windows, walkers = shape
        n_bins = chains.model.n_sites + 1
        self.errors = file.resume(budget)
        self.visits = file.array("visits", np.zeros((chains.n_chains, n_bins, BLOCKS), dtype=np.int64))
        self.sums = file.array("sums", np.zeros((3, n_t, n_bins, walkers, BLOCKS)))
        self.tried = file.array("tried", np.zeros((n_t, max(windows - 1, 1))))
        self.taken = file.array("taken", np.zeros((n_t, max(windows - 1, 1))))
        self.done = file.array("done", np.zeros(1, dtype=np.int64))

    def double(self) -> None:
        """Make room for as many sweeps again: the blocks so far become half as many, twice as long."""
        for array in (self.visits, self.sums):
            pairs = array.reshape(*array.shape[:-1], BLOCKS // 2, 2).sum(axis=-1)
            array[..., : BLOCKS // 2], array[..., BLOCKS // 2 :] = pairs, 0
        self.file.begin_next(self.errors)

    def results(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return visits, sums over samples, and the least accepted share of exchanges between windows.

        Shapes: visits (n_t, windows, n_sites + 1, groups), sums (3, n_t, n_sites + 1, groups); shares (n_t,). A group
        is a block of one walker, number ``walker * BLOCKS + block``.
        """
        n_t, windows, walkers = self.shape
        share = (self.taken / np.maximum(self.tried, 1)).min(axis=1)
        by_group = self.visits.reshape(n_t, windows, walkers, -1, BLOCKS).transpose(0, 1, 3, 2, 4)
        n_bins = by_group.shape[2]
        return by_group.reshape(n_t, windows, n_bins, -1), self.sums.reshape(3, n_t, n_bins, -1), share

    def produce(self, equilibration: int, sweeps: int, exchange_every: int) -> None:
        """Go on until `sweeps` were measured in `BLOCKS` blocks."""
        chains, total = self.chains, equilibration + sweeps
        n_bins = chains.model.n_sites + 1
        t, window, walker = np.indices(self.shape).reshape(3, -1)
        line = end_member_line(chains.model)
        moves = [(axis, parity) for parity in (0, 1) for axis in (1, 0) if self.shape[axis] > 1]
        with bar(total, "VCSGC", "sweep") as shown:
            shown.update(int(self.done[0]))
            for done in range(int(self.done[0]) + 1, total + 1):
                visits = np.zeros((chains.n_chains, n_bins), dtype=np.int64)
                accepted = chains.biased_sweep(1, self.bias, window, 0.0, visits)
                if done % SWAP_EVERY == 0:
                    chains.swap_sweep(1)  # keeps the composition, so it keeps the constrained distribution too
                energy, n_plus = chains.energies(), chains.n_plus()
                if done > equilibration:
                    block = (done - equilibration - 1) * BLOCKS // sweeps
                    self.visits[:, :, block] += visits
                    excess = energy - line[n_plus]
                    for power in range(3):
                        np.add.at(self.sums[power, ..., block], (t, n_plus, walker), excess**power)
                if exchange_every and done % exchange_every == 0 and moves:
                    axis, parity = moves[(done // exchange_every - 1) % len(moves)]
                    self._exchange(axis, parity, energy, n_plus, done > equilibration)
                self.done[0] = done
                shown.set_postfix(acceptance=f"{accepted.mean():.2f}", refresh=False)
                shown.update(1)
                self.file.tick()
        self.file.save()

    def _exchange(self, axis: int, parity: int, energy: np.ndarray, n_plus: np.ndarray, counted: bool) -> None:
        """Exchange decorations of neighbouring windows (axis 1) or temperatures (axis 0)."""
        chains, bias = self.chains, self.bias
        t, window, _ = np.indices(self.shape).reshape(3, -1)
        beta = 1.0 / (chains.model.boltzmann * chains.temperature)
        numbers = np.moveaxis(np.arange(chains.n_chains).reshape(self.shape), axis, 0)
        a, b = numbers[parity:-1:2].ravel(), numbers[parity + 1 :: 2].ravel()
        if not len(a):
            return
        log_ratio = (beta[a] - beta[b]) * (energy[a] - energy[b]) - (
            bias[window[a], n_plus[b]] + bias[window[b], n_plus[a]] - bias[window[a], n_plus[a]]
            - bias[window[b], n_plus[b]]
        )  # fmt: skip
        hit = np.log(1.0 - self.rng.random(len(a))) < log_ratio
        chains.swap(a[hit], b[hit])
        if axis == 1 and counted:
            np.add.at(self.tried, (t[a], window[a]), 1)
            np.add.at(self.taken, (t[a], window[a]), hit)


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
