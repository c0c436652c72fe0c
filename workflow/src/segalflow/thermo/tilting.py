"""Sums over compositions of weights tilted by a chemical potential: what every boundary and path asks many times.

One exponential for each term serves the logarithm of the sum and the moments alike, and compositions that no curve
knows are left out beforehand: an ordered phase has samples at a few compositions only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def log_sum(values: np.ndarray) -> np.ndarray:
    """Return ``log sum exp`` over the last axis; -inf where no term is finite. Terms are finite or -inf."""
    top = _tops(values)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - top[..., None]).sum(axis=-1)) + top


def log_add(terms: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``log sum exp`` of arrays of one shape, -inf where none is finite; `np.logaddexp` takes far longer."""
    top = np.maximum.reduce(terms)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(sum(np.exp(term - top) for term in terms)) + top


def tilted_log_sum(log_weight: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return log of the sum over N of log weights (..., n_sites + 1) at a slope delta_mu/kT (`tilted`)."""
    return _terms(log_weight, slope)[0]


def tilted(log_weight: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log of the sum over N, mean and variance of N of log weights (..., n_sites + 1) at a slope delta_mu/kT.

    Args:
        log_weight: -inf where nothing is known.
        slope: broadcast against the leading axes.

    Returns:
        Three arrays of the broadcast shape; where nothing is known at all -inf, 0 and 0.
    """
    total, p, weight, n = _terms(log_weight, slope)
    weight = np.maximum(weight, 1e-300)
    mean = (p @ n) / weight
    return total, mean, np.maximum((p @ n**2) / weight - mean**2, 0.0)


def _terms(log_weight: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Log of the sum, the terms over the largest, their sum, and the numbers of atoms that any curve knows."""
    log_weight = np.asarray(log_weight)
    known = np.flatnonzero((log_weight > -np.inf).any(axis=tuple(range(log_weight.ndim - 1))))
    part = slice(known[0], known[-1] + 1) if len(known) else slice(0, 1)
    n = np.arange(log_weight.shape[-1], dtype=float)[part]
    values = np.asarray(slope, dtype=float)[..., None] * n
    values = values + log_weight[..., part]
    top = _tops(values)
    values -= top[..., None]
    np.exp(values, out=values)
    weight = values.sum(axis=-1)
    with np.errstate(divide="ignore"):
        return np.log(weight) + top, values, weight, n


def _tops(values: np.ndarray) -> np.ndarray:
    """The largest terms, 0 where none is finite."""
    top = values.max(axis=-1)
    return np.where(np.isfinite(top), top, 0.0)
