"""Finite-size series: known laws are extrapolated, errors cover, and what is missing is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from segalflow.phases.finite_size import COLUMNS, extrapolate, finite_size_series, fit_sizes
from segalflow.plotting.finite_size import plot_finite_size
from segalflow.reporting.boundaries import describe_sizes

SIZES = np.array([64, 128, 256])


def test_known_laws_are_extrapolated_and_errors_cover() -> None:
    rng, inside = np.random.default_rng(1), []
    for _ in range(300):
        for exponent in (1.0, 0.529):
            values = 500 + 300 * SIZES**-exponent + 0.5 * rng.standard_normal(3)
            found, error, _ = extrapolate(SIZES, values, np.full(3, 0.5), exponent)
            inside.append(abs(found - 500) <= 1.96 * error)
    assert 0.94 <= np.mean(inside) <= 1.0
    found, error, chi2 = extrapolate(SIZES[:2], 500 + 300 / SIZES[:2], np.zeros(2))
    assert found == pytest.approx(500, abs=1e-6)
    assert chi2 == pytest.approx(0.0, abs=1e-6)
    assert error == pytest.approx(300 / 128 / 2, rel=1e-3)
    with pytest.raises(ValueError, match="two sizes or more"):
        extrapolate(SIZES[:1], np.ones(1), np.ones(1))


def test_points_of_cells_are_matched_by_hamiltonian_kind_and_composition() -> None:
    rows = []
    for cell, n in {"a": 64, "b": 128, "c": 256, "other": 64}.items():
        for kind, x, top in (("congruent", 0.25, 800.0), ("congruent", 0.75, 500.0), ("critical", 0.5, 400.0)):
            power = 0.529 if kind == "critical" else 1.0
            at = top + 1000 * n**-power
            order = "continuous" if kind == "critical" else "first"
            rows.append({"kind": kind, "order": order, "cell": cell, "method": "snis", "criterion": "equal_weight",
                         "x": x + 1 / n, "temperature": at, "temperature_stderr": 1.0, "phases": "A + B"})  # fmt: skip
    rows.append({**rows[0], "kind": "eutectoid"})
    cells = {name: {"n_sites": n, "expansion": "main", "dimensions": 3} for name, n in zip("abc", SIZES, strict=True)}
    cells["other"] = {"n_sites": 64, "expansion": "second", "dimensions": 3}
    table, notes = finite_size_series(pd.DataFrame(rows), cells)
    assert tuple(table.columns) == COLUMNS
    assert table["temperature"].tolist() == pytest.approx([800.0, 500.0, 400.0], abs=1e-6)
    assert set(table["cells"]) == {"a b c"}
    assert set(table["largest_cell"]) == {"c"}
    assert table["exponent"].tolist() == [1.0, 1.0, 0.529]
    assert set(table["sizes"]) == {"64 128 256"}
    assert [float(t) for t in table["temperatures"].iloc[0].split()] == pytest.approx(800 + 1000 / SIZES, abs=1e-3)
    assert "eutectoid of equal_weight, snis (main): seen in one size only." in notes
    assert len([n for n in notes if "(second)" in n]) == 2


def test_a_crossing_of_cells_is_not_extrapolated_again() -> None:
    rows = [
        {"kind": "critical", "order": "continuous", "cell": cell, "method": "tempering", "criterion": "critical_point",
         "x": 0.16, "temperature": at, "temperature_stderr": 2.0, "phases": "", "note": note}
        for cell, at, note in (("a", 480.0, "one cell"), ("b", 476.0, "one cell"), ("b", 470.0, "crossing of cells"))
    ]  # fmt: skip
    cells = {name: {"n_sites": n, "expansion": "main", "dimensions": 3} for name, n in (("a", 64), ("b", 512))}
    table, notes = finite_size_series(pd.DataFrame(rows), cells)
    assert table["temperatures"].tolist() == ["480 476"]
    assert "cumulants cross at 470 +- 2" in notes[0]


def test_first_order_and_continuous_points_are_extrapolated_by_their_own_laws() -> None:
    """The top of an order-disorder field by 1/N; a critical point and a continuous line by N^-0.529 (N^-1/2 in 2D)."""
    laws = {("order_disorder", "first"): (1.0, 1.0), ("critical", "continuous"): (0.529, 0.5),
            ("congruent", "continuous"): (0.529, 0.5), ("congruent", ""): (1.0, 1.0)}  # fmt: skip
    for (kind, order), exponents in laws.items():
        for dimensions, exponent in zip((3, 2), exponents, strict=True):
            rows = [
                {"kind": kind, "order": order, "cell": name, "method": "snis", "criterion": "common_tangent", "x": 0.5,
                 "temperature": 600 - 900 * float(n) ** -exponent, "temperature_stderr": 0.5, "phases": ""}
                for name, n in zip("abc", SIZES, strict=True)
            ]  # fmt: skip
            cells = {name: {"n_sites": n, "expansion": "main", "dimensions": dimensions}
                     for name, n in zip("abc", SIZES, strict=True)}  # fmt: skip
            (found,) = finite_size_series(pd.DataFrame(rows), cells)[0].itertuples()
            assert found.temperature == pytest.approx(600.0, abs=1e-6)
            assert found.chi2 == pytest.approx(0.0, abs=1e-6)
            # What a smaller cell took it for does not split the series.
            rows[0] |= {"kind": "critical" if kind != "critical" else "order_disorder"}
            (found,) = finite_size_series(pd.DataFrame(rows), cells)[0].itertuples()
            assert (found.kind, found.cells) == (kind, "a b c")
            assert found.note == f"taken for {rows[0]['kind']} in smaller cells"


def test_the_band_of_two_sizes_closes_at_the_larger_cell() -> None:
    found, covariance, _ = fit_sizes(SIZES[:2], 500 + 300 / SIZES[:2], np.zeros(2))
    at = np.stack([np.ones(3), [0.0, 1 / 128, 1 / 256]], axis=1)
    assert at @ found == pytest.approx([500.0, 500 + 300 / 128, 500 + 300 / 256])
    band = np.sqrt(np.einsum("ij,jk,ik->i", at, covariance, at))
    assert band == pytest.approx([300 / 128 / 2, 0.0, 300 / 128 / 2 / 2], abs=1e-3)


def series_table() -> pd.DataFrame:
    """Two series of three sizes and one of two, each with its law."""
    rows = []
    points = [
        ("critical", "continuous", 0.5, 580.0, SIZES),
        ("congruent", "first", 0.25, 660.0, SIZES),
        ("peritectoid", "first", 0.6, 300.0, SIZES[:2]),
    ]
    for kind, order, x, top, sizes in points:
        power = 0.529 if order == "continuous" else 1.0
        for name, n in zip("abc", sizes, strict=False):
            at = top - 400 * float(n) ** -power + (n == 128)
            rows.append({"kind": kind, "order": order, "cell": name, "method": "snis", "criterion": "common_tangent",
                         "x": x, "temperature": at, "temperature_stderr": 0.8,
                         "phases": "CuAu L1_0 + solid solution"})  # fmt: skip
    cells = {name: {"n_sites": n, "expansion": "main", "dimensions": 3} for name, n in zip("abc", SIZES, strict=True)}
    return finite_size_series(pd.DataFrame(rows), cells)[0]


def test_the_figure_holds_every_cell_and_the_extrapolation(tmp_path) -> None:
    table = series_table()
    figure, data = plot_finite_size(table)
    assert len([axes for axes in figure.axes if axes.get_title()]) == 3
    drawn = data[data["series"] == "infinite"].set_index("kind")
    expected = table.set_index("kind")
    for name, column in (("temperature", "temperature"), ("stderr", "temperature_stderr")):
        assert drawn[name].to_dict() == pytest.approx(expected[column].to_dict(), rel=1e-3)
    assert (data["series"] == "cell").sum() == 8
    table.to_csv(tmp_path / "series.csv", index=False)
    _, same = plot_finite_size(pd.read_csv(tmp_path / "series.csv"))
    pd.testing.assert_frame_equal(data, same)
    empty, none = plot_finite_size(table.iloc[:0])
    assert not len(none)
    assert "several sizes" in empty.axes[0].texts[0].get_text()


def test_the_summary_has_a_section_on_sizes() -> None:
    table = series_table()
    section = describe_sizes(table)
    assert any("1 of 3 series have two sizes" in s for s in section.sentences)
    assert len(section.tables[0].rows) == 3
    critical = next(row for row in section.tables[0].rows if row[0].startswith("critical"))
    assert critical[4] == "64 / 128 / 256"
    assert critical[5] == "0.529"
    assert not section.warnings
    off = table.assign(chi2=[30.0] * 3)
    assert len(describe_sizes(off).warnings) == 2  # two sizes have nothing to scatter about
    assert "No invariant point" in describe_sizes(table.iloc[:0]).sentences[0]
