"""Errors of chains in several copies: calibrated where blocks say all, and where only the copies do."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.thermo.copies import widen_by_copies

BLOCKS = 20


def draws_of(copies: int, between: float, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Replicates and influences of means over blocks whose copies differ by `between` times their own noise."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((copies, 300, 2)) * np.sqrt(between / BLOCKS)
    blocks = (own[:, None] + rng.standard_normal((copies, BLOCKS, 300, 2))).reshape(-1, 300, 2)
    # Each pair is one isotherm; what its compositions share is an arbitrary constant of log weight.
    constant = 3 * rng.standard_normal((len(blocks), 300, 1))
    values = np.stack([blocks[..., 0] + constant[..., 0], constant[..., 0]], axis=-1)
    counts = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), 200) / len(blocks)
    mean = values.mean(axis=0)
    offsets = np.einsum("rb,btn->rtn", counts, values) - mean
    influences = (values.reshape(copies, BLOCKS, 300, 2).mean(axis=1) - mean) / copies
    return mean, widen_by_copies(offsets, influences, len(blocks), np.random.default_rng(seed + 1)), len(blocks)


@pytest.mark.parametrize(
    ("copies", "between", "lowest"), [(4, 0.0, 0.92), (8, 0.0, 0.92), (4, 20.0, 0.89), (8, 20.0, 0.91), (8, 4.0, 0.90)]
)
def test_intervals_cover_whether_blocks_or_copies_tell(copies: int, between: float, lowest: float) -> None:
    covered, width = [], []
    for seed in range(10):
        mean, offsets, _ = draws_of(copies, between, 10 * seed)
        # Only differences of compositions mean anything; their true value is zero.
        error = (offsets[..., 0] - offsets[..., 1]).std(axis=0, ddof=1)
        covered.append(np.abs(mean[:, 0] - mean[:, 1]) <= 1.96 * error)
        width.append(np.median(error) * np.sqrt(copies * BLOCKS / (1 + between)))
    assert lowest <= np.mean(covered) <= 0.985
    assert 0.95 < np.mean(width) < 1.5


def test_single_chains_and_unknown_compositions_stay_as_they_are() -> None:
    offsets = np.random.default_rng(0).standard_normal((20, 2, 3))
    assert widen_by_copies(offsets, np.ones((1, 2, 3)), 20, np.random.default_rng(0)) is offsets
    offsets[3, 0, 1] = -np.inf
    wide = widen_by_copies(offsets, np.ones((2, 2, 3)) * [[[1]], [[-1]]], 20, np.random.default_rng(0))
    assert np.array_equal(wide[:, 0, 1], offsets[:, 0, 1])
    assert np.isfinite(np.delete(wide.reshape(20, 6), 1, axis=1)).all()
