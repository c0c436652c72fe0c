"""Boundaries from jumps of the composition between neighbouring chemical potentials (the paper's first rule).

Damewood et al., npj Comput. Mater. 8, 61 (2022) take the largest jump of x between neighbouring delta_mu at each
temperature and fit a cubic polynomial T(x). Here every jump above a stated significance counts (`thermo.jumps`), so
that several two-phase fields (Cu/Cu3Au, Cu3Au/CuAu, ...) are separate lines; the compositions of both sides are carried
to the middle of the bracketing step by their own susceptibility.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from segalflow.phases.boundaries import BoundaryPoint, normal_interval
from segalflow.phases.grid import Findings, Grid, read_grid, read_settings, track_lines
from segalflow.phases.resolution import say_few_points, say_hidden_jumps
from segalflow.thermo.jumps import Jump

CRITERION = "composition_jump"

DEFAULTS: dict[str, Any] = {
    "ratio": 3.0,  # a jump is first order above this many times (susceptibility x step)
    "minimum_jump": 0.02,  # smallest jump of x
    "n_sigma": 4.0,  # standard errors of the jump
    "max_steps": 4,  # steps of delta_mu a smeared jump may span
    "max_bracket": 6,  # widest bracket in steps of the full grid, where unreliable conditions were passed over
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}


GROWTH = 3.0
"""Largest growth of chi over one step inside a phase; beyond it the other phase is visited."""


def fit_line(x: np.ndarray, temperature: np.ndarray, degree: int = 3) -> tuple[np.ndarray, np.ndarray] | None:
    """Fit T(x) by a polynomial and return (coefficients, covariance), highest power first.

    The degree is lowered until two more points than coefficients are there. The covariance is scaled by the residual
    variance. Coefficients are in powers of ``x - mean(x)``. None where x does not vary enough to carry T.
    """
    degree = min(degree, len(np.unique(np.round(x, 6))) - 1, len(x) - 2)
    if degree < 1 or np.ptp(x) < 1e-3:
        return None
    try:
        coefficients, covariance = np.polyfit(x - x.mean(), temperature, degree, cov=True)
    except (np.linalg.LinAlgError, ValueError):
        return None
    return (coefficients, covariance) if np.all(np.isfinite(covariance)) else None


def fit_stderr(x: np.ndarray, at: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the standard error of the fitted T at compositions `at`, from the covariance of `fit_line`."""
    powers = np.vander(np.asarray(at) - x.mean(), len(covariance))
    return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", powers, covariance, powers), 0.0))


def _sides(grid: Grid, row: int, jump: Jump) -> tuple[float, float, float, float]:
    """Compositions and standard errors of both sides, carried to the middle of the step by their susceptibility.

    Next to the transition a few visits to the other phase inflate chi; one step further in they are gone. With a share
    p of visits chi grows by ``N p (1 - p) gap^2 / kT`` and x moves by ``p gap``, which is taken back, half of it
    counting as an error. Growth up to `GROWTH` within a step is left to the phase itself.
    """
    values = []
    width = grid.delta_mu[jump.stop] - grid.delta_mu[jump.start]
    keep = np.flatnonzero(grid.usable[row])
    for index, sign in ((jump.start, 1.0), (jump.stop, -1.0)):
        slope = float(grid.susceptibility[row, index])
        position = int(np.searchsorted(keep, index)) - int(sign)
        inner = float(grid.susceptibility[row, keep[position]]) if 0 <= position < len(keep) else slope
        own = max(min(slope, inner), 0.0)
        grown, visited = max(slope, 0.0), 0.0
        if grid.n_sites is not None and grown > GROWTH * own:
            per_visit = grid.n_sites * jump.jump / (grid.boltzmann * grid.temperature[row])
            visited = min((grown - GROWTH * own) / per_visit, jump.jump / 4)
            grown = GROWTH * own
        shifted = float(np.clip(grid.x[row, index] + sign * (own * width / 2 - visited), 0.0, 1.0))
        # The transition lies anywhere in the step: a uniform distribution has standard deviation width / sqrt(12).
        error = np.linalg.norm([grid.x_stderr[row, index], grown * width / np.sqrt(12), visited / 2])
        values.append((shifted, float(error)))
    (left, left_error), (right, right_error) = values
    return left, right, left_error, right_error


