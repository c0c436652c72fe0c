"""The fit of a cluster expansion: from a dataset to a model with errors, metrics and hulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.dft.dataset import end_members_of
from segalflow.errors import ExpansionError, suggest
from segalflow.expansion.basis import build_basis
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.expansion.regression import METHODS, fold_indices, predict_out_of_fold
from segalflow.lattice import ParentLattice
from segalflow.provenance import content_hash, package_versions
from segalflow.structures.pool import space_group, structure_name

METRICS_SCHEMA = "segalflow.metrics/1"

# Structures within this distance of the data's hull count as near it, eV/atom.
NEAR_HULL = 0.010


@dataclass(frozen=True, eq=False)
class FittedExpansion:
    """A fit and what it says about itself.

    Attributes:
        expansion: the model with ECIs, their errors and covariance.
        metrics: errors in eV/atom and counts.
        hull: ground states of data and model: source, structure, name, space_group, n_atoms, x, formation_energy.
        predictions: one row a structure: x, e_data, e_model, e_cv, residual, above_hull (eV/atom), name.
    """

    expansion: ClusterExpansion
    metrics: dict[str, Any]
    hull: pd.DataFrame
    predictions: pd.DataFrame


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")


def structure_weights(
    dataset: Sequence[Atoms], distance: np.ndarray, end_member_weight: float, hull_scale: float | None
) -> np.ndarray:
    """Return the weight of each structure in the fit, shape (n,).

    Formation energies of the pure elements are zero by definition, so a misfit there shifts every tie line: they carry
    `end_member_weight`. Others carry ``1 / (1 + distance / hull_scale)``: what is far above the hull matters little to
    a phase diagram. `hull_scale` in eV/atom; None weights all alike.
    """
    weights = np.ones(len(dataset)) if hull_scale is None else 1.0 / (1.0 + distance / hull_scale)
    pure = np.array([len(set(s.numbers)) == 1 for s in dataset])
    weights[pure] = end_member_weight
    return weights


def _choose_penalty(
    design: np.ndarray,
    energies: np.ndarray,
    weights: np.ndarray,
    scored: np.ndarray,
    settings: Mapping[str, Any],
    folds: list[np.ndarray],
) -> tuple[float, np.ndarray]:
    """Return the penalty with the smallest weighted cross-validation error over `scored` rows, and all predictions."""
    method = settings["method"]
    alphas = settings["alphas"] if METHODS[method].penalised else [0.0]
    tried = [(a, predict_out_of_fold(design, energies, weights, method, a, folds)) for a in alphas]
    return min(tried, key=lambda t: float(weights[scored] @ (t[1] - energies)[scored] ** 2))


def fit_expansion(
    dataset: Sequence[Atoms],
    lattice: ParentLattice,
    basis_settings: Mapping[str, Any],
    fit_settings: Mapping[str, Any],
    seed: int,
    key: str = "expansion",
) -> FittedExpansion:
    """Fit formation energies per atom on CLEASE's correlation functions.

    Args:
        dataset: ideal structures with ``info`` formation_energy (eV/atom), x, structure, end_members.
        lattice: parent lattice.
        basis_settings: ``max_diameters`` (Angstrom by number of sites) and ``size_rule``.
        fit_settings: ``method``, ``alphas``, ``cv`` (``kind`` loo or kfold, ``folds``), ``end_member_weight``,
            ``hull_scale`` (eV/atom or None).
        seed: seed of folds and bootstrap draws.
        key: the config key of this expansion, for messages.

    Raises:
        ExpansionError: if the method is unknown, there are more folds than structures, or the cut-offs leave fewer
            structures than clusters.
    """
    method = fit_settings["method"]
    if method not in METHODS:
        raise ExpansionError(
            f"{key}.fit.method: unknown method '{method}', expected one of {', '.join(METHODS)}"
            f"{suggest(method, METHODS)}"
        )
    try:
        basis = build_basis(
            lattice, {int(k): v for k, v in basis_settings["max_diameters"].items()}, basis_settings["size_rule"]
        )
    except ExpansionError as error:
        raise ExpansionError(f"{key}.{error}") from None
    if len(dataset) <= len(basis.clusters):
        raise ExpansionError(
            f"{key}.basis.max_diameters: {len(basis.clusters)} clusters but only {len(dataset)} structures to fit them "
            "to; use smaller diameters, or more structures (structures.max_atoms)"
        )
    cv = fit_settings["cv"]
    if cv["kind"] == "kfold" and cv["folds"] > len(dataset):
        raise ExpansionError(f"{key}.fit.cv.folds: {cv['folds']} folds but only {len(dataset)} structures")
    rng = np.random.default_rng(seed)
    energies = np.array([s.info["formation_energy"] for s in dataset])
    x = np.array([s.info["x"] for s in dataset])
    design = basis.correlations(dataset)
    folds = fold_indices(len(dataset), cv["kind"], cv["folds"], rng)
    data_hull = lower_hull(x, energies)
    distance = above_hull(x, energies, data_hull)
    weights = structure_weights(dataset, distance, fit_settings["end_member_weight"], fit_settings["hull_scale"])
    mixed = np.array([len(set(s.numbers)) > 1 for s in dataset])
    alpha, out_of_fold = _choose_penalty(design, energies, weights, mixed, fit_settings, folds)
    regression = METHODS[method].fit(design, energies, weights, alpha, rng)
    predicted = design @ regression.coefficients
    stderr = np.sqrt(np.diag(regression.covariance))
    clusters = tuple(
        replace(c, eci=float(e), eci_stderr=float(s))
        for c, e, s in zip(basis.clusters, regression.coefficients, stderr, strict=True)
    )
    names = [structure_name(s, lattice) for s in dataset]
    model_hull = lower_hull(x, predicted)
    predictions = pd.DataFrame(
        {
            "structure": [s.info["structure"] for s in dataset],
            "name": names,
            "n_atoms": [len(s) for s in dataset],
            "x": x,
            "e_data": energies,
            "e_model": predicted,
            "e_model_stderr": np.sqrt(np.einsum("ij,jk,ik->i", design, regression.covariance, design)),
            "e_cv": out_of_fold,
            "residual": predicted - energies,
            "above_hull": distance,
            "weight": weights,
        }
    )
    near = distance < NEAR_HULL
    metrics = {
        "method": method,
        "alpha": alpha,
        "n_structures": len(dataset),
        "n_parameters": len(clusters),
        "effective_parameters": regression.effective_parameters,
        "rmse": _rms(predicted - energies),
        "mae": float(np.mean(np.abs(predicted - energies))),
        # The pure elements are left out: the others cannot predict them, and no one asks them to.
        "cv": _rms((out_of_fold - energies)[mixed]),
        "cv_kind": "leave-one-out" if cv["kind"] == "loo" else f"{len(folds)}-fold",
        "n_near_hull": int(near.sum()),
        "rmse_near_hull": _rms((predicted - energies)[near]),
        "cv_near_hull": _rms((out_of_fold - energies)[near & mixed]),
        "hull_violations": len(set(data_hull.tolist()) ^ set(model_hull.tolist())),
        "condition_number": float(np.linalg.cond(design)),
        "energy_spread": float(np.std(energies)),
        "units": "eV/atom",
    }
    hull = pd.DataFrame(
        [
            {
                "source": source,
                "structure": dataset[i].info["structure"],
                "name": names[i],
                "space_group": space_group(dataset[i])[0],
                "n_atoms": len(dataset[i]),
                "x": x[i],
                "formation_energy": float(values[i]),
            }
            for source, indices, values in (("data", data_hull, energies), ("model", model_hull, predicted))
            for i in indices
        ]
    )
    reference = {"kind": "formation", "end_members": end_members_of(dataset[0]), "units": "eV/atom"}
    notes = {
        "fit": dict(fit_settings),
        "basis": dict(basis_settings),
        "seed": seed,
        "dataset": content_hash([[s.info["structure"], float(s.info["formation_energy"])] for s in dataset]),
        "versions": package_versions("clease", "numpy"),
    }
    expansion = ClusterExpansion(lattice, basis.point_functions, clusters, reference, regression.covariance, notes)
    return FittedExpansion(expansion, metrics, hull, predictions)
