"""Two-phase fields as the largest change of x over a fixed distance in delta_mu (the paper's Cu3Au-CuAu rule).

Damewood et al., npj Comput. Mater. 8, 61 (2022): at each temperature the bounds of the Cu3Au-CuAu field are the two
compositions between 0.2 and 0.6 that differ most of all pairs whose delta_mu are 0.024 eV apart. The paper's rule has
an answer at every temperature, also where there is one phase; here a difference counts only where a first-order jump
(`thermo.jumps`) lies between the two (``ratio: 0`` gives the bare rule).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.grid import Findings, read_grid, read_settings, track_lines
from segalflow.phases.resolution import say_few_points, say_hidden_jumps

CRITERION = "composition_difference"

DEFAULTS: dict[str, Any] = {
    "distance": 0.024,  # eV between the two chemical potentials
    "x_low": 0.2,  # both compositions lie above this
    "x_high": 0.6,  # and below this
    "ratio": 3.0,  # a jump between them is first order above this many times (susceptibility x step); 0: any counts
    "minimum_jump": 0.02,  # smallest jump of x
    "n_sigma": 4.0,  # standard errors of the jump
    "max_steps": 4,  # steps of delta_mu a smeared jump may span
    "overlap": 0.25,  # smallest shared part of the fields of one line at successive temperatures
    "confidence": 0.95,
}

TOLERANCE = 0.25
"""Largest relative deviation of two conditions' distance from the one asked for."""


def find_composition_differences(table: xr.Dataset, *, settings: Mapping[str, Any]) -> Findings:
    """Find one two-phase field a temperature by the largest difference of x over a fixed distance in delta_mu.

    Args:
        table: ensemble table of a binary.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature with a jump inside: the compositions of the pair, the
        middle of its delta_mu with the pair as interval, and half a temperature step as interval of the temperature;
        and a ``gap_top`` where a line ends inside the window.

    Raises:
        BoundaryError: for a grid too coarse to bracket anything, or a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    grid = read_grid(table)
    findings = Findings(notes=grid.skipped())
    distance = float(options["distance"])
    apart = grid.delta_mu[None, :] - grid.delta_mu[:, None]
    off = np.abs(apart - distance)
    fits = (off <= TOLERANCE * distance + 1e-12) & (off <= off.min(axis=1, keepdims=True) + 1e-12)
    if not fits.any():
        findings.notes.append(
            f"No two chemical potentials of this grid are {distance:g} eV apart (its step is "
            f"{float(np.min(np.diff(grid.delta_mu))):g} eV), so no boundary in this window by this rule: a step of "
            f"{distance:g} eV or a fraction of it would do."
        )
        return findings
    rows: list[list[tuple[int, int]]] = []
    jumps = [grid.jumps(t, options, float(options["minimum_jump"])) for t in range(len(grid.temperature))]
    if options["ratio"] > 0:
        findings.notes += say_hidden_jumps(grid, jumps, options, float(options["minimum_jump"]))
    for t in range(len(grid.temperature)):
        x = grid.x[t]
        usable = grid.usable[t] & (x > options["x_low"]) & (x < options["x_high"])
        difference = np.where(fits & usable[:, None] & usable[None, :], x[None, :] - x[:, None], -np.inf)
        i, j = np.unravel_index(int(np.argmax(difference)), difference.shape)
        counts = np.isfinite(difference[i, j])
        if options["ratio"] > 0:
            counts = counts and any(jump.start < j and jump.stop > i for jump in jumps[t])
        rows.append([(int(i), int(j))] if counts else [])
    spans = [[(float(grid.x[t, i]), float(grid.x[t, j])) for i, j in row] for t, row in enumerate(rows)]
    numbers = track_lines(spans, options["overlap"])
    half_step = float(np.min(np.diff(grid.temperature))) / 2
    for line in sorted({n for row in numbers for n in row}):
        members = [t for t, row in enumerate(numbers) if line in row]
        for t in members:
            (pair,) = rows[t]
            kelvin = float(grid.temperature[t])
            findings.points.append(
                _point(grid, t, pair, line, "two_phase", kelvin, kelvin - half_step, kelvin + half_step, options)
            )
        last = members[-1]
        if last == len(grid.temperature) - 1:
            findings.notes.append(f"Line {line} reaches the highest temperature: its top is cut off by the window.")
            continue
        low, high = float(grid.temperature[last]), float(grid.temperature[last + 1])
        findings.notes += say_few_points(f"Line {line}", len(members), high - low, "temperature", grid.temperature_unit)
        findings.points.append(_point(grid, last, rows[last][0], line, "gap_top", (low + high) / 2, low, high, options))
    if not findings.points:
        findings.notes.append(
            f"No jump of x within {distance:g} eV between {options['x_low']:g} and {options['x_high']:g} "
            "in this window."
        )
    return findings


def _point(
    grid: Any,
    t: int,
    pair: tuple[int, int],
    line: int,
    kind: str,
    temperature: float,
    low: float,
    high: float,
    options: Mapping[str, Any],
) -> BoundaryPoint:
    i, j = pair
    left, right = float(grid.x[t, i]), float(grid.x[t, j])
    errors = [float(grid.x_stderr[t, i]), float(grid.x_stderr[t, j])]
    note = ""
    if kind == "gap_top":
        errors = 2 * [(right - left) / float(np.sqrt(12))]
        left = right = (left + right) / 2
        note = "between the last temperature with such a jump and the next without"
    mu = float(grid.delta_mu[i]), float(grid.delta_mu[j])
    return BoundaryPoint(
        CRITERION, grid.method, grid.cell, line, kind, temperature, low, high, sum(mu) / 2, *mu, left, right, *errors,
        confidence=float(options["confidence"]), note=note,
    )  # fmt: skip
