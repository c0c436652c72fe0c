"""Invariant points on phases whose lines are known: line compounds, an order-disorder dome, a regular solution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from model_alloys import critical_temperature, mean_field_log_weight

from segalflow.phases.boundaries import BoundaryPoint, boundary_table, merge_boundaries, normal_interval
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.invariants import COLUMNS, find_cuts, find_empty, find_invariants
from segalflow.phases.leading import leading_criterion
from segalflow.reporting.boundaries import describe_invariants
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

TEMPERATURE = np.arange(340.0, 541.0, 20.0)
WINDOW = {"main": (TEMPERATURE, np.linspace(-0.2, 0.2, 21))}


def point(kelvin, mu, left, right, number, error=1e-3, kind="two_phase", criterion="equal_weight", names=("", ""), **k):
    low, high = normal_interval(mu, error)
    given = {"temperature_low": kelvin, "temperature_high": kelvin, **k}
    return BoundaryPoint(
        criterion, "snis", "main", number, kind, kelvin, given["temperature_low"], given["temperature_high"], mu, low,
        high, left, right, 1e-3, 1e-3, *names,
    )  # fmt: skip


def three_compounds(meeting: float, stable_above: bool, noise: float = 0.0, seed: int = 0, criterion="equal_weight"):
    """Line compounds at x = 0.1, 0.5 and 0.9: the middle one's ``e - s T`` is zero, and with it both delta_mu, at T."""
    rng = np.random.default_rng(seed)
    rows = []
    for kelvin in TEMPERATURE:
        # Free energy of the middle compound over the mixture of the others, eV; their delta_mu is 0.02 + 1e-5 T.
        g = 2e-4 * (meeting - kelvin) * (1 if stable_above else -1)
        common, drawn = 0.02 + 1e-5 * kelvin, noise * rng.standard_normal(3)
        if g < 0:
            rows += [
                point(kelvin, common + g / 0.4 + drawn[0], 0.1, 0.5, 0, noise, criterion=criterion, names=("A", "B")),
                point(kelvin, common - g / 0.4 + drawn[1], 0.5, 0.9, 1, noise, criterion=criterion, names=("B", "C")),
            ]
        else:
            rows.append(point(kelvin, common + drawn[2], 0.1, 0.9, 1, noise, criterion=criterion, names=("A", "C")))
    return boundary_table(rows)


@pytest.mark.parametrize("stable_above", [True, False])
def test_three_phase_temperatures_are_found_with_honest_errors(stable_above) -> None:
    inside, errors = [], []
    for seed in range(25):
        table = find_invariants(three_compounds(447.0, stable_above, noise=2e-3, seed=seed))
        (found,) = table[table["kind"] != "critical"].itertuples()
        assert found.kind == ("eutectoid" if stable_above else "peritectoid")
        assert (found.x_left, found.x, found.x_right) == pytest.approx((0.1, 0.5, 0.9))
        assert found.phases == "A + B + C"
        assert found.delta_mu == pytest.approx(0.02 + 1e-5 * 447, abs=0.01)
        inside.append(found.temperature_low <= 447 <= found.temperature_high)
        errors.append(found.temperature - 447)
    assert np.mean(inside) >= 0.9
    assert np.abs(errors).max() < 20
    assert list(table.columns) == list(COLUMNS)


def test_exact_lines_meet_at_the_three_phase_temperature() -> None:
    (found,) = find_invariants(three_compounds(447.0, False, noise=1e-6)).itertuples()
    assert found.temperature == pytest.approx(447.0, abs=0.1)
    assert found.temperature_high - found.temperature_low < 0.2


def test_brackets_leave_the_step_of_the_grid_as_interval() -> None:
    (found,) = find_invariants(three_compounds(447.0, True, 1e-3, criterion="composition_jump")).itertuples()
    assert (found.temperature_low, found.temperature_high) == (440.0, 460.0)
    assert found.temperature == 450.0


