"""A pool of equilibrium decorations from replica exchange, made without the network: the p side of every check of it.

Importance weights are blind to a phase that the proposal never draws: they look fine without it. Decorations that come
from Markov chains are not, so a sampler is judged on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from segalflow.energy.base import EnergyModel
from segalflow.energy.batch_chains import Chains, make_chains
from segalflow.energy.lockstep import exchange_grid
from segalflow.progress import bar

EXCHANGE_EVERY = 5
"""Sweeps between replica exchanges."""


def equilibrium_pool(
    model: EnergyModel,
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    sweeps: int,
    n_samples: int,
) -> tuple[np.ndarray, int]:
    """Return decorations of every condition of a grid and the energy evaluations they cost.

    Two sets of chains, each with replica exchange in T and delta_mu, first run `sweeps` sweeps from random decorations.
    Then every chain of the second set starts anew from the decoration of lowest ``U - dmu N`` that any chain has met
    (for its delta_mu): an ordered phase that is hard to nucleate is followed from its ground state upwards, beside the
    chains that come from above. After as many sweeps again, `n_samples` decorations are taken, half from each set, over
    another `sweeps` sweeps.

    Args:
        model: the energy.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,).
        seed: seed of all random draws.
        sweeps: sweeps of each of the three parts.
        n_samples: decorations of each condition, even.

    Returns:
        Spins, int8 (n_temperatures, n_delta_mu, n_samples, n_sites), and the number of energy evaluations.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    shape = (len(temperature), len(delta_mu), 2)
    t, m, _ = np.indices(shape).reshape(3, -1)
    chain_seed, draw_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2, np.uint64))
    rng = np.random.default_rng(draw_seed)
    chains = make_chains(model, temperature[t], delta_mu[m], chain_seed)
    chains.set_spins(2 * rng.integers(0, 2, (chains.n_chains, model.n_sites), dtype=np.int8) - 1)
    taken = max(1, n_samples // 2)
    with bar(3 * sweeps, "equilibrium pool", "sweep") as shown:
        lowest = _run_down(chains, shape, delta_mu, sweeps, rng, shown.update)
        spins = chains.spins.reshape(*shape, model.n_sites)
        spins[:, :, 1] = lowest
        chains.set_spins(spins.reshape(-1, model.n_sites))
        for step in exchange_run(chains, shape, sweeps, rng):
            shown.update(step)
        kept = np.empty((*shape, taken, model.n_sites), dtype=np.int8)
        for number in range(taken):
            part = sweeps * (number + 1) // taken - sweeps * number // taken
            for step in exchange_run(chains, shape, max(1, part), rng):
                shown.update(step)
            kept[:, :, :, number] = chains.spins.reshape(*shape, model.n_sites)
    return kept.reshape(*shape[:2], -1, model.n_sites), chains.energy_evaluations


def lowest_decorations(
    model: EnergyModel, temperature: np.ndarray, delta_mu: np.ndarray, *, seed: int, sweeps: int
) -> tuple[np.ndarray, int]:
    """Return for every delta_mu the decoration of lowest ``U - dmu N`` that replica exchange from disorder meets.

    Args:
        model: the energy.
        temperature: K (or J/k_B), shape (n_temperatures,), in order.
        delta_mu: eV (or J), shape (n_delta_mu,).
        seed: seed of all random draws.
        sweeps: sweeps of the chains, one for each condition.

    Returns:
        Spins, int8 (n_delta_mu, n_sites), and the number of energy evaluations.
    """
    shape = (len(temperature), len(delta_mu), 1)
    chain_seed, draw_seed = (int(s) for s in np.random.SeedSequence([seed % 2**64, 1]).generate_state(2, np.uint64))
    rng = np.random.default_rng(draw_seed)
    chains = make_chains(model, np.repeat(temperature, shape[1]), np.tile(delta_mu, shape[0]), chain_seed)
    chains.set_spins(2 * rng.integers(0, 2, (chains.n_chains, model.n_sites), dtype=np.int8) - 1)
    with bar(sweeps, "search for ordered states", "sweep") as shown:
        found = _run_down(chains, shape, np.asarray(delta_mu, float), sweeps, rng, shown.update)
    return found, chains.energy_evaluations


def _run_down(
    chains: Chains,
    shape: tuple[int, ...],
    delta_mu: np.ndarray,
    sweeps: int,
    rng: np.random.Generator,
    done: Callable[[int], object],
) -> np.ndarray:
    """Run chains with exchanges and return the lowest decorations met, int8 (n_delta_mu, n_sites)."""
    lowest = _Lowest(delta_mu, chains.model.n_sites)
    for step in exchange_run(chains, shape, sweeps, rng):
        lowest.update(chains)
        done(step)
    return lowest.spins


def exchange_run(chains: Chains, shape: tuple[int, ...], sweeps: int, rng: np.random.Generator) -> Iterator[int]:
    """Sweep with exchanges along every axis of the grid but the last (the sets), alternating pairs.

    Yields the sweeps done since the last exchange.
    """
    axes = [axis for axis in range(len(shape) - 1) if shape[axis] > 1]
    for number, start in enumerate(range(0, sweeps, EXCHANGE_EVERY)):
        step = min(EXCHANGE_EVERY, sweeps - start)
        chains.sweep(step)
        for axis in axes:
            exchange_grid(chains, shape, axis, number % 2, rng)
        yield step


class _Lowest:
    """For every delta_mu the decoration of lowest U - dmu N that was met."""

    def __init__(self, delta_mu: np.ndarray, n_sites: int) -> None:
        self.delta_mu = delta_mu
        self.value = np.full(len(delta_mu), np.inf)
        self.spins = np.ones((len(delta_mu), n_sites), dtype=np.int8)

    def update(self, chains: Chains) -> None:
        grand = chains.energies()[:, None] - self.delta_mu * chains.n_plus()[:, None]
        best = grand.argmin(axis=0)
        value = grand[best, np.arange(len(best))]
        better = value < self.value - 1e-9 * np.abs(value)
        if better.any():
            self.value[better] = value[better]
            self.spins[better] = chains.spins[best[better]]
