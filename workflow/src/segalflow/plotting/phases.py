"""Which phase every condition is in, over temperature and composition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    composition_label,
    figure_function,
    formula_label,
    label_of,
    new_figure,
)

PALETTE = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW)


def phase_colours(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of every phase of a label table, in its order: the last one, the solid solution, is grey."""
    return {**{name: PALETTE[k % len(PALETTE)] for k, name in enumerate(names[:-1])}, names[-1]: GREY}


@figure_function
def plot_phases(tables: Sequence[pd.DataFrame], species: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Plot the most probable phase of every condition against composition and temperature, a panel a method.

    The paler a point, the less probable its phase is there (mixtures, and transitions of a finite cell).

    Args:
        tables: one label table a method (`segalflow.thermo.order_parameters.label_phases`).
        species: the two species.
    """
    labels = pd.concat(tables, ignore_index=True)
    shown = labels[labels["phase"] == labels["most_probable"]]
    colours = phase_colours(list(dict.fromkeys(labels["phase"])))
    methods = list(dict.fromkeys(labels["method"]))
    figure, axes = new_figure(columns=len(methods), width=TWO_COLUMNS, height=3.0, sharey=True, squeeze=False)
    for panel, method in zip(axes[0], methods, strict=True):
        part = shown[shown["method"] == method]
        strength = np.clip((part["probability"].to_numpy() - 0.3) / 0.7, 0.08, 1)[:, None]
        colour = np.array([to_rgb(colours[name]) for name in part["phase"]])
        panel.scatter(part["composition"], part["temperature"], s=9, c=1 - strength * (1 - colour), linewidths=0)
        panel.set_xlim(-0.02, 1.02)
        panel.set_title(label_of(method))
        panel.set_xlabel(composition_label(species))
    axes[0][0].set_ylabel("temperature (K)")
    present = [name for name in colours if name in set(shown["phase"])]
    handles = [Line2D([], [], ls="", marker="o", ms=4, color=colours[name]) for name in present]
    figure.legend(
        handles, [formula_label(name) for name in present], loc="outside upper center", ncols=max(len(present), 1)
    )
    return figure, shown.drop(columns="most_probable").reset_index(drop=True)
