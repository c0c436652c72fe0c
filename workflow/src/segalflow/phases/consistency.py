"""Whether the boundaries obey thermodynamics and each other.

Checks, each a row of one table with a z-score:

- Clausius-Clapeyron: along a two-phase line ``d(beta delta_mu)/d(beta) = du/dx``, the difference of the phases'
  energies over that of their compositions (from equal ``beta phi`` on both sides, ``d(beta phi) = u d(beta) -
  x d(beta delta_mu)``). The left side is the slope of the boundary's own points, the right side is read from the free
  energies at one temperature.
- The same line by another method, or by another criterion, at the same temperature: x_left, x_right and delta_mu.
- The lever rule: the weight of one phase in the composition histogram against ``(x - x_1) / (x_2 - x_1)`` with the
  boundary's compositions.
- Thermodynamic integration along T and along delta_mu against the free energies (`phases.integration`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from segalflow.artefacts import read_table
from segalflow.phases.coexistence import Coexistence, Peaks
from segalflow.phases.gaps import MANY
from segalflow.phases.integration import check_paths
from segalflow.phases.lines import (
    by_temperature,
    cut_line,
    delta_mu_stderr,
    encloses,
    find_junctions,
    match_lines,
    records_of,
    split_lines,
    two_phase_points,
)
from segalflow.thermo.free_energy import FreeEnergy

NOTES_SCHEMA = "segalflow.consistency_notes/1"

QUANTITIES = ("x_left", "x_right", "delta_mu")

CHECKS = {
    "clausius_clapeyron": "the slope of a line is du/dx across it (Clausius-Clapeyron)",
    "methods": "one line by two methods, read by the same criterion",
    "criteria": "one line by two criteria, read from the same method",
    "lever_rule": "shares of the phases in the composition histogram against the lever rule",
    "integration": "log Z by thermodynamic integration against that of the free energies",
}
"""What each check compares."""

COLUMNS = (
    "check",
    "quantity",
    "cell",
    "method",
    "criterion",
    "boundary",
    "other_method",
    "other_criterion",
    "other_boundary",
    "temperature",
    "value",
    "value_stderr",
    "other_value",
    "other_stderr",
    "difference",
    "difference_stderr",
    "z",
    "note",
)

WINDOW = 5
"""Points of a line that its slope is fitted to."""
SHORTEST = 4
"""Fewest points for a slope: with three nothing says how far their parabola is off."""
BARRIER = 2.0
"""Lowest barrier between the peaks of a histogram, kT of the cell, for each to be a phase of its own."""
ROUNDING = 1e-12
"""Differences of means and tangent points, x or eV, that are none."""
SHARES = (0.25, 0.5, 0.75)
"""Weights of the right phase at which the lever rule is looked at."""
FROM_SAME_DATA = frozenset({"common_tangent", "equal_weight"})
"""Criteria that read the same free energies as the check: their errors are correlated with its own."""
BY_POINTS = frozenset({"common_tangent"})
"""Criteria whose compositions are points of f(x), not means over a phase."""
BY_PEAKS = frozenset({"equal_weight"})
"""Criteria whose compositions are the means of the very peaks of the lever rule, which they obey by definition."""


def read_consistency(path: str | Path) -> pd.DataFrame:
    """Read a table of comparisons.

    Raises:
        ArtefactError: if the file is missing, unreadable or lacks a column.
    """
    table = read_table(path, COLUMNS)
    for name in ("criterion", "boundary", "other_method", "other_criterion", "other_boundary", "note"):
        table[name] = table[name].astype(object).where(table[name].notna(), "")
    return table


def check_consistency(
    boundaries: pd.DataFrame, frees: Iterable[FreeEnergy], tables: Iterable[xr.Dataset] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Check boundaries against thermodynamics and against each other.

    Args:
        boundaries: boundary table of all criteria, methods and cells.
        frees: free energies of the methods that resolve composition; method and cell are read from their attributes.
        tables: ensemble tables; those of the same methods and cells are integrated.

    Returns:
        A table with the columns `COLUMNS`, a row for each comparison: ``value`` is the boundary's (for
        ``clausius_clapeyron`` the slope of its points, eV; for ``lever_rule`` the fraction that its compositions give),
        ``other_value`` what it is compared with (du/dx, eV; the weight in the histogram), ``z`` their difference over
        its standard error. And sentences on what could not be compared.
    """
    # Rows are read one by one, which is several times slower of Arrow's strings than of Python's.
    texts = {name: object for name in boundaries.select_dtypes(["string", "object"])}
    points = two_phase_points(boundaries.astype(texts))
    lines = split_lines(points)
    known = {
        (str(free.attributes.get("method", "")), str(free.attributes.get("cell", ""))): Coexistence(free)
        for free in frees
        if "refused" not in free.attributes
    }
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    allowances, points_of = {}, {}
    sources: dict[tuple[str, str, str], Any] = {}
    for name, line in lines.items():
        criterion, method, cell, _ = name
        states = known.get((method, cell))
        if states is None:
            left_out[f"of {method} ({cell}), which has no free energy"] += len(line)
            continue
        source = (criterion, method, cell)
        if source not in sources:
            beside = pd.concat([other for key, other in lines.items() if key[:3] == source], ignore_index=True)
            sources[source] = by_temperature(beside), find_junctions(beside)
        isotherms, junctions = sources[source]
        points_of[name] = records_of(line)
        peaks = [_peaks_of(states, point, isotherms) for point in points_of[name]]
        if criterion in BY_POINTS:
            allowances[name] = _finite_cell(peaks, states)
        # At a three-phase point one of the phases becomes another, and the line has a kink.
        for piece in cut_line(line, junctions):
            own, found = ([values[k] for k in piece.index] for values in (points_of[name], peaks))
            rows += _clausius_clapeyron(piece, own, found, states, left_out)
        if criterion not in BY_PEAKS:
            rows += _lever_rule(points_of[name], peaks, allowances.get(name, np.zeros((len(line), 3))), left_out)
    rows += _compare_lines(lines, allowances, left_out)
    for table in tables:
        states = known.get((str(table.attrs.get("method", "")), str(table.attrs.get("cell", ""))))
        if states is not None:
            rows += check_paths(table, states.free)
    notes = [f"{n} points {why}: not compared." for why, n in sorted(left_out.items())]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if not len(points):
        notes.append("No two-phase line in this window, so nothing to check.")
    keys = table[list(COLUMNS[:10])].astype({"boundary": str, "other_boundary": str})
    return table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True), notes


