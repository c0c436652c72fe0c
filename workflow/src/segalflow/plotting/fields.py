"""The phase diagram as one publishes it: named fields, shaded two-phase regions of one criterion, and error bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.special import ndtri

from segalflow.phases.leading import leading_criterion
from segalflow.phases.lines import find_junctions
from segalflow.plotting.phase_diagram import criterion_look, draw_measured, short_name
from segalflow.plotting.phases import phase_colours
from segalflow.plotting.style import (
    BLACK,
    GREY,
    ORANGE,
    TWO_COLUMNS,
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

PREFERRED = ("order_parameter", "equal_weight", "common_tangent", "composition_jump", "alpha_shape", "hysteresis")
"""Criteria in the order in which the first with a two-phase field is drawn (but see `segalflow.phases.leading`)."""
WIDE = 0.09
"""Narrowest two-phase field, in x, that carries its name."""
COLUMNS = [
    "series",
    "criterion",
    "method",
    "boundary",
    "kind",
    "temperature",
    "delta_mu",
    "x_left",
    "x_right",
    "left_phase",
    "right_phase",
    "x_left_sampling",
    "x_right_sampling",
    "x_left_model",
    "x_right_model",
    "delta_mu_sampling",
    "delta_mu_model",
]
LEVEL = float(ndtri(0.975))


def choose_source(boundaries: pd.DataFrame, methods: Sequence[str] = ("snis",)) -> tuple[str, str] | None:
    """Return (criterion, method) of the boundaries to draw; None without any two-phase point or transition.

    Args:
        boundaries: boundary table of one cell.
        methods: methods to take before all others.
    """
    leading = leading_criterion(boundaries[boundaries["criterion"].isin(PREFERRED)], PREFERRED)
    for kind, criteria in (("two_phase", [leading] if leading else []), ("transition", [*PREFERRED, "heat_capacity"])):
        kept = boundaries[boundaries["kind"] == kind]
        for criterion in criteria:
            found = list(dict.fromkeys(kept.loc[kept["criterion"] == criterion, "method"]))
            if found:
                return criterion, next((m for m in methods if m in found), found[0])
    return None


def with_errors(points: pd.DataFrame, model_error: pd.DataFrame | None) -> pd.DataFrame:
    """Return boundary points with half widths of 95 % intervals: ``<quantity>_sampling`` and ``<quantity>_model``.

    The model error is that of the same line by any criterion that has one: the nearest point at the same temperature.
    NaN where it is not known.
    """
    drawn = points.copy()
    for side in ("left", "right"):
        drawn[f"x_{side}_sampling"] = LEVEL * drawn[f"x_{side}_stderr"].astype(float)
    drawn["delta_mu_sampling"] = (drawn["delta_mu_high"] - drawn["delta_mu_low"]).astype(float) / 2
    names = ["x_left", "x_right", "delta_mu"]
    for name in names:
        drawn[f"{name}_model"] = np.nan
    if model_error is None or not len(model_error):
        return drawn
    for index, row in drawn[drawn["kind"] == "two_phase"].iterrows():
        same = model_error[np.isclose(model_error["temperature"], row["temperature"])]
        away = (same["x_left"] - row["x_left"]).abs() + (same["x_right"] - row["x_right"]).abs()
        if len(away) and away.min() < 0.5 * (row["x_right"] - row["x_left"]):
            near = same.loc[away.idxmin()]
            for name in names:
                drawn.loc[index, f"{name}_model"] = LEVEL * near[f"{name}_model_stderr"]
    return drawn


def _band(axes: Axes, centre, half, temperature, colour: str, alpha: float, order: int, ends=(-np.inf, np.inf)) -> None:
    half = np.nan_to_num(np.asarray(half, float))
    if half.any():
        low, high = np.clip([centre - half, centre + half], *ends)
        axes.fill_betweenx(temperature, low, high, color=colour, alpha=alpha, lw=0, zorder=order)


def _draw_line(panels: Sequence[Axes], line: pd.DataFrame, colour: str) -> bool:
    """Draw one two-phase line in both diagrams with its bands; return whether it has a model error."""
    line = line.sort_values("temperature")
    temperature = line["temperature"].to_numpy(float)
    for side in ("left", "right"):
        x = line[f"x_{side}"].to_numpy(float)
        model = np.hypot(np.nan_to_num(line[f"x_{side}_model"]), line[f"x_{side}_sampling"])
        _band(panels[0], x, np.where(line[f"x_{side}_model"].notna(), model, 0), temperature, ORANGE, 0.3, 2, (0, 1))
        _band(panels[0], x, line[f"x_{side}_sampling"], temperature, colour, 0.25, 3, (0, 1))
    mu = line["delta_mu"].to_numpy(float)
    known = line["delta_mu_model"].notna()
    model = np.where(known, np.hypot(line["delta_mu_model"].fillna(0), line["delta_mu_sampling"]), 0)
    _band(panels[1], mu, model, temperature, ORANGE, 0.35, 2)
    _band(panels[1], mu, line["delta_mu_sampling"], temperature, colour, 0.35, 3)
    panels[1].plot(mu, temperature, "-", color=colour, lw=1.0, zorder=4)
    return bool(known.any())


def _draw_transitions(panels: Sequence[Axes], line: pd.DataFrame, colour: str) -> None:
    line = line.sort_values("delta_mu")
    y = line["temperature"].to_numpy(float)
    for panel, across in ((panels[0], (line["x_left"] + line["x_right"]) / 2), (panels[1], line["delta_mu"])):
        across = across.to_numpy(float)
        panel.fill_between(
            across, line["temperature_low"].astype(float), line["temperature_high"].astype(float), color=colour,
            alpha=0.3, lw=0, zorder=2,
        )  # fmt: skip
        panel.plot(across, y, "--" if len(line) > 1 else "o", color=colour, lw=1.0, ms=2.5, zorder=4)


def _name_phases(panels: Sequence[Axes], labels: pd.DataFrame, colours: dict[str, str]) -> None:
    """Write every phase's name where its conditions are, in both diagrams."""
    sure = labels[(labels["phase"] == labels["most_probable"]) & (labels["probability"] > 0.8)]
    for phase, part in sure.groupby("phase", sort=False):
        for panel, column in zip(panels, ("composition", "delta_mu"), strict=True):
            # The most crowded place: far from all borders of the phase.
            low, high = labels[column].min(), labels[column].max()
            x = (part[column] - low) / max(high - low, 1e-12)
            y = part["temperature"] - labels["temperature"].min()
            y = y / max(labels["temperature"].max() - labels["temperature"].min(), 1e-12)
            others = labels[(labels["phase"] == labels["most_probable"]) & (labels["phase"] != phase)]
            ox = ((others[column] - low) / max(high - low, 1e-12)).to_numpy()[None]
            oy = others["temperature"].to_numpy()[None] - labels["temperature"].min()
            oy = oy / max(labels["temperature"].max() - labels["temperature"].min(), 1e-12)
            away = np.hypot(x.to_numpy()[:, None] - ox, 2 * (y.to_numpy()[:, None] - oy)).min(axis=1, initial=9.0)
            away = np.minimum(away, 1.2 * np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y) * 2) + 0.02)
            k = int(np.argmax(away))
            place = float(part[column].iloc[k]), float(part["temperature"].iloc[k])
            row = part.loc[np.isclose(part["temperature"], place[1]), column]
            cold, hot = labels["temperature"].min(), labels["temperature"].max()
            place = place[0], float(np.clip(place[1], cold + 0.14 * (hot - cold), hot - 0.05 * (hot - cold)))
            narrow = float(np.ptp(row)) < 0.2 * (high - low) and phase != labels["phase"].iloc[-1]
            panel.text(
                *place, formula_label(str(phase)), ha="center", va="center", fontsize=7, zorder=8,
                rotation=90 if narrow else 0, color=colours.get(str(phase), BLACK),
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
            )  # fmt: skip


