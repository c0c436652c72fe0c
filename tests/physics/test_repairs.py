"""Repairs of weak conditions against the exact sum: a badly trained network, every condition repaired."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from segalflow.energy.polynomial import ising_polynomial, place_expansion
from segalflow.ensemble import lower_ness
from segalflow.errors import SamplingError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.importance import sample_importance
from segalflow.sampling.repairs import REPAIRS, bridge_log_z
from segalflow.segal.training import train
from segalflow.thermo.comparison import compare_methods

T, MU = np.array([500.0, 700.0, 900.0]), np.linspace(-0.16, 0.16, 9)
TRAINING = {
    "objective": "likelihood", "steps": 60, "batch": 40, "learning_rate": 0.006, "colder": 0, "pool_sweeps": 20,
    "sweeps_per_round": 1, "refresh_every": 5, "adaptive": True, "ness_target": None, "checkpoint_every": 10**9,
}  # fmt: skip
NETWORK = {"kind": "physics", "sizes": {}}
PLAIN = {"samples_per_condition": 200, "repair_rounds": 80, "max_factor": 1, "symmetrise_below": 0.0}


@pytest.fixture(scope="module")
def weak(reference):
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    cell = Supercell(expansion.lattice, [2, 2, 4])
    return train(place_expansion(expansion, cell), cell, T, MU, network=NETWORK, training=TRAINING, seed=3)


@pytest.mark.reference
@pytest.mark.parametrize("repair", sorted(REPAIRS))
def test_repaired_conditions_agree_with_the_exact_sum(weak, repair) -> None:
    species = weak.cell.lattice.species[0]
    exact = enumerate_exactly(weak.model, species, T, MU)
    before = sample_importance(weak, species, T, MU, seed=0, repair="none", **PLAIN)
    assert np.quantile(lower_ness(before), 0.05) < 0.3
    assert "repaired" not in before
    frames = []
    for seed in range(2):
        table = sample_importance(weak, species, T, MU, seed=seed, repair=repair, repair_below=1.0, **PLAIN)
        assert table["repaired"].values.mean() > 0.98
        assert table["energy_evaluations"].values.min() > before["energy_evaluations"].values.max()
        frames.append(compare_methods({"exact": exact, "snis": table}, "small"))
    comparison = pd.concat(frames)
    for name, part in comparison.groupby("variable"):
        assert np.mean(np.abs(part["z"]) <= 3) >= 0.98, name
    assert np.mean(np.abs(comparison["z"]) <= 3) >= 0.99
    assert 0.8 < np.sqrt(np.mean(comparison.loc[comparison["difference"].abs() > 1e-6, "z"] ** 2)) < 1.2


def test_a_missing_phase_is_found_by_the_repair_or_stays_unreliable() -> None:
    """A ferromagnet far below its transition, a network that draws the down phase only: x is not 0 and reliable."""
    lattice = parent_lattice("square", 1.0, ("down", "up"))
    cell = Supercell(lattice, np.diag([4, 4, 1]))
    model = ising_polynomial(cell)
    # Trained where the field holds the down phase; asked at zero field, where both have half of the weight.
    t, h = np.array([1.2, 1.6]), np.array([-0.6, -0.3, 0.0])
    sampler = train(model, cell, t, h[:2], network=NETWORK, training={**TRAINING, "steps": 200}, seed=1)
    sampler.domain = type(sampler.domain)((1.2, 1.6), (-0.6, 0.0), model.boltzmann)
    exact = enumerate_exactly(model, ("down", "up"), t, h)
    plain, repaired = (
        sample_importance(sampler, ("down", "up"), t, h, seed=2, repair=repair, **PLAIN)
        for repair in ("none", "independence_metropolis")
    )
    assert plain["reliable"].values[0, 2] == 0
    if repaired["reliable"].values[0, 2]:
        error = float(repaired["composition_stderr"][0, 2, 1])
        assert abs(float(repaired["composition"][0, 2, 1] - exact["composition"][0, 2, 1])) < 4 * error


def test_the_bridge_is_exact_on_two_states() -> None:
    """p gives states the weights 3 and 1 (Z = 4), q draws them 1:1: draws in exact proportion give Z exactly."""
    log_w_q = np.log([6.0, 2.0])
    log_w_p = np.log([6.0, 6.0, 6.0, 2.0])
    for share in (0.1, 0.5, 0.9):
        assert bridge_log_z(log_w_q, log_w_p, share) == pytest.approx(np.log(4.0), abs=1e-9)


def test_an_unknown_repair_is_refused(weak) -> None:
    with pytest.raises(SamplingError, match=r"unknown repair 'anealed', expected none or one of .* 'annealed'"):
        sample_importance(weak, ("Cu", "Au"), T, MU, seed=0, repair="anealed")
