"""Boundaries by equal weight: the delta_mu at which the two peaks of the composition histogram hold the same weight.

For a finite cell this rule is off by what is exponentially small in its size (Borgs & Kotecky 1990), and the phases'
compositions are the means of the two peaks. The histogram at any delta_mu follows from the free energy; peaks are
parted where it is lowest between them (`gaps.Gap.divider`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from segalflow.phases.boundaries import BoundaryPoint, normal_interval
from segalflow.phases.gaps import Gap, find_gaps, number_lines, temperature_errors
from segalflow.phases.grid import Findings, half_steps, read_settings
from segalflow.phases.resolution import say_few_points, temperature_unit
from segalflow.thermo.free_energy import FreeEnergy

CRITERION = "equal_weight"

DEFAULTS: dict[str, Any] = {
    "minimum_gap": 0.02,  # narrowest gap in x
    "minimum_barrier": 2.0,  # lowest barrier between the peaks, kT of the cell; below it they overlap
    "n_sigma": 4.0,  # standard errors by which f must rise above its tangent
    "ratio": 3.0,  # across compositions without samples: a jump is this many times (susceptibility x step)
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}


OVERLAPPING = "peaks overlap"
"""Said of points whose error is mostly from where the peaks are parted."""
MERGED = "the barrier is too low to part the peaks"
"""Said of tops below which that is so for some temperatures."""
VISIBLE = 1e-3
"""Errors of x from it below this are not said."""
SURE = 2.0
"""Standard errors of a barrier that it must exceed: peaks without one are not two."""
PARTING = 10
"""Where peaks are parted is uncertain by the gap's width over this: an error that counts where they overlap."""


def balance_peaks(log_weight: np.ndarray, gap: Gap, bounds: tuple[int, int], slope: float) -> np.ndarray:
    """Return slope (delta_mu/kT) and mean compositions, (3, n_draws), at which both peaks hold the same weight.

    Args:
        log_weight: logarithms of the weights, (n_draws, n_sites + 1).
        gap: the gap between the peaks.
        bounds: first and last number of atoms that belong to them.
        slope: where to start.
    """
    n = np.arange(log_weight.shape[1])
    sides = [slice(max(bounds[0], 0), gap.divider + 1), slice(gap.divider + 1, bounds[1] + 1)]
    parts = [(np.ascontiguousarray(log_weight[:, side]), n[side]) for side in sides]
    slopes = np.full(len(log_weight), slope)
    means = np.zeros((2, len(log_weight)))
    for _ in range(60):
        total = np.empty((2, len(log_weight)))
        for side, (own, atoms) in enumerate(parts):
            tilted = slopes[:, None] * atoms
            tilted += own
            largest = tilted.max(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):  # a replicate may hold no sample of a phase
                tilted -= largest[:, None]
                weight = np.exp(tilted, out=tilted)
                sums = weight.sum(axis=1)
                total[side] = largest + np.log(sums)
                means[side] = weight @ atoms / sums
        # The difference of the logarithms rises with slope by the distance of the means.
        with np.errstate(invalid="ignore"):
            change = (total[0] - total[1]) / np.maximum(means[1] - means[0], 0.5)
        change = np.where(np.isfinite(change), change, np.nan)
        slopes = slopes + change
        if np.nanmax(np.abs(change), initial=0.0) < 1e-13 * max(abs(slope), 1.0):
            break
    return np.stack([slopes, *(means / (log_weight.shape[1] - 1))])


