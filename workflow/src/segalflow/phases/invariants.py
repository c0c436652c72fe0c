"""Invariant points of a boundary table, with errors, and what the window of the sweep cuts off.

- Three-phase points: two gaps beside each other on one side of a temperature and one gap over both on the other side.
  The middle phase decomposes on heating (``peritectoid``) or on cooling (``eutectoid``; the names of the solid state
  stand for all reactions of that shape). On the side of two gaps their delta_mu meet at the temperature itself.
- Congruent points: an order-disorder line has an extremum of T along delta_mu, where both sides have one composition
  (``dT/d(delta_mu) = -dx/ds``), or the gaps on both sides of a phase close at one temperature and composition.
- Critical points: the tops of gaps that end in neither way, with one phase on both sides (a plain miscibility gap).
- Order-disorder tops: those between phases of different order. Such a field has no critical point: it ends at a maximum
  of T, becomes narrower than can be resolved, or ends where the transition goes on without a gap.

Phases are told apart by name (`same_phase`). A top whose line has no names takes those that other criteria give the gap
below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from segalflow.phases.lines import (
    BRACKETED,
    SAMPLER_ONLY,
    Junction,
    delta_mu_stderr,
    find_junctions,
    split_lines,
    two_phase_points,
)
from segalflow.phases.tops import SINGLE_TOPS, describe_tops, joined_names, point_delta_mu_stderr

NOTES_SCHEMA = "segalflow.invariant_notes/1"

COLUMNS = (
    "kind",
    "order",
    "cell",
    "method",
    "criterion",
    "boundaries",
    "temperature",
    "temperature_stderr",
    "temperature_low",
    "temperature_high",
    "x_left",
    "x",
    "x_right",
    "x_stderr",
    "delta_mu",
    "delta_mu_stderr",
    "phases",
    "note",
)

REACH = 3
"""Points on each line from which its delta_mu is carried to a three-phase point."""
N_SIGMA = 2.0
"""Standard errors by which an extremum must stand out from both ends of its line."""
CONFIDENCE = 0.95


def find_invariants(boundaries: pd.DataFrame) -> pd.DataFrame:
    """Return the invariant points that each criterion finds with each method in each cell.

    Args:
        boundaries: boundary table.

    Returns:
        A table with the columns `COLUMNS`: ``kind`` is ``eutectoid``, ``peritectoid``, ``congruent``,
        ``order_disorder`` or ``critical``; ``order`` is ``first`` or ``continuous``, which says how the temperature
        moves with the size of the cell, and empty where the criterion cannot tell; ``boundaries`` the numbers of the
        lines that meet, joined by ``+``; ``x_left``, ``x``, ``x_right`` the three
        compositions (all the same where there is one); ``phases`` their names from left to right.
    """
    rows: list[dict[str, Any]] = []
    kept = boundaries[~boundaries["criterion"].isin(SAMPLER_ONLY)]
    for (cell, method, criterion), source in kept.groupby(["cell", "method", "criterion"], sort=True):
        points = two_phase_points(source)
        lines = {key[3]: line for key, line in split_lines(points).items()}
        junctions = find_junctions(points)
        found = [_three_phases(junction, lines, criterion) for junction in junctions]
        ends = {n for j in junctions for n in _ending(j)}
        tops = [top for _, top in source[source["kind"] == "gap_top"].iterrows() if top["boundary"] not in ends]
        above = kept[(kept["kind"] == "transition") & (kept["cell"] == cell) & (kept["method"] == method)]
        named = two_phase_points(kept[kept["cell"] == cell])
        found += describe_tops(tops, lines, above, named[(named["left_phase"] != "") & (named["right_phase"] != "")])
        found += _extrema(source[source["kind"] == "transition"])
        rows += [{"cell": cell, "method": method, "criterion": criterion, **row} for row in found]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    _mark_doubtful(table)
    return table.sort_values(["cell", "kind", "x", "criterion", "method"], kind="stable", ignore_index=True)


def _ending(junction: Junction) -> set[int]:
    """Lines whose upper end is a three-phase point and no top of their own."""
    lower = {junction.left, junction.right} if junction.parted_below else {junction.whole}
    upper = {junction.whole} if junction.parted_below else {junction.left, junction.right}
    return lower - upper


def _three_phases(junction: Junction, lines: Mapping[int, pd.DataFrame], criterion: str) -> dict[str, Any]:
    """A three-phase point: where the delta_mu of both gaps meet, or between the two temperatures."""
    parted, step = (junction.below, -1) if junction.parted_below else (junction.above, 1)
    near = []
    for number in (junction.left, junction.right):
        line = lines[number]
        order = line["temperature"].to_numpy(float) * step
        inside = line[order >= parted * step - 1e-9]
        near.append(inside.iloc[:REACH] if step > 0 else inside.iloc[::-1].iloc[:REACH])
    left, right = (part.iloc[0] for part in near)
    middle, half = (junction.below + junction.above) / 2, (junction.above - junction.below) / 2
    values = {
        "temperature": middle,
        "temperature_stderr": half / np.sqrt(3),
        "temperature_low": junction.below,
        "temperature_high": junction.above,
    }
    notes = []
    meeting = None if criterion in BRACKETED else _meeting(*near)
    if meeting is not None and np.isfinite(meeting[1]):
        at, error = meeting
        if junction.below <= at <= junction.above and error < half / np.sqrt(3):
            reach = float(ndtri(0.5 + CONFIDENCE / 2)) * error
            values = dict(zip(values, (at, error, at - reach, at + reach), strict=True))
        elif (at - parted) * step > N_SIGMA * error:
            notes.append(
                f"the middle phase is the least stable of the three already from {at:.4g}, where the delta_mu of its "
                "two gaps meet"
            )
    mus = [float(p["delta_mu"]) for p in (left, right)]
    errors = [point_delta_mu_stderr(p) for p in (left, right)]
    middle_x = (float(left["x_right"]) + float(right["x_left"])) / 2
    return {
        "kind": junction.kind,
        "order": "first",
        "boundaries": "+".join(str(n) for n in sorted({junction.left, junction.right, junction.whole})),
        **values,
        "x_left": float(left["x_left"]),
        "x": middle_x,
        "x_right": float(right["x_right"]),
        "x_stderr": float(np.hypot(left["x_right_stderr"], right["x_left_stderr"]) / 2),
        "delta_mu": float(np.mean(mus)),
        "delta_mu_stderr": float(np.hypot(np.hypot(*errors) / 2, (mus[1] - mus[0]) / np.sqrt(12))),
        "phases": joined_names(left["left_phase"], left["right_phase"] or right["left_phase"], right["right_phase"]),
        "note": "; ".join(notes),
    }


def _meeting(left: pd.DataFrame, right: pd.DataFrame) -> tuple[float, float] | None:
    """Temperature at which straight lines through the delta_mu of both lines meet, and its standard error."""
    if min(len(left), len(right)) < 2:
        return None
    fits = [_straight(line) for line in (left, right)]
    (a, b), covariance = fits[0][0] - fits[1][0], fits[0][1] + fits[1][1]
    if b == 0:
        return None
    at = -a / b
    by = np.array([-1.0 / b, a / b**2])
    return float(at), float(np.sqrt(by @ covariance @ by))


def _straight(line: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope of delta_mu(T) by weighted least squares, and their covariance."""
    error = delta_mu_stderr(line)
    largest = error.max(initial=0.0)
    error = np.maximum(error, 1e-3 * largest) if largest > 0 else np.full(len(error), 1e-12)
    powers = np.vander(line["temperature"].to_numpy(float), 2, increasing=True)
    solve = np.linalg.pinv(powers / error[:, None]) / error
    return solve @ line["delta_mu"].to_numpy(float), solve @ np.diag(error**2) @ solve.T


