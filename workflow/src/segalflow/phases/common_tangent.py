"""Boundaries as common tangents of the free energy f(x, T): the edges of its lower convex hull.

Each tangent point is refined on a polynomial through f's excess part around the hull's vertex (`gaps`); where the
excess has a kink, as at an ordered compound, or too few compositions around it, the vertex itself stands. The top of a
gap is where f loses its concave part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segalflow.phases.boundaries import BoundaryPoint, normal_interval
from segalflow.phases.gaps import (
    Gap,
    find_gaps,
    number_lines,
    reduced,
    reduced_curves,
    replicate_stderr,
    temperature_errors,
)
from segalflow.phases.grid import Findings, half_steps, read_settings
from segalflow.phases.resolution import say_few_points, temperature_unit
from segalflow.thermo.free_energy import FreeEnergy

CRITERION = "common_tangent"

DEFAULTS: dict[str, Any] = {
    "minimum_gap": 0.02,  # narrowest gap in x
    "n_sigma": 4.0,  # standard errors by which f must rise above its tangent
    "ratio": 3.0,  # across compositions without samples: a jump is this many times (susceptibility x step)
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}

DEPTH = 3.0
"""Height above the tangent, kT of the cell, up to which compositions belong to a phase."""
KINK = 0.05
"""Misfit of the polynomial, kT of the cell, above which f counts as kinked."""
FINE = 400


@dataclass(frozen=True, eq=False)
class _Side:
    """Reduced free energies around one tangent point: main estimate first, then the replicates, (n_draws, n_x)."""

    x: np.ndarray
    y: np.ndarray
    smooth: bool

    def lowest(self, slope: np.ndarray, n_sites: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x and value of the minimum of ``y - slope n x`` for each draw."""
        values = self.y - slope[:, None] * n_sites * self.x
        k = values.argmin(axis=1)
        rows = np.arange(len(values))
        if not self.smooth or len(self.x) < 3:
            return self.x[k], values[rows, k]
        k = np.clip(k, 1, len(self.x) - 2)
        low, mid, high = values[rows, k - 1], values[rows, k], values[rows, k + 1]
        curve = np.maximum(low - 2 * mid + high, 1e-12)
        shift = np.clip((low - high) / (2 * curve), -1.0, 1.0)
        step = self.x[1] - self.x[0]
        return self.x[k] + shift * step, mid - shift * (low - high) / 4


@dataclass(frozen=True, eq=False)
class _Tangent:
    """One tangent: arrays over main estimate and replicates."""

    left: np.ndarray
    right: np.ndarray
    delta_mu: np.ndarray
    smooth: tuple[bool, bool]


