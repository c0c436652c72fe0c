"""Lock-step chains: energies, fields, balance by explicit matrices, resuming, replica exchange."""

import itertools

import numpy as np
import pytest

from segalflow.energy.lockstep import LockstepChains, exchange_grid
from segalflow.energy.polynomial import SpinPolynomial, polynomial_from_terms
from segalflow.errors import SamplingError


def random_model(n_sites: int, orders: tuple[int, ...], seed: int = 0, scale: float = 0.1) -> SpinPolynomial:
    """A polynomial without any symmetry, with repeated coefficients (groups of several monomials)."""
    rng = np.random.default_rng(seed)
    values = scale * rng.normal(size=6)
    terms = {
        sites: float(values[rng.integers(6)])
        for order in orders
        for sites in itertools.combinations(range(n_sites), order)
        if order == 1 or rng.random() < 0.7
    }
    return polynomial_from_terms(n_sites, 0.3, terms, boltzmann=1.0, energy_unit="J")


def all_spins(n_sites: int) -> np.ndarray:
    return np.array(list(itertools.product((-1, 1), repeat=n_sites)), dtype=np.int8)


@pytest.mark.parametrize("orders", [(1, 2), (1, 2, 3, 4), (2, 5), (1, 6)])
def test_energies_fields_and_counts_equal_the_plain_model(orders):
    model = random_model(8, orders)
    spins = all_spins(8)
    chains = LockstepChains(model, np.ones(256), np.zeros(256), seed=1)
    chains.set_spins(spins)
    assert np.array_equal(chains.spins, spins)
    assert np.array_equal(chains.n_plus(), (spins > 0).sum(axis=1))
    np.testing.assert_allclose(chains.energies(), model.energy_of_spins(spins), atol=1e-12)
    np.testing.assert_allclose(chains.local_fields(), model.local_fields(spins), atol=2e-6)
    flipped = spins.copy()
    flipped[:, 3] *= -1
    change = model.energy_of_spins(flipped) - model.energy_of_spins(spins)
    np.testing.assert_allclose(change, -2 * spins[:, 3] * chains.local_fields()[:, 3], atol=5e-6)


def test_groups_of_more_than_a_byte_are_split():
    terms = {pair: 0.01 for pair in itertools.combinations(range(300), 2)}
    model = polynomial_from_terms(300, 0.0, terms)
    spins = np.random.default_rng(0).choice([-1, 1], size=(40, 300)).astype(np.int8)
    chains = LockstepChains(model, np.full(40, 500.0), np.zeros(40), seed=1)
    chains.set_spins(spins)
    np.testing.assert_allclose(chains.energies(), model.energy_of_spins(spins), atol=1e-9)
    np.testing.assert_allclose(chains.local_fields(), model.local_fields(spins), atol=1e-4)


def transition_matrix(model, site_spins, site, temperature, delta_mu, rule):
    """The matrix of one update of `site`, from its definition."""
    n = len(site_spins)
    energy = model.energy_of_spins(site_spins) - delta_mu * (site_spins > 0).sum(axis=1)
    index = {tuple(s): k for k, s in enumerate(site_spins.tolist())}
    matrix = np.zeros((n, n))
    for k, s in enumerate(site_spins):
        flipped = s.copy()
        flipped[site] *= -1
        j = index[tuple(flipped.tolist())]
        d = (energy[j] - energy[k]) / temperature
        p = min(1.0, np.exp(-d)) if rule == "metropolis" else 1 / (1 + np.exp(d))
        matrix[k, j], matrix[k, k] = p, 1 - p
    return matrix, np.exp(-(energy - energy.min()) / temperature)


