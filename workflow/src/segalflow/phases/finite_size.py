"""Invariant temperatures of cells of several sizes, extrapolated to the infinite crystal.

At a transition of first order (also at the top of a field between phases of different order) a periodic cell of N sites
shifts the temperature by a / N (Borgs & Kotecky, J. Stat. Phys. 61, 79, 1990); at a continuous one (the critical point
of a plain miscibility gap, a continuous order-disorder line) by a N^(-1/(d nu)), with 1/(d nu) = 0.529 in the
three-dimensional Ising class (nu = 0.630; Ferrenberg, Xu & Landau, Phys. Rev. E 97, 043301, 2018) and 1/2 in the
two-dimensional one. With two sizes the line goes through both, and nothing tells how far it is off: half of the step
from the largest cell counts as an error too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from segalflow.phases.tops import is_crossing

COLUMNS = (
    "expansion",
    "method",
    "criterion",
    "kind",
    "order",
    "phases",
    "x",
    "cells",
    "sizes",
    "temperatures",
    "temperature_stderrs",
    "exponent",
    "temperature",
    "temperature_stderr",
    "chi2",
    "degrees_of_freedom",
    "largest_cell",
    "largest_cell_temperature",
    "note",
)
EXPONENTS = {3: 0.529, 2: 0.5}
"""1/(d nu) of the Ising class by dimension."""
TOPS = ("congruent", "order_disorder", "critical")
"""Kinds of points that may be one and the same in cells that resolve it differently."""
APART = 0.15
"""Largest distance in x of one point in two cells."""


def fit_sizes(
    n_sites: np.ndarray, values: np.ndarray, stderr: np.ndarray, exponent: float = 1.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit ``a + b n_sites^-exponent`` by least squares.

    Args:
        n_sites: numbers of sites, all different, at least two, shape (n,).
        values, stderr: the estimates and their standard errors, alike.
        exponent: see above.

    Returns:
        (a, b), their covariance (2, 2), scaled by the misfit where three sizes or more scatter beyond their errors, and
        chi^2. With two sizes half of the step from the larger cell to infinite size is added: fully at infinite size,
        nothing at the larger cell.

    Raises:
        ValueError: with fewer than two sizes.
    """
    n_sites, values, stderr = (np.asarray(v, dtype=float) for v in (n_sites, values, stderr))
    if len(np.unique(n_sites)) < 2:
        raise ValueError("an extrapolation needs two sizes or more")
    floor = max(1e-3 * float(stderr.max(initial=0.0)), 1e-9 * float(np.abs(values).max()))
    error = np.maximum(np.nan_to_num(stderr), floor)
    powers = np.stack([np.ones(len(values)), n_sites**-exponent], axis=1) / error[:, None]
    solve = np.linalg.pinv(powers)
    found = solve @ (values / error)
    chi2 = float(np.sum((values / error - powers @ found) ** 2))
    covariance = solve @ solve.T
    free = len(values) - 2
    if free > 0:
        covariance *= max(chi2 / free, 1.0)
    else:
        step = (found[0] - values[np.argmax(n_sites)]) / 2
        away = np.array([1.0, -float(n_sites.max() ** exponent)])
        covariance = covariance + step**2 * np.outer(away, away)
    return found, covariance, chi2


def extrapolate(
    n_sites: np.ndarray, values: np.ndarray, stderr: np.ndarray, exponent: float = 1.0
) -> tuple[float, float, float]:
    """Return the value at infinite size, its standard error, and chi^2 of `fit_sizes`, whose arguments these are.

    Raises:
        ValueError: with fewer than two sizes.
    """
    found, covariance, chi2 = fit_sizes(n_sites, values, stderr, exponent)
    return float(found[0]), float(np.sqrt(covariance[0, 0])), chi2


