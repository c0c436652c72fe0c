"""Boundaries from free energies against solutions whose binodal and critical point are known."""

from __future__ import annotations

import numpy as np
import pytest
from model_alloys import (
    common_tangent,
    critical_temperature,
    mean_field_log_weight,
    mean_field_sweep,
    sub_regular_critical_point,
)

from segalflow.errors import BoundaryError
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.equal_weight import balance_peaks
from segalflow.phases.gaps import Gap
from segalflow.thermo.free_energy import compute_free_energy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 707.0
SKEW = 0.15 * OMEGA


def free_energy(*sweep, seed=0, replicates=100):
    samples, table = sweep
    return compute_free_energy(table, samples, replicates=replicates, seed=seed)


@pytest.mark.parametrize("skew", [0.0, SKEW])
def test_binodal_and_critical_point_of_regular_and_sub_regular_solutions(skew) -> None:
    temperature, delta_mu = np.linspace(450, 850, 9), np.linspace(-0.12, 0.123, 11) - 0.2 * skew
    free = free_energy(*mean_field_sweep(256, OMEGA, temperature, delta_mu, 10000, 1, skew))
    frame, _ = find_boundaries("common_tangent", [free])
    x_top, t_top = sub_regular_critical_point(OMEGA, skew)
    if not skew:
        assert t_top == pytest.approx(critical_temperature(OMEGA))
    gaps, tops = frame[frame["kind"] == "two_phase"], frame[frame["kind"] == "gap_top"]
    assert set(frame["boundary"]) == {0}
    # A gap of 256 sites shows while its barrier, kT 0.75 n (1 - T/T_c)^2 for a regular solution, is above the noise.
    found = gaps["temperature"].to_numpy()
    sure = temperature[temperature < 0.94 * t_top]
    assert found[: len(sure)] == pytest.approx(sure)
    assert found.max() < t_top
    for _, row in gaps.iterrows():
        left, right, slope = common_tangent(OMEGA, row["temperature"], skew)
        assert row["x_left"] == pytest.approx(left, abs=0.002)
        assert row["x_right"] == pytest.approx(right, abs=0.002)
        assert row["delta_mu"] == pytest.approx(slope, abs=2e-4)
        assert abs(row["x_left"] - left) < 4 * row["x_left_stderr"]
        assert abs(row["x_right"] - right) < 4 * row["x_right_stderr"]
    (top,) = tops.itertuples()
    assert top.temperature == pytest.approx(t_top, abs=2.0)
    assert top.temperature_low < t_top < top.temperature_high
    assert top.x_left == pytest.approx(x_top, abs=0.02)


def test_intervals_of_both_criteria_cover_the_truth() -> None:
    """Nine quantities a draw, 75 draws: the binodal for tangents, the finite cell's own answer for equal weights."""
    n, temperature, delta_mu = 96, np.array([450.0, 500.0, 550.0]), np.linspace(-0.05, 0.053, 8)
    exact = mean_field_log_weight(n, OMEGA, temperature, SKEW)
    truth = {"common_tangent": [common_tangent(OMEGA, t, SKEW) for t in temperature], "equal_weight": []}
    for t, (left, right, mu) in enumerate(truth["common_tangent"]):
        beta = 1 / (KB * temperature[t])
        curve = exact[t] + beta * mu * np.arange(n + 1)
        low, high = round(left * n), round(right * n)
        gap = Gap(low, high, low + int(np.argmin(curve[low:high])), 1.0, mu)
        slope, left, right = (float(v[0]) for v in balance_peaks(exact[t][None], gap, (0, n), beta * mu))
        truth["equal_weight"].append((left, right, slope / beta))
    inside: dict[str, list[bool]] = {"common_tangent": [], "equal_weight": []}
    for seed in range(75):
        sweep = mean_field_sweep(n, OMEGA, temperature, delta_mu, 600, seed, SKEW)
        free = free_energy(*sweep, seed=seed, replicates=80)
        for criterion, covered in inside.items():
            frame, _ = find_boundaries(criterion, [free])
            for _, row in frame[frame["kind"] == "two_phase"].iterrows():
                left, right, mu = truth[criterion][int(np.argmin(np.abs(temperature - row["temperature"])))]
                covered.append(row["delta_mu_low"] <= mu <= row["delta_mu_high"])
                covered.append(abs(row["x_left"] - left) <= 1.96 * row["x_left_stderr"])
                covered.append(abs(row["x_right"] - right) <= 1.96 * row["x_right_stderr"])
    for criterion, covered in inside.items():
        assert 665 <= len(covered) <= 684, criterion
        assert 0.90 <= np.mean(covered) <= 0.98, (criterion, np.mean(covered))


