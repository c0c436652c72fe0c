"""Figures of the ensemble tables: isotherms, effective sample size, heat capacity, cost, training, agreement."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from segalflow.ensemble import lower_ness, second_species_composition
from segalflow.plotting.style import (
    BLUE,
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    VERMILION,
    colour_of,
    composition_label,
    delta_mu_label,
    figure_function,
    label_of,
    marker_of,
    new_figure,
    spread_evenly,
    unit_label,
)

VARIABLE_LABELS = {
    "log_z": "log Z",
    "composition": "composition",
    "energy": "energy",
    "heat_capacity": "heat capacity",
    "susceptibility": "susceptibility",
}


def _species(tables: Mapping[str, xr.Dataset]) -> tuple[str, str]:
    names = [str(s) for s in next(iter(tables.values()))["species"].values]
    return names[0], names[1]


def _units(table: xr.Dataset) -> tuple[str, str]:
    """Temperature and energy units of a table, typeset."""
    temperature, energy = (
        table[name].attrs.get("units", unit) for name, unit in (("temperature", "K"), ("delta_mu", "eV"))
    )
    return unit_label(str(temperature)), unit_label(str(energy))


def _panels(n: int, height: float = 1.9, sharey: bool = True):
    columns = min(n, 3)
    rows = -(-n // columns)
    figure, axes = new_figure(
        rows, columns, width=TWO_COLUMNS, height=height * rows + 0.7, sharex=True, sharey=sharey, squeeze=False
    )
    for spare in axes.ravel()[n:]:
        spare.set_visible(False)
    # With a row that is not full, the panels above a hidden one carry the tick labels.
    for k, panel in enumerate(axes.ravel()[:n]):
        if k + columns >= n:
            panel.tick_params(labelbottom=True)
    return figure, axes.ravel()[:n], axes


def _nearest(table: xr.Dataset, axis: str, value: float) -> int | None:
    """Index of the condition of a table at `value`; None if the table has none there."""
    values = np.asarray(table[axis], dtype=float)
    k = int(np.argmin(np.abs(values - value)))
    step = float(np.min(np.diff(values))) if len(values) > 1 else max(abs(value), 1.0)
    return k if abs(values[k] - value) <= 1e-6 * abs(step) + 1e-12 else None


def _curve(panel, x: np.ndarray, y: np.ndarray, error: np.ndarray, good: np.ndarray, method: str, size: float = 2.6):
    """One method's curve: a line through reliable points, error bars, open grey-edged symbols where unreliable."""
    colour, marker = colour_of(method), marker_of(method)
    # The line is broken where conditions are unreliable: nothing is drawn through what is not known.
    panel.plot(x, np.where(good, y, np.nan), "-", color=colour, lw=0.7, alpha=0.7)
    panel.errorbar(
        x[good], y[good], yerr=error[good], fmt=marker, ms=size, color=colour, lw=0.7, mew=0.6, label=label_of(method)
    )
    if (~good).any():
        panel.plot(x[~good], y[~good], marker, ms=size, mfc="none", mec=colour, mew=0.5, alpha=0.6)


@figure_function
def plot_isotherms(tables: Mapping[str, xr.Dataset], n_temperatures: int = 6) -> tuple[Figure, pd.DataFrame]:
    """Plot x against delta_mu by method at temperatures spread over the grid, one panel each.

    Unreliable conditions have open symbols. Tables are those of one cell, by method.
    """
    species = _species(tables)
    first = next(iter(tables.values()))
    unit_t, unit_e = _units(first)
    temperatures = np.asarray(first["temperature"], dtype=float)
    chosen = temperatures[spread_evenly(len(temperatures), n_temperatures)]
    figure, panels, _ = _panels(len(chosen))
    rows = []
    for panel, temperature in zip(panels, chosen, strict=True):
        for method, table in tables.items():
            t = _nearest(table, "temperature", temperature)
            if t is None:
                continue
            mu = np.asarray(table["delta_mu"], dtype=float)
            x = np.asarray(second_species_composition(table), dtype=float)[t]
            error = np.nan_to_num(np.asarray(table["composition_stderr"].isel(species=1), dtype=float)[t])
            good = np.asarray(table["reliable"])[t] > 0.5
            _curve(panel, mu, x, error, good, method)
            rows.append(
                pd.DataFrame(
                    {
                        "method": method,
                        "temperature": temperature,
                        "delta_mu": mu,
                        "x": x,
                        "x_stderr": error,
                        "reliable": good,
                    }
                )
            )
        panel.text(0.04, 0.93, f"{temperature:g} {unit_t}", transform=panel.transAxes, va="top", fontsize=7.5)
        panel.set_ylim(-0.04, 1.04)
    figure.supxlabel(delta_mu_label(species, unit_e), fontsize=8)
    figure.supylabel(composition_label(species), fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    _outside_legend(figure, handles, labels, "open symbols: unreliable")
    return figure, pd.concat(rows, ignore_index=True)


def _outside_legend(figure: Figure, handles, labels, remark: str = "") -> None:
    """A legend in one row above all panels; `remark` is added as a last entry without a symbol."""
    from matplotlib.lines import Line2D

    if remark:
        handles, labels = [*handles, Line2D([], [], marker="o", ls="", mfc="none", mec=GREY, ms=3)], [*labels, remark]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), fontsize=7)