def _extrema(points: pd.DataFrame) -> list[dict[str, Any]]:
    """Congruent points of order-disorder lines: extrema of T along delta_mu, by a weighted parabola."""
    found = []
    for number, line in points.groupby("boundary", sort=True):
        ordered = line.sort_values("delta_mu").drop_duplicates("delta_mu")
        mu, kelvin = (ordered[name].to_numpy(float) for name in ("delta_mu", "temperature"))
        factor = 2 * ndtri(0.5 + ordered["confidence"].to_numpy(float) / 2)
        error = (ordered["temperature_high"] - ordered["temperature_low"]).to_numpy(float) / factor
        for sign, word in ((1.0, "highest"), (-1.0, "lowest")):
            k = int(np.argmax(sign * kelvin))
            if len(mu) < 5 or not 1 < k < len(mu) - 2:
                continue
            apart = [sign * (kelvin[k] - kelvin[end]) / np.hypot(error[k], error[end]) for end in (0, -1)]
            fitted = _vertex(mu[k - 2 : k + 3], kelvin[k - 2 : k + 3], error[k - 2 : k + 3], sign)
            if min(apart) < N_SIGMA or fitted is None:
                continue
            at, top, at_error, top_error = fitted
            sides = [np.interp(at, mu, ordered[name].to_numpy(float)) for name in ("x_left", "x_right")]
            reach = float(ndtri(0.5 + CONFIDENCE / 2)) * top_error
            # What the criterion says of most points around the extremum.
            said = ordered["note"].iloc[k - 2 : k + 3].astype(str)
            orders = {"continuous": said.str.startswith("continuous"), "first": said.str.startswith("equal weight")}
            order = next((name for name, there in orders.items() if there.mean() > 0.5), "")
            found.append(
                {
                    "kind": "congruent",
                    "order": order,
                    "boundaries": str(number),
                    "temperature": top,
                    "temperature_stderr": top_error,
                    "temperature_low": top - reach,
                    "temperature_high": top + reach,
                    "x_left": float(np.mean(sides)),
                    "x": float(np.mean(sides)),
                    "x_right": float(np.mean(sides)),
                    "x_stderr": float((sides[1] - sides[0]) / np.sqrt(12)),
                    "delta_mu": at,
                    "delta_mu_stderr": at_error,
                    "phases": "",
                    "note": f"{word} temperature of an order-disorder line along delta_mu",
                }
            )
    return found