def _name_field(axes: Axes, line: pd.DataFrame, species: Sequence[str]) -> None:
    """Write the short names of both phases into a field, where it has room for them."""
    first = line.iloc[0]
    if not (first["left_phase"] and first["right_phase"]):
        return
    width = (line["x_right"] - line["x_left"]).to_numpy(float)
    k = len(width) // 3
    if width[k] >= WIDE:
        row = line.sort_values("temperature").iloc[k]
        words = "\n+ ".join(short_name(line, side, species) for side in ("left", "right"))
        axes.text(
            (row["x_left"] + row["x_right"]) / 2, row["temperature"], words, ha="center", va="center", fontsize=6,
            zorder=7, bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
        )  # fmt: skip


@figure_function
def plot_fields(
    boundaries: pd.DataFrame,
    species: Sequence[str],
    labels: pd.DataFrame | None = None,
    model_error: pd.DataFrame | None = None,
    measured: pd.DataFrame | None = None,
    energy_unit: str = "eV",
) -> tuple[Figure, pd.DataFrame]:
    """Plot the T-x and the T-delta_mu diagram side by side by one criterion, other methods over it as markers.

    Bands are 95 % intervals: of sampling and the cell's finite size in the line's colour, with the fitted expansion's
    own error in orange.

    Args:
        boundaries: boundary table of one cell.
        species: the two species.
        labels: phases of one method's samples (`order_parameters.label_phases`); None names no fields.
        model_error: table of `phases.model_error` for this cell; None draws none.
        measured: points from experiment with columns `phase_diagram.MEASURED`; None draws none.
        energy_unit: of delta_mu, ``eV`` or ``J``.

    Returns:
        The figure and the drawn points, with the half widths of both bands.
    """
    figure, panels = new_figure(columns=2, width=TWO_COLUMNS, height=3.6, sharey=True)
    source = choose_source(boundaries)
    handles: list = []
    drawn = [pd.DataFrame(columns=COLUMNS)]
    colours = {} if labels is None else phase_colours(list(dict.fromkeys(labels["phase"])))
    if source is None:
        where = {"transform": panels[0].transAxes, "ha": "center", "va": "top"}
        panels[0].text(0.5, 0.95, "no boundary found in this window", **where)
    else:
        criterion, method = source
        points = with_errors(boundaries[boundaries["criterion"] == criterion], model_error)
        own = points[points["method"] == method]
        modelled = False
        for _, line in own[own["kind"] == "two_phase"].groupby("boundary"):
            line = line.sort_values("temperature")
            modelled |= _draw_line(panels, line, BLACK)
            _name_field(panels[0], line, species)
        gaps = own[own["kind"] == "two_phase"]
        pieces, horizontal = join_lines(gaps)
        for _, edge in pieces:
            x = edge["x_left"], edge["x_right"]
            panels[0].fill_betweenx(edge["temperature"], *x, color=GREY, alpha=0.18, lw=0, zorder=1)
            for side in x:
                panels[0].plot(side, edge["temperature"], "-", color=BLACK, lw=1.0, zorder=4)
        for kelvin, *ends in horizontal:
            panels[0].plot(ends, [kelvin, kelvin], "-", color=BLACK, lw=1.0, zorder=4)
        for _, line in own[own["kind"] == "transition"].groupby("boundary"):
            _draw_transitions(panels, line, BLACK)
        tops, junctions = own[own["kind"] == "gap_top"], find_junctions(gaps)
        tops = without_three_phases(tops, junctions)
        for panel, column in ((panels[0], "x_left"), (panels[1], "delta_mu")):
            middle = tops["temperature"]
            vertical = np.abs(np.stack([middle - tops["temperature_low"], tops["temperature_high"] - middle]))
            panel.errorbar(tops[column], middle, yerr=vertical.astype(float), fmt="*", ms=5, color=BLACK,
                           mfc="white", mew=0.7, elinewidth=0.5, zorder=5)  # fmt: skip
        name = criterion_look(criterion)[2]
        handles.append(Line2D([], [], color=BLACK, lw=1.0, label=f"{name}, {label_of(method)}"))
        handles.append(Patch(facecolor=BLACK, alpha=0.35, label="95 %: sampling, cell size"))
        if modelled:
            handles.append(Patch(facecolor=ORANGE, alpha=0.5, label="and error of the expansion"))
        handles.append(Patch(facecolor=GREY, alpha=0.25, label="two phases"))
        for other in dict.fromkeys(points["method"]):
            if other == method:
                continue
            part = points[(points["method"] == other) & (points["kind"] == "two_phase")]
            look = {"ls": "", "marker": "o", "ms": 2.6, "mfc": "none", "mew": 0.7, "color": colour_of(other)}
            for side in ("left", "right"):
                panels[0].plot(part[f"x_{side}"], part["temperature"], zorder=6, **look)
            panels[1].plot(part["delta_mu"], part["temperature"], zorder=6, **look)
            handles.append(Line2D([], [], label=label_of(other), **look))
        drawn.append(points.assign(series=np.where(points["method"] == method, "line", "marker")))
    if labels is not None and len(labels):
        _name_phases(panels, labels, colours)
        panels[0].set_ylim(labels["temperature"].min(), labels["temperature"].max())
        panels[1].set_xlim(labels["delta_mu"].min(), labels["delta_mu"].max())
    if measured is not None:
        handles += draw_measured(panels[0], measured)
        drawn.append(
            pd.DataFrame({"series": "measured", "temperature": measured["temperature"], "x_left": measured["x"],
                          "x_right": measured["x"], "left_phase": measured["source"]})
        )  # fmt: skip
    panels[0].set_xlim(0, 1)
    panels[0].set_xlabel(composition_label(species))
    panels[1].set_xlabel(delta_mu_label(species, unit_label(energy_unit)))
    panels[1].locator_params(axis="x", nbins=6)  # their numbers are long
    panels[0].set_ylabel(f"temperature ({'K' if energy_unit == 'eV' else unit_label(energy_unit + '/k_B')})")
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), fontsize=6.5)
    return figure, pd.concat([d for d in drawn if len(d)] or drawn, ignore_index=True).reindex(columns=COLUMNS)