def find_composition_jumps(table: xr.Dataset, *, settings: Mapping[str, Any]) -> Findings:
    """Find two-phase fields as first-order jumps of the composition along delta_mu.

    Args:
        table: ensemble table of a binary.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature of every line, and a ``gap_top`` where a line ends inside the window
        (between the last temperature with the jump and the next without). The temperature interval of a two-phase
        point is that of a polynomial T(x), cubic where there are points enough, through its side of the line (the wider
        of both sides); where x hardly changes with T it is half the temperature step. ``delta_mu`` is the middle of
        the bracketing step and its interval the step.

    Raises:
        BoundaryError: for a grid too coarse to bracket anything, or a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    grid = read_grid(table)
    findings = Findings(notes=grid.skipped())
    rows: list[list[Jump]] = []
    every = [grid.jumps(t, options, options["minimum_jump"]) for t in range(len(grid.temperature))]
    findings.notes += say_hidden_jumps(grid, every, options, options["minimum_jump"])
    for t, (temperature, jumps) in enumerate(zip(grid.temperature, every, strict=True)):
        first = grid.sampled[t] & ~grid.added[t]
        wide = [j for j in jumps if first[j.start + 1 : j.stop + 1].sum() > options["max_bracket"]]
        for jump in wide:
            findings.notes.append(
                f"{temperature:g} {grid.temperature_unit}: a jump of x by {jump.jump:.3f} is bracketed only by "
                f"{grid.delta_mu[jump.start]:g} and {grid.delta_mu[jump.stop]:g} (unreliable conditions between) and "
                "was left out."
            )
        rows.append([j for j in jumps if j not in wide])
    sides = [[_sides(grid, t, j) for j in row] for t, row in enumerate(rows)]
    numbers = track_lines([[s[:2] for s in row] for row in sides], options["overlap"])
    lines = sorted({n for row in numbers for n in row})
    if not lines:
        findings.notes.append("No first-order jump of the composition in this window.")
    for line in lines:
        where = [(t, i) for t, row in enumerate(numbers) for i, n in enumerate(row) if n == line]
        _describe_line(grid, line, [(t, rows[t][i], sides[t][i]) for t, i in where], options, findings)
    return findings


def _describe_line(
    grid: Grid,
    line: int,
    members: list[tuple[int, Jump, tuple[float, float, float, float]]],
    options: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Add the points of one line, its top and what is to be said of it to `findings`."""
    temperature = np.array([grid.temperature[t] for t, _, _ in members])
    compositions = np.array([s for _, _, s in members])
    half_step = float(np.min(np.diff(grid.temperature))) / 2
    errors = np.zeros((2, len(members)))
    for side in range(2):
        fitted = fit_line(compositions[:, side], temperature)
        if fitted is not None:
            errors[side] = fit_stderr(compositions[:, side], compositions[:, side], fitted[1])
    widest = errors.max(axis=0)
    confidence = float(options["confidence"])
    for k, (t, jump, (left, right, left_error, right_error)) in enumerate(members):
        if 0 < widest[k] < np.ptp(grid.temperature):
            low, high = normal_interval(temperature[k], float(widest[k]), confidence)
        else:
            low, high = temperature[k] - half_step, temperature[k] + half_step
        passed = int((grid.sampled & ~grid.usable)[t, jump.start : jump.stop + 1].sum())
        notes = [f"{passed} unreliable condition(s) inside the bracket"] if passed else []
        if len(members) == 1:
            notes.append("seen at one temperature only")
        findings.points.append(
            BoundaryPoint(
                CRITERION,
                grid.method,
                grid.cell,
                line,
                "two_phase",
                float(temperature[k]),
                float(low),
                float(high),
                float(grid.delta_mu[jump.start] + grid.delta_mu[jump.stop]) / 2,
                float(grid.delta_mu[jump.start]),
                float(grid.delta_mu[jump.stop]),
                left,
                right,
                left_error,
                right_error,
                confidence=confidence,
                note="; ".join(notes),
            )
        )
    last_row, last_jump, (left, right, left_error, right_error) = members[-1]
    name = f"Line {line} (x {left:.3f} to {right:.3f} at {temperature[-1]:g} {grid.temperature_unit})"
    if last_row == len(grid.temperature) - 1:
        findings.notes.append(f"{name} reaches the highest temperature of the grid: its top is cut off by the window.")
        return
    upper = float(grid.temperature[last_row + 1])
    step = upper - float(temperature[-1])
    findings.notes += say_few_points(name, len(members), step, "temperature", grid.temperature_unit)
    if not grid.closed(last_row + 1, left, right, options["ratio"]):
        findings.notes.append(
            f"{name}: at {upper:g} the composition still leaps there in a step that is no clean jump (steps of "
            "delta_mu too wide, or unreliable conditions), so its top is not known."
        )
        return
    middle = (left + right) / 2
    findings.points.append(
        BoundaryPoint(
            CRITERION,
            grid.method,
            grid.cell,
            line,
            "gap_top",
            (float(temperature[-1]) + upper) / 2,
            float(temperature[-1]),
            upper,
            float(grid.delta_mu[last_jump.start] + grid.delta_mu[last_jump.stop]) / 2,
            float(grid.delta_mu[last_jump.start]),
            float(grid.delta_mu[last_jump.stop]),
            middle,
            middle,
            (right - left) / np.sqrt(12),
            (right - left) / np.sqrt(12),
            confidence=confidence,
            note="between the last temperature with a jump and the next without",
        )
    )
