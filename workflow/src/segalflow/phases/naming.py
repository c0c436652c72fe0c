"""Names for the phases on the two sides of a boundary: by the order of samples, else by the hull's ground states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from segalflow.thermo.order_parameters import SOLUTION
from segalflow.thermo.phase_weights import PhaseWeights

LEAST_SHARE = 0.5
"""Share of the weight at a composition that a phase must have there to give its name."""


def name_by_order(boundaries: pd.DataFrame, weights: Mapping[str, PhaseWeights]) -> pd.DataFrame:
    """Return the boundary table with empty names filled in by what the samples are at each side's composition.

    Sides of a gap are named at the boundary's temperature; of a transition without a gap ``left_phase`` is the phase at
    the grid's temperature below and ``right_phase`` that above. Tops of gaps are left as they are.

    Args:
        boundaries: boundary points of one cell.
        weights: weights of the phases by method; methods without take those of the first that has some.
    """
    known = {method: w for method, w in weights.items() if w.phases}
    if not known:
        return boundaries
    named = boundaries.copy()
    for index, row in named.iterrows():
        if row["kind"] == "gap_top" or row["left_phase"] or row["right_phase"]:
            continue
        source = known.get(str(row["method"]), next(iter(known.values())))
        grid = next(iter(source.phases.values())).temperature
        if row["kind"] == "two_phase":
            nearest = int(np.abs(grid - row["temperature"]).argmin())
            places = [(nearest, row["x_left"]), (nearest, row["x_right"])]
        else:
            above = int(np.clip(np.searchsorted(grid, row["temperature"]), 1, len(grid) - 1))
            middle = (row["x_left"] + row["x_right"]) / 2
            places = [(above - 1, middle), (above, middle)]
        for side, place in zip(("left", "right"), places, strict=True):
            name, share = source.named(*place)
            if share >= LEAST_SHARE:
                named.loc[index, f"{side}_phase"] = name
    return named


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
