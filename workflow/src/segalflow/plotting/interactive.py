"""The phase diagram as one page that a browser opens without a network: zoom, legend to click, numbers on hovering.

plotly draws it (its script is written into the page): nothing of the kind is worth writing by hand, and pymatgen brings
it along anyway.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import ndtri

from segalflow.artefacts import atomic_path
from segalflow.plotting.phase_diagram import criterion_look
from segalflow.plotting.style import colour_of, formula_label, label_of

SYMBOLS = {
    "o": "circle", "D": "diamond", "^": "triangle-up", "s": "square", "v": "triangle-down", "X": "x", "*": "star",
    "h": "hexagon", "<": "triangle-left", "P": "cross",
}  # fmt: skip
"""plotly's names of the markers of the other figures."""
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot", "": "solid"}

# No button that would send the data anywhere: the page stays with its reader.
CONFIG = {
    "displaylogo": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d"],
}

KINDS = {"two_phase": "two phases", "gap_top": "top of a gap", "transition": "transition"}


def _formula(name: str) -> str:
    """A phase's name as HTML, with the subscripts that figures have."""
    return re.sub(r"\$_\{(\w+)\}\$", r"<sub>\1</sub>", formula_label(html.escape(name)))


def _between(value: float, low: float, high: float, unit: str, digits: int) -> str:
    text = f"{value:.{digits}f} {unit}"
    return text if not high > low else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def _text(row: pd.Series, species: Sequence[str], units: tuple[str, str]) -> str:
    """What is shown on pointing at a boundary point: all of its row."""
    kelvin, ev = units
    model = ev != "eV"  # a model's temperatures are of order one
    x = f"x<sub>{html.escape(species[1])}</sub>"
    lines = [f"<b>{html.escape(criterion_look(row['criterion'])[2])}</b>, {html.escape(label_of(row['method']))}"]
    phases = [_formula(p) if p else "?" for p in (row["left_phase"], row["right_phase"])]
    lines.append(KINDS.get(row["kind"], row["kind"]) + (f": {' + '.join(phases)}" if phases != ["?", "?"] else ""))
    temperature = (row["temperature"], row["temperature_low"], row["temperature_high"])
    lines.append("T = " + _between(*temperature, kelvin, 3 if model else 1))
    for side in ("left", "right") if row["x_right"] > row["x_left"] else ("left",):
        stderr = row[f"x_{side}_stderr"]
        error = f" ± {stderr:.4f}" if np.isfinite(stderr) else ""
        lines.append(f"{x} ({side}) = {row[f'x_{side}']:.4f}{error}")
    lines.append("Δμ = " + _between(row["delta_mu"], row["delta_mu_low"], row["delta_mu_high"], ev, 5))
    lines.append(f"± standard error, (…) {100 * row['confidence']:g} % interval")
    return "<br>".join([*lines, *([html.escape(row["note"])] if row["note"] else [])])


