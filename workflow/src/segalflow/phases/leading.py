"""Which criterion leads where several find the same gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from segalflow.phases.lines import gap_overlap
from segalflow.phases.tops import same_phase

CONVEXITY = "common_tangent"
"""The criterion that follows a plain gap up to its top: it needs no two peaks, only that f is not convex."""


def leading_criterion(boundaries: pd.DataFrame, ranking: Sequence[str]) -> str | None:
    """Return the criterion whose two-phase lines stand for all; None without any two-phase point.

    It is the first of a ranking that has any, unless common tangents follow one of its plain gaps (one phase on both
    sides) to higher temperatures: close to a critical point the peaks of a finite cell merge, and jumps of x round off,
    long before the gap closes.

    Args:
        boundaries: boundary table, of one cell or several.
        ranking: criteria, the surest first; others come behind by name.
    """
    points = boundaries[boundaries["kind"] == "two_phase"]
    there = set(points["criterion"])
    ranked = [name for name in (*ranking, *sorted(there - set(ranking))) if name in there]
    if not ranked:
        return None
    if CONVEXITY in there and ranked[0] != CONVEXITY:
        keys = ["cell", "method", "boundary"]
        own = points[points["criterion"] == ranked[0]].groupby(keys, sort=True)
        tangents = points[points["criterion"] == CONVEXITY]
        for (cell, method, _), line in own:
            last = line.loc[line["temperature"].idxmax()]
            others = tangents[(tangents["cell"] == cell) & (tangents["method"] == method)]
            if _goes_on(last, others):
                return CONVEXITY
    return ranked[0]


def _goes_on(last: pd.Series, others: pd.DataFrame) -> bool:
    """Whether lines of another criterion hold the same plain gap at the temperature of a line's end and above."""
    if not same_phase(str(last["left_phase"]), str(last["right_phase"])):
        return False
    here = others[np.isclose(others["temperature"], last["temperature"], rtol=1e-9)]
    same = [row["boundary"] for _, row in here.iterrows() if gap_overlap(row, last) > 0.5]
    line = others[others["boundary"].isin(same)]
    above = line[line["temperature"] > last["temperature"] * (1 + 1e-9)]
    return bool(len(above))
