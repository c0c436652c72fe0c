"""Refinement of a sweep against solutions of known coexistence: narrower, still right, in the window, in budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from model_alloys import common_tangent, mean_field_sweep, regular_solution_table

from segalflow.cells import Grid, read_grid, write_grid
from segalflow.ensemble import added_conditions, read_ensemble, sampled_conditions, write_ensemble
from segalflow.errors import BoundaryError, SamplingError
from segalflow.phases.boundaries import replace_refined
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.refinement import find_refined_boundaries, interval_widths, plan_refinement
from segalflow.samples import read_samples, write_samples
from segalflow.sampling.refined import join_sweeps, join_tables
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 707.0
T, MU = np.linspace(400.0, 640.0, 5), np.linspace(-0.1, 0.11, 8)


def sampled(grid: Grid, seed: int, n_sites: int = 128, samples: int = 400):
    """A sweep over the rectangle of a grid, of which only the wanted conditions are kept."""
    found, table = mean_field_sweep(n_sites, OMEGA, grid.temperature, grid.delta_mu, samples, seed)
    if grid.wanted is not None:
        blank = ~grid.wanted
        table = table.assign({"round": (("temperature", "delta_mu"), np.where(blank, np.nan, 0.0))})
        found["valid"].values[blank] = 0
        for name in table.data_vars:
            table[name].values[blank] = 0.0 if name in ("n_samples", "energy_evaluations", "reliable") else np.nan
    return table, found


def refine(criterion: str, rounds: int, seed: int = 0, grid: Grid | None = None, n: int = 400, **wanted):
    """First sweep and rounds of refinement; returns boundaries before and after, the table, and all sentences."""
    sweep = sampled(grid or Grid(T, MU, "test"), seed, samples=n)
    criteria = {criterion: {}}
    options = {"blocks": 40, "replicates": 60, "seed": seed}
    before, _ = find_refined_boundaries(*sweep, criteria=criteria, **options)
    after, said = before, []
    for number in range(1, rounds + 1):
        grid, notes = plan_refinement(after, sweep[0], number=number, rounds=rounds, **wanted)
        said += notes
        if grid.wanted.any():
            sweep = join_sweeps(sweep, sampled(grid, 1000 * number + seed, samples=n), number)
        after, _ = find_refined_boundaries(*sweep, criteria=criteria, **options)
    return before, after, sweep[0], said


def fields(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"] == "two_phase"]


def test_a_jump_is_bracketed_more_narrowly_than_asked_and_the_truth_stays_inside() -> None:
    """The exact isotherms of an infinite regular solution: the transition is at delta_mu = 0 at every temperature."""
    first = regular_solution_table(OMEGA, T, MU, n_sites=10**6)
    table, _ = find_boundaries("composition_jump", [first])
    assert (interval_widths(fields(table))["delta_mu"] > 0.02).all()
    points, added, sweep = table, 0, first
    for number in (1, 2, 3):
        grid, _ = plan_refinement(points, sweep, number=number, rounds=3, conditions=60, width_delta_mu=2e-3)
        added += int(grid.wanted.sum())
        exact = regular_solution_table(OMEGA, grid.temperature, grid.delta_mu, n_sites=10**6)
        more = exact.assign({"round": (("temperature", "delta_mu"), np.where(grid.wanted, 0.0, np.nan))})
        sweep = join_tables(sweep, more, number)
        points, _ = find_boundaries("composition_jump", [sweep])
    grid, notes = plan_refinement(points, sweep, number=3, rounds=3, conditions=60, width_delta_mu=2e-3)
    assert not grid.wanted.any()
    assert notes[-1] == "Round 3 adds no conditions: every interval is within the requested width."
    gaps = fields(points)
    assert set(gaps["temperature"]) == set(T)
    assert (interval_widths(gaps)["delta_mu"] < 2e-3).all()
    assert ((gaps["delta_mu_low"] <= 0) & (gaps["delta_mu_high"] >= 0)).all()
    assert added == int(added_conditions(sweep).sum()) <= 60
    for row in gaps.itertuples():
        left, right, _ = common_tangent(OMEGA, row.temperature)
        assert abs(row.x_left - left) < 1.96 * row.x_left_stderr + 1e-4
        assert abs(row.x_right - right) < 1.96 * row.x_right_stderr + 1e-4


@pytest.mark.parametrize(("criterion", "samples"), [("common_tangent", 250), ("equal_weight", 400)])
def test_errors_of_free_energies_fall_below_the_requested_width(criterion, samples) -> None:
    inside, widths = [], []
    for seed in range(4):
        before, after, sweep, _ = refine(criterion, 2, seed, n=samples, conditions=60, width_delta_mu=6e-4)
        assert set(fields(after)["temperature"]) >= set(T[:4])
        assert added_conditions(sweep).sum() <= 60
        for row in fields(after).itertuples():
            inside.append(row.delta_mu_low <= 0 <= row.delta_mu_high)
        widths += [(interval_widths(fields(b))["delta_mu"]).max() for b in (before, after)]
    first, last = np.array(widths).reshape(-1, 2).T
    assert (first > 6e-4).all()
    assert np.median(first / last) > 3
    assert np.mean(last <= 6e-4) >= 0.8, (first, last)
    assert np.mean(inside) >= 0.85


def test_the_top_of_a_gap_gets_temperatures_of_its_own_unless_its_peaks_merge() -> None:
    first = Grid(np.linspace(520.0, 760.0, 5), np.linspace(-0.1, 0.11, 15), "test")
    asked = {"conditions": 60, "width_temperature": 20.0}
    before, after, sweep, said = refine("equal_weight", 1, 0, first, 4000, **asked)
    (wide,) = before[before["kind"] == "gap_top"].itertuples()
    assert wide.temperature_low < 707 < wide.temperature_high
    assert len(after) == len(before)
    assert not added_conditions(sweep).any()
    assert any("two peaks merge before their gap closes" in sentence for sentence in said)
    # A top that lies in one step of the grid is looked for inside it.
    step = before[before["kind"] == "gap_top"].assign(note="", temperature_low=640.0, temperature_high=700.0)
    grid, _ = plan_refinement(step, sweep, number=1, rounds=1, **asked)
    added = grid.temperature[grid.wanted.any(axis=1)]
    assert len(added) == 3
    assert ((added > 640) & (added < 700)).all()
    assert grid.wanted.sum() <= 60


def test_nothing_leaves_the_window_the_grid_or_the_budget() -> None:
    sweep = sampled(Grid(T, MU, "test"), 0)
    options = {"criteria": {"common_tangent": {}, "equal_weight": {}}, "blocks": 40, "replicates": 30, "seed": 0}
    points, _ = find_refined_boundaries(*sweep, **options)
    asked = {"width_x": 1e-6, "width_temperature": 1e-3, "width_delta_mu": 1e-7}
    for budget in (0, 1, 7, 33):
        spent = sweep
        for number in (1, 2):
            grid, notes = plan_refinement(points, spent[0], number=number, rounds=2, conditions=budget, **asked)
            assert grid.wanted.any() == (budget > number - 1)
            kelvin, mu = grid.temperature[grid.wanted.any(axis=1)], grid.delta_mu
            assert T[0] <= kelvin.min(initial=T[0])
            assert kelvin.max(initial=T[0]) <= T[-1]
            assert MU[0] <= mu.min()
            assert mu.max() <= MU[-1]
            if grid.wanted.any():
                spent = join_sweeps(spent, sampled(grid, number), number)
                assert any("the budget of" in sentence for sentence in notes)
        assert added_conditions(spent[0]).sum() == budget
    # A point that is not in the window has no conditions to offer, and says why.
    away = points.assign(delta_mu=MU[-1] + 0.01)
    grid, notes = plan_refinement(away, sweep[0], number=1, rounds=1, conditions=50, **asked)
    assert not grid.wanted.any()
    assert "all that the network was trained on" in notes[1]


def test_the_same_points_plan_the_same_conditions_whatever_their_order() -> None:
    sweep = sampled(Grid(T, MU, "test"), 0)
    points, _ = find_refined_boundaries(*sweep, criteria={"equal_weight": {}}, blocks=40, replicates=30, seed=0)
    plans = [
        plan_refinement(p, sweep[0], number=1, rounds=1, conditions=20, width_x=1e-3)[0]
        for p in (points, points[::-1].reset_index(drop=True))
    ]
    assert np.array_equal(plans[0].wanted, plans[1].wanted)
    assert np.array_equal(plans[0].delta_mu, plans[1].delta_mu)


def test_what_cannot_be_asked_is_refused() -> None:
    sweep = sampled(Grid(T, MU, "test"), 0)
    points, _ = find_boundaries("composition_jump", [regular_solution_table(OMEGA, T, MU)])
    with pytest.raises(BoundaryError, match="found none of them"):
        plan_refinement(points, sweep[0], number=1, rounds=1, conditions=20)
    with pytest.raises(BoundaryError, match="no rule for criterion 'alpha_shape'"):
        plan_refinement(
            points.assign(criterion="alpha_shape"), sweep[0], number=1, rounds=1, conditions=20, width_delta_mu=1e-5
        )
    again = Grid(T, MU[2:4], "test", np.ones((len(T), 2), dtype=bool))
    with pytest.raises(SamplingError, match="was sampled before"):
        join_sweeps(sweep, sampled(again, 1), 1)
    other = sampled(Grid(T, MU[:2] + 0.001, "test", np.ones((len(T), 2), dtype=bool)), 1, n_sites=64)
    with pytest.raises(SamplingError, match="n_sites 128, the added conditions have 64"):
        join_sweeps(sweep, other, 1)


def test_the_joined_files_hold_every_condition_once_and_blanks_nowhere_else(tmp_path) -> None:
    sweep = sampled(Grid(T, MU, "test"), 0)
    wanted = np.zeros((2, 3), dtype=bool)
    wanted[0, 1] = wanted[1, 2] = True
    grid = Grid(np.array([T[1], 530.0]), np.array([-0.05, 0.001, 0.002]), "round 1", wanted)
    write_grid(tmp_path / "grid.json", grid)
    kept = read_grid(tmp_path / "grid.json")
    assert np.array_equal(kept.wanted, wanted)
    more = sampled(kept, 5)
    table, samples = join_sweeps(sweep, more, 1)
    write_ensemble(tmp_path / "snis.nc", table)
    write_samples(tmp_path / "samples.nc", samples)
    table, samples = read_ensemble(tmp_path / "snis.nc"), read_samples(tmp_path / "samples.nc")
    assert table.sizes["temperature"] == 6
    assert table.sizes["delta_mu"] == 11
    assert sampled_conditions(table).sum() == T.size * MU.size + 2
    assert np.array_equal(np.argwhere(table["round"].values == 1), [[1, 5], [3, 6]])
    assert np.array_equal(samples["valid"].values.any(axis=-1), sampled_conditions(table))
    for name in ("composition", "n_samples", "energy_evaluations"):
        for part in (sweep[0], more[0]):
            for t, kelvin in enumerate(part["temperature"].values):
                for m, mu in enumerate(part["delta_mu"].values):
                    if sampled_conditions(part)[t, m]:
                        there = table[name].sel(temperature=kelvin, delta_mu=mu).values
                        assert np.array_equal(there, part[name].values[t, m])
    blank = ~sampled_conditions(table)
    assert np.isnan(table["composition"].values[blank]).all()
    assert not table["reliable"].values[blank].any()
    assert not samples["independent_samples"].values[blank].any()
    assert table.attrs["refined_conditions"] == 2


def test_refined_points_replace_those_they_started_from() -> None:
    first, _ = find_boundaries("composition_jump", [regular_solution_table(OMEGA, T, MU, method=m) for m in ("a", "b")])
    refined = first[first["method"] == "a"].assign(note="refined")
    merged = replace_refined(first, refined)
    assert (merged.loc[merged["method"] == "a", "note"] == "refined").all()
    assert len(merged) == len(first)
    assert len(replace_refined(first, refined[:0])) == len(first)
