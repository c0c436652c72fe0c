from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from model_alloys import regular_solution_table

from segalflow.errors import BoundaryError
from segalflow.phases.boundaries import COLUMNS, read_boundaries, write_boundaries
from segalflow.phases.composition_jump import fit_line, fit_stderr
from segalflow.phases.criteria import CRITERIA, FROM_FREE_ENERGY, FROM_PHASE_WEIGHTS, find_boundaries
from segalflow.phases.grid import track_lines
from segalflow.phases.heat_capacity import parabola_vertex, sharpness
from segalflow.phases.naming import SOLUTION, name_phases
from segalflow.thermo.jumps import find_jumps
from segalflow.units import BOLTZMANN_EV_PER_K as KB

# Loops of a scan come from its branches, which no other table has: tests/physics/test_hysteresis.py.
FROM_TABLES = sorted(set(CRITERIA) - {*FROM_FREE_ENERGY, *FROM_PHASE_WEIGHTS, "hysteresis"})
OMEGA = 2 * KB * 700
TEMPERATURE = np.linspace(300, 1000, 8)
DELTA_MU = np.linspace(-0.12, 0.12, 25)


def ideal(delta_mu, kt):
    x = 1 / (1 + np.exp(-delta_mu / kt))
    return x, x * (1 - x) / kt


def test_jump_between_phases_is_found_and_a_smooth_isotherm_has_none():
    mu = np.linspace(-0.2, 0.2, 21)
    yes, none = np.ones(21, dtype=bool), np.zeros(21)
    x, chi = ideal(mu, 0.03)
    assert find_jumps(mu, x, none, chi, yes, sites_per_kt=128 / 0.03) == []
    stepped = x * 0.3 + 0.4 * (mu > 0.011)
    (jump,) = find_jumps(mu, stepped, none, chi * 0.3, yes, sites_per_kt=128 / 0.03)
    assert (mu[jump.start], mu[jump.stop]) == pytest.approx((0.0, 0.02))
    assert jump.jump == pytest.approx(0.4 + 0.3 * (x[11] - x[10]))


@pytest.mark.parametrize("kt", [0.01, 0.005])
def test_a_steep_smooth_isotherm_of_independent_sites_is_no_smeared_jump(kt):
    mu = np.linspace(-0.2, 0.2, 41)  # steps of 1 and 2 kT
    x, chi = ideal(mu, kt)
    assert find_jumps(mu, x, np.zeros(41), chi, np.ones(41, dtype=bool), sites_per_kt=128 / kt) == []


def test_a_jump_smeared_over_conditions_is_found_whole():
    mu = np.linspace(-0.02, 0.02, 11)
    sites, kt, low, high = 16, 0.03, 0.25, 0.5
    p = 1 / (1 + np.exp(-sites * (high - low) * mu / kt))  # a cell that flips as a whole
    x = low + (high - low) * p
    chi = sites * p * (1 - p) * (high - low) ** 2 / kt
    found = find_jumps(mu[::2], x[::2], np.zeros(6), chi[::2], np.ones(6, dtype=bool), sites_per_kt=sites / kt)
    assert found == []  # the window ends within the smeared jump: nothing to hold on to
    wide = np.linspace(-0.1, 0.1, 11)
    p = 1 / (1 + np.exp(-sites * (high - low) * wide / kt))
    x, chi = low + (high - low) * p, sites * p * (1 - p) * (high - low) ** 2 / kt
    (jump,) = find_jumps(wide, x, np.zeros(11), chi, np.ones(11, dtype=bool), sites_per_kt=sites / kt)
    assert jump.start < 5 < jump.stop
    assert jump.jump > 0.8 * (high - low)


def test_noise_is_no_jump():
    mu = np.linspace(-0.1, 0.1, 21)
    x, chi = ideal(mu, 0.05)
    noisy = x + 0.02 * np.random.default_rng(1).standard_normal(21)
    assert find_jumps(mu, noisy, np.full(21, 0.02), chi, np.ones(21, dtype=bool)) == []


def test_lines_are_tracked_through_temperature():
    rows = [[(0.0, 0.25), (0.25, 0.5)], [(0.02, 0.24), (0.26, 0.48)], [(0.3, 0.45)], [], [(0.31, 0.44)], [(0.6, 0.9)]]
    assert track_lines(rows, 0.25) == [[0, 1], [0, 1], [1], [], [1], [2]]


