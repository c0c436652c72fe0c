"""Self-normalised importance sampling (SNIS) over a grid with a trained SEGAL network.

The proposal at each condition is a mixture: most draws come from the network at the condition itself, a defensive share
from the network at a higher temperature, which is broader. Both densities are exact, so the weights
``p / q_mixture`` (balance heuristic) are too, and a state the colder network has nearly forgotten cannot carry an
unbounded weight.

Where the effective sample size is low, the proposal is symmetrised: averaged over operations of the cell's symmetry,
which its site order breaks.

A phase that the proposal never draws leaves no trace in its own weights. So the mixture also scores decorations of
replica-exchange chains that never saw the network, and both effective sample sizes, of the q side and of the p side,
must pass the floor. What stays weak is repaired by chains that the network's draws carry between phases (`repairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.replica_pool import equilibrium_pool
from segalflow.ensemble import COUNTS, ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.samples import sample_set, thin_samples
from segalflow.sampling.proposal import MixtureProposal, choose_operations, hotter_temperature
from segalflow.sampling.repairs import choose_repair, repair_row
from segalflow.sampling.statistics import unseen_excitation
from segalflow.sampling.weights import (
    log_mean_weight,
    log_shares,
    normalised_ess,
    normalised_ess_of_targets,
    normalised_weights,
    weighted_mean,
    weighted_variance,
)
from segalflow.segal.derivatives import network_responses
from segalflow.segal.sampler import TrainedSampler

AT_ONCE = 50_000_000
"""Most sites of further draws at a time: what a pass over them needs beside the network is some 20 bytes each."""


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
    log_z_error: float | None = None,
    pool_sweeps: int = 1000,
    pool_samples: int = 64,
    symmetrise_below: float = 0.5,
    symmetries: int = 8,
    repair: str = "independence_metropolis",
    repair_below: float = 0.2,
    repair_walkers: int = 32,
    repair_rounds: int = 200,
    repair_sweeps: int = 2,
    network_derivatives: int = 0,
    keep_samples: int = 1000,
    wanted: np.ndarray | None = None,
    collect: Callable[[xr.Dataset], None] | None = None,
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
        defensive_fraction: share of the draws made one row of the grid above, further on small cells
            (`hotter_temperature`; at the highest temperature: as far above it as the one below is below).
        ess_floor: effective samples, of the q side and of the p side, below which a condition is marked unreliable; one
            under the floor on the q side first gets more draws.
        max_factor: more draws end at this many times `samples_per_condition`.
        log_z_error: conditions whose log Z per site has a larger standard error get more draws; None: no such demand.
        pool_sweeps: sweeps of each part of the replica-exchange pool (`equilibrium_pool`) of the p side; 0 leaves the
            p side out.
        pool_samples: decorations of each condition from it.
        symmetrise_below: conditions with a lower NESS (of either side) are drawn again from the symmetrised proposal; 0
            leaves the repair out.
        symmetries: operations of the cell that it averages over (the identity and a random choice of others).
        repair: a key of `segalflow.sampling.repairs.REPAIRS`, or ``none``.
        repair_below: conditions with a lower NESS (of either side) after all that, or not reliable, are repaired.
        repair_walkers, repair_rounds, repair_sweeps: budget of the repair at each condition.
        network_derivatives: draws of each condition for the network's own responses (`segalflow.segal.derivatives`).
        keep_samples: samples of each condition that `collect` gets; where more were drawn, heavy ones are kept first
            and means stay unbiased (`segalflow.samples.thin_samples`).
        wanted: conditions of the rectangle to sample, bool (n_temperatures, n_delta_mu); None: all. The others are
            blanks of the table (`segalflow.ensemble.sampled_conditions`). The pool is of the whole rectangle.
        collect: called once with the samples artefact (`segalflow.samples`); None keeps no decorations.
        attributes: extra attributes of the table.

    Raises:
        SamplingError: for a condition outside the trained domain (unless `sampler.extrapolate`, which marks it in the
            variable ``extrapolated``), an unknown repair, or budgets that make no sense.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    if samples_per_condition < 2 or not 0 <= defensive_fraction < 1 or max_factor < 1:
        raise SamplingError(
            "snis: expected samples_per_condition >= 2, 0 <= defensive_fraction < 1 and max_factor >= 1, found "
            f"{samples_per_condition}, {defensive_fraction}, {max_factor}"
        )
    shape = (len(temperature), len(delta_mu))
    asked = np.ones(shape, dtype=bool) if wanted is None else np.asarray(wanted, dtype=bool)
    if asked.shape != shape or not asked.any():
        raise SamplingError(f"snis: expected wanted conditions of shape {shape}, found {asked.sum()} of {asked.shape}")
    streams = np.random.SeedSequence(seed).spawn(len(temperature) + 1)
    pool, spent = None, 0
    if pool_sweeps:
        pool_seed = int(streams.pop().generate_state(1, np.uint64)[0])
        pool, spent = equilibrium_pool(
            sampler.model, temperature, delta_mu, seed=pool_seed, sweeps=pool_sweeps, n_samples=pool_samples
        )
    operations = choose_operations(sampler, symmetries, np.random.default_rng([seed, symmetries]))
    mend = None if repair == "none" else choose_repair(repair)
    wish = _Wish(ess_floor, np.inf if log_z_error is None else log_z_error * sampler.n_sites, max_factor)
    budget = {"walkers": repair_walkers, "rounds": repair_rounds, "sweeps": repair_sweeps, "ess_floor": ess_floor}
    rows: list[dict[str, np.ndarray]] = []
    drawn_rows: list[dict[int, tuple[np.ndarray, ...]]] = []
    with bar(len(temperature), "SNIS", "temperature") as shown:
        for t in range(len(temperature)):
            columns = np.flatnonzero(asked[t])
            if not len(columns):
                rows.append({})
                drawn_rows.append({})
                shown.update(1)
                continue
            mu = delta_mu[columns]
            hotter = hotter_temperature(temperature, t, sampler.n_sites)
            mixture = MixtureProposal(sampler, temperature[t], hotter, defensive_fraction)
            rng = np.random.default_rng(streams[t])
            here = None if pool is None else pool[t][columns]
            row, drawn = _sweep_row(mixture, mu, rng, samples_per_condition, wish, here)
            lower = np.fmin(row["ness"], row.get("ness_p", 1.0))
            weak = np.flatnonzero(lower < symmetrise_below)
            if len(weak) and len(operations) > 1:
                again, redrawn = _sweep_row(
                    replace(mixture, operations=operations), mu[weak], rng, samples_per_condition, wish,
                    None if here is None else here[weak],
                )  # fmt: skip
                for name, values in again.items():
                    spent_before = row[name][weak] if name.endswith("energy_evaluations") else 0.0
                    row[name][weak] = values + spent_before
                drawn = {**drawn, **{int(m): redrawn[k] for k, m in enumerate(weak)}}
            if network_derivatives:
                row |= network_responses(sampler, temperature[t], mu, network_derivatives, int(rng.integers(2**63)))
            if mend is not None:
                lower = np.fmin(row["ness"], row.get("ness_p", 1.0))
                weak = np.flatnonzero((lower < repair_below) | (row["reliable"] == 0))
                row["repaired"] = np.zeros(len(mu))
                if len(weak):
                    start = None if here is None else here[weak]
                    row = repair_row(row, weak, mend(mixture, mu[weak], start, rng, **budget))
            if collect is not None:
                thinning = np.random.default_rng([seed, t, keep_samples])
                mean = {m: float(log_mean_weight(drawn[m][0])[0]) for m in range(len(mu))}
                drawn_rows.append(
                    {int(c): (mean[m], *_keep(drawn[m], keep_samples, thinning)) for m, c in enumerate(columns)}
                )
            row["energy_evaluations"] += spent / asked.sum()
            rows.append(row)
            ness = np.minimum(row["ness"], row.get("ness_p", 1.0))
            shown.set_postfix(NESS=f"{np.median(ness):.3f}", lowest=f"{ness.min():.3f}", refresh=False)
            shown.update(1)
    variables = _full(rows, asked)
    if sampler.extrapolate:
        outside = ~sampler.domain.contains(*np.meshgrid(temperature, delta_mu, indexing="ij"))
        variables["extrapolated"] = np.where(asked, outside.astype(float), np.nan)
    if wanted is not None:
        variables["round"] = np.where(asked, 0.0, np.nan)
    described = {
        "n_sites": sampler.n_sites,
        "seed": seed,
        "samples_per_condition": samples_per_condition,
        "defensive_fraction": defensive_fraction,
        "ess_floor": ess_floor,
        "log_z_error": log_z_error,
        "pool_sweeps": pool_sweeps,
        "pool_samples": pool_samples,
        "symmetrise_below": symmetrise_below,
        "symmetries": symmetries,
        "network_derivatives": network_derivatives,
        "repair": repair,
        "repair_below": repair_below,
        **{f"repair_{name}": value for name, value in budget.items() if name != "ess_floor"},
        "fluctuating_energy": "U - dmu N",
        **(attributes or {}),
    }
    unit = sampler.model.energy_unit
    if collect is not None:
        # Means of the draws' own weights, also where a repair by chains gave the table's numbers.
        content = _padded(drawn_rows, asked)
        collect(sample_set("snis", temperature, delta_mu, species, content, described, unit, asked))
    return ensemble_table("snis", temperature, delta_mu, species, variables, described, unit)


def _keep(drawn: tuple[np.ndarray, ...], number: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Thin the draws (log weights, numbers of atoms, energies, packed decorations) of one condition."""
    chosen, log_w = thin_samples(drawn[0], number, rng)
    return log_w, *(a[chosen] for a in drawn[1:])


