"""Two-phase lines meet at three-phase temperatures instead of cutting across the step of the grid."""

from __future__ import annotations

import pandas as pd
import pytest

from segalflow.phases.lines import find_junctions
from segalflow.plotting.three_phase import join_lines, without_three_phases


def gaps(middle_below: bool) -> pd.DataFrame:
    """A middle phase at x = 0.5 that exists on one side of 250 K; line 1 goes on as the whole gap."""
    two, one = ((100.0, 200.0), (300.0, 400.0)) if middle_below else ((300.0, 400.0), (100.0, 200.0))
    rows = [(t, 0, 0.1, 0.48) for t in two] + [(t, 1, 0.52, 0.9) for t in two] + [(t, 1, 0.2, 0.8) for t in one]
    return pd.DataFrame(rows, columns=["temperature", "boundary", "x_left", "x_right"])


@pytest.mark.parametrize("middle_below", [True, False])
def test_lines_end_on_the_three_phase_line(middle_below) -> None:
    points = gaps(middle_below)
    pieces, horizontal = join_lines(points)
    assert horizontal == [(250.0, pytest.approx(0.15), pytest.approx(0.85))]
    assert len(pieces) == 3
    ends = {}
    for piece, edge in pieces:
        assert len(piece) == 2
        assert len(edge) == 3
        assert edge["temperature"].is_monotonic_increasing
        at = edge[edge["temperature"] == 250.0].iloc[0]
        ends[round(float(piece["x_left"].iloc[0]), 2)] = (float(at["x_left"]), float(at["x_right"]))
    assert ends[0.1] == pytest.approx((0.15, 0.48))
    assert ends[0.52] == pytest.approx((0.52, 0.85))
    assert ends[0.2] == pytest.approx((0.15, 0.85))
    junctions = find_junctions(points)
    tops = pd.DataFrame({"boundary": [0, 1, 2], "temperature": [250.0, 450.0, 250.0]})
    assert without_three_phases(tops, junctions)["boundary"].tolist() == [1, 2]
    assert without_three_phases(tops, [])["boundary"].tolist() == [0, 1, 2]
    nothing = without_three_phases(tops.iloc[:0], junctions)
    assert (len(nothing), list(nothing.columns)) == (0, list(tops.columns))


def test_lines_without_a_junction_are_as_they_are() -> None:
    points = gaps(True).query("boundary == 0")
    ((piece, edge),), horizontal = join_lines(points)
    assert not horizontal
    assert edge["x_right"].tolist() == piece["x_right"].tolist()
    assert join_lines(points.iloc[:0]) == ([], [])
