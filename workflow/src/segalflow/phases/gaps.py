"""Composition gaps of a free energy: where its lower convex hull leaves compositions out by more than the noise.

Free energies of the cell are taken in units of kT, ``y(N) = n_sites f(x) / kT``, with the entropy of random mixing in
its thermodynamic form ``x ln x + (1 - x) ln(1 - x)`` in place of the cell's own ln C(n, N) (`FreeEnergy.excess`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segalflow.phases.grid import Findings, track_lines
from segalflow.phases.resolution import say_coarse
from segalflow.thermo.free_energy import FreeEnergy

NOISE_FLOOR = 0.02
"""Errors of y below this (in kT of the cell) do not make a smaller deviation significant."""
MANY = 20
"""Replicates of which all must hold a composition: a bootstrap draw lacks one seen in k blocks with chance exp(-k)."""
ISOLATED = 0.2
"""Largest error of log weight (some 25 samples) of a composition without known neighbours; a compound's is smaller."""
MIXED = 0.01
"""Weight of the other phase from which on a condition counts as a mixture."""


@dataclass(frozen=True)
class Gap:
    """One gap of one isotherm.

    Attributes:
        left, right: numbers of atoms at its ends, the vertices of the hull.
        divider: number of atoms inside at which y is farthest above the tangent, or the middle of what no sample is of.
        barrier: that distance, kT of the cell; infinite where no sample lies inside.
        delta_mu: slope of the tangent, eV.
    """

    left: int
    right: int
    divider: int
    barrier: float
    delta_mu: float


def reduced(free: FreeEnergy, log_weight: np.ndarray) -> np.ndarray:
    """Return y of log weights (..., n_t, n_sites + 1); +inf where nothing is known."""
    n, x = free.n_sites, free.x
    with np.errstate(divide="ignore", invalid="ignore"):
        mixing = np.nan_to_num(x * np.log(x)) + np.nan_to_num((1 - x) * np.log1p(-x))
    return n * (free.excess(log_weight) / (free.boltzmann * free.temperature[:, None]) + mixing)


def reduced_curves(free: FreeEnergy) -> tuple[np.ndarray, np.ndarray]:
    """Return y (n_t, n_sites + 1) and those of the replicates.

    A composition that some replicates do not hold, or with unknown neighbours and a large error, rests on a few
    samples, and its free energy is hardly an estimate: in y it counts as unknown.
    """
    y, draws = reduced(free, free.log_weight), reduced(free, free.replicates)
    if len(draws) >= MANY:
        known = np.isfinite(y) & np.isfinite(draws).all(axis=0)
        beside = np.zeros_like(known)
        beside[:, 1:] |= known[:, :-1]
        beside[:, :-1] |= known[:, 1:]
        y = np.where(known & (beside | (free.stderr() < ISOLATED)), y, np.inf)
    return y, draws


def lower_hull(y: np.ndarray) -> list[int]:
    """Return the indices of the lower convex hull of the points (k, y[k]) with finite y (Andrew's monotone chain)."""
    hull: list[int] = []
    for k in np.flatnonzero(np.isfinite(y)).tolist():
        while len(hull) > 1:
            a, b = hull[-2:]
            if (y[b] - y[a]) * (k - b) < (y[k] - y[b]) * (b - a):
                break
            hull.pop()
        hull.append(k)
    return hull


