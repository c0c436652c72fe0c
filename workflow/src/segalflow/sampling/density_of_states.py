"""Densities of states from flat-histogram walkers, and what follows from them at any temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from segalflow.sampling.statistics import jackknife_error, student_factor


@dataclass(frozen=True, eq=False)
class DensityOfStates:
    """A density of states: fixed weights and what walkers saw under them.

    Attributes:
        bias: learnt log number of states up to a constant, shape (n_rows, n_bins), by which production was weighted;
            rows are the numbers of +1 spins (0 to n_sites), or one row of all of them.
        sums: visits in production, and the sums of energy and squared energy relative to `centre` over them, shape
            (3, walkers, n_rows, n_bins).
        centre: middle of every bin, eV, shape (n_bins,).
        log_states: log of the exact number of states of each row, shape (n_rows,).
        one_over_t: whether a walker reached the 1/t stage, shape (walkers,).
        log_f: last log f of each walker, shape (walkers,).
        steps: trial flips of each walker in the search, while learning and in production, shape (walkers, 3).
    """

    bias: np.ndarray
    sums: np.ndarray
    centre: np.ndarray
    log_states: np.ndarray
    one_over_t: np.ndarray
    log_f: np.ndarray
    steps: np.ndarray

    def weights(
        self, beta: np.ndarray, walkers: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``log sum exp(-beta U)`` of bins, and mean and variance of U (eV) in bins, each state counted once.

        Rows are normalised to their exact number of states (beta = 0 gives log g); bins without a visit are -inf. A
        bin counts with its second cumulant: ``<exp(-beta U)> = exp(-beta u + beta^2 v / 2)``.

        Args:
            beta: 1/kT, shape (n_temperatures,).
            walkers: which walkers to use, any index of their axis.

        Returns:
            shapes (n_temperatures, n_rows, n_bins), (n_rows, n_bins), (n_rows, n_bins).
        """
        visits, first, second = self.sums[:, walkers].sum(axis=1)
        with np.errstate(divide="ignore"):
            log_g = self.bias + np.log(visits)
        log_g = log_g + (self.log_states - _finite(logsumexp(log_g, axis=1)))[:, None]
        count = np.maximum(visits, 1.0)
        u = first / count
        v = np.maximum(second / count - u**2, 0.0)
        u = self.centre + u
        b = np.asarray(beta, dtype=float)[:, None, None]
        return log_g - b * u + 0.5 * b**2 * v, u, v

    def by_row(
        self, beta: np.ndarray, walkers: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``log sum exp(-beta U)``, mean and variance of U (eV) of rows, shapes (n_temperatures, n_rows)."""
        log_weight, u, v = self.weights(beta, walkers)
        total = logsumexp(log_weight, axis=2)
        share = np.exp(log_weight - _finite(total)[..., None])
        tilted = u - np.asarray(beta, dtype=float)[:, None, None] * v
        mean = (share * tilted).sum(axis=2)
        return total, mean, (share * (v + (tilted - mean[..., None]) ** 2)).sum(axis=2)

    def incomplete(self, beta: np.ndarray) -> np.ndarray:
        """Return the share of each row's weight in bins that some walker missed, shape (n_temperatures, n_rows)."""
        log_weight = self.weights(beta)[0]
        share = np.exp(log_weight - _finite(logsumexp(log_weight, axis=2, keepdims=True)))
        return (share * (self.sums[0] == 0).any(axis=0)).sum(axis=2)

    def canonical(self, beta: np.ndarray) -> dict[str, np.ndarray]:
        """Return log Z, energy (eV) and heat capacity (k_B) of the cell at delta_mu = 0 with jackknife errors.

        Args:
            beta: 1/kT, shape (n_temperatures,).

        Returns:
            ``log_z``, ``energy``, ``heat_capacity`` and each ``<name>_stderr``, shapes (n_temperatures,).
        """

        def estimate(walkers: np.ndarray | slice = slice(None)) -> np.ndarray:
            log_weight, mean, variance = self.by_row(beta, walkers)
            log_z = logsumexp(log_weight, axis=1)
            share = np.exp(log_weight - log_z[:, None])
            energy = (share * mean).sum(axis=1)
            spread = (share * (variance + (mean - energy[:, None]) ** 2)).sum(axis=1)
            return np.stack([log_z, energy, np.asarray(beta) ** 2 * spread])

        walkers = np.arange(self.sums.shape[1])
        left = np.stack([estimate(walkers != left_out) for left_out in walkers])
        error = student_factor(len(walkers)) * jackknife_error(left)
        names = ("log_z", "energy", "heat_capacity")
        both = zip((*names, *(f"{name}_stderr" for name in names)), (*estimate(), *error), strict=True)
        return dict(both)


def _finite(logs: np.ndarray) -> np.ndarray:
    """Return logs with 0 for -inf, so that nothing subtracted from nothing is not nan."""
    return np.where(np.isfinite(logs), logs, 0.0)
