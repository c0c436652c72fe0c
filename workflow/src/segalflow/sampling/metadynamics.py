"""Metadynamics in composition: a flat histogram over the number of species-1 atoms at every temperature.

The bias is built as in the paper (flatness 0.8, the deposit halved stage by stage; PHYSICS.md), shared by the walkers
of a temperature; then it is fixed, and independent walkers of a production stage give composition-resolved free
energies by exact reweighting. log Z is absolute because both end members are single states of known energy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError, suggest
from segalflow.progress import bar
from segalflow.sampling.composition import anchored_observables, end_member_line, estimate_with_errors

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
        attributes: extra attributes of the table.

    A temperature is reliable if production visited every composition at least `MIN_PRODUCTION_FLATNESS` times the
    mean and made `MIN_ROUND_TRIPS` round trips.

    Raises:
        SamplingError: for budgets that make no sense.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    if np.any(temperature <= 0) or np.any(np.diff(temperature) <= 0) or not len(temperature):
        raise SamplingError(f"temperatures must be positive and increasing, found {temperature.tolist()}")
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

    bias, unfinished, build_sweeps = SCHEDULES[schedule](
        chains, row, n_t, first_deposit, last_deposit, flatness, check_every, stage_sweeps, bias_factor
    )
    visits, sums, trips = _produce(chains, row, n_t, walkers, bias, production_sweeps, exchange_every, rng)
    values, errors = _estimates(model, beta, delta_mu, bias, visits, sums)
    total = visits.sum(axis=1)
    evenness = total.min(axis=1) / total.mean(axis=1)
    # Reweighting with the fixed bias is exact, so production decides: a stage that ended without being flat only
    # leaves a worse bias, which shows here; it is reported in the attributes.
    reliable = (evenness >= MIN_PRODUCTION_FLATNESS) & (trips >= MIN_ROUND_TRIPS)
    grid = (n_t, len(delta_mu))

    def spread(by_temperature: np.ndarray | float) -> np.ndarray:
        return np.broadcast_to(np.atleast_1d(np.asarray(by_temperature, float))[:, None], grid).copy()

    spent = chains.energy_evaluations / (n_t * len(delta_mu))
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
    return ensemble_table(
        "metadynamics",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **{f"{name}_stderr": value for name, value in errors.items()},
            "n_samples": spread(np.full(n_t, float(production_sweeps * walkers))),
            "energy_evaluations": spread(np.full(n_t, spent)),
            "full_energy_evaluations": spread(np.full(n_t, production_sweeps * walkers / len(delta_mu))),
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


def _halving(
    chains: LockstepChains,
    row: np.ndarray,
    n_t: int,
    first_deposit: float,
    last_deposit: float,
    flatness: float,
    check_every: int,
    stage_sweeps: int,
    _: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the bias (n_t, n_sites + 1), which stages did not get flat (n_stages, n_t), and the sweeps spent."""
    n_bins = chains.model.n_sites + 1
    bias = np.zeros((n_t, n_bins))
    n_stages = int(np.floor(np.log2(first_deposit / last_deposit))) + 1
    unfinished = np.zeros((n_stages, n_t), dtype=bool)
    spent = 0
    with bar(n_stages, "metadynamics bias", "stage") as shown:
        for stage in range(n_stages):
            visits = np.zeros((chains.n_chains, n_bins), dtype=np.int64)
            flat = np.zeros(n_t, dtype=bool)
            for _ in range(max(stage_sweeps // check_every, 1)):
                chains.biased_sweep(check_every, bias, row, first_deposit * 0.5**stage, visits)
                spent += check_every
                by_temperature = visits.reshape(n_t, -1, n_bins).sum(axis=1)
                flat = by_temperature.min(axis=1) >= flatness * by_temperature.mean(axis=1)
                if flat.all():
                    break
            bias -= bias.min(axis=1, keepdims=True)
            unfinished[stage] = ~flat
            shown.set_postfix(flat=f"{flat.sum()}/{n_t}", deposit=f"{first_deposit * 0.5**stage:.0e}", refresh=False)
            shown.update(1)
    return bias, unfinished, spent


def _one_over_t(
    chains: LockstepChains,
    row: np.ndarray,
    n_t: int,
    first_deposit: float,
    last_deposit: float,
    flatness: float,
    check_every: int,
    stage_sweeps: int,
    _: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The same result; temperatures share the schedule, which is that of the slowest of them."""
    n_bins = chains.model.n_sites + 1
    steps_per_sweep = chains.model.n_sites * chains.n_chains / n_t
    bias = np.zeros((n_t, n_bins))
    visits = np.zeros((chains.n_chains, n_bins), dtype=np.int64)
    deposit, spent, in_stage, falling = first_deposit, 0, 0, False
    total = int(np.ceil(n_bins / (last_deposit * steps_per_sweep)))
    with bar(total, "metadynamics bias", "sweep") as shown:
        while deposit > last_deposit:
            part = min(check_every, total)
            chains.biased_sweep(part, bias, row, deposit, visits)
            bias -= bias.min(axis=1, keepdims=True)
            spent += part
            in_stage += part
            by_temperature = visits.reshape(n_t, -1, n_bins).sum(axis=1)
            one_over_t = n_bins / (spent * steps_per_sweep)
            flat = by_temperature.min(axis=1) >= flatness * by_temperature.mean(axis=1)
            if not falling and (flat.all() or in_stage >= stage_sweeps):
                deposit, in_stage = deposit / 2, 0
                visits[:] = 0
            falling = falling or deposit <= one_over_t
            if falling:
                deposit = one_over_t
            shown.set_postfix(deposit=f"{deposit:.0e}", refresh=False)
            shown.update(part)
    return bias, np.zeros((1, n_t), dtype=bool), spent


def _well_tempered(
    chains: LockstepChains,
    row: np.ndarray,
    n_t: int,
    first_deposit: float,
    last_deposit: float,
    flatness: float,
    check_every: int,
    stage_sweeps: int,
    bias_factor: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The same result; deposits shrink by themselves where the bias has grown."""
    n_bins = chains.model.n_sites + 1
    bias = np.zeros((n_t, n_bins))
    visits = np.zeros((chains.n_chains, n_bins), dtype=np.int64)
    total = stage_sweeps * (int(np.floor(np.log2(first_deposit / last_deposit))) + 1)
    with bar(total, "metadynamics bias", "sweep") as shown:
        for done in range(0, total, check_every):
            part = min(check_every, total - done)
            chains.biased_sweep(part, bias, row, first_deposit, visits, 1.0 / (bias_factor - 1.0))
            shown.update(part)
    # It converges to the free energy times 1 - 1/bias_factor; production reweights with whatever bias it has.
    bias *= bias_factor / (bias_factor - 1.0)
    return bias - bias.min(axis=1, keepdims=True), np.zeros((1, n_t), dtype=bool), total


SCHEDULES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray, int]]] = {
    "halving": _halving,
    "one_over_t": _one_over_t,
    "well_tempered": _well_tempered,
}
"""Ways to build the bias: bias (n_t, n_sites + 1), stages that did not get flat (n_stages, n_t), sweeps spent."""


