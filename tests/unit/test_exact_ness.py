"""The benchmark's exact effective sample size: all states one by one, and by levels, against the plain sum."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from segalflow.energy.polynomial import ising_polynomial
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.proposal import MixtureProposal, choose_operations
from segalflow.segal.features import ConditionRange, past_fields
from segalflow.segal.network import build_network
from segalflow.segal.sampler import TrainedSampler

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
exact_ness = pytest.importorskip("exact_ness")

CELL = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [3, 4, 1])
T, MU = np.array([2.0, 3.0]), np.array([-0.5, 0.4])


@pytest.fixture(scope="module")
def sampler() -> TrainedSampler:
    model = ising_polynomial(CELL)
    tables = past_fields(model)
    network = build_network({"kind": "physics", "sizes": {"hidden": 8}}, CELL, tables.n_classes, seed=1)
    return TrainedSampler(model, CELL, network, tables, ConditionRange((1.5, 4.0), (-1.0, 1.0), 1.0), (T, MU))


@pytest.mark.parametrize("symmetrise_below", [0.0, 1.1])
def test_the_sum_over_states_is_the_effective_sample_size(sampler, symmetrise_below) -> None:
    levels, operations = exact_ness.levels_of(sampler.model), choose_operations(sampler, 3, np.random.default_rng(1))
    found = exact_ness.exact_ness(sampler, levels, (T, MU), operations, symmetrise_below)
    states = (2 * ((np.arange(2**12)[:, None] >> np.arange(12)) & 1) - 1).astype(np.int8)
    energy = sampler.model.energy((states > 0).astype(np.int8))
    for t, own in enumerate(T):
        hotter = T[1] if t == 0 else T[1] ** 2 / T[0]
        mixture = MixtureProposal(sampler, own, hotter, 0.1, operations if symmetrise_below else None)
        for m, mu in enumerate(MU):
            log_w = mixture.log_weights(states, np.full(len(states), mu), energy, 1000, {})
            p = np.exp(-(energy - mu * (states > 0).sum(1)) / own)
            assert found[t, m] == pytest.approx(p.sum() ** 2 / np.sum(p * np.exp(log_w)), rel=1e-6)


def test_levels_stand_for_all_states(sampler, monkeypatch) -> None:
    levels = exact_ness.levels_of(sampler.model)
    exact = exact_ness.exact_ness(sampler, levels, (T, MU), None, 0.0)
    monkeypatch.setattr(exact_ness, "ALL_STATES", 0)
    monkeypatch.setattr(exact_ness, "EVERY", 1e-3)
    monkeypatch.setattr(exact_ness, "RARE", 10)
    assert exact_ness.exact_ness(sampler, levels, (T, MU), None, 0.0) == pytest.approx(exact, rel=0.02)
