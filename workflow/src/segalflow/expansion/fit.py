"""The fit of a cluster expansion: from a dataset to a model with errors, metrics and hulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.dft.dataset import end_members_of
from segalflow.errors import ExpansionError
from segalflow.expansion.basis import build_basis
from segalflow.expansion.ground_states import lower_surface
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.expansion.regression import (
    CLUSTER_PRIOR,
    bootstrap_covariance,
    choose_method,
    choose_penalty,
    fold_indices,
)
from segalflow.expansion.validation import (
    CURVE_COLUMNS,
    cluster_sizes,
    curve_numbers,
    error_metrics,
    learning_curve,
    structure_groups,
)
from segalflow.lattice import ParentLattice
from segalflow.provenance import content_hash, package_versions
from segalflow.structures.pool import space_group, structure_name

METRICS_SCHEMA = "segalflow.metrics/1"

BOOTSTRAP_DRAWS = 200


@dataclass(frozen=True, eq=False)
class FittedExpansion:
    """A fit and what it says about itself.

    Attributes:
        expansion: the model with ECIs, their errors and covariance.
        metrics: errors in eV/atom and counts.
        hull: ground states of data and model: source, structure, name, space_group, n_atoms, x, formation_energy.
        predictions: one row a structure: x (of more than two species also x_<species>), e_data, e_model, e_cv,
            residual, above_hull (eV/atom), name.
        curve: learning curve (`segalflow.expansion.validation.learning_curve`), its last row the cross-validation
            itself; empty if none was asked for.
    """

    expansion: ClusterExpansion
    metrics: dict[str, Any]
    hull: pd.DataFrame
    predictions: pd.DataFrame
    curve: pd.DataFrame


def structure_weights(
    dataset: Sequence[Atoms],
    distance: np.ndarray,
    end_member_weight: float,
    hull_scale: float | None,
    hull_decay: str = "hyperbolic",
) -> np.ndarray:
    """Return the weight of each structure in the fit, shape (n,).

    Formation energies of the pure elements are zero by definition, so a misfit there shifts every tie line: they carry
    `end_member_weight`. Others carry ``1 / (1 + distance / hull_scale)`` (hyperbolic) or ``exp(-distance /
    hull_scale)`` (exponential): what is far above the hull matters little to a phase diagram. `hull_scale` in eV/atom;
    None weights all alike.
    """
    weights = np.ones(len(dataset))
    if hull_scale is not None:
        weights = np.exp(-distance / hull_scale) if hull_decay == "exponential" else 1 / (1 + distance / hull_scale)
    pure = np.array([len(set(s.numbers)) == 1 for s in dataset])
    weights[pure] = end_member_weight
    return weights


def further_fractions(dataset: Sequence[Atoms], lattice: ParentLattice) -> np.ndarray:
    """Return the fractions of all species but the first, shape (n_structures, n_elements - 1)."""
    if lattice.is_binary:
        return np.array([[s.info["x"]] for s in dataset])
    symbols = [np.array(s.get_chemical_symbols()) for s in dataset]
    return np.array([[float(np.mean(held == name)) for name in lattice.elements[1:]] for held in symbols])


def fit_expansion(
    dataset: Sequence[Atoms],
    lattice: ParentLattice,
    basis_settings: Mapping[str, Any],
    fit_settings: Mapping[str, Any],
    seed: int,
    key: str = "expansion",
    curve_settings: Mapping[str, int] | None = None,
) -> FittedExpansion:
    """Fit formation energies per atom on CLEASE's correlation functions.

    Args:
        dataset: ideal structures with ``info`` formation_energy (eV/atom), x, structure, end_members.
        lattice: parent lattice.
        basis_settings: ``max_diameters`` (Angstrom by number of sites), ``size_rule`` and ``generator`` (clease).
        fit_settings: ``method``, ``alphas``, ``cv`` (``kind`` loo or kfold, ``folds``, ``group``), weights
            (``end_member_weight``, ``hull_scale`` in eV/atom or None, ``hull_decay``), ``penalise_constant``, and
            ``covariance`` (posterior or bootstrap). Keys added after the first release may be missing.
        seed: seed of folds and bootstrap draws.
        key: the config key of this expansion, for messages.
        curve_settings: ``points`` and ``draws`` of the learning curve; None for no curve.

    Raises:
        ExpansionError: if the method is unknown, there are more folds than structures, or the cut-offs leave fewer
            structures than clusters.
    """
    name = fit_settings["method"]
    try:
        choose_method(name, np.zeros((1, 2)), fit_settings.get("penalise_constant", False))
    except ExpansionError as error:
        raise ExpansionError(f"{key}.fit.{error}") from None
    try:
        basis = build_basis(
            lattice,
            {int(k): v for k, v in basis_settings["max_diameters"].items()},
            basis_settings["size_rule"],
            basis_settings.get("generator", "clease"),
        )
    except ExpansionError as error:
        raise ExpansionError(f"{key}.{error}") from None
    if len(dataset) <= len(basis.clusters) and name != CLUSTER_PRIOR:
        raise ExpansionError(
            f"{key}.basis.max_diameters: {len(basis.clusters)} clusters but only {len(dataset)} structures to fit them "
            "to; use smaller diameters, more structures (structures.max_atoms), or method: cluster_prior"
        )
    rng = np.random.default_rng(seed)
    energies = np.array([s.info["formation_energy"] for s in dataset])
    x, fractions = np.array([s.info["x"] for s in dataset]), further_fractions(dataset, lattice)
    design = basis.correlations(dataset)
    cv = fit_settings["cv"]
    try:
        folds = fold_indices(
            len(dataset), cv["kind"], cv["folds"], rng, structure_groups(dataset, lattice, cv.get("group", "none"))
        )
    except ExpansionError as error:
        raise ExpansionError(f"{key}.fit.{error}") from None
    method = choose_method(name, cluster_sizes(basis.clusters), fit_settings.get("penalise_constant", False))
    data_hull, height = lower_surface(fractions, energies)
    distance = energies - height
    weights = structure_weights(
        dataset,
        distance,
        fit_settings["end_member_weight"],
        fit_settings["hull_scale"],
        fit_settings.get("hull_decay", "hyperbolic"),
    )
    mixed = np.array([len(set(s.numbers)) > 1 for s in dataset])
    alpha, out_of_fold = choose_penalty(design, energies, weights, mixed, method, fit_settings["alphas"], folds)
    regression = method.fit(design, energies, weights, alpha, rng)
    if fit_settings.get("covariance", "posterior") == "bootstrap":
        drawn = bootstrap_covariance(design, energies, weights, method, alpha, BOOTSTRAP_DRAWS, rng)
        regression = replace(regression, covariance=drawn)
    predicted = design @ regression.coefficients
    stderr = np.sqrt(np.diag(regression.covariance))
    clusters = tuple(
        replace(c, eci=float(e), eci_stderr=float(s))
        for c, e, s in zip(basis.clusters, regression.coefficients, stderr, strict=True)
    )
    names = [structure_name(s, lattice) for s in dataset]
    model_hull, _ = lower_surface(fractions, predicted)
    columns = {} if lattice.is_binary else dict(zip((f"x_{s}" for s in lattice.elements[1:]), fractions.T, strict=True))
    predictions = pd.DataFrame(
        {
            "structure": [s.info["structure"] for s in dataset],
            "name": names,
            "n_atoms": [len(s) for s in dataset],
            "x": x,
            **columns,
            "e_data": energies,
            "e_model": predicted,
            "e_model_stderr": np.sqrt(np.einsum("ij,jk,ik->i", design, regression.covariance, design)),
            "e_cv": out_of_fold,
            "residual": predicted - energies,
            "above_hull": distance,
            "weight": weights,
        }
    )
    metrics = {
        "method": name,
        "alpha": alpha,
        "n_structures": len(dataset),
        "n_parameters": len(clusters),
        "effective_parameters": regression.effective_parameters,
        "cv_kind": "leave-one-out" if cv["kind"] == "loo" else f"{len(folds)}-fold",
        **error_metrics(fractions, energies, predicted, out_of_fold, mixed),
        "condition_number": float(np.linalg.cond(design)),
        "energy_spread": float(np.std(energies)),
        "units": "eV/atom",
    }
    if cv.get("group", "none") != "none":
        metrics["cv_kind"] = (
            f"leave-one-{cv['group']}-out" if cv["kind"] == "loo" else f"{len(folds)}-fold by {cv['group']}"
        )
    hull = pd.DataFrame(
        [
            {
                "source": source,
                "structure": dataset[i].info["structure"],
                "name": names[i],
                "space_group": space_group(dataset[i])[0],
                "n_atoms": len(dataset[i]),
                "x": x[i],
                **{name: values[i] for name, values in columns.items()},
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
    curve = pd.DataFrame(columns=list(CURVE_COLUMNS))
    if curve_settings is not None:
        # Its random numbers are its own: the fit does not depend on whether there is a curve.
        own, pure = np.random.default_rng([seed, 1]), np.flatnonzero(~mixed)
        needed = 0 if name == CLUSTER_PRIOR else len(clusters)
        numbers = curve_numbers(len(dataset), len(pure), needed, curve_settings["points"])
        given = (design, energies, weights, method, fit_settings["alphas"])
        curve = learning_curve(*given, numbers, curve_settings["draws"], own, always=pure)
        used = len(dataset) - round(len(dataset) / len(folds))
        curve.loc[len(curve)] = {"kind": "cross-validation", "n_structures": used, "rmse_test": metrics["cv"]}
    return FittedExpansion(expansion, metrics, hull, predictions, curve)
