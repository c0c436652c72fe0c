"""Sweeps of any number of species and sublattices over (T, delta_mu_1, delta_mu_2, ...): SNIS, chains and exact sums.

All write the ensemble table with one ``delta_mu`` dimension for every exchange of species. Importance sampling is that
of `segalflow.sampling.importance`, with the same repairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.base import EnergyModel
from segalflow.energy.kinds import MAX_STATES
from segalflow.energy.potentials import ExchangePotentials, grid_conditions
from segalflow.energy.replica_pool import exchange_run
from segalflow.energy.species_chains import SpeciesChains, as_site_functions, species_pool
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell
from segalflow.progress import bar
from segalflow.sampling.proposal import choose_operations, hotter_temperature
from segalflow.sampling.species_proposal import SpeciesProposal
from segalflow.sampling.statistics import autocorrelation_time, unseen_excitation
from segalflow.sampling.sweep import SweepSettings, lower_of, repaired_row, weighed_row
from segalflow.segal.species_sampler import SpeciesSampler

_BATCH = 16384

Axes = tuple[np.ndarray, ...]


def _table(
    method: str,
    model: EnergyModel,
    potentials: ExchangePotentials,
    temperature: np.ndarray,
    axes: Axes,
    values: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """The ensemble table from variables of flat conditions, (n_conditions, ...)."""
    shape = (len(temperature), *(len(axis) for axis in axes))
    variables = {name: value.reshape(*shape, *value.shape[1:]) for name, value in values.items()}
    if len(axes) == 1:
        for name in ("susceptibility", "susceptibility_stderr"):
            variables[name] = variables[name][..., 0, 0]
    described = {"n_sites": model.n_sites, "fluctuating_energy": "U - sum of delta_mu N", **attributes}
    labelled = dict(zip(potentials.labels, axes, strict=True))
    return ensemble_table(
        method, temperature, labelled, potentials.elements, variables, described, model.energy_unit
    )  # fmt: skip


def sample_species_importance(
    sampler: SpeciesSampler,
    temperature: np.ndarray,
    axes: Axes,
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
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``snis``) of importance sampling with a categorical network.

    Args:
        sampler: the trained network.
        temperature: increasing, K (or J/k_B).
        axes: increasing delta_mu of every exchange (`ExchangePotentials.pairs`), eV (or J).
        seed: seed of all draws.
        samples_per_condition, defensive_fraction, ess_floor, max_factor, log_z_error, pool_sweeps, pool_samples,
            symmetrise_below, symmetries, repair, repair_below, repair_walkers, repair_rounds, repair_sweeps: as for
            `segalflow.sampling.importance.sample_importance`.
        attributes: extra attributes of the table.

    Raises:
        SamplingError: for a condition outside the trained domain (unless `sampler.extrapolate`), an unknown repair, or
            budgets that make no sense.
    """
    settings = SweepSettings(
        samples_per_condition, defensive_fraction, ess_floor, max_factor,
        np.inf if log_z_error is None else log_z_error * sampler.n_sites, symmetrise_below, repair, repair_below,
        repair_walkers, repair_rounds, repair_sweeps,
    )  # fmt: skip
    temperature, axes = np.asarray(temperature, float), tuple(np.asarray(axis, float) for axis in axes)
    model, potentials = sampler.model, sampler.potentials
    _, mu = grid_conditions(temperature[:1], axes)
    streams = np.random.SeedSequence(seed).spawn(len(temperature) + 1)
    pool, spent = None, 0
    if pool_sweeps:
        pool_seed = int(streams.pop().generate_state(1, np.uint64)[0])
        pool, spent = species_pool(
            model, potentials, temperature, axes, seed=pool_seed, sweeps=pool_sweeps, n_samples=pool_samples
        )
        pool = pool.reshape(len(temperature), len(mu), -1, model.n_sites)
    operations = choose_operations(sampler, symmetries, np.random.default_rng([seed, symmetries]))
    rows = []
    with bar(len(temperature), "SNIS", "temperature") as shown:
        for t, own in enumerate(temperature):
            rng, here = np.random.default_rng(streams[t]), None if pool is None else pool[t]
            hotter = hotter_temperature(temperature, t, sampler.n_sites)
            mixture = SpeciesProposal(sampler, float(own), hotter, defensive_fraction)
            row, _ = weighed_row(mixture, mu, rng, settings, here, operations)
            row = repaired_row(row, mixture, mu, rng, settings, here)
            row["energy_evaluations"] += spent / (len(temperature) * len(mu))
            rows.append(row)
            ness = lower_of(row)
            shown.set_postfix(NESS=f"{np.median(ness):.3f}", lowest=f"{ness.min():.3f}", refresh=False)
            shown.update(1)
    values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    if sampler.extrapolate:
        values["extrapolated"] = (~sampler.domain.contains(*grid_conditions(temperature, axes))).astype(float)
    described = {
        "seed": seed, "samples_per_condition": samples_per_condition, "defensive_fraction": defensive_fraction,
        "ess_floor": ess_floor, "log_z_error": log_z_error, "pool_sweeps": pool_sweeps, "pool_samples": pool_samples,
        "symmetrise_below": symmetrise_below, "symmetries": symmetries, **settings.attributes(), **(attributes or {}),
    }  # fmt: skip
    return _table("snis", model, potentials, temperature, axes, values, described)


