"""All sections of the summary page, from the files of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segalflow.artefacts import read_json, read_table
from segalflow.dft.engines import check_engine
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import read_boundaries
from segalflow.phases.consistency import CHECKS, read_consistency
from segalflow.reporting.boundaries import (
    describe_boundaries,
    describe_consistency,
    describe_invariants,
    describe_sizes,
    describe_solutions,
    no_boundaries,
)
from segalflow.reporting.convergence import describe_convergence
from segalflow.reporting.data import (
    add_found_states,
    add_learning_curve,
    describe_data,
    describe_expansion,
    describe_generations,
    describe_model,
)
from segalflow.reporting.ensembles import describe_agreement, describe_cells, describe_ensembles, describe_samplers
from segalflow.reporting.page import Section


def _data_sections(
    files: Mapping[str, Any],
    species: Sequence[str],
    calculations: Mapping[str, Mapping[str, Any]],
    expansions: Sequence[str],
) -> list[Section]:
    sections = []
    for (name, settings), dataset, missing in zip(
        calculations.items(), files["datasets"], files["missing"], strict=True
    ):
        faults = check_engine(settings["engine"], settings["parameters"], species, settings["allow_unphysical"])
        sections.append(describe_data(name, settings["engine"], faults, read_table(dataset), read_table(missing)))
    for path in files["convergence"]:
        sections.append(describe_convergence(Path(path).parent.name, read_json(path)["settings"]))
    found = {Path(path).parent.name: read_table(path) for path in files["found_states"]}
    curves = {Path(path).parent.name: read_table(path) for path in files["curves"]}
    for name, metrics, hull, predictions in zip(
        expansions, files["metrics"], files["hulls"], files["predictions"], strict=True
    ):
        section = describe_expansion(name, read_json(metrics), read_table(hull), read_table(predictions))
        if name in curves:
            add_learning_curve(section, curves[name])
        if name in found:
            add_found_states(section, found[name])
        sections.append(section)
    sections += [describe_generations(Path(path).parent.name, read_table(path)) for path in files["generations"]]
    return sections + [describe_model(Path(path).parent.name, read_json(path)) for path in files["models"]]


def _boundary_sections(files: Mapping[str, Any], species: Sequence[str]) -> list[Section]:
    if not files["phases"]:
        return [no_boundaries(species)]
    found = dict(zip(("boundaries", "invariants", "consistency"), files["phases"], strict=True))
    notes = [read_json(path) for path in files["notes"]]
    invariants, consistency = (read_json(path) for path in files["phases_notes"])
    return [
        describe_boundaries(read_boundaries(found["boundaries"]), {n["criterion"]: n["notes"] for n in notes}),
        describe_invariants(read_table(found["invariants"]), invariants["cuts"], invariants["notes"]),
        *(describe_sizes(read_table(path)) for path in files["sizes"]),
        describe_consistency(read_consistency(found["consistency"]), CHECKS, consistency["notes"]),
        *describe_solutions([read_json(path) for path in files["solutions"]]),
    ]


def describe_study(
    files: Mapping[str, Any],
    species: Sequence[str],
    calculations: Mapping[str, Mapping[str, Any]],
    expansions: Sequence[str],
    seed: int,
) -> list[Section]:
    """Return the sections of the summary page in their order.

    Args:
        files: paths, or lists of paths, by what they hold: the named inputs of the rule ``write_summary``.
        species: the species.
        calculations: settings of every calculation by name, in the order of ``files["datasets"]``.
        expansions: names of the Hamiltonians with a hull, in the order of ``files["metrics"]``.
        seed: of the study.
    """
    samplers = {Path(path).parent.name: read_json(path) for path in files["samplers"]}
    return [
        *_data_sections(files, species, calculations, expansions),
        describe_cells([read_json(path) for path in files["cells"]]),
        describe_samplers(samplers, seed),
        describe_ensembles([read_ensemble(path) for path in files["tables"]]),
        describe_agreement(read_table(files["summary"])),
        *_boundary_sections(files, species),
    ]
