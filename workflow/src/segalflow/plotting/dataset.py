"""Figure of what a dataset holds and what it lacks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from segalflow.dft.missing import ABSENT, kind_of_reason
from segalflow.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    YELLOW,
    figure_function,
    new_figure,
)

_COLOURS = {
    "used": BLUE,
    "unconverged": ORANGE,
    "failed": VERMILION,
    "collapsed": PURPLE,
    "mismatch": GREEN,
    "duplicate": SKY,
    "missing": YELLOW,
    ABSENT: "#DDDDDD",
}
_MOST_REASONS = 12
_STEP = 0.05  # of composition


@figure_function
def plot_missing(dataset: pd.DataFrame, missing: pd.DataFrame, x_label: str) -> tuple[Figure, pd.DataFrame]:
    """Plot what is missing by reason, and used and missing structures by composition.

    Args:
        dataset: usable structures, column x.
        missing: `segalflow.dft.missing.missing_structures`.
        x_label: label of the composition axis.

    Returns:
        The figure and its data: number by status and kind of reason (panel ``reason``), and by status and composition
        (panel ``composition``; x is empty where the composition is not known).
    """
    figure, (left, right) = new_figure(1, 2, width=TWO_COLUMNS, height=2.6, gridspec_kw={"width_ratios": [1, 1.15]})
    reasons = (
        missing.assign(kind=missing["reason"].map(kind_of_reason))
        .groupby(["status", "kind"])
        .size()
        .sort_values(ascending=False)
        .reset_index(name="number")
    )
    shown = reasons.head(_MOST_REASONS)[::-1]
    labels = [text if len(text) <= 34 else text[:32] + "…" for text in shown["kind"]]
    bars = left.barh(range(len(shown)), shown["number"], color=[_COLOURS.get(s, GREY) for s in shown["status"]])
    left.bar_label(bars, padding=2, fontsize=6.5)
    left.set_yticks(range(len(shown)), labels)
    left.set_xlim(0, 1.15 * max(shown["number"], default=1))
    left.set_xlabel("number, by reason")
    left.tick_params(axis="y", which="both", length=0)
    left.minorticks_off()
    if not len(shown):
        left.text(0.5, 0.5, "nothing is missing", transform=left.transAxes, ha="center", va="center", color=GREY)
        left.set_xticks([])
    edges = np.arange(-_STEP / 2, 1 + _STEP, _STEP)
    centres, unknown = np.round((edges[:-1] + edges[1:]) / 2, 6), 1 + 2 * _STEP
    below = np.zeros(len(centres) + 1)
    rows = []
    parts = {"used": dataset["x"], **{s: part["x"] for s, part in missing.groupby("status")}}
    for status in [s for s in _COLOURS if s in parts] + sorted(set(parts) - set(_COLOURS)):
        x = parts[status].to_numpy(float)
        counts = np.append(np.histogram(x[np.isfinite(x)], edges)[0], np.sum(~np.isfinite(x)))
        right.bar(
            [*centres, unknown], counts, 0.85 * _STEP, bottom=below, color=_COLOURS.get(status, GREY), label=status
        )
        below += counts
        rows += [
            {"panel": "composition", "status": status, "x": at, "number": int(number)}
            for at, number in zip([*centres, np.nan], counts, strict=True)
            if number
        ]
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    right.set_xticks([*ticks, unknown] if below[-1] else ticks, [f"{t:g}" for t in ticks] + ["?"] * bool(below[-1]))
    right.minorticks_off()
    right.set_ylim(0, 1.3 * below.max())
    right.set_xlabel(x_label)
    right.set_ylabel("structures")
    right.legend(ncols=3, loc="upper center", columnspacing=1.0, handlelength=1.2)
    data = pd.concat([reasons.assign(panel="reason"), pd.DataFrame(rows)], ignore_index=True)
    return figure, data.reindex(columns=["panel", "status", "kind", "x", "number"])