def _peaks_of(
    states: Coexistence, point: Mapping[str, Any], isotherms: list[tuple[float, list[dict[str, Any]]]]
) -> Peaks | None:
    """The phases on both sides of a point in the free energy, None where it shows no two of them."""
    row = states.row(point["temperature"])
    if row is None:
        return None
    isotherm = _at_temperature(isotherms, point["temperature"])
    number = [other["boundary"] for other in isotherm].index(point["boundary"])
    found = states.peaks(row, isotherm, number)
    return None if found is None or not found.barrier >= BARRIER else found


def _finite_cell(peaks: list[Peaks | None], states: Coexistence) -> np.ndarray:
    """Distances of tangent points from means over phases, (n_points, 3): x_left, x_right, delta_mu."""
    found = [(np.zeros(2), 0.0) if p is None else states.finite_cell(p) for p in peaks]
    return np.array([[*x, mu] for x, mu in found])


def fit_slopes(
    at: np.ndarray, values: np.ndarray, covariance: np.ndarray, window: int = WINDOW
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the slope of a curve at each of its points, by weighted parabolas through the points around it.

    Args:
        at: abscissae, increasing or decreasing, shape (n,), at least 4.
        values: the curve, shape (n,).
        covariance: of the values, shape (n, n); weights are its inverse diagonal, equal ones where that is zero.
        window: points of a fit.

    Returns:
        Slopes (n,); the matrix that makes them from the values, (n, n); and how far they may be off because the curve
        is no parabola, (n,): what a cubic through the same points changes, beyond noise.
    """
    n = len(at)
    variance = np.diag(covariance)
    smallest = variance[variance > 0].min(initial=np.inf)
    weight = 1.0 / np.sqrt(np.where(variance > 0, variance, smallest if np.isfinite(smallest) else 1.0))
    matrices = np.zeros((2, n, n))
    for k in range(n):
        first = int(np.clip(k - window // 2, 0, max(n - window, 0)))
        part = np.arange(first, min(first + window, n))
        scale = float(np.ptp(at[part]))
        for j, degree in enumerate((2, 3)):
            # Powers from the first up: the slope at the point itself is the second coefficient.
            powers = np.vander((at[part] - at[k]) / scale, min(degree, len(part) - 1) + 1, increasing=True)
            solve = np.linalg.pinv(powers * weight[part, None]) * weight[part]
            matrices[j, k, part] = solve[1] / scale
    parabola, higher = matrices[0], matrices[1] - matrices[0]
    noise = np.einsum("ij,jk,ik->i", higher, covariance, higher)
    return parabola @ values, parabola, np.sqrt(np.maximum((higher @ values) ** 2 - noise, 0.0))


def _clausius_clapeyron(
    line: pd.DataFrame,
    points: list[dict[str, Any]],
    peaks: list[Peaks | None],
    states: Coexistence,
    left_out: Counter[str],
) -> list[dict[str, Any]]:
    """A row for every point of a line of at least `SHORTEST`, which is also given point by point."""
    criterion = str(line["criterion"].iloc[0])
    if len(line) < SHORTEST:
        left_out[f"of lines with fewer than {SHORTEST} between three-phase points, which have no sure slope"] += len(
            line
        )
        return []
    beta = 1.0 / (states.free.boltzmann * line["temperature"].to_numpy(float))
    error = beta * delta_mu_stderr(line)
    covariance = np.diag(error**2)
    drawn = None
    if criterion in FROM_SAME_DATA and all(p is not None for p in peaks):
        # The same samples speak at neighbouring temperatures: their errors go together.
        drawn = np.array([p.slope[1:] for p in peaks])
        drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
        if drawn.shape[1] >= MANY and np.all(drawn.std(axis=1) > 0):
            covariance = np.corrcoef(drawn) * np.outer(error, error)
        else:
            drawn = None
    slope, matrix, bent = fit_slopes(beta, beta * line["delta_mu"].to_numpy(float), covariance)
    stderr = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", matrix, covariance, matrix), 0.0))
    rows = []
    for k, point in enumerate(points):
        found = _energy_slope(point, peaks[k], states)
        if found is None:
            left_out["without two peaks or energies in the free energy"] += 1
            continue
        other, draws, other_error, open_end = found
        truncation = float(np.hypot(bent[k], open_end))
        shared = 0.0
        if drawn is not None:
            kept = np.isfinite(peaks[0].slope[1:])
            for p in peaks:
                kept &= np.isfinite(p.slope[1:])
            pair = np.stack([matrix[k] @ drawn, draws[kept]])
            if np.all(np.isfinite(pair)) and np.all(pair.std(axis=1) > 0):
                noise = float(draws[kept].std(ddof=1))
                shared = float(np.corrcoef(pair)[0, 1]) * stderr[k] * noise
        variance = stderr[k] ** 2 + other_error**2 - 2 * shared + truncation**2
        rows.append(
            _row(
                "clausius_clapeyron", "d(beta delta_mu)/d(beta)", point, None, (slope[k], stderr[k]),
                (other, other_error), float(np.sqrt(max(variance, 0.0))),
                f"steps of temperature leave {truncation:.2g} open" if truncation > stderr[k] + other_error else "",
                left_out,
            )
        )  # fmt: skip
    return [row for row in rows if row]


def _energy_slope(
    point: Mapping[str, Any], peaks: Peaks | None, states: Coexistence
) -> tuple[float, np.ndarray, float, float] | None:
    """du/dx across a point, its replicates, its standard error, and what the steps of temperature leave open; eV."""
    floor = 0.0 if peaks is None else states.energy_stderr(peaks)
    if point["criterion"] in BY_POINTS:
        row = states.row(point["temperature"])
        if row is None or not np.isfinite(states.energy[row]).any():
            return None
        x = np.array([point["x_left"], point["x_right"]], dtype=float)
        values, by_x, open_end = states.slope_of_points(row, x)
        moved = by_x * np.array([point["x_left_stderr"], point["x_right_stderr"]], dtype=float)
        floor = float(np.hypot(floor, np.hypot(*moved)))
    elif peaks is None:
        return None
    else:
        values, open_end = states.slope_of_peaks(peaks)
        floor = float(np.hypot(floor, states.parting_error(peaks)))
    draws = values[1:]
    if not np.isfinite(values[0]):
        return None
    return float(values[0]), draws, float(np.hypot(_deviation(draws), floor)), open_end


def _lever_rule(
    points: list[dict[str, Any]], peaks: list[Peaks | None], allowance: np.ndarray, left_out: Counter[str]
) -> list[dict[str, Any]]:
    """Rows at `SHARES` for every point of a line whose histogram has two peaks."""
    rows = []
    for point, found, allowed in zip(points, peaks, allowance, strict=True):
        if found is None:
            left_out["without two peaks in the composition histogram, so without shares of phases"] += 1
            continue
        low, high = float(point["x_left"]), float(point["x_right"])
        width = high - low
        distance = (found.weight.shape[1] - 1) * (found.x[1, 0] - found.x[0, 0])
        for share in SHARES:
            slope = float(found.slope[0] + np.log(share / (1 - share)) / distance)
            weight, x = found.share(slope)
            lever = (x - low) / width
            by_x = np.array([-(1 - lever[0]), -lever[0]]) / width
            errors = np.hypot([point["x_left_stderr"], point["x_right_stderr"]], allowed[:2])
            from_x = float(np.hypot(*(by_x * errors)))
            # Weight and mean composition of one replicate move together.
            together = _deviation((lever - weight)[1:])
            rows.append(
                _row(
                    "lever_rule", f"fraction near {share:g}", point, None,
                    (lever[0], float(np.hypot(_deviation(lever[1:]), from_x))), (weight[0], _deviation(weight[1:])),
                    float(np.hypot(together, from_x)), "", left_out,
                )
            )  # fmt: skip
    return [row for row in rows if row]


def _deviation(draws: np.ndarray) -> float:
    good = draws[np.isfinite(draws)]
    return float(good.std(ddof=1)) if len(good) > 1 else 0.0


def _compare_lines(
    lines: Mapping[tuple[str, str, str, int], pd.DataFrame],
    allowances: Mapping[tuple[str, str, str, int], np.ndarray],
    left_out: Counter[str],
) -> list[dict[str, Any]]:
    """Rows for lines of one cell by two methods (same criterion) or by two criteria (same method).

    A criterion that reads points of f(x) and one that reads means differ in a finite cell: by the allowances.
    """
    sources: dict[tuple[str, str, str], dict[tuple, pd.DataFrame]] = {}
    for key, line in lines.items():
        sources.setdefault(key[:3], {})[key] = line
    isotherms = {source: by_temperature(pd.concat(list(members.values()))) for source, members in sources.items()}
    points = {name: records_of(line) for name, line in lines.items()}
    values = {name: _values(line) for name, line in lines.items()}
    rows = []
    for (first, second), check in [
        (pair, "methods" if pair[0][0] == pair[1][0] else "criteria")
        for pair in itertools.combinations(sources, 2)
        if pair[0][2] == pair[1][2] and (pair[0][0] == pair[1][0]) != (pair[0][1] == pair[1][1])
    ]:
        for name_a, name_b, pairs in match_lines(sources[first], sources[second]):
            a, b = lines[name_a], lines[name_b]
            none = [np.zeros((len(line), 3)) for line in (a, b)]
            # Two criteria of one kind differ by nothing, and allowances are of the cell, not of a method.
            one_kind = (name_a in allowances) == (name_b in allowances)
            of_a, of_b = none if one_kind else (allowances.get(name_a, none[0]), allowances.get(name_b, none[1]))
            for i, j in pairs:
                coarse, fine = first, second
                if not _parted(points[name_a][i], isotherms[second]):
                    coarse, fine = second, first
                    if not _parted(points[name_b][j], isotherms[first]):
                        coarse = None
                if coarse is not None:
                    kind = 0 if check == "criteria" else 1
                    left_out[f"where {coarse[kind]} has one gap and {fine[kind]} two with a phase between"] += 1
                    continue
                extra = of_a[i] + of_b[j]
                p, q = values[name_a][i], values[name_b][j]
                for k, quantity in enumerate(QUANTITIES):
                    combined = float(np.linalg.norm([p[k][1], q[k][1], extra[k]]))
                    note = (
                        f"means and tangent points of this cell differ by {extra[k]:.2g}" if extra[k] > ROUNDING else ""
                    )
                    rows.append(
                        _row(
                            check, quantity, points[name_a][i], points[name_b][j], p[k], q[k], combined, note, left_out
                        )
                    )  # fmt: skip
    return [row for row in rows if row]


def _at_temperature(isotherms: list[tuple[float, list[dict[str, Any]]]], kelvin: float) -> list[dict[str, Any]]:
    """Points of one temperature, left to right."""
    return [point for at, points in isotherms if abs(at - kelvin) <= 1e-9 * kelvin for point in points]


def _parted(point: Mapping[str, Any], isotherms: list[tuple[float, list[dict[str, Any]]]]) -> bool:
    """Whether others have two gaps with a phase between where a point has one."""
    others = _at_temperature(isotherms, float(point["temperature"]))
    return any(encloses(point, left, right) for left, right in itertools.pairwise(others))


def _values(line: pd.DataFrame) -> list[list[tuple[float, float]]]:
    """Values and standard errors of the `QUANTITIES` of every point of a line."""
    errors = np.column_stack([line[["x_left_stderr", "x_right_stderr"]].to_numpy(float), delta_mu_stderr(line)])
    found = line[list(QUANTITIES)].to_numpy(float)
    return [[(float(v), float(e)) for v, e in zip(*pair, strict=True)] for pair in zip(found, errors, strict=True)]


def _row(
    check: str,
    quantity: str,
    point: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    value: tuple[float, float],
    other_value: tuple[float, float],
    stderr: float,
    note: str,
    left_out: Counter[str],
) -> dict[str, Any]:
    """One row; empty where neither side states an error, which is counted."""
    if not stderr > 0:
        left_out[f"({check}) with no error stated on either side"] += 1
        return {}
    difference = float(value[0] - other_value[0])
    return {
        "check": check,
        "quantity": quantity,
        **{name: point[name] for name in ("cell", "method", "criterion", "boundary", "temperature")},
        "other_method": "" if other is None else other["method"],
        "other_criterion": "" if other is None else other["criterion"],
        "other_boundary": "" if other is None else int(other["boundary"]),
        "value": float(value[0]),
        "value_stderr": float(value[1]),
        "other_value": float(other_value[0]),
        "other_stderr": float(other_value[1]),
        "difference": difference,
        "difference_stderr": stderr,
        "z": difference / stderr,
        "note": note,
    }