def find_common_tangents(free: FreeEnergy, *, settings: Mapping[str, Any]) -> Findings:
    """Find two-phase fields as common tangents.

    Args:
        free: free energies with replicates.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature of every line; standard errors are those of the replicates (and half
        a site's, uniformly, where a composition is only known to one site), the interval of delta_mu too. A
        ``gap_top`` where a line ends inside the window.

    Raises:
        BoundaryError: for a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    findings = Findings()
    rows = find_gaps(free, options, findings)
    if not any(rows) and "refused" not in free.attributes:
        findings.notes.append("The free energy is convex everywhere in this window: no two-phase field.")
    own, draws = reduced_curves(free)
    y = np.concatenate([own[None], draws])
    tangents = [[_polish(free, t, y[:, t], row, i) for i in range(len(row))] for t, row in enumerate(rows)]
    rows, tangents, lost = _resolved(rows, tangents, options["minimum_gap"])
    if lost:
        findings.notes.append(f"{lost} gaps are no wider than their error and were left out.")
    for number, members in enumerate(number_lines(free, rows, options["overlap"])):
        _describe(free, number, [(t, rows[t][i], tangents[t][i]) for t, i in members], options, findings)
    return findings


def _side(free: FreeEnergy, t: int, y: np.ndarray, gap: Gap, at_left: bool, bounds: tuple[int, int]) -> _Side:
    """The compositions around one end of a gap, by a polynomial through the excess where it is smooth.

    They end at `bounds`, the dividers of the gap and of its neighbour on this side: beyond, another phase begins,
    however low the barrier to it is.
    """
    n, vertex = free.n_sites, gap.left if at_left else gap.right
    slope = gap.delta_mu / (free.boltzmann * free.temperature[t])
    with np.errstate(invalid="ignore"):
        above = y[0] - y[0, vertex] - slope * (np.arange(n + 1) - vertex)
    deep = np.isfinite(above) & (above <= DEPTH)
    first = last = vertex
    while first > bounds[0] and deep[first - 1]:
        first -= 1
    while last < bounds[1] and deep[last + 1]:
        last += 1
    window = np.arange(first, last + 1)
    discrete = _Side(np.array([vertex / n]), y[:, [vertex]], False)
    degree = {0: 0, 1: 2, 2: 3}.get(min(len(window) // 5, 3), 4)
    if not degree:
        return discrete
    x, values = window / n, y[:, window] - _mixing(n, window / n)
    values = np.where(np.isfinite(values), values, values[0])
    # A replicate's common shift and slope are no misfit: errors are those about the line through its ends.
    centred = values[1:] - values[0]
    part = (window - first) / max(last - first, 1)
    error = (centred - (1 - part) * centred[:, [0]] - part * centred[:, [-1]]).std(axis=0) if len(centred) else 0.0
    weight = 1.0 / np.hypot(error, 0.02 * np.ones(len(window)))
    scaled = (x - x.mean()) / max(np.ptp(x), 1e-12)
    powers = np.vander(scaled, degree + 1)
    solve = np.linalg.pinv(powers * weight[:, None]) * weight
    coefficients = values @ solve.T
    misfit = values[0] - powers @ coefficients[0]
    bad = np.sqrt(np.mean((misfit * weight) ** 2)) > 3.0 or len(window) < 12
    if bad and np.abs(misfit).max() > KINK:
        return discrete
    fine = np.linspace(x[0], x[-1], FINE)
    curve = coefficients @ np.vander((fine - x.mean()) / max(np.ptp(x), 1e-12), degree + 1).T
    return _Side(fine, curve + _mixing(n, fine), True)


def _mixing(n_sites: int, x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return n_sites * (np.nan_to_num(x * np.log(x)) + np.nan_to_num((1 - x) * np.log1p(-x)))


def _polish(free: FreeEnergy, t: int, y: np.ndarray, row: Sequence[Gap], i: int) -> _Tangent:
    """Solve for the tangent of gap `i` for every draw: the slope at which the minima of ``y - slope N`` are level."""
    n, kt, gap = free.n_sites, free.boltzmann * free.temperature[t], row[i]
    ends = [-1, *(g.divider for g in row), n + 1]
    left = _side(free, t, y, gap, True, (ends[i] + 1, gap.divider - 1))
    right = _side(free, t, y, gap, False, (gap.divider + 1, ends[i + 2] - 1))
    slope = np.full(len(y), gap.delta_mu / kt)
    for _ in range(30):
        (xa, va), (xb, vb) = left.lowest(slope, n), right.lowest(slope, n)
        known = np.isfinite(va) & np.isfinite(vb)
        change = np.where(known, np.where(known, vb, 0.0) - np.where(known, va, 0.0), 0.0)
        change /= n * np.maximum(xb - xa, 1e-9)
        slope = slope + change
        if np.abs(change).max() < 1e-12 * max(np.abs(slope).max(), 1.0):
            break
    found = [np.where(known, values, np.nan) for values in (xa, xb, slope * kt)]
    return _Tangent(*found, (left.smooth, right.smooth))


def _resolved(
    rows: list[list[Gap]], tangents: list[list[_Tangent]], minimum: float
) -> tuple[list[list[Gap]], list[list[_Tangent]], int]:
    """Gaps and tangents whose refined width exceeds `minimum` and twice its error; and the number of the others."""
    kept = [
        [i for i, g in enumerate(row) if g.right[0] - g.left[0] > max(minimum, 2 * replicate_stderr(g.right - g.left))]
        for row in tangents
    ]
    lost = sum(map(len, rows)) - sum(map(len, kept))
    pick = [[[row[i] for i in keep] for row, keep in zip(part, kept, strict=True)] for part in (rows, tangents)]
    return pick[0], pick[1], lost


def _describe(
    free: FreeEnergy,
    line: int,
    members: Sequence[tuple[int, Gap, _Tangent]],
    options: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Add the points of one line and its top."""
    method, cell = str(free.attributes.get("method", "")), str(free.attributes.get("cell", ""))
    confidence = float(options["confidence"])
    temperature = np.array([free.temperature[t] for t, _, _ in members])
    spacing = 1 / (free.n_sites * np.sqrt(12))
    x = np.array([(tangent.left[0], tangent.right[0]) for _, _, tangent in members])
    stderr = np.array(
        [
            [
                np.hypot(replicate_stderr(v), 0.0 if ok else spacing)
                for v, ok in zip((g.left, g.right), g.smooth, strict=True)
            ]
            for _, _, g in members
        ]
    )
    half_step = half_steps(free.temperature)
    spread = temperature_errors(temperature, x, stderr, half_step[[t for t, _, _ in members]])
    for k, (_, gap, tangent) in enumerate(members):
        mu = normal_interval(float(tangent.delta_mu[0]), replicate_stderr(tangent.delta_mu), confidence)
        low, high = normal_interval(float(temperature[k]), float(spread[k]), confidence)
        notes = []
        if not all(tangent.smooth):
            notes.append("composition known to one site")
        if not np.isfinite(gap.barrier):
            notes.append("no samples inside the gap")
        if len(members) == 1:
            notes.append("seen at one temperature only")
        findings.points.append(
            BoundaryPoint(
                CRITERION, method, cell, line, "two_phase", float(temperature[k]), low, high,
                float(tangent.delta_mu[0]), *mu, float(x[k, 0]), float(x[k, 1]), float(stderr[k, 0]),
                float(stderr[k, 1]), confidence=confidence, note="; ".join(notes),
            )
        )  # fmt: skip
    last, gap, tangent = members[-1]
    if last == len(free.temperature) - 1:
        findings.notes.append(
            f"Line {line} (x {x[-1, 0]:.3f} to {x[-1, 1]:.3f}) reaches the highest temperature of the grid: its top is "
            "cut off by the window."
        )
        return
    below, above = float(free.temperature[last]), float(free.temperature[last + 1])
    name = f"Line {line} (x {x[-1, 0]:.3f} to {x[-1, 1]:.3f})"
    findings.notes += say_few_points(
        name, len(members), above - below, "temperature", temperature_unit(free.attributes)
    )
    found = gap_top(free, last, gap) if all(tangent.smooth) else None
    if found is None:
        middle, error = (below + above) / 2, None
        interval, top_x, x_error = (below, above), float(x[-1].mean()), float(np.ptp(x[-1])) / np.sqrt(12)
        note = "between the last temperature with a gap and the next without"
    else:
        middle, error, top_x, x_error = found
        interval = normal_interval(middle, error, confidence)
        note = "where the free energy loses its concave part"
    findings.points.append(
        BoundaryPoint(
            CRITERION, method, cell, line, "gap_top", middle, *interval, float(tangent.delta_mu[0]),
            float(tangent.delta_mu[0]), float(tangent.delta_mu[0]), top_x, top_x, x_error, x_error,
            confidence=confidence, note=note,
        )
    )  # fmt: skip


