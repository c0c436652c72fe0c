"""Repairs of weak conditions: where importance weights alone do not carry an estimate, Markov chains help them.

Each repair takes the proposal and the conditions of one temperature and gives the same estimates as importance
sampling, with a verdict of its own. The network's draws still do what local moves cannot: carry chains from one phase
to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.special import expit, logsumexp

from segalflow.errors import SamplingError, suggest
from segalflow.sampling.estimators import Estimates, WeightedGroups, widen
from segalflow.sampling.proposal import MixtureProposal
from segalflow.sampling.statistics import unseen_excitation
from segalflow.sampling.weights import normalised_ess

DISCARDED = 0.2
"""Share of the rounds that a chain forgets its start in."""
PARTICLES = 32
"""Particles of one group of annealed importance sampling; groups are independent."""
STEPS_UP = 3
"""Steps of the temperature ladder (own to hotter) from which annealing starts."""


def bridge_log_z(log_w_q: np.ndarray, log_w_p: np.ndarray, share_p: np.ndarray | float = 0.5) -> np.ndarray:
    """Return log Z from draws of q and of p by Bennett's acceptance ratio (the optimal bridge of Meng & Wong 1996).

    Solves ``mean_q[w / (s_p w + s_q Z)] = Z mean_p[1 / (s_p w + s_q Z)]`` for Z, with w the unnormalised p over q.

    Args:
        log_w_q: log weights of draws of q, shape (..., n_q).
        log_w_p: log weights of draws of p, shape (..., n_p).
        share_p: s_p = n_p/(n_p + n_q) in independent draws, broadcast to shape (...).
    """
    log_ratio = np.log(share_p) - np.log1p(-np.asarray(share_p, float))
    low = np.minimum(log_w_q.min(-1), log_w_p.min(-1)) - 1.0
    high = np.maximum(log_w_q.max(-1), log_w_p.max(-1)) + 1.0
    for _ in range(60):  # bisection: the difference of the two logarithms decreases with log Z
        middle = (low + high) / 2
        shift = (log_ratio - middle)[..., None]
        # Logarithms of expit: of the share that p has in the mixture at each draw.
        from_q = logsumexp(-np.logaddexp(0, -(log_w_q + shift)), axis=-1) - np.log(log_w_q.shape[-1])
        from_p = logsumexp(-np.logaddexp(0, log_w_p + shift), axis=-1) - np.log(log_w_p.shape[-1])
        above = from_q - from_p - log_ratio > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2


def independence_metropolis(
    mixture: MixtureProposal,
    delta_mu: np.ndarray,
    pool: np.ndarray | None,
    rng: np.random.Generator,
    *,
    walkers: int,
    rounds: int,
    sweeps: int,
    ess_floor: float,
) -> Estimates:
    """Chains of heat-bath sweeps and independence-Metropolis moves with the network's draws; log Z by the bridge.

    A round is `sweeps` sweeps and one proposal from the mixture, accepted with ``min(1, w_new/w_old)``. Errors are
    those of the mean over walkers; reliable means that the walkers agree: as many independent samples as the ESS floor
    and four for each walker, which walkers stuck in one of two phases never have (Gelman & Rubin 1992), and as many
    accepted proposals a walker as the mixture's `renewals` asks for.

    Args:
        mixture: the proposal at one temperature.
        delta_mu: conditions, eV (or J), shape (n_mu,); of several exchanges (n_mu, n_exchanges).
        pool: equilibrium decorations to start from, int8 (n_mu, n, n_sites), or None: start from draws.
        rng: source of all random numbers.
        walkers: chains of each condition.
        rounds: rounds of each chain, of which the first fifth is discarded.
        sweeps: sweeps in a round.
        ess_floor: independent samples needed to be reliable.
    """
    n_sites, n_mu = mixture.model.n_sites, len(delta_mu)
    mu = np.repeat(delta_mu, walkers, axis=0)
    chains = mixture.start_chains(np.full(len(mu), mixture.own), mu, int(rng.integers(2**63)))
    if pool is None:
        start = mixture.unpack(mixture.draw(delta_mu, walkers, rng)[3])
    else:
        start = pool[:, np.arange(walkers) % pool.shape[1]]
    mixture.hand_to(chains, start.reshape(-1, n_sites))
    shape = (n_mu, walkers)
    seen: list[tuple[np.ndarray, ...]] = []
    accepted = np.zeros(n_mu)
    first = int(DISCARDED * rounds)
    for number in range(rounds):
        chains.sweep(sweeps)
        held, energy, exchanges = mixture.held_by(chains), chains.energies(), chains.n_plus()
        old = mixture.log_weights(held, mu, energy, walkers, {})
        drawn = mixture.draw(delta_mu, walkers, rng)
        # Strata of the mixture in random order: what one chain is offered follows the whole mixture.
        order = np.argsort(rng.random(shape), axis=1)
        offered = (_along(a, order) for a in drawn)
        new, new_exchanges, new_energy, packed = (a.reshape(len(mu), *a.shape[2:]) for a in offered)
        taken = np.log(1.0 - rng.random(len(mu))) < new - old
        mixture.hand_to(chains, np.where(taken[:, None], mixture.unpack(packed), held))
        if number >= first:
            accepted += taken.reshape(shape).mean(axis=1)
            pairs = ((old, new), (exchanges, new_exchanges), (energy, new_energy))
            state = (np.where(taken.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs)
            seen.append(tuple(a.reshape(*shape, *a.shape[1:]) for a in (*state, new)))
    log_w_p, exchanges, energy, log_w_q = (np.stack(a, axis=2) for a in zip(*seen, strict=True))
    estimates, independent = _chain_estimates(mixture, delta_mu, exchanges, energy)
    share = independent / (independent + walkers * log_w_q.shape[-1])
    estimates |= _bridged(mixture, log_w_q, log_w_p, share)
    _widen(estimates, independent, mixture)
    agree = independent >= max(ess_floor, 4.0 * walkers)
    estimates["reliable"] = (agree & (accepted >= mixture.renewals)).astype(float)
    spent = chains.energy_evaluations / n_mu + walkers * rounds
    return estimates | _costs(n_mu, spent, 2.0 * walkers * rounds)


def annealed_importance(
    mixture: MixtureProposal,
    delta_mu: np.ndarray,
    pool: np.ndarray | None,
    rng: np.random.Generator,
    *,
    walkers: int,
    rounds: int,
    sweeps: int,
    ess_floor: float,
) -> Estimates:
    """Sequential Monte Carlo from the network at a higher temperature down to the condition's own.

    Draws of the network a few temperature steps above carry their weights along: in equal steps of 1/T the weight
    takes the change of ``-(U - dmu N)/kT``, groups of uneven weights are resampled, and heat-bath sweeps follow (Neal
    2001; Del Moral et al. 2006). Groups are independent: errors come from their spread, and reliable means that log Z
    is known as well as from as many independent draws as the ESS floor.

    Args:
        mixture: the proposal at one temperature.
        delta_mu: conditions, eV (or J), shape (n_mu,); of several exchanges (n_mu, n_exchanges).
        pool: not used; annealing knows nothing of other chains.
        rng: source of all random numbers.
        walkers: groups of `PARTICLES` particles of each condition.
        rounds: steps in 1/T.
        sweeps: sweeps after each.
        ess_floor: independent draws needed to be reliable.
    """
    n_mu, n = len(delta_mu), walkers * PARTICLES
    hottest = float(mixture.sampler.grid[0][-1])
    start = max(mixture.own, min(hottest, mixture.own + STEPS_UP * (mixture.hotter - mixture.own)))
    above = replace(mixture, own=start, hotter=start + (mixture.hotter - mixture.own))
    log_w, _, _, packed = above.draw(delta_mu, n, rng)
    # Every group gets its part of both strata of the mixture.
    order = np.argsort(rng.random((n_mu, n)), axis=1)
    log_w = _along(log_w, order).reshape(n_mu, walkers, PARTICLES)
    held = mixture.unpack(_along(packed, order))
    mu = np.repeat(delta_mu, n, axis=0)
    temperature = 1.0 / np.linspace(1.0 / start, 1.0 / mixture.own, rounds + 1)
    chains = mixture.start_chains(np.full(len(mu), start), mu, int(rng.integers(2**63)))
    mixture.hand_to(chains, held.reshape(-1, mixture.model.n_sites))
    log_z = np.zeros((n_mu, walkers))
    for hot, cold in pairwise(temperature):
        grand = (chains.energies() - mixture.pull(mu, chains.n_plus())).reshape(log_w.shape)
        log_w = log_w - grand * (1.0 / cold - 1.0 / hot) / mixture.model.boltzmann
        uneven = normalised_ess(log_w) < 0.5
        if uneven.any():
            source = np.arange(len(mu)).reshape(log_w.shape)
            mean = logsumexp(log_w[uneven], axis=-1) - np.log(PARTICLES)
            source[uneven] = np.take_along_axis(source[uneven], _resample(log_w[uneven], rng), axis=1)
            mixture.hand_to(chains, mixture.held_by(chains)[source.ravel()])
            log_z[uneven] += mean
            log_w[uneven] = 0.0
        chains.set_conditions(np.full(len(mu), cold), mu)
        chains.sweep(sweeps)
    energy, exchanges = chains.energies().reshape(log_w.shape), chains.n_plus()
    exchanges = exchanges.reshape(*log_w.shape, *exchanges.shape[1:])
    log_z += logsumexp(log_w, axis=-1) - np.log(PARTICLES)
    # A group counts by its Z; within it particles count by their weights.
    group = np.exp(log_z - logsumexp(log_z, axis=-1, keepdims=True))
    particle = np.exp(log_w - logsumexp(log_w, axis=-1, keepdims=True))
    estimates = mixture.estimates(WeightedGroups(group, particle), delta_mu[:, None, None], exchanges, energy)
    error = np.sqrt(np.sum((group - 1.0 / walkers) ** 2, axis=-1))
    estimates |= _log_z_estimates(mixture, logsumexp(log_z, axis=-1) - np.log(walkers), error)
    independent = 1.0 / (error**2 + 1.0 / n)
    _widen(estimates, independent, mixture)
    estimates["reliable"] = (independent >= ess_floor).astype(float)
    return estimates | _costs(n_mu, n + chains.energy_evaluations / n_mu, float(n * (rounds + 1)))


Repair = Callable[..., Estimates]
REPAIRS: dict[str, Repair] = {"independence_metropolis": independence_metropolis, "annealed": annealed_importance}


def choose_repair(name: str) -> Repair:
    """Return a repair by its name.

    Raises:
        SamplingError: for an unknown one.
    """
    if name not in REPAIRS:
        raise SamplingError(
            f"snis.repair: unknown repair '{name}', expected none or one of {', '.join(REPAIRS)}"
            f"{suggest(name, REPAIRS)}"
        )
    return REPAIRS[name]


def _resample(log_w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of systematic resampling of each row."""
    weights = np.exp(log_w - logsumexp(log_w, axis=-1, keepdims=True))
    n = weights.shape[1]
    points = (np.arange(n) + rng.random((len(weights), 1))) / n
    edges = np.cumsum(weights, axis=1)
    edges[:, -1] = 1.0
    return np.stack([np.searchsorted(e, p) for e, p in zip(edges, points, strict=True)])


