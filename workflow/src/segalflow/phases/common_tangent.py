"""Boundaries as common tangents of the free energy f(x, T): the edges of its lower convex hull.

The hull's edges say where the gaps are (`gaps`); the phases at their ends are refined from the compositions around each
(`tangent_sides`). The top of a gap is where f loses its concave part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segalflow.phases.boundaries import BoundaryPoint, normal_interval
from segalflow.phases.critical_point import DEFAULTS as CUMULANTS
from segalflow.phases.critical_point import follow_line
from segalflow.phases.equal_weight import OVERLAPPING, PARTING, VISIBLE
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
from segalflow.phases.tangent_sides import KINK, Tangent, mixing_entropy, solve_tangent
from segalflow.thermo.free_energy import FreeEnergy

CRITERION = "common_tangent"

DEFAULTS: dict[str, Any] = {
    "minimum_gap": 0.02,  # narrowest gap in x
    "n_sigma": 4.0,  # standard errors by which f must rise above its tangent
    "ratio": 3.0,  # across compositions without samples: a jump is this many times (susceptibility x step)
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}

RARE = 0.01
"""Least error of a composition, sites: an excitation that one sample in a hundred of the phase would hold."""

APART = 0.5
"""Least height of what parts an ordered phase from the next, kT of the cell, for the two to be told from each other."""


def find_common_tangents(free: FreeEnergy, *, settings: Mapping[str, Any]) -> Findings:
    """Find two-phase fields as common tangents.

    Args:
        free: free energies with replicates.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature of every line; standard errors are those of the replicates, of
        where phases are parted, and `RARE` of a site, for what no sample has met; the interval of delta_mu alike. A
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
    tangents = [_solve_row(free, t, y[:, t], row) for t, row in enumerate(rows)]
    tangents, lost = _resolved(tangents, options["minimum_gap"])
    rows = [[tangent.gap for tangent in row] for row in tangents]
    if lost:
        findings.notes.append(f"{lost} gaps are no wider than their error and were left out.")
    for number, members in enumerate(number_lines(free, rows, options["overlap"])):
        _describe(free, number, [(t, tangents[t][i]) for t, i in members], options, findings)
    return findings


