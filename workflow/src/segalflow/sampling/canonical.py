"""Canonical chains at every composition, joined by the work of exchanging one atom.

Swaps keep the composition of a chain. Neighbouring compositions are joined by Bennett's acceptance ratio of the energy
change on turning one atom into the other species (from n atoms of species 1) and back (from n + 1), the semi-grand
analogue of Widom's insertion, so the chains give the composition-resolved free energy and with it every delta_mu.
Inside a miscibility gap there is nothing to cross: every composition is sampled on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.lockstep import LockstepChains, exchange_grid
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import anchored_observables, end_member_line, estimate_with_errors
from segalflow.sampling.inputs import check_grid
from segalflow.sampling.state_file import Doubling, StateFile
from segalflow.sampling.statistics import autocorrelation_time, bennett_ratio

TRIALS = 4
"""Sites of each species whose exchange is tried at every measurement of a chain."""
MAX_CHAINS = 200_000
"""Chains above which the run is refused: one is needed at every composition, temperature and walker."""
BLOCKS = 10
"""Blocks of each chain's series for the errors."""
MIN_BLOCK_LENGTH = 5.0
"""Autocorrelation times a block must hold."""
MIN_INDEPENDENT = 100
"""Independent samples of the energy at a composition below which a temperature is marked unreliable."""


