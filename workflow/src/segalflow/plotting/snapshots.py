"""Snapshots: a few drawn decorations of every phase, cut out of the periodic crystal as blocks of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segalflow.lattice import Supercell
from segalflow.plotting.style import BLUE, ORANGE, TWO_COLUMNS, figure_function, formula_label, new_figure, unit_label
from segalflow.samples import unpack_spins
from segalflow.thermo.order_parameters import SOLUTION, classify
from segalflow.thermo.short_range_order import lattice_constant

BLOCK = 3.0
"""Edge of the block drawn, conventional cells."""
TILT = np.array([[1.0, 0.0], [0.36, 0.24], [0.0, 1.0]])
"""Where the three axes go on paper."""
VIEW = np.array([0.1, -1.0, 0.15])
"""Direction towards the eye."""


def block_sites(cell: Supercell, edge: float = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """Return positions, (n, 3) in lattice constants, and site numbers of a block cut out of the periodic crystal."""
    points = cell.positions / lattice_constant(cell)
    vectors = cell.cell / lattice_constant(cell)
    spans = np.linalg.norm(np.linalg.inv(vectors), axis=0)
    reach = [int(np.ceil(2 * edge * s)) + 1 if p else 0 for s, p in zip(spans, cell.lattice.pbc, strict=True)]
    shifts = np.array(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")).reshape(3, -1).T @ vectors
    everywhere = (points[:, None] + shifts).reshape(-1, 3)
    site = np.repeat(np.arange(cell.n_sites), len(shifts))
    inside = np.all((everywhere > -1e-6) & (everywhere < edge - 0.49 + 1e-6), axis=1)
    return everywhere[inside], site[inside]


def choose_samples(
    samples: xr.Dataset, labels: pd.DataFrame, references: Mapping[str, np.ndarray], phase: str, number: int
) -> tuple[np.ndarray, float, float] | None:
    """Return spins (n, n_sites) of some samples of a phase, and temperature and delta_mu of their condition.

    The condition is the hottest one at which the phase has its largest probability. None where it has no sample.
    """
    part = labels[labels["phase"] == phase]
    if not len(part) or part["probability"].max() <= 0:
        return None
    best = part[part["probability"] >= part["probability"].max() - 1e-3].sort_values("temperature")
    row = best.iloc[len(best) // 2] if phase == SOLUTION else best.iloc[-1]
    at = samples.sel(temperature=row["temperature"], delta_mu=row["delta_mu"], method="nearest")
    spins = unpack_spins(at["occupation"].values[at["valid"].values > 0], int(samples.attrs["n_sites"]))
    found, _ = classify(spins, references)
    wanted = list(references).index(phase) if phase in references else -1
    kept = spins[found == wanted]
    if not len(kept):
        return None
    chosen = np.unique(np.linspace(0, len(kept) - 1, number).astype(int))
    return kept[chosen], float(row["temperature"]), float(row["delta_mu"])


@figure_function
def plot_snapshots(
    samples: xr.Dataset,
    labels: pd.DataFrame,
    references: Mapping[str, np.ndarray],
    cell: Supercell,
    number: int = 2,
) -> tuple[Figure, pd.DataFrame]:
    """Plot some decorations of every phase that the samples hold.

    Args:
        samples: samples artefact of one method.
        labels: phases of these samples (`order_parameters.label_phases`).
        references: images by name (`order_parameters.references_of`).
        cell: the cell.
        number: decorations of each phase.

    Returns:
        The figure, and the decorations as rows: phase, temperature, delta_mu, and ``occupation``, a digit a site.
    """
    found = {}
    for phase in [*references, SOLUTION]:
        chosen = choose_samples(samples, labels, references, phase, number)
        if chosen is not None:
            found[phase] = chosen
    unit = str(samples.attrs.get("energy_unit", "eV"))
    kelvin, unit = ("K", "eV") if unit == "eV" else (unit_label(f"{unit}/k_B"), unit_label(unit))
    n = max(len(found), 1)
    figure, axes = new_figure(number, n, width=min(TWO_COLUMNS, 1.75 * n), height=1.75 * number + 0.5, squeeze=False)
    places, site = block_sites(cell)
    flat = places @ TILT
    depth = np.argsort(places @ VIEW, kind="stable")
    shade = np.ptp(places @ VIEW) or 1.0
    rows = []
    for panel in axes.ravel():
        panel.set_axis_off()
        panel.set_aspect("equal")
    for column, (phase, (spins, temperature, mu)) in enumerate(found.items()):
        axes[0][column].set_title(f"{formula_label(phase)}\n{temperature:g} {kelvin}, {mu:g} {unit}", fontsize=7)
        for panel, decoration in zip(axes[:, column], spins, strict=False):
            colours = np.where(decoration[site[depth]] > 0, ORANGE, BLUE)
            near = (places[depth] @ VIEW - (places @ VIEW).min()) / shade
            panel.scatter(
                *flat[depth].T, s=22 + 34 * near, c=colours, edgecolors="black", linewidths=0.3, alpha=1.0, zorder=2
            )
            digits = "".join("1" if s > 0 else "0" for s in decoration)
            rows.append({"phase": phase, "temperature": temperature, "delta_mu": mu, "occupation": digits})
    names = _species(samples)
    handles = [Line2D([], [], ls="", marker="o", ms=5, mec="black", mew=0.3, color=c) for c in (BLUE, ORANGE)]
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure, pd.DataFrame(rows, columns=["phase", "temperature", "delta_mu", "occupation"])


def _species(samples: xr.Dataset) -> Sequence[str]:
    return [str(s) for s in samples["species"].values]
