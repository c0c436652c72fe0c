"""Tops of composition gaps: congruent, critical, or the end of a field between phases of different order.

A gap with the same phase on both sides ends at a critical point. Between phases of different order there is none: the
field ends at a maximum of T, where it is too narrow to be resolved, or where the transition goes on without a gap.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from segalflow.phases.lines import delta_mu_stderr
from segalflow.thermo.order_parameters import SOLUTION

APART = 0.05
"""Largest distance in x of the tops of two gaps that close at one congruent point."""
NEAR = 0.15
"""Relative distance in T within which an order-disorder line counts as going on from the top of a gap."""
BELOW = 0.15
"""Relative distance in T below a top up to which other criteria's gaps are taken for the same."""
SINGLE_TOPS = ("critical", "order_disorder")
"""Kinds of points that are the top of one gap."""
ELEMENT = re.compile(r"^[A-Z][a-z]?$")
"""Name of a pure element."""


def same_phase(left: str, right: str) -> bool:
    """Return whether both sides of a gap are one phase, by their names.

    Pure elements and the solid solution are the two ends of one disordered phase: all are on one parent lattice.
    """
    names = [SOLUTION if ELEMENT.match(name) else name for name in (left, right)]
    return names[0] == names[1]


def joined_names(*names: str) -> str:
    """Return names of phases in a row, each once where it follows itself; nothing where one is not known."""
    kept = [name for name, _ in itertools.groupby(names)]
    return " + ".join(kept) if all(kept) else ""


