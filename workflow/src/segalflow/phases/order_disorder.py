"""Boundaries between phases told apart by their order, whether their compositions differ or not.

Two phases are in equilibrium where the weights of all their decorations are equal (`thermo.phase_weights`). The
cumulant of the order, ``((n + 2)/n - <psi^4>/<psi^2>^2) n/2`` (n components), falls from 1 in an ordered phase to 0 in
the disordered one. Where a cell flips between both it dips below zero on the way, and the transition is of first order;
where it falls without, it is continuous (Vollmayr, Reger, Scheucher & Binder, Z. Phys. B 91, 113, 1993).

- First order and compositions apart, as two peaks are (Ashman's D above 2): a two-phase field at one temperature.
- First order without a gap: the temperature of equal weights, at every delta_mu of the grid.
- Continuous: the temperature at which the cumulant passes its value at a critical point, at every delta_mu of the grid,
  with the bounds of `phases.critical_point` as the interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from segalflow.phases.boundaries import BoundaryPoint, normal_interval
from segalflow.phases.critical_point import first_fall
from segalflow.phases.gaps import replicate_stderr, temperature_errors
from segalflow.phases.grid import Findings, half_steps, read_settings, track_lines
from segalflow.phases.resolution import say_few_points, temperature_unit
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.thermo.order_parameters import SOLUTION
from segalflow.thermo.phase_weights import PhaseWeights
from segalflow.thermo.tilting import tilted, tilted_log_sum

CRITERION = "order_parameter"

DEFAULTS: dict[str, Any] = {
    "minimum_gap": 0.02,  # narrowest gap in x that makes a two-phase field
    "cumulant": 0.4655,  # Binder's cumulant at a continuous transition: cubic, three dimensions
    "highest_cumulant": 0.6107,  # ends of the interval: square, two dimensions,
    "lowest_cumulant": 0.2705,  # and mean field
    "steps": 8,  # temperatures tried in a step of the grid
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}

FINE = 4
"""Chemical potentials tried in a step of the grid."""
APART = 2.0
"""Ashman's D from which on two peaks are apart (Ashman, Bird & Zepf, Astron. J. 108, 2348, 1994)."""
LEVEL = 1e-6
"""Least height of a phase above two others that are level, in log weight, for it to be between them."""
DIP = -0.1
"""Cumulant of the order below which a cell flips between two phases."""
REACH = 2
"""Steps of the grid around a transition in which a dip is looked for."""
FALL = 5
"""Steps of the grid around a transition within which the cumulant passes its critical value."""


@dataclass(frozen=True)
class _Field:
    """A two-phase field at one temperature: main estimate first, then the replicates, each (n_draws,).

    `skew` is how far the means of N/n_sites are from the maxima of both peaks: an effect of the finite cell.
    """

    delta_mu: np.ndarray
    left: np.ndarray
    right: np.ndarray
    skew: tuple[float, float]
    names: tuple[str, str]

    @property
    def interval(self) -> tuple[float, float]:
        return float(self.left[0]), float(self.right[0])


@dataclass(frozen=True)
class _Transition:
    """A transition without a gap, at one chemical potential (its number)."""

    column: int
    temperature: float
    interval: tuple[float, float]
    x: float
    x_stderr: float
    names: tuple[str, str]
    note: str


