"""The summary page: what was done, on what data, how sure each number is, and what the energies get wrong.

Everything on the page is read from the study's files; nothing is computed here but counts and quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import xarray as xr

from segalflow.artefacts import atomic_path
from segalflow.ensemble import lower_ness

METHOD_NAMES = {
    "snis": "importance sampling from SEGAL",
    "metropolis": "Metropolis Monte Carlo",
    "metadynamics": "metadynamics in composition",
    "canonical": "canonical chains at every composition",
    "vcsgc": "variance-constrained semi-grand-canonical chains",
    "scan": "scans up and down",
    "wang_landau": "Wang-Landau sampling",
    "exact": "exact enumeration",
}


@dataclass
class Table:
    """A table of the page, already formatted."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """A titled part of the page."""

    title: str
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # (path beside the page, text)


def _number(value: Any, digits: int = 3) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def describe_data(
    calculation: str, engine: str, faults: Sequence[str], manifest: pd.DataFrame, excluded: pd.DataFrame
) -> Section:
    """Return the section on structures and energies.

    Args:
        calculation: name of the calculation settings.
        engine: name of the energy engine.
        faults: sentences on what the engine is known to get wrong for these elements.
        manifest: the pool, one row a structure.
        excluded: calculations left out, with column ``reason``.
    """
    section = Section("Data")
    section.sentences.append(
        f"{len(manifest)} symmetry-distinct structures of up to {int(manifest['n_atoms'].max())} atoms were calculated "
        f"with the engine '{engine}' (settings '{calculation}'); {len(manifest) - len(excluded)} are used, "
        f"{len(excluded)} are excluded."
    )
    if len(excluded):
        # What differs from one to the next (a strain, a force) stands behind the colon.
        reasons = excluded["reason"].astype(str).str.split(":").str[0].value_counts()
        section.tables.append(
            Table(
                "Excluded calculations by reason",
                ["reason", "calculations"],
                [[str(r), str(n)] for r, n in reasons.items()],
            )
        )
    section.warnings.extend(faults)
    return section


def _undecided(hull: pd.DataFrame, predictions: pd.DataFrame) -> list[str]:
    """Sentences on ground states that the expansion's own errors cannot tell from the next structure at their x."""
    sentences = []
    model = hull[(hull["source"] == "model") & (hull["x"] > 0) & (hull["x"] < 1)]
    for _, state in model.iterrows():
        rivals = predictions[np.isclose(predictions["x"], state["x"])].sort_values("e_model")
        if len(rivals) < 2:
            continue
        first, second = rivals.iloc[0], rivals.iloc[1]
        apart = second["e_model"] - first["e_model"]
        error = max(first["e_model_stderr"], second["e_model_stderr"])
        if apart < error:
            sentences.append(
                f"At x = {state['x']:.3f} the expansion puts {first['name']} {1000 * apart:.1f} meV/atom below "
                f"{second['name']}, less than the standard error of either energy ({1000 * error:.1f} meV/atom): "
                "it cannot tell which of them is the ground state."
            )
    return sentences


def _fit_sentence(metrics: Mapping[str, Any]) -> str:
    return (
        f"{metrics['n_parameters']} clusters fitted to {metrics['n_structures']} structures by {metrics['method']}: "
        f"root-mean-square error {1000 * metrics['rmse']:.2f} meV/atom, cross-validation ({metrics['cv_kind']}) "
        f"{1000 * metrics['cv']:.2f} meV/atom (near the hull {1000 * metrics['rmse_near_hull']:.2f} and "
        f"{1000 * metrics['cv_near_hull']:.2f}). The penalty and the weights were chosen with the same data, so the "
        "cross-validation error is somewhat optimistic."
    )


def _graph_sentence(metrics: Mapping[str, Any]) -> str:
    mae = ", ".join(
        f"{1000 * metrics[f'{part}_mae']:.2f} ({what})"
        for part, what in (("train", "training"), ("validation", "validation"), ("test", "test"))
    )
    return (
        f"A crystal-graph network of {metrics['n_parameters']} parameters, trained on {metrics['n_structures']} "
        f"structures: mean absolute error {mae} meV/atom. The epoch, {metrics['best_epoch']} of {metrics['epochs']}, "
        "was chosen by the validation part; the test part was looked at once, at the end."
    )


def describe_expansion(name: str, metrics: Mapping[str, Any], hull: pd.DataFrame, predictions: pd.DataFrame) -> Section:
    """Return the section on one cluster expansion and its ground states."""
    section = Section(f"Cluster expansion '{name}'")
    if metrics["method"] == "published":
        section.sentences.append(f"{metrics['n_parameters']} clusters, imported as published.")
    elif metrics["method"] == "crystal_graph":
        section.title = f"Crystal-graph network '{name}'"
        section.sentences.append(_graph_sentence(metrics))
    else:
        section.sentences.append(_fit_sentence(metrics))
    section.warnings.extend(_undecided(hull, predictions))
    if metrics["hull_violations"]:
        section.warnings.append(
            f"{metrics['hull_violations']} structure(s) change their place on the hull between data and expansion."
        )
    rows = [
        [str(r["name"]), str(r["space_group"]), _number(float(r["x"])), _number(1000 * float(r["formation_energy"]), 2)]
        for _, r in hull[hull["source"] == "model"].sort_values("x").iterrows()
    ]
    section.tables.append(
        Table("Ground states of the expansion", ["structure", "space group", "x", "formation energy (meV/atom)"], rows)
    )
    return section


