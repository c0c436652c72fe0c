"""Published expansions, imported as they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.errors import ArtefactError, ExpansionError
from segalflow.expansion.correlations import correlation_matrix
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.hamiltonian import ClusterExpansion, read_expansion
from segalflow.expansion.validation import error_metrics
from segalflow.lattice import ParentLattice
from segalflow.provenance import file_sha256
from segalflow.structures.pool import structure_name

PUBLISHED = "published"
ZEROS = ("as_given", "pure_elements")
"""Zero of energy: the file's own, or the expansion's own pure elements."""


def import_expansion(
    path: str | Path, lattice: ParentLattice, zero: str = "as_given", sha256: str | None = None, key: str = "expansion"
) -> ClusterExpansion:
    """Return a published expansion (or a model file of this project) for a study's lattice.

    Args:
        path: list of figures and ECIs, or model file.
        lattice: the study's parent lattice; its species may be in the other order.
        zero: ``as_given``, or ``pure_elements`` to shift the constant and the points so that the expansion's own pure
            elements have energy zero.
        sha256: expected checksum of the file.
        key: the config key of this expansion, for messages.

    Raises:
        ArtefactError: if the file is missing, cut short, neither format, or has another checksum.
        ExpansionError: if its lattice, lattice constant or species are not the study's, or `zero` is unknown.
    """
    if zero not in ZEROS:
        raise ExpansionError(f"{key}.published_zero: expected one of {', '.join(ZEROS)}, found '{zero}'")
    expansion = read_expansion(path)
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256.lower():
        raise ArtefactError(f"{path}: expected SHA-256 {sha256} ({key}.published_sha256), found {digest}")
    if not expansion.lattice.same_as(lattice):
        expansion = _with_species_order(expansion, lattice, key)
    if zero == "pure_elements":
        expansion = with_pure_zero(expansion)
    return replace(expansion, notes={**expansion.notes, "imported": {"file": Path(path).name, "sha256": digest}})


def _with_species_order(expansion: ClusterExpansion, lattice: ParentLattice, key: str) -> ClusterExpansion:
    """Return the expansion with its species in the order of `lattice`: only the tables of point functions change."""
    found = expansion.lattice
    other = replace(found, species=lattice.species) if found.n_sublattices == lattice.n_sublattices else found
    same_names = [sorted(s) for s in found.species] == [sorted(s) for s in lattice.species]
    if not same_names or not other.same_as(lattice):
        raise ExpansionError(
            f"{key}.published: the expansion is for {found.name} of {', '.join(found.elements)} with primitive vectors "
            f"of {np.linalg.norm(found.cell, axis=1).round(4).tolist()} A, the study's lattice is {lattice.name} of "
            f"{', '.join(lattice.elements)} with {np.linalg.norm(lattice.cell, axis=1).round(4).tolist()} A"
        )
    functions = tuple(
        tuple(tuple(table[old.index(name)] for name in new) for table in tables)
        for tables, old, new in zip(expansion.point_functions, found.species, lattice.species, strict=True)
    )
    return replace(expansion, lattice=other, point_functions=functions)


def with_pure_zero(expansion: ClusterExpansion) -> ClusterExpansion:
    """Return a binary expansion shifted by a constant and a point term so that its pure elements have energy zero.

    Raises:
        ExpansionError: if the lattice is not binary or the expansion lacks the constant or the point cluster.
    """
    if not expansion.lattice.is_binary:
        raise ExpansionError("published_zero: expected a binary lattice")
    places = {c.order: i for i, c in enumerate(expansion.clusters) if c.order < 2}
    if set(places) != {0, 1}:
        raise ExpansionError("published_zero: the expansion has no constant or no point cluster to shift")
    values = np.array(expansion.point_functions[0][0])
    energies = np.array([sum(c.eci * value**c.order for c in expansion.clusters) for value in values])
    # constant + point * value = energy of the pure element, for both values
    point = (energies[1] - energies[0]) / (values[1] - values[0])
    constant = energies[0] - point * values[0]
    clusters = list(expansion.clusters)
    for order, shift in ((0, constant), (1, point)):
        clusters[places[order]] = replace(clusters[places[order]], eci=float(clusters[places[order]].eci - shift))
    reference = {"kind": "formation", "meaning": "relative to the expansion's own pure elements", "units": "eV/atom"}
    return replace(expansion, clusters=tuple(clusters), reference=reference)


def describe_published(
    expansion: ClusterExpansion, candidates: Sequence[Atoms], dataset: Sequence[Atoms] = ()
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return metrics and predictions of an expansion that was not fitted here.

    Args:
        expansion: the model.
        candidates: ideal structures to list with the model's energies.
        dataset: structures with ``info`` formation_energy and x to compare with, or none: errors are then NaN.
    """
    structures = list(dataset) or list(candidates)
    design = correlation_matrix(expansion.clusters, expansion.point_functions, expansion.lattice, structures)
    predicted = design @ np.array([c.eci for c in expansion.clusters])
    nan = np.full(len(structures), np.nan)
    energies = np.array([s.info["formation_energy"] for s in structures]) if dataset else nan
    x = np.array([s.get_array("occupation").mean() for s in structures])
    stderr = nan
    if expansion.eci_covariance is not None:
        stderr = np.sqrt(np.einsum("ij,jk,ik->i", design, expansion.eci_covariance, design))
    mixed = (x > 0) & (x < 1)
    errors = error_metrics(x, energies, predicted, nan, mixed) if dataset else {}
    metrics = {
        "method": PUBLISHED,
        "n_structures": len(dataset),
        "n_parameters": len(expansion.clusters),
        "rmse": None,
        "mae": None,
        "cv": None,
        "cv_kind": "none",
        "rmse_near_hull": None,
        "cv_near_hull": None,
        "hull_violations": 0,
        "units": "eV/atom",
        **errors,
    }
    data_hull = lower_hull(x, energies) if dataset else None
    predictions = pd.DataFrame(
        {
            "structure": [s.info["structure"] for s in structures],
            "name": [structure_name(s, expansion.lattice) for s in structures],
            "n_atoms": [len(s) for s in structures],
            "x": x,
            "e_data": energies,
            "e_model": predicted,
            "e_model_stderr": stderr,
            "e_cv": nan,
            "residual": predicted - energies,
            "above_hull": nan if data_hull is None else above_hull(x, energies, data_hull),
            "weight": nan,
        }
    )
    return metrics, predictions
