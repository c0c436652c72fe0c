"""Two-phase lines joined at three-phase temperatures, as a phase diagram shows them.

Between two temperatures of the grid one gap becomes two with a phase between. A line drawn through its points alone
would cut across that step, from one phase to another; here it ends at the middle of the step, on the horizontal line of
the three phases.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from segalflow.phases.lines import Junction, cut_line, find_junctions

EDGE = ["temperature", "x_left", "x_right"]


def join_lines(gaps: pd.DataFrame) -> tuple[list[tuple[pd.DataFrame, pd.DataFrame]], list[tuple[float, float, float]]]:
    """Return the pieces of all lines of one source and its three-phase lines.

    Args:
        gaps: two-phase points of one criterion, method and cell.

    Returns:
        For every piece its points, with rising temperature, and its edge (columns `EDGE`): the same with the ends at
        three-phase temperatures. And temperature, left and right end of every three-phase line.
    """
    junctions = find_junctions(gaps)
    lines = {int(number): line.sort_values("temperature") for number, line in gaps.groupby("boundary")}
    pieces = [(number, piece) for number, line in lines.items() for piece in cut_line(line, junctions)]
    added: list[list[tuple[float, float, float]]] = [[] for _ in pieces]
    horizontal = []
    for junction in junctions:
        two, one = junction.below, junction.above
        if not junction.parted_below:
            two, one = one, two
        parts = [
            _piece_at(pieces, n, t) for n, t in ((junction.left, two), (junction.right, two), (junction.whole, one))
        ]
        left, right, whole = (pieces[k][1].loc[pieces[k][1]["temperature"] == t].iloc[0] for k, t in
                              zip(parts, (two, two, one), strict=True))  # fmt: skip
        middle = (junction.below + junction.above) / 2
        first, last = ((a[side] + whole[side]) / 2 for a, side in ((left, "x_left"), (right, "x_right")))
        ends = ((first, left["x_right"]), (right["x_left"], last), (first, last))
        for k, end in zip(parts, ends, strict=True):
            added[k].append((middle, float(end[0]), float(end[1])))
        horizontal.append((middle, float(first), float(last)))
    edges = [
        pd.concat([piece[EDGE], pd.DataFrame(more, columns=EDGE)] if more else [piece[EDGE]]).sort_values("temperature")
        for (_, piece), more in zip(pieces, added, strict=True)
    ]
    return [(piece, edge) for (_, piece), edge in zip(pieces, edges, strict=True)], horizontal


def _piece_at(pieces: list[tuple[int, pd.DataFrame]], number: int, temperature: float) -> int:
    return next(k for k, (n, piece) in enumerate(pieces) if n == number and (piece["temperature"] == temperature).any())


def without_three_phases(tops: pd.DataFrame, junctions: list[Junction]) -> pd.DataFrame:
    """Return the tops of gaps without those where a gap becomes one with its neighbour: the three-phase line shows it.

    Args:
        tops: boundary points, any number of them.
        junctions: three-phase temperatures of the same lines (`segalflow.phases.lines.find_junctions`).
    """
    shown = np.zeros(len(tops), dtype=bool)
    for j in junctions:
        shown |= tops["boundary"].isin([j.left, j.right, j.whole]) & tops["temperature"].between(j.below, j.above)
    return tops[~shown]