def sample_canonical(
    model: SpinPolynomial,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    walkers: int = 4,
    equilibration: int = 1000,
    measurements: int = 500,
    measure_every: int = 4,
    exchange_every: int = 4,
    target_error: float | None = None,
    max_measurements: int = 8000,
    work: Path | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``canonical``) of chains with fixed compositions.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,); reached by reweighting.
        seed: seed of all random draws.
        walkers: independent sets of chains.
        equilibration: sweeps of swaps before the first measurement.
        measurements: measurements of each chain, a multiple of `BLOCKS`.
        measure_every: sweeps between measurements.
        exchange_every: measurements between replica exchanges in T (at equal composition); 0 turns them off.
        target_error: the measurements are doubled until the standard error of the composition is at most this at
            every condition, or `max_measurements` are done; None does `measurements`.
        max_measurements: see `target_error`.
        work: folder of the state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.

    Errors are jackknife errors over blocks of all walkers. A temperature is reliable if at every composition the energy
    has `MIN_INDEPENDENT` independent samples and blocks hold `MIN_BLOCK_LENGTH` autocorrelation times.

    Raises:
        SamplingError: for budgets that make no sense, or more than `MAX_CHAINS` chains.
    """
    temperature, delta_mu = check_grid(temperature, delta_mu)
    n_t, n_sites = len(temperature), model.n_sites
    shape = (n_t, n_sites + 1, walkers)
    if walkers < 1 or measurements < 1 or measurements % BLOCKS or measure_every < 1:
        raise SamplingError(
            f"canonical: expected walkers >= 1, measure_every >= 1 and measurements in multiples of {BLOCKS}, found "
            f"{walkers}, {measure_every}, {measurements}"
        )
    if np.prod(shape) > MAX_CHAINS:
        raise SamplingError(
            f"canonical: {np.prod(shape)} chains would be needed ({n_t} temperatures x {n_sites + 1} compositions x "
            f"{walkers} walkers), at most {MAX_CHAINS} are run; use vcsgc or metadynamics for so large a cell"
        )
    beta = 1.0 / (model.boltzmann * temperature)
    row, composition, _ = np.indices(shape).reshape(3, -1)
    rng = np.random.default_rng(seed)
    chains = LockstepChains(model, temperature[row], np.zeros(len(row)), seed)
    ranks = np.argsort(rng.random((len(row), n_sites)), axis=1)
    chains.set_spins(np.where(ranks < composition[:, None], 1, -1))
    settings = {
        "seed": seed,
        "walkers": walkers,
        "equilibration": equilibration,
        "measurements": measurements,
        "measure_every": measure_every,
        "exchange_every": exchange_every,
    }
    inputs = [{k: v for k, v in settings.items() if k != "measurements"}, temperature.tolist()]
    file = StateFile(work, "canonical", model, inputs, __file__, chains, rng)
    run = _Run(chains, shape, rng, file, equilibration, measure_every, exchange_every)
    budget, errors_so_far = Doubling(target_error, measurements, max_measurements), []
    while True:
        done = budget.length(errors_so_far)
        series = run.measure(done)
        values, errors, reliable, times = _estimates(model, beta, delta_mu, *series)
        errors_so_far.append(float(errors["composition"].max()))
        if budget.enough(errors_so_far):
            break
    settings |= {"measurements": done, "target_error": target_error}
    grid = (n_t, len(delta_mu))
    # A state may hold more than was asked for: what was asked for is counted.
    spent = chains.n_chains * 2 * (n_sites // 2) * (equilibration + done * measure_every)

    def spread(by_temperature: np.ndarray) -> np.ndarray:
        return np.broadcast_to(by_temperature[:, None], grid).copy()

    return ensemble_table(
        "canonical",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **{f"{name}_stderr": value for name, value in errors.items()},
            "n_samples": spread(np.full(n_t, float(done * walkers * (n_sites + 1)))),
            "energy_evaluations": np.full(grid, spent / np.prod(grid)),
            "full_energy_evaluations": spread(np.full(n_t, done * walkers * (n_sites + 1) / len(delta_mu))),
            "autocorrelation_time": times * measure_every,
            "reliable": spread(reliable.astype(float)),
        },
        {"n_sites": n_sites, "settings": settings, **(attributes or {})},
        model.energy_unit,
    )


def _estimates(
    model: SpinPolynomial, beta: np.ndarray, delta_mu: np.ndarray, work: np.ndarray, energy: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return variables, errors, which temperatures are reliable, and autocorrelation times, in measurements.

    Series are those that `_Run.measure` returns; a time is the mean of those of U at the compositions of a condition.
    """
    measurements, n_t, _, walkers = energy.shape
    n_sites = model.n_sites
    shape = energy.shape[1:]
    line = end_member_line(model)
    # Every walker's series in blocks: (n_t, n_sites + 1, groups) of sums of powers of the energy.
    parts = (energy - line[:, None]).reshape(BLOCKS, -1, *shape)
    sums = np.stack([np.moveaxis(np.sum(parts**power, axis=1), 0, -1) for power in range(3)])
    sums = sums.reshape(3, n_t, n_sites + 1, -1)
    steps, influence = _composition_steps(n_sites, beta, work)
    groups = walkers * BLOCKS

    def estimate(chosen: np.ndarray) -> dict[str, np.ndarray]:
        # Leaving a group out takes its influence away, to first order.
        left = influence[..., ~chosen].sum(axis=-1) * groups / max(groups - 1, 1)
        log_weight = np.concatenate([np.zeros((n_t, 1)), np.cumsum(steps - left, axis=1)], axis=1)
        return anchored_observables(line, beta, delta_mu, log_weight, sums[..., chosen].sum(axis=-1))

    n_samples = np.full((n_t, n_sites + 1), float(measurements * walkers))
    values, errors = estimate_with_errors(model, beta, estimate, groups, n_samples)
    tau = autocorrelation_time(np.moveaxis(energy, 0, -1)).max(axis=-1)  # (n_t, n_sites + 1)
    independent = (measurements * walkers / (2 * tau)).min(axis=1)
    reliable = (independent >= MIN_INDEPENDENT) & (tau.max(axis=1) * MIN_BLOCK_LENGTH <= measurements / BLOCKS)
    share = np.exp(values["composition_log_weight"])  # (n_t, n_delta_mu, n_sites + 1)
    return values, errors, reliable, (share * tau[:, None]).sum(axis=2)