def test_a_middle_phase_that_lost_its_stability_earlier_is_said() -> None:
    """Points of two metastable gaps above the temperature at which their delta_mu meet."""
    lines = three_compounds(447.0, False, 1e-5)
    rows = [point(k, 0.02 + 1e-5 * k + s * 5e-4 * (k - 447), 0.1 + d, 0.5 + d, int(d > 0), 1e-5)
            for k in (460.0, 480.0) for s, d in ((1, 0.0), (-1, 0.4))]  # fmt: skip
    kept = lines[~lines["temperature"].isin([460.0, 480.0])]
    (found,) = find_invariants(merge_boundaries([kept, boundary_table(rows)])).itertuples()
    assert (found.temperature_low, found.temperature_high) == (480.0, 500.0)
    assert "least stable of the three already from 447" in found.note


def test_an_ordering_dome_has_a_congruent_point() -> None:
    rng = np.random.default_rng(1)
    mu = np.linspace(-0.1, 0.06, 17)
    inside = []
    for _ in range(25):
        kelvin = 500 - 2e4 * (mu + 0.021) ** 2 + 2.0 * rng.standard_normal(len(mu))
        rows = [
            point(t, m, 0.2 + m, 0.3 + m, 0, 0.01, "transition", "heat_capacity",
                  temperature_low=t - 1.96 * 2.0, temperature_high=t + 1.96 * 2.0)
            for t, m in zip(kelvin, mu, strict=True)
        ]  # fmt: skip
        (found,) = find_invariants(boundary_table(rows)).itertuples()
        assert found.kind == "congruent"
        assert found.x == pytest.approx(0.23, abs=0.02)
        assert abs(found.delta_mu + 0.021) < 4 * found.delta_mu_stderr
        inside.append(found.temperature_low <= 500 <= found.temperature_high)
    assert np.mean(inside) >= 0.85
    # A line that only rises has none.
    rising = [point(300 + 1e3 * m, m, 0.2, 0.3, 0, 0.01, "transition", "heat_capacity") for m in mu]
    assert not len(find_invariants(boundary_table(rising)))


def test_gaps_that_close_at_one_composition_are_congruent_and_others_critical() -> None:
    tops = [
        point(500, 0.01, 0.25, 0.25, 0, kind="gap_top", temperature_low=490, temperature_high=510),
        point(505, 0.01, 0.26, 0.26, 1, kind="gap_top", temperature_low=495, temperature_high=515),
        point(450, 0.10, 0.75, 0.75, 2, kind="gap_top", temperature_low=440, temperature_high=460),
    ]
    crossing = replace(tops[1], note="crossing of Binder's cumulants of the cells small, main")
    assert set(find_invariants(boundary_table([tops[0], crossing]))["kind"]) == {"critical"}
    table = find_invariants(boundary_table(tops)).set_index("kind")
    assert table.loc["congruent", "boundaries"] == "0+1"
    assert table.loc["congruent", "temperature"] == 502.5
    assert table.loc["critical", "boundaries"] == "2"
    assert len(table) == 2


@pytest.mark.parametrize(
    ("names", "kind", "order"),
    [
        (("solid solution", "solid solution"), "critical", "continuous"),
        (("Ag", "Pd"), "critical", "continuous"),
        (("Ag", "solid solution"), "critical", "continuous"),
        (("CuAu L1_0", "CuAu L1_0"), "critical", "continuous"),
        (("solid solution", "Cu3Au L1_2"), "order_disorder", "first"),
        (("CuAu L1_0", "Cu"), "order_disorder", "first"),
        (("Cu3Au L1_2", "CuAu L1_0"), "order_disorder", "first"),
        (("", ""), "critical", "continuous"),
    ],
)
def test_phases_below_a_top_tell_what_it_is(names, kind, order) -> None:
    """A gap that narrows to x = 0.3; another criterion has its top only."""
    rows = [point(k, 0.01, 0.1 + (k - 340) / 1e3, 0.5 - (k - 340) / 1e3, 0, names=names) for k in (340.0, 400.0, 420.0)]
    ends = {"kind": "gap_top", "temperature_low": 420, "temperature_high": 440}
    rows += [point(430, 0.01, 0.3, 0.3, 0, **ends), point(435, 0.01, 0.3, 0.3, 0, criterion="critical_point", **ends)]
    # An unlike field far below, or beside, says nothing.
    rows += [point(340, 0.01, 0.0, 0.6, 1, criterion="hysteresis", names=("solid solution", "Cu3Au L1_2"))]
    rows += [point(420, 0.01, 0.6, 0.9, 2, criterion="hysteresis", names=("solid solution", "Cu3Au L1_2"))]
    table = find_invariants(boundary_table(rows)).set_index("criterion").loc[["equal_weight", "critical_point"]]
    assert table["kind"].tolist() == [kind, kind]
    assert table["order"].tolist() == [order, order]
    said = "phases named by other criteria" if names[0] else "no criterion names the phases below"
    assert said in table.loc["critical_point", "note"]
    assert table["phases"].nunique() == 1