@figure_function
def plot_ness_map(table: xr.Dataset) -> tuple[Figure, pd.DataFrame]:
    """Plot the normalised effective sample size over (delta_mu, T) on a logarithmic colour scale.

    Shown is the lower of the q side and the p side (`lower_ness`); the data holds both. Conditions
    marked unreliable are crossed out.
    """
    species = _species({"": table})
    unit_t, unit_e = _units(table)
    mu, temperature = np.asarray(table["delta_mu"], float), np.asarray(table["temperature"], float)
    ness = lower_ness(table)
    sides = {name: np.asarray(table[name]).ravel() for name in ("ness", "ness_p") if name in table}
    figure, axes = new_figure(width=ONE_COLUMN, height=2.6)
    low = float(np.nanmin(ness[ness > 0])) if np.any(ness > 0) else 1e-6
    norm = LogNorm(vmin=10 ** np.floor(np.log10(min(low, 0.1))), vmax=1.0)
    shown = axes.pcolormesh(
        mu, temperature, np.maximum(ness, norm.vmin), norm=norm, cmap="viridis", shading="nearest", rasterized=True
    )
    bad_t, bad_m = np.nonzero(np.asarray(table["reliable"]) < 0.5)
    axes.plot(mu[bad_m], temperature[bad_t], "x", color="white", ms=2.2, mew=0.5)
    axes.set_xlabel(delta_mu_label(species, unit_e))
    axes.set_ylabel(f"temperature ({unit_t})")
    axes.tick_params(color="white", which="both")
    figure.colorbar(shown, ax=axes, label="NESS (× : unreliable)" if len(bad_t) else "NESS")
    grid_t, grid_mu = np.meshgrid(temperature, mu, indexing="ij")
    return figure, pd.DataFrame(
        {
            "temperature": grid_t.ravel(),
            "delta_mu": grid_mu.ravel(),
            **sides,
            "reliable": np.asarray(table["reliable"]).ravel() > 0.5,
        }
    )


