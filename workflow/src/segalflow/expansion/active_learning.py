"""Which structures to calculate next, and the loop that does so until hull and errors settle.

Each round fits the structures calculated so far and asks for two kinds more: those that the model puts below the hull
of the data (a ground state that is missing spoils every phase boundary beside it), lowest first, and those whose energy
is least certain, chosen one after the other with the variance that the ones before leave.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.errors import ExpansionError
from segalflow.expansion.basis import ClusterBasis
from segalflow.expansion.correlations import correlation_matrix
from segalflow.expansion.fit import structure_weights
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.expansion.regression import Regression, choose_method, fold_indices, predict_out_of_fold
from segalflow.expansion.validation import cluster_sizes, rms

BELOW_HULL, UNCERTAIN, RANDOM = "below hull", "uncertain", "random"
STRATEGIES = ("active", "random")
CV_FOLDS = 10


@dataclass(frozen=True, eq=False)
class LearningRun:
    """What a run of rounds did.

    Attributes:
        rounds: one row a fit: generation, n_calculations (usable or not), n_structures (usable), cv (10-fold,
            without the pure elements), rmse, n_below_hull (candidates not calculated that the model puts below the
            data's hull), worst_violation (by how much the lowest of them lies below), largest_stderr (of a candidate
            not calculated), hull (ids of the data's ground states), all energies in eV/atom.
        choices: one row a calculation asked for: generation, structure, reason, energy (predicted), energy_stderr,
            calculated (its energy, NaN where it failed).
        energies: energies of the pool, NaN where not calculated or failed, shape (n_pool,).
        fit: the last fit.
        settled: whether the run ended by itself, not by its limits.
    """

    rounds: pd.DataFrame
    choices: pd.DataFrame
    energies: np.ndarray
    fit: Regression
    settled: bool


def propose(
    fit: Regression,
    design: np.ndarray,
    x: np.ndarray,
    energies: np.ndarray,
    candidates: np.ndarray,
    number: int,
    noise: float,
    share_below: float = 0.5,
) -> pd.DataFrame:
    """Return the candidates to calculate next.

    Args:
        fit: coefficients with covariance.
        design: correlation functions of the whole pool, shape (n_pool, n_clusters).
        x: its compositions.
        energies: its calculated energies, eV/atom, NaN where there is none.
        candidates: indices of those that may be chosen.
        number: how many to choose at most.
        noise: what the model cannot describe (its residual on the data), eV/atom.
        share_below: largest share of structures chosen for lying below the hull while others are uncertain.

    Returns:
        One row a choice, in order: index, reason, energy, energy_stderr (eV/atom).

    Raises:
        ExpansionError: if the pure elements have no energies.
    """
    predicted = design @ fit.coefficients
    variance = np.maximum(np.einsum("ij,jk,ik->i", design, fit.covariance, design), 0.0)
    gap = gap_to_hull(predicted, x, energies)
    candidates = np.asarray(candidates, dtype=int)
    low = candidates[np.argsort(gap[candidates], kind="stable")]
    low = low[gap[low] < 0.0][: max(1, int(np.ceil(share_below * number)))][:number]
    chosen = [(int(i), BELOW_HULL) for i in low]
    covariance = fit.covariance
    for i in low:
        covariance = _after(covariance, design[i], noise)
    left = np.setdiff1d(candidates, low)
    while len(chosen) < number and len(left):
        spread = np.einsum("ij,jk,ik->i", design[left], covariance, design[left])
        pick = int(left[int(spread.argmax())])
        chosen.append((pick, UNCERTAIN))
        covariance = _after(covariance, design[pick], noise)
        left = left[left != pick]
    rows = [
        {
            "index": i,
            "reason": why,
            "energy": float(predicted[i]),
            "energy_stderr": float(np.sqrt(variance[i])),
        }
        for i, why in chosen
    ]
    return pd.DataFrame(rows, columns=["index", "reason", "energy", "energy_stderr"])


def _after(covariance: np.ndarray, row: np.ndarray, noise: float) -> np.ndarray:
    """Return the covariance once the structure with these correlation functions is known up to `noise`."""
    along = covariance @ row
    return covariance - np.outer(along, along) / (noise**2 + row @ along)


def gap_to_hull(predicted: np.ndarray, x: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Return predicted energies relative to the hull of the calculated structures, shape (n_pool,), eV/atom.

    The hull is taken with their calculated and with their predicted energies, and the smaller distance counts: where
    the model is off by a few meV for a whole composition, only one of the two tells of a new ground state.

    Raises:
        ExpansionError: if the pure elements have no energies.
    """
    known = np.flatnonzero(np.isfinite(energies))
    hull = known[lower_hull(x[known], energies[known])] if len(known) else known
    if len(hull) < 2 or x[hull[0]] > 1e-9 or x[hull[-1]] < 1 - 1e-9:
        raise ExpansionError("active learning: expected calculated energies of both pure elements, found none of one")
    of_model = known[lower_hull(x[known], predicted[known])]
    by_data = predicted - np.interp(x, x[hull], energies[hull])
    by_model = predicted - np.interp(x, x[of_model], predicted[of_model])
    return np.minimum(by_data, by_model)


def is_calm(
    row: Mapping[str, Any], before: Mapping[str, Any] | None, cv_tolerance: float, hull_tolerance: float = 0.0
) -> bool:
    """Whether a round changed nothing that matters: a run has settled after some calm rounds in a row.

    Args:
        row: hull (ids of the data's ground states), worst_violation (the largest distance at which the model puts a
            candidate below the hull, eV/atom) and cv (eV/atom) of the round.
        before: those of the round before, if any.
        cv_tolerance: largest relative change of the cross-validation error.
        hull_tolerance: largest harmless violation, eV/atom.
    """
    return bool(
        before is not None
        and row["hull"] == before["hull"]
        and row["worst_violation"] <= hull_tolerance
        and abs(row["cv"] - before["cv"]) <= cv_tolerance * before["cv"]
    )


@dataclass(frozen=True, eq=False)
class Choices:
    """What a fitted expansion can choose from: the calculated structures, then the candidates.

    Attributes:
        pool: ideal structures.
        n_known: how many of them, in front, are calculated.
        design: correlation functions of the pool, shape (n_pool, n_clusters).
        x: compositions.
        energies: calculated energies, eV/atom, NaN of candidates.
        fit: the expansion's ECIs with their covariance.
    """

    pool: list[Atoms]
    n_known: int
    design: np.ndarray
    x: np.ndarray
    energies: np.ndarray
    fit: Regression

    def gaps(self) -> np.ndarray:
        """Return the predicted energies of the candidates relative to the hull (`gap_to_hull`), eV/atom."""
        return gap_to_hull(self.design @ self.fit.coefficients, self.x, self.energies)[self.n_known :]

    def stderr(self) -> np.ndarray:
        """Return the standard errors of the candidates' predicted energies, eV/atom."""
        rows = self.design[self.n_known :]
        return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, self.fit.covariance, rows), 0.0))

    def choose(self, number: int, noise: float) -> tuple[pd.DataFrame, list[Atoms]]:
        """Return the best `number` candidates as a table and as structures (`propose`)."""
        left = np.arange(self.n_known, len(self.pool))
        chosen = propose(self.fit, self.design, self.x, self.energies, left, number, max(noise, 1e-6))
        index = chosen.pop("index").to_numpy(int)
        chosen.insert(0, "structure", [self.pool[i].info["structure"] for i in index])
        chosen.insert(2, "n_atoms", [len(self.pool[i]) for i in index])
        chosen.insert(3, "x", self.x[index])
        return chosen, [self.pool[i] for i in index]