def _full(rows: list[dict[str, np.ndarray]], asked: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays over the whole rectangle from the estimates of every temperature's wanted conditions."""
    first = next(row for row in rows if row)
    found = {}
    for name, values in first.items():
        blank = 0.0 if name in COUNTS else np.nan
        found[name] = np.full((*asked.shape, *values.shape[1:]), blank)
        for t, row in enumerate(rows):
            if row:
                found[name][t, asked[t]] = row[name]
    return found


def _padded(rows: list[dict[int, tuple[Any, ...]]], asked: np.ndarray) -> dict[str, np.ndarray]:
    """Variables of the samples artefact from what every condition keeps: mean weight (log), then `_keep`'s."""
    longest = max(len(condition[1]) for row in rows for condition in row.values())
    first = next(condition for row in rows for condition in row.values())
    content = {"log_mean_weight": np.zeros(asked.shape), "valid": np.zeros((*asked.shape, longest), dtype=bool)}
    names = ("log_weight", "n_atoms", "energy", "occupation")
    for name, values in zip(names, first[1:], strict=True):
        content[name] = np.zeros((*asked.shape, longest, *values.shape[1:]), dtype=values.dtype)
    for t, row in enumerate(rows):
        for m, (mean, *kept) in row.items():
            content["log_mean_weight"][t, m] = mean
            content["valid"][t, m, : len(kept[0])] = True
            for name, values in zip(names, kept, strict=True):
                content[name][t, m, : len(values)] = values
    return content


def _p_side(
    mixture: MixtureProposal, delta_mu: np.ndarray, pool: np.ndarray, log_z: np.ndarray, n_draws: int
) -> np.ndarray:
    """Return the p-side NESS, (n_delta_mu,), of the mixture of `n_draws` draws.

    `pool` holds equilibrium decorations, int8 (n_delta_mu, n_samples, n_sites).
    """
    n_mu, n, n_sites = pool.shape
    spins, mu = pool.reshape(-1, n_sites), np.repeat(delta_mu, n)
    log_w = mixture.log_weights(spins, mu, mixture.sampler.model.energy((spins > 0).astype(np.int8)), n_draws, {})
    return normalised_ess_of_targets(log_w.reshape(n_mu, n), log_z)


@dataclass(frozen=True)
class _Wish:
    """How good an estimate is to be: effective samples, standard error of log Z, and the most instalments for it."""

    ess_floor: float
    log_z_error: float
    max_factor: int

    def unmet(self, estimates: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the numbers of the conditions that need more draws."""
        few = estimates["ness"] * estimates["n_samples"] < self.ess_floor
        return np.flatnonzero(few | (estimates["log_z_stderr"] > self.log_z_error))


def _sweep_row(
    mixture: MixtureProposal,
    delta_mu: np.ndarray,
    rng: np.random.Generator,
    n: int,
    wish: _Wish,
    pool: np.ndarray | None,
) -> tuple[dict[str, np.ndarray], dict[int, tuple[np.ndarray, ...]]]:
    """All estimates at one temperature, and the draws by condition (`MixtureProposal.draw`).

    Conditions that do not meet the `wish` get more draws.

    `pool` holds equilibrium decorations for the p side, int8 (n_delta_mu, n_samples, n_sites).
    """
    sampler, own = mixture.sampler, mixture.own
    first = mixture.draw(delta_mu, n, rng)
    estimates = _estimate(sampler, own, delta_mu, *first[:3])
    drawn = {m: tuple(part[m] for part in first) for m in range(len(delta_mu))}
    factor = 1
    while factor < wish.max_factor:
        weak = wish.unmet(estimates)
        if not len(weak):
            break
        fits = max(1, AT_ONCE // (len(weak) * n * sampler.n_sites))
        instalments = min(factor, wish.max_factor - factor, fits)
        factor += instalments
        more = mixture.draw(delta_mu[weak], instalments * n, rng)
        for row, m in enumerate(weak):
            # Equal mixtures in every instalment: the pooled draws follow the same mixture density.
            drawn[m] = tuple(np.concatenate([old, new[row]]) for old, new in zip(drawn[m], more, strict=True))
            again = _estimate(sampler, own, delta_mu[m : m + 1], *(a[None] for a in drawn[m][:3]))
            for name, values in again.items():
                estimates[name][m] = values[0]
    estimates["reliable"] = (estimates["ness"] * estimates["n_samples"] >= wish.ess_floor).astype(float)
    if pool is not None:
        estimates["ness_p"] = _p_side(mixture, delta_mu, pool, estimates["log_z"], n)
        estimates["reliable"] *= estimates["ness_p"] * estimates["n_samples"] >= wish.ess_floor
        for name in ("energy_evaluations", "full_energy_evaluations"):
            estimates[name] += pool.shape[1]
    return estimates, drawn


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
    ness = normalised_ess(log_w)
    rest = unseen_excitation(ness * n, n_sites, kt)
    log_z_error, x_error, u_error = (
        np.hypot(error, rest[name])
        for name, error in (("log_z", log_z_error), ("composition", x_error), ("energy", u_error))
    )
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
        "heat_capacity_stderr": np.hypot(grand_error / kt**2 / n_sites, rest["heat_capacity"]),
        "susceptibility": spread / kt / n_sites,
        "susceptibility_stderr": np.hypot(spread_error / kt / n_sites, rest["susceptibility"]),
        "composition_log_weight": share,
        "composition_log_weight_stderr": share_error,
        "ness": ness,
        "n_samples": n,
        "energy_evaluations": n.copy(),
        "full_energy_evaluations": n.copy(),
    }
