"""The single chain: fields, the stationary distribution, refusals."""

import itertools

import numpy as np
import pytest

from segalflow.energy.polynomial import polynomial_from_terms
from segalflow.energy.single_chain import SingleChain
from segalflow.errors import SamplingError


def model(n_sites: int, orders: tuple[int, ...], seed: int):
    rng = np.random.default_rng(seed)
    values = 0.2 * rng.normal(size=5)
    terms = {
        sites: float(values[rng.integers(5)])
        for order in orders
        for sites in itertools.combinations(range(n_sites), order)
        if order == 1 or rng.random() < 0.7
    }
    return polynomial_from_terms(n_sites, 0.3, terms, boltzmann=1.0, energy_unit="J")


@pytest.mark.parametrize("orders", [(1, 2), (2, 3), (1, 2, 3, 4), (5,), (1, 6), ()])
def test_fields_equal_the_plain_model(orders) -> None:
    polynomial = model(12, orders, seed=1)
    spins = np.random.default_rng(2).choice([-1, 1], size=12).astype(np.int8)
    chain = SingleChain(polynomial, 1.0, 0.0, seed=1, spins=spins)
    assert np.array_equal(chain.spins, spins)
    expected = 2 * polynomial.local_fields(spins[None])[0]
    assert np.allclose([chain.doubled_field(site) for site in range(12)], expected, atol=1e-12)
    assert chain.energy() == pytest.approx(float(polynomial.energy_of_spins(spins[None])[0]), abs=1e-12)


@pytest.mark.parametrize("rule", ["metropolis", "heat_bath"])
def test_stationary_distribution(rule) -> None:
    polynomial = model(4, (1, 2, 3), seed=3)
    states = np.array(list(itertools.product((-1, 1), repeat=4)), dtype=np.int8)
    weight = np.exp(-(polynomial.energy_of_spins(states) - 0.3 * (states > 0).sum(1)) / 0.8)
    chain = SingleChain(polynomial, 0.8, 0.3, seed=5, rule=rule)
    counts = np.zeros(16)
    n = 20_000
    for _ in range(n):
        chain.run(23)  # some six sweeps: nearly independent
        counts[int((chain.spins > 0) @ (8, 4, 2, 1))] += 1
    p = weight / weight.sum()
    z = (counts / n - p) / np.sqrt(p * (1 - p) / n)
    assert np.sqrt(np.mean(z**2)) < 1.5
    assert np.abs(z).max() < 5


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SamplingError, match="positive temperature, found -1"):
        SingleChain(model(4, (2,), 1), -1.0, 0.0, seed=1)
    with pytest.raises(SamplingError, match="did you mean 'metropolis'"):
        SingleChain(model(4, (2,), 1), 1.0, 0.0, seed=1, rule="metropolys")
