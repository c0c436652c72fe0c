"""The interactive diagram: every point in both diagrams, its row in words, no network, the same bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from segalflow.phases.boundaries import BoundaryPoint, boundary_table
from segalflow.plotting.interactive import interactive_diagram, write_interactive_diagram


def point(criterion, line, kind, temperature, mu, left, right, **more):
    interval = (temperature - 5, temperature + 5)
    return BoundaryPoint(
        criterion, more.pop("method", "snis"), "main", line, kind, temperature, *interval, mu, mu - 0.001, mu + 0.001,
        left, right, 0.01, 0.02, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def boundaries():
    named = {"left_phase": "Cu3Au D0_22", "right_phase": "solid solution", "note": "few < samples"}
    return boundary_table(
        [point("common_tangent", 0, "two_phase", t, -0.05, 0.2, 0.4, **named) for t in (300.0, 320.0)]
        + [point("common_tangent", 0, "gap_top", 330.0, -0.05, 0.3, 0.3)]
        + [point("heat_capacity", 0, "transition", 400 + m, m / 100, 0.5, 0.6, method="metropolis") for m in (2.0, 1.0)]
    )


def test_every_point_is_in_both_diagrams_with_its_errors(boundaries) -> None:
    figure = interactive_diagram(boundaries, ("Cu", "Au"))
    by_x, by_mu = ([t for t in figure.data if t.xaxis == axis] for axis in ("x", "x2"))
    assert sorted(y for t in by_mu for y in t.y) == sorted(boundaries["temperature"])
    # A two-phase line has a branch on either side, a top and a transition one place.
    left, right = [t for t in by_x if len(t.y) == 2 and t.legendgroup == "snis common_tangent"]
    assert list(left.x) == [0.2, 0.2]
    assert list(right.x) == [0.4, 0.4]
    assert np.asarray(right.error_x.array) == pytest.approx(1.96 * 0.02, abs=1e-4)
    (heat,) = [t for t in by_x if t.legendgroup == "metropolis heat_capacity"]
    assert list(heat.y) == [401, 402]
    assert heat.x == pytest.approx([0.55, 0.55])
    assert heat.error_x.array == pytest.approx([0.05, 0.05])
    assert heat.error_y.array == pytest.approx([5, 5])
    # One entry of the legend a method and criterion.
    named = [t.name for t in figure.data if t.showlegend]
    assert sorted(named) == ["Metropolis: heat-capacity maximum", "SEGAL + SNIS: common tangent"]


def test_pointing_shows_the_row(boundaries) -> None:
    figure = interactive_diagram(boundaries, ("Cu", "Au"))
    text = next(t for t in figure.data if t.legendgroup == "snis common_tangent" and len(t.y) == 2).text[0]
    assert text.split("<br>") == [
        "<b>common tangent</b>, SEGAL + SNIS",
        "two phases: Cu<sub>3</sub>Au D0<sub>22</sub> + solid solution",
        "T = 300.0 K (295.0 to 305.0)",
        "x<sub>Au</sub> (left) = 0.2000 ± 0.0100",
        "x<sub>Au</sub> (right) = 0.4000 ± 0.0200",
        "Δμ = -0.05000 eV (-0.05100 to -0.04900)",
        "± standard error, (…) 95 % interval",
        "few &lt; samples",
    ]
    model = interactive_diagram(boundaries, ("down", "up"), "J")
    assert "T = 401.000 J/k_B" in model.data[0].text[0]


def test_the_page_needs_nothing_and_is_the_same_bytes(boundaries, tmp_path) -> None:
    for name in ("first", "second"):
        write_interactive_diagram(tmp_path / name, boundaries, ("Cu", "Au"), {"main": "eV", "other": "eV"})
    page = (tmp_path / "first").read_text()
    assert page == (tmp_path / "second").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)
    assert page.count('<div id="diagram-') == 2
    # plotly itself is in it once.
    assert 3e6 < len(page) < 6e6
    assert "no boundary found in this window" in page
    write_interactive_diagram(tmp_path / "none", boundaries, ("Cu", "Au"), {})
    assert "from none of its cells" in (tmp_path / "none").read_text()
