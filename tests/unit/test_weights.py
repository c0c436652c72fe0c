from __future__ import annotations

import numpy as np
import pytest

from segalflow.sampling.weights import (
    log_mean_weight,
    log_shares,
    normalised_ess,
    normalised_weights,
    weighted_mean,
    weighted_variance,
)


def test_equal_weights_are_plain_statistics() -> None:
    values = np.random.default_rng(0).normal(size=(3, 500))
    weights = normalised_weights(np.full((3, 500), -700.0))
    assert normalised_ess(np.full((3, 500), 900.0)) == pytest.approx([1, 1, 1])
    mean, error = weighted_mean(weights, values)
    assert np.allclose(mean, values.mean(1))
    assert np.allclose(error, values.std(1) / np.sqrt(500))
    assert np.allclose(weighted_variance(weights, values)[0], values.var(1, ddof=1))


def test_one_heavy_weight_leaves_one_sample() -> None:
    log_w = np.zeros(100)
    log_w[7] = 800.0
    assert normalised_ess(log_w) == pytest.approx(0.01)


def test_errors_are_calibrated() -> None:
    """Known target and proposal: z-scores of mean, variance, log Z over repeats are unit normal."""
    rng = np.random.default_rng(1)
    draws = rng.normal(0.0, 1.3, size=(2000, 400))
    # Target: unnormalised exp(-(v - 0.5)^2 / 2), mean 0.5, variance 1, Z = sqrt(2 pi).
    log_q = -0.5 * (draws / 1.3) ** 2 - np.log(1.3 * np.sqrt(2 * np.pi))
    log_w = -0.5 * (draws - 0.5) ** 2 - log_q
    weights = normalised_weights(log_w)
    for (value, error), exact in (
        (weighted_mean(weights, draws), 0.5),
        (weighted_variance(weights, draws), 1.0),
        (log_mean_weight(log_w), 0.5 * np.log(2 * np.pi)),
    ):
        z = (value - exact) / error
        assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.95, abs=0.025)
        assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=0.1)


def test_shares_add_up_and_unseen_labels_say_so() -> None:
    weights = np.array([[0.2, 0.3, 0.5]])
    value, error = log_shares(weights, np.array([[0, 2, 2]]), 4)
    assert np.exp(value[0]) == pytest.approx([0.2, 0.0, 0.8, 0.0])
    assert np.isnan(error[0, 1])
    assert error[0, 0] > 0