def _sums(curves: Sequence[FreeEnergy], delta_mu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weight, mean and variance of N of every curve, each (n_curves, n_t, n_delta_mu)."""
    slope = curves[0].beta[:, None] * delta_mu
    return tuple(
        np.array(values) for values in zip(*(tilted(c.log_weight[:, None], slope) for c in curves), strict=True)
    )


def _draws(curve: FreeEnergy, rows: slice, only_main: bool = False) -> np.ndarray:
    """Log weights of some isotherms, (n_draws, n_rows, n_sites + 1): main estimate, then the replicates."""
    main = curve.log_weight[None, rows]
    return main if only_main else np.concatenate([main, curve.replicates[:, rows]])


def _star_of(weights: PhaseWeights, pair: Sequence[str]) -> int | None:
    """Number of the star whose order tells a phase of a pair from the solid solution; None for two ordered phases."""
    found = (k for k, star in enumerate(weights.stars) if SOLUTION in pair and set(star.phases) & set(pair))
    return next(found, None)


def _cumulant(weights: PhaseWeights, star: int, rows: slice, slope: np.ndarray, only_main: bool = False) -> np.ndarray:
    """Cumulant of a star's order at slopes delta_mu/kT of some rows (or several of one): main, then the replicates."""
    whole, second, fourth = (
        tilted_log_sum(_draws(curve, rows, only_main), slope)
        for curve in (weights.whole, weights.second[star], weights.fourth[star])
    )
    components = weights.stars[star].components
    return ((components + 2) / components - np.exp(fourth - 2 * second + whole)) * components / 2


def _dips(weights: PhaseWeights, star: int, rows: slice, slope: np.ndarray) -> bool:
    """Whether a cumulant dips below zero beyond its noise; the replicates are asked only where it is below at all."""
    main = _cumulant(weights, star, rows, slope, only_main=True)[0]
    low = np.flatnonzero(main < DIP)
    if not len(low):
        return False
    if rows.stop - rows.start > 1:
        rows = slice(rows.start + low[0], rows.start + low[-1] + 1)
    cumulant = _cumulant(weights, star, rows, slope[low[0] : low[-1] + 1])
    noise = np.array([replicate_stderr(values) for values in cumulant.T])
    return bool(np.nanmin(cumulant[0] + 2 * noise) < DIP)


def _moments(curve: FreeEnergy, row: int, delta_mu: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weight, mean and variance of N of one phase at one condition."""
    return tilted(curve.log_weight[row], np.array(curve.beta[row] * delta_mu))


def _apart(mean: np.ndarray, variance: np.ndarray) -> bool:
    """Whether two peaks (means and variances of N, (2,)) are apart."""
    return bool(abs(mean[1] - mean[0]) > APART * np.sqrt(max(float(variance.sum()), 1e-12) / 2))


def _balance(
    a: FreeEnergy, b: FreeEnergy, row: int, delta_mu: float, only_main: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """delta_mu of equal weight of two phases and both means of N, by Newton's method for every draw."""
    kt = a.boltzmann * a.temperature[row]
    draws = [_draws(curve, slice(row, row + 1), only_main)[:, 0] for curve in (a, b)]
    slope = np.full(len(draws[0]), delta_mu / kt)
    for _ in range(30):
        (za, na, _), (zb, nb, _) = (tilted(d, slope) for d in draws)
        with np.errstate(invalid="ignore"):
            change = (za - zb) / np.maximum(nb - na, 0.5)
        change = np.where(np.isfinite(change), np.clip(change, -1.0, 1.0), np.nan)
        slope = slope + change
        if np.nanmax(np.abs(change), initial=0.0) < 1e-12:
            break
    return slope * kt, na / a.n_sites, nb / a.n_sites


def _skew(curve: FreeEnergy, row: int, delta_mu: float) -> float:
    """Distance of a peak's mean from its maximum in x, to leading order in the cell's size.

    The smaller of ``k_3/(2 k_2)`` (cumulants of N), which a far tail of few decorations blows up, and three times the
    distance of mean and median (Pearson), which a second hump does. Zero where the peak is narrower than half a site:
    there it is a single composition.
    """
    n = np.arange(curve.n_sites + 1)
    values = curve.log_weight[row] + curve.beta[row] * delta_mu * n
    p = np.exp(values - values.max())
    p /= p.sum()
    mean = p @ n
    second, third = (float(p @ (n - mean) ** k) for k in (2, 3))
    if second <= 0.25:
        return 0.0
    median = np.interp(0.5, np.append(0.0, np.cumsum(p)), np.append(n, curve.n_sites + 1) - 0.5)
    return float(min(abs(third) / (2 * second), 3 * abs(mean - median)) / curve.n_sites)


def _succession(
    curves: Sequence[FreeEnergy], row: int, first: int, last: int, delta_mu: float
) -> list[tuple[tuple[int, int], float]]:
    """The pairs of phases that follow each other from one to another with rising delta_mu, and where they are level.

    A phase stable over less than a step shows where the weights of its neighbours are level: it has more there.
    """
    mu = float(_balance(curves[first], curves[last], row, delta_mu, only_main=True)[0][0])
    if not np.isfinite(mu):
        return [((first, last), delta_mu)]
    beside = np.array([tilted_log_sum(c.log_weight[row], np.array(c.beta[row] * mu)) for c in curves])
    between = int(beside.argmax())
    if between in (first, last) or beside[between] <= max(beside[first], beside[last]) + LEVEL:
        return [((first, last), mu)]
    parts = ((first, between), (between, last))
    return [found for pair in parts for found in _succession(curves, row, *pair, mu)]


def _fields(weights: PhaseWeights, options: Mapping[str, Any]) -> list[list[_Field]]:
    """Two-phase fields of every temperature, left to right."""
    names, curves = list(weights.phases), list(weights.phases.values())
    grid = curves[0].delta_mu
    fine = np.unique(np.concatenate([np.linspace(a, b, FINE + 1) for a, b in itertools.pairwise(grid)]))
    total, _, _ = _sums(curves, fine)
    rows = []
    for t in range(len(curves[0].temperature)):
        first = total[:, t].argmax(axis=0)
        row = []
        steps = np.flatnonzero(np.diff(first))
        follow = [(k, *p) for k in steps for p in _succession(curves, t, first[k], first[k + 1], float(fine[k]))]
        for k, pair, at in follow:
            star = _star_of(weights, [names[p] for p in pair])
            near = curves[0].beta[t] * fine[max(k - REACH * FINE, 0) : k + 2 + REACH * FINE]
            _, *moments = (np.array(v) for v in zip(*(_moments(curves[p], t, at) for p in pair), strict=True))
            if not _apart(*moments) or (star is not None and not _dips(weights, star, slice(t, t + 1), near)):
                continue
            mu, left, right = _balance(curves[pair[0]], curves[pair[1]], t, at)
            gap = right - left
            wide = gap[0] > max(options["minimum_gap"], 2 * replicate_stderr(gap))
            if np.isfinite(gap[0]) and wide and fine[k] <= mu[0] <= fine[k + 1]:
                skew = tuple(_skew(curves[p], t, float(mu[0])) for p in pair)
                row.append(_Field(mu, left, right, skew, (names[pair[0]], names[pair[1]])))
        rows.append(row)
    return rows


def _transitions(weights: PhaseWeights, options: Mapping[str, Any], findings: Findings) -> list[_Transition]:
    """Transitions without a gap along T, at every chemical potential."""
    names, curves = list(weights.phases), list(weights.phases.values())
    temperature, steps = curves[0].temperature, max(int(options["steps"]), 1)
    parts = [np.linspace(a, b, steps + 1)[:-1] for a, b in itertools.pairwise(temperature)]
    fine = np.append(np.concatenate(parts), temperature[-1])
    there = weights.at(fine)
    curves = list(there.phases.values())
    total, mean, variance = _sums(curves, curves[0].delta_mu)
    found, cut = [], set()
    for column, mu in enumerate(curves[0].delta_mu):
        first = total[:, :, column].argmax(axis=0)
        for k in np.flatnonzero(np.diff(first)):
            pair = [first[k], first[k + 1]]
            ordered = [names[p] for p in pair]
            star = _star_of(there, ordered)
            near, far = (slice(max(k - r * steps, 0), min(k + 2 + r * steps, len(fine))) for r in (REACH, FALL))
            first_order = star is None or _dips(there, star, near, curves[0].beta[near] * mu)
            if first_order and _apart(mean[pair, k, column], variance[pair, k, column]):
                continue  # a two-phase field, which the isotherms show
            point = _locate(there, ordered, near if first_order else far, column, float(mu), options, first_order)
            if point is None:
                cut.add(float(mu))
            else:
                found.append(point)
    if cut:
        findings.notes.append(
            f"At {len(cut)} chemical potentials ({min(cut):g} to {max(cut):g}) the order changes too close to an end "
            "of the temperature window to be located."
        )
    return found


def _locate(
    there: PhaseWeights,
    pair: Sequence[str],
    window: slice,
    column: int,
    mu: float,
    options: Mapping[str, Any],
    first_order: bool,
) -> _Transition | None:
    """The transition between two phases (the colder first) inside a window of temperatures."""
    curves = list(there.phases.values())
    temperature, slope = curves[0].temperature[window], curves[0].beta[window] * mu
    factor = float(ndtri(0.5 + options["confidence"] / 2))
    if first_order:
        cold, hot = (tilted_log_sum(_draws(there.phases[name], window), slope) for name in pair)
        equal = first_fall(temperature, np.nan_to_num(cold - hot, posinf=1e3, neginf=-1e3))
        if not np.isfinite(equal[0]):
            return None
        at, interval = float(equal[0]), normal_interval(float(equal[0]), replicate_stderr(equal), options["confidence"])
        note = "equal weight of both phases"
    else:
        cumulant = _cumulant(there, _star_of(there, pair), window, slope)
        # In terms of Binder's cumulant of one component, 2/3 in the ordered phase.
        falls = [first_fall(temperature, cumulant - 1.5 * options[name]) for name in LEVELS]
        if not all(np.isfinite(f[0]) for f in falls):
            return None
        errors = [factor * replicate_stderr(f) for f in falls]
        at = float(falls[1][0])
        interval = (min(falls[0][0] - errors[0], at - errors[1]), max(falls[2][0] + errors[2], at + errors[1]))
        note = "continuous: one cell, bounds by the cumulant of the order"
    k = int(np.clip(np.searchsorted(temperature, at) - 1, 0, len(temperature) - 2))
    beside = slice(window.start + k, window.start + k + 2)
    x = tilted(_draws(there.whole, beside), slope[k : k + 2])[1] / curves[0].n_sites
    here = np.array([np.interp(at, temperature[k : k + 2], row) for row in x])
    x = tilted(_draws(there.whole, window, only_main=True), slope)[1][0] / curves[0].n_sites
    moved = np.interp(interval, temperature, x)
    error = float(np.hypot(replicate_stderr(here), np.ptp(moved) / (2 * factor)))
    bounds = (float(interval[0]), float(interval[1]))
    return _Transition(column, at, bounds, float(here[0]), error, (pair[0], pair[1]), note)


LEVELS = ("highest_cumulant", "cumulant", "lowest_cumulant")


def find_order_lines(weights: PhaseWeights, *, settings: Mapping[str, Any]) -> Findings:
    """Find boundaries between phases of different order.

    Args:
        weights: weights of the phases (`segalflow.thermo.phase_weights`).
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``two_phase`` point at every temperature of a line with a composition gap, a ``gap_top`` where one ends inside
        the window, and a ``transition`` at every chemical potential of a line without (x_left = x_right, the mean
        composition there; left_phase the colder one). All name their phases.

    Raises:
        BoundaryError: for a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    findings = Findings()
    if "refused" in weights.attributes:
        findings.notes.append(f"No weights of the phases: {weights.attributes['refused']}")
        return findings
    curve = next(iter(weights.phases.values()))
    if min(len(curve.temperature), len(curve.delta_mu)) < 2:
        findings.notes.append("One temperature or one chemical potential brackets no boundary.")
        return findings
    if len(weights.phases) < 2:
        findings.notes.append("No ordered ground state fits into this cell: there is no order to follow.")
        return findings
    number = _describe_fields(weights, _fields(weights, options), options, findings)
    _describe_transitions(weights, _transitions(weights, options, findings), number, options, findings)
    if not findings.points:
        findings.notes.append("The order of the samples changes nowhere in this window: one phase.")
    return findings


def _describe_fields(
    weights: PhaseWeights, rows: list[list[_Field]], options: Mapping[str, Any], findings: Findings
) -> int:
    """Add the points of all two-phase lines and their tops; return the number of lines."""
    curve = next(iter(weights.phases.values()))
    method, cell = (str(weights.attributes.get(k, "")) for k in ("method", "cell"))
    confidence, half_step, number = float(options["confidence"]), half_steps(curve.temperature), 0
    for pair in dict.fromkeys(field.names for row in rows for field in row):
        own = [[field for field in row if field.names == pair] for row in rows]
        lines = track_lines([[field.interval for field in row] for row in own], options["overlap"])
        for line in sorted({n for row in lines for n in row}):
            members = [(t, own[t][i]) for t, row in enumerate(lines) for i, n in enumerate(row) if n == line]
            where = [t for t, _ in members]
            x = np.array([field.interval for _, field in members])
            stderr = np.array([[replicate_stderr(v) for v in (field.left, field.right)] for _, field in members])
            stderr = np.hypot(stderr, [field.skew for _, field in members])
            spread = temperature_errors(curve.temperature[where], x, stderr, half_step[where])
            for k, (t, field) in enumerate(members):
                kelvin, mu = float(curve.temperature[t]), float(field.delta_mu[0])
                findings.points.append(
                    BoundaryPoint(
                        CRITERION, method, cell, number, "two_phase", kelvin,
                        *normal_interval(kelvin, float(spread[k]), confidence), mu,
                        *normal_interval(mu, replicate_stderr(field.delta_mu), confidence), *field.interval,
                        float(stderr[k, 0]), float(stderr[k, 1]), *pair, confidence,
                        "seen at one temperature only" if len(members) == 1 else "",
                    )
                )  # fmt: skip
            last, field = members[-1]
            name = f"Line {number} ({pair[0]} + {pair[1]}, x {x[-1, 0]:.3f} to {x[-1, 1]:.3f})"
            if last == len(curve.temperature) - 1:
                findings.notes.append(
                    f"{name} reaches the highest temperature of the grid: its top is cut off by the window."
                )
            else:
                below, above = (float(curve.temperature[k]) for k in (last, last + 1))
                unit = temperature_unit(weights.attributes)
                findings.notes += say_few_points(name, len(members), above - below, "temperature", unit)
                middle, width, mu = float(x[-1].mean()), float(np.ptp(x[-1])) / np.sqrt(12), float(field.delta_mu[0])
                findings.points.append(
                    BoundaryPoint(
                        CRITERION, method, cell, number, "gap_top", (below + above) / 2, below, above, mu, mu, mu,
                        middle, middle, width, width, *pair, confidence,
                        "between the last temperature with a gap and the next without",
                    )
                )  # fmt: skip
            number += 1
    return number


def _describe_transitions(
    weights: PhaseWeights,
    found: Sequence[_Transition],
    number: int,
    options: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Add the points of the lines without a gap: neighbours along delta_mu and T between the same phases."""
    curve = next(iter(weights.phases.values()))
    method, cell = (str(weights.attributes.get(k, "")) for k in ("method", "cell"))
    reach = 2 * float(np.max(np.diff(curve.temperature))) if len(curve.temperature) > 1 else np.inf
    last: dict[int, _Transition] = {}
    seen_at: dict[int, int] = {}
    for point in sorted(found, key=lambda p: (p.column, p.temperature)):
        near = [
            (abs(point.temperature - seen.temperature), line)
            for line, seen in last.items()
            if seen.names == point.names
            and 0 < point.column - seen.column <= 2
            and abs(point.temperature - seen.temperature) <= reach
        ]
        line = min(near)[1] if near else number
        number += not near
        last[line], seen_at[line] = point, seen_at.get(line, 0) + 1
        mu = float(curve.delta_mu[point.column])
        findings.points.append(
            BoundaryPoint(
                CRITERION, method, cell, line, "transition", point.temperature, *point.interval, mu, mu, mu, point.x,
                point.x, point.x_stderr, point.x_stderr, *point.names, float(options["confidence"]), point.note,
            )
        )  # fmt: skip
    for line, seen in seen_at.items():
        # At an end of the window it is the window that cuts a line short.
        if 0 < last[line].column < len(curve.delta_mu) - 1:
            step = float(np.max(np.diff(curve.delta_mu)))
            findings.notes += say_few_points(f"Line {line}", seen, step, "delta_mu", "eV")
