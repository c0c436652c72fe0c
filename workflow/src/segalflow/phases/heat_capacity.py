"""Order-disorder transitions as maxima of the heat capacity along temperature at constant delta_mu (the paper's rule).

At constant delta_mu independent sites (a dilute solution) are two-level systems with a Schottky maximum, at which
nothing orders. It is at most 0.4392 k_B/site high and broad: its sharpness ``-d^2 ln C / d(ln T)^2`` is 2.879 (at kT =
0.4168 of the level distance), whatever the energies. A maximum counts as a transition only if it is higher
(``minimum_peak``) and, with 95 % confidence, three times sharper (``minimum_sharpness``).

Where a path of constant delta_mu crosses a two-phase field the heat capacity has a maximum too (latent heat): such a
point lies on the field's line, which the criteria of gaps find, and is left out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.composition_jump import DEFAULTS as JUMPS
from segalflow.phases.grid import Findings, Grid, read_grid, read_settings
from segalflow.phases.resolution import resolving_step
from segalflow.thermo.jumps import Jump

CRITERION = "heat_capacity"

DEFAULTS: dict[str, Any] = {
    "half_width": 0.012,  # eV: bounds are the compositions at delta_mu -+ this
    "minimum_peak": 0.44,  # k_B/site: more than independent sites can show
    "minimum_sharpness": 8.6,  # three times that of independent sites
    "n_sigma": 3.0,  # prominence of a maximum in its standard errors
    "prominence": 0.1,  # prominence of a maximum as a fraction of its height
    "max_peaks": 1,  # highest maxima kept at each delta_mu
    "draws": 400,  # resamples for the error of the position
    "seed": 0,
    "confidence": 0.95,
}


SHORTEST = 3
"""Fewest chemical potentials in a row that show a line, where their neighbours do not."""


def parabola_vertex(t: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the vertex of the parabola through three points; t shape (3,), c shape (..., 3). NaN where it opens up."""
    s = t - t[1]
    left, right = (c[..., 0] - c[..., 1]) / s[0], (c[..., 2] - c[..., 1]) / s[2]
    curvature = (right - left) / (s[2] - s[0])
    slope = left - curvature * s[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = t[1] - slope / (2 * curvature)
    return np.where(curvature < 0, vertex, np.nan)


def sharpness(t: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return ``-d^2 ln C / d(ln T)^2`` from the three points around a maximum; t shape (3,), c shape (..., 3)."""
    u, v = np.log(t), np.log(np.maximum(c, 1e-3 * np.max(c, axis=-1, keepdims=True)))
    left, right = (v[..., 1] - v[..., 0]) / (u[1] - u[0]), (v[..., 2] - v[..., 1]) / (u[2] - u[1])
    return -2 * (right - left) / (u[2] - u[0])


def _position(
    temperature: np.ndarray, c: np.ndarray, stderr: np.ndarray, peak: int, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Vertex near `peak` and its standard error: resampling, and the change on using every second point instead."""
    around = slice(peak - 1, peak + 2)
    vertex = float(parabola_vertex(temperature[around], c[around]))
    noisy = c[around] + stderr[around] * rng.standard_normal((draws, 3))
    moved = parabola_vertex(temperature[around], noisy)
    # A draw whose parabola opens upward has its maximum at an end: it stays within the bracket.
    ends = temperature[around][np.argmax(noisy, axis=-1)]
    moved = np.clip(np.where(np.isfinite(moved), moved, ends), temperature[peak - 1], temperature[peak + 1])
    wide = slice(max(peak - 2, 0), peak + 3)
    coefficients = np.polyfit(temperature[wide] - temperature[peak], c[wide], 2)
    if len(c[wide]) > 3 and coefficients[0] < 0:
        shift = temperature[peak] - coefficients[1] / (2 * coefficients[0]) - vertex
        shift = float(np.clip(shift, temperature[peak - 1] - vertex, temperature[peak + 1] - vertex))
    else:
        shift = float(temperature[peak + 1] - temperature[peak - 1]) / 4
    return vertex, float(np.hypot(np.std(moved), shift))


def find_heat_capacity_maxima(table: xr.Dataset, *, settings: Mapping[str, Any]) -> Findings:
    """Find order-disorder transitions as the maximum of the heat capacity along T at each delta_mu.

    Args:
        table: ensemble table of a binary.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``transition`` point at every delta_mu with a significant maximum inside the window: its temperature is the
        vertex of the parabola through the highest three points; the interval holds the statistical error (resampled
        with a seeded generator) and the change of the vertex on fitting five points; x_left and x_right are the
        compositions at (T, delta_mu -+ half_width), interpolated. Neighbouring delta_mu whose temperatures differ by
        no more than two steps form one line; one or two that stand alone are left out.

    Raises:
        BoundaryError: for a grid too coarse to bracket anything, or a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    grid = read_grid(table)
    findings = Findings(notes=grid.skipped())
    capacity = np.asarray(table["heat_capacity"], dtype=float)
    stderr = np.nan_to_num(np.asarray(table["heat_capacity_stderr"], dtype=float))
    usable = grid.usable & np.isfinite(capacity)
    from scipy.signal import find_peaks  # slow to import: the other criteria do without

    rng = np.random.default_rng(int(options["seed"]))
    cut: list[float] = []
    found: list[tuple[int, float, float, int]] = []
    broad = crossing = 0
    narrow: dict[float, tuple[float, float]] = {}  # delta_mu: (step that would do, step there)
    looked = np.zeros(len(grid.delta_mu), dtype=bool)
    jumps = [grid.jumps(t, JUMPS, JUMPS["minimum_jump"]) for t in range(len(grid.temperature))]
    for m in range(len(grid.delta_mu)):
        keep = np.flatnonzero(usable[:, m])
        if len(keep) < 3:
            continue
        looked[m] = True
        t, c, e = grid.temperature[keep], capacity[keep, m], stderr[keep, m]
        top = int(np.argmax(c))
        if top in (0, len(c) - 1) and c[top] > options["minimum_peak"]:
            cut.append(float(grid.delta_mu[m]))
        peaks, properties = find_peaks(c, height=options["minimum_peak"], prominence=0.0)
        order = np.argsort(-c[peaks], kind="stable")[: int(options["max_peaks"])]
        for k in order:
            peak = int(peaks[k])
            prominence = properties["prominences"][k]
            if prominence <= max(options["n_sigma"] * e[peak], options["prominence"] * c[peak]):
                continue
            # Seen over one and over two steps: noise on a broad maximum is sharp only over one.
            sharp = []
            for reach in (1, 2):
                around = np.clip([peak - reach, peak, peak + reach], 0, len(c) - 1)
                noisy = c[around] + e[around] * rng.standard_normal((int(options["draws"]), 3))
                sharp.append(np.quantile(sharpness(t[around], noisy), 0.05))
            if min(sharp) < options["minimum_sharpness"]:
                broad += 1
                continue
            passed = int((~usable[keep[peak - 1] : keep[peak + 1], m]).sum())
            place = _position(t, c, e, peak, int(options["draws"]), rng)
            if _crosses_field(grid, jumps, m, place[0]):
                crossing += 1
                continue
            step = resolving_step(t, c, peak)
            if np.isfinite(step):
                narrow[float(grid.delta_mu[m])] = (step, float(t[peak + 1] - t[peak - 1]) / 2)
            found.append((m, *place, passed))
    if cut:
        findings.notes.append(
            f"At {len(cut)} of {len(grid.delta_mu)} chemical potentials ({min(cut):g} to {max(cut):g}) the largest "
            "heat capacity is at an end of the temperature window: a transition may be cut off."
        )
    if broad:
        findings.notes.append(
            f"{broad} maxima of the heat capacity are as broad as those of independent sites and are no transitions."
        )
    if crossing:
        findings.notes.append(f"{crossing} maxima of the heat capacity are where a two-phase field is crossed.")
    if narrow:
        worst, (step, now) = min(narrow.items(), key=lambda item: item[1][0])
        findings.notes.append(
            f"The grid is too coarse at {len(narrow)} chemical potentials: the maximum of the heat capacity is "
            f"narrower than the steps of temperature; at {worst:g} a step of {step:.3g} "
            f"{grid.temperature_unit} would do (now {now:.3g} {grid.temperature_unit})."
        )
    if not found:
        findings.notes.append(
            f"No maximum of the heat capacity above {options['minimum_peak']:g} k_B/site inside this window."
        )
        return findings
    _add_points(grid, found, looked, options, findings)
    return findings


def _crosses_field(grid: Grid, jumps: Sequence[Sequence[Jump]], m: int, temperature: float) -> bool:
    """Whether delta_mu number `m` passes from one side of a two-phase field to the other around a temperature.

    A field stands at both temperatures around it, as jumps between overlapping compositions; its line then lies between
    the outermost ends of both brackets.
    """
    row = int(np.clip(np.searchsorted(grid.temperature, temperature) - 1, 0, len(grid.temperature) - 2))
    for low in jumps[row]:
        for high in jumps[row + 1]:
            shared = min(grid.x[row, low.stop], grid.x[row + 1, high.stop]) - max(
                grid.x[row, low.start], grid.x[row + 1, high.start]
            )
            if shared > 0 and min(low.start, high.start) <= m <= max(low.stop, high.stop):
                return True
    return False


def _add_points(
    grid: Grid,
    found: list[tuple[int, float, float, int]],
    looked: np.ndarray,
    options: Mapping[str, Any],
    findings: Findings,
) -> None:
    from scipy.interpolate import RegularGridInterpolator
    from scipy.special import ndtri

    # Unreliable compositions are bridged along delta_mu before interpolating.
    x, x_stderr = grid.x.copy(), grid.x_stderr.copy()
    for t in range(len(x)):
        good = grid.usable[t]
        if good.any():
            x[t] = np.interp(grid.delta_mu, grid.delta_mu[good], grid.x[t, good])
            x_stderr[t] = np.interp(grid.delta_mu, grid.delta_mu[good], grid.x_stderr[t, good])
    axes = (grid.temperature, grid.delta_mu)
    composition = RegularGridInterpolator(axes, x)
    composition_error = RegularGridInterpolator(axes, x_stderr)
    factor = float(ndtri(0.5 + options["confidence"] / 2))
    reach = 2 * float(np.max(np.diff(grid.temperature)))
    last: dict[int, tuple[int, float]] = {}
    members: dict[int, int] = {}
    first = len(findings.points)
    for m, temperature, error, passed in sorted(found):
        near = [
            (abs(temperature - seen_t), line)
            for line, (seen_m, seen_t) in last.items()
            if 0 < m - seen_m <= 2 and abs(temperature - seen_t) <= reach
        ]
        line = min(near)[1] if near else len(last)
        last[line] = (m, temperature)
        members[line] = members.get(line, 0) + 1
        centre = float(grid.delta_mu[m])
        low = max(centre - options["half_width"], float(grid.delta_mu[0]))
        high = min(centre + options["half_width"], float(grid.delta_mu[-1]))
        clipped = high - low < 2 * options["half_width"] * (1 - 1e-9)
        notes = ["the delta_mu window cuts the bounds"] if clipped else []
        if passed:
            notes.append(f"{passed} unreliable condition(s) beside the maximum")
        left, right = composition([(temperature, low), (temperature, high)])
        left_error, right_error = composition_error([(temperature, low), (temperature, high)])
        findings.points.append(
            BoundaryPoint(
                CRITERION,
                grid.method,
                grid.cell,
                line,
                "transition",
                temperature,
                temperature - factor * error,
                temperature + factor * error,
                centre,
                low,
                high,
                float(min(left, right)),
                float(max(left, right)),
                float(left_error),
                float(right_error),
                confidence=float(options["confidence"]),
                note="; ".join(notes),
            )
        )
    # A line is seen at neighbouring chemical potentials: what one shows and both neighbours do not is noise.
    # Two points are none either: above a critical point maxima pass from one delta_mu to the next without a transition.
    ends = {line: (last[line][0] - number + 1, last[line][0]) for line, number in members.items() if number < SHORTEST}
    alone = {line for line, (a, b) in ends.items() if looked[max(a - 1, 0)] and looked[min(b + 1, len(looked) - 1)]}
    kept = [p for p in findings.points[first:] if p.boundary not in alone]
    numbers = {line: k for k, line in enumerate(dict.fromkeys(p.boundary for p in kept))}
    findings.points[first:] = [
        replace(
            p,
            boundary=numbers[p.boundary],
            note="; ".join(
                filter(None, [p.note, "seen at one chemical potential only" if members[p.boundary] == 1 else ""])
            ),
        )
        for p in kept
    ]
    if alone:
        lost = sum(members[line] for line in alone)
        findings.notes.append(f"{lost} maxima stand alone between chemical potentials without and are left out.")