def gather_choices(
    expansion: ClusterExpansion, dataset: Sequence[Atoms], candidates: Sequence[Atoms], tried: Collection[str] = ()
) -> Choices:
    """Return the calculated structures together with the candidates that are new.

    Args:
        expansion: a fit with the covariance of its ECIs.
        dataset: calculated structures, with ``info`` structure and formation_energy.
        candidates: structures to choose from; repeated ones, and those of the dataset, do not count.
        tried: ids of structures whose calculation failed.

    Raises:
        ExpansionError: if the expansion has no covariance.
    """
    if expansion.eci_covariance is None:
        raise ExpansionError("next structures: the expansion has no covariance of its ECIs (was it fitted here?)")
    done = {s.info["structure"] for s in dataset} | set(tried)
    fresh = {s.info["structure"]: s for s in candidates if s.info["structure"] not in done}
    pool = [*dataset, *fresh.values()]
    design = correlation_matrix(expansion.clusters, expansion.point_functions, expansion.lattice, pool)
    second = expansion.lattice.species[0][1]
    x = np.array([np.mean([s == second for s in a.get_chemical_symbols()]) for a in pool])
    energies = np.full(len(pool), np.nan)
    energies[: len(dataset)] = [s.info["formation_energy"] for s in dataset]
    fit = Regression(np.array([c.eci for c in expansion.clusters]), expansion.eci_covariance, float("nan"))
    return Choices(pool, len(dataset), design, x, energies, fit)