class _Run:
    """The series of the chains, continued from a state file.

    `work` (measurements, n_chains, 2, TRIALS) is that of exchanging atoms, eV, of the kinds 0: species 0 turned into
    1, and 1: species 1 turned into 0; NaN where there is no atom. `energy` (measurements, n_chains) is U.
    """

    def __init__(
        self,
        chains: LockstepChains,
        shape: tuple[int, int, int],
        rng: np.random.Generator,
        file: StateFile,
        equilibration: int,
        measure_every: int,
        exchange_every: int,
    ) -> None:
        self.chains, self.shape, self.rng, self.file = chains, shape, rng, file
        self.equilibration, self.measure_every, self.exchange_every = equilibration, measure_every, exchange_every
        file.load()
        self.warmed = file.array("warmed", np.zeros(1, dtype=np.int64))
        self.done = file.array("done", np.zeros(1, dtype=np.int64))
        self._room(0)

    def _room(self, measurements: int) -> None:
        """Make the series at least so long."""
        for name, kind, entry in (("work", np.float32, (2, TRIALS)), ("energy", float, ())):
            held = self.file.array(name, np.zeros((0, self.chains.n_chains, *entry), kind))
            if len(held) < measurements:
                longer = np.full((measurements, *held.shape[1:]), np.nan, dtype=kind)
                longer[: len(held)] = held
                self.file.arrays[name] = longer

    def measure(self, measurements: int) -> tuple[np.ndarray, np.ndarray]:
        """Go on to `measurements` and return their work, (*shape, 2, measurements * TRIALS), and U, (n, *shape)."""
        chains, every, equilibration = self.chains, self.measure_every, self.equilibration
        self._room(measurements)
        work, energy = self.file.arrays["work"], self.file.arrays["energy"]
        if self.done[0] < measurements:
            with bar(equilibration + measurements * every, "canonical chains", "sweep") as shown:
                shown.update(int(self.warmed[0] + self.done[0] * every))
                for start in range(int(self.warmed[0]), equilibration, every):
                    step = min(every, equilibration - start)
                    chains.swap_sweep(step)
                    _exchange(chains, self.shape, start // every, self.exchange_every, self.rng)
                    self.warmed[0] = start + step
                    shown.update(step)
                    self.file.tick()
                for number in range(int(self.done[0]), measurements):
                    accepted = chains.swap_sweep(every)
                    _exchange(chains, self.shape, number, self.exchange_every, self.rng)
                    energy[number], work[number] = chains.energies(), _exchange_work(chains, self.rng)
                    self.done[0] = number + 1
                    shown.set_postfix(acceptance=f"{accepted.mean():.2f}", refresh=False)
                    shown.update(every)
                    self.file.tick()
            self.file.save()
        work = work[:measurements].transpose(1, 2, 0, 3).reshape(*self.shape, 2, measurements * TRIALS)
        return work, energy[:measurements].reshape(measurements, *self.shape)


def _exchange_work(chains: LockstepChains, rng: np.random.Generator) -> np.ndarray:
    """Return the work of exchanging random atoms of both kinds, eV, (n_chains, 2, TRIALS)."""
    work = np.full((chains.n_chains, 2, TRIALS), np.nan, dtype=np.float32)
    change = -2.0 * chains.spins * chains.local_fields()
    for kind in (0, 1):
        # Random sites of the kind: the largest of random keys among them.
        keys = np.where((chains.negative == 1) == (kind == 0), rng.random(change.shape, dtype=np.float32), -1)
        chosen = np.argpartition(-keys, min(TRIALS, keys.shape[1]) - 1, axis=1)[:, :TRIALS]
        picked = np.take_along_axis(change, chosen, axis=1)
        valid = np.take_along_axis(keys, chosen, axis=1) >= 0
        # With fewer atoms than trials the last ones are repeated.
        first = picked[np.arange(len(picked)), valid.argmax(axis=1)]
        work[:, kind] = np.where(valid.any(axis=1)[:, None], np.where(valid, picked, first[:, None]), np.nan)
    return work


def _exchange(
    chains: LockstepChains, shape: tuple[int, int, int], number: int, every: int, rng: np.random.Generator
) -> None:
    if every and shape[0] > 1 and number % every == 0:
        exchange_grid(chains, shape, 0, (number // every) % 2, rng)


def _composition_steps(n_sites: int, beta: np.ndarray, work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log of the ratio of weights of n + 1 and n, (n_temperatures, n_sites), and the influence of every block.

    The influence, (n_temperatures, n_sites, walkers * BLOCKS), is what a block's samples change the ratio by.
    """
    n_t, _, walkers, _, n = work.shape
    joined = np.moveaxis(work, 3, 2).reshape(n_t, n_sites + 1, 2, walkers * n).astype(float)
    below = np.arange(n_sites)
    ratio, influence = bennett_ratio(-beta[:, None, None] * joined[:, :-1, 0], beta[:, None, None] * joined[:, 1:, 1])
    by_block = influence.reshape(2, n_t, n_sites, walkers * BLOCKS, -1).sum(axis=(0, -1))
    return ratio + np.log((n_sites - below) / (below + 1)), by_block