@pytest.mark.parametrize("rule", ["metropolis", "heat_bath"])
def test_kernel_follows_the_transition_matrix_and_it_is_balanced(rule):
    """One sweep of many chains from one state must give the product of one-site matrices averaged over orders."""
    model = random_model(4, (1, 2, 3), seed=3, scale=0.6)
    spins, temperature, delta_mu = all_spins(4), 1.3, 0.4
    matrices = []
    for site in range(4):
        matrix, weight = transition_matrix(model, spins, site, temperature, delta_mu, rule)
        flow = weight[:, None] * matrix
        np.testing.assert_allclose(flow, flow.T, atol=1e-12)  # detailed balance of a step
        matrices.append(matrix)
    expected = np.mean(
        [np.linalg.multi_dot([matrices[i] for i in p]) for p in itertools.permutations(range(4))], axis=0
    )
    np.testing.assert_allclose(weight @ expected, weight, rtol=1e-12)  # a sweep keeps the distribution
    copies, repeats, start = 2048, 60, 5
    chains = LockstepChains(model, np.full(copies, temperature), np.full(copies, delta_mu), seed=7, rule=rule)
    counts = np.zeros(16)
    for _ in range(repeats):
        chains.set_spins(np.repeat(spins[start : start + 1], copies, axis=0))
        chains.sweep(1)
        counts += np.bincount(((chains.spins > 0) @ (1 << np.arange(3, -1, -1))), minlength=16)
    # Chains of one sweep share its order, so orders (60 of them) are the coarser sample: allow for their spread.
    share = counts / counts.sum()
    products = [np.linalg.multi_dot([matrices[i] for i in p])[start] for p in itertools.permutations(range(4))]
    spread = np.std(products, axis=0) / np.sqrt(repeats)
    error = np.sqrt(expected[start] * (1 - expected[start]) / counts.sum() + spread**2)
    assert np.all(np.abs(share - expected[start]) <= 4 * error + 1e-12)


@pytest.mark.parametrize("rule", ["metropolis", "heat_bath"])
def test_stationary_distribution_on_six_sites(rule):
    model = random_model(6, (1, 2, 3), seed=5, scale=0.2)
    spins = all_spins(6)
    chains = LockstepChains(model, np.full(1024, 1.0), np.full(1024, 0.3), seed=2, rule=rule)
    chains.set_spins(np.random.default_rng(1).choice([-1, 1], size=(1024, 6)))
    chains.sweep(50)
    counts = np.zeros(64)
    for _ in range(200):
        chains.sweep(5)
        counts += np.bincount(((chains.spins > 0) @ (1 << np.arange(5, -1, -1))), minlength=64)
    energy = model.energy_of_spins(spins) - 0.3 * (spins > 0).sum(axis=1)
    p = np.exp(-energy) / np.exp(-energy).sum()
    z = (counts / counts.sum() - p) / np.sqrt(p / counts.sum())
    assert np.sqrt(np.mean(z**2)) < 1.6  # 1 for independent samples; five sweeps apart they nearly are
    assert np.abs(z).max() < 6


def test_resuming_gives_the_bytes_of_an_uninterrupted_run():
    model = random_model(8, (1, 2, 3))
    conditions = np.linspace(0.5, 2.0, 300), np.linspace(-0.5, 0.5, 300)
    whole = LockstepChains(model, *conditions, seed=4)
    whole.sweep(7)
    kept = whole.state()
    whole.sweep(9)
    resumed = LockstepChains(model, *conditions, seed=99)
    resumed.restore(kept)
    resumed.sweep(9)
    assert np.array_equal(whole.spins, resumed.spins)
    assert resumed.energy_evaluations == whole.energy_evaluations == 16 * 8 * 300
    again = LockstepChains(model, *conditions, seed=4)
    again.sweep(7)
    again.sweep(9)
    assert np.array_equal(whole.spins, again.spins)


def test_a_state_of_other_chains_is_refused():
    kept = LockstepChains(random_model(8, (2,)), np.ones(4), np.zeros(4), seed=1).state()
    with pytest.raises(SamplingError, match="expected 4 chains of 6 sites"):
        LockstepChains(random_model(6, (2,)), np.ones(4), np.zeros(4), seed=1).restore(kept)


