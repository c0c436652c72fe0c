"""Linear regression of energies on correlation functions: a registry of methods, and cross-validation.

The first column of the design matrix is the constant and is never penalised: the penalty concerns interactions, not the
zero of energy. Rows carry weights; the covariance scales with the weighted residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Regression:
    """Coefficients of a linear model.

    Attributes:
        coefficients: shape (n_columns,).
        covariance: their posterior (or bootstrap) covariance, shape (n_columns, n_columns).
        effective_parameters: trace of the hat matrix, or the number of non-zero coefficients.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    effective_parameters: float


@dataclass(frozen=True)
class Method:
    """One way to regress.

    Attributes:
        solve: coefficients from (design, energies, weights, alpha): what cross-validation repeats.
        fit: the same with covariance, from (design, energies, weights, alpha, rng).
        penalised: whether it has a penalty alpha to choose by cross-validation.
    """

    solve: Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, float, np.random.Generator], Regression]
    penalised: bool


def _normal_matrix(design: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    penalty = alpha * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    return design.T @ (weights[:, None] * design) + penalty


def _solve_ridge(design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    return np.linalg.solve(_normal_matrix(design, weights, alpha), design.T @ (weights * energies))


def _fit_ridge(
    design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float, rng: np.random.Generator
) -> Regression:
    """Ridge; the covariance is the Bayesian posterior for the Gaussian prior that the penalty stands for."""
    coefficients = _solve_ridge(design, energies, weights, alpha)
    inverse = np.linalg.inv(_normal_matrix(design, weights, alpha))
    effective = float(np.trace(inverse @ design.T @ (weights[:, None] * design)))
    residual = energies - design @ coefficients
    variance = float(weights @ residual**2) / max(len(energies) - effective, 1.0)
    return Regression(coefficients, variance * inverse, effective)


def _centred(
    design: np.ndarray, energies: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the weighted problem without its constant: (rows, targets, mean of columns, mean of energies)."""
    share = weights / weights.sum()
    mean, level = share @ design[:, 1:], float(share @ energies)
    root = np.sqrt(weights)
    return root[:, None] * (design[:, 1:] - mean), root * (energies - level), mean, level


def _solve_lasso(design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    from sklearn.linear_model import Lasso

    rows, targets, mean, level = _centred(design, energies, weights)
    found = Lasso(alpha=alpha, fit_intercept=False, max_iter=20000, tol=1e-6).fit(rows, targets).coef_
    return np.concatenate([[level - mean @ found], found])


def _fit_lasso(
    design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float, rng: np.random.Generator
) -> Regression:
    """LASSO; the covariance is that of 100 bootstrap draws of the structures."""
    coefficients = _solve_lasso(design, energies, weights, alpha)
    rows = [rng.integers(0, len(energies), len(energies)) for _ in range(100)]
    draws = np.array([_solve_lasso(design[r], energies[r], weights[r], alpha) for r in rows])
    return Regression(coefficients, np.cov(draws.T), float(1 + np.count_nonzero(coefficients[1:])))


def _evidence(kind: str) -> Method:
    """Automatic relevance determination or Bayesian ridge (scikit-learn): the penalty comes from the evidence."""

    def fit(
        design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float, rng: np.random.Generator
    ) -> Regression:
        from sklearn import linear_model

        rows, targets, mean, level = _centred(design, energies, weights)
        model = getattr(linear_model, kind)(max_iter=1000, fit_intercept=False).fit(rows, targets)
        part = np.zeros((len(model.coef_), len(model.coef_)))
        kept = np.arange(len(part))
        if model.sigma_.shape != part.shape:  # ARD returns the covariance of the clusters it keeps
            kept = np.flatnonzero(model.lambda_ < model.threshold_lambda)
        part[np.ix_(kept, kept)] = model.sigma_
        covariance = np.zeros((len(part) + 1, len(part) + 1))
        covariance[1:, 1:] = part
        # constant = mean(energy) - mean(columns) . coefficients
        covariance[0, 0] = 1.0 / (model.alpha_ * weights.sum()) + mean @ part @ mean
        covariance[0, 1:] = covariance[1:, 0] = -part @ mean
        coefficients = np.concatenate([[level - mean @ model.coef_], model.coef_])
        return Regression(coefficients, covariance, float(1 + np.count_nonzero(model.coef_)))

    def solve(design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
        return fit(design, energies, weights, alpha, np.random.default_rng(0)).coefficients

    return Method(solve, fit, penalised=False)


METHODS: dict[str, Method] = {
    "ridge": Method(_solve_ridge, _fit_ridge, penalised=True),
    "lasso": Method(_solve_lasso, _fit_lasso, penalised=True),
    "ard": _evidence("ARDRegression"),
    "bayesian_ridge": _evidence("BayesianRidge"),
}


def fold_indices(n: int, kind: str, folds: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the test rows of each fold: every row alone (``loo``) or `folds` random parts (``kfold``)."""
    if kind == "loo":
        return [np.array([i]) for i in range(n)]
    return [np.sort(part) for part in np.array_split(rng.permutation(n), folds)]


def predict_out_of_fold(
    design: np.ndarray, energies: np.ndarray, weights: np.ndarray, method: str, alpha: float, folds: list[np.ndarray]
) -> np.ndarray:
    """Return each energy as predicted by a fit that has not seen it, shape (n,)."""
    predicted = np.empty(len(energies))
    for test in folds:
        train = np.setdiff1d(np.arange(len(energies)), test)
        solution = METHODS[method].solve(design[train], energies[train], weights[train], alpha)
        predicted[test] = design[test] @ solution
    return predicted