def describe_generations(name: str, table: pd.DataFrame) -> Section:
    """Return the section on active learning, from the table of generations of one expansion."""
    section = Section(f"Active learning for '{name}'")
    first, last = table.iloc[0], table.iloc[-1]
    section.sentences.append(
        f"{first['n_calculations']} structures to begin with and {last['n_calculations'] - first['n_calculations']} "
        f"in {len(table) - 1} generations that the fit asked for: cross-validation from {1000 * first['cv']:.2f} to "
        f"{1000 * last['cv']:.2f} meV/atom."
    )
    if last["settled"]:
        section.sentences.append("Hull and cross-validation have settled: the fit asks for nothing more.")
    else:
        section.warnings.append(
            f"After {len(table) - 1} generations hull and cross-validation have not settled (settings: proposals); "
            "more of them can be asked for with structures.generations, and nothing is calculated twice."
        )
    if last["n_below_hull"]:
        section.warnings.append(
            f"The expansion puts {last['n_below_hull']} structure(s) that were not calculated below the hull, the "
            f"lowest by {1000 * last['worst_violation']:.1f} meV/atom ({last['worst_structure']})."
        )
    rows = [
        [
            str(row["generation"]),
            str(row["n_new"]),
            str(row["n_calculations"]),
            f"{1000 * row['cv']:.2f}",
            f"{1000 * row['rmse']:.2f}",
            f"{1000 * row['worst_violation']:.2f}",
            row["new_ground_states"] if isinstance(row["new_ground_states"], str) else "",
        ]
        for _, row in table.iterrows()
    ]
    columns = ["generation", "new", "calculations", "cross-validation", "RMSE", "worst violation", "new ground states"]
    section.tables.append(Table("Generations of calculations (energies in meV/atom)", columns, rows))
    return section


def describe_model(name: str, content: Mapping[str, Any]) -> Section:
    """Return the section on a Hamiltonian given by its parameters, from the content of its model file."""
    section = Section(f"Model '{name}'")
    given = ", ".join(f"{key} = {value}" for key, value in content["parameters"].items())
    unit = content["energy_unit"]
    section.sentences.append(
        f"The model '{content['kind']}' with {given}"
        + ("." if unit == "eV" else f"; energies in {unit}, temperatures in {unit}/k_B.")
    )
    return section


