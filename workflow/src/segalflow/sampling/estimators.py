"""Means and variances of weighted samples and of independent groups of samples, each with its standard error.

Importance weights and repairs by chains give the same estimates of an ensemble; they differ only in how means and their
errors come about. Values have the samples on the last axis (axes), the conditions on the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from segalflow.sampling.weights import log_shares, weighted_covariance, weighted_mean, weighted_variance

Estimates = dict[str, np.ndarray]
ValueAndError = tuple[np.ndarray, np.ndarray]


class Statistics(Protocol):
    """What estimates are made with; every method returns values and standard errors, (n_conditions, ...)."""

    def mean(self, values: np.ndarray) -> ValueAndError:
        """Mean of values."""
        ...

    def variance(self, values: np.ndarray) -> ValueAndError:
        """Variance, without its bias of first order."""
        ...

    def covariance(self, first: np.ndarray, second: np.ndarray) -> ValueAndError:
        """Covariance, likewise."""
        ...

    def shares(self, labels: np.ndarray, n_labels: int) -> ValueAndError:
        """Logarithm of the weight held by each label, (n_conditions, n_labels); -inf and NaN where none was seen."""
        ...


@dataclass(frozen=True, eq=False)
class WeightedSamples:
    """Independent draws with normalised weights, shape (n_conditions, n) (`segalflow.sampling.weights`)."""

    weights: np.ndarray

    def mean(self, values: np.ndarray) -> ValueAndError:
        """Mean and the delta method's error."""
        return weighted_mean(self.weights, values)

    def variance(self, values: np.ndarray) -> ValueAndError:
        """As `segalflow.sampling.weights.weighted_variance`."""
        return weighted_variance(self.weights, values)

    def covariance(self, first: np.ndarray, second: np.ndarray) -> ValueAndError:
        """As `segalflow.sampling.weights.weighted_covariance`."""
        return weighted_covariance(self.weights, first, second)

    def shares(self, labels: np.ndarray, n_labels: int) -> ValueAndError:
        """As `segalflow.sampling.weights.log_shares`."""
        return log_shares(self.weights, labels, n_labels)


@dataclass(frozen=True, eq=False)
class WeightedGroups:
    """Independent groups of samples; errors come from their spread (delta method for a ratio of means).

    Attributes:
        group: the groups' normalised weights, shape (n_conditions, groups).
        particle: the weights within them, of sum 1, shape (n_conditions, groups, n).
    """

    group: np.ndarray
    particle: np.ndarray

    @property
    def _factor(self) -> float:
        n = self.group.shape[1]
        return np.sqrt(n / (n - 1))

    def _mean(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and each group's weighted part of its deviation, (n_conditions[, groups])."""
        by_group = np.sum(self.particle * values, axis=-1)
        value = np.sum(self.group * by_group, axis=-1)
        return value, self.group * (by_group - value[:, None])

    def mean(self, values: np.ndarray) -> ValueAndError:
        """Mean of values (n_conditions, groups, n)."""
        value, parts = self._mean(values)
        return value, self._factor * np.sqrt(np.sum(parts**2, axis=-1))

    def variance(self, values: np.ndarray) -> ValueAndError:
        """Variance; what the mean itself is off by is added to the spread about it."""
        centre, error = self.mean(values)
        square, square_error = self.mean((values - centre[:, None, None]) ** 2)
        return square + error**2, square_error

    def covariance(self, first: np.ndarray, second: np.ndarray) -> ValueAndError:
        """Covariance, alike."""
        (a, parts_a), (b, parts_b) = self._mean(first), self._mean(second)
        product, error = self.mean((first - a[:, None, None]) * (second - b[:, None, None]))
        return product + self._factor**2 * np.sum(parts_a * parts_b, axis=-1), error

    def shares(self, labels: np.ndarray, n_labels: int) -> ValueAndError:
        """Logarithm of the weight of each label, (n_conditions, n_labels)."""
        n_mu, n_groups = self.group.shape
        by_group = np.zeros((n_mu, n_groups, n_labels))
        m, g, _ = np.indices(labels.shape)
        np.add.at(by_group, (m.ravel(), g.ravel(), labels.ravel().astype(int)), self.particle.ravel())
        share = np.sum(self.group[..., None] * by_group, axis=1)
        spread = (self.group[..., None] * (by_group - share[:, None])) ** 2
        error = self._factor * np.sqrt(np.sum(spread, axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(share), np.where(share > 0, error / share, np.nan)


def widen(estimates: Estimates, rest: Mapping[str, np.ndarray]) -> None:
    """Add to the errors what an excitation that was not seen could change (`unseen_excitation`), (n_conditions,)."""
    for name, more in rest.items():
        error = estimates[f"{name}_stderr"]
        estimates[f"{name}_stderr"] = np.hypot(error, more.reshape(-1, *[1] * (error.ndim - 1)))