def _produce(
    chains: LockstepChains,
    row: np.ndarray,
    n_t: int,
    walkers: int,
    bias: np.ndarray,
    sweeps: int,
    exchange_every: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed-bias stage.

    Returns:
        visits (n_t, walkers, n_bins) of every step; sums (3, n_t, walkers, n_bins) of 1, U - U_0, (U - U_0)^2 once a
        sweep, U_0 the straight line between the end members; round trips (n_t,).
    """
    model, n_bins = chains.model, chains.model.n_sites + 1
    visits = np.zeros((chains.n_chains, n_bins), dtype=np.int64)
    sums = np.zeros((3, chains.n_chains, n_bins))
    line = end_member_line(model)
    beta = 1.0 / (model.boltzmann * chains.temperature)
    side = np.zeros(chains.n_chains, dtype=int)
    half_trips = np.zeros(chains.n_chains, dtype=int)
    everyone = np.arange(chains.n_chains)
    warm_up = -(-sweeps // 10)
    numbers = everyone.reshape(n_t, walkers)
    with bar(sweeps + warm_up, "metadynamics production", "sweep") as shown:
        for done in range(1, sweeps + warm_up + 1):
            chains.biased_sweep(1, bias, row, 0.0, visits)
            energy, n_plus = chains.energies(), chains.n_plus()
            if done == warm_up:
                visits[:] = 0
            if done > warm_up:
                excess = energy - line[n_plus]
                for power in range(3):
                    sums[power][everyone, n_plus] += excess**power
                reached = np.where(n_plus == 0, -1, np.where(n_plus == n_bins - 1, 1, 0))
                half_trips += (reached != 0) & (side != 0) & (reached != side)
                side = np.where(reached != 0, reached, side)
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
            shown.update(1)
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
