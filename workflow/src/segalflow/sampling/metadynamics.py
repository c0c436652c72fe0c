"""Metadynamics in composition: a flat histogram over the number of species-1 atoms at every temperature.

The bias is built as in the paper (flatness 0.8, the deposit halved stage by stage; PHYSICS.md), shared by the walkers
of a temperature; then it is fixed, and independent walkers of a production stage give composition-resolved free
energies by exact reweighting. log Z is absolute because both end members are single states of known energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import observables_by_composition
from segalflow.sampling.statistics import jackknife_error

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
    n_t, n_sites = len(temperature), model.n_sites
    beta = 1.0 / (model.boltzmann * temperature)
    row = np.repeat(np.arange(n_t), walkers)  # chain = temperature * walkers + walker
    chains = LockstepChains(model, temperature[row], np.zeros(len(row)), seed)
    rng = np.random.default_rng(seed)
    plus = np.tile(np.linspace(0, n_sites, walkers).round().astype(int), n_t)
    ranks = np.argsort(rng.random((len(row), n_sites)), axis=1)
    chains.set_spins(np.where(ranks < plus[:, None], 1, -1))

    bias, unfinished, build_sweeps = _build_bias(
        chains, row, n_t, first_deposit, last_deposit, flatness, check_every, stage_sweeps
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


def _build_bias(
    chains: LockstepChains,
    row: np.ndarray,
    n_t: int,
    first_deposit: float,
    last_deposit: float,
    flatness: float,
    check_every: int,
    stage_sweeps: int,
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
    line = _end_member_line(model)
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


def _end_member_line(model: SpinPolynomial) -> np.ndarray:
    pure = model.energy_of_spins(np.array([[-1] * model.n_sites, [1] * model.n_sites]))
    return np.linspace(pure[0], pure[1], model.n_sites + 1)


def _estimates(
    model: SpinPolynomial,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    bias: np.ndarray,
    visits: np.ndarray,
    sums: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ensemble variables and their jackknife errors over walkers."""
    line = _end_member_line(model)
    total_visits, total_sums = visits.sum(axis=1), sums.sum(axis=2)
    pooled = _by_composition(line, beta, delta_mu, bias, total_visits, total_sums)
    walkers = visits.shape[1]
    left_out: dict[str, list[np.ndarray]] = {name: [] for name in pooled}
    for walker in range(walkers):
        part = _by_composition(
            line, beta, delta_mu, bias, total_visits - visits[:, walker], total_sums - sums[:, :, walker]
        )
        for name, value in part.items():
            left_out[name].append(value)
    errors = {}
    for name, values in left_out.items():
        stacked = np.stack(values)
        finite = np.all(np.isfinite(stacked), axis=0)
        error = jackknife_error(np.where(finite, stacked, 0.0))
        errors[name] = np.where(finite, error, np.nan)
    # One unseen excitation per composition, as in `segalflow.sampling.metropolis`: rare events give no spread at all.
    share = np.exp(pooled["composition_log_weight"])
    once = np.sqrt(np.sum((share / np.maximum(total_sums[0], 1.0)[:, None, :]) ** 2, axis=2))
    cost = 2.0 * np.sqrt(sum(float(np.sum(c**2)) for c in model.coefficients) / model.n_sites)
    errors["energy"] = errors["energy"] + once * cost / model.n_sites
    errors["heat_capacity"] = errors["heat_capacity"] + once * (cost * beta[:, None]) ** 2 / model.n_sites
    return pooled, errors


def _by_composition(
    line: np.ndarray,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    bias: np.ndarray,
    visits: np.ndarray,
    sums: np.ndarray,
) -> dict[str, np.ndarray]:
    n_t, n_bins = visits.shape
    with np.errstate(divide="ignore"):
        log_weight = np.log(visits) + bias
    count = np.maximum(sums[0], 1.0)
    mean, square = sums[1] / count, sums[2] / count
    for t in range(n_t):  # a composition met by steps but never at the end of a sweep takes its neighbours' energy
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