@pytest.mark.parametrize("criterion", ["common_tangent", "equal_weight"])
def test_nothing_is_invented_without_a_gap(criterion) -> None:
    delta_mu = np.linspace(-0.12, 0.123, 9)
    for seed in range(8):
        for omega, coldest in ((OMEGA, 720.0), (0.0, 200.0), (-OMEGA, 300.0)):
            sweep = mean_field_sweep(96, omega, np.linspace(coldest, 1000, 4), delta_mu, 500, seed)
            frame, notes = find_boundaries(criterion, [free_energy(*sweep, seed=seed)])
            assert len(frame) == 0, (seed, omega)
            assert any("no two-phase field" in sentence for sentence in notes)


def test_equal_weights_of_a_large_cell_are_on_the_binodal() -> None:
    temperature = np.array([450.0, 500.0, 550.0])
    sweep = mean_field_sweep(1500, OMEGA, temperature, np.linspace(-0.02, 0.0201, 9), 2000, 3)
    frame, _ = find_boundaries("equal_weight", [free_energy(*sweep, replicates=30)])
    assert len(frame) == 3
    for _, row in frame.iterrows():
        left, right, _ = common_tangent(OMEGA, row["temperature"])
        assert row["x_left"] == pytest.approx(left, abs=0.002)
        assert row["x_right"] == pytest.approx(right, abs=0.002)
        assert row["delta_mu"] == pytest.approx(0.0, abs=1e-4)


def test_steps_too_wide_for_the_samples_to_overlap_are_said_and_give_no_gap() -> None:
    temperature = np.linspace(400, 700, 4)
    free = free_energy(*mean_field_sweep(2000, -OMEGA, temperature, np.linspace(-0.3, 0.3, 7), 300, 1), replicates=30)
    frame, notes = find_boundaries("common_tangent", [free])
    assert len(frame) == 0
    (said,) = [sentence for sentence in notes if "too coarse" in sentence]
    step = float(said.split("a step of ")[1].split()[0])
    finer = np.arange(-0.3, 0.3, step)
    again = free_energy(*mean_field_sweep(2000, -OMEGA, temperature, finer, 300, 1), replicates=30)
    frame, notes = find_boundaries("common_tangent", [again])
    assert len(frame) == 0
    assert not [sentence for sentence in notes if "too coarse" in sentence]


def test_a_gap_outside_the_window_is_said_to_be_cut_off() -> None:
    free = free_energy(*mean_field_sweep(64, OMEGA, np.linspace(350, 500, 4), np.linspace(-0.16, -0.06, 6), 4000, 2))
    frame, notes = find_boundaries("common_tangent", [free])
    assert len(frame) == 0
    assert any("cuts a phase off" in sentence or "no two-phase field" in sentence for sentence in notes)


@pytest.mark.parametrize("criterion", ["common_tangent", "equal_weight"])
def test_wrong_settings_are_refused(criterion) -> None:
    free = free_energy(*mean_field_sweep(16, OMEGA, np.array([400.0, 500.0]), np.linspace(-0.1, 0.1, 4), 50, 2))
    with pytest.raises(BoundaryError, match=rf"phases\.{criterion}: unknown key 'alfa'"):
        find_boundaries(criterion, [free], {"alfa": 1.0})
    with pytest.raises(BoundaryError, match="not negative, found 'wide'"):
        find_boundaries(criterion, [free], {"confidence": "wide"})