def _solve_row(free: FreeEnergy, t: int, y: np.ndarray, row: Sequence[Gap]) -> list[Tangent]:
    """Tangents of one isotherm, with rising delta_mu.

    Where two beside each other come out the wrong way round, the phase between them is not stable: both are one. (The
    hull's vertices favour phases of few compositions, whose grand potentials are above their lowest f.)
    """
    gaps = [(gap, gap.divider, gap.divider) for gap in row]  # with the ends of the phases beside each
    while True:
        found = _solve_gaps(free, t, y, gaps)
        wrong = [i for i in range(len(found) - 1) if found[i].delta_mu[0] >= found[i + 1].delta_mu[0]]
        if not wrong:
            break
        i = wrong[0]
        (a, first, _), (b, _, last) = gaps[i : i + 2]
        highest = max(a, b, key=lambda gap: gap.barrier)
        slope = ((b.right - b.left) * b.delta_mu + (a.right - a.left) * a.delta_mu) / (b.right - a.left)
        gaps[i : i + 2] = [(Gap(a.left, b.right, highest.divider, highest.barrier, slope), first, last)]
    moved = []
    for sign in (-1, 1):
        ends = []
        for gap, first, last in gaps:
            shift = sign * ((gap.right - gap.left) // PARTING)
            ends.append((gap, max(first + shift, gap.left + 1), min(last + shift, gap.right - 1)))
        moved.append([np.array([m.left[0], m.right[0], m.delta_mu[0]]) for m in _solve_gaps(free, t, y[:1], ends)])
    return [
        replace(tangent, parted=tuple(np.abs(high - low) / 2)) for tangent, low, high in zip(found, *moved, strict=True)
    ]


def _solve_gaps(free: FreeEnergy, t: int, y: np.ndarray, gaps: Sequence[tuple[Gap, int, int]]) -> list[Tangent]:
    """Tangents over gaps, each given with the numbers of atoms at which the phases on its left and right end."""
    bounds = [-1, *(end for _, *ends in gaps for end in ends), free.n_sites + 1]
    return [
        solve_tangent(
            free,
            t,
            y,
            gap,
            [(bounds[2 * i] + 1, bounds[2 * i + 1] - 1), (bounds[2 * i + 2] + 1, bounds[2 * i + 3] - 1)],
        )
        for i, (gap, _, _) in enumerate(gaps)
    ]


def _resolved(tangents: list[list[Tangent]], minimum: float) -> tuple[list[list[Tangent]], int]:
    """Tangents whose width exceeds `minimum` and twice its error; and the number of the others."""
    kept = [
        [g for g in row if g.right[0] - g.left[0] > max(minimum, 2 * replicate_stderr(g.right - g.left))]
        for row in tangents
    ]
    return kept, sum(map(len, tangents)) - sum(map(len, kept))


def _describe(
    free: FreeEnergy,
    line: int,
    members: Sequence[tuple[int, Tangent]],
    options: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Add the points of one line and its top."""
    method, cell = str(free.attributes.get("method", "")), str(free.attributes.get("cell", ""))
    confidence = float(options["confidence"])
    unit, last = temperature_unit(free.attributes), members[-1][0]
    every, members = members, [(t, tangent) for t, tangent in members if tangent.height >= APART]
    if len(members) < len(every):
        gone = ", ".join(f"{free.temperature[t]:g}" for t, tangent in every if tangent.height < APART)
        findings.notes.append(f"Line {line}: at {gone} {unit} less than {APART:g} kT parts its phases: left out.")
    if not members:
        return
    temperature = np.array([free.temperature[t] for t, _ in members])
    x = np.array([(tangent.left[0], tangent.right[0]) for _, tangent in members])
    floor = RARE / free.n_sites
    stderr = np.array(
        [
            [
                np.linalg.norm([replicate_stderr(v), parted, floor])
                for v, parted in zip((g.left, g.right), g.parted[:2], strict=True)
            ]
            for _, g in members
        ]
    )
    half_step = half_steps(free.temperature)
    spread = temperature_errors(temperature, x, stderr, half_step[[t for t, _ in members]])
    for k, (_, tangent) in enumerate(members):
        mu_stderr = float(np.hypot(replicate_stderr(tangent.delta_mu), tangent.parted[2]))
        mu = normal_interval(float(tangent.delta_mu[0]), mu_stderr, confidence)
        low, high = normal_interval(float(temperature[k]), float(spread[k]), confidence)
        notes = []
        if not np.isfinite(tangent.gap.barrier):
            notes.append("no samples inside the gap")
        if max(tangent.parted[:2]) > max(VISIBLE, *(replicate_stderr(v) for v in (tangent.left, tangent.right))):
            notes.append(OVERLAPPING)
        if len(members) == 1:
            notes.append("seen at one temperature only")
        findings.points.append(
            BoundaryPoint(
                CRITERION, method, cell, line, "two_phase", float(temperature[k]), low, high,
                float(tangent.delta_mu[0]), *mu, float(x[k, 0]), float(x[k, 1]), float(stderr[k, 0]),
                float(stderr[k, 1]), confidence=confidence, note="; ".join(notes),
            )
        )  # fmt: skip
    name = f"Line {line} (x {x[-1, 0]:.3f} to {x[-1, 1]:.3f})"
    if last == len(free.temperature) - 1:
        findings.notes.append(f"{name} reaches the highest temperature of the grid: its top is cut off by the window.")
        return
    below, above = float(temperature[-1]), float(free.temperature[last + 1])
    step = float(free.temperature[members[-1][0] + 1]) - below
    findings.notes += say_few_points(name, len(members), step, "temperature", unit)
    tangent = members[-1][1]
    found = gap_top(free, last, every[-1][1].gap) if all(every[-1][1].smooth) else None
    if found is None:
        middle, error = (below + above) / 2, None
        interval, top_x, x_error = (below, above), float(x[-1].mean()), float(np.ptp(x[-1])) / np.sqrt(12)
        note = "between the last temperature with a gap and the next without"
    else:
        middle, error, top_x, x_error = found
        low, high = normal_interval(middle, error, confidence)
        falls = follow_line(free, [(t, g.gap) for t, g in every], line, CUMULANTS).falls(CUMULANTS["cumulant"])
        if np.isfinite(falls[0]):
            low = min(low, normal_interval(float(falls[0]), replicate_stderr(falls), confidence)[0])
        interval = (low, high)
        note = "where the free energy loses its concave part, in a finite cell above its critical point"
    findings.points.append(
        BoundaryPoint(
            CRITERION, method, cell, line, "gap_top", middle, *interval, float(tangent.delta_mu[0]), *mu, top_x,
            top_x, x_error, x_error, confidence=confidence, note=note,
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
    y = y - mixing_entropy(n, x)
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