def find_gaps(free: FreeEnergy, options: Mapping[str, Any], findings: Findings) -> list[list[Gap]]:
    """Return the gaps of every isotherm, left to right; what is left out is said in `findings`.

    A gap is an edge of the hull wider than ``minimum_gap`` with f above it by more than ``n_sigma`` standard errors
    (`_rises`). Where no sample lies inside, the jump between the conditions beside it must exceed ``ratio`` times what
    their susceptibilities explain: else the grid's steps are too wide for the samples to overlap, which is said.
    """
    if "refused" in free.attributes:
        findings.notes.append(f"No free energy: {free.attributes['refused']}")
        return [[] for _ in free.temperature]
    left_out = int(free.attributes.get("left_out", 0))
    if left_out:
        rows = free.attributes.get("left_out_temperatures", [])
        listed = rows if isinstance(rows, str) else json.dumps(list(rows))
        whole = f", so that nothing is known at the temperatures {listed}" if listed != "[]" else ""
        findings.notes.append(f"{left_out} conditions are unreliable and were left out{whole}.")
    y, draws = reduced_curves(free)
    coarse: dict[float, float] = {}
    rows, cut = [], 0
    for t in range(len(free.temperature)):
        hull = lower_hull(y[t])
        row = []
        for a, b in itertools.pairwise(hull):
            gap = _judge(free, t, y[t], draws[:, t], a, b, options, coarse)
            if gap is None:
                continue
            if not _inside(free, gap.delta_mu):
                cut += 1
                continue
            row.append(gap)
        rows.append(row)
    if cut:
        findings.notes.append(
            f"{cut} gaps have their tangent outside the chemical potentials of the grid ({free.delta_mu[0]:g} to "
            f"{free.delta_mu[-1]:g} eV) and were left out: the window cuts a phase off."
        )
    if coarse:
        why = "samples of neighbouring chemical potentials do not overlap inside one phase"
        findings.notes += say_coarse(coarse, float(np.max(np.diff(free.delta_mu))), why)
    return rows


def _inside(free: FreeEnergy, delta_mu: float) -> bool:
    step = float(np.max(np.diff(free.delta_mu))) if len(free.delta_mu) > 1 else 0.0
    return bool(free.delta_mu[0] - step <= delta_mu <= free.delta_mu[-1] + step)


