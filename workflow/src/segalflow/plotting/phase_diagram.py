"""The phase diagram: boundaries of all criteria and methods over what the samplers saw."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from segalflow.ensemble import second_species_composition
from segalflow.phases.leading import leading_criterion
from segalflow.phases.lines import find_junctions
from segalflow.phases.naming import SOLUTION
from segalflow.plotting.style import (
    GREY,
    TWO_COLUMNS,
    YELLOW,
    colour_of,
    composition_label,
    delta_mu_label,
    figure_function,
    formula_label,
    label_of,
    new_figure,
    unit_label,
)
from segalflow.plotting.three_phase import join_lines, without_three_phases

CRITERION_LOOKS = {
    "composition_jump": ("o", "-", "composition jump"),
    "alpha_shape": ("D", "--", "alpha shape"),
    "heat_capacity": ("^", ":", "heat-capacity maximum"),
    "common_tangent": ("s", "-", "common tangent"),
    "equal_weight": ("v", "--", "equal weight"),
    "hysteresis": ("X", ":", "hysteresis of a scan"),
    "critical_point": ("*", "", "critical point"),
    "ness_regions": ("h", ":", "low effective sample size"),
    "composition_difference": ("<", "--", "composition difference"),
    "order_parameter": ("p", "-", "order parameter"),
}
_OTHER_LOOK = ("P", "-.")

LEADING = {
    "two_phase": (
        "equal_weight", "common_tangent", "composition_jump", "order_parameter", "alpha_shape", "hysteresis",
        "composition_difference", "ness_regions",
    ),
    "transition": ("order_parameter", "heat_capacity", "critical_point"),
}  # fmt: skip
"""By kind of point, the criteria of which the first that has any gives the diagram's lines, the surest first.

Of gaps that common tangents follow farther up they have the lines (`segalflow.phases.leading`).
"""
FAINT = 0.45
"""Opacity of the points of all other criteria."""
SURE = 0.04
"""Widest interval of a gap's top, as a part of the temperatures shown, that is drawn of those other criteria."""
WIDE = 0.1
"""Narrowest two-phase field, in x, that has room for its name."""

MEASURED = ("temperature", "x", "source")
"""Columns of points from experiment: K, fraction of species 1, and where they are from."""

POINT_COLUMNS = [
    "series",
    "criterion",
    "method",
    "boundary",
    "kind",
    "temperature",
    "temperature_low",
    "temperature_high",
    "delta_mu",
    "delta_mu_low",
    "delta_mu_high",
    "x_left",
    "x_right",
    "x_left_stderr",
    "x_right_stderr",
    "note",
]


def criterion_look(criterion: str) -> tuple[str, str, str]:
    """Return marker, line style and name of a criterion, the same in every figure."""
    return CRITERION_LOOKS.get(criterion, (*_OTHER_LOOK, criterion.replace("_", " ")))


def _background(axes: Axes, tables: Mapping[str, xr.Dataset], horizontal: str) -> tuple[pd.DataFrame, bool]:
    """Draw what every method sampled, faint, crosses where unreliable; return it and whether any is unreliable."""
    frames, any_bad = [], False
    for method, table in tables.items():
        temperature, mu = np.meshgrid(
            np.asarray(table["temperature"], float), np.asarray(table["delta_mu"], float), indexing="ij"
        )
        x = np.asarray(second_species_composition(table), dtype=float)
        good = np.asarray(table["reliable"]) > 0.5
        across = x if horizontal == "x" else mu
        colour = colour_of(method)
        if horizontal == "x":
            axes.plot(across[good], temperature[good], ".", ms=2.2, mew=0, color=colour, alpha=0.35, rasterized=True)
        axes.plot(across[~good], temperature[~good], "x", ms=2.0, mew=0.4, color=colour, alpha=0.45, rasterized=True)
        any_bad |= bool((~good).any())
        frames.append(
            pd.DataFrame(
                {
                    "series": np.where(good.ravel(), "sampled", "sampled, unreliable"),
                    "method": method,
                    "temperature": temperature.ravel(),
                    "delta_mu": mu.ravel(),
                    "x_left": x.ravel(),
                    "x_right": x.ravel(),
                }
            )
        )
    return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), any_bad