def test_the_order_of_an_order_disorder_line_is_that_of_its_points() -> None:
    mu = np.linspace(-0.1, 0.06, 17)
    for note, order in (("equal weight of both phases", "first"), ("continuous: one cell", "continuous"), ("", "")):
        rows = [
            replace(point(500 - 2e4 * (m + 0.021) ** 2, m, 0.2 + m, 0.3 + m, 0, 0.01, "transition", "order_parameter"),
                    note=note)
            for m in mu
        ]  # fmt: skip
        rows = [replace(r, temperature_low=r.temperature - 2, temperature_high=r.temperature + 2) for r in rows]
        (found,) = find_invariants(boundary_table(rows)).itertuples()
        assert (found.kind, found.order) == ("congruent", order)


def test_equal_weights_leave_a_top_without_two_peaks_to_the_common_tangent_which_leads() -> None:
    """In 64 sites the peaks merge 100 K below the critical point, where f is still concave."""
    omega = 2 * KB * 580.0
    temperature = np.arange(300.0, 641.0, 20.0)
    exact = mean_field_log_weight(64, omega, temperature)
    free = FreeEnergy(
        temperature, np.linspace(-0.1, 0.1, 9), exact, np.repeat(exact[None], 30, axis=0), None, None, KB,
        {"method": "snis", "cell": "main", "species": ["A", "B"]},
    )  # fmt: skip
    weights, _ = find_boundaries("equal_weight", [free])
    (top,) = weights[weights["kind"] == "gap_top"].itertuples()
    assert top.temperature_low < 520
    assert top.temperature_high == 580
    assert "too low to part the peaks from" in top.note
    cut, notes = find_boundaries("equal_weight", [free.at(temperature[temperature < 550])])
    assert set(cut["kind"]) == {"two_phase"}
    assert any("with a barrier too low to part two peaks" in note for note in notes)
    tangents, _ = find_boundaries("common_tangent", [free])
    merged = merge_boundaries([weights, tangents])
    table = find_invariants(merged).set_index("criterion")
    assert table["kind"].tolist() == ["critical", "critical"]
    found = table.loc["common_tangent"]
    assert found.temperature == pytest.approx(580, abs=3)
    ranking = ("equal_weight", "common_tangent")
    assert leading_criterion(merged, ranking) == "common_tangent"
    # Where both see the same temperatures the ranking stands, and so it does for phases of different order.
    same = merged[merged["temperature"] <= top.temperature_low]
    assert leading_criterion(same, ranking) == "equal_weight"
    ordered = merged.assign(left_phase="Cu3Au L1_2", right_phase="solid solution")
    assert leading_criterion(ordered, ranking) == "equal_weight"
    assert leading_criterion(merged.iloc[:0], ranking) is None
    # The summary says which top leads.
    bracket = point(425, 0.0, 0.5, 0.5, 0, kind="gap_top", criterion="composition_jump",
                    temperature_low=415, temperature_high=435)  # fmt: skip
    section = describe_invariants(find_invariants(merge_boundaries([merged, boundary_table([bracket])])), [], [])
    assert any("by common_tangent, which leads, against 425 by composition_jump" in s for s in section.sentences)


