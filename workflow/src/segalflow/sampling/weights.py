"""Self-normalised importance sampling as pure functions of log weights; everything stays in log space.

Arrays have the samples on the last axis. With normalised weights W, ``<O> = sum W O``; its variance by the delta method
is ``sum W^2 (O - <O>)^2``, and the same holds for any smooth function of means with its influence function for O - <O>.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def log_mean_weight(log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log of the mean weight (log Z where ``w = unnormalised p / q``) and its standard error."""
    n = log_w.shape[-1]
    value = logsumexp(log_w, axis=-1) - np.log(n)
    spread = np.var(np.exp(log_w - value[..., None]), axis=-1, ddof=1)
    return value, np.sqrt(spread / n)


def normalised_weights(log_w: np.ndarray) -> np.ndarray:
    """Return weights that sum to one over the last axis."""
    return np.exp(log_w - logsumexp(log_w, axis=-1, keepdims=True))


def normalised_ess(log_w: np.ndarray) -> np.ndarray:
    """Return the normalised effective sample size ``(sum w)^2 / (n sum w^2)``, between 1/n and 1."""
    weights = normalised_weights(log_w)
    return 1.0 / (log_w.shape[-1] * np.sum(weights**2, axis=-1))


def normalised_ess_of_targets(log_w: np.ndarray, log_z: np.ndarray) -> np.ndarray:
    """Return the normalised effective sample size seen from the target (the p side), shape (...).

    ``1 / NESS = E_q[w^2] / Z^2 = E_p[w] / Z`` with w the unnormalised p over q. The mean over samples of p notices
    states that q never draws, which q's own weights cannot; noise above 1 is cut.

    Args:
        log_w: log weights of decorations drawn from p, shape (..., n).
        log_z: log Z as q finds it, shape (...): where q misses a phase it is too low, and so is the result.
    """
    return np.minimum(1.0, np.exp(log_z - logsumexp(log_w, axis=-1) + np.log(log_w.shape[-1])))


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean over the last axis and its standard error."""
    mean = np.sum(weights * values, axis=-1)
    return mean, np.sqrt(np.sum((weights * (values - mean[..., None])) ** 2, axis=-1))


def weighted_variance(weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted variance over the last axis and its standard error.

    The bias of order 1/ESS is taken out: ``sum W (v - <v>)^2 / (1 - sum W^2)``. In the error the largest contribution
    counts twice: where a few rare excitations make the variance, those drawn are Poisson numbers, and too few of them
    would make the estimate and its error too small at once. With many like contributions it changes nothing.
    """
    mean = np.sum(weights * values, axis=-1, keepdims=True)
    square = (values - mean) ** 2
    raw = np.sum(weights * square, axis=-1)
    factor = 1.0 / np.maximum(1.0 - np.sum(weights**2, axis=-1), 1e-300)
    contribution = (weights * (square - raw[..., None])) ** 2
    stderr = np.sqrt(np.sum(contribution, axis=-1) + np.max(contribution, axis=-1))
    return raw * factor, stderr * factor


def weighted_covariance(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted covariance over the last axis and its standard error, as `weighted_variance` does."""
    off = [v - np.sum(weights * v, axis=-1, keepdims=True) for v in (first, second)]
    product = off[0] * off[1]
    raw = np.sum(weights * product, axis=-1)
    factor = 1.0 / np.maximum(1.0 - np.sum(weights**2, axis=-1), 1e-300)
    contribution = (weights * (product - raw[..., None])) ** 2
    stderr = np.sqrt(np.sum(contribution, axis=-1) + np.max(contribution, axis=-1))
    return raw * factor, stderr * factor


def log_shares(weights: np.ndarray, labels: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of the weight held by each label and its standard error, shape (..., n_labels).

    A label without samples has -inf, and NaN for its error.
    """
    flat_w, flat_l = weights.reshape(-1, weights.shape[-1]), labels.reshape(-1, labels.shape[-1])
    share = np.stack([np.bincount(k, weights=w, minlength=n_labels) for w, k in zip(flat_w, flat_l, strict=True)])
    square = np.stack([np.bincount(k, weights=w**2, minlength=n_labels) for w, k in zip(flat_w, flat_l, strict=True)])
    total = np.sum(flat_w**2, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(share)
        # variance of a share: sum over samples of W^2 (indicator - share)^2
        stderr = np.sqrt(square * (1 - 2 * share) + share**2 * total) / share
    stderr[share == 0] = np.nan
    shape = (*weights.shape[:-1], n_labels)
    return value.reshape(shape), stderr.reshape(shape)
