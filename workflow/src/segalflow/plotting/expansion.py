"""Figures of the cluster expansion: convex hull, parity, ECIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    ONE_COLUMN,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILION,
    figure_function,
    formula_label,
    new_figure,
)

MEV = 1000.0


@figure_function
def plot_hull(hull: pd.DataFrame, predictions: pd.DataFrame, x_label: str) -> tuple[Figure, pd.DataFrame]:
    """Plot formation energies against composition with the hulls of data and model.

    Args:
        hull: columns source (``data`` or ``model``), x, formation_energy (eV/atom), name.
        predictions: columns structure, x, e_data, e_model (eV/atom).
        x_label: label of the composition axis.

    Returns:
        The figure and the plotted points, energies in meV/atom.
    """
    figure, axes = new_figure(width=ONE_COLUMN, height=2.9)
    if predictions["e_data"].notna().any():
        axes.plot(
            predictions["x"], MEV * predictions["e_data"], "o", ms=3.2, mfc="none", mec=GREY, mew=0.7,
            label="calculated",
        )  # fmt: skip
    axes.plot(predictions["x"], MEV * predictions["e_model"], "x", ms=2.6, color=SKY, mew=0.8, label="expansion")
    for source, line, colour, width in (("data", "-", "black", 1.2), ("model", "--", BLUE, 1.0)):
        points = hull[hull["source"] == source].sort_values("x")
        if not len(points):
            continue
        name = "calculated" if source == "data" else "expansion"
        axes.plot(points["x"], MEV * points["formation_energy"], line, color=colour, lw=width, label=f"hull, {name}")
    sources = set(hull["source"])
    states = hull[hull["source"] == ("data" if "data" in sources else "model")].sort_values("x")
    for _, row in states.iterrows():
        if 0 < row["x"] < 1:
            axes.plot(row["x"], MEV * row["formation_energy"], "o", ms=3.2, color="black")
            axes.annotate(
                formula_label(str(row["name"])),
                (row["x"], MEV * row["formation_energy"]),
                xytext=(0, -5),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=6.5,
                bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.75},
            )
    low = min(float(predictions[["e_data", "e_model"]].min().min()), float(hull["formation_energy"].min())) * MEV
    high = float(predictions[["e_data", "e_model"]].max().max()) * MEV
    span = max(high - low, 1e-6)
    axes.set_ylim(low - 0.14 * span, high + 0.30 * span)
    axes.axhline(0, color=GREY, lw=0.5, zorder=0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel("formation energy (meV/atom)")
    axes.legend(ncols=2, loc="upper center", columnspacing=1.2)
    data = pd.concat(
        [
            pd.DataFrame(
                {
                    "series": "structure",
                    "structure": predictions["structure"],
                    "x": predictions["x"],
                    "calculated_meV": MEV * predictions["e_data"],
                    "expansion_meV": MEV * predictions["e_model"],
                }
            ),
            *(
                pd.DataFrame(
                    {
                        "series": f"hull_{source}",
                        "structure": part["structure"],
                        "x": part["x"],
                        f"{'calculated' if source == 'data' else 'expansion'}_meV": MEV * part["formation_energy"],
                    }
                )
                for source, part in hull.groupby("source")
            ),
        ],
        ignore_index=True,
    )
    return figure, data


@figure_function
def plot_parity(predictions: pd.DataFrame, metrics: Mapping[str, Any]) -> tuple[Figure, pd.DataFrame]:
    """Plot fitted and cross-validated against calculated formation energies, and their residuals.

    Args:
        predictions: columns structure, e_data, e_model, e_cv (eV/atom).
        metrics: rmse, cv (eV/atom) and cv_kind.
    """
    figure, (axes, below) = new_figure(
        2, 1, width=ONE_COLUMN, height=3.6, sharex=True, gridspec_kw={"height_ratios": [2.6, 1]}
    )
    data, model, out = (MEV * predictions[c].to_numpy(float) for c in ("e_data", "e_model", "e_cv"))
    both = np.concatenate([data[np.isfinite(data)], model, out[np.isfinite(out)]])
    pad = 0.05 * (np.ptp(both) or 1.0)
    ends = [both.min() - pad, both.max() + pad]
    axes.plot(ends, ends, "-", color=GREY, lw=0.7)
    # A published expansion has no cross-validation, and no errors where no data were given.
    if metrics.get("cv") is not None:
        kind = metrics.get("cv_kind", "")
        # A held-out test is part of the predictions: its marks lie upon theirs.
        held_out = kind.startswith("held-out")
        label = f"{kind if held_out else kind + ' cross-validation'}: {MEV * metrics['cv']:.2f} meV/atom"
        axes.plot(data, out, "o", ms=3, mfc="none", mec=ORANGE, mew=0.8, label=label, zorder=3 if held_out else 2)
    label = f"fit: {MEV * metrics['rmse']:.2f} meV/atom" if metrics["rmse"] is not None else None
    axes.plot(data, model, "o", ms=2.4, color=BLUE, label=label)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_ylabel("expansion (meV/atom)")
    if np.isfinite(data).any():
        axes.legend(loc="upper left", title="root-mean-square error", title_fontsize=6.5, alignment="left")
    else:
        axes.text(0.5, 0.5, "no calculated energies to compare with", transform=axes.transAxes, ha="center")
    below.axhline(0, color=GREY, lw=0.7)
    below.plot(data, out - data, "o", ms=3, mfc="none", mec=ORANGE, mew=0.8)
    below.plot(data, model - data, "o", ms=2.4, color=BLUE)
    below.set_xlabel("calculated formation energy (meV/atom)")
    below.set_ylabel("residual")
    return figure, pd.DataFrame(
        {"structure": predictions["structure"], "calculated_meV": data, "fit_meV": model, "cross_validated_meV": out}
    )


@figure_function
def plot_ecis(expansion: ClusterExpansion) -> tuple[Figure, pd.DataFrame]:
    """Plot multiplicity times ECI with standard errors against the size of the cluster, by number of its sites."""
    rows = [
        {
            "cluster": c.name,
            "order": c.order,
            "diameter": c.diameter,
            "multiplicity": c.multiplicity,
            "eci_meV": MEV * c.eci,
            "eci_stderr_meV": MEV * c.eci_stderr,
            "weighted_eci_meV": MEV * c.eci * c.multiplicity,
            "weighted_eci_stderr_meV": MEV * c.eci_stderr * c.multiplicity,
        }
        for c in expansion.clusters
    ]
    data = pd.DataFrame(rows)
    figure, axes = new_figure(width=TWO_COLUMNS * 0.7, height=2.6)
    names = {2: "pairs", 3: "triplets", 4: "quadruplets", 5: "quintuplets", 6: "sextuplets"}
    looks = {2: (BLUE, "o"), 3: (VERMILION, "s"), 4: (GREEN, "^"), 5: (PURPLE, "D"), 6: (ORANGE, "v")}
    axes.axhline(0, color=GREY, lw=0.7, zorder=0)
    many = data[data["order"] >= 2]
    orders = sorted(many["order"].unique())
    for order in orders:
        part = many[many["order"] == order]
        colour, marker = looks.get(int(order), (GREY, "*"))
        # Clusters of one size are set apart by their number of sites, so that error bars do not hide each other.
        shift = 0.03 * (order - np.mean(orders))
        error = part["weighted_eci_stderr_meV"].fillna(0.0)
        axes.errorbar(
            part["diameter"] + shift,
            part["weighted_eci_meV"],
            yerr=error if error.any() else None,
            fmt=marker,
            color=colour,
            ms=3.5,
            lw=0.9,
            label=names.get(int(order), f"{int(order)} sites"),
        )
    axes.set_xlabel("cluster diameter (Å)")
    axes.set_ylabel("multiplicity × ECI (meV/site)")
    if len(orders):
        axes.legend(loc="best")
    return figure, data


@figure_function
def plot_learning_curve(curve: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Plot the error on unseen structures, with its spread over random choices, against the number fitted.

    Args:
        curve: kind (``subset``, or ``cross-validation`` of the fit to all), n_structures, rmse_train, rmse_test,
            rmse_test_std (eV/atom).

    Returns:
        The figure and its data, energies in meV/atom.
    """
    data = curve[["kind", "n_structures"]].copy()
    for column in ("rmse_train", "rmse_test", "rmse_test_std", "rmse_test_stderr"):
        data[f"{column}_meV"] = MEV * curve[column].astype(float)
    figure, axes = new_figure(width=ONE_COLUMN, height=2.6)
    part = data[data["kind"] == "subset"]
    n, test, spread = (part[c].to_numpy(float) for c in ("n_structures", "rmse_test_meV", "rmse_test_std_meV"))
    axes.plot(n, test, "-o", ms=3, color=ORANGE, label="unseen structures")
    axes.fill_between(n, np.maximum(test - spread, 0), test + spread, color=ORANGE, alpha=0.2, lw=0)
    axes.plot(n, part["rmse_train_meV"], "-s", ms=3, color=BLUE, label="fitted structures")
    whole = data[data["kind"] == "cross-validation"]
    axes.plot(whole["n_structures"], whole["rmse_test_meV"], "D", ms=4, color=VERMILION, label="cross-validation")
    axes.set_ylim(0, 1.15 * float(np.nanmax([*(test + spread), *whole["rmse_test_meV"], 1e-6])))
    axes.set_xlabel("structures fitted")
    axes.set_ylabel("root-mean-square error (meV/atom)")
    axes.legend()
    return figure, data