def _branches(part: pd.DataFrame, across: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Abscissas of one line with their errors to the left and right: by x one branch or, with a gap, two."""
    if across == "delta_mu":
        mu = part["delta_mu"].to_numpy(float)
        return [(mu, mu - part["delta_mu_low"].to_numpy(float), part["delta_mu_high"].to_numpy(float) - mu)]
    if part["kind"].eq("transition").all():
        middle, half = ((part["x_right"] + sign * part["x_left"]).to_numpy(float) / 2 for sign in (1, -1))
        return [(middle, half, half)]
    n_sigma = ndtri(0.5 + part["confidence"].to_numpy(float) / 2)
    branches = []
    for side in ("left", "right"):
        error = np.nan_to_num(n_sigma * part[f"x_{side}_stderr"].to_numpy(float))
        branches.append((part[f"x_{side}"].to_numpy(float), error, error))
    # The top of a gap is one place.
    return branches[:1] if part["kind"].eq("gap_top").all() else branches


def _traces(part: pd.DataFrame, across: str, texts: Sequence[str], upright: bool, with_line: bool) -> list[go.Scatter]:
    """The branches of one boundary line; errors in temperature where `upright`."""
    criterion, method = str(part["criterion"].iloc[0]), str(part["method"].iloc[0])
    marker, dash, name = criterion_look(criterion)
    colour = colour_of(method)
    y = part["temperature"].to_numpy(float)
    low, high = (np.abs(part[f"temperature_{end}"].to_numpy(float) - y) for end in ("low", "high"))
    bars = {"thickness": 1, "width": 2}
    return [
        go.Scatter(
            x=value,
            y=y,
            mode="lines+markers" if with_line and dash else "markers",
            error_x={"array": plus, "arrayminus": minus, **bars},
            error_y={"array": high, "arrayminus": low, "visible": upright, **bars},
            line={"color": colour, "dash": DASHES.get(dash, "solid"), "width": 1},
            marker={
                "symbol": SYMBOLS.get(marker, "circle") if with_line else "star",
                "size": 7 if with_line else 11,
                "color": "white",
                "line": {"color": colour, "width": 1.5},
            },
            name=f"{label_of(method)}: {name}",
            legendgroup=f"{method} {criterion}",
            text=texts,
            hovertemplate="%{text}<extra></extra>",
        )
        for value, minus, plus in _branches(part, across)
    ]


def interactive_diagram(boundaries: pd.DataFrame, species: Sequence[str], energy_unit: str = "eV") -> go.Figure:
    """Return the T-x and T-delta_mu diagrams of one cell side by side; the legend switches criteria and methods.

    Args:
        boundaries: boundary table of the cell.
        species: the two species.
        energy_unit: ``"eV"``, or the unit of a model (temperatures are then in that unit over k_B).
    """
    units = ("K", "eV") if energy_unit == "eV" else (f"{energy_unit}/k_B", energy_unit)
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for _, line in boundaries.groupby(["method", "criterion", "boundary"], sort=True):
        for is_top in (False, True):
            part = line[(line["kind"] == "gap_top") == is_top]
            if part.empty:
                continue
            transition = bool(part["kind"].eq("transition").all())
            part = part.sort_values("delta_mu" if transition else "temperature", kind="stable")
            texts = [_text(row, species, units) for _, row in part.iterrows()]
            for column, across in enumerate(("x", "delta_mu"), start=1):
                traces = _traces(part, across, texts, transition or is_top, not is_top)
                figure.add_traces(traces, rows=[1] * len(traces), cols=[column] * len(traces))
    named: set[str] = set()
    for trace in figure.data:
        trace.showlegend = trace.legendgroup not in named
        named.add(trace.legendgroup)
    first, second = (html.escape(s) for s in species)
    figure.update_xaxes(mirror=True, ticks="inside")
    figure.update_yaxes(mirror=True, ticks="inside")
    figure.update_xaxes(title_text=f"x<sub>{second}</sub>", range=[-0.02, 1.02], row=1, col=1)
    figure.update_xaxes(title_text=f"μ<sub>{second}</sub> − μ<sub>{first}</sub> ({units[1]})", row=1, col=2)
    figure.update_yaxes(title_text=f"temperature ({units[0]})", row=1, col=1)
    figure.update_layout(template="simple_white", height=620, margin={"t": 30}, hovermode="closest")
    figure.update_layout(legend={"orientation": "h", "y": -0.15, "font": {"size": 11}}, hoverlabel={"align": "left"})
    if boundaries.empty:
        words, paper = "no boundary found in this window", {"xref": "paper", "yref": "paper"}
        figure.add_annotation(text=words, showarrow=False, x=0.5, y=0.9, **paper)
    return figure


def write_interactive_diagram(
    path: str | Path, boundaries: pd.DataFrame, species: Sequence[str], energy_units: Mapping[str, str]
) -> None:
    """Write the diagrams of all cells as one page that needs no other file; the same table gives the same bytes.

    Args:
        path: the page.
        boundaries: boundary table of the study.
        species: the two species.
        energy_units: the energy unit of every cell to show, by its name.
    """
    parts = []
    for k, (cell, unit) in enumerate(energy_units.items()):
        own = boundaries[boundaries["cell"] == cell]
        figure = interactive_diagram(own, species, unit)
        plot = figure.to_html(full_html=False, include_plotlyjs=not k, div_id=f"diagram-{k}", config=CONFIG)
        parts.append(f"<h2>{html.escape(cell)}</h2>\n{plot}")
    if not parts:
        parts.append("<p>The study reads phase boundaries from none of its cells.</p>")
    title = html.escape("-".join(species))
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}: phase boundaries</title>\n'
        "<style>body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem 2rem; color: #222; }</style></head>\n<body>\n"
        f"<h1>{title}: phase boundaries</h1>\n<p>Point at a boundary point for its numbers; drag to zoom, double-click "
        "to go back; click in the legend to hide a criterion of a method, double-click to see it alone.</p>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page + "\n".join(parts) + "\n</body>\n</html>\n", encoding="utf-8")
