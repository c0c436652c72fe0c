"""Two-phase fields as what the alpha shape of the composition points (x, T) leaves out.

A sampler at given (T, delta_mu) visits single phases only, so the points (<x>(T, delta_mu), T) leave two-phase fields
empty; Damewood et al. (2022) read the gap's top off the alpha shape (alpha 1.2) of these points, "compositions and
temperatures brought to similar scale". The scaling here is stated: temperatures count in rows of the grid, and
compositions in units of ``minimum_gap / sqrt((2/alpha)^2 - 1)``, so that between two rows a gap wider than
``minimum_gap`` is left open and a narrower one is covered.

On a grid three things would spoil the bare shape, and are treated. Near a critical point x moves far in one step of
delta_mu without any gap: the isotherm is filled with points everywhere but across first-order jumps (``thermo.jumps``:
more than the susceptibility explains). A line compound is a column of points with no triangle, so edges of the alpha
complex (neighbours no farther than 2/alpha) count as covered too. Conditions inside a smeared jump average over two
phases and are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr

from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.grid import Findings, Grid, read_grid, read_settings, track_lines
from segalflow.phases.resolution import say_few_points, say_hidden_jumps
from segalflow.thermo.jumps import Jump

CRITERION = "alpha_shape"

DEFAULTS: dict[str, Any] = {
    "alpha": 1.2,  # inverse radius of the probing disc, in scaled units (the paper's value)
    "minimum_gap": 0.04,  # narrowest gap in x that is left open
    "ratio": 3.0,  # a step of x is continuous up to this many times (susceptibility x step)
    "n_sigma": 4.0,  # and up to this many standard errors
    "max_steps": 4,  # steps of delta_mu a smeared jump may span
    "max_bracket": 6,  # widest bracket in steps of the full grid, where unreliable conditions were passed over
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}


@contextmanager
def _quiet():
    """Keep alphashape from warning of every flat triangle; points on a line are normal on a grid."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def covered_region(points: np.ndarray, alpha: float):
    """Return the region covered by points, as a shapely geometry: alpha shape and short edges of the alpha complex.

    Args:
        points: scaled points, shape (n, 2).
        alpha: inverse radius of the probing disc.
    """
    import alphashape
    from scipy.spatial import cKDTree
    from shapely import LineString, MultiPoint, unary_union

    hair = 1e-6
    if not len(points):
        return MultiPoint()
    parts = [MultiPoint(points).buffer(hair)]
    if len(points) >= 4 and np.linalg.matrix_rank(points - points[0]) == 2:
        with _quiet():
            parts.append(alphashape.alphashape([tuple(p) for p in points], alpha))
    tree = cKDTree(points)
    for i, j in sorted(tree.query_pairs(2 / alpha)):
        # An edge is in the alpha complex if the smallest disc through both ends is empty.
        centre, radius = (points[i] + points[j]) / 2, np.linalg.norm(points[i] - points[j]) / 2
        if len(tree.query_ball_point(centre, radius * (1 - 1e-9))) == 0:
            parts.append(LineString([points[i], points[j]]).buffer(hair))
    return unary_union(parts)


def _row_gaps(region: Any, y: float, left: float, right: float) -> list[tuple[float, float]]:
    """Open intervals of the horizontal line at `y`, between `left` and `right`, that `region` does not cover."""
    from shapely import LineString

    rest = LineString([(left, y), (right, y)]).difference(region)
    pieces = [p for p in getattr(rest, "geoms", [rest]) if not p.is_empty]
    return sorted((p.bounds[0], p.bounds[2]) for p in pieces)