def test_exchange_keeps_every_conditions_distribution():
    model = random_model(5, (1, 2, 3), seed=8, scale=0.3)
    temperature, delta_mu = np.array([0.7, 1.0, 1.6]), np.array([-0.4, 0.3])
    shape = (3, 2, 200)
    t, m, _ = np.indices(shape).reshape(3, -1)
    chains = LockstepChains(model, temperature[t], delta_mu[m], seed=3)
    chains.set_spins(np.random.default_rng(0).choice([-1, 1], size=(1200, 5)))
    chains.sweep(30)
    rng = np.random.default_rng(5)
    total, rates = np.zeros(shape[:2]), []
    rounds = 300
    for step in range(rounds):
        chains.sweep(1)
        rates += exchange_grid(chains, shape, axis=step % 2, parity=(step // 2) % 2, rng=rng)[2].tolist()
        total += chains.n_plus().reshape(shape).mean(axis=2)
    spins = all_spins(5)
    n = (spins > 0).sum(axis=1)
    for i, j in np.ndindex(3, 2):
        w = np.exp(-(model.energy_of_spins(spins) - delta_mu[j] * n) / temperature[i])
        exact = (w * n).sum() / w.sum()
        error = np.sqrt(((w * n**2).sum() / w.sum() - exact**2) / (200 * rounds) * 6)  # tau of a few sweeps
        assert abs(total[i, j] / rounds - exact) < 4 * error
    assert 0.2 < np.mean(rates) < 1


def test_bad_input_is_refused_in_a_sentence():
    model = random_model(4, (2,))
    with pytest.raises(SamplingError, match="did you mean 'metropolis'"):
        LockstepChains(model, np.ones(2), np.zeros(2), seed=0, rule="metropolys")
    with pytest.raises(SamplingError, match="temperatures must be positive"):
        LockstepChains(model, np.array([1.0, -1.0]), np.zeros(2), seed=0)
    with pytest.raises(SamplingError, match="expected 2 temperatures"):
        LockstepChains(model, np.ones(2), np.zeros(3), seed=0).sweep(1)
    with pytest.raises(SamplingError, match="does not hold 2 chains"):
        exchange_grid(LockstepChains(model, np.ones(2), np.zeros(2), seed=0), (3, 1), 0, 0, np.random.default_rng(0))


@pytest.mark.parametrize("rule", ["metropolis", "heat_bath"])
@pytest.mark.parametrize(("copies", "repeats"), [(2048, 100), (40, 2000)], ids=["bits", "bytes"])
def test_eight_sites_follow_their_transition_matrix(rule, copies, repeats, monkeypatch):
    """A sweep in a fixed order is the product of eight 256 x 256 matrices; each of them is in detailed balance."""
    model = random_model(8, (1, 2, 3, 4), seed=11, scale=0.25)
    spins, temperature, delta_mu = all_spins(8), 1.2, 0.3
    sweep = np.eye(256)
    for site in range(8):
        matrix, weight = transition_matrix(model, spins, site, temperature, delta_mu, rule)
        flow = weight[:, None] * matrix
        np.testing.assert_allclose(flow, flow.T, atol=1e-12)
        sweep = sweep @ matrix
    np.testing.assert_allclose(weight @ sweep, weight, rtol=1e-10)
    chains = LockstepChains(model, np.full(copies, temperature), np.full(copies, delta_mu), seed=3, rule=rule)
    monkeypatch.setattr(chains, "_orders", lambda n: np.tile(np.arange(8), (n, 1)))
    start = 90
    counts = np.zeros(256)
    for _ in range(repeats):
        chains.set_spins(np.repeat(spins[start : start + 1], copies, axis=0))
        chains.sweep(1)
        counts += np.bincount((chains.spins > 0) @ (1 << np.arange(7, -1, -1)), minlength=256)
    n, p = counts.sum(), sweep[start]
    expected = n * p
    assert counts[p < 1e-14].sum() == 0
    common = expected > 20
    z = (counts - expected)[common] / np.sqrt(expected * (1 - p))[common]
    assert np.abs(z).max() < 4.5
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.2
