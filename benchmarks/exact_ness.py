"""Exact effective sample sizes of a proposal on cells whose states can all be enumerated.

``1 / NESS = sum_s p(s)^2 / q(s)`` holds every state, also those that no sample of either side would ever show. Cells of
up to 16 sites are summed state by state. On larger ones p is still known for every state, and states of equal
energy and composition (symmetry orbits) form a level: every level that holds more than `EVERY` of the probability is
looked at, in proportion, rarer ones by lot and with weights that keep the sum unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segalflow.energy.polynomial import SpinPolynomial
from segalflow.sampling.enumeration import blocks_of_states
from segalflow.sampling.proposal import MixtureProposal, hotter_temperature
from segalflow.segal.sampler import TrainedSampler

EVERY = 1e-5
"""Probability of a level from which on it is looked at for certain."""
STATES, RARE = 6000, 3000
"""States looked at for each condition: in proportion to their probability, and of rare levels by lot."""
ALL_STATES = 16
"""Sites up to which all states are summed one by one."""


@dataclass(frozen=True, eq=False)
class Levels:
    """All states of a cell by energy and composition.

    Attributes:
        order: numbers of the states (bit i set: site i has spin +1), level by level, uint32.
        first: where each level begins in `order`, and its end, int64 (n_levels + 1,).
        energy, n_plus: of each level, (n_levels,).
        n_sites: number of sites.
    """

    order: np.ndarray
    first: np.ndarray
    energy: np.ndarray
    n_plus: np.ndarray
    n_sites: int

    def spins(self, places: np.ndarray) -> np.ndarray:
        """Return the spins, int8 (n, n_sites), of the states at `places` in `order`."""
        number = self.order[places].astype(np.int64)
        return (2 * ((number[:, None] >> np.arange(self.n_sites)) & 1) - 1).astype(np.int8)


def levels_of(model: SpinPolynomial, tolerance: float = 1e-8) -> Levels:
    """Return the levels of a polynomial; energies within `tolerance` count as equal."""
    n = model.n_sites
    key, at = np.empty(2**n, dtype=np.int64), 0
    for energies, n_plus in blocks_of_states(model, "states"):
        key[at : at + len(energies)] = np.rint(energies / tolerance).astype(np.int64) * 64 + n_plus
        at += len(energies)
    order = np.argsort(key)
    key = key[order]
    first = np.concatenate([[0], np.flatnonzero(np.diff(key)) + 1, [len(key)]])
    found = key[first[:-1]]
    return Levels(order.astype(np.uint32), first, (found >> 6) * tolerance, (found & 63).astype(float), n)


def exact_ness(
    sampler: TrainedSampler,
    levels: Levels,
    grid: tuple[np.ndarray, np.ndarray],
    operations: np.ndarray,
    symmetrise_below: float,
    share: float = 0.1,
) -> np.ndarray:
    """Return the exact NESS, (n_temperatures, n_delta_mu), of the proposal that importance sampling makes.

    As there, the mixture is symmetrised over `operations` where its NESS is below `symmetrise_below`.
    """
    temperature, delta_mu = grid
    found = np.empty((len(temperature), len(delta_mu)))
    rng = np.random.default_rng(7)
    # Densities of all states serve again where all are looked at: at their own temperature, and as the hotter ones.
    known: list[dict[float, np.ndarray]] = [{} for _ in delta_mu]
    for t in reversed(range(len(temperature))):
        own, hotter = float(temperature[t]), hotter_temperature(temperature, t, levels.n_sites)
        plain = MixtureProposal(sampler, own, hotter, share)
        moved = MixtureProposal(sampler, own, hotter, share, operations)
        for m, mu in enumerate(delta_mu):
            found[t, m], here = _ness(plain, levels, mu, rng, known[m])
            known[m] = {k: v for k, v in known[m].items() if k <= hotter} | here
            if found[t, m] < symmetrise_below:
                found[t, m], _ = _ness(moved, levels, mu, rng, {})
    return found


def _ness(
    mixture: MixtureProposal, levels: Levels, mu: float, rng: np.random.Generator, known: dict[float, np.ndarray]
) -> tuple[float, dict[float, np.ndarray]]:
    """The NESS at one condition, from the states that `_chosen` picks: sum over levels of P times the mean of p/q.

    Densities of all states at other temperatures are `known`; those at this one are returned as well.
    """
    kt = mixture.sampler.model.boltzmann * mixture.own
    size = np.diff(levels.first)
    log_p = -(levels.energy - mu * levels.n_plus) / kt
    log_z = np.logaddexp.reduce(log_p + np.log(size))
    mass = size * np.exp(log_p - log_z)
    level, place, weight = _chosen(levels, size, mass, rng)
    spins, at = levels.spins(place), np.full(len(place), mu)
    own = {}
    if levels.n_sites <= ALL_STATES and mixture.operations is None:
        own[mixture.own] = mixture.sampler.log_prob(spins, np.full(len(at), mixture.own), at)
    log_w = mixture.log_weights(spins, at, levels.energy[level], 1000, {**known, **own}) - log_z
    return float(1.0 / np.sum(weight * np.exp(log_w))), own


def _chosen(
    levels: Levels, size: np.ndarray, mass: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return level, place in the order, and probability that it stands for, of the states to look at."""
    if levels.n_sites <= ALL_STATES:
        level = np.repeat(np.arange(len(size)), size)
        return level, np.arange(len(level)), (mass / size)[level]
    number = np.where(mass > EVERY, np.ceil(STATES * mass), 0)
    factor = np.ones(len(size))
    rare = np.flatnonzero((number == 0) & (mass > 1e-16))
    if len(rare):
        chance = np.sqrt(mass[rare])
        chance = np.minimum(1.0, chance / chance.sum() * RARE)
        hit = rng.random(len(rare)) < chance
        number[rare[hit]] = 1
        factor[rare[hit]] = 1 / chance[hit]
    number = np.minimum(number, size).astype(np.int64)
    level = np.repeat(np.arange(len(size)), number)
    # Evenly spaced in each level from a random place on.
    count = np.arange(len(level)) - np.repeat(np.cumsum(number) - number, number)
    start = rng.random(len(size))
    place = levels.first[level] + np.floor((count + start[level]) * size[level] / number[level]).astype(np.int64)
    return level, place, (mass * factor / np.maximum(number, 1))[level]
