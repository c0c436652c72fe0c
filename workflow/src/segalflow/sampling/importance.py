"""Self-normalised importance sampling (SNIS) over a grid with a trained SEGAL network.

The proposal at each condition is a mixture: most draws come from the network at the condition itself, a defensive share
from the network at the next higher temperature, which is broader. Both densities are exact, so the weights
``p / q_mixture`` (balance heuristic) are too, and a state the colder network has nearly forgotten cannot carry an
unbounded weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.weights import (
    log_mean_weight,
    log_shares,
    normalised_ess,
    normalised_weights,
    weighted_mean,
    weighted_variance,
)
from segalflow.segal.sampler import TrainedSampler


def sample_importance(
    sampler: TrainedSampler,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    samples_per_condition: int = 1000,
    defensive_fraction: float = 0.1,
    ess_floor: float = 100.0,
    max_factor: int = 8,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``snis``) of importance sampling over a grid.

    Args:
        sampler: trained network with its Hamiltonian.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,), inside the trained domain.
        delta_mu: increasing, eV (or J), shape (n_delta_mu,), inside the trained domain.
        seed: seed of all draws.
        samples_per_condition: draws at each condition.
        defensive_fraction: share of the draws made at the next higher temperature.
        ess_floor: effective samples below which an estimate is repaired by more draws, else marked unreliable.
        max_factor: a repair stops at this many times `samples_per_condition`.
        attributes: extra attributes of the table.

    Raises:
        SamplingError: for a condition outside the trained domain, or budgets that make no sense.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    if samples_per_condition < 2 or not 0 <= defensive_fraction < 1 or max_factor < 1:
        raise SamplingError(
            "snis: expected samples_per_condition >= 2, 0 <= defensive_fraction < 1 and max_factor >= 1, found "
            f"{samples_per_condition}, {defensive_fraction}, {max_factor}"
        )
    streams = np.random.SeedSequence(seed).spawn(len(temperature))
    rows = []
    with bar(len(temperature), "SNIS", "temperature") as shown:
        for t, stream in enumerate(streams):
            hotter = temperature[min(t + 1, len(temperature) - 1)]
            budget = (samples_per_condition, defensive_fraction, ess_floor, max_factor)
            rng = np.random.default_rng(stream)
            rows.append(_sweep_row(sampler, temperature[t], hotter, delta_mu, rng, *budget))
            ness = rows[-1]["ness"]
            shown.set_postfix(NESS=f"{np.median(ness):.3f}", lowest=f"{ness.min():.3f}", refresh=False)
            shown.update(1)
    variables = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return ensemble_table(
        "snis",
        temperature,
        delta_mu,
        species,
        variables,
        {
            "n_sites": sampler.n_sites,
            "seed": seed,
            "samples_per_condition": samples_per_condition,
            "defensive_fraction": defensive_fraction,
            "ess_floor": ess_floor,
            "fluctuating_energy": "U - dmu N",
            **(attributes or {}),
        },
        sampler.model.energy_unit,
    )


def _draw(
    sampler: TrainedSampler,
    own: float,
    hotter: float,
    delta_mu: np.ndarray,
    n: int,
    share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log weights, numbers of species-1 atoms and energies, each (n_delta_mu, n), at one temperature."""
    n_hot = round(share * n) if hotter > own else 0
    counts = {own: n - n_hot, hotter: n_hot} if n_hot else {own: n}
    parts = []
    for source, number in counts.items():
        mu = np.repeat(delta_mu, number)
        spins, log_q, energy = sampler.sample(np.full(len(mu), source), mu, int(rng.integers(2**63)))
        # Density of the mixture: every component scores every draw.
        terms = [
            np.log(c / n) + (log_q if other == source else sampler.log_prob(spins, np.full(len(mu), other), mu))
            for other, c in counts.items()
        ]
        log_mixture = np.logaddexp.reduce(terms, axis=0)
        n_plus = (spins > 0).sum(1)
        log_w = -(energy - mu * n_plus) / (sampler.model.boltzmann * own) - log_mixture
        parts.append([a.reshape(len(delta_mu), number) for a in (log_w, n_plus, energy)])
    return tuple(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))


def _sweep_row(
    sampler: TrainedSampler,
    own: float,
    hotter: float,
    delta_mu: np.ndarray,
    rng: np.random.Generator,
    n: int,
    share: float,
    ess_floor: float,
    max_factor: int,
) -> dict[str, np.ndarray]:
    """All estimates at one temperature; conditions whose ESS is under the floor get more draws."""
    log_w, n_plus, energy = _draw(sampler, own, hotter, delta_mu, n, share, rng)
    estimates = _estimate(sampler, own, delta_mu, log_w, n_plus, energy)
    drawn = {m: (log_w[m], n_plus[m], energy[m]) for m in range(len(delta_mu))}
    factor = 1
    while factor < max_factor:
        weak = np.flatnonzero(estimates["ness"] * estimates["n_samples"] < ess_floor)
        if not len(weak):
            break
        extra = min(factor, max_factor - factor) * n
        factor += extra // n
        more = _draw(sampler, own, hotter, delta_mu[weak], extra, share, rng)
        for row, m in enumerate(weak):
            # Equal mixtures in every instalment: the pooled draws follow the same mixture density.
            drawn[m] = tuple(np.concatenate([old, new[row]]) for old, new in zip(drawn[m], more, strict=True))
            again = _estimate(sampler, own, delta_mu[m : m + 1], *(a[None] for a in drawn[m]))
            for name, values in again.items():
                estimates[name][m] = values[0]
    estimates["reliable"] = (estimates["ness"] * estimates["n_samples"] >= ess_floor).astype(float)
    return estimates


def _estimate(
    sampler: TrainedSampler, own: float, delta_mu: np.ndarray, log_w: np.ndarray, n_plus: np.ndarray, energy: np.ndarray
) -> dict[str, np.ndarray]:
    n_sites, kt = sampler.n_sites, sampler.model.boltzmann * own
    weights = normalised_weights(log_w)
    log_z, log_z_error = log_mean_weight(log_w)
    x, x_error = weighted_mean(weights, n_plus / n_sites)
    u, u_error = weighted_mean(weights, energy / n_sites)
    grand, grand_error = weighted_variance(weights, energy - delta_mu[:, None] * n_plus)
    spread, spread_error = weighted_variance(weights, n_plus.astype(float))
    share, share_error = log_shares(weights, n_plus, n_sites + 1)
    n = np.full(len(delta_mu), float(log_w.shape[1]))
    return {
        "log_z": log_z,
        "log_z_stderr": log_z_error,
        "grand_potential": -kt * log_z / n_sites,
        "grand_potential_stderr": kt * log_z_error / n_sites,
        "composition": np.stack([1 - x, x], axis=-1),
        "composition_stderr": np.stack([x_error, x_error], axis=-1),
        "energy": u,
        "energy_stderr": u_error,
        "heat_capacity": grand / kt**2 / n_sites,
        "heat_capacity_stderr": grand_error / kt**2 / n_sites,
        "susceptibility": spread / kt / n_sites,
        "susceptibility_stderr": spread_error / kt / n_sites,
        "composition_log_weight": share,
        "composition_log_weight_stderr": share_error,
        "ness": normalised_ess(log_w),
        "n_samples": n,
        "energy_evaluations": n.copy(),
        "full_energy_evaluations": n.copy(),
    }