def gap_top(free: FreeEnergy, row: int, gap: Gap, n_temperatures: int = 13) -> tuple[float, float, float, float] | None:
    """Return (T, its error, x, its error) where f'' stops being negative above a gap, or None if it cannot be told.

    Around the last gap a polynomial of fourth degree is put through the excess at temperatures from two rows below to
    two rows above; the smallest f'' rises through zero at the top.

    Args:
        free: free energies.
        row: the last temperature with the gap.
        gap: the gap there.
        n_temperatures: temperatures tried.
    """
    n = free.n_sites
    margin = max(0.25 * (gap.right - gap.left), 0.25 * n - 0.5 * (gap.right - gap.left))
    window = np.arange(max(1, int(gap.left - margin)), min(n - 1, int(gap.right + margin)) + 1)
    lowest, highest = free.temperature[max(row - 2, 0)], free.temperature[min(row + 2, len(free.temperature) - 1)]
    tried = np.linspace(lowest, highest, n_temperatures)
    there = free.at(tried)
    y = np.concatenate([reduced(there, there.log_weight)[None], reduced(there, there.replicates)])[..., window]
    x = window / n
    y = y - _mixing(n, x)
    if len(window) < 8 or not np.all(np.isfinite(y[0])):
        return None
    y = np.where(np.isfinite(y), y, y[0])
    centre, width = x.mean(), np.ptp(x)
    powers = np.vander((x - centre) / width, 5)
    fine = np.linspace(x[0], x[-1], 201)[10:-10]
    bent = np.array([np.polyder(np.poly1d(np.eye(5)[k]), 2)((fine - centre) / width) for k in range(5)]) / width**2
    curvature = np.empty((len(y), len(tried), len(fine)))
    for t in range(len(tried)):
        error = (y[1:, t] - y[0, t]).std(axis=0) if len(y) > 1 else 0.0
        weight = 1.0 / np.hypot(error, 0.02 * np.ones(len(x)))
        coefficients = y[:, t] @ (np.linalg.pinv(powers * weight[:, None]) * weight).T
        misfit = y[0, t] - powers @ coefficients[0]
        if np.sqrt(np.mean((misfit * weight) ** 2)) > 3.0 and np.abs(misfit).max() > KINK:
            return None
        curvature[:, t] = coefficients @ bent + n / (fine * (1 - fine))
    least, where = curvature.min(axis=2), fine[curvature.argmin(axis=2)]
    tops, places = [], []
    for values, place in zip(least, where, strict=True):
        rising = np.flatnonzero((values[:-1] < 0) & (values[1:] >= 0))
        if not len(rising):
            tops.append(np.nan)
            places.append(np.nan)
            continue
        k = rising[-1]
        part = values[k] / (values[k] - values[k + 1])
        tops.append(tried[k] + part * (tried[k + 1] - tried[k]))
        places.append(place[k] + part * (place[k + 1] - place[k]))
    tops, places = np.array(tops), np.array(places)
    drawn = np.isfinite(tops[1:])
    if not np.isfinite(tops[0]) or drawn.sum() < 0.8 * len(drawn):
        return None
    spacing = (fine[1] - fine[0]) / np.sqrt(12)
    return float(tops[0]), replicate_stderr(tops), float(places[0]), float(np.hypot(replicate_stderr(places), spacing))