def describe_cells(cells: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section on the sampled cells, from the contents of their files."""
    section = Section("Cells")
    rows = [
        [c["name"], str(c["n_sites"]), str(c["n_operations"]), str(c["lattice"]["name"])]
        for c in sorted(cells, key=lambda c: c["n_sites"])
    ]
    section.tables.append(Table("Cells sampled", ["cell", "sites", "symmetry operations", "lattice"], rows))
    for cell in cells:
        section.warnings.extend(cell["warnings"])
    return section


def describe_samplers(samplers: Mapping[str, Mapping[str, Any]], seed: int) -> Section:
    """Return the section on SEGAL's training, from the descriptions of its samplers by cell."""
    section = Section("SEGAL")
    rows = [
        [
            cell,
            f"{s['network']['kind']}, {s['n_parameters']} parameters",
            str(s["training"]["objective"]),
            str(s["steps"]),
            f"{s['energy_evaluations']:.2e}",
            _number(s["final_ness"]),
        ]
        for cell, s in samplers.items()
    ]
    columns = ["cell", "network", "objective", "steps", "energy evaluations", "NESS at the end (median)"]
    section.tables.append(Table("Training of the autoregressive sampler", columns, rows))
    versions = {k: v for s in samplers.values() for k, v in s["versions"].items()}
    section.sentences.append(
        "The network gives the exact probability of every decoration it draws, so importance weights correct whatever "
        f"it learnt imperfectly. All random draws come from the study's seed {seed}; made with "
        f"{', '.join(f'{k} {v}' for k, v in versions.items())}."
    )
    return section


def describe_ensembles(tables: Sequence[xr.Dataset]) -> Section:
    """Return the section on what every method did: conditions, reliability, NESS, cost."""
    section = Section("Ensembles")
    rows = []
    for table in tables:
        reliable = float(table["reliable"].mean())
        ness = lower_ness(table).ravel() if "ness" in table else None
        rows.append(
            [
                f"{table.attrs['cell']}: {METHOD_NAMES.get(table.attrs['method'], table.attrs['method'])}",
                f"{table.sizes['temperature']} × {table.sizes['delta_mu']}",
                f"{100 * reliable:.1f} %",
                "–" if ness is None else " / ".join(f"{v:.3f}" for v in np.percentile(ness, [0, 5, 50])),
                f"{float(table['energy_evaluations'].sum()):.2e}",
            ]
        )
    columns = ["cell and method", "conditions", "reliable", "NESS min / 5 % / median", "energy evaluations"]
    section.tables.append(Table("Sweeps over temperature × chemical potential", columns, rows))
    section.sentences.append(
        "'Reliable' is the share of conditions whose estimate passed its method's own test (effective sample size, "
        "agreement of chains from both sides, flatness). NESS is the lower of the q side (the sampler's own draws) and "
        "the p side (decorations of replica-exchange chains that never saw the network). Others are drawn with open "
        "symbols and never used silently."
    )
    return section


def describe_agreement(summary: pd.DataFrame) -> Section:
    """Return the section on the agreement of methods (rows of `summarise_comparison`, away from jumps)."""
    section = Section("Agreement of the methods")
    rows = [
        [
            f"{r['cell']}: {r['method_a']} – {r['method_b']}",
            str(r["variable"]),
            str(int(r["n"])),
            f"{100 * float(r['fraction_within_3']):.1f} %",
            _number(float(r["rms_z"]), 2),
        ]
        for _, r in summary[summary["selection"] == "away_from_jumps"].iterrows()
    ]
    columns = ["cell and methods", "quantity", "conditions", "within 3 errors", "rms z"]
    section.tables.append(Table("Reliable conditions away from first-order jumps", columns, rows))
    section.sentences.append(
        "For calibrated errors 99.7 % of differences are within three combined errors and rms z is 1."
    )
    return section


def describe_boundaries(boundaries: pd.DataFrame, notes: Mapping[str, Sequence[str]]) -> Section:
    """Return the section on phase boundaries: each line's range and top, and what the criteria had to say."""
    section = Section("Phase boundaries")
    section.links.append(("phases/diagram.html", "phases/diagram.html: every point with its numbers, to zoom in"))
    rows = []
    for (criterion, method, cell, line), part in boundaries.groupby(["criterion", "method", "cell", "boundary"]):
        top = part.loc[part["temperature"].idxmax()]
        phases = " + ".join(p for p in (top["left_phase"], top["right_phase"]) if p) or "–"
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
    kinds = {"eutectoid": "three-phase", "peritectoid": "three-phase"}
    counts = table["kind"].map(lambda kind: kinds.get(kind, kind)).value_counts()
    parts = [f"{kind} {counts[kind]}" for kind in ("three-phase", "congruent", "critical") if kind in counts]
    section.sentences.append(
        f"Points found over all criteria and methods: {', '.join(parts)}."
        if parts
        else "No three-phase, congruent or critical point in this window."
    )
    rows = [
        [
            f"{row['kind']}: {row['criterion']} {row['boundaries']}, {row['method']} ({row['cell']})",
            _text(row["phases"]) or "–",
            f"{row['temperature']:.4g} ({row['temperature_low']:.4g}–{row['temperature_high']:.4g})",
            " / ".join(f"{x:.3f}" for x in dict.fromkeys([row["x_left"], row["x"], row["x_right"]])),
            f"{row['delta_mu']:.4f}",
            _text(row["note"]),
        ]
        for _, row in table.iterrows()
    ]
    if rows:
        columns = ["kind, criterion, lines and method", "phases", "temperature (interval)", "x", "delta_mu", "note"]
        section.tables.append(Table("Invariant points of the diagram", columns, rows))
    section.sentences.extend(notes)
    return section


def _text(value: Any) -> str:
    """A text cell of a table read from CSV, where empty ones are NaN."""
    return value if isinstance(value, str) else ""


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
        named = " and ".join([f"{worst['criterion']} of {worst['method']}", *beside])
        sentence = (
            f"{words[0].upper()}{words[1:]}: {int(held.sum())} of {len(part)} comparisons ({100 * held.mean():.0f} %) "
            f"hold within 95 % intervals; the farthest is {worst['quantity']} at {worst['temperature']:g} "
            f"({named}, {worst['cell']}, line {worst['boundary']}): {worst['value']:.4g} ± {worst['value_stderr']:.2g} "
            f"against {worst['other_value']:.4g} ± {worst['other_stderr']:.2g}, z = {worst['z']:.1f}."
        )
        (section.warnings if held.mean() < 0.9 else section.sentences).append(sentence)
        keys = ["cell", "criterion", "method", "other_criterion", "other_method"]
        for (cell, criterion, method, other_criterion, other_method), same in part.groupby(keys, sort=True):
            other = f" – {other_criterion}, {other_method}" if other_method else ""
            z = same["z"].to_numpy(float)
            rows.append(
                [
                    f"{check}: {criterion}, {method}{other} ({cell})",
                    str(len(z)),
                    f"{100 * np.mean(np.abs(z) <= WITHIN):.0f} %",
                    _number(float(np.sqrt(np.mean(z**2))), 2),
                    _number(float(z[np.abs(z).argmax()]), 1),
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


def write_summary(
    path: str | Path,
    template: str | Path,
    study: str,
    lattice: str,
    species: Sequence[str],
    sections: Sequence[Section],
) -> None:
    """Render the summary page from its template."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(Path(template).read_text(encoding="utf-8")).render(
        study=study, lattice=lattice, species=list(species), sections=list(sections)
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
