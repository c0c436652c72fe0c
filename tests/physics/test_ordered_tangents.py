"""Common tangents to ordered compounds, whose f(x) of a finite cell has kinks, against infinite crystals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from model_alloys import compound_boundary, compound_log_weight
from scipy.optimize import brentq

from segalflow.phases.common_tangent import DEFAULTS
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.gaps import find_gaps
from segalflow.phases.grid import Findings
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

SOLUTION, COMPOUND, EQUIATOMIC = (0.0, 0.0, 0.19, -0.13), (0.25, -0.034, 0.20, -0.06), (0.5, -0.036, 0.22, 0.02)
FIELDS = list(itertools.pairwise([SOLUTION, COMPOUND, EQUIATOMIC]))
TEMPERATURE = np.array([250.0, 350.0, 450.0])
DELTA_MU = np.linspace(-0.2, 0.03, 24)
SOURCE = {"method": "snis", "cell": "main", "species": ["A", "B"]}


def free_energy(value, noise=0.0, seed=0, replicates=100):
    """Curves with noise as samples give it: smooth along x within a phase, and of its own in each."""
    rng = np.random.default_rng(seed)
    n = value.shape[1] - 1
    x = np.arange(n + 1) / n
    phase = np.searchsorted([0.12, 0.37], x)
    draws = rng.standard_normal((replicates + 1, len(value), 3))[..., phase]
    for power in (1, 2):
        draws += 0.5 * rng.standard_normal((replicates + 1, len(value), 1)) * np.cos(np.pi * power * 4 * x)
    draws += 0.3 * rng.standard_normal((replicates + 1, *value.shape))
    main = value + noise * draws[0]
    return FreeEnergy(TEMPERATURE, DELTA_MU, main, main + noise * draws[1:], None, None, KB, SOURCE)


@pytest.mark.parametrize("n_sites", [64, 128])
def test_boundaries_of_compounds_are_those_of_the_infinite_crystal(n_sites: int) -> None:
    frame, _ = find_boundaries(
        "common_tangent", [free_energy(compound_log_weight(n_sites, TEMPERATURE, [SOLUTION, COMPOUND, EQUIATOMIC]))]
    )
    gaps = frame[frame["kind"] == "two_phase"]
    assert len(gaps) == 6
    for _, row in gaps.iterrows():
        mu, left, right = compound_boundary(row["temperature"], *FIELDS[int(row["x_left"] > 0.1)])
        # A tangent to the lowest points of f would be kT/(n_sites/4) and more off: 1 meV at 250 K.
        assert row["delta_mu"] == pytest.approx(mu, abs=5e-5)
        assert row["x_left"] == pytest.approx(left, abs=3e-4)
        assert row["x_right"] == pytest.approx(right, abs=3e-4)


def test_intervals_beside_compounds_cover_the_truth() -> None:
    value = compound_log_weight(128, TEMPERATURE, [SOLUTION, COMPOUND, EQUIATOMIC])
    covered = {"delta_mu": [], "x_left": [], "x_right": []}
    for seed in range(40):
        frame, _ = find_boundaries("common_tangent", [free_energy(value, 0.1, seed)])
        gaps = frame[frame["kind"] == "two_phase"]
        assert len(gaps) == 6
        for _, row in gaps.iterrows():
            mu, left, right = compound_boundary(row["temperature"], *FIELDS[int(row["x_left"] > 0.1)])
            covered["delta_mu"].append(row["delta_mu_low"] <= mu <= row["delta_mu_high"])
            covered["x_left"].append(abs(row["x_left"] - left) <= 1.96 * row["x_left_stderr"])
            covered["x_right"].append(abs(row["x_right"] - right) <= 1.96 * row["x_right_stderr"])
    for name, inside in covered.items():
        assert 0.90 <= np.mean(inside) <= 1.0, name
    assert np.mean(covered["delta_mu"]) <= 0.98


def test_a_compound_that_only_its_kink_holds_is_not_stable() -> None:
    """f of the finite cell touches a hull at the compound, whose grand potential is above the tangent beside it."""
    kelvin, n = 450.0, 128
    mu, *_ = compound_boundary(kelvin, SOLUTION, EQUIATOMIC)
    # Its energy is where two tangents beside it would have to fall by a little: by less than what y is off.
    off = brentq(lambda e: _fall(kelvin, (0.25, e, 0.20, -0.06)) - 0.5 * KB * kelvin / (n / 4), -0.03, -0.015)
    value = compound_log_weight(n, TEMPERATURE, [SOLUTION, (0.25, off, 0.20, -0.06), EQUIATOMIC])
    free = free_energy(value)
    assert any(0.2 < g.left / n < 0.3 for g in find_gaps(free, DEFAULTS, Findings())[-1])
    frame, _ = find_boundaries("common_tangent", [free])
    (row,) = frame[(frame["kind"] == "two_phase") & (frame["temperature"] == kelvin)].itertuples()
    _, left, right = compound_boundary(kelvin, SOLUTION, EQUIATOMIC)
    assert row.delta_mu == pytest.approx(mu, abs=1e-4)
    assert (row.x_left, row.x_right) == pytest.approx((left, right), abs=2e-3)


def _fall(kelvin: float, compound: tuple[float, ...]) -> float:
    """By how much delta_mu falls from the tangent on the left of a compound to that on its right."""
    first, second = compound_boundary(kelvin, SOLUTION, compound), compound_boundary(kelvin, compound, EQUIATOMIC)
    return first[0] - second[0]
