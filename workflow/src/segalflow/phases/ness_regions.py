"""Regions of the (T, delta_mu) plane in which importance sampling is hard: segments of the map of NESS.

Damewood et al., npj Comput. Mater. 8, 61 (2022) read the top of the Ag-Pd gap off the low segment of this map: a
sampler trained on the whole plane does worst where two phases compete. That is a mark of the sampler and no
thermodynamic quantity: a better sampler has no such region, and a worse one has them elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.grid import Findings, Grid, read_grid, read_settings
from segalflow.phases.resolution import say_few_points

CRITERION = "ness_regions"

DEFAULTS: dict[str, Any] = {
    "contrast": 3.0,  # the median NESS outside must be this many times that inside
    "minimum_size": 4,  # fewest conditions of a region
    "minimum_gap": 0.02,  # narrowest part of a region in x that is a field
    "smoothing": 0.7,  # width of the Gaussian that smooths the map, in steps of the grid
    "confidence": 0.95,
}


def segment_map(ness: np.ndarray, smoothing: float) -> np.ndarray:
    """Return the connected regions of low values of a map, numbered from 1, int (n_temperatures, n_delta_mu).

    The logarithm is smoothed, cut by Otsu's threshold (IEEE Trans. Syst. Man Cybern. 9, 62, 1979) and its low part
    labelled, conditions being neighbours along both axes and diagonals.

    Args:
        ness: the map; what is not finite or not positive counts as lowest.
        smoothing: width of the Gaussian, in steps.
    """
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label

    known = np.isfinite(ness) & (ness > 0)
    if not known.any():
        return np.zeros(ness.shape, dtype=int)
    logs = np.log10(np.where(known, ness, ness[known].min()))
    smooth = gaussian(logs, sigma=smoothing, mode="nearest", preserve_range=True) if smoothing > 0 else logs
    if np.ptp(smooth) < 1e-9:
        return np.zeros(ness.shape, dtype=int)
    return label(smooth < threshold_otsu(smooth), connectivity=2)


def find_ness_regions(table: xr.Dataset, *, settings: Mapping[str, Any]) -> Findings:
    """Find the regions of low effective sample size, their sides and their tops.

    Args:
        table: ensemble table of importance sampling (`ness`); others have nothing to say here.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature of a region wider than ``minimum_gap``: delta_mu at its middle with
        its sides as interval, and the compositions of the conditions just outside; a ``gap_top`` half a step above
        its highest temperature if that lies inside the window. Sides at an end of the window are said.

    Raises:
        BoundaryError: for a grid too coarse to bracket anything, or a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    grid = read_grid(table)
    findings = Findings(notes=grid.skipped())
    if "ness" not in table:
        findings.notes.append("No map of effective sample sizes in this table, so no region of it in this window.")
        return findings
    ness = np.asarray(table["ness"], dtype=float)
    regions = segment_map(ness, float(options["smoothing"]))
    kept = 0
    small: list[int] = []
    for number in range(1, int(regions.max(initial=0)) + 1):
        inside = regions == number
        outside = np.median(ness[regions == 0]) if (regions == 0).any() else 0.0
        if not outside > options["contrast"] * np.median(ness[inside]):
            continue
        if inside.sum() < options["minimum_size"]:
            small.append(int(inside.sum()))
            continue
        kept += _add_region(grid, inside, kept, options, findings)
    if small:
        # The same region has as many more conditions as both steps together are smaller.
        factor, step = np.sqrt(max(small) / options["minimum_size"]), float(np.max(np.diff(grid.delta_mu)))
        kelvin = float(np.max(np.diff(grid.temperature)))
        findings.notes.append(
            f"{len(small)} regions of at most {max(small)} conditions are too small for this grid to show: a step of "
            f"{factor * step:.2g} eV and of {factor * kelvin:.3g} {grid.temperature_unit} would do (now {step:.2g} eV "
            f"and {kelvin:.3g} {grid.temperature_unit})."
        )
    if not kept:
        findings.notes.append(
            f"No region inside this window has an effective sample size {options['contrast']:g} times below the rest."
        )
    return findings


def _add_region(grid: Grid, inside: np.ndarray, line: int, options: Mapping[str, Any], findings: Findings) -> int:
    """Add the points of one region and what the window cuts off; return 1 if it has any."""
    rows = np.flatnonzero(inside.any(axis=1))
    half_step = float(np.min(np.diff(grid.temperature))) / 2
    points, cut = [], []
    for t in rows:
        columns = np.flatnonzero(inside[t])
        first, last = int(columns[0]), int(columns[-1])
        if first == 0 or last == len(grid.delta_mu) - 1:
            cut.append(float(grid.temperature[t]))
            continue
        # The conditions just outside: of the nearest there whose composition is known.
        left = next((k for k in range(first - 1, -1, -1) if grid.usable[t, k]), None)
        right = next((k for k in range(last + 1, len(grid.delta_mu)) if grid.usable[t, k]), None)
        if left is None or right is None or grid.x[t, right] - grid.x[t, left] < options["minimum_gap"]:
            continue
        kelvin = float(grid.temperature[t])
        low, high = (float(grid.delta_mu[[a, b]].mean()) for a, b in ((first - 1, first), (last, last + 1)))
        points.append(
            BoundaryPoint(
                CRITERION, grid.method, grid.cell, line, "two_phase", kelvin, kelvin - half_step, kelvin + half_step,
                (low + high) / 2, low, high, float(grid.x[t, left]), float(grid.x[t, right]),
                float(grid.x_stderr[t, left]), float(grid.x_stderr[t, right]),
                confidence=float(options["confidence"]), note="where the sampler is weak, not a thermodynamic boundary",
            )
        )  # fmt: skip
    name = f"Region {line} ({grid.temperature[rows[0]]:g} to {grid.temperature[rows[-1]]:g} {grid.temperature_unit})"
    if cut:
        findings.notes.append(
            f"{name} reaches an end of the delta_mu window at {len(cut)} temperatures, which were left out: a wider "
            "grid.delta_mu would hold it."
        )
    if not points:
        return 0
    findings.points += points
    top = points[-1]
    if rows[-1] == len(grid.temperature) - 1:
        findings.notes.append(f"{name} reaches the highest temperature: its top is cut off by the window.")
    elif top.temperature == grid.temperature[rows[-1]]:
        low, high = top.temperature, float(grid.temperature[rows[-1] + 1])
        findings.notes += say_few_points(name, len(rows), high - low, "temperature", grid.temperature_unit)
        middle, width = (top.x_left + top.x_right) / 2, (top.x_right - top.x_left) / float(np.sqrt(12))
        findings.points.append(
            BoundaryPoint(
                CRITERION, grid.method, grid.cell, line, "gap_top", (low + high) / 2, low, high, top.delta_mu,
                top.delta_mu_low, top.delta_mu_high, middle, middle, width, width,
                confidence=float(options["confidence"]), note="top of a region of low effective sample size",
            )
        )  # fmt: skip
    return 1
