"""Free energies against composition, with the common tangents that bound two-phase fields."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segalflow.phases.gaps import lower_hull, reduced
from segalflow.plotting.style import (
    TWO_COLUMNS,
    composition_label,
    figure_function,
    label_of,
    new_figure,
    spread_evenly,
    unit_label,
)
from segalflow.thermo.free_energy import FreeEnergy

COLUMNS = ["series", "temperature", "x", "free_energy", "free_energy_stderr", "above_hull", "boundary"]


def free_energy_of_mixing(free: FreeEnergy) -> tuple[np.ndarray, np.ndarray]:
    """Return f(x, T) from the line between its outermost known compositions, and its standard error, energy/site.

    Both have the shape (n_t, n_sites + 1) and are NaN where nothing is known. The outermost compositions are the pure
    species wherever these were sampled. The line is each replicate's own, so a common shift is no error.
    """
    kt = free.boltzmann * free.temperature[:, None] / free.n_sites
    own, draws = kt * reduced(free, free.log_weight), kt * reduced(free, free.replicates)
    own, draws = (np.where(np.isfinite(v), v, np.nan) for v in (own, draws))
    mixing, error = np.full(own.shape, np.nan), np.full(own.shape, np.nan)
    for t, values in enumerate(own):
        known = np.flatnonzero(np.isfinite(values))
        if len(known) < 2:
            continue
        a, b = known[[0, -1]]
        part = (np.arange(len(values)) - a) / (b - a)
        mixing[t] = values - (1 - part) * values[a] - part * values[b]
        # Replicates without an end take part with the main estimate's.
        ends = [np.where(np.isfinite(draws[:, t, k]), draws[:, t, k], values[k])[:, None] for k in (a, b)]
        drawn = draws[:, t] - (1 - part) * ends[0] - part * ends[1]
        counted = np.isfinite(drawn).sum(axis=0) > 1
        error[t, counted] = np.nanstd(drawn[:, counted], axis=0, ddof=1)
    return mixing, error


def chosen_temperatures(free: FreeEnergy, tangents: pd.DataFrame, number: int) -> np.ndarray:
    """Return the indices of up to `number` temperatures, from the lowest to the first above all tangents."""
    known = np.flatnonzero(np.isfinite(free.log_weight).sum(axis=1) > 1)
    if len(tangents):
        above = np.searchsorted(free.temperature[known], tangents["temperature"].max() * (1 + 1e-9))
        known = known[: above + 1]
    return known[spread_evenly(len(known), number)]


@figure_function
def plot_tangents(free: FreeEnergy, boundaries: pd.DataFrame, n_temperatures: int = 5) -> tuple[Figure, pd.DataFrame]:
    """Plot the free energy of mixing at a handful of temperatures, with its common tangents, and its height above them.

    Bands are two standard errors; open circles are the tangents' contact points.

    Args:
        free: free energies of one cell and method.
        boundaries: boundary points of the criterion ``common_tangent`` for this cell and method.
        n_temperatures: number of temperatures shown.

    Returns:
        The figure, and what is drawn: rows ``free energy``, and two rows ``contact`` a tangent.
    """
    species, unit = free.attributes["species"], str(free.attributes.get("energy_unit", "eV"))
    scale, shown = (1000.0, "meV") if unit == "eV" else (1.0, unit_label(unit))
    kelvin = "K" if unit == "eV" else unit_label(f"{unit}/k_B")
    tangents = boundaries[boundaries["kind"] == "two_phase"]
    mixing, error = free_energy_of_mixing(free)
    rows = chosen_temperatures(free, tangents, n_temperatures)
    colours = colormaps["plasma"](np.linspace(0.0, 0.85, len(rows)))
    figure, (left, right) = new_figure(columns=2, width=TWO_COLUMNS, height=3.2)
    drawn = []
    for t, colour in zip(rows, colours, strict=True):
        temperature, known = free.temperature[t], np.isfinite(mixing[t])
        x, f, stderr = free.x[known], mixing[t, known], np.nan_to_num(error[t, known])
        hull = lower_hull(f)
        height = f - np.interp(x, x[hull], f[hull])
        for panel, values in ((left, f), (right, height)):
            panel.plot(x, scale * values, "-", color=colour, lw=0.9)
            panel.fill_between(
                x, scale * (values - 2 * stderr), scale * (values + 2 * stderr), color=colour, alpha=0.3, lw=0
            )
        frame = pd.DataFrame({"x": x, "free_energy": f, "free_energy_stderr": stderr, "above_hull": height})
        drawn.append(frame.assign(series="free energy", temperature=temperature))
        for _, tangent in tangents[np.isclose(tangents["temperature"], temperature)].iterrows():
            ends = np.array([tangent["x_left"], tangent["x_right"]])
            level = np.interp(ends, x, f)
            left.plot(
                ends, scale * level, "o-", color="black", lw=0.6, ms=3.2, mfc="white", mec=colour, mew=0.9, zorder=5
            )
            right.plot(ends, [0, 0], "o", ms=3.2, mfc="white", mec=colour, mew=0.9, zorder=5, clip_on=False)
            frame = pd.DataFrame({"x": ends, "free_energy": level, "above_hull": 0.0})
            drawn.append(frame.assign(series="contact", temperature=temperature, boundary=tangent["boundary"]))
    if "refused" in free.attributes:
        left.text(
            0.5, 0.5, str(free.attributes["refused"]), transform=left.transAxes, ha="center", wrap=True, fontsize=6
        )
    for panel in (left, right):
        panel.set_xlim(0, 1)
        panel.set_xlabel(composition_label(species))
    left.set_ylabel(rf"free energy of mixing $\Delta f$ ({shown}/site)")
    right.set_ylabel(f"height above the lower hull ({shown}/site)")
    handles = [
        Line2D([], [], color=c, label=f"{free.temperature[t]:g} {kelvin}") for t, c in zip(rows, colours, strict=True)
    ]
    handles.append(Line2D([], [], color="black", marker="o", mfc="white", ms=3.2, lw=0.6, label="common tangent"))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        title=label_of(str(free.attributes.get("method", ""))),
    )
    joined = pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame()
    return figure, joined.reindex(columns=COLUMNS)
