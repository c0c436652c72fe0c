"""Names for the phases on the two sides of a boundary, from the ground states of the hull."""

from __future__ import annotations

import pandas as pd

SOLUTION = "solid solution"


def name_phases(boundaries: pd.DataFrame, hull: pd.DataFrame, tolerance: float = 0.05) -> pd.DataFrame:
    """Return the boundary table with ``left_phase`` and ``right_phase`` filled in where they are empty.

    A side of a composition gap is named after the ground state nearest in composition, if it is within `tolerance` of
    it; else it is a solid solution. Composition alone cannot tell order from disorder: at a transition without a gap,
    and at a gap's top, the names stay empty.

    Args:
        boundaries: boundary table.
        hull: ground states with columns ``x`` and ``name``; all sources of one composition count once.
        tolerance: largest distance in x.
    """
    named = boundaries.copy()
    states = hull.drop_duplicates("x").sort_values("x")
    for side in ("left", "right"):
        names = []
        for _, row in named.iterrows():
            given = str(row[f"{side}_phase"])
            if given or row["kind"] != "two_phase" or not len(states):
                names.append(given)
                continue
            distance = (states["x"] - row[f"x_{side}"]).abs()
            nearest = distance.idxmin()
            names.append(str(states.loc[nearest, "name"]) if distance[nearest] <= tolerance else SOLUTION)
        named[f"{side}_phase"] = names
    return named
