"""Linear regression of energies on correlation functions: a registry of methods, and cross-validation.

The first column of the design matrix is the constant and is never penalised: the penalty concerns interactions, not the
zero of energy. Rows carry weights; the covariance scales with the weighted residual.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from segalflow.errors import ExpansionError, suggest


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


def _ridge(penalise_constant: bool) -> Method:
    """Ridge; the covariance is the Bayesian posterior for the Gaussian prior that the penalty stands for."""

    def normal_matrix(design: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
        penalty = alpha * np.eye(design.shape[1])
        if not penalise_constant:
            penalty[0, 0] = 0.0
        return design.T @ (weights[:, None] * design) + penalty

    def solve(design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
        return np.linalg.solve(normal_matrix(design, weights, alpha), design.T @ (weights * energies))

    def fit(
        design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float, rng: np.random.Generator
    ) -> Regression:
        coefficients = solve(design, energies, weights, alpha)
        inverse = np.linalg.inv(normal_matrix(design, weights, alpha))
        effective = float(np.trace(inverse @ design.T @ (weights[:, None] * design)))
        residual = energies - design @ coefficients
        variance = float(weights @ residual**2) / max(len(energies) - effective, 1.0)
        return Regression(coefficients, variance * inverse, effective)

    return Method(solve, fit, penalised=True)


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


def cluster_prior(sizes: np.ndarray) -> Method:
    """Return Bayesian ridge with a prior that knows that interactions fade with distance and number of sites.

    The coefficient of a cluster of k sites and size d has the Gaussian prior of width
    ``tau exp(-a (d - 1) - b (k - 2))`` around zero (constant: flat). Noise, tau, a >= 0 and b >= 0 are those of largest
    evidence for the rows at hand (type-II maximum likelihood; such priors: Mueller and Ceder, Phys. Rev. B 80, 024103,
    2009), so that every fold of a cross-validation finds its own.

    Args:
        sizes: number of sites and largest distance (nearest neighbours: 1) of each column, shape (n_columns, 2).
    """
    order = np.maximum(np.asarray(sizes, float)[1:, 0] - 2.0, 0.0)
    reach = np.maximum(np.asarray(sizes, float)[1:, 1] - 1.0, 0.0)

    def width(a: float, b: float) -> np.ndarray:
        return np.exp(-a * reach - b * order)

    def hyperparameters(rows: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the penalty (noise over prior variance) and the relative widths of largest evidence."""
        from scipy.optimize import minimize

        gram, moment, power = rows.T @ rows, rows.T @ targets, float(targets @ targets)
        freedom = len(targets) - 1  # one is spent on the constant

        def negative_log_evidence(x: np.ndarray) -> float:
            alpha, scale = np.exp(x[0]), width(x[1], x[2])
            matrix = scale[:, None] * gram * scale + alpha * np.eye(len(scale))
            try:
                lower = np.linalg.cholesky(matrix)
            except np.linalg.LinAlgError:
                return np.inf
            half = np.linalg.solve(lower, scale * moment)
            misfit = max(power - float(half @ half), 1e-14 * power)
            log_determinant = 2.0 * float(np.log(np.diag(lower)).sum()) - len(scale) * x[0]
            return 0.5 * (freedom * np.log(misfit) + log_determinant)

        level = np.log(max(float(np.trace(gram)) / max(len(gram), 1), 1e-300))
        bounds = [(level - 30.0, level + 10.0), (0.0, 6.0), (0.0, 6.0)]
        starts = [np.array([level + shift, 1.0, 1.0]) for shift in (-4.0, -12.0)]
        found = min(
            (minimize(negative_log_evidence, s, bounds=bounds, method="L-BFGS-B") for s in starts), key=lambda f: f.fun
        ).x
        return float(np.exp(found[0])), width(found[1], found[2])

    def posterior(
        design: np.ndarray, energies: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return coefficients, the inverse of the penalised normal matrix, and the effective parameters."""
        rows, targets, mean, level = _centred(design, energies, weights)
        alpha, scale = hyperparameters(rows, targets)
        inverse = np.linalg.inv(scale[:, None] * (rows.T @ rows) * scale + alpha * np.eye(len(scale)))
        part = scale[:, None] * inverse * scale
        found = part @ (rows.T @ targets)
        covariance = np.zeros((len(part) + 1, len(part) + 1))
        covariance[1:, 1:] = part
        covariance[0, 0] = 1.0 / weights.sum() + mean @ part @ mean
        covariance[0, 1:] = covariance[1:, 0] = -part @ mean
        effective = float(1 + np.sum(part * (rows.T @ rows)))
        return np.concatenate([[level - mean @ found], found]), covariance, effective

    def solve(design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
        return posterior(design, energies, weights)[0]

    def fit(
        design: np.ndarray, energies: np.ndarray, weights: np.ndarray, alpha: float, rng: np.random.Generator
    ) -> Regression:
        coefficients, inverse, effective = posterior(design, energies, weights)
        residual = energies - design @ coefficients
        variance = float(weights @ residual**2) / max(len(energies) - effective, 1.0)
        return Regression(coefficients, variance * inverse, effective)

    return Method(solve, fit, penalised=False)


METHODS: dict[str, Method] = {
    "ridge": _ridge(penalise_constant=False),
    "lasso": Method(_solve_lasso, _fit_lasso, penalised=True),
    "ard": _evidence("ARDRegression"),
    "bayesian_ridge": _evidence("BayesianRidge"),
}


RIDGE_WITH_CONSTANT = _ridge(penalise_constant=True)
"""Ridge that penalises the constant like every other coefficient (as scikit-learn without an intercept does)."""

CLUSTER_PRIOR = "cluster_prior"
METHOD_NAMES = (*METHODS, CLUSTER_PRIOR)


def choose_method(name: str, sizes: np.ndarray | None = None, penalise_constant: bool = False) -> Method:
    """Return a method by name, made for the clusters it is to be used with.

    Args:
        name: one of `METHOD_NAMES`.
        sizes: for ``cluster_prior``: number of sites and largest distance of each cluster, shape (n_columns, 2),
            distances in units of that of the nearest neighbours.
        penalise_constant: for ``ridge``: whether the constant is penalised too.

    Raises:
        ExpansionError: if the name is unknown, the sizes are missing, or the constant of another method than ridge is
            to be penalised.
    """
    if name not in METHOD_NAMES:
        raise ExpansionError(
            f"method: unknown method '{name}', expected one of {', '.join(METHOD_NAMES)}{suggest(name, METHOD_NAMES)}"
        )
    if penalise_constant:
        if name != "ridge":
            raise ExpansionError(f"penalise_constant: expected method 'ridge', found '{name}'")
        return RIDGE_WITH_CONSTANT
    if name != CLUSTER_PRIOR:
        return METHODS[name]
    if sizes is None:
        raise ExpansionError("method: 'cluster_prior' needs the sizes of the clusters")
    return cluster_prior(sizes)


def fold_indices(
    n: int, kind: str, folds: int, rng: np.random.Generator, groups: Sequence[Hashable] | None = None
) -> list[np.ndarray]:
    """Return the test rows of each fold: every row alone (``loo``) or `folds` random parts (``kfold``).

    With `groups` (a label for each row) rows of one group stay together: ``loo`` leaves one group out at a time,
    ``kfold`` deals whole groups, in random order, each to the fold that is smallest.

    Raises:
        ExpansionError: if there are fewer rows, or groups, than folds.
    """
    if groups is None:
        if kind == "loo":
            return [np.array([i]) for i in range(n)]
        if folds > n:
            raise ExpansionError(f"cv.folds: {folds} folds but only {n} structures")
        return [np.sort(part) for part in np.array_split(rng.permutation(n), folds)]
    members: dict[Hashable, list[int]] = {}
    for row, label in enumerate(groups):
        members.setdefault(label, []).append(row)
    parts = list(members.values())
    if len(parts) < 2 or (kind != "loo" and folds > len(parts)):
        wanted = 2 if kind == "loo" else folds
        raise ExpansionError(f"cv.group: {wanted} folds but only {len(parts)} groups of structures")
    if kind == "loo":
        return [np.array(part) for part in parts]
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for number in rng.permutation(len(parts)):
        min(dealt, key=len).extend(parts[number])
    return [np.sort(part) for part in dealt]


def predict_out_of_fold(
    design: np.ndarray,
    energies: np.ndarray,
    weights: np.ndarray,
    method: str | Method,
    alpha: float,
    folds: list[np.ndarray],
) -> np.ndarray:
    """Return each energy as predicted by a fit that has not seen it, shape (n,)."""
    solve = (METHODS[method] if isinstance(method, str) else method).solve
    predicted = np.empty(len(energies))
    for test in folds:
        train = np.setdiff1d(np.arange(len(energies)), test)
        predicted[test] = design[test] @ solve(design[train], energies[train], weights[train], alpha)
    return predicted


def choose_penalty(
    design: np.ndarray,
    energies: np.ndarray,
    weights: np.ndarray,
    scored: np.ndarray,
    method: Method,
    alphas: Sequence[float],
    folds: list[np.ndarray],
) -> tuple[float, np.ndarray]:
    """Return the penalty with the smallest weighted cross-validation error, and all predictions out of fold.

    Args:
        design: shape (n, n_columns).
        energies: shape (n,).
        weights: shape (n,).
        scored: which rows count for the error, shape (n,), booleans.
        method: the regression; one without a penalty is cross-validated once.
        alphas: penalties to try.
        folds: test rows of each fold.
    """
    alphas = alphas if method.penalised else [0.0]
    tried = [(a, predict_out_of_fold(design, energies, weights, method, a, folds)) for a in alphas]
    return min(tried, key=lambda t: float(weights[scored] @ (t[1] - energies)[scored] ** 2))


def bootstrap_covariance(
    design: np.ndarray,
    energies: np.ndarray,
    weights: np.ndarray,
    method: Method,
    alpha: float,
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the covariance of the coefficients over bootstrap draws of the rows, shape (n_columns, n_columns)."""
    found = []
    for _ in range(draws):
        rows = rng.integers(0, len(energies), len(energies))
        found.append(method.solve(design[rows], energies[rows], weights[rows], alpha))
    return np.cov(np.array(found).T)