def _limits(boundaries: pd.DataFrame, tables: Mapping[str, xr.Dataset]) -> tuple[float, float]:
    values = [np.asarray(t["temperature"], float) for t in tables.values()]
    if not values:
        values = [boundaries["temperature"].to_numpy(float)] if len(boundaries) else [np.array([0.0, 1.0])]
    joined = np.concatenate(values)
    return float(joined.min()), float(joined.max())


def _legend(
    figure: Figure,
    boundaries: pd.DataFrame,
    methods: Sequence[str],
    any_bad: bool,
    shaded: bool,
    more: Sequence[Line2D] = (),
    leading: Mapping[str, str] | None = None,
) -> None:
    """Methods by colour, criteria by marker and line style, above the diagram; only `leading` ones have lines."""
    handles = [Line2D([], [], color=colour_of(m), lw=2.5, label=label_of(m)) for m in methods]
    for criterion in [c for c in CRITERION_LOOKS if c in set(boundaries["criterion"])]:
        marker, line, name = criterion_look(criterion)
        look = {"ls": line, "ms": 3.5, "mfc": "white"}
        if leading is not None:
            kinds = [kind for kind, first in leading.items() if first == criterion]
            look = {"ls": "-" if "two_phase" in kinds else ":", "ms": 3.5, "mfc": "white"}
            if not kinds:
                look = {"ls": "", "ms": 2.4, "mfc": "none", "mew": 0.5, "alpha": FAINT}
        handles.append(Line2D([], [], color="black", marker=marker, label=name, **look))
    if "gap_top" in set(boundaries["kind"]):
        handles.append(Line2D([], [], color="black", marker="*", ls="", ms=6, mfc="white", label="top of a gap"))
    if shaded:
        handles.append(Patch(facecolor=GREY, alpha=0.25, label="two phases"))
    if any_bad:
        handles.append(Line2D([], [], color=GREY, marker="x", ls="", ms=3, mew=0.6, label="unreliable condition"))
    handles += more
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(3, len(handles)), fontsize=6.5, handlelength=3.0
    )


def _error_bars(axes: Axes, part: pd.DataFrame, across: np.ndarray, spread: np.ndarray, colour: str, marker: str):
    y = part["temperature"].to_numpy(float)
    vertical = np.abs(np.stack([y - part["temperature_low"], part["temperature_high"] - y]))
    axes.errorbar(
        across,
        y,
        xerr=spread,
        yerr=vertical,
        fmt=marker,
        ms=3.2,
        mfc="white",
        mec=colour,
        mew=0.8,
        ecolor=colour,
        elinewidth=0.5,
        capsize=0,
        zorder=4,
    )


def _lines(boundaries: pd.DataFrame):
    """Yield (criterion, method, rows) of every boundary line."""
    for (criterion, method, _, _), part in boundaries.groupby(["criterion", "method", "cell", "boundary"]):
        yield str(criterion), str(method), part