def describe_tops(
    tops: Sequence[pd.Series], lines: Mapping[int, pd.DataFrame], transitions: pd.DataFrame, named: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the rows of the invariant points that tops of gaps are.

    They are congruent where the tops of neighbouring gaps fall together; the phases below tell the others.

    Args:
        tops: ``gap_top`` points of one source that do not end in a three-phase point.
        lines: its two-phase lines by number, with rising temperature.
        transitions: ``transition`` points of the same cell and method.
        named: two-phase points of the cell by all criteria whose sides are both named.
    """
    found, used = [], set()
    order = sorted(range(len(tops)), key=lambda k: tops[k]["x_left"])
    for i, j in itertools.pairwise(order):
        a, b = tops[i], tops[j]
        overlap = a["temperature_low"] <= b["temperature_high"] and b["temperature_low"] <= a["temperature_high"]
        # The crossing of cells is the top of a gap that the largest cell tells as well, not one beside it.
        one_gap = is_crossing(a) != is_crossing(b)
        if overlap and not one_gap and abs(a["x_left"] - b["x_left"]) <= APART and not {i, j} & used:
            used |= {i, j}
            found.append(_congruent(a, b, lines))
    for k in order:
        if k not in used:
            found.append(_single_top(tops[k], lines, transitions, named))
    return found


def is_crossing(point: Mapping[str, Any]) -> bool:
    """Return whether a critical point is where cumulants of cells cross: an estimate for the infinite crystal."""
    return str(point.get("note", "")).startswith("crossing")


def _top_errors(top: pd.Series) -> tuple[float, float]:
    """Standard errors of temperature and delta_mu of a top; its interval is a bracket unless it is a fitted one."""
    fitted = str(top["note"]).startswith(("where the free energy", "one cell", "crossing"))
    divisor = 2 * float(ndtri(0.5 + top["confidence"] / 2)) if fitted else np.sqrt(12)
    return (
        float((top["temperature_high"] - top["temperature_low"]) / divisor),
        point_delta_mu_stderr(top) or float("nan"),
    )


def point_delta_mu_stderr(point: pd.Series) -> float:
    """Return the standard error of delta_mu of one point, eV (`lines.delta_mu_stderr`)."""
    return float(delta_mu_stderr(point.to_frame().T.infer_objects())[0])


def _congruent(a: pd.Series, b: pd.Series, lines: Mapping[int, pd.DataFrame]) -> dict[str, Any]:
    errors = np.array([_top_errors(a), _top_errors(b)])
    x = float(a["x_left"] + b["x_left"]) / 2
    sides = [lines[n].iloc[-1] if n in lines else None for n in (a["boundary"], b["boundary"])]
    return {
        "kind": "congruent",
        "order": "first",
        "boundaries": f"{a['boundary']}+{b['boundary']}",
        "temperature": float(a["temperature"] + b["temperature"]) / 2,
        "temperature_stderr": float(np.hypot(*errors[:, 0]) / 2),
        "temperature_low": float(min(a["temperature_low"], b["temperature_low"])),
        "temperature_high": float(max(a["temperature_high"], b["temperature_high"])),
        "x_left": x,
        "x": x,
        "x_right": x,
        "x_stderr": float(np.hypot(a["x_left_stderr"], b["x_left_stderr"]) / 2),
        "delta_mu": float(a["delta_mu"] + b["delta_mu"]) / 2,
        "delta_mu_stderr": float(np.hypot(np.hypot(*errors[:, 1]), a["delta_mu"] - b["delta_mu"]) / 2),
        "phases": joined_names(*(s[name] for s in sides if s is not None for name in ("left_phase", "right_phase"))),
        "note": "the gaps on both sides of a phase close at one composition",
    }


def _phases_below(top: pd.Series, last: pd.Series | None, named: pd.DataFrame) -> tuple[tuple[str, str] | None, str]:
    """Names of both sides of the gap below a top, and a note on where they are from; None where nothing names them."""
    for source in (top, last):
        if source is not None and source["left_phase"] and source["right_phase"]:
            return (str(source["left_phase"]), str(source["right_phase"])), ""
    kelvin = named["temperature"]
    near = named[
        (kelvin <= top["temperature_high"])
        & (kelvin >= (1 - BELOW) * top["temperature"])
        & (named["x_left"] < top["x_left"])
        & (named["x_right"] > top["x_left"])
    ]
    if not len(near):
        return None, "no criterion names the phases below: taken for one phase"
    # Each line speaks by its highest point; the majority counts.
    highest = near.sort_values("temperature").groupby(["criterion", "method", "boundary"], sort=True).tail(1)
    pairs = list(zip(highest["left_phase"], highest["right_phase"], strict=True))
    pair = max(sorted(set(pairs)), key=pairs.count)
    return (str(pair[0]), str(pair[1])), "phases named by other criteria"


def _single_top(
    top: pd.Series, lines: Mapping[int, pd.DataFrame], transitions: pd.DataFrame, named: pd.DataFrame
) -> dict[str, Any]:
    error, mu_error = _top_errors(top)
    notes = [str(top["note"])] if top["note"] else []
    last = lines[top["boundary"]].iloc[-1] if top["boundary"] in lines else None
    pair, said = _phases_below(top, last, named)
    notes += [said] if said else []
    plain = pair is None or same_phase(*pair)
    for number, line in transitions.groupby("boundary"):
        ordered = line.sort_values("delta_mu")
        mu, kelvin = (ordered[name].to_numpy(float) for name in ("delta_mu", "temperature"))
        if not mu[0] <= top["delta_mu"] <= mu[-1]:
            continue
        beside = float(np.interp(top["delta_mu"], mu, kelvin))
        if abs(beside - top["temperature"]) <= NEAR * top["temperature"] and kelvin.max() > top["temperature_high"]:
            notes.append(
                f"an order-disorder line ({line['criterion'].iloc[0]} {number}) goes on above: a tricritical point, or "
                "a gap too narrow to be resolved"
            )
    return {
        "kind": "critical" if plain else "order_disorder",
        "order": "continuous" if plain else "first",
        "boundaries": str(top["boundary"]),
        "temperature": float(top["temperature"]),
        "temperature_stderr": error,
        "temperature_low": float(top["temperature_low"]),
        "temperature_high": float(top["temperature_high"]),
        "x_left": float(top["x_left"]),
        "x": float(top["x_left"]),
        "x_right": float(top["x_left"]),
        "x_stderr": float(top["x_left_stderr"]),
        "delta_mu": float(top["delta_mu"]),
        "delta_mu_stderr": mu_error,
        "phases": "" if pair is None else joined_names(*pair),
        "note": "; ".join(notes),
    }
