"""Lines of a boundary table: their points, the errors of these as standard deviations, and which lines are the same."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

BRACKETED = frozenset({"composition_jump", "alpha_shape", "composition_difference", "hysteresis"})
"""Criteria whose interval of delta_mu is a bracket (a step of the grid, a loop): anywhere in it is as likely."""
SAMPLER_ONLY = frozenset({"ness_regions"})
"""Criteria that mark where the sampler is weak, which is no thermodynamic boundary."""
OVERLAP = 0.25
"""Least mean overlap (shared part over union) of two lines' gaps for them to be the same line."""
INSIDE = 0.1
"""Least distance of a third phase from the ends of a gap that holds it, as a part of the gap's width."""
LINE = ("criterion", "method", "cell", "boundary")
"""Columns that name a line."""


def two_phase_points(boundaries: pd.DataFrame) -> pd.DataFrame:
    """Return the points with a composition gap of all criteria that find thermodynamic boundaries."""
    kept = (boundaries["kind"] == "two_phase") & ~boundaries["criterion"].isin(SAMPLER_ONLY)
    return boundaries[kept & (boundaries["x_right"] > boundaries["x_left"])].reset_index(drop=True)


def split_lines(points: pd.DataFrame) -> dict[tuple[str, str, str, int], pd.DataFrame]:
    """Return the points of every line, by (criterion, method, cell, boundary), with rising temperature."""
    return {
        (str(key[0]), str(key[1]), str(key[2]), int(key[3])): part.sort_values("temperature").reset_index(drop=True)
        for key, part in points.groupby(list(LINE), sort=True)
    }


def records_of(points: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, plain values by name: reading a `DataFrame` by rows takes far longer."""
    names = list(points.columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*(points[n].tolist() for n in names), strict=True)]


def by_temperature(points: pd.DataFrame) -> list[tuple[float, list[dict[str, Any]]]]:
    """Return the points of every temperature, coldest first and each from left to right."""
    rows = records_of(points.sort_values(["temperature", "x_left"]))
    return [(float(kelvin), list(part)) for kelvin, part in itertools.groupby(rows, key=lambda row: row["temperature"])]


def delta_mu_stderr(points: pd.DataFrame) -> np.ndarray:
    """Return standard errors of delta_mu, eV, shape (n_points,), from the intervals.

    A bracket is the interval of a uniform distribution, any other a normal one of the stated level.
    """
    width = (points["delta_mu_high"] - points["delta_mu_low"]).to_numpy(float)
    normal = 2 * ndtri(0.5 + points["confidence"].to_numpy(float) / 2)
    return np.abs(width) / np.where(points["criterion"].isin(BRACKETED), np.sqrt(12), normal)


def gap_overlap(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Return shared part over union of the composition gaps of two points; 0 where they share nothing."""
    shared = min(first["x_right"], second["x_right"]) - max(first["x_left"], second["x_left"])
    union = max(first["x_right"], second["x_right"]) - min(first["x_left"], second["x_left"])
    return max(float(shared), 0.0) / max(float(union), 1e-12)


def _same_temperature(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of indices at which two arrays of temperatures agree."""
    return [(int(i), int(j)) for i, j in np.argwhere(np.isclose(a[:, None], b, rtol=1e-9, atol=0.0))]


def match_lines(
    first: Mapping[Hashable, pd.DataFrame], second: Mapping[Hashable, pd.DataFrame], overlap: float = OVERLAP
) -> list[tuple[Hashable, Hashable, list[tuple[int, int]]]]:
    """Return which lines of two sources are the same, with the rows they have at common temperatures.

    Lines are judged as wholes, so that a single wrong point of a line is compared and not lost. A line that one source
    has in two pieces goes with both, where these are at different temperatures.

    Args:
        first, second: lines by any name (`split_lines`).
        overlap: least mean overlap of the gaps.

    Returns:
        (name in `first`, name in `second`, pairs of rows), best overlap first.
    """
    columns = ["temperature", "x_left", "x_right"]
    of_first, of_second = (
        [(name, line[columns].to_numpy(float)) for name, line in lines.items()] for lines in (first, second)
    )
    scored = []
    for i, (name_a, a) in enumerate(of_first):
        for j, (name_b, b) in enumerate(of_second):
            rows = _same_temperature(a[:, 0], b[:, 0])
            if not rows:
                continue
            at, other = (values[list(k)] for values, k in zip((a, b), zip(*rows, strict=True), strict=True))
            shared = np.minimum(at[:, 2], other[:, 2]) - np.maximum(at[:, 1], other[:, 1])
            union = np.maximum(at[:, 2], other[:, 2]) - np.minimum(at[:, 1], other[:, 1])
            shared = np.maximum(shared, 0.0) / np.maximum(union, 1e-12)
            if np.mean(shared) >= overlap:
                scored.append((-float(np.sum(shared)), i, j, name_a, name_b, rows))
    taken: set[tuple[int, int, int]] = set()
    found = []
    for _, i, j, name_a, name_b, rows in sorted(scored, key=lambda s: s[:3]):
        used = {(0, i, k) for k, _ in rows} | {(1, j, m) for _, m in rows}
        if not used & taken:
            taken |= used
            found.append((name_a, name_b, rows))
    return found


@dataclass(frozen=True)
class Junction:
    """A three-phase point between two temperatures: two gaps beside each other on one side, one gap on the other.

    Attributes:
        below, above: the temperatures, K.
        left, right: numbers of the lines of the two gaps.
        whole: number of the line of the one gap.
        parted_below: whether the two gaps are at `below` (their middle phase decomposes on heating).
    """

    below: float
    above: float
    left: int
    right: int
    whole: int
    parted_below: bool

    @property
    def kind(self) -> str:
        """``peritectoid`` where the middle phase is stable below, ``eutectoid`` where it is stable above."""
        return "peritectoid" if self.parted_below else "eutectoid"


def encloses(whole: Mapping[str, Any], left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Return whether one gap stands for two beside each other, with the phase between these inside it."""
    low, high = float(whole["x_left"]), float(whole["x_right"])
    middle, margin = (left["x_right"] + right["x_left"]) / 2, INSIDE * (high - low)
    covered = [
        (min(high, part["x_right"]) - max(low, part["x_left"])) > 0.5 * (part["x_right"] - part["x_left"])
        for part in (left, right)
    ]
    return bool(all(covered) and low + margin < middle < high - margin)


def find_junctions(points: pd.DataFrame) -> list[Junction]:
    """Return the three-phase points of one source (criterion, method and cell), from low to high temperature.

    Args:
        points: its two-phase points (`two_phase_points`).
    """
    isotherms = by_temperature(points)
    found = []
    for (below, lower), (above, upper) in itertools.pairwise(isotherms):
        for two, one, parted_below in ((lower, upper, True), (upper, lower, False)):
            for left, right in itertools.pairwise(two):
                whole = [gap for gap in one if encloses(gap, left, right)]
                if whole:
                    numbers = (int(p["boundary"]) for p in (left, right, whole[0]))
                    found.append(Junction(below, above, *numbers, parted_below))
    return found


def cut_line(line: pd.DataFrame, junctions: Sequence[Junction]) -> list[pd.DataFrame]:
    """Return the pieces of a line between the three-phase points at which one of its two phases becomes another."""
    number = int(line["boundary"].iloc[0])
    temperature = line["temperature"].to_numpy(float)
    cuts = [j.below for j in junctions if number == j.whole and number in (j.left, j.right)]
    piece = np.searchsorted(np.unique(cuts), temperature, side="left")
    return [line[piece == k] for k in np.unique(piece)]
