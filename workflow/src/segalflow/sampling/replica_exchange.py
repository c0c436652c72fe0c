"""Replica exchange over a grid in temperature and delta_mu, with what it has moved."""

from __future__ import annotations

from typing import Any

import numpy as np

from segalflow.energy.batch_chains import Chains
from segalflow.energy.lockstep import exchange_grid


class ReplicaExchange:
    """Exchanges of decorations between neighbouring rungs and between neighbouring delta_mu, in turn.

    A decoration that comes from the last rung (infinite temperature, where a sweep forgets everything) renews each
    condition it meets: `renewals` counts them, once for every rung and journey.

    Args:
        chains: one at every place of `shape`.
        shape: (n_rungs, n_delta_mu, copies); copies do not meet.
        rng: what the exchanges draw from.
        not_before: exchanges before this number are not counted.
    """

    def __init__(
        self, chains: Chains, shape: tuple[int, int, int], rng: np.random.Generator, not_before: int = 0
    ) -> None:
        self.chains, self.shape, self.rng, self.not_before = chains, shape, rng, not_before
        self.moves = [(axis, parity) for parity in (0, 1) for axis in (0, 1) if shape[axis] > 1]
        self.tried, self.taken = np.zeros((2, 2, *shape[:2]), dtype=np.int64)
        self.renewals = np.zeros(shape[:2], dtype=np.int64)
        self._decoration = np.arange(chains.n_chains)  # which decoration, by where it began, sits at a chain
        self._fresh = np.zeros((chains.n_chains, shape[0]), dtype=bool)  # by decoration: rungs it can still renew
        self._rung, self._column, _ = np.indices(shape).reshape(3, -1)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What changes, to be kept in a state file and restored in place."""
        return {
            "tried": self.tried, "taken": self.taken, "renewals": self.renewals, "decoration": self._decoration,
            "fresh": self._fresh,
        }  # fmt: skip

    def __call__(self, number: int) -> None:
        """Do exchange `number`."""
        axis, parity = self.moves[number % len(self.moves)]
        first, second, taken = exchange_grid(self.chains, self.shape, axis, parity, self.rng)
        a, b = first[taken], second[taken]
        self._decoration[a], self._decoration[b] = self._decoration[b], self._decoration[a]
        if number >= self.not_before:
            np.add.at(self.tried[axis], (self._rung[first], self._column[first]), 1)
            np.add.at(self.taken[axis], (self._rung[a], self._column[a]), 1)
        renewed = self._fresh[self._decoration, self._rung]
        if number >= self.not_before:
            np.add.at(self.renewals, (self._rung[renewed], self._column[renewed]), 1)
        self._fresh[self._decoration[renewed], self._rung[renewed]] = False
        self._fresh[self._decoration[self._rung == self.shape[0] - 1], :-1] = True

    def report(self, n_rungs: int) -> dict[str, Any]:
        """Return attributes of an ensemble table: accepted shares between neighbours, and renewals of `n_rungs` rungs.

        An entry of an accepted share belongs to the condition and its next in temperature, or in delta_mu.
        """
        share = np.round(self.taken / np.maximum(self.tried, 1), 4)
        return {
            "exchange_acceptance_temperature": share[0, : self.shape[0] - 1].tolist(),
            "exchange_acceptance_delta_mu": share[1, :n_rungs, : self.shape[1] - 1].tolist(),
            "renewals": self.renewals[:n_rungs].tolist(),
        }
