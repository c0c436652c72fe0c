"""Figure of finite-size series: invariant temperatures against the power of the cell's size they are linear in."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segalflow.phases.finite_size import fit_sizes
from segalflow.plotting.style import TWO_COLUMNS, colour_of, figure_function, formula_label, label_of, new_figure

LEVEL = 1.959964
"""Standard errors of a 95 % interval."""
COLUMNS = 3
"""Most panels side by side."""
MARKERS = "osD^vP<>X"
KINDS = {"order_disorder": "top of an order-disorder field", "critical": "critical point"}
APART = 0.15
"""Largest distance in x of points that share a panel."""


def _panels(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Series of one Hamiltonian, kind, exponent and composition: what belongs into one panel."""
    parts = []
    for _, alike in table.groupby(["expansion", "kind", "exponent"], sort=True):
        ordered = alike.sort_values("x", kind="stable")
        number = np.concatenate([[0], np.cumsum(np.diff(ordered["x"].to_numpy(float)) > APART)])
        parts += [ordered[number == k].sort_values(["criterion", "method"]) for k in np.unique(number)]
    return parts


def _numbers(text: object) -> np.ndarray:
    return np.array([float(value) for value in str(text).split()])


@figure_function
def plot_finite_size(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Plot every series, its extrapolation and the 95 % band of it.

    Args:
        table: `segalflow.phases.finite_size.finite_size_series`.

    Returns:
        The figure and its data: the cells' points (``series`` is ``cell``) and the extrapolated ones (``infinite``).
    """
    panels = _panels(table)
    columns = min(max(len(panels), 1), COLUMNS)
    rows = -(-max(len(panels), 1) // columns)
    width = TWO_COLUMNS if columns > 1 else 3.4
    figure, grid = new_figure(rows, columns, width=width, height=2.9 * rows + 0.2, squeeze=False)
    if not panels:
        grid[0, 0].set_axis_off()
        grid[0, 0].text(
            0.5, 0.5, "no invariant point is seen in cells of several sizes", ha="center", va="center",
            transform=grid[0, 0].transAxes,
        )  # fmt: skip
    criteria = sorted(set(table["criterion"]))
    data = []
    for axes, part in zip(grid.ravel(), panels, strict=False):
        for _, series in part.iterrows():
            sizes, values, errors = (_numbers(series[k]) for k in ("sizes", "temperatures", "temperature_stderrs"))
            data += _draw(axes, series, sizes, values, errors, criteria.index(series["criterion"]))
        exponent = float(part["exponent"].iloc[0])
        largest = max(_numbers(text)[0] ** -exponent for text in part["sizes"])
        axes.set_xlim(-0.06 * largest, 1.06 * largest)
        axes.axvline(0.0, color="black", lw=0.6)
        axes.set_xlabel("1/N" if exponent == 1 else rf"$N^{{-{exponent:g}}}$")
        axes.set_ylabel("temperature (K)")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        kind = str(part["kind"].iloc[0])
        names = [name for name in part["phases"] if isinstance(name, str) and name]
        phases = " + ".join(formula_label(name) for name in names[0].split(" + ")) if names else ""
        axes.set_title(f"{KINDS.get(kind, kind)}, x = {part['x'].mean():.2f}\n{phases}", fontsize=7)
        axes.legend(fontsize=5.5, loc="best")
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    names = ["expansion", "kind", "criterion", "method", "series", "n_sites", "power", "temperature", "stderr"]
    return figure, pd.DataFrame(data, columns=names)


def _draw(axes, series: pd.Series, sizes: np.ndarray, values: np.ndarray, errors: np.ndarray, number: int) -> list:
    """Draw one series and return its rows of data."""
    exponent, colour, marker = float(series["exponent"]), colour_of(series["method"]), MARKERS[number % len(MARKERS)]
    power = sizes**-exponent
    found, covariance, _ = fit_sizes(sizes, values, errors, exponent)
    fine = np.linspace(0.0, power.max(), 60)
    powers = np.stack([np.ones(len(fine)), fine], axis=1)
    line = powers @ found
    band = LEVEL * np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", powers, covariance, powers), 0.0))
    axes.fill_between(fine, line - band, line + band, color=colour, alpha=0.13, lw=0)
    axes.plot(fine, line, color=colour, lw=0.8)
    label = f"{str(series['criterion']).replace('_', ' ')}, {label_of(series['method'])}"
    axes.errorbar(power, values, yerr=LEVEL * errors, fmt=marker, ms=3.5, color=colour, elinewidth=0.7, label=label)
    top, top_error = float(found[0]), float(np.sqrt(covariance[0, 0]))
    axes.errorbar([0.0], [top], yerr=[LEVEL * top_error], fmt=marker, ms=4.5, mfc="white", color=colour, elinewidth=0.9)
    head = [series[name] for name in ("expansion", "kind", "criterion", "method")]
    cells = zip(sizes, power, values, errors, strict=True)
    return [[*head, "cell", *point] for point in cells] + [[*head, "infinite", np.inf, 0.0, top, top_error]]
