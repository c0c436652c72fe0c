"""Sections on phase boundaries: lines, invariant points, consistency, solid solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from segalflow.phases.leading import CONVEXITY
from segalflow.reporting.page import METHOD_NAMES, Section, Table, formatted, text_or_empty


def no_boundaries(species: Sequence[str]) -> Section:
    """Return the section that stands in for boundaries where nothing looks for them."""
    section = Section("Phase boundaries")
    section.sentences.append(
        f"Phase boundaries, invariants and CALPHAD files are made between two species; this study has {len(species)} "
        f"({', '.join(species)}), so none are looked for: its results are the ensemble tables over all chemical "
        "potentials."
    )
    return section


def describe_boundaries(boundaries: pd.DataFrame, notes: Mapping[str, Sequence[str]]) -> Section:
    """Return the section on phase boundaries: each line's range and top, and what the criteria had to say."""
    section = Section("Phase boundaries")
    section.links.append(("phases/diagram.html", "phases/diagram.html: every point with its numbers, to zoom in"))
    rows = []
    for (criterion, method, cell, line), part in boundaries.groupby(["criterion", "method", "cell", "boundary"]):
        top = part.loc[part["temperature"].idxmax()]
        # Tops have no names; a line whose phases change (at a three-phase point) has several pairs.
        pairs = [" + ".join(p for p in pair if p) for pair in part[["left_phase", "right_phase"]].to_numpy(str)]
        phases = ", then ".join(dict.fromkeys(p for p in pairs if p)) or "–"
        rows.append(
            [
                f"{criterion} {line}, {method} ({cell})",
                phases,
                str(len(part)),
                f"{part['temperature'].min():.0f}–{part['temperature'].max():.0f}",
                f"{top['temperature']:.0f} ({top['temperature_low']:.0f}–{top['temperature_high']:.0f})",
                f"{top['x_left']:.3f}–{top['x_right']:.3f}",
            ]
        )
    columns = ["criterion, line and method", "phases", "points", "T (K)", "highest T (K, interval)", "x there"]
    section.tables.append(Table("Boundary lines", columns, rows))
    for criterion, sentences in notes.items():
        section.sentences.extend(f"{criterion}: {sentence}" for sentence in sentences)
    return section


def describe_invariants(table: pd.DataFrame, cuts: Sequence[str], notes: Sequence[str]) -> Section:
    """Return the section on invariant points and on what the window cuts off.

    Args:
        table: invariant points (`segalflow.phases.invariants.COLUMNS`).
        cuts: sentences on lines that the window cuts off.
        notes: sentences on where there is no boundary, and what lies outside the window.
    """
    section = Section("Invariant points", warnings=list(cuts))
    kinds = {"eutectoid": "three-phase", "peritectoid": "three-phase", "order_disorder": "order-disorder top"}
    counts = table["kind"].map(lambda kind: kinds.get(kind, kind)).value_counts()
    order = ("three-phase", "congruent", "order-disorder top", "critical")
    parts = [f"{kind} {counts[kind]}" for kind in order if kind in counts]
    section.sentences.append(
        f"Points found over all criteria and methods: {', '.join(parts)}."
        if parts
        else "No three-phase, congruent or critical point in this window."
    )
    rows = [
        [
            f"{row['kind']}: {row['criterion']} {row['boundaries']}, {row['method']} ({row['cell']})",
            text_or_empty(row["phases"]) or "–",
            f"{row['temperature']:.4g} ({row['temperature_low']:.4g}–{row['temperature_high']:.4g})",
            " / ".join(f"{x:.3f}" for x in dict.fromkeys([row["x_left"], row["x"], row["x_right"]])),
            f"{row['delta_mu']:.4f}",
            text_or_empty(row["note"]),
        ]
        for _, row in table.iterrows()
    ]
    if rows:
        columns = ["kind, criterion, lines and method", "phases", "temperature (interval)", "x", "delta_mu", "note"]
        section.tables.append(Table("Invariant points of the diagram", columns, rows))
    section.sentences.extend(_disputed_tops(table))
    section.sentences.extend(notes)
    return section


