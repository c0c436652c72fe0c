"""Scans of the chemical potential up and down: both branches of a first-order transition and their hysteresis.

At every temperature some chains are led through the grid from its low end and some from its high end, each condition
starting from the decoration of the one before. Where both branches agree the result is an equilibrium average; where
they do not, a transition lies between, and the condition is marked unreliable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.inputs import check_grid
from segalflow.sampling.state_file import Doubling, StateFile
from segalflow.sampling.statistics import (
    jackknife_error,
    leave_one_out_means,
    student_factor,
    time_of_error,
    unseen_excitation,
)

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
    target_error: float | None = None,
    max_walkers: int = 128,
    work: Path | None = None,
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
        target_error: scans are repeated, twice as many each time, until the standard error of the composition is at
            most this at every condition, or `max_walkers` were led in each direction; None does one with `walkers`.
        max_walkers: see `target_error`.
        work: folder of the state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.

    Estimates are those of both branches together. ``composition_up`` and ``composition_down`` hold the branches; the
    largest difference is the attribute ``largest_hysteresis``.

    Raises:
        SamplingError: for budgets that make no sense.
    """
    temperature, delta_mu = check_grid(temperature, delta_mu)
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
    settings = {"seed": seed, "walkers": walkers, "equilibration": equilibration, "sweeps": sweeps,
                "measure_every": measure_every}  # fmt: skip
    inputs = [settings, temperature.tolist(), delta_mu.tolist()]
    file = StateFile(work, "scan", model, inputs, __file__, chains)
    budget = Doubling(target_error, walkers, max_walkers)
    errors = file.resume(budget)
    at = file.array("at", np.zeros(2, dtype=np.int64))  # scan, step of delta_mu
    file.array("moments", np.empty((0, 5, n_mu, len(kelvin))))
    while True:
        _lead(file, at, budget.length(errors) // walkers, kelvin, upwards, delta_mu, equilibration, measure_every,
              measurements)  # fmt: skip
        # (scans, 5, n_mu, chains) to (5, walkers of both directions, n_t, n_mu): first those up, then those down
        moments = file.arrays["moments"].reshape(-1, 5, n_mu, n_t, 2, walkers).transpose(1, 4, 0, 5, 3, 2)
        table = _table(
            model, species, temperature, delta_mu, moments.reshape(5, -1, n_t, n_mu), measurements,
            chains.energy_evaluations,
            {
                "n_sites": n_sites,
                "settings": settings | {"walkers": budget.length(errors), "target_error": target_error},
                **(attributes or {}),
            },
        )  # fmt: skip
        errors.append(float(table["composition_stderr"].max()))
        if budget.enough(errors):
            return table
        file.begin_next(errors)


def _lead(
    file: StateFile,
    at: np.ndarray,
    scans: int,
    kelvin: np.ndarray,
    upwards: np.ndarray,
    delta_mu: np.ndarray,
    equilibration: int,
    measure_every: int,
    measurements: int,
) -> None:
    """Go on until so many scans are done.

    The array `moments` (scans, 5, n_delta_mu, n_chains) of the state gets the means of U, N, U^2, N^2 and U N.
    """
    chains, n_mu, n_sites = file.chains, len(delta_mu), file.chains.model.n_sites
    held = file.arrays["moments"]
    moments = file.arrays["moments"] = np.concatenate([held, np.full((scans - len(held), *held.shape[1:]), np.nan)])
    with bar(scans * n_mu, "scan", "delta_mu") as shown:
        shown.update(int(at[0] * n_mu + at[1]))
        while at[0] < scans:
            scan, step = at
            if step == 0:
                chains.set_spins(np.repeat(np.where(upwards, -1, 1)[:, None], n_sites, axis=1))
            place = np.where(upwards, step, n_mu - 1 - step)
            chains.set_conditions(kelvin, delta_mu[place])
            chains.sweep(equilibration)
            total, accepted = np.zeros((5, len(kelvin))), 0.0
            for _ in range(measurements):
                accepted += chains.sweep(measure_every).mean() / measurements
                u, n = chains.energies(), chains.n_plus()
                total += np.stack([u, n, u * u, n * n, u * n])
            moments[scan][:, place, np.arange(len(kelvin))] = total / measurements
            at[:] = (scan, step + 1) if step + 1 < n_mu else (scan + 1, 0)
            shown.set_postfix(acceptance=f"{accepted:.2f}", refresh=False)
            shown.update(1)
            file.tick()
    file.save()


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
        wider = student_factor(part.shape[1])
        return derived(part.mean(axis=1)), {name: wider * jackknife_error(value) for name, value in left_out.items()}

    both, errors = with_errors(moments)
    (up, up_error), (down, down_error) = with_errors(moments[:, :walkers]), with_errors(moments[:, walkers:])
    hysteresis = np.abs(up["composition"] - down["composition"])
    spread = np.hypot(up_error["composition"], down_error["composition"])
    agree = hysteresis <= AGREEMENT * spread + AGREEMENT_FLOOR
    sweeps_measured = attributes["settings"]["sweeps"] * 2.0 * walkers
    times = time_of_error(errors["composition"], both["susceptibility"] * kt / n_sites, sweeps_measured)
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
            "autocorrelation_time": times,
            "reliable": agree.astype(float),
        },
        {**attributes, "largest_hysteresis": float(hysteresis.max())},
        model.energy_unit,
    )