@figure_function
def plot_heat_capacity(tables: Mapping[str, xr.Dataset], n_delta_mu: int = 6) -> tuple[Figure, pd.DataFrame]:
    """Plot the heat capacity against temperature by method at chemical potentials spread over the grid.

    The outer quarter of the window on each side, where the alloy is nearly pure, is left out. Unreliable conditions
    have open symbols.
    """
    first = next(iter(tables.values()))
    unit_t, unit_e = _units(first)
    mu = np.asarray(first["delta_mu"], dtype=float)
    x = np.asarray(second_species_composition(first), dtype=float)
    # Between the chemical potentials where the alloy is no longer pure, on average over temperature.
    mixed = np.flatnonzero((x.mean(axis=0) > 0.1) & (x.mean(axis=0) < 0.9))
    inner = mixed if len(mixed) >= 2 else np.arange(len(mu))
    chosen = mu[inner[spread_evenly(len(inner), n_delta_mu)]]
    figure, panels, _ = _panels(len(chosen), sharey=False)
    rows = []
    for panel, value in zip(panels, chosen, strict=True):
        highest = 0.0
        for method, table in tables.items():
            m = _nearest(table, "delta_mu", value)
            if m is None:
                continue
            temperature = np.asarray(table["temperature"], dtype=float)
            capacity = np.asarray(table["heat_capacity"], dtype=float)[:, m]
            error = np.nan_to_num(np.asarray(table["heat_capacity_stderr"], dtype=float)[:, m])
            good = np.asarray(table["reliable"])[:, m] > 0.5
            _curve(panel, temperature, capacity, error, good, method)
            if good.any():
                highest = max(highest, float(np.nanmax((capacity + error)[good])))
            rows.append(
                pd.DataFrame(
                    {
                        "method": method,
                        "delta_mu": value,
                        "temperature": temperature,
                        "heat_capacity": capacity,
                        "heat_capacity_stderr": error,
                        "reliable": good,
                    }
                )
            )
        label = rf"$\Delta\mu$ = {value:+.3f} {unit_e}".replace("-", "−")
        panel.text(0.96, 0.93, label, transform=panel.transAxes, va="top", ha="right", fontsize=7.5)
        if highest > 0:
            panel.set_ylim(-0.05 * highest, 1.25 * highest)
    figure.supxlabel(f"temperature ({unit_t})", fontsize=8)
    figure.supylabel(r"heat capacity at constant $\Delta\mu$ ($k_\mathrm{B}$/site)", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    _outside_legend(figure, handles, labels, "open symbols: unreliable")
    return figure, pd.concat(rows, ignore_index=True)


@figure_function
def plot_energy_evaluations(
    tables: Mapping[str, Mapping[str, xr.Dataset]], training: Mapping[str, float] | None = None
) -> tuple[Figure, pd.DataFrame]:
    """Plot energy evaluations by cell and method on a logarithmic scale; training has its own bar.

    Args:
        tables: ensemble tables by cell and method.
        training: energy evaluations of SEGAL's training by cell.
    """
    rows = []
    for cell, methods in tables.items():
        for method, table in methods.items():
            rows.append((cell, method, "sampling", float(np.nansum(np.asarray(table["energy_evaluations"])))))
            if method == "snis" and training and training.get(cell):
                rows.append((cell, method, "training", float(training[cell])))
    data = pd.DataFrame(rows, columns=["cell", "method", "part", "energy_evaluations"])
    figure, axes = new_figure(width=ONE_COLUMN, height=0.9 + 0.24 * len(data))
    ticks, labels, y = [], [], 0.0
    low = 10 ** np.floor(np.log10(max(data["energy_evaluations"].min(), 1.0)) - 0.3)
    high = float(data["energy_evaluations"].max())
    for cell, part in data.groupby("cell", sort=False):
        for _, row in part.iterrows():
            hatch = "////" if row["part"] == "training" else None
            face = "white" if hatch else colour_of(row["method"])
            axes.barh(
                y,
                row["energy_evaluations"],
                left=0,
                height=0.7,
                color=face,
                edgecolor=colour_of(row["method"]),
                hatch=hatch,
                lw=0.8,
            )
            exponent = int(np.floor(np.log10(max(row["energy_evaluations"], 1.0))))
            mantissa = row["energy_evaluations"] / 10.0**exponent
            axes.text(
                row["energy_evaluations"] * 1.15,
                y,
                rf"${mantissa:.1f}\times10^{{{exponent}}}$",
                va="center",
                fontsize=6.5,
            )
            ticks.append(y)
            name = "SEGAL training" if row["part"] == "training" else label_of(row["method"])
            labels.append(f"{name}, {cell}" if data["cell"].nunique() > 1 else name)
            y -= 1.0
        y -= 0.4
    axes.set_xscale("log")
    axes.set_xlim(low, high * 10 ** (0.28 * np.log10(high / low)))
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("energy evaluations")
    return figure, data


@figure_function
def plot_training(history: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Plot the training loss and the normalised effective sample size against optimiser steps.

    Args:
        history: column ``step``, ``loss``, and ``ness`` where it was measured (NaN elsewhere).
    """
    step = history["step"].to_numpy(float)
    panels = [c for c in ("loss", "ness") if c in history and history[c].notna().any()]
    figure, axes = new_figure(
        len(panels), 1, width=ONE_COLUMN, height=1.0 + 1.3 * len(panels), sharex=True, squeeze=False
    )
    for panel, name in zip(axes[:, 0], panels, strict=True):
        values = history[name].to_numpy(float)
        known = np.isfinite(values)
        smooth = pd.Series(values[known]).rolling(max(known.sum() // 50, 1), min_periods=1, center=True).median()
        colour = BLUE if name == "loss" else VERMILION
        panel.plot(step[known], values[known], ".", ms=1.2, color=colour, alpha=0.25, rasterized=True)
        panel.plot(step[known], smooth, "-", color=colour)
        panel.set_ylabel("loss" if name == "loss" else "NESS (median)")
        if name == "ness":
            panel.set_ylim(0, 1)
        elif known.sum() > 20:
            # The first steps are off any useful scale.
            low, high = np.percentile(values[known], [0, 95])
            panel.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))
    axes[-1, 0].set_xlabel("optimiser step")
    return figure, history[["step", *panels]].copy()


def _judging_pairs(comparison: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return (cell, method, method) of all pairs that hold the method by which a cell's others are judged."""
    pairs = comparison[["cell", "method_a", "method_b"]].drop_duplicates()
    chosen = []
    for _, rows in pairs.groupby("cell", sort=False):
        exact = (rows["method_a"] == "exact") | (rows["method_b"] == "exact")
        chosen.append(rows[exact] if exact.any() else rows[rows["method_a"] == rows["method_a"].iloc[0]])
    return [row for rows in chosen for row in rows.itertuples(index=False, name=None)]


@figure_function
def plot_comparison(comparison: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Plot z-scores by pair of methods (rows of panels) and variable (columns) against the unit normal distribution.

    Of each cell the pairs with the exact sum are drawn, or where there is none those with its first method: one row a
    method, not one a pair. Only conditions reliable in both tables and away from first-order jumps count; the last bin
    on each side holds everything beyond.

    Args:
        comparison: rows of `segalflow.thermo.comparison.compare_methods`, one or more cells.
    """
    kept = comparison[
        comparison["reliable_a"].astype(bool)
        & comparison["reliable_b"].astype(bool)
        & ~comparison["near_jump"].astype(bool)
    ]
    pairs = _judging_pairs(comparison)
    variables = [v for v in VARIABLE_LABELS if v in set(comparison["variable"])]
    figure, axes = (
        new_figure(
            len(pairs),
            max(len(variables), 1),
            width=TWO_COLUMNS,
            height=0.7 + 1.05 * max(len(pairs), 1),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        if pairs
        else new_figure(width=ONE_COLUMN, height=1.5, squeeze=False)
    )
    edges = np.linspace(-6, 6, 49)
    centres = (edges[1:] + edges[:-1]) / 2
    normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    rows = []
    highest = float(normal.max())
    for i, (cell, a, b) in enumerate(pairs):
        for j, variable in enumerate(variables):
            panel = axes[i, j]
            chosen = kept[
                (kept["cell"] == cell)
                & (kept["method_a"] == a)
                & (kept["method_b"] == b)
                & (kept["variable"] == variable)
            ]
            z = chosen["z"].to_numpy(float)
            if len(z):
                counts, _ = np.histogram(np.clip(z, -5.999, 5.999), bins=edges)
                density = counts / len(z) / np.diff(edges)
                panel.stairs(density, edges, fill=True, color=BLUE, alpha=0.55, lw=0)
                inside = 100 * np.mean(np.abs(z) <= 3)
                panel.text(
                    0.97,
                    0.94,
                    f"n = {len(z)}\n{inside:.1f} %",
                    transform=panel.transAxes,
                    ha="right",
                    va="top",
                    fontsize=5.8,
                )
                rows.append(
                    pd.DataFrame(
                        {
                            "cell": cell,
                            "method_a": a,
                            "method_b": b,
                            "variable": variable,
                            "z_low": edges[:-1],
                            "z_high": edges[1:],
                            "count": counts,
                            "density": density,
                            "unit_normal": normal,
                        }
                    )
                )
            else:
                panel.text(0.5, 0.5, "–", transform=panel.transAxes, ha="center", va="center", color=GREY)
            panel.plot(centres, normal, "-", color="black", lw=0.8)
            highest = max(highest, float(density.max()) if len(z) else 0.0)
            if i == 0:
                panel.set_title(VARIABLE_LABELS[variable])
            if j == 0:
                panel.set_ylabel(f"{label_of(a)}\n– {label_of(b)}\n({cell})", fontsize=6.2)
    if pairs:
        # The panels share both axes: set once, since each call goes through all of them.
        axes[0, 0].set(xlim=(-6, 6), ylim=(0, min(1.3 * highest, 4.0)), xticks=[-3, 0, 3], yticks=[])
        figure.supxlabel(
            "z = difference / combined standard error (black: unit normal; %: share within ±3)", fontsize=7.5
        )
    columns = ["cell", "method_a", "method_b", "variable", "z_low", "z_high", "count", "density", "unit_normal"]
    return figure, pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
