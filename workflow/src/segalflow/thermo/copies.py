"""Errors of chains that exist in several independent copies: what blocks of a chain do not tell, its copies do.

A phase that nucleates once in a run gives all blocks of that run alike, so that the spread of blocks says nothing of
it. Copies of the whole grid never meet, and their spread does, if with few degrees of freedom. Where it exceeds that of
the blocks the excess is added to the replicates, and both are widened by the factor of Student's t with as many
degrees of freedom as the sum has (Satterthwaite 1946): hardly any where blocks and copies agree, those of the copies
where the excess prevails.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.975
"""Quantile at which t is compared with the normal distribution: that of two-sided 95 % intervals."""

ROUNDS = 5
"""Rounds of weighting compositions by their spread."""


def widen_by_copies(offsets: np.ndarray, influences: np.ndarray, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Return offsets of replicates that also scatter as the copies do.

    What the compositions of a row share (a constant of log weight, which no boundary depends on) and the rest are
    judged apart: else a constant that either is unsure of would hide where they differ.

    Args:
        offsets: replicates less the estimate, from blocks, (n_replicates, n_t, n_compositions); not finite where a
            replicate holds nothing.
        influences: change of the estimate with the logarithm of the weight of each copy, (n_copies, n_t,
            n_compositions).
        n_blocks: number of blocks that were resampled.
        rng: what the additional draws are made with.
    """
    n_copies = len(influences)
    if n_copies < 2 or len(offsets) < 2:
        return offsets
    known = np.isfinite(offsets).all(axis=0) & np.isfinite(influences).all(axis=0)
    drawn = rng.standard_normal((len(offsets), n_copies)) * np.sqrt(n_copies / (n_copies - 1))
    by_block, by_copy = np.where(known, offsets, 0.0), np.where(known, influences, 0.0)
    constants = _constants(by_block, by_copy, known)
    freedom = min(n_blocks, len(offsets)) - 1
    wide = _joined(*constants, drawn, freedom)
    wide = wide + _joined(by_block - constants[0], by_copy - constants[1], drawn, freedom)
    return np.where(known, wide, offsets)


def _constants(by_block: np.ndarray, by_copy: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """Means over compositions of both, (..., n_t, 1), weighted by how sure a composition is relative to the others."""
    share = known.astype(float)
    for _ in range(ROUNDS):
        share /= np.maximum(share.sum(axis=-1, keepdims=True), 1e-300)
        constants = [np.sum(v * share, axis=-1, keepdims=True) for v in (by_block, by_copy)]
        spread = np.mean((by_block - constants[0]) ** 2, axis=0) + np.sum((by_copy - constants[1]) ** 2, axis=0)
        # A constant of one composition alone would leave that without an error.
        lowest = np.min(np.where(known, spread, np.inf), axis=-1, keepdims=True)
        share = np.where(known, 1.0 / np.maximum(spread, np.where(np.isfinite(lowest), 4 * lowest, 1.0) + 1e-300), 0.0)
    return constants


def _joined(by_block: np.ndarray, by_copy: np.ndarray, drawn: np.ndarray, freedom: float) -> np.ndarray:
    """Offsets by block and by copy (`drawn` times their influences) with the variance that the module states."""
    n_copies = len(by_copy)
    blocks = np.mean(by_block**2, axis=0)
    copies = np.sum(by_copy**2, axis=0) * n_copies / (n_copies - 1)
    excess = np.maximum(copies - blocks, 0.0)
    total = blocks + excess
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = total**2 / (blocks**2 / freedom + excess**2 / (n_copies - 1))
        part = np.where(copies > 0, np.sqrt(excess / np.where(copies > 0, copies, 1.0)), 0.0)
    degrees = np.where(total > 0, degrees, freedom)
    factor = stdtrit(degrees, LEVEL) / stdtrit(np.inf, LEVEL)
    return factor * (by_block + part * np.einsum("rc,c...->r...", drawn, by_copy))
