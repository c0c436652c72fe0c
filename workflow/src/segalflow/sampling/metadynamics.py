"""Metadynamics in composition: a flat histogram over the number of species-1 atoms at every temperature.

The bias is built as in the paper (flatness 0.8, the deposit halved stage by stage; PHYSICS.md), shared by the walkers
of a temperature; then it is fixed, and independent walkers of a production stage give composition-resolved free
energies by exact reweighting. log Z is absolute because both end members are single states of known energy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table, with_walkers
from segalflow.errors import SamplingError, suggest
from segalflow.progress import bar
from segalflow.sampling.composition import (
    anchored_observables,
    condition_times,
    end_member_line,
    estimate_with_errors,
)
from segalflow.sampling.inputs import check_grid
from segalflow.sampling.state_file import Doubling, StateFile

MIN_ROUND_TRIPS = 20
"""Trips from one end member to the other and back, all walkers of a temperature, below which it is unreliable."""
MIN_PRODUCTION_FLATNESS = 0.5
"""Least visited composition over the mean, in production, below which a temperature is unreliable."""


def sample_metadynamics(
    model: SpinPolynomial,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    walkers: int = 24,
    first_deposit: float = 1.0,
    last_deposit: float = 1e-5,
    flatness: float = 0.8,
    check_every: int = 50,
    stage_sweeps: int = 4000,
    production_sweeps: int = 12000,
    exchange_every: int = 10,
    schedule: str = "halving",
    bias_factor: float = 50.0,
    target_error: float | None = None,
    max_sweeps: int = 192000,
    work: Path | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``metadynamics``), composition-resolved and at every delta_mu.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: eV (or J), increasing, shape (n_delta_mu,); reached by reweighting.
        seed: seed of all random draws.
        walkers: walkers per temperature; errors are jackknife errors over them, so at least 4.
        first_deposit: what a step adds to the bias (units of kT) in the first stage.
        last_deposit: the deposit is halved after every stage until it falls below this.
        flatness: a stage ends when the least visited composition has this share of the mean number of visits.
        check_every: sweeps between tests of flatness.
        stage_sweeps: a stage that is not flat by then ends all the same and is reported (`unfinished_stages`).
        production_sweeps: sweeps with the bias fixed; a tenth more goes before them as equilibration.
        exchange_every: sweeps between exchanges of neighbouring temperatures in production; 0 turns them off.
            Walker k of one temperature meets only walkers k of the others, so walkers stay independent.
        schedule: how deposits shrink (`SCHEDULES`): ``halving`` as above; ``one_over_t`` the same until the deposit
            falls below 1/t (t: steps per composition), and then 1/t (Belardinelli & Pereyra 2007), without a test of
            flatness; ``well_tempered``: first_deposit throughout, times exp(-bias / (bias_factor - 1)) (Barducci et
            al. 2008), for as many sweeps as one stage of each halving.
        bias_factor: of ``well_tempered``.
        target_error: production sweeps are doubled until the standard error of the composition is at most this at
            every condition, or `max_sweeps` are done; None does `production_sweeps`.
        max_sweeps: see `target_error`.
        work: folder of the state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.

    A temperature is reliable if production visited every composition at least `MIN_PRODUCTION_FLATNESS` times the
    mean and made `MIN_ROUND_TRIPS` round trips.

    Raises:
        SamplingError: for budgets that make no sense.
    """
    temperature, delta_mu = check_grid(temperature, delta_mu)
    if walkers < 4:
        raise SamplingError(f"walkers: expected at least 4 for an error estimate, found {walkers}")
    if not 0 < flatness < 1 or not 0 < last_deposit <= first_deposit:
        raise SamplingError("metadynamics: expected 0 < flatness < 1 and 0 < last_deposit <= first_deposit")
    if schedule not in SCHEDULES:
        raise SamplingError(
            f"metadynamics.schedule: unknown schedule '{schedule}', expected one of {', '.join(SCHEDULES)}"
            f"{suggest(schedule, SCHEDULES)}"
        )
    if schedule == "well_tempered" and not bias_factor > 1:
        raise SamplingError(f"metadynamics.bias_factor: expected more than 1, found {bias_factor}")
    n_t, n_sites = len(temperature), model.n_sites
    beta = 1.0 / (model.boltzmann * temperature)
    row = np.repeat(np.arange(n_t), walkers)  # chain = temperature * walkers + walker
    chains = LockstepChains(model, temperature[row], np.zeros(len(row)), seed)
    rng = np.random.default_rng(seed)
    plus = np.tile(np.linspace(0, n_sites, walkers).round().astype(int), n_t)
    ranks = np.argsort(rng.random((len(row), n_sites)), axis=1)
    chains.set_spins(np.where(ranks < plus[:, None], 1, -1))

    settings = {
        "seed": seed,
        "walkers": walkers,
        "first_deposit": first_deposit,
        "last_deposit": last_deposit,
        "flatness": flatness,
        "check_every": check_every,
        "stage_sweeps": stage_sweeps,
        "production_sweeps": production_sweeps,
        "exchange_every": exchange_every,
        "schedule": schedule,
        "bias_factor": bias_factor,
    }
    inputs = [settings, temperature.tolist(), delta_mu.tolist()]
    file = StateFile(work, "metadynamics", model, inputs, __file__, chains, rng)
    budget = Doubling(target_error, production_sweeps, max_sweeps)
    past = file.resume(budget)
    how = Building(row, n_t, first_deposit, last_deposit, flatness, check_every, stage_sweeps, bias_factor)
    bias, unfinished, build_sweeps = SCHEDULES[schedule](file, how)
    warm_up = -(-production_sweeps // 10)
    while True:
        sweeps = budget.length(past)
        visits, sums, trips = _produce(file, row, n_t, walkers, bias, warm_up, sweeps, exchange_every)
        values, errors = _estimates(model, beta, delta_mu, bias, visits, sums)
        past.append(float(errors["composition"].max()))
        if budget.enough(past):
            break
        file.begin_next(past)
    settings |= {"production_sweeps": sweeps, "target_error": target_error}
    total = visits.sum(axis=1)
    evenness = total.min(axis=1) / total.mean(axis=1)
    # Reweighting with the fixed bias is exact, so production decides: a stage that ended without being flat only
    # leaves a worse bias, which shows here; it is reported in the attributes.
    reliable = (evenness >= MIN_PRODUCTION_FLATNESS) & (trips >= MIN_ROUND_TRIPS)
    grid = (n_t, len(delta_mu))

    def spread(by_temperature: np.ndarray | float) -> np.ndarray:
        return np.broadcast_to(np.atleast_1d(np.asarray(by_temperature, float))[:, None], grid).copy()

    spent = chains.energy_evaluations / (n_t * len(delta_mu))
    table = ensemble_table(
        "metadynamics",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **{f"{name}_stderr": value for name, value in errors.items()},
            "n_samples": spread(np.full(n_t, float(sweeps * walkers))),
            "energy_evaluations": spread(np.full(n_t, spent)),
            "full_energy_evaluations": spread(np.full(n_t, sweeps * walkers / len(delta_mu))),
            "autocorrelation_time": condition_times(values, errors, beta, sweeps * walkers),
            "reliable": spread(reliable),
        },
        {
            "n_sites": n_sites,
            "settings": settings,
            "stages": len(unfinished),
            "unfinished_stages": unfinished.sum(axis=0).tolist(),
            "build_sweeps": build_sweeps,
            "round_trips": trips.tolist(),
            "production_flatness": np.round(evenness, 4).tolist(),
            **(attributes or {}),
        },
        model.energy_unit,
    )
    with np.errstate(divide="ignore"):
        left_out = np.log(total[:, None] - visits) + bias[:, None]
    return with_walkers(table, np.where(np.isfinite(left_out), left_out, np.nan))