@figure_function
def plot_phase_diagram(
    boundaries: pd.DataFrame,
    tables: Mapping[str, xr.Dataset],
    hull: pd.DataFrame,
    species: Sequence[str],
    measured: pd.DataFrame | None = None,
) -> tuple[Figure, pd.DataFrame]:
    """Plot the T-x diagram: boundaries by every method (colour) and criterion (marker).

    One criterion for gaps and one for transitions without (`LEADING`) have lines, error bars (95 %) and tops of gaps;
    the points of all others stand behind, small and faint. The fields of the first method that has some are shaded and
    named. Below the diagram the ground states are marked. What the samplers visited is faint behind.

    Args:
        boundaries: boundary table of one cell.
        tables: ensemble tables of that cell by method.
        hull: ground states with columns source, x, name; those of source ``model`` are marked.
        species: the two species.
        measured: points from experiment with columns `MEASURED`; None draws none.

    Returns:
        The figure and the plotted points; ``series`` is ``boundary``, ``sampled``, ``ground state`` or ``measured``.
    """
    figure, axes = new_figure(width=TWO_COLUMNS * 0.72, height=4.0)
    points, any_bad = _background(axes, tables, "x")
    low, high = _limits(boundaries, tables)
    methods = list(dict.fromkeys([*tables, *boundaries["method"]]))
    leading = _leading(boundaries)
    shaded = _shade(axes, boundaries, methods, leading.get("two_phase"), species)
    for criterion, method, part in _lines(boundaries):
        marker, colour = criterion_look(criterion)[0], colour_of(method)
        body = part[part["kind"] != "gap_top"].sort_values("temperature")
        transitions = len(body) > 0 and (body["kind"] == "transition").all()
        if criterion != leading.get("transition" if transitions else "two_phase"):
            sides = [(body["x_left"] + body["x_right"]) / 2] if transitions else [body["x_left"], body["x_right"]]
            for x in sides:
                axes.plot(
                    x, body["temperature"], marker, ms=2.2, mfc="none", mec=colour, mew=0.5, alpha=FAINT, zorder=2
                )
            top = part[part["kind"] == "gap_top"]
            sure = top[top["temperature_high"] - top["temperature_low"] < SURE * (high - low)]
            axes.plot(sure["x_left"], sure["temperature"], "*", ms=5, mfc="none", mec=colour, mew=0.6, zorder=5)
            continue
        if transitions:
            body = body.sort_values("delta_mu")
            middle = ((body["x_left"] + body["x_right"]) / 2).to_numpy(float)
            axes.plot(middle, body["temperature"], ":", color=colour, lw=0.8, zorder=3)
            _error_bars(axes, body, middle, None, colour, marker)
        else:
            for side in ("left", "right"):
                x = body[f"x_{side}"].to_numpy(float)
                error = 1.96 * np.nan_to_num(body[f"x_{side}_stderr"].to_numpy(float))
                plain = body.assign(temperature_low=body["temperature"], temperature_high=body["temperature"])
                _error_bars(axes, plain, x, np.stack([error, error]), colour, marker)
        top = part[part["kind"] == "gap_top"]
        junctions = find_junctions(_gaps(boundaries, criterion, method))
        top = without_three_phases(top, junctions)
        if len(top):
            _error_bars(axes, top, top["x_left"].to_numpy(float), None, colour, "*")
            axes.plot(top["x_left"], top["temperature"], "*", ms=7, mfc="white", mec=colour, mew=0.8, zorder=5)
    for method in reversed(methods):
        pieces, horizontal = join_lines(_gaps(boundaries, leading.get("two_phase"), method))
        for _, edge in pieces:
            for side in ("x_left", "x_right"):
                axes.plot(edge[side], edge["temperature"], "-", color=colour_of(method), lw=0.8, zorder=3)
        for kelvin, left, right in horizontal:
            axes.plot([left, right], [kelvin, kelvin], "-", color=colour_of(method), lw=0.8, zorder=3)
    span = high - low
    states = _ground_states(axes, hull, low, span)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(low - 0.16 * span if len(states) else low - 0.03 * span, high + 0.03 * span)
    # The strip of ground states below the diagram has no temperature.
    axes.set_yticks([tick for tick in axes.get_yticks() if low - 0.03 * span <= tick <= high + 0.03 * span])
    axes.set_xlabel(composition_label(species))
    unit = str(next(iter(tables.values()))["temperature"].attrs.get("units", "K")) if tables else "K"
    axes.set_ylabel(f"temperature ({unit_label(unit)})")
    if not len(boundaries):
        axes.text(0.5, 0.95, "no boundary found in this window", transform=axes.transAxes, ha="center", va="top")
    handles = [] if measured is None else draw_measured(axes, measured)
    _legend(figure, boundaries, methods, any_bad, shaded, handles, leading)
    return figure, _plotted(boundaries, points, states, measured)


