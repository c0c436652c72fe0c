"""Scans of the chemical potential up and down: both branches of a first-order transition and their hysteresis.

At every temperature some chains are led through the grid from its low end and some from its high end, each condition
starting from the decoration of the one before. Where both branches agree the result is an equilibrium average; where
they do not, a transition lies between, and the condition is marked unreliable.
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
from segalflow.sampling.statistics import jackknife_error, leave_one_out_means, unseen_excitation

AGREEMENT = 4.0
"""Combined standard errors by which the branches may differ."""
AGREEMENT_FLOOR = 2e-3
"""Difference in composition that is always allowed."""


def sample_scan(
    model: SpinPolynomial,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    walkers: int = 8,
    equilibration: int = 200,
    sweeps: int = 800,
    measure_every: int = 2,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``scan``) of chains led up and down the grid.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,).
        seed: seed of all random draws.
        walkers: chains of each direction at each temperature, at least 4; errors are jackknife errors over them.
        equilibration: sweeps at a condition before it is measured.
        sweeps: measured sweeps at a condition.
        measure_every: sweeps between measurements.
        attributes: extra attributes of the table.

    Estimates are those of both branches together. ``composition_up`` and ``composition_down`` hold the branches; the
    largest difference is the attribute ``largest_hysteresis``.

    Raises:
        SamplingError: for budgets that make no sense.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    measurements = sweeps // max(measure_every, 1)
    if walkers < 4 or measurements < 1 or equilibration < 0:
        raise SamplingError(
            f"scan: expected walkers >= 4, sweeps >= measure_every >= 1 and equilibration >= 0, found {walkers}, "
            f"{sweeps}, {measure_every}, {equilibration}"
        )
    n_t, n_mu, n_sites = len(temperature), len(delta_mu), model.n_sites
    kelvin = np.repeat(temperature, 2 * walkers)
    upwards = np.tile(np.repeat([True, False], walkers), n_t)
    chains = LockstepChains(model, kelvin, np.zeros(len(kelvin)), seed)
    chains.set_spins(np.repeat(np.where(upwards, -1, 1)[:, None], n_sites, axis=1))
    moments = np.empty((5, n_mu, len(kelvin)))  # means of U, N, U^2, N^2, U N at each place of the grid
    with bar(n_mu, "scan", "delta_mu") as shown:
        for step in range(n_mu):
            place = np.where(upwards, step, n_mu - 1 - step)
            chains.set_conditions(kelvin, delta_mu[place])
            chains.sweep(equilibration)
            total = np.zeros((5, len(kelvin)))
            for _ in range(measurements):
                chains.sweep(measure_every)
                u, n = chains.energies(), chains.n_plus()
                total += np.stack([u, n, u * u, n * n, u * n])
            moments[:, place, np.arange(len(kelvin))] = total / measurements
            shown.update(1)
    # (5, walkers of both directions, n_t, n_mu): walkers first up, then down
    moments = moments.reshape(5, n_mu, n_t, 2 * walkers).transpose(0, 3, 2, 1)
    return _table(
        model, species, temperature, delta_mu, moments, measurements, chains.energy_evaluations,
        {
            "n_sites": n_sites,
            "settings": {"seed": seed, "walkers": walkers, "equilibration": equilibration, "sweeps": sweeps,
                         "measure_every": measure_every},
            **(attributes or {}),
        },
    )  # fmt: skip


def _table(
    model: SpinPolynomial,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    moments: np.ndarray,
    measurements: int,
    evaluations: int,
    attributes: dict[str, Any],
) -> xr.Dataset:
    n_sites, walkers = model.n_sites, moments.shape[1] // 2
    kt = model.boltzmann * temperature[:, None]

    def derived(m: np.ndarray) -> dict[str, np.ndarray]:
        u, n, uu, nn, un = m
        var_n = nn - n * n
        var_e = uu - u * u - 2 * delta_mu * (un - u * n) + delta_mu**2 * var_n
        return {
            "composition": n / n_sites,
            "energy": u / n_sites,
            "heat_capacity": var_e / kt**2 / n_sites,
            "susceptibility": var_n / kt / n_sites,
        }

    def with_errors(part: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        left_out = derived(leave_one_out_means(part, axis=1))
        return derived(part.mean(axis=1)), {name: jackknife_error(value) for name, value in left_out.items()}

    both, errors = with_errors(moments)
    (up, up_error), (down, down_error) = with_errors(moments[:, :walkers]), with_errors(moments[:, walkers:])
    hysteresis = np.abs(up["composition"] - down["composition"])
    spread = np.hypot(up_error["composition"], down_error["composition"])
    agree = hysteresis <= AGREEMENT * spread + AGREEMENT_FLOOR
    # A chain counts as one sample only: what it remembers between measurements is not known.
    rest = unseen_excitation(np.full(hysteresis.shape, 2.0 * walkers), n_sites, kt)
    for name in errors:
        errors[name] = np.hypot(errors[name], rest[name] / measurements)
        # Where the branches differ, half of their difference is what the mean may be wrong by.
        errors[name] = np.hypot(errors[name], np.where(agree, 0.0, np.abs(up[name] - down[name]) / 2))
    grid = hysteresis.shape
    x, dx = both.pop("composition"), errors.pop("composition")
    return ensemble_table(
        "scan",
        temperature,
        delta_mu,
        species,
        {
            "composition": np.stack([1 - x, x], axis=-1),
            "composition_stderr": np.stack([dx, dx], axis=-1),
            "composition_up": up["composition"],
            "composition_up_stderr": up_error["composition"],
            "composition_down": down["composition"],
            "composition_down_stderr": down_error["composition"],
            **both,
            **{f"{name}_stderr": value for name, value in errors.items()},
            "n_samples": np.full(grid, float(measurements * 2 * walkers)),
            "energy_evaluations": np.full(grid, evaluations / np.prod(grid)),
            "full_energy_evaluations": np.full(grid, float(measurements * 2 * walkers)),
            "reliable": agree.astype(float),
        },
        {**attributes, "largest_hysteresis": float(hysteresis.max())},
        model.energy_unit,
    )