def _disputed_tops(table: pd.DataFrame) -> list[str]:
    """Sentences on critical points at which criteria disagree: that of the common tangent leads."""
    critical = table[table["kind"] == "critical"]
    sentences = []
    for _, lead in critical[critical["criterion"] == CONVEXITY].iterrows():
        others = critical[
            (critical["cell"] == lead["cell"])
            & (critical["method"] == lead["method"])
            & (critical["criterion"] != CONVEXITY)
            & ((critical["x"] - lead["x"]).abs() <= SAME_TOP)
        ]
        apart = others[
            (others["temperature_low"] > lead["temperature_high"])
            | (others["temperature_high"] < lead["temperature_low"])
        ]
        if len(apart):
            said = ", ".join(f"{r['temperature']:.4g} by {r['criterion']}" for _, r in apart.iterrows())
            sentences.append(
                f"Top of the gap at x = {lead['x']:.3f} ({lead['method']}, {lead['cell']}): {lead['temperature']:.4g} "
                f"({lead['temperature_low']:.4g}–{lead['temperature_high']:.4g}) by {CONVEXITY}, which leads, against "
                f"{said}; jumps and peaks of a finite cell fade before its gap closes."
            )
    return sentences


def describe_sizes(table: pd.DataFrame) -> Section:
    """Return the section on finite-size series.

    Args:
        table: `segalflow.phases.finite_size.finite_size_series`.
    """
    section = Section("Infinite crystal")
    section.links.append(("figures/finite_size.svg", "figure: temperatures against the size of the cell"))
    section.links.append(("phases/finite_size.csv", "phases/finite_size.csv: every series"))
    if not len(table):
        section.sentences.append("No invariant point is seen by one criterion and method in cells of several sizes.")
        return section
    section.sentences.append(
        "Invariant temperatures of cells of several sizes are linear in 1/N at transitions of first order and in "
        "N^(-1/(d nu)) of the Ising class at continuous ones, and are extrapolated to infinite N."
    )
    two = int((table["degrees_of_freedom"] == 0).sum())
    if two:
        section.sentences.append(
            f"{two} of {len(table)} series have two sizes: nothing tests their law, and half of the step from the "
            "larger cell is in the error."
        )
    misfit = table[(table["degrees_of_freedom"] > 0) & (table["chi2"] > MISFIT * table["degrees_of_freedom"])]
    section.warnings.extend(
        f"{row['kind']} at x = {row['x']:.3f} by {row['criterion']}, {row['method']} ({row['expansion']}): the sizes "
        f"scatter about their law by more than their errors (chi^2 {row['chi2']:.3g} for "
        f"{row['degrees_of_freedom']} degrees of freedom); the error is widened by that."
        for _, row in misfit.iterrows()
    )
    rows = [
        [
            f"{row['kind']}: {row['criterion']}, {row['method']} ({row['expansion']})",
            text_or_empty(row["phases"]) or "–",
            f"{row['x']:.3f}",
            " / ".join(f"{float(t):.4g}" for t in str(row["temperatures"]).split()),
            " / ".join(str(row["sizes"]).split()),
            f"{row['exponent']:g}",
            f"{row['temperature']:.4g} ± {LEVEL_95 * row['temperature_stderr']:.2g}",
            text_or_empty(row["note"]),
        ]
        for _, row in table.iterrows()
    ]
    columns = ["kind, criterion and method", "phases", "x", "temperatures", "sites", "exponent",
               "infinite crystal (95 %)", "note"]  # fmt: skip
    section.tables.append(Table("Finite-size series", columns, rows))
    return section


MISFIT = 4.0
"""chi^2 per degree of freedom from which on a series is said to miss its law."""
LEVEL_95 = 1.96
"""Standard errors of a 95 % interval."""
SAME_TOP = 0.1
"""Largest distance in x of two tops of one gap."""
WITHIN = 1.96
"""Errors within which 95 % of calibrated differences lie."""


