"""How good a fit is: errors near the hull, order on it, groups for cross-validation, the learning curve."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.errors import ExpansionError, suggest
from segalflow.expansion.ground_states import lower_surface, tie_energies
from segalflow.expansion.hamiltonian import Cluster
from segalflow.expansion.regression import Method, choose_penalty, fold_indices
from segalflow.lattice import ParentLattice, map_to_supercell
from segalflow.structures.identity import canonical_decoration

NEAR_HULL = 0.010
"""Structures within this distance of the data's hull count as near it, eV/atom."""

GROUPS = ("none", "composition", "supercell")
"""What may be kept together in a fold."""


def rms(values: np.ndarray) -> float:
    """Return the root of the mean square, NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")


def _mean_abs(values: np.ndarray) -> float:
    return float(np.mean(np.abs(values))) if len(values) else float("nan")


def cluster_sizes(clusters: Sequence[Cluster]) -> np.ndarray:
    """Return number of sites and largest distance, in units of the shortest pair, of each cluster: (n_clusters, 2)."""
    nearest = min((c.diameter for c in clusters if c.order == 2), default=1.0)
    return np.array([[c.order, c.diameter / nearest] for c in clusters])


def structure_groups(dataset: Sequence[Atoms], lattice: ParentLattice, group: str) -> list[Hashable] | None:
    """Return a label of each structure: equal ones are to stay together in cross-validation (None: each alone).

    Args:
        dataset: ideal structures.
        lattice: parent lattice.
        group: ``none``, ``composition`` (equal fractions of the species) or ``supercell`` (equal superlattice of the
            primitive decoration, up to a symmetry of the parent lattice).

    Raises:
        ExpansionError: if the kind of group is unknown.
    """
    if group not in GROUPS:
        raise ExpansionError(f"cv.group: expected one of {', '.join(GROUPS)}, found '{group}'{suggest(group, GROUPS)}")
    if group == "none":
        return None
    if group == "composition":
        return [
            tuple(round(s.get_chemical_symbols().count(name) / len(s), 9) for name in lattice.elements) for s in dataset
        ]
    return [canonical_decoration(*map_to_supercell(s, lattice))[0] for s in dataset]


def hull_order_violations(x: np.ndarray, energies: np.ndarray, predicted: np.ndarray, tolerance: float = 1e-6) -> int:
    """Return how many structures the model puts below its own tie lines between the data's ground states.

    Zero means that the model has the ground states of the data, whatever its energies. `tolerance` in eV/atom.
    """
    below = predicted - tie_energies(x, energies, predicted) < -tolerance
    return int(below.sum())


def error_metrics(
    x: np.ndarray, energies: np.ndarray, predicted: np.ndarray, out_of_fold: np.ndarray, mixed: np.ndarray
) -> dict[str, Any]:
    """Return errors of a fit, eV/atom, overall and near the data's hull, and its mistakes on the hull.

    Args:
        x: compositions, shape (n,) or for more than two species (n, k) (`lower_surface`).
        energies: energies of the data.
        predicted: energies of the fit.
        out_of_fold: each energy predicted by a fit that has not seen it.
        mixed: which rows are not pure elements: these are left out of cross-validation errors, since the others cannot
            predict them and no one asks them to.
    """
    (data_hull, height), (model_hull, _) = lower_surface(x, energies), lower_surface(x, predicted)
    near = energies - height < NEAR_HULL
    error, cv_error = predicted - energies, out_of_fold - energies
    return {
        "rmse": rms(error),
        "mae": _mean_abs(error),
        "max_error": float(np.abs(error).max()),
        "cv": rms(cv_error[mixed]),
        "cv_mae": _mean_abs(cv_error[mixed]),
        "n_near_hull": int(near.sum()),
        "rmse_near_hull": rms(error[near]),
        "mae_near_hull": _mean_abs(error[near]),
        "cv_near_hull": rms(cv_error[near & mixed]),
        "cv_mae_near_hull": _mean_abs(cv_error[near & mixed]),
        "hull_violations": len(set(data_hull.tolist()) ^ set(model_hull.tolist())),
        "hull_order_violations": hull_order_violations(x, energies, predicted),
    }


CURVE_COLUMNS = ("kind", "n_structures", "rmse_train", "rmse_test", "rmse_test_std", "rmse_test_stderr")

INNER_FOLDS = 5
"""Parts of the cross-validation in which a penalty is chosen for each draw of a learning curve."""


def learning_curve(
    design: np.ndarray,
    energies: np.ndarray,
    weights: np.ndarray,
    method: Method,
    alphas: Sequence[float],
    numbers: Sequence[int],
    draws: int,
    rng: np.random.Generator,
    always: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the error on unseen structures against the number of structures fitted.

    Every draw chooses its own penalty, since a penalty chosen with all structures would have seen the unseen ones.

    Args:
        design: correlation functions, shape (n, n_clusters).
        energies: shape (n,), eV/atom.
        weights: of the fit, shape (n,).
        method: the regression.
        alphas: penalties to choose from.
        numbers: numbers of structures to fit, each below n.
        draws: random choices of them.
        rng: random numbers.
        always: rows that belong to every choice (the pure elements).

    Returns:
        One row a number: kind (``subset``), n_structures, rmse_train, rmse_test, rmse_test_std (over draws),
        rmse_test_stderr (of the mean over draws), eV/atom.

    Raises:
        ExpansionError: if a number leaves no structure to test on, or is smaller than `always`.
    """
    n = len(energies)
    fixed = np.zeros(0, dtype=int) if always is None else np.asarray(always, dtype=int)
    free = np.setdiff1d(np.arange(n), fixed)
    rows = []
    for number in numbers:
        if not max(1, len(fixed)) <= number < n:
            raise ExpansionError(
                f"learning curve: expected numbers from {max(1, len(fixed))} to {n - 1}, found {number}"
            )
        train_errors, test_errors = [], []
        for _ in range(draws):
            train = np.concatenate([fixed, rng.choice(free, number - len(fixed), replace=False)])
            test = np.setdiff1d(np.arange(n), train)
            folds = fold_indices(number, "kfold", min(INNER_FOLDS, number), rng)
            part = (design[train], energies[train], weights[train])
            alpha = alphas[0]
            if method.penalised and len(alphas) > 1:
                alpha = choose_penalty(*part, np.arange(number) >= len(fixed), method, alphas, folds)[0]
            solution = method.solve(*part, alpha)
            train_errors.append(rms(design[train] @ solution - energies[train]))
            test_errors.append(rms(design[test] @ solution - energies[test]))
        spread = float(np.std(test_errors, ddof=1)) if draws > 1 else float("nan")
        row = ("subset", int(number), float(np.mean(train_errors)), float(np.mean(test_errors)))
        rows.append((*row, spread, spread / np.sqrt(draws)))
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def curve_numbers(n: int, n_fixed: int, n_parameters: int, points: int) -> list[int]:
    """Return numbers of structures for a learning curve, from little more than the least that makes sense to 90 %.

    Args:
        n: number of structures.
        n_fixed: how many belong to every choice.
        n_parameters: how many a fit needs at least (0 for a method with a prior on each of them).
        points: how many numbers.
    """
    last = n - max(1, round(n / 10))
    first = max(n_fixed + 2, n_parameters + 1, n // 6)
    return np.unique(np.linspace(first, last, points).round().astype(int)).tolist() if first < last else []