def enumerate_species(
    model: EnergyModel,
    cell: Supercell,
    temperature: np.ndarray,
    axes: Axes,
    *,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the exact ensemble table (method ``exact``) from the sum over all decorations of a small cell.

    Args:
        model: energy of the cell, of any kind.
        cell: the cell.
        temperature: increasing, K (or J/k_B).
        axes: increasing delta_mu of every exchange, eV (or J).
        attributes: extra attributes of the table.

    Raises:
        SamplingError: if the cell has more than `MAX_STATES` decorations.
    """
    potentials = ExchangePotentials.of(cell)
    temperature, axes = np.asarray(temperature, float), tuple(np.asarray(axis, float) for axis in axes)
    n_states = int(np.prod(model.n_species.astype(float)))
    if n_states > MAX_STATES:
        raise SamplingError(
            f"exact enumeration: the cell has {n_states:.3g} decorations, at most {MAX_STATES:.3g} are summed"
        )
    energies, counts, composition = [], [], []
    for first in range(0, n_states, _BATCH):
        numbers = np.arange(first, min(first + _BATCH, n_states))
        occupations = np.stack(np.unravel_index(numbers, tuple(model.n_species)), axis=1)
        energies.append(model.energy(occupations))
        counts.append(potentials.counts(occupations))
        composition.append(potentials.composition(occupations))
    energy = np.concatenate(energies)
    exchanged, first, group = np.unique(np.concatenate(counts), axis=0, return_index=True, return_inverse=True)
    element, group = np.concatenate(composition)[first], group.ravel()
    t, mu = grid_conditions(temperature, axes)
    n, beta = model.n_sites, 1.0 / (model.boltzmann * temperature)
    rows = []
    for b in beta:
        # Sums over the decorations of every number of exchanges serve all chemical potentials.
        lowest = energy.min()
        w = np.exp(-b * (energy - lowest))
        s0, s1, s2 = (np.bincount(group, w * (energy - lowest) ** k, len(exchanged)) for k in range(3))
        log_p = np.log(s0) - b * lowest + b * (mu[: len(t) // len(beta)] @ exchanged.T)
        log_z = np.logaddexp.reduce(log_p, axis=1)
        p = np.exp(log_p - log_z[:, None])
        u, u2 = s1 / s0 + lowest, s2 / s0 - (s1 / s0) ** 2
        grand = u - mu[: len(t) // len(beta)] @ exchanged.T
        heat = (p * (u2 + grand**2)).sum(axis=1) - (p * grand).sum(axis=1) ** 2
        mean = p @ exchanged
        covariance = np.einsum("cg,ga,gb->cab", p, exchanged, exchanged) - mean[:, :, None] * mean[:, None, :]
        rows.append(
            {
                "log_z": log_z, "grand_potential": -log_z / b / n, "composition": p @ element, "energy": p @ u / n,
                "heat_capacity": heat * b**2 / n, "susceptibility": covariance * b / n,
            }
        )  # fmt: skip
    values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    values |= {f"{name}_stderr": np.zeros_like(value) for name, value in values.items()}
    counted = dict.fromkeys(("n_samples", "energy_evaluations"), np.full(len(t), float(n_states)))
    values |= {**counted, "reliable": np.ones(len(t))}
    return _table("exact", model, potentials, temperature, axes, values, attributes or {})


def sample_species_metropolis(
    model: EnergyModel,
    cell: Supercell,
    temperature: np.ndarray,
    axes: Axes,
    *,
    seed: int,
    sweeps: int = 4000,
    equilibration: int = 1000,
    chains_per_condition: int = 4,
    measure_every: int = 2,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``metropolis``) of heat-bath chains with replica exchange on the whole grid.

    Errors come from the differences between the chains of a condition; log Z is not measured.

    Args:
        model: energy of the cell, a cluster expansion.
        cell: the cell.
        temperature: increasing, K (or J/k_B).
        axes: increasing delta_mu of every exchange, eV (or J).
        seed: seed of all draws.
        sweeps: sweeps of every chain that are measured.
        equilibration: sweeps before them.
        chains_per_condition: independent chains of each condition, at least 2.
        measure_every: sweeps between measurements.
        attributes: extra attributes of the table.

    Raises:
        SamplingError: for a model without local energies, or fewer than two chains.
    """
    functions, potentials = as_site_functions(model), ExchangePotentials.of(cell)
    if functions is None or chains_per_condition < 2:
        raise SamplingError(
            "metropolis: expected a cluster expansion and at least 2 chains a condition, found "
            f"{type(model).__name__} and {chains_per_condition}"
        )
    temperature, axes = np.asarray(temperature, float), tuple(np.asarray(axis, float) for axis in axes)
    t, mu = grid_conditions(temperature, axes)
    r, n = chains_per_condition, model.n_sites
    rng = np.random.default_rng(seed)
    chains = SpeciesChains(
        functions, potentials, np.repeat(t, r), np.repeat(mu, r, axis=0), int(rng.integers(2**63))
    )  # fmt: skip
    chains.randomise()
    shape = (len(temperature), *(len(axis) for axis in axes), r)
    kept = []
    with bar(equilibration + sweeps, "Metropolis", "sweep") as shown:
        for step in exchange_run(chains, shape, equilibration, rng):
            shown.update(step)
        for _ in range(max(2, sweeps // measure_every)):
            for _ in exchange_run(chains, shape, measure_every, rng):
                pass
            element = potentials.composition(chains.occupations)
            kept.append(np.column_stack([chains.energies(), chains.n_plus(), element]))
            shown.update(measure_every)
    # (conditions, chains, time) of energy, exchanges and elements
    series = np.moveaxis(np.array(kept), 0, 1).reshape(len(t), r, len(kept), -1)
    k = len(axes)
    energy, counts, element = series[..., 0], series[..., 1 : k + 1], series[..., k + 1 :]
    kt = model.boltzmann * t
    grand = energy - (counts * mu[:, None, None]).sum(axis=3)
    # Fluctuations about the mean of all chains of a condition: a chain's own mean would hide slow ones.
    off = counts - counts.mean(axis=(1, 2), keepdims=True)
    spread = grand - grand.mean(axis=(1, 2), keepdims=True)
    observed = {
        "composition": element.mean(axis=2),
        "energy": energy.mean(axis=2) / n,
        "heat_capacity": (spread**2).mean(axis=2) / (kt**2 * n)[:, None],
        "susceptibility": np.einsum("crta,crtb->crab", off, off) / len(kept) / (kt * n)[:, None, None, None],
    }
    time = autocorrelation_time(grand).mean(axis=1)
    independent = r * len(kept) / (2 * time)
    rest = unseen_excitation(independent, n, kt)
    values = {name: found.mean(axis=1) for name, found in observed.items()}
    for name, found in observed.items():
        least = rest[name].reshape(-1, *[1] * (found.ndim - 2))
        values[f"{name}_stderr"] = np.hypot(found.std(axis=1, ddof=1) / np.sqrt(r), least)
    values |= {
        "autocorrelation_time": time * measure_every,
        "n_samples": np.full(len(t), float(r * len(kept))),
        "energy_evaluations": np.full(len(t), chains.energy_evaluations / len(t)),
        "reliable": (independent >= 100).astype(float),
    }
    described = {"seed": seed, "sweeps": sweeps, "equilibration": equilibration, **(attributes or {})}
    return _table("metropolis", model, potentials, temperature, axes, values, described)