def test_polynomial_of_a_line_and_its_error():
    x = np.linspace(0.1, 0.4, 12)
    true = 900 - 3000 * (x - 0.3) ** 2
    coefficients, covariance = fit_line(x, true + np.random.default_rng(0).normal(0, 5, 12))
    error = fit_stderr(x, x, covariance)
    fitted = np.polyval(coefficients, x - x.mean())
    assert np.all(np.abs(fitted - true) < 4 * error)
    assert 1 < error.mean() < 5  # noise of 5 K shared by 4 coefficients and 12 points
    assert fit_line(np.full(5, 0.25), np.arange(5.0)) is None


def test_vertex_and_sharpness():
    t = np.array([500.0, 550.0, 610.0])
    assert parabola_vertex(t, 3 - ((t - 560) / 100) ** 2) == pytest.approx(560)
    # Independent two-level sites: sharpness 2.879 at kT = 0.4168 of the level distance.
    t = np.array([0.41, 0.4168, 0.424])
    y = 1 / t
    assert sharpness(t, y**2 * np.exp(y) / (1 + np.exp(y)) ** 2) == pytest.approx(2.879, abs=0.01)


def order_disorder_table(peak, width, height, background=0.3, noise=0.0, seed=0):
    temperature, mu = np.linspace(300, 1000, 15), np.linspace(-0.1, 0.1, 11)
    table = regular_solution_table(0.0, temperature, mu)
    centre = peak - 8000 * mu**2
    capacity = background + height * np.exp(-(((temperature[:, None] - centre) / width) ** 2) / 2)
    error = np.full(capacity.shape, noise)
    table["heat_capacity"][:] = capacity + error * np.random.default_rng(seed).standard_normal(capacity.shape)
    table["heat_capacity_stderr"][:] = error
    return table, mu, centre


def test_heat_capacity_maxima_follow_the_line():
    table, mu, centre = order_disorder_table(700, 40, 2.0, noise=0.02)
    frame, _ = find_boundaries("heat_capacity", [table])
    assert len(frame) == len(mu)
    assert set(frame["boundary"]) == {0}
    assert set(frame["kind"]) == {"transition"}
    line = frame.sort_values("delta_mu")
    assert np.abs(line["temperature"] - centre).max() < 15
    inside = (line["temperature_low"] <= centre) & (centre <= line["temperature_high"])
    assert inside.mean() >= 0.9
    kt = KB * line["temperature"].iloc[5]
    assert line["x_right"].iloc[5] == pytest.approx(1 / (1 + np.exp(-0.012 / kt)), abs=2e-3)


def test_heat_capacity_error_is_seeded_and_grows_with_noise():
    quiet, noisy = (order_disorder_table(700, 40, 2.0, noise=n)[0] for n in (0.01, 0.15))
    first, again = (find_boundaries("heat_capacity", [noisy])[0] for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    small = find_boundaries("heat_capacity", [quiet])[0]
    width = [(f["temperature_high"] - f["temperature_low"]).median() for f in (small, first)]
    assert width[1] > width[0]


def test_a_broad_maximum_is_no_transition_and_a_cut_one_is_said():
    broad, _, _ = order_disorder_table(650, 400, 0.6, background=0.0)
    frame, notes = find_boundaries("heat_capacity", [broad])
    assert len(frame) == 0
    assert any("no transitions" in n for n in notes)
    cut, _, _ = order_disorder_table(1100, 60, 2.0)
    frame, notes = find_boundaries("heat_capacity", [cut])
    assert len(frame) == 0
    assert any("cut off" in n for n in notes)


@pytest.mark.parametrize("criterion", FROM_TABLES)
def test_no_boundary_is_said_in_words(criterion):
    table = regular_solution_table(OMEGA, np.linspace(750, 1100, 8), DELTA_MU)
    frame, notes = find_boundaries(criterion, {"exact": table})
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 0
    assert any("in this window" in n or "inside this window" in n for n in notes)
    assert all(n.startswith("exact (regular): ") for n in notes)


@pytest.mark.parametrize("criterion", FROM_TABLES)
def test_coarse_grids_and_wrong_settings_are_refused(criterion):
    table = regular_solution_table(OMEGA, TEMPERATURE[:2], DELTA_MU)
    with pytest.raises(BoundaryError, match="2 temperatures x 25 chemical potentials are too few"):
        find_boundaries(criterion, [table])
    table = regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)
    with pytest.raises(BoundaryError, match=rf"phases\.{criterion}: unknown key 'alfa'"):
        find_boundaries(criterion, [table], {"alfa": 1.0})
    with pytest.raises(BoundaryError, match="not negative, found 'wide'"):
        find_boundaries(criterion, [table], {"confidence": "wide"})


