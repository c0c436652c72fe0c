"""Consistency of boundaries on solutions whose free energy is known: true ones pass, a wrong one is caught."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from model_alloys import common_tangent, mean_field_energy, mean_field_log_weight, mean_field_sweep

from segalflow.phases.boundaries import BoundaryPoint, boundary_table, merge_boundaries
from segalflow.phases.coexistence import Coexistence
from segalflow.phases.consistency import CHECKS, COLUMNS, check_consistency, fit_slopes, read_consistency
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.lines import cut_line, find_junctions, match_lines, split_lines, two_phase_points
from segalflow.reporting.boundaries import describe_consistency
from segalflow.thermo.free_energy import FreeEnergy, compute_free_energy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 707.0
SKEW = 0.15 * OMEGA
TEMPERATURE = np.linspace(420, 540, 5)
CRITERIA = ("common_tangent", "equal_weight")


def boundaries_of(frees):
    return merge_boundaries([find_boundaries(criterion, frees)[0] for criterion in CRITERIA])


def sampled(seed: int, method: str, n_sites: int = 96, replicates: int = 80) -> FreeEnergy:
    delta_mu = np.linspace(-0.05, 0.053, 8)
    samples, table = mean_field_sweep(n_sites, OMEGA, TEMPERATURE, delta_mu, 500, seed, SKEW, method=method)
    return compute_free_energy(table, samples, replicates=replicates, seed=seed)


def known(n_sites: int = 400, noise: float = 0.0, seed: int = 0, replicates: int = 60, energy: bool = True):
    """The exact free energy with errors of a given size, smooth in x and independent at each temperature."""
    exact = mean_field_log_weight(n_sites, OMEGA, TEMPERATURE, SKEW)
    x = np.arange(n_sites + 1) / n_sites
    kernel = np.exp(-0.5 * ((x[:, None] - x) / 0.1) ** 2) + 1e-9 * np.eye(len(x))
    drawn = np.random.default_rng(seed).standard_normal((replicates + 1, len(TEMPERATURE), len(x)))
    drawn = noise * drawn @ np.linalg.cholesky(kernel).T
    value = exact + drawn[0]
    u = np.tile(mean_field_energy(n_sites, OMEGA, SKEW), (len(TEMPERATURE), 1)) if energy else None
    attributes = {"method": "metadynamics", "cell": "regular", "species": ["A", "B"]}
    return FreeEnergy(
        TEMPERATURE,
        np.linspace(-0.05, 0.053, 8),
        value,
        value + drawn[1:],
        u,
        None if u is None else np.zeros_like(u),
        KB,
        attributes,
    )


def true_line(criterion: str = "composition_jump", method: str = "metadynamics", half_step: float = 1e-4, **changes):
    """The binodal as a criterion with brackets of delta_mu would write it."""
    points = []
    for kelvin in TEMPERATURE:
        left, right, mu = common_tangent(OMEGA, kelvin, SKEW)
        middle = half_step * (2 * np.floor(mu / (2 * half_step)) + 1)
        points.append(
            BoundaryPoint(
                criterion, method, "regular", 0, "two_phase", kelvin, kelvin - 15, kelvin + 15, middle,
                middle - half_step, middle + half_step, left, right, 2e-3, 2e-3,
            )
        )  # fmt: skip
    table = boundary_table(points)
    for name, values in changes.items():
        table[name] = table[name] + values
    return table


@pytest.fixture(scope="module")
def draws() -> pd.DataFrame:
    """Comparisons of eight pairs of sweeps that differ in their random numbers only."""
    tables = []
    for seed in range(8):
        frees = [sampled(2 * seed + k, method) for k, method in enumerate(("snis", "metropolis"))]
        table, notes = check_consistency(boundaries_of(frees), frees)
        assert not notes
        tables.append(table)
    return pd.concat(tables)


def test_stated_errors_hold_in_nearly_all_draws(draws) -> None:
    inside = draws.assign(held=draws["z"].abs() < 2).groupby("check")
    assert (inside["held"].size() >= 100).all()
    share = inside["held"].mean()
    assert 0.90 <= share["clausius_clapeyron"] <= 0.99
    assert 0.90 <= share["methods"] <= 0.99
    # Both criteria read the same samples, so their errors are larger than their differences.
    assert share["criteria"] >= 0.95
    assert share["lever_rule"] >= 0.95


def test_slopes_are_those_of_the_binodal() -> None:
    """The derivative of the exact line, by an independent way: common tangents half a kelvin apart."""
    free = known(1500, replicates=0)
    for criterion in CRITERIA:
        table, _ = check_consistency(find_boundaries(criterion, [free])[0], [free])
        slopes = table.query("check == 'clausius_clapeyron'")
        assert len(slopes) == 5
        for _, row in slopes.iterrows():
            near = row["temperature"] + np.array([-0.5, 0.5])
            exact = (
                np.diff([common_tangent(OMEGA, t, SKEW)[2] / (KB * t) for t in near])[0] / np.diff(1 / (KB * near))[0]
            )
            assert row["other_value"] == pytest.approx(exact, rel=0.01)
            # Parabolas through five points 30 K apart.
            assert row["value"] == pytest.approx(exact, rel=0.06)
            assert abs(row["z"]) < 2


@pytest.mark.parametrize("energy", [True, False])
def test_a_true_line_passes_every_check(energy) -> None:
    table, notes = check_consistency(true_line(), [known(noise=0.01, energy=energy)])
    assert set(table["check"]) == {"clausius_clapeyron", "lever_rule"}
    assert table["z"].abs().max() < 2.5
    assert not notes


@pytest.mark.parametrize(
    ("changes", "caught", "where"),
    [
        ({"x_left": np.array([0, 0, 0.03, 0, 0])}, "lever_rule", 480.0),
        ({"x_right": np.array([0, 0, 0, -0.03, 0])}, "methods", 510.0),
        ({name: np.array([0, 0, 0.002, 0, 0]) for name in ("delta_mu", "delta_mu_low", "delta_mu_high")},
         "methods", 480.0),
        ({name: np.linspace(0, 0.004, 5) for name in ("delta_mu", "delta_mu_low", "delta_mu_high")},
         "clausius_clapeyron", None),
    ],
)  # fmt: skip
def test_a_wrong_boundary_is_caught(changes, caught, where) -> None:
    boundaries = merge_boundaries([true_line(**changes), true_line(method="snis")])
    table, _ = check_consistency(boundaries, [known(noise=0.01)])
    bad = table[table["z"].abs() > 3]
    assert caught in set(bad["check"])
    if where:
        assert set(bad["temperature"]) <= {where} | (set(TEMPERATURE) if "delta_mu" in changes else set())
        assert where in set(bad.loc[bad["check"] == caught, "temperature"])
    right, _ = check_consistency(merge_boundaries([true_line(), true_line(method="snis")]), [known(noise=0.01)])
    assert not (right["z"].abs() > 3).any()


def test_errors_hold_for_tables_without_energies() -> None:
    z = []
    for seed in range(12):
        free = known(96, noise=0.03, seed=seed, energy=False)
        table, _ = check_consistency(find_boundaries("equal_weight", [free])[0], [free])
        z += table.query("check == 'clausius_clapeyron'")["z"].tolist()
    # Slope and du/dx are two derivatives of the same curve here: one number a draw, in effect.
    assert len(z) == 60
    assert np.mean(np.abs(z) < 2) >= 0.90
    assert 0.4 < np.sqrt(np.mean(np.square(z))) < 1.2


def test_energies_by_composition_are_the_derivative_of_the_weights() -> None:
    state = Coexistence(known(96, energy=False))
    assert state.energy == pytest.approx(np.tile(mean_field_energy(96, OMEGA, SKEW), (5, 1)), abs=1e-9)
    assert state.truncation.max() < 1e-9


def test_slopes_of_a_cubic_say_what_a_parabola_leaves_open() -> None:
    at = np.linspace(0, 1, 7)
    slope, matrix, bent = fit_slopes(at, at**3, np.zeros((7, 7)))
    assert matrix @ at == pytest.approx(np.ones(7))
    assert np.abs(slope - 3 * at**2) == pytest.approx(bent, abs=1e-12)
    straight = fit_slopes(at[::-1], 2 * at[::-1], 0.01 * np.eye(7))
    assert straight[0] == pytest.approx(2 * np.ones(7))
    assert straight[2] == pytest.approx(np.zeros(7), abs=1e-9)


def test_lines_are_matched_as_wholes_and_in_pieces() -> None:
    whole = split_lines(two_phase_points(true_line()))
    pieces = true_line(criterion="alpha_shape", x_left=np.array([0, 0.6, 0, 0, 0]))
    pieces["boundary"] = [0, 0, 0, 1, 1]
    found = match_lines(whole, split_lines(pieces))
    assert [(a[3], b[3]) for a, b, _ in found] == [(0, 0), (0, 1)]
    assert sum(len(rows) for *_, rows in found) == 5


def test_what_cannot_be_compared_is_said(tmp_path) -> None:
    table, notes = check_consistency(true_line(method="scan").iloc[:2], [known()])
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 0
    assert notes == ["2 points of scan (regular), which has no free energy: not compared."]
    _, notes = check_consistency(true_line().iloc[:2], [known()])
    assert any("fewer than 4" in sentence for sentence in notes)
    table, notes = check_consistency(boundary_table([]), [known()])
    assert notes == ["No two-phase line in this window, so nothing to check."]
    table.to_csv(tmp_path / "empty.csv", index=False)
    section = describe_consistency(read_consistency(tmp_path / "empty.csv"), {"methods": "one line"}, notes)
    assert section.sentences[0] == "One line: nothing to compare."


def test_the_summary_counts_and_names_the_farthest(tmp_path) -> None:
    boundaries = merge_boundaries([true_line(), true_line(method="snis", x_left=np.array([0, 0, 0.03, 0, 0]))])
    table, notes = check_consistency(boundaries, [known(noise=0.01)])
    table.to_csv(tmp_path / "consistency.csv", index=False)
    words = {"methods": "one line by two methods", "lever_rule": "lever rule"}
    section = describe_consistency(read_consistency(tmp_path / "consistency.csv"), words, notes)
    (said,) = [s for s in section.sentences + section.warnings if s.startswith("One line")]
    assert "14 of 15 comparisons (93 %) hold within 95 % intervals" in said
    assert "the farthest is x_left at 480" in said
    assert any("which has no free energy" in s for s in section.sentences)
    assert len(section.tables[0].rows) == 2


def test_integration_agrees_with_pooled_free_energies_and_catches_a_stuck_condition(tmp_path) -> None:
    delta_mu, temperature = np.linspace(-0.15, 0.15, 31), np.linspace(800, 1100, 7)
    samples, table = mean_field_sweep(64, OMEGA, temperature, delta_mu, 400, 3)
    # The means as their sampler states them: exact ones with errors of 400 samples.
    exact = FreeEnergy(
        temperature, delta_mu, mean_field_log_weight(64, OMEGA, temperature), np.zeros((0, 7, 65)),
        np.tile(mean_field_energy(64, OMEGA), (7, 1)), np.zeros((7, 65)), KB,
    ).observables(delta_mu)  # fmt: skip
    rng = np.random.default_rng(1)
    x_error = np.sqrt(exact["susceptibility"] * KB * temperature[:, None] / 64 / 400)
    x = exact["composition"][..., 1] + x_error * rng.standard_normal(x_error.shape)
    table["composition"][:] = np.stack([1 - x, x], axis=-1)
    table["composition_stderr"][:] = np.stack([x_error, x_error], axis=-1)
    for name in ("energy", "heat_capacity", "susceptibility"):
        table[name][:] = exact[name]
    free = compute_free_energy(table, samples, replicates=40)
    boundaries = find_boundaries("common_tangent", [free])[0]
    found, _ = check_consistency(boundaries, [free], [table])
    assert set(found["quantity"]) == {"log Z along delta_mu", "log Z along temperature"}
    assert len(found) == 7 + 31
    assert (found["z"].abs() < 3).mean() > 0.97
    table["composition"][2, 10] = table["composition"][2, 10] + np.array([-0.2, 0.2])
    table["susceptibility"][2, 10] = 20.0  # it does not show as a jump
    found, _ = check_consistency(boundaries, [free], [table])
    assert found.loc[found["z"].abs().idxmax(), "temperature"] == temperature[2]
    found.to_csv(tmp_path / "consistency.csv", index=False)
    section = describe_consistency(read_consistency(tmp_path / "consistency.csv"), CHECKS, [])
    assert any("thermodynamic integration" in s for s in [*section.sentences, *section.warnings])


def test_a_line_is_cut_where_one_of_its_phases_becomes_another() -> None:
    """A peritectoid: two gaps with a phase at x = 1/2 between below 470 K, one gap above."""
    line = true_line()
    rows = []
    for kelvin, mu in zip(TEMPERATURE, line["delta_mu"], strict=True):
        gaps = [(0.1, 0.49, 0), (0.51, 0.9, 1)] if kelvin < 470 else [(0.12, 0.88, 1)]
        rows += [
            BoundaryPoint("equal_weight", "snis", "regular", number, "two_phase", kelvin, kelvin, kelvin, mu, mu, mu,
                          left, right, 0.01, 0.01)
            for left, right, number in gaps
        ]  # fmt: skip
    points = boundary_table(rows)
    (junction,) = find_junctions(points)
    assert (junction.kind, junction.below, junction.above) == ("peritectoid", 450.0, 480.0)
    assert (junction.left, junction.right, junction.whole) == (0, 1, 1)
    lines = split_lines(points)
    pieces = cut_line(lines["equal_weight", "snis", "regular", 1], [junction])
    assert [piece["temperature"].tolist() for piece in pieces] == [[420.0, 450.0], [480.0, 510.0, 540.0]]
    assert len(cut_line(lines["equal_weight", "snis", "regular", 0], [junction])) == 1
    # A criterion that sees one gap where the other sees two is not compared there, and that is said.
    coarse = true_line("composition_jump", "snis", x_left=0.04, x_right=-0.02)
    table, notes = check_consistency(merge_boundaries([points, coarse]), [])
    assert set(table.loc[table["check"] == "criteria", "temperature"]) == {480.0, 510.0, 540.0}
    assert (
        "2 points where composition_jump has one gap and equal_weight two with a phase between: not compared." in notes
    )