def find_alpha_shape(table: xr.Dataset, *, settings: Mapping[str, Any]) -> Findings:
    """Find two-phase fields as the empty regions of the composition points.

    Args:
        table: ensemble table of a binary.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point per temperature and field: x_left and x_right are the composition points that bound it
        (their errors: statistical, and half the ordinary spacing of points there), delta_mu the middle of the
        conditions on its two sides; and a ``gap_top`` where the shape closes the field, between two rows.

    Raises:
        BoundaryError: for a grid too coarse to bracket anything, or a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    grid = read_grid(table)
    findings = Findings(notes=grid.skipped())
    gap = float(options["minimum_gap"])
    unit = gap / np.sqrt(max((2 / options["alpha"]) ** 2 - 1, 1e-12))
    jumps = [grid.jumps(t, options, gap) for t in range(len(grid.temperature))]
    findings.notes += say_hidden_jumps(grid, jumps, options, gap)
    filled = [_filled_row(grid, t, jumps[t], unit) for t in range(len(grid.temperature))]
    points = np.concatenate([np.column_stack([x / unit, np.full(len(x), float(t))]) for t, x in enumerate(filled)])
    region = covered_region(points, options["alpha"])
    rows: list[list[Jump]] = []
    for t, x in enumerate(filled):
        open_parts = _row_gaps(region, float(t), x[0] / unit, x[-1] / unit) if len(x) > 1 else []
        # What the shape leaves open on this row lies across jumps; slivers between points are no gaps.
        widths = [
            sum(max(min(b * unit, right) - max(a * unit, left), 0.0) for a, b in open_parts)
            for left, right in _edges(grid, t, jumps[t])
        ]
        found = [j for j, width in zip(jumps[t], widths, strict=True) if width >= gap]
        # A stretch without reliable conditions may hold whole phases.
        wide = [j for j in found if j.stop - j.start > options["max_bracket"]]
        findings.notes += [
            f"{grid.temperature[t]:g} {grid.temperature_unit}: the gap from x = {grid.x[t, j.start]:.3f} to "
            f"{grid.x[t, j.stop]:.3f} has too many unreliable conditions in it and was left out."
            for j in wide
        ]
        rows.append([j for j in found if j not in wide])
    numbers = track_lines([_edges(grid, t, row) for t, row in enumerate(rows)], options["overlap"])
    lines = sorted({n for row in numbers for n in row})
    findings.notes.append(
        f"Scaling: one row of temperature = {unit:.4f} in x, alpha = {options['alpha']:g}; gaps narrower than {gap:g} "
        "in x are not resolved."
    )
    if not lines:
        findings.notes.append("The alpha shape of the composition points leaves no empty region in this window.")
    for line in lines:
        members = [(t, rows[t][i]) for t, row in enumerate(numbers) for i, number in enumerate(row) if number == line]
        _describe_field(grid, line, members, options, findings)
    return findings


def _edges(grid: Grid, t: int, jumps: Sequence[Jump]) -> list[tuple[float, float]]:
    """Compositions on both sides of jumps."""
    return [(float(grid.x[t, j.start]), float(grid.x[t, j.stop])) for j in jumps]


def _filled_row(grid: Grid, t: int, jumps: Sequence[Jump], unit: float) -> np.ndarray:
    """Return the compositions covered at one temperature: runs without a jump, as points at most `unit` apart.

    The ends of a run are composition points themselves; inside it points closer than `unit` are thinned out.
    """
    usable = grid.usable[t]
    covered, start = [], 0
    for stop, following in [(j.start, j.stop) for j in jumps] + [(len(usable) - 1, None)]:
        run = grid.x[t, start : stop + 1][usable[start : stop + 1]]
        if len(run):
            low, high = float(run.min()), float(run.max())
            n = int(np.ceil((high - low) / unit)) + 1
            covered.append(np.linspace(low, high, n) if high - low > 1e-6 else np.array([low]))
        start = following
    return np.unique(np.round(np.concatenate(covered), 7)) if covered else np.zeros(0)


def _bound_stderr(grid: Grid, t: int, m: int) -> float:
    """Standard error of a bound read from condition `m`: its own, and half the ordinary spacing of points there."""
    step = np.diff(grid.delta_mu)
    spacing = max(float(grid.susceptibility[t, m]), 0.0) * float(step[min(m, len(step) - 1)])
    return float(np.hypot(grid.x_stderr[t, m], spacing / 2))


def _describe_field(
    grid: Grid,
    line: int,
    members: list[tuple[int, Jump]],
    options: Mapping[str, Any],
    findings: Findings,
) -> None:
    confidence = float(options["confidence"])
    half_step = float(np.min(np.diff(grid.temperature))) / 2
    for t, jump in members:
        low, high = jump.start, jump.stop
        ((left, right),) = _edges(grid, t, [jump])
        temperature = float(grid.temperature[t])
        passed = int((~grid.usable[t, low : high + 1]).sum())
        notes = [f"{passed} unreliable condition(s) inside the gap"] if passed else []
        if len(members) == 1:
            notes.append("seen at one temperature only")
        findings.points.append(
            BoundaryPoint(
                CRITERION,
                grid.method,
                grid.cell,
                line,
                "two_phase",
                temperature,
                temperature - half_step,
                temperature + half_step,
                float(grid.delta_mu[low] + grid.delta_mu[high]) / 2,
                float(grid.delta_mu[low]),
                float(grid.delta_mu[high]),
                left,
                right,
                _bound_stderr(grid, t, low),
                _bound_stderr(grid, t, high),
                confidence=confidence,
                note="; ".join(notes),
            )
        )
    last = members[-1][0]
    if last == len(grid.temperature) - 1:
        findings.notes.append(
            f"Field {line} (x {left:.3f} to {right:.3f}) reaches the highest temperature of the grid: its top is cut "
            "off by the window."
        )
        return
    below, above = float(grid.temperature[last]), float(grid.temperature[last + 1])
    name = f"Field {line} (x {left:.3f} to {right:.3f})"
    findings.notes += say_few_points(name, len(members), above - below, "temperature", grid.temperature_unit)
    if not grid.closed(last + 1, left, right, options["ratio"]):
        findings.notes.append(
            f"{name}: at {above:g} the composition still leaps there in a step "
            "that is no clean jump (steps of delta_mu too wide, or unreliable conditions), so its top is not known."
        )
        return
    top = findings.points[-1]
    findings.points.append(
        BoundaryPoint(
            CRITERION,
            grid.method,
            grid.cell,
            line,
            "gap_top",
            (below + above) / 2,
            below,
            above,
            top.delta_mu,
            top.delta_mu_low,
            top.delta_mu_high,
            (left + right) / 2,
            (left + right) / 2,
            (right - left) / np.sqrt(12),
            (right - left) / np.sqrt(12),
            confidence=confidence,
            note="the alpha shape closes the gap between these temperatures",
        )
    )
