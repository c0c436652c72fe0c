"""Figures of more than two species: compositions by every chemical potential, effective sample size, hull."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segalflow.ensemble import grid_dimensions, lower_ness
from segalflow.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    delta_mu_label,
    figure_function,
    formula_label,
    label_of,
    marker_of,
    new_figure,
    spread_evenly,
    unit_label,
)

SPECIES_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
MEV = 1000.0


def _axis_label(table: xr.Dataset, number: int) -> str:
    """Label of the axis of one exchange."""
    species, _, reference = str(table["exchange"].values[number]).partition("-")
    return delta_mu_label((reference, species), unit_label(str(table[f"delta_mu_{number + 1}"].attrs["units"])))


def _plane(table: xr.Dataset) -> xr.Dataset:
    """The first two exchanges of a table, further ones in the middle of their axes."""
    further = grid_dimensions(table)[3:]
    return table.isel({name: table.sizes[name] // 2 for name in further})


def _at_middle(table: xr.Dataset) -> str:
    """What a plane of more than two exchanges leaves out, in words; empty for two."""
    held = [
        f"{table['exchange'].values[k]} at {float(table[f'delta_mu_{k + 1}'][table.sizes[f'delta_mu_{k + 1}'] // 2]):g}"
        for k in range(2, table.sizes["exchange"])
    ]
    return f" ({', '.join(held)})" if held else ""


def _conditions(table: xr.Dataset) -> dict[str, np.ndarray]:
    """Temperature and every delta_mu of all conditions, by name."""
    names = grid_dimensions(table)
    mesh = np.meshgrid(*(np.asarray(table[name], float) for name in names), indexing="ij")
    return {name: values.ravel() for name, values in zip(names, mesh, strict=True)}


@figure_function
def plot_species_maps(table: xr.Dataset, n_temperatures: int = 3) -> tuple[Figure, pd.DataFrame]:
    """Plot the fraction of every species over the first two chemical potentials, at temperatures spread over the grid.

    Unreliable conditions are crossed out. Further chemical potentials are in the middle of their axes.

    Args:
        table: ensemble table of more than two species, of any method.
        n_temperatures: rows of panels.
    """
    plane, unit = _plane(table), unit_label(str(table["temperature"].attrs["units"]))
    rows = spread_evenly(plane.sizes["temperature"], n_temperatures)
    species = [str(s) for s in table["species"].values]
    figure, axes = new_figure(
        len(rows), len(species), width=TWO_COLUMNS, height=0.7 + 1.75 * len(rows), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    mu = [np.asarray(plane[f"delta_mu_{k}"], float) for k in (1, 2)]
    for i, t in enumerate(rows):
        bad = np.argwhere(np.asarray(plane["reliable"])[t] < 0.5)
        for j, name in enumerate(species):
            panel = axes[i, j]
            shown = panel.pcolormesh(
                *mu, np.asarray(plane["composition"])[t, ..., j].T, vmin=0, vmax=1, cmap="viridis", shading="nearest",
                rasterized=True,
            )  # fmt: skip
            panel.plot(mu[0][bad[:, 0]], mu[1][bad[:, 1]], "x", color="white", ms=3, mew=0.6)
            if i == 0:
                panel.set_title(rf"$x_\mathrm{{{name}}}$")
        axes[i, 0].set_ylabel(f"{float(plane['temperature'][t]):g} {unit}")
    figure.supxlabel(_axis_label(table, 0) + _at_middle(table), fontsize=8)
    figure.supylabel(_axis_label(table, 1), fontsize=8)
    crossed = bool((np.asarray(plane["reliable"])[rows] < 0.5).any())
    figure.colorbar(shown, ax=axes, label="fraction (× : unreliable)" if crossed else "fraction")
    values = {f"x_{name}": np.asarray(table["composition"])[..., j].ravel() for j, name in enumerate(species)}
    return figure, pd.DataFrame(
        {**_conditions(table), **values, "reliable": np.asarray(table["reliable"]).ravel() > 0.5}
    )


@figure_function
def plot_species_isotherms(tables: Mapping[str, xr.Dataset], n_temperatures: int = 3) -> tuple[Figure, pd.DataFrame]:
    """Plot the fraction of every species against each chemical potential by method, the others in the middle.

    Rows are temperatures spread over the grid, columns the chemical potentials; unreliable conditions have open
    symbols, and no line is drawn through them.

    Args:
        tables: ensemble tables of one cell, by method.
        n_temperatures: rows of panels.
    """
    first = next(iter(tables.values()))
    species, unit = [str(s) for s in first["species"].values], unit_label(str(first["temperature"].attrs["units"]))
    rows, names = spread_evenly(first.sizes["temperature"], n_temperatures), grid_dimensions(first)[1:]
    figure, axes = new_figure(
        len(rows), len(names), width=TWO_COLUMNS, height=0.8 + 1.7 * len(rows), sharex="col", sharey=True,
        squeeze=False,
    )  # fmt: skip
    data = []
    for j, name in enumerate(names):
        for i, t in enumerate(rows):
            for method, table in tables.items():
                middle = {other: table.sizes[other] // 2 for other in names if other != name}
                part = table.isel({"temperature": t, **middle})
                _curves(axes[i, j], np.asarray(part[name], float), part, method)
                data.append(
                    pd.DataFrame(
                        {
                            "method": method, "exchange": str(first["exchange"].values[j]),
                            "temperature": float(part["temperature"]), "delta_mu": np.asarray(part[name], float),
                            **{f"x_{s}": np.asarray(part["composition"])[:, k] for k, s in enumerate(species)},
                            **{f"x_{s}_stderr": part["composition_stderr"].values[:, k] for k, s in enumerate(species)},
                            "reliable": np.asarray(part["reliable"]) > 0.5,
                        }
                    )
                )  # fmt: skip
            axes[i, j].text(
                0.03, 0.95, f"{float(first['temperature'][t]):g} {unit}", transform=axes[i, j].transAxes, va="top",
                fontsize=7,
            )  # fmt: skip
            axes[i, j].set_ylim(-0.04, 1.12)
        axes[-1, j].set_xlabel(_axis_label(first, j))
    figure.supylabel("fraction of sites", fontsize=8)
    _legend(figure, species, list(tables))
    return figure, pd.concat(data, ignore_index=True)


def _curves(panel, mu: np.ndarray, part: xr.Dataset, method: str) -> None:
    """The fractions of all species by one method along one axis."""
    good = np.asarray(part["reliable"]) > 0.5
    exact = method == "exact"
    for k in range(part.sizes["species"]):
        colour, x = SPECIES_COLOURS[k % len(SPECIES_COLOURS)], np.asarray(part["composition"])[:, k]
        error = np.nan_to_num(part["composition_stderr"].values[:, k])
        if exact:
            panel.plot(mu, x, "-", color=colour, lw=0.8)
            continue
        panel.plot(mu, np.where(good, x, np.nan), ":", color=colour, lw=0.5)
        panel.errorbar(
            mu[good], x[good], yerr=error[good], fmt=marker_of(method), ms=2.8, color=colour, lw=0.7, mew=0.6
        )
        panel.plot(mu[~good], x[~good], marker_of(method), ms=2.8, mfc="none", mec=colour, mew=0.5, alpha=0.6)


def _legend(figure: Figure, species: Sequence[str], methods: Sequence[str]) -> None:
    """Colours are species, symbols are methods (the exact sum: lines)."""
    handles = [
        Line2D([], [], color=SPECIES_COLOURS[k % len(SPECIES_COLOURS)], lw=2, label=name)
        for k, name in enumerate(species)
    ]
    for method in methods:
        look = {"ls": "-", "lw": 0.8} if method == "exact" else {"ls": "", "marker": marker_of(method), "ms": 3}
        handles.append(Line2D([], [], color="black", label=label_of(method), **look))
    handles.append(Line2D([], [], ls="", label="open symbols: unreliable"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.2)


@figure_function
def plot_species_ness(table: xr.Dataset, n_temperatures: int = 3) -> tuple[Figure, pd.DataFrame]:
    """Plot the lower NESS of both sides over the first two chemical potentials, at temperatures spread over the grid.

    Args:
        table: ensemble table of importance sampling.
        n_temperatures: number of panels.
    """
    plane, unit = _plane(table), unit_label(str(table["temperature"].attrs["units"]))
    columns = spread_evenly(plane.sizes["temperature"], n_temperatures)
    figure, axes = new_figure(1, len(columns), width=TWO_COLUMNS, height=2.4, sharey=True, squeeze=False)
    mu, ness = [np.asarray(plane[f"delta_mu_{k}"], float) for k in (1, 2)], lower_ness(plane)
    low = float(np.nanmin(ness[ness > 0])) if np.any(ness > 0) else 1e-6
    norm = LogNorm(vmin=10 ** np.floor(np.log10(min(low, 0.1))), vmax=1.0)
    reliable = np.asarray(plane["reliable"]) > 0.5
    for panel, t in zip(axes[0], columns, strict=True):
        shown = panel.pcolormesh(
            *mu, np.maximum(ness[t], norm.vmin).T, norm=norm, cmap="viridis", shading="nearest", rasterized=True
        )
        bad = np.argwhere(~reliable[t])
        panel.plot(mu[0][bad[:, 0]], mu[1][bad[:, 1]], "x", color="white", ms=3, mew=0.6)
        panel.set_title(f"{float(plane['temperature'][t]):g} {unit}")
    figure.supxlabel(_axis_label(table, 0) + _at_middle(table), fontsize=8)
    axes[0, 0].set_ylabel(_axis_label(table, 1))
    figure.colorbar(shown, ax=axes, label="NESS" if reliable[columns].all() else "NESS (× : unreliable)")
    names = [name for name in ("ness", "ness_p", "repaired") if name in table]
    sides = {name: np.asarray(table[name]).ravel() for name in names}
    return figure, pd.DataFrame(
        {**_conditions(table), **sides, "reliable": np.asarray(table["reliable"]).ravel() > 0.5}
    )


@figure_function
def plot_species_hull(
    hull: pd.DataFrame, predictions: pd.DataFrame, species: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Plot formation energies against the fraction of each species; mixed ground states of the model are numbered.

    Args:
        hull: columns source (``data`` or ``model``), x_<species>, formation_energy (eV/atom), name.
        predictions: columns structure, x_<species>, e_data, e_model, above_hull (eV/atom).
        species: all species; the fraction of the first is what the others leave.
    """
    figure, axes = new_figure(1, len(species), width=TWO_COLUMNS, height=2.6, sharey=True, squeeze=False)
    states = hull[hull["source"] == "model"].copy()
    tables = [predictions.copy(), states]
    for table in tables:
        table[f"x_{species[0]}"] = 1.0 - sum(table[f"x_{name}"] for name in species[1:])
    shown, fractions = tables[0], [f"x_{name}" for name in species]
    mixed = states[states[fractions].max(axis=1) < 1]
    for panel, name in zip(axes[0], species, strict=True):
        x = shown[f"x_{name}"]
        panel.plot(x, MEV * shown["e_data"], "o", ms=3.2, mfc="none", mec=GREY, mew=0.7, label="calculated")
        panel.plot(x, MEV * shown["e_model"], "x", ms=2.6, color=SKY, mew=0.8, label="expansion")
        for number, (_, row) in enumerate(mixed.iterrows(), start=1):
            at = row[f"x_{name}"], MEV * row["formation_energy"]
            panel.plot(*at, "o", ms=3.2, color="black", label="ground states of the expansion" if number == 1 else None)
            panel.annotate(str(number), at, (0, -3), textcoords="offset points", ha="center", va="top", fontsize=6)
        panel.axhline(0, color=GREY, lw=0.5, zorder=0)
        panel.set_xlim(-0.04, 1.04)
        panel.set_xlabel(rf"$x_\mathrm{{{name}}}$")
    axes[0, 0].margins(y=0.15)
    axes[0, 0].set_ylabel("formation energy (meV/atom)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    named = [f"{number} {formula_label(str(name))}" for number, name in enumerate(mixed["name"], start=1)]
    if named:
        figure.legend(
            [Line2D([], [], ls="")] * len(named), named, loc="outside lower center", ncols=min(len(named), 5),
            handlelength=0,
        )  # fmt: skip
    columns = ["structure", *(f"x_{name}" for name in species), "e_data", "e_model", "above_hull"]
    data = shown[columns].assign(ground_state=shown["structure"].isin(set(states["structure"])))
    return figure, data.rename(columns={c: f"{c}_eV" for c in ("e_data", "e_model", "above_hull")})