@dataclass(frozen=True)
class Building:
    """What the schedules are told; as the arguments of `sample_metadynamics`, and the row of the bias of each chain."""

    row: np.ndarray
    n_t: int
    first_deposit: float
    last_deposit: float
    flatness: float
    check_every: int
    stage_sweeps: int
    bias_factor: float

    def halvings(self) -> int:
        """Stages until the deposit is below the last one."""
        return int(np.floor(np.log2(self.first_deposit / self.last_deposit))) + 1

    def flat(self, visits: np.ndarray) -> np.ndarray:
        """Which temperatures have visited all compositions alike."""
        by_temperature = visits.reshape(self.n_t, -1, visits.shape[1]).sum(axis=1)
        return by_temperature.min(axis=1) >= self.flatness * by_temperature.mean(axis=1)


def _histograms(file: StateFile, how: Building) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the state's bias (n_t, n_sites + 1), visits since the last stage (n_chains, n_sites + 1), and counters.

    Counters, float64 (4,): sweeps spent, sweeps in this stage, and two of the schedule's own.
    """
    n_bins = file.chains.model.n_sites + 1
    return (
        file.array("bias", np.zeros((how.n_t, n_bins))),
        file.array("bias_visits", np.zeros((file.chains.n_chains, n_bins), dtype=np.int64)),
        file.array("bias_counters", np.zeros(4)),
    )


def _halving(file: StateFile, how: Building) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the bias (n_t, n_sites + 1), which stages did not get flat (n_stages, n_t), and the sweeps spent."""
    bias, visits, counters = _histograms(file, how)  # counter 2: stage
    n_stages = how.halvings()
    unfinished = file.array("unfinished", np.zeros((n_stages, how.n_t), dtype=bool))
    with bar(n_stages, "metadynamics bias", "stage") as shown:
        shown.update(int(counters[2]))
        while (stage := int(counters[2])) < n_stages:
            deposit = how.first_deposit * 0.5**stage
            accepted = file.chains.biased_sweep(how.check_every, bias, how.row, deposit, visits)
            counters[:2] += how.check_every
            flat = how.flat(visits)
            if flat.all() or counters[1] + how.check_every > max(how.stage_sweeps, how.check_every):
                bias -= bias.min(axis=1, keepdims=True)
                unfinished[stage] = ~flat
                visits[:], counters[1], counters[2] = 0, 0, stage + 1
                shown.set_postfix(
                    flat=f"{flat.sum()}/{how.n_t}", deposit=f"{deposit:.0e}", acceptance=f"{accepted.mean():.2f}",
                    refresh=False,
                )  # fmt: skip
                shown.update(1)
            file.tick()
    return bias, unfinished, int(counters[0])


