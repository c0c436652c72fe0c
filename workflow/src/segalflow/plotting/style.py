"""One look for all figures, and files that are the same bytes for the same data."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")
from matplotlib.figure import Figure

from segalflow.artefacts import atomic_path, write_table

ONE_COLUMN = 3.4
"""Width of a figure in one column, inches."""
TWO_COLUMNS = 7.0
"""Width of a figure across two columns, inches."""

# Okabe and Ito's palette, told apart with any common colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#888888"

METHOD_COLOURS = {
    "exact": BLACK,
    "snis": BLUE,
    "metropolis": VERMILION,
    "tempering": YELLOW,
    "metadynamics": GREEN,
    "wang_landau": ORANGE,
    "canonical": PURPLE,
    "vcsgc": SKY,
    "scan": GREY,
    "transfer_matrix": BLACK,
}
METHOD_MARKERS = {
    "exact": "x",
    "snis": "o",
    "metropolis": "s",
    "tempering": "h",
    "metadynamics": "^",
    "wang_landau": "v",
    "canonical": "D",
    "vcsgc": "P",
    "scan": "<",
    "transfer_matrix": "x",
}
METHOD_LABELS = {
    "exact": "exact",
    "snis": "SEGAL + SNIS",
    "metropolis": "Metropolis",
    "tempering": "replica exchange",
    "metadynamics": "metadynamics",
    "wang_landau": "Wang-Landau",
    "canonical": "canonical",
    "vcsgc": "VCSGC",
    "scan": "scan up and down",
    "transfer_matrix": "transfer matrix",
}
_SPARE = (SKY, PURPLE, ORANGE, YELLOW)

_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib: the same on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.7,
    "axes.spines.top": True,
    "axes.spines.right": True,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "errorbar.capsize": 1.5,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "segalflow",
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
}


def colour_of(method: str) -> str:
    """Return the colour of a method, the same in every figure."""
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    return _SPARE[sum(method.encode()) % len(_SPARE)]


def label_of(method: str) -> str:
    """Return the name of a method as figures show it."""
    return METHOD_LABELS.get(method, method.replace("_", " "))


def marker_of(method: str) -> str:
    """Return the marker of a method, the same in every figure."""
    return METHOD_MARKERS.get(method, "P")


def spread_evenly(n: int, most: int) -> np.ndarray:
    """Return the numbers of up to `most` of n values, spread evenly, ends included, shape (at most `most`,)."""
    return np.unique(np.round(np.linspace(0, n - 1, min(n, most))).astype(int))


def new_figure(rows: int = 1, columns: int = 1, width: float = ONE_COLUMN, height: float = 2.7, **options):
    """Return a figure and its axes in the common style; sizes in inches, `options` as for `plt.subplots`.

    The figure is not registered with pyplot, so it needs no closing.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, **options)
    return figure, axes


def style() -> AbstractContextManager:
    """Return the context in which a figure must be drawn and saved for the style to hold."""
    return mpl.rc_context(_SETTINGS)


def figure_function(function: Callable) -> Callable:
    """Decorate a plotting function so that everything in it is drawn in the common style."""

    @functools.wraps(function)
    def drawn(*arguments, **keywords):
        with style():
            return function(*arguments, **keywords)

    return drawn


def save_figure(figure: Figure, data: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write ``<stem>.svg``, ``.png``, ``.pdf`` and the plotted data ``<stem>.csv``; the same input, the same bytes.

    Returns:
        The four paths.
    """
    stem = Path(stem)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png", ".pdf", ".csv")]
    metadata = {
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    with style():
        for path in paths[:3]:
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], metadata=metadata[path.suffix])
            figure.set_layout_engine("none")  # the axes stay where the first file has them: finding places is slow
    write_table(paths[3], data)
    return paths


def composition_label(species: Sequence[str]) -> str:
    """Return the axis label of the fraction of species 1."""
    return rf"$x_\mathrm{{{species[1]}}}$"


def delta_mu_label(species: Sequence[str], unit: str = "eV") -> str:
    """Return the axis label of the chemical potential difference."""
    return rf"$\mu_\mathrm{{{species[1]}}} - \mu_\mathrm{{{species[0]}}}$ ({unit})"


def unit_label(unit: str) -> str:
    """Return a unit as it is typeset: ``J`` and ``k_B`` of model systems are symbols, not words."""
    return {"J": "$J$", "J/k_B": r"$J/k_\mathrm{B}$"}.get(unit, unit)


def formula_label(name: str) -> str:
    """Return a formula, with its Strukturbericht or space-group symbol, with subscripts; other text is left alone."""
    formula, *symbol = name.split(" ", 1)
    if not re.fullmatch(r"(?:[A-Z][a-z]?\d*)+", formula):
        return name
    words = [re.sub(r"(\d+)", r"$_{\1}$", formula)]
    words += [re.sub(r"_(\w+)", r"$_{\1}$", word) for word in symbol]
    return " ".join(words)
