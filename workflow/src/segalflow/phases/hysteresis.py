"""First-order lines as loops between the branches of a scan: delta_mu driven up and down at constant temperature.

Inside the loop both branches are (meta)stable, so the line of equal grand potentials lies between its ends. The middle
of the loop is the estimate and its ends are the interval: a bound, not a standard error. It shrinks with slower scans
and closes where there is no first-order line any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.grid import Findings, read_grid, read_settings, track_lines
from segalflow.phases.resolution import POINTS, say_coarse

CRITERION = "hysteresis"

DEFAULTS: dict[str, Any] = {
    "minimum_gap": 0.02,  # smallest difference of the branches in x
    "n_sigma": 4.0,  # the difference must exceed this many of its standard errors
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
}


def find_hysteresis(table: xr.Dataset, *, settings: Mapping[str, Any]) -> Findings:
    """Find first-order lines as loops of x(delta_mu) between rising and falling delta_mu.

    Args:
        table: ensemble table of a scan (`composition_up`, `composition_down`); others have nothing to say here.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point for every loop: delta_mu at its middle, its ends as interval, and the compositions of both
        branches in the middle. Loops that reach an end of the window are left out and said.

    Raises:
        BoundaryError: for a grid too coarse to bracket anything, or a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    grid = read_grid(table)
    if "composition_up" not in table:
        return Findings(notes=["No branches of rising and falling delta_mu in this table (method 'scan' makes them)."])
    up, down = (np.asarray(table[f"composition_{branch}"], dtype=float) for branch in ("up", "down"))
    error = np.hypot(*(np.asarray(table[f"composition_{branch}_stderr"], dtype=float) for branch in ("up", "down")))
    # On rising delta_mu the poorer phase is left late: the upper branch is that of the falling one.
    apart = (down - up > options["minimum_gap"]) & (down - up > options["n_sigma"] * np.nan_to_num(error))
    findings, loops, cut = Findings(), [], []
    narrow: dict[float, float] = {}
    for t in range(len(grid.temperature)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], apart[t].astype(int), [0]])))
        row = []
        for first, behind in zip(edges[::2], edges[1::2], strict=True):
            if first == 0 or behind == len(grid.delta_mu):
                cut.append(float(grid.temperature[t]))
                continue
            # The branches part and meet somewhere in the steps beside the outermost open conditions.
            low, high = float(grid.delta_mu[first - 1]), float(grid.delta_mu[behind])
            middle = (low + high) / 2
            if behind - first < POINTS:
                # As wide as that many steps, give or take one.
                step = (behind - first) * (high - low) / (behind - first + 1) / POINTS
                narrow[float(grid.temperature[t])] = min(step, narrow.get(float(grid.temperature[t]), np.inf))
            sides = [float(np.interp(middle, grid.delta_mu, branch[t])) for branch in (up, down)]
            errors = [
                float(np.interp(middle, grid.delta_mu, np.nan_to_num(np.asarray(table[f"composition_{b}_stderr"])[t])))
                for b in ("up", "down")
            ]
            row.append((low, middle, high, sides, errors))
        loops.append(row)
    lines = track_lines([[tuple(loop[3]) for loop in row] for row in loops], options["overlap"])
    for t, (row, numbers) in enumerate(zip(loops, lines, strict=True)):
        for (low, middle, high, sides, errors), number in zip(row, numbers, strict=True):
            findings.points.append(
                BoundaryPoint(
                    CRITERION, grid.method, grid.cell, number, "two_phase", *(3 * [float(grid.temperature[t])]), middle,
                    low, high, *sides, *errors, note="ends of the interval are those of the scan's loop",
                )
            )  # fmt: skip
    why = f"loops between the branches hold fewer than {POINTS} chemical potentials, so their ends are not known"
    findings.notes += say_coarse(narrow, float(np.max(np.diff(grid.delta_mu))), why)
    if cut:
        findings.notes.append(
            f"Loops at {', '.join(f'{t:g}' for t in sorted(set(cut)))} {grid.temperature_unit} reach an end of the "
            "delta_mu window and were left out: a wider grid.delta_mu would hold them."
        )
    if not findings.points:
        findings.notes.append(
            "No loop between the branches inside this window: no first-order line that a scan of this pace shows."
        )
    return findings