def _one_over_t(file: StateFile, how: Building) -> tuple[np.ndarray, np.ndarray, int]:
    """The same result; temperatures share the schedule, which is that of the slowest of them."""
    bias, visits, counters = _histograms(file, how)  # counter 2: halvings, 3: whether the deposit is 1/t
    chains, n_bins = file.chains, bias.shape[1]
    steps_per_sweep = chains.model.n_sites * chains.n_chains / how.n_t
    total = int(np.ceil(n_bins / (how.last_deposit * steps_per_sweep)))

    def deposit() -> float:
        if counters[3]:
            return n_bins / (counters[0] * steps_per_sweep)
        return how.first_deposit * 0.5 ** counters[2]

    with bar(total, "metadynamics bias", "sweep") as shown:
        shown.update(int(counters[0]))
        while deposit() > how.last_deposit:
            part = min(how.check_every, total)
            accepted = chains.biased_sweep(part, bias, how.row, deposit(), visits)
            bias -= bias.min(axis=1, keepdims=True)
            counters[:2] += part
            if not counters[3]:
                if how.flat(visits).all() or counters[1] >= how.stage_sweeps:
                    counters[2] += 1
                    visits[:], counters[1] = 0, 0
                counters[3] = deposit() <= n_bins / (counters[0] * steps_per_sweep)
            shown.set_postfix(deposit=f"{deposit():.0e}", acceptance=f"{accepted.mean():.2f}", refresh=False)
            shown.update(part)
            file.tick()
    return bias, np.zeros((1, how.n_t), dtype=bool), int(counters[0])


def _well_tempered(file: StateFile, how: Building) -> tuple[np.ndarray, np.ndarray, int]:
    """The same result; deposits shrink by themselves where the bias has grown."""
    bias, visits, counters = _histograms(file, how)
    total = how.stage_sweeps * how.halvings()
    with bar(total, "metadynamics bias", "sweep") as shown:
        shown.update(int(counters[0]))
        while counters[0] < total:
            part = int(min(how.check_every, total - counters[0]))
            accepted = file.chains.biased_sweep(
                part, bias, how.row, how.first_deposit, visits, 1.0 / (how.bias_factor - 1.0)
            )
            counters[0] += part
            shown.set_postfix(acceptance=f"{accepted.mean():.2f}", refresh=False)
            shown.update(part)
            file.tick()
    # It converges to the free energy times 1 - 1/bias_factor; production reweights with whatever bias it has.
    found = bias * (how.bias_factor / (how.bias_factor - 1.0))
    return found - found.min(axis=1, keepdims=True), np.zeros((1, how.n_t), dtype=bool), total


