"""One Markov chain at a time: for few chains, where lock step leaves its lanes idle.

The other sites of a monomial are packed into one 64-bit word, so a product of spins is one load of the word and one of
every spin, all as exclusive ors of bits; coefficients multiply whole groups.
"""

from __future__ import annotations

import numba
import numpy as np

from segalflow.energy.groups import site_groups
from segalflow.energy.kernels import draw_words
from segalflow.energy.lockstep import RULES, seed_states
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.errors import SamplingError, suggest

MAX_ORDER = 5
"""Largest number of spins in a monomial: four other sites of 16 bits fill a word."""
MAX_SITES = 2**16 - 1


class SingleChain:
    """A semi-grand-canonical chain of one spin polynomial.

    A step tries to flip one site drawn at random. Fields are sums of integer counts times float64 coefficients.

    Args:
        model: the energy; monomials of at most `MAX_ORDER` spins, at most `MAX_SITES` sites.
        temperature: K (or J/k_B).
        delta_mu: eV (or J).
        seed: seed of the draws.
        rule: a key of `segalflow.energy.lockstep.RULES`.
        spins: +-1, shape (n_sites,); all -1 if None.

    Raises:
        SamplingError: for an unknown rule, a temperature that is not positive, or a model beyond the limits.
    """

    def __init__(
        self,
        model: SpinPolynomial,
        temperature: float,
        delta_mu: float,
        seed: int,
        rule: str = "metropolis",
        spins: np.ndarray | None = None,
    ) -> None:
        if rule not in RULES:
            raise SamplingError(
                f"unknown acceptance rule '{rule}', expected one of {', '.join(RULES)}{suggest(rule, RULES)}"
            )
        if not temperature > 0:
            raise SamplingError(f"single chain: expected a positive temperature, found {temperature}")
        if model.max_order > MAX_ORDER or model.n_sites > MAX_SITES:
            raise SamplingError(
                f"single chain: expected at most {MAX_ORDER} spins in a monomial and {MAX_SITES} sites, found "
                f"{model.max_order} and {model.n_sites}"
            )
        self.model, self.rule, self.temperature, self.delta_mu = model, rule, temperature, delta_mu
        table = site_groups(model, pack=1)
        self._table = (table.start, table.n_others, table.n_packs, 4.0 * table.coefficient, 2.0 * table.base)
        self._first, self._words = _pack(table.n_others, table.n_packs, table.position, table.index)
        self._negative = np.ones(model.n_sites, dtype=np.uint8)
        self._state = seed_states(seed, 1)
        self.energy_evaluations = 0
        if spins is not None:
            self.spins = spins

    @property
    def spins(self) -> np.ndarray:
        """Decoration as +-1, int8, shape (n_sites,)."""
        return (1 - 2 * self._negative.view(np.int8)).astype(np.int8)

    @spins.setter
    def spins(self, values: np.ndarray) -> None:
        values = np.asarray(values)
        if values.shape != (self.model.n_sites,) or not np.all(np.abs(values) == 1):
            raise SamplingError(f"single chain: expected +-1 spins of shape {(self.model.n_sites,)}")
        self._negative[:] = values < 0

    def energy(self) -> float:
        """Return the total energy U, eV (or J)."""
        return float(self.model.energy_of_spins(self.spins[None])[0])

    def doubled_field(self, site: int) -> float:
        """Return 2 h of one site, with ``U = s h + rest``, eV (or J)."""
        return float(_doubled_field(self._negative, site, *self._table, self._first, self._words))

    def run(self, n_steps: int) -> float:
        """Do `n_steps` trial flips and return the accepted fraction."""
        beta = 1.0 / (self.model.boltzmann * self.temperature)
        accepted = _run(
            n_steps, self._negative, *self._table, self._first, self._words, beta, self.delta_mu, RULES[self.rule],
            self._state,
        )  # fmt: skip
        self.energy_evaluations += n_steps
        return accepted / max(n_steps, 1)


def _pack(
    n_others: np.ndarray, counts: np.ndarray, position: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first word of every group and the words: 16 bits for each other site."""
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64) if len(counts) else np.zeros(0, np.int64)
    words = np.zeros(int(counts.sum()), dtype=np.uint64)
    for k in np.unique(n_others):
        groups = np.flatnonzero(n_others == k)
        size = counts[groups]
        rank = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        target, source = np.repeat(first[groups], size) + rank, np.repeat(position[groups], size) + rank * k
        for j in range(k):
            words[target] |= index[source + j].astype(np.uint64) << np.uint64(16 * j)
    return first, words


@numba.njit(cache=True, inline="always")
def _doubled_field(negative, site, start, n_others, counts, factor, base, first, words):  # pragma: no cover - compiled
    """2 h: the sum of the coefficients less twice those of the negative products."""
    low = np.uint64(0xFFFF)
    total = base[site]
    for g in range(start[site], start[site + 1]):
        begin, end = first[g], first[g] + counts[g]
        ones = np.int64(0)
        if n_others[g] == 1:
            for m in range(np.uint64(begin), np.uint64(end)):
                ones += negative[words[m]]
        elif n_others[g] == 2:
            for m in range(np.uint64(begin), np.uint64(end)):
                w = words[m]
                ones += negative[w & low] ^ negative[w >> np.uint64(16)]
        elif n_others[g] == 3:
            for m in range(np.uint64(begin), np.uint64(end)):
                w = words[m]
                ones += negative[w & low] ^ negative[(w >> np.uint64(16)) & low] ^ negative[w >> np.uint64(32)]
        else:
            for m in range(np.uint64(begin), np.uint64(end)):
                w = words[m]
                ones += (
                    negative[w & low]
                    ^ negative[(w >> np.uint64(16)) & low]
                    ^ negative[(w >> np.uint64(32)) & low]
                    ^ negative[w >> np.uint64(48)]
                )
        total -= factor[g] * ones
    return total


@numba.njit(cache=True)
def _run(
    n_steps, negative, start, n_others, counts, factor, base, first, words, beta, delta_mu, heat_bath, state
):  # pragma: no cover - compiled
    drawn = np.empty(1, np.uint64)
    n_sites = np.uint64(negative.shape[0])
    accepted = 0
    for _ in range(n_steps):
        draw_words(state, drawn)
        word = drawn[0]
        # 24 bits choose the site, 40 decide; sites differ by n_sites / 2^24, but a flip and its reverse do not.
        site = np.int64(((word >> np.uint64(40)) * n_sites) >> np.uint64(24))
        uniform = (np.float64(word & np.uint64(0xFFFFFFFFFF)) + 0.5) * 2.0**-40
        field = _doubled_field(negative, site, start, n_others, counts, factor, base, first, words)
        # Change of U - dmu N on flipping, over kT.
        change = -(1.0 - 2.0 * negative[site]) * (field - delta_mu) * beta
        if heat_bath:
            flip = uniform * (1.0 + np.exp(min(change, 700.0))) < 1.0
        else:
            flip = change <= 0.0 or uniform < np.exp(-change)
        if flip:
            negative[site] ^= np.uint8(1)
            accepted += 1
    return accepted