def next_structures(
    expansion: ClusterExpansion,
    dataset: Sequence[Atoms],
    candidates: Sequence[Atoms],
    number: int,
    noise: float,
    tried: Collection[str] = (),
) -> tuple[pd.DataFrame, list[Atoms]]:
    """Return the structures that a fitted expansion asks for next: its next generation of calculations.

    Args:
        expansion: a fit with the covariance of its ECIs.
        dataset: calculated structures, with ``info`` structure and formation_energy.
        candidates: structures to choose from (enumerated ones, ground states that were found); those of the dataset
            and repeated ones do not count.
        number: how many to choose at most.
        noise: what the model cannot describe (the fit's residual), eV/atom.
        tried: ids of structures whose calculation failed.

    Returns:
        One row a choice (structure, reason, n_atoms, x, energy, energy_stderr in eV/atom), and the structures.

    Raises:
        ExpansionError: if the expansion has no covariance, or the dataset lacks a pure element.
    """
    return gather_choices(expansion, dataset, candidates, tried).choose(number, noise)


def learn(
    pool: Sequence[Atoms],
    basis: ClusterBasis,
    calculate: Callable[[Sequence[Atoms]], Sequence[float]],
    *,
    initial: int,
    per_round: int,
    max_calculations: int,
    seed: int,
    strategy: str = "active",
    method: str = "cluster_prior",
    alpha: float = 0.0,
    end_member_weight: float = 100.0,
    hull_scale: float | None = 0.02,
    cv_tolerance: float = 0.1,
    patience: int = 2,
    design: np.ndarray | None = None,
    watch: Callable[[Regression, np.ndarray, np.ndarray], dict[str, Any]] | None = None,
) -> LearningRun:
    """Calculate, fit and choose in rounds until the hull and the cross-validation error settle.

    The run has settled when for `patience` rounds the hull of the data has not changed, no candidate lay below it, and
    the cross-validation error changed by at most a fraction `cv_tolerance`.

    Args:
        pool: ideal structures to choose from, with ``info["structure"]`` and the array ``occupation``; both pure
            elements must be in it. Found ground states of larger cells can be appended.
        basis: the clusters.
        calculate: formation energies, eV/atom, of some structures of the pool; NaN for a calculation that failed.
        initial: structures of the first round: the pure elements and random ones.
        per_round: structures of each further round.
        max_calculations: the run ends before this many calculations are exceeded.
        seed: seed of all random draws.
        strategy: ``active``, or ``random`` choices to compare with (these never settle).
        method: regression, one of `segalflow.expansion.regression.METHOD_NAMES`.
        alpha: its penalty, where it takes one.
        end_member_weight: weight of the pure elements in the fit.
        hull_scale: scale of the weights by distance to the hull, eV/atom; None weights all alike.
        cv_tolerance: see above.
        patience: see above.
        design: correlation functions of the pool, where they are known already.
        watch: more columns of a round from (fit, design, energies).

    Raises:
        ExpansionError: if the strategy is unknown, a pure element is not in the pool or has no energy, or `initial` is
            below 4 or above `max_calculations`.
    """
    if strategy not in STRATEGIES:
        raise ExpansionError(f"active learning: expected strategy {' or '.join(STRATEGIES)}, found '{strategy}'")
    max_calculations = min(max_calculations, len(pool))
    if not 4 <= initial <= max_calculations:
        raise ExpansionError(f"active learning: expected initial from 4 to {max_calculations}, found {initial}")
    x = np.array([s.get_array("occupation").mean() for s in pool])
    mixed = (x > 0) & (x < 1)
    pure = np.flatnonzero(~mixed)
    if len(set(x[pure])) < 2:
        raise ExpansionError("active learning: expected both pure elements in the pool")
    rng = np.random.default_rng(seed)
    design = basis.correlations(pool) if design is None else design
    regression = choose_method(method, cluster_sizes(basis.clusters))
    shuffled = rng.permutation(np.flatnonzero(mixed))
    energies = np.full(len(pool), np.nan)
    asked = np.zeros(len(pool), dtype=bool)
    first = np.concatenate([pure, shuffled[: initial - len(pure)]])
    wanted = pd.DataFrame({"index": first, "reason": RANDOM, "energy": np.nan, "energy_stderr": np.nan})
    rounds: list[dict[str, Any]] = []
    choices: list[pd.DataFrame] = []
    quiet = 0
    while True:
        index = wanted["index"].to_numpy(int)
        asked[index] = True
        energies[index] = np.asarray(calculate([pool[i] for i in index]), dtype=float)
        choices.append(
            wanted.assign(
                generation=len(rounds),
                structure=[pool[i].info["structure"] for i in index],
                calculated=energies[index],
            )
        )
        known = np.flatnonzero(np.isfinite(energies))
        hull = known[lower_hull(x[known], energies[known])]
        distance = above_hull(x[known], energies[known], np.searchsorted(known, hull))
        weights = structure_weights([pool[i] for i in known], distance, end_member_weight, hull_scale)
        fit = regression.fit(design[known], energies[known], weights, alpha, rng)
        folds = fold_indices(len(known), "kfold", min(CV_FOLDS, len(known)), rng)
        out = predict_out_of_fold(design[known], energies[known], weights, regression, alpha, folds)
        residual = rms(design[known] @ fit.coefficients - energies[known])
        left = np.flatnonzero(~asked)
        gap = gap_to_hull(design @ fit.coefficients, x, energies)[left]
        spread = np.einsum("ij,jk,ik->i", design[left], fit.covariance, design[left])
        row = {
            "generation": len(rounds),
            "n_calculations": int(asked.sum()),
            "n_structures": len(known),
            "cv": rms((out - energies[known])[mixed[known]]),
            "rmse": residual,
            "n_below_hull": int((gap < 0).sum()),
            "worst_violation": float(max(-gap.min(), 0.0)) if len(left) else 0.0,
            "largest_stderr": float(np.sqrt(max(spread.max(), 0.0))) if len(left) else 0.0,
            "hull": " ".join(pool[i].info["structure"] for i in hull),
            **(watch(fit, design, energies) if watch else {}),
        }
        quiet = quiet + 1 if is_calm(row, rounds[-1] if rounds else None, cv_tolerance) else 0
        rounds.append(row)
        settled = (quiet >= patience and strategy == "active") or not len(left)
        number = min(per_round, max_calculations - int(asked.sum()))
        if settled or number <= 0:
            table = pd.concat(choices, ignore_index=True).drop(columns="index")
            return LearningRun(pd.DataFrame(rounds), table, energies, fit, settled)
        if strategy == "random":
            rest = [i for i in shuffled if not asked[i]][:number]
            wanted = pd.DataFrame({"index": rest, "reason": RANDOM, "energy": np.nan, "energy_stderr": np.nan})
        else:
            wanted = propose(fit, design, x, energies, left, number, max(residual, 1e-6))