SCHEDULES: dict[str, Callable[[StateFile, Building], tuple[np.ndarray, np.ndarray, int]]] = {
    "halving": _halving,
    "one_over_t": _one_over_t,
    "well_tempered": _well_tempered,
}
"""Ways to build the bias: bias (n_t, n_sites + 1), stages that did not get flat (n_stages, n_t), sweeps spent."""


def _produce(
    file: StateFile,
    row: np.ndarray,
    n_t: int,
    walkers: int,
    bias: np.ndarray,
    warm_up: int,
    sweeps: int,
    exchange_every: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed-bias stage: go on to `warm_up` sweeps and `sweeps` measured ones.

    Returns:
        visits (n_t, walkers, n_bins) of every step; sums (3, n_t, walkers, n_bins) of 1, U - U_0, (U - U_0)^2 once a
        sweep, U_0 the straight line between the end members; round trips (n_t,).
    """
    chains, model, rng = file.chains, file.chains.model, file.rng
    n_bins = model.n_sites + 1
    visits = file.array("visits", np.zeros((chains.n_chains, n_bins), dtype=np.int64))
    sums = file.array("sums", np.zeros((3, chains.n_chains, n_bins)))
    side = file.array("side", np.zeros(chains.n_chains, dtype=int))
    half_trips = file.array("half_trips", np.zeros(chains.n_chains, dtype=int))
    at = file.array("production", np.zeros(1, dtype=np.int64))
    line = end_member_line(model)
    beta = 1.0 / (model.boltzmann * chains.temperature)
    everyone = np.arange(chains.n_chains)
    numbers = everyone.reshape(n_t, walkers)
    with bar(sweeps + warm_up, "metadynamics production", "sweep") as shown:
        shown.update(int(at[0]))
        for done in range(int(at[0]) + 1, sweeps + warm_up + 1):
            accepted = chains.biased_sweep(1, bias, row, 0.0, visits)
            energy, n_plus = chains.energies(), chains.n_plus()
            if done == warm_up:
                visits[:] = 0
            if done > warm_up:
                excess = energy - line[n_plus]
                for power in range(3):
                    sums[power][everyone, n_plus] += excess**power
                reached = np.where(n_plus == 0, -1, np.where(n_plus == n_bins - 1, 1, 0))
                half_trips += (reached != 0) & (side != 0) & (reached != side)
                side[:] = np.where(reached != 0, reached, side)
            if exchange_every and done % exchange_every == 0 and n_t > 1:
                parity = (done // exchange_every) % 2
                a, b = numbers[parity:-1:2].ravel(), numbers[parity + 1 :: 2].ravel()
                if len(a):
                    log_ratio = (beta[a] - beta[b]) * (energy[a] - energy[b]) - (
                        bias[row[a], n_plus[b]] + bias[row[b], n_plus[a]] - bias[row[a], n_plus[a]]
                        - bias[row[b], n_plus[b]]
                    )  # fmt: skip
                    taken = np.log(1.0 - rng.random(len(a))) < log_ratio
                    chains.swap(a[taken], b[taken])
            at[0] = done
            shown.set_postfix(acceptance=f"{accepted.mean():.2f}", refresh=False)
            shown.update(1)
            file.tick()
    file.save()
    shape = (n_t, walkers, n_bins)
    trips = half_trips.reshape(n_t, walkers).sum(axis=1) // 2
    return visits.reshape(shape), sums.reshape(3, *shape), trips


def _estimates(
    model: SpinPolynomial,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    bias: np.ndarray,
    visits: np.ndarray,
    sums: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ensemble variables and their jackknife errors over walkers."""
    line = end_member_line(model)

    def estimate(chosen: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(divide="ignore"):
            log_weight = np.log(visits[:, chosen].sum(axis=1)) + bias
        return anchored_observables(line, beta, delta_mu, log_weight, sums[:, :, chosen].sum(axis=2))

    return estimate_with_errors(model, beta, estimate, visits.shape[1], sums[0].sum(axis=1))
