"""Figure of a convergence study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from segalflow.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    figure_function,
    formula_label,
    new_figure,
)

MEV = 1000.0
_LEAST = 1e-3
"""Smallest change that is told from zero on the logarithmic axis, meV/atom."""
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
_MARKERS = "osD^vP<>X"
_ROWS = (("formation_energy_change", "formation energy"), ("energy_change", "energy"))


def _positions(values: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Where values stand on the axis: numbers at themselves, others side by side with their text."""
    try:
        return np.array([float(v) for v in values]), None
    except (TypeError, ValueError):
        return np.arange(len(values), dtype=float), [str(v) for v in values]


@figure_function
def plot_convergence(table: pd.DataFrame, settings: Sequence[Mapping[str, Any]]) -> tuple[Figure, pd.DataFrame]:
    """Plot how far energies are from those with the last value of each setting.

    Args:
        table: `segalflow.dft.convergence.convergence_table`, energies in eV/atom.
        settings: `segalflow.dft.convergence.recommend`: one column of panels each.

    Returns:
        The figure and its data, changes in meV/atom.
    """
    figure, panels = new_figure(
        2, len(settings), width=TWO_COLUMNS if len(settings) > 1 else 3.4, height=4.2, squeeze=False, sharex="col"
    )
    names = list(dict.fromkeys(table["name"]))
    looks = {name: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(names)}
    for column, setting in enumerate(settings):
        part = table[table["parameter"] == setting["parameter"]]
        values = list(dict.fromkeys(part["value"]))
        at, texts = _positions(values)
        for (quantity, label), axes in zip(_ROWS, panels[:, column], strict=True):
            for name, of_structure in part.groupby("name", sort=False):
                change = np.abs(MEV * of_structure[quantity].to_numpy(float))[:-1]
                if np.isfinite(change).any():
                    colour, marker = looks[name]
                    axes.plot(
                        at[:-1], np.maximum(change, _LEAST), "-", marker=marker, ms=3, lw=1, color=colour,
                        label=formula_label(name),
                    )  # fmt: skip
            axes.set_yscale("log")
            axes.axhline(MEV * setting["tolerance"], color=GREY, ls="--", lw=0.8)
            chosen = setting["recommended" if quantity.startswith("formation") else "recommended_energy"]
            if chosen in setting["values"]:
                axes.axvline(at[setting["values"].index(chosen)], color=GREY, lw=0.8)
            if column == 0:
                axes.set_ylabel(f"change of {label}\n(meV/atom)")
        panels[1, column].set_xlabel(setting["parameter"].rsplit(".", 1)[-1])
        if texts:
            panels[1, column].set_xticks(at, texts)
    handles: dict[str, Any] = {}
    for axes in panels.ravel():
        handles.update(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=min(len(handles), 3 * len(settings) + 1)
    )
    data = table[["parameter", "value", "structure", "name"]].copy()
    for quantity, _ in _ROWS:
        data[f"{quantity}_meV"] = MEV * table[quantity]
    return figure, data
