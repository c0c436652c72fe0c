"""The symmetry check of a trained network, with spin flip where the model has it."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.segal.features import ConditionRange, past_fields
from segalflow.segal.network import build_network
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.symmetry import check_symmetry

CELL = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [4, 4, 1])
T, MU = np.array([2.0, 3.0]), np.array([-0.4, 0.0, 0.4])


def sampler_of(model, odd: float) -> TrainedSampler:
    """An untrained network: nearly the exact conditionals of the placed part, plus a bias that breaks spin flip."""
    tables = past_fields(model)
    network = build_network({"kind": "physics", "sizes": {"hidden": 4}}, CELL, tables.n_classes, seed=1)
    network.bias.data += odd
    return TrainedSampler(model, CELL, network, tables, ConditionRange((1.0, 5.0), (-1.0, 1.0), 1.0), (T, MU))


def test_images_are_scored_at_the_same_conditions_and_half_are_flipped_where_that_is_a_symmetry() -> None:
    check = check_symmetry(sampler_of(ising_polynomial(CELL), 0.0), T, MU, seed=3, draws=40, flip_at=0.0)
    assert check.flipped.sum() == 40
    assert 0.5 < check.r_squared < 1.0
    broken = check_symmetry(sampler_of(ising_polynomial(CELL), 1.5), T, MU, seed=3, draws=40, flip_at=0.0)
    # The images under the lattice's operations do not notice the bias, the flipped ones do.
    assert broken.r_squared_flipped < 0.6 < 0.9 < check.r_squared_flipped
    straight = ~broken.flipped
    assert np.corrcoef(broken.log_q[straight], broken.log_q_moved[straight])[0, 1] ** 2 > 0.9
    assert np.isnan(check_symmetry(sampler_of(ising_polynomial(CELL), 0.0), T, MU, seed=3).r_squared_flipped)


def test_a_flip_that_is_no_symmetry_is_refused() -> None:
    with pytest.raises(SamplingError, match=r"at delta_mu = 0\.4 changes U - dmu N by up to .* J, expected no change"):
        check_symmetry(sampler_of(ising_polynomial(CELL), 0.0), T, MU, seed=3, flip_at=0.4)
    with pytest.raises(SamplingError, match=r"expected 0\.1 among the delta_mu"):
        check_symmetry(sampler_of(ising_polynomial(CELL), 0.0), T, MU, seed=3, flip_at=0.1)
