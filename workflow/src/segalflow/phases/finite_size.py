"""Invariant temperatures of cells of several sizes, extrapolated to the infinite crystal.

At a transition of first order a periodic cell of N sites shifts the temperature by a / N (Borgs & Kotecky, J. Stat.
Phys. 61, 79, 1990), at a critical point by a N^(-1/(d nu)), with 1/(d nu) = 0.529 in the three-dimensional Ising class
(nu = 0.630; Ferrenberg, Xu & Landau, Phys. Rev. E 97, 043301, 2018) and 1/2 in the two-dimensional one. With two sizes
the line goes through both, and nothing tells how far it is off: half of the step from the largest cell counts as an
error too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = (
    "expansion",
    "method",
    "criterion",
    "kind",
    "phases",
    "x",
    "cells",
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
APART = 0.15
"""Largest distance in x of one point in two cells."""


def extrapolate(
    n_sites: np.ndarray, values: np.ndarray, stderr: np.ndarray, exponent: float = 1.0
) -> tuple[float, float, float]:
    """Return the value at infinite size, its standard error, and chi^2, by least squares in ``n_sites^-exponent``.

    Args:
        n_sites: numbers of sites, all different, at least two, shape (n,).
        values, stderr: the estimates and their standard errors, alike.
        exponent: see above.

    Returns:
        Errors are scaled by the misfit where three sizes or more scatter beyond them; with two sizes half of the step
        from the larger cell to the estimate is added.

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
    variance = float(solve[0] @ solve[0])
    free = len(values) - 2
    if free > 0:
        variance *= max(chi2 / free, 1.0)
    else:
        variance += ((found[0] - values[np.argmax(n_sites)]) / 2) ** 2
    return float(found[0]), float(np.sqrt(variance)), chi2


def _series(points: pd.DataFrame) -> list[pd.DataFrame]:
    """Points of different cells that are the same one: the nearest in x in every cell, from the largest cell down."""
    sizes = sorted(points["n_sites"].unique(), reverse=True)
    found = []
    for _, first in points[points["n_sites"] == sizes[0]].sort_values("x").iterrows():
        members = [first]
        for size in sizes[1:]:
            others = points[points["n_sites"] == size]
            away = (others["x"] - first["x"]).abs()
            if len(others) and away.min() <= APART:
                members.append(others.loc[away.idxmin()])
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
        A table with the columns `COLUMNS` and sentences on what cannot be extrapolated.
    """
    known = invariants[invariants["cell"].isin(cells)].copy()
    for name in ("n_sites", "expansion", "dimensions"):
        known[name] = [cells[cell][name] for cell in known["cell"]]
    rows, notes = [], []
    for (expansion, method, criterion, kind), points in known.groupby(
        ["expansion", "method", "criterion", "kind"], sort=True
    ):
        # Of two cells of one size the first is taken.
        points = points[points["cell"].isin(points.drop_duplicates("n_sites")["cell"])]
        if points["n_sites"].nunique() < 2:
            notes.append(f"{kind} of {criterion}, {method} ({expansion}): seen in one size only.")
            continue
        for members in _series(points):
            exponent = EXPONENTS.get(int(members["dimensions"].iloc[0]), 0.529) if kind == "critical" else 1.0
            value, error, chi2 = extrapolate(
                members["n_sites"].to_numpy(), members["temperature"].to_numpy(),
                members["temperature_stderr"].to_numpy(), exponent,
            )  # fmt: skip
            ordered = members.sort_values("n_sites")
            rows.append(
                {
                    "expansion": expansion,
                    "method": method,
                    "criterion": criterion,
                    "kind": kind,
                    "phases": members["phases"].iloc[0],
                    "x": float(members["x"].iloc[0]),
                    "cells": " ".join(ordered["cell"]),
                    "exponent": exponent,
                    "temperature": value,
                    "temperature_stderr": error,
                    "chi2": chi2,
                    "degrees_of_freedom": len(members) - 2,
                    "largest_cell": ordered["cell"].iloc[-1],
                    "largest_cell_temperature": float(ordered["temperature"].iloc[-1]),
                    "note": "two sizes: half of the last step is in the error" if len(members) == 2 else "",
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)), notes
