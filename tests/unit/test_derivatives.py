"""Differentiating the network: against finite differences and exact sums over all decorations."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.polynomial import ising_polynomial
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.importance import sample_importance
from segalflow.segal.derivatives import log_prob_slopes, network_responses
from segalflow.segal.training import train

CELL = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [3, 3, 1])
T, MU = np.array([2.0, 3.0, 4.5]), np.array([-0.6, 0.0, 0.5, 1.0])
TRAINING = {
    "objective": "likelihood", "steps": 150, "batch": 24, "learning_rate": 0.006, "colder": 1, "pool_sweeps": 40,
    "sweeps_per_round": 1, "refresh_every": 5, "adaptive": True, "ness_target": None, "checkpoint_every": 10**9,
    "conditions": "grid",
}  # fmt: skip
NETWORKS = {"physics": {"kind": "physics", "sizes": {"hidden": 8}}, "made": {"kind": "made", "sizes": {"layers": 2}}}
STATES = (2 * ((np.arange(2**9)[:, None] >> np.arange(9)) & 1) - 1).astype(np.int8)


@pytest.fixture(scope="module", params=NETWORKS)
def sampler(request):
    model = ising_polynomial(CELL)
    return train(model, CELL, T, MU, network=NETWORKS[request.param], training=TRAINING, seed=3)


def test_slopes_are_those_of_the_probabilities(sampler) -> None:
    spins, t, mu = STATES[::37], np.full(14, 2.7), np.full(14, 0.2)
    by_t, by_mu = log_prob_slopes(sampler, spins, t, mu)
    for step, found, change in ((0.005, by_t, (0.005, 0.0)), (0.005, by_mu, (0.0, 0.005))):
        ahead = sampler.log_prob(spins, t + change[0], mu + change[1])
        behind = sampler.log_prob(spins, t - change[0], mu - change[1])
        assert found == pytest.approx((ahead - behind) / (2 * step), abs=2e-3)


def test_responses_are_those_of_the_network(sampler) -> None:
    """The network's exact <N> and <U - dmu N>, by a sum over all states, differentiated by finite differences."""

    def means(t: float, mu: float) -> tuple[float, float]:
        q = np.exp(sampler.log_prob(STATES, np.full(len(STATES), t), np.full(len(STATES), mu)))
        n_plus = (STATES > 0).sum(1)
        return float(q @ n_plus), float(q @ (sampler.model.energy_of_spins(STATES) - 0.2 * n_plus))

    found = network_responses(sampler, 2.7, np.array([0.2]), 20000, seed=4)
    exact = {
        "heat_capacity": (means(2.72, 0.2)[1] - means(2.68, 0.2)[1]) / 0.04 / 9,
        "susceptibility": (means(2.7, 0.22)[0] - means(2.7, 0.18)[0]) / 0.04 / 9,
    }
    for name, value in exact.items():
        z = (found[f"{name}_network"][0] - value) / found[f"{name}_network_stderr"][0]
        assert abs(z) < 4
        assert found[f"{name}_network_stderr"][0] < 0.1 * value


def test_a_table_holds_them_beside_the_fluctuations(sampler) -> None:
    table = sample_importance(
        sampler, ("down", "up"), T, MU, seed=1, samples_per_condition=400, pool_sweeps=0, repair="none",
        network_derivatives=400,
    )  # fmt: skip
    for name in ("heat_capacity", "susceptibility"):
        assert table[f"{name}_network"].shape == (3, 4)
        assert (table[f"{name}_network_stderr"] > 0).all()