def _judge(
    free: FreeEnergy,
    t: int,
    y: np.ndarray,
    draws: np.ndarray,
    a: int,
    b: int,
    options: Mapping[str, Any],
    coarse: dict[float, float],
) -> Gap | None:
    """The gap over an edge of the hull, or None where it is none."""
    n, kt = free.n_sites, free.boltzmann * free.temperature[t]
    if b - a < 2 or (b - a) / n < options["minimum_gap"]:
        return None
    inner = np.arange(a + 1, b)
    part = (inner - a) / (b - a)
    above = y[inner] - (1 - part) * y[a] - part * y[b]
    delta_mu = float((y[b] - y[a]) / (b - a) * kt)
    seen = np.isfinite(above)
    significant = bool(seen.any()) and _rises(y, draws, a, b, above, options["n_sigma"])
    if seen.all():
        if not significant:
            return None
        k = int(np.argmax(above))
        return Gap(a, b, int(inner[k]), float(above[k]), delta_mu)
    # Compositions without samples: a barrier too high to be visited, or steps too wide.
    hole = inner[~seen]
    if not significant and not _jumps(free, t, delta_mu, options, coarse, hole):
        return None
    highest = float(above[seen].max()) if significant else np.inf
    return Gap(a, b, int(hole[len(hole) // 2]), max(highest, np.inf if len(hole) > 1 else highest), delta_mu)


def _rises(y: np.ndarray, draws: np.ndarray, a: int, b: int, above: np.ndarray, n_sigma: float) -> bool:
    """Whether y is above the tangent by more than the noise.

    The vertices of a noisy hull are its lowest outliers, so single compositions prove little: averages do, of those
    around either end and of the inner half. A barrier too narrow for that must show at a single composition by twice
    as many standard errors.
    """
    inner = np.arange(a + 1, b)
    curves = np.concatenate([y[None], draws])
    curves = np.where(np.isfinite(curves), curves, np.nan)
    part = (inner - a) / (b - a)
    lines = curves[:, inner] - (1 - part) * curves[:, [a]] - part * curves[:, [b]]
    seen = np.isfinite(above)
    error = np.where(seen, _deviation(lines[1:]), np.inf)
    single = np.where(seen, above, 0.0) / np.maximum(error, NOISE_FLOOR)
    if single.max(initial=0.0) > 2 * n_sigma:
        return True
    reach = max((b - a) // 8, 1)
    quarter = (b - a) // 4
    ends = [curves[:, max(k - reach, 0) : k + reach + 1] for k in (a, b)]
    middle = curves[:, a + quarter : b - quarter + 1]
    if b - a < 8 or any(not np.isfinite(e[0]).all() for e in (*ends, middle)):
        return False
    rise = np.nanmean(middle, axis=1) - 0.5 * (np.nanmean(ends[0], axis=1) + np.nanmean(ends[1], axis=1))
    return bool(rise[0] > n_sigma * max(float(_deviation(rise[1:, None])[0]), NOISE_FLOOR))


def _deviation(draws: np.ndarray) -> np.ndarray:
    """Standard deviation over the first axis of what is not NaN; zero with fewer than two."""
    count = np.isfinite(draws).sum(axis=0)
    mean = np.nansum(draws, axis=0) / np.maximum(count, 1)
    return np.sqrt(np.nansum((draws - mean) ** 2, axis=0) / np.maximum(count - 1, 1))


def _jumps(
    free: FreeEnergy, t: int, delta_mu: float, options: Mapping[str, Any], coarse: dict[float, float], hole: np.ndarray
) -> bool:
    """Whether x jumps across `delta_mu` by more than the conditions on its sides explain."""
    beta, n, divider = free.beta[t], np.arange(free.n_sites + 1), int(hole[len(hole) // 2])
    tilted = free.log_weight[t] + beta * free.delta_mu[:, None] * n
    p = np.exp(tilted - tilted.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    # The nearest conditions on one side only: one at coexistence averages over both phases.
    right = p[:, divider:].sum(axis=1)
    lower = np.flatnonzero((right < MIXED) & (free.delta_mu <= delta_mu))
    upper = np.flatnonzero((right > 1 - MIXED) & (free.delta_mu >= delta_mu))
    if not len(lower) or not len(upper):
        return False
    ends = [lower[-1], upper[0]]
    mean = p[ends] @ n
    variance = np.array([p[k] @ (n - m) ** 2 for k, m in zip(ends, mean, strict=True)])
    expected = 0.5 * beta * variance.sum() * (free.delta_mu[ends[1]] - free.delta_mu[ends[0]])
    if mean[1] - mean[0] > options["ratio"] * expected:
        return True
    if len(hole) > 1:
        # Neighbours overlap where their means are two standard deviations of N apart.
        step = 2.0 / (beta * np.sqrt(max(variance.max(), 1e-12)))
        kelvin = float(free.temperature[t])
        coarse[kelvin] = min(coarse.get(kelvin, np.inf), float(step))
    return False


def number_lines(free: FreeEnergy, rows: Sequence[Sequence[Gap]], overlap: float) -> list[list[tuple[int, int]]]:
    """Return the lines that gaps of successive temperatures make: lists of (row, number of the gap in it)."""
    n = free.n_sites
    numbers = track_lines([[(g.left / n, g.right / n) for g in row] for row in rows], overlap)
    lines = sorted({k for row in numbers for k in row})
    return [[(t, i) for t, row in enumerate(numbers) for i, k in enumerate(row) if k == line] for line in lines]


def temperature_errors(temperature: np.ndarray, x: np.ndarray, stderr: np.ndarray, half_step: np.ndarray) -> np.ndarray:
    """Return errors of T along a line, K, shape (n,), from those of x (n, 2): at most half the step of the grid there.

    Args:
        temperature: of the line's points, shape (n,).
        x, stderr: compositions of both sides and their errors, (n, 2).
        half_step: half the grid's step at these temperatures, (n,).
    """
    if len(temperature) < 2:
        return half_step
    slope = np.abs(np.gradient(x, temperature, axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(slope > 0, stderr / slope, np.inf)
    return np.fmin(found.max(axis=1), half_step)


def replicate_stderr(values: np.ndarray) -> float:
    """Return the standard error of an estimate, its value first and then those of its replicates (NaN: none there)."""
    drawn = values[1:][np.isfinite(values[1:])]
    return float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0
