"""Sections on structures, energies and Hamiltonians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from segalflow.dft.missing import ABSENT, kind_of_reason
from segalflow.reporting.page import Section, Table, formatted


def describe_data(
    calculation: str, engine: str, faults: Sequence[str], dataset: pd.DataFrame, missing: pd.DataFrame
) -> Section:
    """Return the section on structures and energies.

    Args:
        calculation: name of the calculation settings.
        engine: name of the energy engine.
        faults: sentences on what the engine is known to get wrong for these elements.
        dataset: usable structures, with column ``n_atoms``.
        missing: what has no usable energy (`segalflow.dft.missing.missing_structures`).
    """
    section = Section(f"Data of '{calculation}'")
    rejected, absent = missing[missing["status"] != ABSENT], missing[missing["status"] == ABSENT]
    section.sentences.append(
        f"{len(dataset)} symmetry-distinct structures of up to {int(dataset['n_atoms'].max())} atoms have energies of "
        f"the engine '{engine}'; {len(rejected)} calculations or entries are excluded"
        + (", each a row of missing.csv with its reason and file." if len(rejected) else ".")
    )
    if len(absent):
        section.sentences.append(
            f"Of the pool's structures of up to {int(absent['n_atoms'].max())} atoms, {len(absent)} have no run or "
            "entry (status 'absent')."
        )
    if len(missing):
        counts = missing.assign(kind=missing["reason"].map(kind_of_reason)).groupby(["status", "kind"]).size()
        rows = [[kind, status, str(n)] for (status, kind), n in counts.sort_values(ascending=False).items()]
        section.tables.append(Table("Missing energies by reason", ["reason", "status", "number"], rows))
        section.links.append((f"dft/{calculation}/missing.csv", "missing.csv: every reason and file"))
    section.links.append((f"figures/missing_{calculation}.svg", "figure: used and missing by composition"))
    section.warnings.extend(faults)
    return section


def _undecided(hull: pd.DataFrame, predictions: pd.DataFrame) -> list[str]:
    """Sentences on ground states that the expansion's own errors cannot tell from the next structure at their x."""
    sentences = []
    model = hull[(hull["source"] == "model") & (hull["x"] > 0) & (hull["x"] < 1)]
    fractions = [name for name in predictions if name == "x" or name.startswith("x_")]
    for _, state in model.iterrows():
        same = np.isclose(predictions[fractions], state[fractions].to_numpy(float)).all(axis=1)
        rivals = predictions[same].sort_values("e_model")
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
        [
            str(r["name"]),
            str(r["space_group"]),
            formatted(float(r["x"])),
            formatted(1000 * float(r["formation_energy"]), 2),
        ]
        for _, r in hull[hull["source"] == "model"].sort_values("x").iterrows()
    ]
    section.tables.append(
        Table("Ground states of the expansion", ["structure", "space group", "x", "formation energy (meV/atom)"], rows)
    )
    return section


def add_learning_curve(section: Section, curve: pd.DataFrame) -> None:
    """Add the learning curve of a fit to its section: what more structures would bring."""
    part = curve[curve["kind"] == "subset"]
    if not len(part):
        section.sentences.append("Too few structures for a learning curve.")
        return
    rows = [
        [
            str(int(row["n_structures"])),
            formatted(1000 * float(row["rmse_train"]), 2),
            f"{1000 * row['rmse_test']:.2f} ± {1000 * row['rmse_test_std']:.2f}",
        ]
        for _, row in part.iterrows()
    ]
    columns = ["structures fitted", "error on them", "error on the others (mean ± spread)"]
    section.tables.append(Table("Learning curve (root-mean-square errors in meV/atom)", columns, rows))
    if len(part) < 2:
        return
    before, last = part.iloc[-2], part.iloc[-1]
    drop = before["rmse_test"] - last["rmse_test"]
    noise = float(np.hypot(before["rmse_test_stderr"], last["rmse_test_stderr"]))
    falls = drop > 2 * noise and drop > 0.05 * before["rmse_test"]
    section.sentences.append(
        f"Learning curve: with {before['n_structures']:.0f} structures the error on unseen ones is "
        f"{1000 * before['rmse_test']:.2f} meV/atom, with {last['n_structures']:.0f} {1000 * last['rmse_test']:.2f}: "
        + ("it still falls, and more structures would help." if falls else "more of the same kind would help little.")
    )


def add_found_states(section: Section, states: pd.DataFrame) -> None:
    """Add to the section of a fit what its search for ground states put below the hull of the data.

    Args:
        section: the fit's.
        states: `segalflow.sampling.ground_states.GroundStateSearch.states`.
    """
    new = states[~states["known"].astype(bool) & (states["below_hull"] > 0)]
    vain = new["excluded"].fillna("").astype(str)
    for status, rows in new[vain != ""].groupby(vain):
        section.warnings.append(
            f"The expansion puts {', '.join(rows['name'])} below the hull of the data, whose own calculation counts as "
            f"{status} (see missing.csv): nothing holds the expansion there, and the diagram beside it is in doubt."
        )
    new = new[vain == ""]
    if not len(new):
        section.sentences.append(
            "The search for ground states found nothing " + ("else " if (vain != "").any() else "") + "below the hull "
            "of the data."
        )
        return
    lowest = new.loc[new["below_hull"].idxmax()]
    error = lowest["energy_stderr"]
    section.warnings.append(
        f"The search for ground states puts {len(new)} state(s) that are not in the data below their hull, the "
        f"lowest by {1000 * lowest['below_hull']:.2f} meV/atom ({lowest['name']}, {lowest['n_atoms']} atoms"
        + (f", standard error of its energy {1000 * error:.1f} meV/atom" if np.isfinite(error) else "")
        + "): calculate them (structures.generations does), or doubt the diagram near them."
    )
    rows = [
        [
            str(r["name"]),
            str(r["n_atoms"]),
            formatted(float(r["x"])),
            f"{1000 * r['formation_energy']:.2f}",
            f"{1000 * r['below_hull']:.2f}",
            str(r["found_by"]),
        ]
        for _, r in new.iterrows()
    ]
    columns = ["structure", "atoms", "x", "formation energy (meV/atom)", "below the hull (meV/atom)", "found by"]
    section.tables.append(Table("States below the hull of the data", columns, rows))


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