def _leading(boundaries: pd.DataFrame) -> dict[str, str]:
    """The criterion that gives the lines, by kind of point (`LEADING`)."""
    found = {}
    for kind, names in LEADING.items():
        there = set(boundaries.loc[boundaries["kind"] == kind, "criterion"])
        ranked = [name for name in (*names, *sorted(there - set(names))) if name in there]
        if ranked:
            found[kind] = leading_criterion(boundaries, names) if kind == "two_phase" else ranked[0]
    return found


def _gaps(boundaries: pd.DataFrame, criterion: str | None, method: str) -> pd.DataFrame:
    """Two-phase points of one source."""
    kept = (boundaries["kind"] == "two_phase") & (boundaries["criterion"] == criterion)
    return boundaries[kept & (boundaries["method"] == method)]


def _shade(
    axes: Axes, boundaries: pd.DataFrame, methods: Sequence[str], criterion: str | None, species: Sequence[str]
) -> bool:
    """Shade the two-phase fields of one criterion by the first method that has any, and name the wide ones."""
    known = [method for method in methods if len(_gaps(boundaries, criterion, method))]
    for part, edge in join_lines(_gaps(boundaries, criterion, known[0]))[0] if known else ():
        axes.fill_betweenx(edge["temperature"], edge["x_left"], edge["x_right"], color=GREY, alpha=0.22, lw=0, zorder=1)
        if len(part) < 2:
            continue
        row = part.iloc[(len(part) - 1) // 3]
        if row["x_right"] - row["x_left"] < WIDE:
            continue
        names = [short_name(part, side, species) for side in ("left", "right")]
        axes.text(
            (row["x_left"] + row["x_right"]) / 2, row["temperature"], "\n+ ".join(names), ha="center", va="center",
            fontsize=6.5, zorder=8, bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.6},
        )  # fmt: skip
    return bool(known)


def short_name(line: pd.DataFrame, side: str, species: Sequence[str]) -> str:
    """Return what a side of a field is on most of its points: a formula, or in brackets the solution's main element."""
    names = line[f"{side}_phase"].fillna("").astype(str)
    name = str(names.mode().iloc[0])
    formula = name.split(" ", 1)[0]
    if name in ("", SOLUTION) or formula in species:
        return f"({species[int(line[f'x_{side}'].mean() > 0.5)]})"
    return formula_label(formula)


def draw_measured(axes: Axes, measured: pd.DataFrame) -> list[Line2D]:
    """Draw points from experiment, a marker a source, and return what stands for them in the legend."""
    handles = []
    for (source, part), marker in zip(measured.groupby("source", sort=False), itertools.cycle("PXdph8"), strict=False):
        look = {"marker": marker, "ls": "", "ms": 4.5, "color": "black", "mfc": YELLOW, "mew": 0.6}
        axes.plot(part["x"], part["temperature"], zorder=7, **look)
        handles.append(Line2D([], [], label=str(source), **look))
    return handles


def _ground_states(axes: Axes, hull: pd.DataFrame, low: float, span: float) -> pd.DataFrame:
    """Mark and label the expansion's ground states below the lowest temperature; names that meet are staggered."""
    if not len(hull):
        return pd.DataFrame(columns=["x", "name"])
    states = hull[hull["source"] == "model"] if (hull["source"] == "model").any() else hull
    states = states.sort_values("x").drop_duplicates("x")
    axes.axhline(low - 0.02 * span, color="black", lw=0.5)
    ends = [-1.0, -1.0]  # right end of the last label in each of two rows
    for _, state in states.iterrows():
        x, name = float(state["x"]), str(state["name"])
        axes.plot([x], [low - 0.045 * span], marker="v", ms=4, color="black", clip_on=False, zorder=6)
        width = 0.018 * len(name)
        inside = min(max(x, width / 2 - 0.01), 1.01 - width / 2)
        row = 0 if inside - width / 2 > ends[0] else 1
        if inside - width / 2 <= ends[row]:
            continue  # no room: the marker stands for itself
        ends[row] = inside + width / 2 + 0.005
        axes.text(
            inside,
            low - (0.075 + 0.045 * row) * span,
            formula_label(name),
            ha="center",
            va="center",
            fontsize=6.5,
            zorder=6,
        )
    return states