def _vertex(
    at: np.ndarray, values: np.ndarray, error: np.ndarray, sign: float
) -> tuple[float, float, float, float] | None:
    """Place and height of the vertex of a weighted parabola, and their errors; None where it bends the other way."""
    centre, scale = float(at.mean()), float(np.ptp(at))
    floor = max(1e-3 * float(error.max(initial=0.0)), 1e-9 * abs(float(values.mean())))
    weight = 1.0 / np.maximum(error, floor)
    powers = np.vander((at - centre) / scale, 3)
    solve = np.linalg.pinv(powers * weight[:, None]) * weight
    a, b, c = solve @ values
    covariance = solve @ np.diag(weight**-2.0) @ solve.T
    # Points that scatter more than their errors say so themselves.
    misfit = float(np.sum(((values - powers @ (a, b, c)) * weight) ** 2)) / max(len(at) - 3, 1)
    covariance *= max(misfit, 1.0)
    if sign * a >= 0:
        return None
    place = -b / (2 * a)
    if not powers[:, 1].min() <= place <= powers[:, 1].max():
        return None
    by_place = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
    by_height = np.array([place**2, place, 1.0])
    errors = [float(np.sqrt(by @ covariance @ by)) for by in (by_place, by_height)]
    return centre + scale * place, float(c + b * place / 2), scale * errors[0], errors[1]


