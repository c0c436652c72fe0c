"""Whether a trained network knows the symmetry that its site order breaks: ln q of equivalent decorations, compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segalflow.errors import SamplingError
from segalflow.segal.sampler import TrainedSampler


@dataclass(frozen=True, eq=False)
class SymmetryCheck:
    """ln q of draws and of equivalent decorations at the same conditions.

    Attributes:
        log_q: of the draws, float64 (batch,).
        log_q_moved: of their images, float64 (batch,).
        flipped: which images also have all spins flipped, bool (batch,).
    """

    log_q: np.ndarray
    log_q_moved: np.ndarray
    flipped: np.ndarray

    @property
    def r_squared(self) -> float:
        """Squared correlation over all draws (1 for a perfectly symmetric network)."""
        return _r_squared(self.log_q, self.log_q_moved)

    @property
    def r_squared_flipped(self) -> float:
        """The same over the flipped images alone, NaN where there are fewer than two."""
        return _r_squared(self.log_q[self.flipped], self.log_q_moved[self.flipped])


def _r_squared(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left, right)[0, 1] ** 2) if len(left) > 1 else float("nan")


def check_symmetry(
    sampler: TrainedSampler,
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    draws: int = 4,
    flip_at: float | None = None,
) -> SymmetryCheck:
    """Compare ln q of draws with that of their images under random operations of the cell (as the SEGAL paper does).

    Args:
        sampler: the trained network.
        temperature, delta_mu: the grid, shape (n_temperatures,) and (n_delta_mu,).
        seed: seed of draws and operations.
        draws: draws of each condition.
        flip_at: the delta_mu at which exchanging the two species changes no Boltzmann weight (Ising: 0, no magnetic
            field): there every second image also has all spins flipped. None: no flips.

    Raises:
        SamplingError: if the model has no such symmetry at `flip_at`, or the grid does not hold it.
    """
    rng = np.random.default_rng([seed, 1])
    t, mu = (np.repeat(a.ravel(), draws) for a in np.meshgrid(temperature, delta_mu, indexing="ij"))
    spins, log_q, energy = sampler.sample(t, mu, seed)
    images = np.take_along_axis(spins, sampler.cell.random_permutations(len(spins), rng), axis=1)
    flipped = np.zeros(len(spins), dtype=bool)
    if flip_at is not None:
        there = np.flatnonzero(np.isclose(mu, flip_at, rtol=0, atol=1e-9))
        if not len(there):
            raise SamplingError(f"symmetry check: expected {flip_at:g} among the delta_mu, found {list(delta_mu)}")
        flipped[there[1::2]] = True
        images[flipped] *= -1
        own = _grand(sampler, spins[flipped], energy[flipped], flip_at)
        others = np.asarray(sampler.model.energy((images[flipped] > 0).astype(np.int8)), dtype=float)
        difference = np.abs(_grand(sampler, images[flipped], others, flip_at) - own).max()
        if difference > 1e-6 * sampler.model.boltzmann * t.min() * sampler.n_sites:
            raise SamplingError(
                f"symmetry check: exchanging the species at delta_mu = {flip_at:g} changes U - dmu N by up to "
                f"{difference:.3g} {sampler.model.energy_unit}, expected no change"
            )
    return SymmetryCheck(log_q, sampler.log_prob(images, t, mu), flipped)


def _grand(sampler: TrainedSampler, spins: np.ndarray, energy: np.ndarray, delta_mu: float) -> np.ndarray:
    return energy - delta_mu * (spins > 0).sum(axis=1)
