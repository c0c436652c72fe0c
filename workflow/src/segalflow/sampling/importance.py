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
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.replica_pool import equilibrium_pool
from segalflow.ensemble import COUNTS, ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.samples import sample_set, thin_samples
from segalflow.sampling.proposal import MixtureProposal, choose_operations, hotter_temperature
from segalflow.sampling.sweep import SweepSettings, lower_of, repaired_row, weighed_row
from segalflow.sampling.weights import log_mean_weight
from segalflow.segal.derivatives import network_responses
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
    settings = SweepSettings(
        samples_per_condition, defensive_fraction, ess_floor, max_factor,
        np.inf if log_z_error is None else log_z_error * sampler.n_sites, symmetrise_below, repair, repair_below,
        repair_walkers, repair_rounds, repair_sweeps,
    )  # fmt: skip
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
            row, drawn = weighed_row(mixture, mu, rng, settings, here, operations)
            if network_derivatives:
                row |= network_responses(sampler, temperature[t], mu, network_derivatives, int(rng.integers(2**63)))
            row = repaired_row(row, mixture, mu, rng, settings, here)
            if collect is not None:
                thinning = np.random.default_rng([seed, t, keep_samples])
                mean = {m: float(log_mean_weight(drawn[m][0])[0]) for m in range(len(mu))}
                drawn_rows.append(
                    {int(c): (mean[m], *_keep(drawn[m], keep_samples, thinning)) for m, c in enumerate(columns)}
                )
            row["energy_evaluations"] += spent / asked.sum()
            rows.append(row)
            ness = lower_of(row)
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
        **settings.attributes(),
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
