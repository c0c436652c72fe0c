"""Boundaries against models whose phase diagrams are known."""

from __future__ import annotations

import numpy as np
import pytest
from model_alloys import binodal, critical_temperature, regular_solution_table

from segalflow.energy.polynomial import place_expansion
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell
from segalflow.phases.criteria import find_boundaries
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 707.0  # critical temperature 707 K, off every grid
DELTA_MU = np.linspace(-0.12, 0.123, 41)  # delta_mu = 0, where the phases meet, is no condition
TEMPERATURE = np.linspace(200, 1000, 21)


def nearest_to_gap(table, temperature):
    """What the grid itself can tell: the compositions on the two sides of delta_mu = 0."""
    row = table["composition"].isel(species=1).sel(temperature=temperature, method="nearest")
    return float(row.where(row["delta_mu"] < 0, drop=True)[-1]), float(row.where(row["delta_mu"] > 0, drop=True)[0])


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape"])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_regular_solution_has_its_binodal_and_top(criterion, noise):
    exact = regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)
    frame, _ = find_boundaries(criterion, [regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU, noise, 3)])
    assert critical_temperature(OMEGA) == pytest.approx(707.0)
    assert set(frame["boundary"]) == {0}
    gaps, tops = frame[frame["kind"] == "two_phase"], frame[frame["kind"] == "gap_top"]
    assert gaps["temperature"].tolist() == pytest.approx(TEMPERATURE[TEMPERATURE < 707].tolist())
    for _, row in gaps.iterrows():
        left, right = nearest_to_gap(exact, row["temperature"])
        truth = binodal(OMEGA, row["temperature"])
        # Within the grid's own resolution (and four standard errors of the noise).
        assert abs(row["x_left"] - truth) <= abs(left - truth) + 4 * noise + 1e-4
        assert abs(row["x_right"] - (1 - truth)) <= abs(right - (1 - truth)) + 4 * noise + 1e-4
        assert row["delta_mu_low"] < 0 < row["delta_mu_high"]
    (top,) = tops.itertuples()
    assert top.temperature_low < 707 < top.temperature_high
    assert top.temperature_high - top.temperature_low <= 40 + 1e-9
    assert top.x_left == pytest.approx(0.5, abs=0.05)


def test_errors_of_the_jump_cover_the_binodal():
    covered = []
    for seed in range(10):
        table = regular_solution_table(OMEGA, TEMPERATURE[:10], DELTA_MU + 0.0005 * (seed - 5) / 5, 0.002, seed)
        frame, _ = find_boundaries("composition_jump", [table])
        truth = np.array([binodal(OMEGA, t) for t in frame["temperature"]])
        for x, exact, error in (
            (frame["x_left"], truth, frame["x_left_stderr"]),
            (frame["x_right"], 1 - truth, frame["x_right_stderr"]),
        ):
            inside = np.clip(exact, 0.004, 0.996) == exact  # noise is cut off at x = 0 and 1
            covered += list((np.abs(x - exact) <= 1.96 * error)[inside])
    assert len(covered) > 100
    assert 0.9 <= np.mean(covered) <= 1.0


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape", "heat_capacity"])
@pytest.mark.parametrize(
    ("omega", "temperature"),
    [(OMEGA, np.linspace(720, 1200, 13)), (0.0, np.linspace(200, 1000, 9)), (-OMEGA, TEMPERATURE)],
)
def test_nothing_is_invented_without_a_gap(criterion, omega, temperature):
    frame, _ = find_boundaries(criterion, [regular_solution_table(omega, temperature, DELTA_MU, 0.002, 1)])
    assert len(frame) == 0


@pytest.mark.reference
def test_ground_state_transitions_of_copper_gold_from_the_exact_sum(reference):
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    model = place_expansion(expansion, Supercell(expansion.lattice, np.diag([2, 2, 4])))
    temperature, delta_mu = np.linspace(60, 700, 17), np.linspace(-0.24, 0.24, 41)
    table = enumerate_exactly(model, ("Cu", "Au"), temperature, delta_mu, attributes={"cell": "small"})
    frame, _ = find_boundaries("composition_jump", [table])
    cold = frame[(frame["temperature"] == 60) & (frame["kind"] == "two_phase")].sort_values("x_left")
    # The hull's transitions, eV: Cu/Cu3Au, Cu3Au/CuAu; the last two are closer than the grid's step and merge.
    for x, transition in (((0, 0.25), -0.136669), ((0.25, 0.5), -0.008061)):
        row = cold[np.isclose(cold["x_left"], x[0], atol=0.01) & np.isclose(cold["x_right"], x[1], atol=0.01)]
        assert len(row) == 1
        assert row["delta_mu_low"].item() <= transition <= row["delta_mu_high"].item()
    assert cold["x_right"].max() == pytest.approx(1.0, abs=0.01)
    # The alpha shape sees the same two-phase fields.
    shape, _ = find_boundaries("alpha_shape", [table])
    fields = shape[(shape["temperature"] == 60) & (shape["kind"] == "two_phase")].sort_values("x_left")
    assert fields["x_left"].to_numpy() == pytest.approx(cold["x_left"].to_numpy(), abs=0.01)
    assert fields["x_right"].to_numpy() == pytest.approx(cold["x_right"].to_numpy(), abs=0.01)