@figure_function
def plot_active_learning(runs: pd.DataFrame, target: float) -> tuple[Figure, pd.DataFrame]:
    """Plot error and found hulls against calculations for active and random choices.

    Args:
        runs: one row a round: strategy (``active`` or ``random``), seed, n_calculations, rmse_all (eV/atom, over all
            structures) and hull_found (whether the data's hull is that of all structures).
        target: cross-validation error of the fit to all structures, eV/atom.

    Returns:
        The figure and its data: mean error, its standard deviation over seeds, and share of runs with the hull.
    """
    summary = (
        runs.groupby(["strategy", "n_calculations"])
        .agg(
            rmse_meV=("rmse_all", lambda v: MEV * v.mean()),
            rmse_std_meV=("rmse_all", lambda v: MEV * v.std()),
            hull_share=("hull_found", "mean"),
        )
        .reset_index()
    )
    figure, (axes, below) = new_figure(
        2, 1, width=ONE_COLUMN, height=3.4, sharex=True, gridspec_kw={"height_ratios": [1.6, 1]}
    )
    for strategy, colour, marker in (("active", BLUE, "o"), ("random", ORANGE, "s")):
        part = summary[summary["strategy"] == strategy]
        n, mean, spread = (part[c].to_numpy(float) for c in ("n_calculations", "rmse_meV", "rmse_std_meV"))
        axes.plot(n, mean, "-", marker=marker, ms=3, color=colour, label=strategy)
        axes.fill_between(n, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
        below.plot(n, part["hull_share"], "-", marker=marker, ms=3, color=colour)
    axes.axhline(MEV * target, color=GREY, lw=0.8, ls="--", label="cross-validation, all structures")
    axes.set_ylabel("error (meV/atom)")
    axes.legend()
    below.set_ylim(-0.05, 1.05)
    below.set_ylabel("hull found (share)")
    below.set_xlabel("calculations")
    return figure, summary


@figure_function
def plot_generations(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Plot the errors of the fit and what it still puts below the hull against the number of calculations.

    Args:
        table: one row a generation (`segalflow.expansion.generations.generations_table`).

    Returns:
        The figure and its data, energies in meV/atom.
    """
    data = table[["generation", "n_calculations", "n_structures"]].copy()
    for column in ("cv", "rmse", "worst_violation", "largest_stderr"):
        data[f"{column}_meV"] = MEV * table[column]
    data["new_ground_states"] = table["new_ground_states"].fillna("")
    figure, (axes, below) = new_figure(
        2, 1, width=ONE_COLUMN, height=3.4, sharex=True, gridspec_kw={"height_ratios": [1.6, 1]}
    )
    n = data["n_calculations"]
    axes.plot(n, data["cv_meV"], "-o", ms=3, color=ORANGE, label="cross-validation")
    axes.plot(n, data["rmse_meV"], "-s", ms=3, color=BLUE, label="fit")
    axes.plot(n, data["largest_stderr_meV"], "--^", ms=3, color=GREY, label="least certain candidate")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("error (meV/atom)")
    axes.legend()
    below.plot(n, data["worst_violation_meV"], "-o", ms=3, color=VERMILION, label="lowest candidate")
    found = [len(text.split("; ")) if text else 0 for text in data["new_ground_states"]]
    top = max(float(data["worst_violation_meV"].max()), 1.0)
    for at, height, number in zip(n, data["worst_violation_meV"], found, strict=True):
        if number:
            below.annotate(f"+{number}", (at, height), xytext=(3, 4), textcoords="offset points", fontsize=6.5)
    below.set_ylim(-0.05 * top, 1.3 * top)
    below.set_ylabel("below the hull\n(meV/atom)")
    below.set_xlabel("calculations")
    return figure, data