def _chain_estimates(
    mixture: MixtureProposal, delta_mu: np.ndarray, exchanges: np.ndarray, energy: np.ndarray
) -> tuple[Estimates, np.ndarray]:
    """Estimates from equally long chains, arrays (n_mu, walkers, rounds), and the number of independent samples."""
    n_mu, walkers, rounds = energy.shape
    statistics = WeightedGroups(np.full((n_mu, walkers), 1.0 / walkers), np.full(energy.shape, 1.0 / rounds))
    mu = delta_mu[:, None, None]
    estimates = mixture.estimates(statistics, mu, exchanges, energy)
    independent = np.full(n_mu, float(walkers * rounds))
    for values in (energy - mixture.pull(mu, exchanges), *mixture.series_of(exchanges)):
        total, between = values.var(axis=(1, 2)), values.mean(axis=2).var(axis=1, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(between > 0, walkers * total / between, independent)
        independent = np.minimum(independent, found)
    return estimates, independent


def _along(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Values (n_mu, n, ...) in an order of their own for each condition, (n_mu, n)."""
    return np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), axis=1)


def _bridged(mixture: MixtureProposal, log_w_q: np.ndarray, log_w_p: np.ndarray, share: np.ndarray) -> Estimates:
    """log Z of walkers' draws and states, arrays (n_mu, walkers, rounds), with the jackknife error over walkers."""
    n_mu, walkers, _ = log_w_q.shape
    value = bridge_log_z(log_w_q.reshape(n_mu, -1), log_w_p.reshape(n_mu, -1), share)
    # One step of Newton's method stands for solving anew without a walker: the jackknife of an M-estimator.
    shift = (np.log(share) - np.log1p(-share) - value)[:, None, None]
    from_q, from_p = expit(log_w_q + shift), expit(-(log_w_p + shift))
    a, b = from_q.mean(axis=(1, 2)), from_p.mean(axis=(1, 2))
    influence = from_q.mean(axis=2) / a[:, None] - from_p.mean(axis=2) / b[:, None]
    slope = (from_q * (1 - from_q)).mean(axis=(1, 2)) / a + (from_p * (1 - from_p)).mean(axis=(1, 2)) / b
    error = influence.std(axis=1, ddof=1) / np.sqrt(walkers) / slope
    return _log_z_estimates(mixture, value, error)


def _log_z_estimates(mixture: MixtureProposal, log_z: np.ndarray, error: np.ndarray) -> Estimates:
    kt, n_sites = mixture.kt, mixture.model.n_sites
    return {
        "log_z": log_z,
        "log_z_stderr": error,
        "grand_potential": -kt * log_z / n_sites,
        "grand_potential_stderr": kt * error / n_sites,
    }


def _widen(estimates: Estimates, independent: np.ndarray, mixture: MixtureProposal) -> None:
    """Add to the errors what an excitation that was not seen could change: frozen samples show no spread."""
    kt, n_sites = mixture.kt, mixture.model.n_sites
    rest = unseen_excitation(independent, n_sites, kt)
    widen(estimates, rest | {"grand_potential": kt * rest["log_z"] / n_sites})


def _costs(n_mu: int, evaluations: float, full: float) -> Estimates:
    return {
        "energy_evaluations": np.full(n_mu, evaluations),
        "full_energy_evaluations": np.full(n_mu, full),
        "repaired": np.ones(n_mu),
    }


def repair_row(
    row: Mapping[str, np.ndarray], weak: np.ndarray, repaired: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return a row of estimates with those of the conditions `weak` replaced where the repair is reliable.

    The costs of the repair are added whether it helped or not; effective sample sizes stay those of the proposal.
    """
    merged = {name: values.copy() for name, values in row.items()}
    helped = repaired["reliable"] > 0
    for name, values in repaired.items():
        if name.endswith("energy_evaluations"):
            merged[name][weak] += values
        else:
            merged[name][weak[helped]] = values[helped]
    return merged
