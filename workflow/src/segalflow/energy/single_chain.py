"""One Markov chain at a time: for few chains, where lock step leaves its lanes idle."""

from __future__ import annotations

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.kernels import draw_words
from segalflow.energy.lockstep import RULES, seed_states
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.energy.surroundings import doubled_field, surroundings
from segalflow.errors import SamplingError, suggest


class SingleChain:
    """A semi-grand-canonical chain of one spin polynomial.

    A step tries to flip one site drawn at random. Fields are sums of integer counts times float64 coefficients.

    Args:
        model: the energy.
        temperature: K (or J/k_B).
        delta_mu: eV (or J).
        seed: seed of the draws.
        rule: a key of `segalflow.energy.lockstep.RULES`.
        spins: +-1, shape (n_sites,); all -1 if None.

    Raises:
        SamplingError: for an unknown rule or a temperature that is not positive.
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
        self.model, self.rule, self.temperature, self.delta_mu = model, rule, temperature, delta_mu
        self._near = surroundings(model)
        self._words = self._near.work_space()
        self._negative = np.ones(model.n_sites + 1, dtype=np.uint8)
        self._negative[-1] = 0
        self._state = seed_states(seed, 1)
        self.energy_evaluations = 0
        if spins is not None:
            self.spins = spins

    @property
    def spins(self) -> np.ndarray:
        """Decoration as +-1, int8, shape (n_sites,)."""
        return (1 - 2 * self._negative[:-1].view(np.int8)).astype(np.int8)

    @spins.setter
    def spins(self, values: np.ndarray) -> None:
        values = np.asarray(values)
        if values.shape != (self.model.n_sites,) or not np.all(np.abs(values) == 1):
            raise SamplingError(f"single chain: expected +-1 spins of shape {(self.model.n_sites,)}")
        self._negative[:-1] = values < 0

    def energy(self) -> float:
        """Return the total energy U, eV (or J)."""
        return float(self.model.energy_of_spins(self.spins[None])[0])

    def doubled_field(self, site: int) -> float:
        """Return 2 h of one site, with ``U = s h + rest``, eV (or J)."""
        return float(_field(self._negative, site, self._words, self._near))

    def run(self, n_steps: int) -> float:
        """Do `n_steps` trial flips and return the accepted fraction."""
        beta = 1.0 / (self.model.boltzmann * self.temperature)
        accepted = _run(
            n_steps, self._negative, self._words, self._near, beta, self.delta_mu, RULES[self.rule], self._state
        )
        self.energy_evaluations += n_steps
        return accepted / max(n_steps, 1)


@numba.njit(cache=True, fastmath=False)
def _field(negative, site, words, near):  # pragma: no cover - compiled
    kind, neighbours, start, n_others, first, position, factor, base, masks, windows, look_up = near
    return doubled_field(
        negative, site, words, kind, neighbours, start, n_others, first, position, factor, base, masks, windows,
        look_up,
    )  # fmt: skip


@numba.njit(cache=True, fastmath=False)
def _run(n_steps, negative, words, near, beta, delta_mu, heat_bath, state):  # pragma: no cover - compiled
    kind, neighbours, start, n_others, first, position, factor, base, masks, windows, look_up = near
    drawn = np.empty(1, np.uint64)
    n_sites = np.uint64(negative.shape[0] - 1)
    accepted = 0
    for _ in range(n_steps):
        draw_words(state, drawn)
        word = drawn[0]
        # 24 bits choose the site, 40 decide; sites differ by n_sites / 2^24, but a flip and its reverse do not.
        site = np.int64(((word >> np.uint64(40)) * n_sites) >> np.uint64(24))
        uniform = (np.float64(word & np.uint64(0xFFFFFFFFFF)) + 0.5) * 2.0**-40
        field = doubled_field(
            negative, site, words, kind, neighbours, start, n_others, first, position, factor, base, masks, windows,
            look_up,
        )  # fmt: skip
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