def _mark_doubtful(table: pd.DataFrame) -> None:
    """Say of tops by the cumulant that another criterion has a three-phase point there: a gap may end in that."""
    three = table[table["kind"].isin(["eutectoid", "peritectoid"])]
    for k, row in table[table["kind"].isin(SINGLE_TOPS) & (table["criterion"] == "critical_point")].iterrows():
        near = three[
            (three["cell"] == row["cell"])
            & (three["method"] == row["method"])
            & (three["temperature_low"] <= row["temperature_high"])
            & (three["temperature_high"] >= row["temperature_low"])
            & (three["x_left"] <= row["x"])
            & (three["x_right"] >= row["x"])
        ]
        if len(near):
            said = f"a three-phase point by {near['criterion'].iloc[0]} lies within: the gap may end there"
            table.loc[k, "note"] = "; ".join(filter(None, [row["note"], said]))


def find_cuts(
    boundaries: pd.DataFrame, windows: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> tuple[list[str], list[str]]:
    """Return sentences on lines that the window cuts off, and on where it has no boundary at all.

    Args:
        boundaries: boundary table.
        windows: temperatures and chemical potentials swept, by cell.
    """
    cuts, notes = [], []
    points = two_phase_points(boundaries)
    for cell, (temperature, delta_mu) in windows.items():
        coldest, hottest = float(min(temperature)), float(max(temperature))
        low, high = float(min(delta_mu)), float(max(delta_mu))
        step = float(np.max(np.diff(np.sort(delta_mu)))) if len(delta_mu) > 1 else 0.0
        lines = split_lines(points[points["cell"] == cell])
        at_top = [name for name, line in lines.items() if np.isclose(line["temperature"].max(), hottest)]
        at_edge = [
            name
            for name, line in lines.items()
            if line["delta_mu"].min() <= low + step * (1 + 1e-9) or line["delta_mu"].max() >= high - step * (1 + 1e-9)
        ]
        at_bottom = [name for name, line in lines.items() if np.isclose(line["temperature"].min(), coldest)]
        if at_top:
            cuts.append(
                f"{cell}: {_list(at_top)} reach the highest temperature of the grid ({hottest:g}): a higher "
                "grid.temperature would hold their tops."
            )
        if at_edge:
            cuts.append(
                f"{cell}: {_list(at_edge)} come within a step of the ends of grid.delta_mu ({low:g} to {high:g}): the "
                "window may cut off the phase beyond."
            )
        if at_bottom:
            notes.append(
                f"{cell}: {_list(at_bottom)} go on below the lowest temperature of the grid ({coldest:g}); invariant "
                "points below are not seen."
            )
    return cuts, notes


def find_empty(boundaries: pd.DataFrame, methods: Mapping[str, Iterable[str]], windows: Mapping) -> list[str]:
    """Return a sentence on every cell and method for which no criterion found a boundary.

    Args:
        boundaries: boundary table.
        methods: methods by cell.
        windows: temperatures and chemical potentials swept, by cell.
    """
    found = boundaries[~boundaries["criterion"].isin(SAMPLER_ONLY)]
    notes = []
    for cell, names in methods.items():
        temperature, delta_mu = windows[cell]
        window = (
            f"in this window (temperature {min(temperature):g} to {max(temperature):g}, delta_mu {min(delta_mu):g} to "
            f"{max(delta_mu):g})"
        )
        here = found[found["cell"] == cell]
        missing = [name for name in names if not (here["method"] == name).any()]
        if not len(here):
            notes.append(f"{cell}: no boundary {window} by any criterion or method.")
        elif missing:
            notes.append(f"{cell}: no boundary {window} by any criterion with {', '.join(missing)}.")
    return notes


def _list(names: Sequence[tuple[str, str, str, int]]) -> str:
    """Lines in words, grouped by criterion and method."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for criterion, method, _, number in names:
        grouped.setdefault((criterion, method), []).append(str(number))
    words = [f"{criterion} of {method} {', '.join(numbers)}" for (criterion, method), numbers in grouped.items()]
    return f"lines {'; '.join(words)}"
