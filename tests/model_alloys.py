"""Model alloys with known answers, written as ensemble tables."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from segalflow.ensemble import ensemble_table
from segalflow.units import BOLTZMANN_EV_PER_K as KB


def regular_solution_table(
    omega, temperature, delta_mu, noise=0.0, seed=0, method="exact", cell="regular", n_sites=128
):
    """Mean-field regular solution ``u = omega x (1 - x)``: critical point kT = omega/2 at x = 1/2.

    The stable branch is taken (Maxwell jump at delta_mu = 0). With noise, x gets normal errors of that size.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    x = np.empty((len(temperature), len(delta_mu)))
    for t, kelvin in enumerate(temperature):
        kt = KB * kelvin
        for m, mu in enumerate(delta_mu):
            candidates = np.concatenate([np.geomspace(1e-12, 0.5, 4000), 1 - np.geomspace(1e-12, 0.5, 4000)])
            f = omega * candidates * (1 - candidates) - mu * candidates
            f += kt * (candidates * np.log(candidates) + (1 - candidates) * np.log1p(-candidates))
            best = candidates[np.argmin(f)]
            for _ in range(50):  # Newton's method on df/dx = 0 within the branch
                slope = omega * (1 - 2 * best) - mu + kt * np.log(best / (1 - best))
                curvature = -2 * omega + kt / (best * (1 - best))
                if curvature <= 0:
                    break
                best = float(np.clip(best - slope / curvature, best / 2, (1 + best) / 2))
            x[t, m] = best
    kt = KB * temperature[:, None]
    chi = 1 / np.maximum(kt / (x * (1 - x)) - 2 * omega, 1e-9)
    energy = omega * x * (1 - x)
    heat = (omega * (1 - 2 * x) - delta_mu[None, :]) ** 2 * chi / kt / KB / temperature[:, None] * KB
    error = np.full(x.shape, float(noise))
    observed = np.clip(x + error * np.random.default_rng(seed).standard_normal(x.shape), 0, 1)
    zero = np.zeros(x.shape)
    return ensemble_table(
        method,
        temperature,
        delta_mu,
        ("A", "B"),
        {
            "composition": np.stack([1 - observed, observed], axis=-1),
            "composition_stderr": np.stack([error, error], axis=-1),
            "energy": energy,
            "energy_stderr": zero,
            "heat_capacity": heat,
            "heat_capacity_stderr": zero,
            "susceptibility": chi,
            "susceptibility_stderr": zero,
            "n_samples": zero + 1000,
            "energy_evaluations": zero + 1e6,
            "reliable": zero + 1,
        },
        {"cell": cell, "n_sites": n_sites, "reference": "test"},
    )


def binodal(omega, temperature):
    """Composition of the poor phase of a regular solution at a temperature below its critical one."""
    kt = KB * temperature
    return brentq(lambda x: omega * (1 - 2 * x) + kt * np.log(x / (1 - x)), 1e-12, 0.5 - 1e-6)


def critical_temperature(omega):
    """Critical temperature of a regular solution."""
    return omega / (2 * KB)
