"""One temperature of an importance-sampling sweep: draws, more draws, the symmetrised proposal, and the repairs.

Serves two species and any number alike: what differs is the proposal's (`segalflow.sampling.proposal`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segalflow.errors import SamplingError
from segalflow.sampling.estimators import Estimates, WeightedSamples, widen
from segalflow.sampling.proposal import MixtureProposal
from segalflow.sampling.repairs import choose_repair, repair_row
from segalflow.sampling.statistics import unseen_excitation
from segalflow.sampling.weights import (
    log_mean_weight,
    normalised_ess,
    normalised_ess_of_targets,
    normalised_weights,
)

AT_ONCE = 50_000_000
"""Most sites of further draws at a time: what a pass over them needs beside the network is some 20 bytes each."""

Draws = dict[int, tuple[np.ndarray, ...]]
"""By number of the condition: log weights, exchanges, energies and packed decorations (`MixtureProposal.draw`)."""


@dataclass(frozen=True)
class SweepSettings:
    """How many draws, and what is done where they do not do; see `segalflow.sampling.importance.sample_importance`.

    `log_z_error` is that of the whole cell, infinite where none is asked for.

    Raises:
        SamplingError: for an unknown repair, or budgets that make no sense.
    """

    samples_per_condition: int
    defensive_fraction: float
    ess_floor: float
    max_factor: int
    log_z_error: float
    symmetrise_below: float
    repair: str
    repair_below: float
    repair_walkers: int
    repair_rounds: int
    repair_sweeps: int

    def __post_init__(self) -> None:
        if self.samples_per_condition < 2 or not 0 <= self.defensive_fraction < 1 or self.max_factor < 1:
            raise SamplingError(
                "snis: expected samples_per_condition >= 2, 0 <= defensive_fraction < 1 and max_factor >= 1, found "
                f"{self.samples_per_condition}, {self.defensive_fraction}, {self.max_factor}"
            )
        if self.repair != "none":
            choose_repair(self.repair)

    def attributes(self) -> dict[str, Any]:
        """The repair's settings as attributes of a table."""
        names = ("repair", "repair_below", "repair_walkers", "repair_rounds", "repair_sweeps")
        return {name: getattr(self, name) for name in names}

    def unmet(self, estimates: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the numbers of the conditions that need more draws."""
        few = estimates["ness"] * estimates["n_samples"] < self.ess_floor
        return np.flatnonzero(few | (estimates["log_z_stderr"] > self.log_z_error))


def lower_of(row: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the NESS of the q side, or of the p side where it is lower, (n_conditions,)."""
    return np.fmin(row["ness"], row.get("ness_p", 1.0))


def weighed_row(
    mixture: MixtureProposal,
    delta_mu: np.ndarray,
    rng: np.random.Generator,
    settings: SweepSettings,
    pool: np.ndarray | None,
    operations: np.ndarray,
) -> tuple[Estimates, Draws]:
    """Return the estimates at one temperature from weighted draws, and the draws.

    Conditions that do not meet the settings get more draws, those of low NESS are drawn from the symmetrised proposal.

    Args:
        mixture: the proposal at the temperature, not symmetrised.
        delta_mu: conditions, eV (or J), shape (n_mu,) or (n_mu, n_exchanges).
        rng: source of all random numbers.
        settings: how many draws.
        pool: equilibrium decorations for the p side, int8 (n_mu, n_samples, n_sites), or None.
        operations: of the cell's symmetry, (k, n_sites) (`choose_operations`).
    """
    row, drawn = _drawn_row(mixture, delta_mu, rng, settings, pool)
    weak = np.flatnonzero(lower_of(row) < settings.symmetrise_below)
    if len(weak) and len(operations) > 1:
        symmetric, there = replace(mixture, operations=operations), None if pool is None else pool[weak]
        again, redrawn = _drawn_row(symmetric, delta_mu[weak], rng, settings, there)
        for name, values in again.items():
            spent_before = row[name][weak] if name.endswith("energy_evaluations") else 0.0
            row[name][weak] = values + spent_before
        drawn = {**drawn, **{int(m): redrawn[k] for k, m in enumerate(weak)}}
    return row, drawn


def repaired_row(
    row: Estimates,
    mixture: MixtureProposal,
    delta_mu: np.ndarray,
    rng: np.random.Generator,
    settings: SweepSettings,
    pool: np.ndarray | None,
) -> Estimates:
    """Return a row whose weak or unreliable conditions are repaired where a repair succeeds (arguments as before)."""
    if settings.repair == "none":
        return row
    weak = np.flatnonzero((lower_of(row) < settings.repair_below) | (row["reliable"] == 0))
    row["repaired"] = np.zeros(len(delta_mu))
    if not len(weak):
        return row
    start = None if pool is None else pool[weak]
    repaired = choose_repair(settings.repair)(
        mixture, delta_mu[weak], start, rng, walkers=settings.repair_walkers, rounds=settings.repair_rounds,
        sweeps=settings.repair_sweeps, ess_floor=settings.ess_floor,
    )  # fmt: skip
    return repair_row(row, weak, repaired)


def _p_side(
    mixture: MixtureProposal, delta_mu: np.ndarray, pool: np.ndarray, log_z: np.ndarray, n_draws: int
) -> np.ndarray:
    """Return the p-side NESS, (n_mu,), of the mixture of `n_draws` draws.

    `pool` holds equilibrium decorations, int8 (n_mu, n_samples, n_sites).
    """
    n_mu, n, n_sites = pool.shape
    decorations, mu = pool.reshape(-1, n_sites), np.repeat(delta_mu, n, axis=0)
    log_w = mixture.log_weights(decorations, mu, mixture.energy_of(decorations), n_draws, {})
    return normalised_ess_of_targets(log_w.reshape(n_mu, n), log_z)


def _drawn_row(
    mixture: MixtureProposal,
    delta_mu: np.ndarray,
    rng: np.random.Generator,
    settings: SweepSettings,
    pool: np.ndarray | None,
) -> tuple[Estimates, Draws]:
    """All estimates at one temperature, and the draws by condition; as `weighed_row`."""
    n = settings.samples_per_condition
    first = mixture.draw(delta_mu, n, rng)
    estimates = _estimate(mixture, delta_mu, *first[:3])
    drawn = {m: tuple(part[m] for part in first) for m in range(len(delta_mu))}
    factor = 1
    while factor < settings.max_factor:
        weak = settings.unmet(estimates)
        if not len(weak):
            break
        fits = max(1, AT_ONCE // (len(weak) * n * mixture.model.n_sites))
        instalments = min(factor, settings.max_factor - factor, fits)
        factor += instalments
        more = mixture.draw(delta_mu[weak], instalments * n, rng)
        for row, m in enumerate(weak):
            # Equal mixtures in every instalment: the pooled draws follow the same mixture density.
            drawn[m] = tuple(np.concatenate([old, new[row]]) for old, new in zip(drawn[m], more, strict=True))
            again = _estimate(mixture, delta_mu[m : m + 1], *(a[None] for a in drawn[m][:3]))
            for name, values in again.items():
                estimates[name][m] = values[0]
    estimates["reliable"] = (estimates["ness"] * estimates["n_samples"] >= settings.ess_floor).astype(float)
    if pool is not None:
        estimates["ness_p"] = _p_side(mixture, delta_mu, pool, estimates["log_z"], n)
        estimates["reliable"] *= estimates["ness_p"] * estimates["n_samples"] >= settings.ess_floor
        for name in ("energy_evaluations", "full_energy_evaluations"):
            estimates[name] += pool.shape[1]
    return estimates, drawn


def _estimate(
    mixture: MixtureProposal, delta_mu: np.ndarray, log_w: np.ndarray, exchanges: np.ndarray, energy: np.ndarray
) -> Estimates:
    """Estimates from weighted draws, arrays (n_mu, n)."""
    n_sites, kt = mixture.model.n_sites, mixture.kt
    log_z, log_z_error = log_mean_weight(log_w)
    estimates = mixture.estimates(WeightedSamples(normalised_weights(log_w)), delta_mu[:, None], exchanges, energy)
    n = np.full(len(delta_mu), float(log_w.shape[1]))
    ness = normalised_ess(log_w)
    rest = unseen_excitation(ness * n, n_sites, kt)
    log_z_error = np.hypot(log_z_error, rest.pop("log_z"))
    widen(estimates, rest)
    return {
        "log_z": log_z,
        "log_z_stderr": log_z_error,
        "grand_potential": -kt * log_z / n_sites,
        "grand_potential_stderr": kt * log_z_error / n_sites,
        **estimates,
        "ness": ness,
        "n_samples": n,
        "energy_evaluations": n.copy(),
        "full_energy_evaluations": n.copy(),
    }
