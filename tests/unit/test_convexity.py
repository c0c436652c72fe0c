"""The bound that a neighbour sets on log Z finds chains that miss the stable phase."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from segalflow.sampling.convexity import below_bounds

BETA = np.array([30.0, 25.0, 20.0])
MU = np.linspace(-0.05, 0.05, 11)


def two_phases(missed: tuple[int, int] | None = None):
    """Two compounds of 30 and 60 atoms, equal at delta_mu = 0.013; at `missed` only the first is sampled."""
    n, u = np.array([30.0, 60.0]), np.array([0.0, 0.013 * 30])
    tilt = -BETA[:, None, None] * (u - MU[:, None] * n)
    if missed:
        tilt[(*missed, 1)] = -np.inf
    log_z = logsumexp(tilt, axis=-1)
    p = np.exp(tilt - log_z[..., None])
    return log_z, p @ u, p @ n


def flagged(missed=None, error=0.05, known=True):
    log_z, energy, n_atoms = two_phases(missed)
    none = np.zeros(log_z.shape)
    return below_bounds(
        BETA, MU, log_z, none + error, energy, none, n_atoms, none, np.full(log_z.shape, known)
    )  # fmt: skip


def test_a_missed_phase_is_found_and_nothing_else():
    assert not flagged().any()
    assert np.argwhere(flagged((1, 8))).tolist() == [[1, 8]]


def test_where_both_phases_weigh_the_same_a_bound_says_nothing():
    assert not flagged((1, 6)).any()  # delta_mu = 0.01: the second phase is the rarer one


def test_a_bound_counts_beyond_the_errors_and_from_reliable_neighbours_only():
    assert not flagged((1, 8), error=3.0).any()
    assert not flagged((1, 8), known=False).any()