def test_a_barrier_within_its_error_makes_no_two_peaks() -> None:
    omega, temperature = 2 * KB * 580.0, np.array([300.0, 340.0, 380.0])
    exact = mean_field_log_weight(64, omega, temperature)
    hump = 12.0 * np.random.default_rng(0).standard_normal((30, 1, 1)) * np.sin(np.pi * np.linspace(0, 1, 65)) ** 4
    for replicates, kinds in ((np.repeat(exact[None], 30, axis=0), {"two_phase"}), (exact + hump, set())):
        free = FreeEnergy(
            temperature, np.linspace(-0.1, 0.1, 9), exact, replicates, None, None, KB,
            {"method": "snis", "cell": "main", "species": ["A", "B"]},
        )  # fmt: skip
        frame, _ = find_boundaries("equal_weight", [free], {"n_sigma": 0.5})
        assert set(frame.loc[frame["temperature"] == 380.0, "kind"]) == kinds


def test_the_top_of_a_regular_solution_is_its_critical_point() -> None:
    omega, n = 2 * KB * 480.0, 200
    exact = mean_field_log_weight(n, omega, TEMPERATURE)
    free = FreeEnergy(
        TEMPERATURE, np.linspace(-0.1, 0.1, 9), exact, np.repeat(exact[None], 30, axis=0), None, None, KB,
        {"method": "snis", "cell": "main", "species": ["A", "B"]},
    )  # fmt: skip
    boundaries, _ = find_boundaries("common_tangent", [free])
    (found,) = find_invariants(boundaries).itertuples()
    assert found.kind == "critical"
    assert found.temperature == pytest.approx(critical_temperature(omega), abs=2.0)
    assert found.x == pytest.approx(0.5, abs=0.01)
    cuts, _ = find_cuts(boundaries, {"main": (TEMPERATURE[:4], np.linspace(-0.1, 0.1, 9))})
    assert not cuts
    # Seen up to a temperature at which the gap is still open, its top is cut off.
    lower, _ = find_boundaries("common_tangent", [free.at(TEMPERATURE[:4])])
    cuts, notes = find_cuts(lower, {"main": (TEMPERATURE[:4], np.linspace(-0.1, 0.1, 9))})
    assert cuts == [
        "main: lines common_tangent of snis 0 reach the highest temperature of the grid (400): a higher "
        "grid.temperature would hold their tops."
    ]
    assert "go on below the lowest temperature of the grid (340)" in notes[0]
    cuts, _ = find_cuts(lower, {"main": (TEMPERATURE, np.linspace(-0.3, 0.02, 9))})
    assert any("ends of grid.delta_mu" in sentence for sentence in cuts)


def test_the_top_at_a_three_phase_point_is_not_critical() -> None:
    lines = three_compounds(447.0, False, 1e-6)
    top = boundary_table([point(450, 0.02, 0.3, 0.3, 0, kind="gap_top", temperature_low=440, temperature_high=460)])
    assert find_invariants(merge_boundaries([lines, top]))["kind"].tolist() == ["peritectoid"]


def test_nothing_found_is_said_in_words() -> None:
    empty = boundary_table([])
    (said,) = find_empty(empty, {"main": ["snis", "scan"]}, WINDOW)
    assert said == (
        "main: no boundary in this window (temperature 340 to 540, delta_mu -0.2 to 0.2) by any criterion or method."
    )
    some = three_compounds(447.0, True)
    assert "by any criterion with scan." in find_empty(some, {"main": ["snis", "scan"]}, WINDOW)[0]
    assert find_empty(some, {"main": ["snis"]}, WINDOW) == []
    table = find_invariants(empty)
    section = describe_invariants(table, [], [said])
    assert section.sentences == ["No three-phase, congruent or critical point in this window.", said]


def test_the_summary_lists_invariants(tmp_path) -> None:
    find_invariants(three_compounds(447.0, False, 1e-4)).to_csv(tmp_path / "invariants.csv", index=False)
    section = describe_invariants(pd.read_csv(tmp_path / "invariants.csv"), ["cut"], [])
    assert section.sentences == ["Points found over all criteria and methods: three-phase 1."]
    assert section.warnings == ["cut"]
    (row,) = section.tables[0].rows
    assert row[0] == "peritectoid: equal_weight 0+1, snis (main)"
    assert row[3] == "0.100 / 0.500 / 0.900"