def find_equal_weights(free: FreeEnergy, *, settings: Mapping[str, Any]) -> Findings:
    """Find two-phase fields by equal weight of the composition histogram's peaks.

    Args:
        free: free energies with replicates.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature of every line, with errors from the replicates and from where the
        peaks are parted, and a ``gap_top`` between the last temperature with two peaks and the first at which f has no
        gap there any more: close to a critical point its barrier becomes too low to part two peaks before it closes.

    Raises:
        BoundaryError: for a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    findings = Findings()
    gaps = find_gaps(free, options, findings)
    rows = [
        [g for g in row if g.barrier >= max(options["minimum_barrier"], SURE * _barrier_stderr(free, t, g))]
        for t, row in enumerate(gaps)
    ]
    if not any(rows) and "refused" not in free.attributes:
        findings.notes.append("No composition histogram of this window has two peaks: no two-phase field.")
    confidence = float(options["confidence"])
    half_step = half_steps(free.temperature)
    curves = np.concatenate([free.log_weight[None], free.replicates])
    for line, members in enumerate(number_lines(free, rows, options["overlap"])):
        found, parted = [], []
        for t, i in members:
            row, kt = rows[t], free.boltzmann * free.temperature[t]
            first = row[i - 1].divider + 1 if i else 0
            last = row[i + 1].divider if i + 1 < len(row) else free.n_sites
            slope, left, right = balance_peaks(curves[:, t], row[i], (first, last), row[i].delta_mu / kt)
            found.append(np.stack([slope * kt, left, right]))
            # Where the peaks overlap it matters where they are parted.
            reach = (row[i].right - row[i].left) // PARTING
            places = np.clip(row[i].divider + np.array([-reach, reach]), row[i].left, row[i].right - 1)
            moved = [
                balance_peaks(curves[:1, t], replace(row[i], divider=int(place)), (first, last), slope[0])[:, 0]
                for place in (places if reach else [])
            ]
            change = np.abs(moved[1] - moved[0]) / 2 if reach else np.zeros(3)
            parted.append(change * np.array([kt, 1.0, 1.0]))
        values = np.array([f[:, 0] for f in found])
        sampling = np.array([_stderr(f[:, 1:]) for f in found])
        errors = np.hypot(sampling, np.array(parted))
        overlap = (np.array(parted) > np.maximum(sampling, VISIBLE))[:, 1:].any(axis=1)
        members_t = [t for t, _ in members]
        temperature = free.temperature[members_t]
        spread = temperature_errors(temperature, values[:, 1:], errors[:, 1:], half_step[members_t])
        for k, (t, i) in enumerate(members):
            notes = [] if np.isfinite(rows[t][i].barrier) else ["no samples inside the gap"]
            notes += [OVERLAPPING] if overlap[k] else []
            notes += ["seen at one temperature only"] if len(members) == 1 else []
            mu, left, right = (float(v) for v in values[k])
            kelvin = float(temperature[k])
            point = BoundaryPoint(
                CRITERION, str(free.attributes.get("method", "")), str(free.attributes.get("cell", "")), line,
                "two_phase", kelvin, *normal_interval(kelvin, float(spread[k]), confidence), mu,
                *normal_interval(mu, float(errors[k, 0]), confidence), left, right, float(errors[k, 1]),
                float(errors[k, 2]), confidence=confidence, note="; ".join(notes),
            )  # fmt: skip
            findings.points.append(point)
        last = members[-1][0]
        if last == len(free.temperature) - 1:
            findings.notes.append(
                f"Line {line} (x {left:.3f} to {right:.3f}) reaches the highest temperature of the grid: its top is "
                "cut off by the window."
            )
            continue
        below, above = float(free.temperature[last]), float(free.temperature[last + 1])
        name, unit = f"Line {line} (x {left:.3f} to {right:.3f})", temperature_unit(free.attributes)
        # Peaks merge before the gap closes: its top lies below the first temperature without it.
        ended = rows[last][members[-1][1]]
        still = [
            any(g.left < ended.right and g.right > ended.left for g in gaps[t]) for t in range(last + 1, len(gaps))
        ]
        if all(still):
            findings.notes.append(
                f"{name}: up to the highest temperature of the grid the free energy still has this gap, with a barrier "
                f"too low to part two peaks ({options['minimum_barrier']:g} kT, or its error): its top is not told."
            )
            continue
        merged = still.index(False)
        findings.notes += say_few_points(name, len(members), above - below, "temperature", unit)
        # The shallowest gap is missed: where peaks have merged before, the top may lie a step higher.
        closed = float(free.temperature[min(last + 1 + merged + (merged > 0), len(free.temperature) - 1)])
        middle, width = (left + right) / 2, (right - left) / float(np.sqrt(12))
        note = "between the last temperature with two peaks and the next without"
        if merged:
            note += f" a gap: {MERGED} from {above:g} {unit} on"
        top = BoundaryPoint(
            CRITERION, point.method, point.cell, line, "gap_top", (below + closed) / 2, below, closed, mu,
            point.delta_mu_low, point.delta_mu_high, middle, middle, width, width, confidence=confidence,
            note=note,
        )  # fmt: skip
        findings.points.append(top)
    return findings


def _barrier_stderr(free: FreeEnergy, t: int, gap: Gap) -> float:
    """Standard error of a gap's barrier over the replicates, kT of the cell; 0 where there are none or no samples."""
    part = (gap.divider - gap.left) / (gap.right - gap.left)
    log_weight = free.replicates[:, t][:, [gap.left, gap.divider, gap.right]]
    draws = log_weight @ np.array([1 - part, -1.0, part]) if np.isfinite(log_weight).all() else np.zeros(0)
    return float(draws.std(ddof=1)) if len(draws) > 1 else 0.0


def _stderr(draws: np.ndarray) -> np.ndarray:
    """Standard deviation over replicates that are finite, shape (n,) of (n, n_draws)."""
    return np.array([v[np.isfinite(v)].std(ddof=1) if np.isfinite(v).sum() > 1 else 0.0 for v in draws])