def test_tables_of_different_references_are_refused():
    first, second = (regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU, method=m) for m in ("exact", "snis"))
    second.attrs["reference"] = "pure elements"
    with pytest.raises(BoundaryError, match=r"cannot compare 'exact' and 'snis' .* their reference differs"):
        find_boundaries("composition_jump", [first, second])
    second.attrs["cell"] = "another"
    find_boundaries("composition_jump", [first, second])


def test_conditions_that_are_not_finite_are_left_out_and_said():
    table = regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)
    table["composition"][0, 3] = np.nan
    frame, notes = find_boundaries("composition_jump", [table])
    assert "1 of 200 conditions are unreliable and were left out: 300 K (1)." in notes[0]
    assert np.isfinite(frame[["x_left", "x_right"]]).all().all()


def test_unknown_criterion():
    with pytest.raises(BoundaryError, match="did you mean 'alpha_shape'"):
        find_boundaries("alfa_shape", [])


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape"])
def test_unreliable_conditions_are_passed_over_and_said(criterion):
    table = regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)
    # Nonsense where the method itself says that it failed, NaN included.
    table["reliable"][1, 12:14] = 0.0
    table["composition"][1, 12, 1] = 0.5
    table["composition"][1, 13, 1] = np.nan
    frame, notes = find_boundaries(criterion, [table])
    assert any("2 of 200 conditions are unreliable" in n for n in notes)
    row = frame[(frame["temperature"] == TEMPERATURE[1]) & (frame["kind"] == "two_phase")].iloc[0]
    assert "2 unreliable" in row["note"]
    assert row["delta_mu_low"] < 0 < row["delta_mu_high"]
    numbers = frame.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape"])
def test_a_gap_with_nothing_reliable_inside_is_left_out(criterion):
    table = regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)
    table["reliable"][1, 8:18] = 0.0
    frame, notes = find_boundaries(criterion, [table])
    assert TEMPERATURE[1] not in set(frame["temperature"])
    assert any("left out" in n and n.startswith(f"exact (regular): {TEMPERATURE[1]:g} K") for n in notes)


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape"])
def test_a_top_outside_the_window_is_said(criterion):
    table = regular_solution_table(OMEGA, np.linspace(300, 600, 7), DELTA_MU)
    frame, notes = find_boundaries(criterion, [table])
    assert set(frame["kind"]) == {"two_phase"}
    assert any("cut off by the window" in n for n in notes)


def test_table_survives_its_file(tmp_path):
    frame, _ = find_boundaries("composition_jump", [regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)])
    write_boundaries(tmp_path / "a.csv", frame)
    pd.testing.assert_frame_equal(read_boundaries(tmp_path / "a.csv"), frame)


def test_phases_are_named_by_composition():
    frame, _ = find_boundaries("composition_jump", [regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)])
    hull = pd.DataFrame({"x": [0.0, 0.5, 1.0], "name": ["A", "AB B2", "B"], "source": "model"})
    named = name_phases(frame, hull)
    cold = named[named["temperature"] == TEMPERATURE[0]].iloc[0]
    assert (cold["left_phase"], cold["right_phase"]) == ("A", "B")
    warm = named[named["temperature"] == TEMPERATURE[3]].iloc[0]
    assert warm["left_phase"] == SOLUTION
    assert set(named.loc[named["kind"] == "gap_top", "left_phase"]) == {""}


@pytest.mark.parametrize("criterion", FROM_TABLES)
def test_smallest_grid_and_nothing_reliable(criterion):
    table = regular_solution_table(OMEGA, [300, 500, 900], [-0.05, 0.01, 0.06])
    find_boundaries(criterion, [table])
    table["reliable"][:] = 0.0
    frame, notes = find_boundaries(criterion, [table])
    assert len(frame) == 0
    assert any("9 of 9 conditions are unreliable" in n for n in notes)
    # A line compound at every condition: all points on one line.
    table["reliable"][:] = 1.0
    table["composition"][..., 1] = 0.5
    table["susceptibility"][:] = 0.0
    assert len(find_boundaries(criterion, [table])[0]) == 0