def _plotted(
    boundaries: pd.DataFrame, points: pd.DataFrame, states: pd.DataFrame, measured: pd.DataFrame | None = None
) -> pd.DataFrame:
    parts = [boundaries.assign(series="boundary")] if len(boundaries) else []
    if measured is not None and len(measured):
        x = measured["x"]
        shown = {"series": "measured", "temperature": measured["temperature"], "x_left": x, "x_right": x}
        parts.append(pd.DataFrame({**shown, "note": measured["source"]}))
    if len(points):
        parts.append(points)
    if len(states):
        parts.append(
            pd.DataFrame(
                {
                    "series": "ground state",
                    "temperature": 0.0,
                    "x_left": states["x"],
                    "x_right": states["x"],
                    "note": states["name"],
                }
            )
        )
    if not parts:
        return pd.DataFrame(columns=POINT_COLUMNS)
    return pd.concat(parts, ignore_index=True).reindex(columns=POINT_COLUMNS)


@figure_function
def plot_phase_diagram_delta_mu(
    boundaries: pd.DataFrame, tables: Mapping[str, xr.Dataset], species: Sequence[str]
) -> tuple[Figure, pd.DataFrame]:
    """Plot the T-delta_mu diagram: the same boundaries; two-phase fields are lines here.

    The colours behind show the mean composition of the first method's table.
    """
    figure, axes = new_figure(width=TWO_COLUMNS * 0.72, height=3.8)
    unit_t, unit_e = "K", "eV"
    if tables:
        first = next(iter(tables.values()))
        unit_t = str(first["temperature"].attrs.get("units", "K"))
        unit_e = str(first["delta_mu"].attrs.get("units", "eV"))
        shown = axes.pcolormesh(
            np.asarray(first["delta_mu"], float),
            np.asarray(first["temperature"], float),
            np.asarray(second_species_composition(first), float),
            cmap="Greys",
            vmin=0,
            vmax=1.6,
            shading="nearest",
            rasterized=True,
            zorder=0,
        )
        shown.set_edgecolor("face")
        bar = figure.colorbar(shown, ax=axes, label=f"{composition_label(species)} ({label_of(next(iter(tables)))})")
        bar.ax.set_ylim(0, 1)
    points, any_bad = _background(axes, tables, "delta_mu")
    for criterion, method, part in _lines(boundaries):
        marker, line, _ = criterion_look(criterion)
        colour = colour_of(method)
        body = part[part["kind"] != "gap_top"]
        order = "delta_mu" if (body["kind"] == "transition").all() else "temperature"
        body = body.sort_values(order)
        mu = body["delta_mu"].to_numpy(float)
        axes.plot(mu, body["temperature"], line, color=colour, lw=0.8, zorder=3)
        if order == "delta_mu":
            _error_bars(axes, body, mu, None, colour, marker)
        else:
            plain = body.assign(temperature_low=body["temperature"], temperature_high=body["temperature"])
            spread = np.abs(np.stack([mu - body["delta_mu_low"], body["delta_mu_high"] - mu]))
            _error_bars(axes, plain, mu, spread, colour, marker)
        top = part[part["kind"] == "gap_top"]
        if len(top):
            _error_bars(axes, top, top["delta_mu"].to_numpy(float), None, colour, "*")
            axes.plot(top["delta_mu"], top["temperature"], "*", ms=7, mfc="white", mec=colour, mew=0.8, zorder=5)
    axes.set_xlabel(delta_mu_label(species, unit_label(unit_e)))
    axes.set_ylabel(f"temperature ({unit_label(unit_t)})")
    methods = list(dict.fromkeys([*tables, *boundaries["method"]]))
    _legend(figure, boundaries, methods, any_bad, False)
    return figure, _plotted(boundaries, points, pd.DataFrame())
