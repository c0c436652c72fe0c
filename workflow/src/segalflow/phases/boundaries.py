"""The phase boundary table (the third contract).

One row is one boundary point: at a temperature and delta_mu two phases (or one phase on either side of a transition
without a jump) with compositions x_left <= x_right. Every criterion writes this table; the phase diagram reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from segalflow.artefacts import read_table, write_table


@dataclass(frozen=True)
class BoundaryPoint:
    """One point of a phase boundary.

    Attributes:
        criterion: which rule found it (a key of `segalflow.phases.criteria.CRITERIA`).
        method: the sampler whose table it was read from.
        cell: name of the cell.
        boundary: number that tells separate boundary lines of one criterion and method apart.
        kind: ``two_phase`` (a composition gap), ``gap_top`` (upper end of a gap) or ``transition`` (no jump resolved).
        temperature: K.
        temperature_low, temperature_high: ends of its confidence interval, K.
        delta_mu: eV.
        delta_mu_low, delta_mu_high: ends of its confidence interval, eV.
        left_phase, right_phase: names of the phases, empty where the criterion cannot tell.
        x_left, x_right: compositions (fraction of species 1) of the two sides.
        x_left_stderr, x_right_stderr: their standard errors.
        confidence: level of the intervals.
        note: anything a reader must know (a window that cuts the boundary, unreliable points used).
    """

    criterion: str
    method: str
    cell: str
    boundary: int
    kind: str
    temperature: float
    temperature_low: float
    temperature_high: float
    delta_mu: float
    delta_mu_low: float
    delta_mu_high: float
    x_left: float
    x_right: float
    x_left_stderr: float
    x_right_stderr: float
    left_phase: str = ""
    right_phase: str = ""
    confidence: float = 0.95
    note: str = ""


COLUMNS = tuple(f.name for f in fields(BoundaryPoint))


def boundary_table(points: Iterable[BoundaryPoint]) -> pd.DataFrame:
    """Return the points as a table with all columns, also when there are none; sorted by criterion, method, line, T."""
    table = pd.DataFrame([asdict(p) for p in points], columns=list(COLUMNS))
    return table.sort_values(
        ["criterion", "method", "cell", "boundary", "temperature", "delta_mu"], kind="stable", ignore_index=True
    )


def write_boundaries(path: str | Path, table: pd.DataFrame) -> None:
    """Write a boundary table as CSV."""
    write_table(path, table[list(COLUMNS)])


def read_boundaries(path: str | Path) -> pd.DataFrame:
    """Read a boundary table.

    Raises:
        ArtefactError: if the file is missing, unreadable or lacks a column.
    """
    table = read_table(path, COLUMNS)
    for name in ("left_phase", "right_phase", "note"):
        table[name] = table[name].fillna("").astype(str)
    return table


def merge_boundaries(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return one table from those of several criteria."""
    kept = [t for t in tables if len(t)]
    merged = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(COLUMNS))
    return merged.sort_values(
        ["criterion", "method", "cell", "boundary", "temperature", "delta_mu"], kind="stable", ignore_index=True
    )


def replace_refined(first: pd.DataFrame, refined: pd.DataFrame) -> pd.DataFrame:
    """Return the boundary table with what refinement found in place of what it started from.

    The refined sweep holds every sample of the first, so its points supersede those of the same criterion, method and
    cell; where it has none, those of the first sweep stay.
    """
    keys = ["criterion", "method", "cell"]
    known = set(refined[keys].itertuples(index=False, name=None))
    stays = [row not in known for row in first[keys].itertuples(index=False, name=None)]
    return merge_boundaries([first[stays], refined])


def normal_interval(value: float, stderr: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided normal confidence interval of an estimate."""
    from scipy.special import ndtri

    half = float(ndtri(0.5 + confidence / 2)) * stderr
    return (value - half, value + half) if np.isfinite(half) else (float("nan"), float("nan"))