def describe_consistency(table: pd.DataFrame, checks: Mapping[str, str], notes: Sequence[str]) -> Section:
    """Return the section on the boundaries' consistency: how many comparisons hold, and the farthest of each check.

    Args:
        table: comparisons (`segalflow.phases.consistency.COLUMNS`).
        checks: what each check compares, in words.
        notes: sentences on what could not be compared.
    """
    section = Section("Consistency of the boundaries")
    rows = []
    for check, words in checks.items():
        part = table[table["check"] == check]
        if not len(part):
            section.sentences.append(f"{words[0].upper()}{words[1:]}: nothing to compare.")
            continue
        held = part["z"].abs() <= WITHIN
        worst = part.loc[part["z"].abs().idxmax()]
        beside = [f"{worst['other_criterion']} of {worst['other_method']}"] if worst["other_method"] else []
        criterion = f"{worst['criterion']} of " if worst["criterion"] else ""
        named = " and ".join([f"{criterion}{worst['method']}", *beside])
        line = f", line {worst['boundary']}" if str(worst["boundary"]) else ""
        at = f" at {worst['temperature']:g}" if np.isfinite(worst["temperature"]) else f" {worst['note']}"
        sentence = (
            f"{words[0].upper()}{words[1:]}: {int(held.sum())} of {len(part)} comparisons ({100 * held.mean():.0f} %) "
            f"hold within 95 % intervals; the farthest is {worst['quantity']}{at} "
            f"({named}, {worst['cell']}{line}): {worst['value']:.4g} ± {worst['value_stderr']:.2g} "
            f"against {worst['other_value']:.4g} ± {worst['other_stderr']:.2g}, z = {worst['z']:.1f}."
        )
        (section.warnings if held.mean() < 0.9 else section.sentences).append(sentence)
        keys = ["cell", "criterion", "method", "other_criterion", "other_method"]
        for (cell, criterion, method, other_criterion, other_method), same in part.groupby(keys, sort=True):
            other = f" – {other_criterion}, {other_method}" if other_method else ""
            z = same["z"].to_numpy(float)
            rows.append(
                [
                    f"{check}: {', '.join(filter(None, (criterion, method)))}{other} ({cell})",
                    str(len(z)),
                    f"{100 * np.mean(np.abs(z) <= WITHIN):.0f} %",
                    formatted(float(np.sqrt(np.mean(z**2))), 2),
                    formatted(float(z[np.abs(z).argmax()]), 1),
                ]
            )
    if rows:
        columns = ["check, criterion and method", "comparisons", "within 95 %", "rms z", "farthest z"]
        section.tables.append(Table("Boundaries against thermodynamics and each other", columns, rows))
    section.sentences.extend(notes)
    return section


def describe_solutions(fits: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the section on the solid solutions written for CALPHAD codes, from the files beside them; none without."""
    if not fits:
        return []
    section = Section("Solid solution for CALPHAD")
    section.sentences.append(
        "Redlich-Kister fits of the configurational free energy of mixing, pure elements on this lattice being zero; "
        "ordered phases are left out. The files phases/<cell>_<method>.tdb can be loaded by pycalphad and its like."
    )
    rows = []
    for fit in fits:
        name = f"{fit['cell']}: {METHOD_NAMES.get(fit['method'], fit['method'])}"
        if fit["refused"]:
            section.warnings.append(f"There is no fit for {name}: {fit['refused']}.")
            continue
        rows.append(
            [
                name,
                " – ".join(f"{value:g}" for value in fit["temperature"]),
                f"{len(fit['coefficients_J_per_mol']) - 1} and {len(fit['temperature_functions'])}",
                str(fit["points"]),
                f"{1000 * fit['max_misfit']:.3f} / {1000 * fit['rms_misfit']:.3f}",
                f"{1000 * fit['rms_stderr']:.3f}",
            ]
        )
    if rows:
        columns = ["cell and method", "T (K)", "order and temperature functions", "points",
                   "misfit max / rms (meV/atom)", "rms error of the points (meV/atom)"]  # fmt: skip
        section.tables.append(Table("Redlich-Kister fits", columns, rows))
    return [section]