def _series(points: pd.DataFrame) -> list[pd.DataFrame]:
    """Points of different cells that are the same one: the nearest in x in every cell, from the largest cell down.

    Of several kinds in reach that of the largest cell is taken first.
    """
    sizes = sorted(points["n_sites"].unique(), reverse=True)
    found = []
    for _, first in points[points["n_sites"] == sizes[0]].sort_values(["kind", "x"]).iterrows():
        members = [first]
        for size in sizes[1:]:
            others = points[points["n_sites"] == size]
            away = (others["x"] - first["x"]).abs()
            near = away[away <= APART]
            if len(near):
                alike = near[others.loc[near.index, "kind"] == first["kind"]]
                members.append(others.loc[(alike if len(alike) else near).idxmin()])
        if len(members) > 1:
            found.append(pd.DataFrame(members))
    return found


def finite_size_series(
    invariants: pd.DataFrame, cells: Mapping[str, Mapping[str, Any]]
) -> tuple[pd.DataFrame, list[str]]:
    """Extrapolate the temperature of every invariant point that two cells or more of one Hamiltonian show.

    Args:
        invariants: invariant points of all cells (`segalflow.phases.invariants.COLUMNS`).
        cells: by name, ``n_sites``, ``expansion`` and ``dimensions`` (2 or 3) of the cells.

    Returns:
        A table with the columns `COLUMNS` (``cells``, ``sizes``, ``temperatures`` and ``temperature_stderrs`` hold
        those of all cells from the smallest up, separated by blanks) and sentences on what cannot be extrapolated. What
        a point is, is for the largest cell to say. Where cumulants of cells cross is an estimate for the infinite
        crystal already (`critical_point`): it is among the sentences, not in the table.
    """
    known = invariants[invariants["cell"].isin(cells)].copy()
    crossings = np.array([is_crossing(row) for row in known.to_dict("records")], dtype=bool)
    known, crossed = known[~crossings].copy(), known[crossings]
    for name in ("n_sites", "expansion", "dimensions"):
        known[name] = [cells[cell][name] for cell in known["cell"]]
    rows = []
    notes = [
        f"{row.criterion}, {row.method}: cumulants cross at {row.temperature:.4g} +- {row.temperature_stderr:.2g} "
        "(standard error), which needs no extrapolation."
        for row in crossed.itertuples()
    ]
    known["family"] = known["kind"].map(lambda kind: "top" if kind in TOPS else kind)
    for (expansion, method, criterion, _), points in known.groupby(
        ["expansion", "method", "criterion", "family"], sort=True
    ):
        # Of two cells of one size the first is taken.
        points = points[points["cell"].isin(points.drop_duplicates("n_sites")["cell"])]
        if points["n_sites"].nunique() < 2:
            notes += [
                f"{kind} of {criterion}, {method} ({expansion}): seen in one size only."
                for kind in sorted(set(points["kind"]))
            ]
            continue
        rows += [
            {"expansion": expansion, "method": method, "criterion": criterion, **_row(members)}
            for members in _series(points)
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS)), notes


def _row(members: pd.DataFrame) -> dict[str, Any]:
    """The extrapolation of one point, of its members in all cells, the largest first."""
    largest = members.iloc[0]
    continuous = largest["order"] == "continuous"
    exponent = EXPONENTS.get(int(largest["dimensions"]), EXPONENTS[3]) if continuous else 1.0
    ordered = members.sort_values("n_sites")
    sizes, values, errors = (ordered[name].to_numpy(float) for name in ("n_sites", "temperature", "temperature_stderr"))
    value, error, chi2 = extrapolate(sizes, values, errors, exponent)
    notes = ["two sizes: half of the last step is in the error"] if len(members) == 2 else []
    others = sorted(set(members["kind"]) - {largest["kind"]})
    notes += [f"taken for {' and '.join(others)} in smaller cells"] if others else []
    return {
        "kind": largest["kind"],
        "order": largest["order"],
        "phases": largest["phases"],
        "x": float(largest["x"]),
        "cells": " ".join(ordered["cell"]),
        "sizes": " ".join(f"{n:.0f}" for n in sizes),
        "temperatures": " ".join(f"{t:.6g}" for t in values),
        "temperature_stderrs": " ".join(f"{e:.4g}" for e in errors),
        "exponent": exponent,
        "temperature": value,
        "temperature_stderr": error,
        "chi2": chi2,
        "degrees_of_freedom": len(members) - 2,
        "largest_cell": largest["cell"],
        "largest_cell_temperature": float(largest["temperature"]),
        "note": "; ".join(notes),
    }
