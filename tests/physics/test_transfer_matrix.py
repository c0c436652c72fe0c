"""The exact Ising model: Kaufman's formula and the transfer matrix against enumeration, each other and derivatives."""

import numpy as np
import pytest

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.transfer_matrix import ising_by_composition, kaufman_log_z, sample_transfer_matrix

VARIABLES = (
    "log_z",
    "grand_potential",
    "composition",
    "energy",
    "heat_capacity",
    "susceptibility",
    "composition_log_weight",
)
CRITICAL = 2 / np.log(1 + np.sqrt(2))
SPECIES = ("down", "up")


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_transfer_matrix_equals_enumeration(shape):
    cell = Supercell(parent_lattice("square", 1.0, SPECIES), np.diag([*shape, 1]))
    temperature, delta_mu = np.array([0.5, 1.0, CRITICAL, 5.0]), np.array([-1.0, -0.1, 0.0, 0.3])
    exact = enumerate_exactly(ising_polynomial(cell), SPECIES, temperature, delta_mu)
    table = sample_transfer_matrix(shape, SPECIES, temperature, delta_mu)
    for name in VARIABLES:
        np.testing.assert_allclose(table[name], exact[name], rtol=1e-10, atol=1e-10, err_msg=name)
        assert not table[f"{name}_stderr"].any()
    assert table["reliable"].all()
    assert table.attrs["method"] == "transfer_matrix"
    assert table.attrs["n_sites"] == np.prod(shape)


@pytest.mark.parametrize("shape", [(10, 10), (7, 9), (3, 4)])
def test_kaufman_equals_the_transfer_matrix_at_zero_field(shape):
    temperature = np.array([0.4, 1.0, 2.0, CRITICAL, 2.5, 5.0, 50.0])
    table = sample_transfer_matrix(shape, SPECIES, temperature, np.array([0.0])).isel(delta_mu=0)
    exact = kaufman_log_z(*shape, 1 / temperature)
    np.testing.assert_allclose(table["log_z"], exact.log_z, rtol=1e-12)
    np.testing.assert_allclose(table["energy"], exact.energy, rtol=1e-12)
    np.testing.assert_allclose(table["heat_capacity"], exact.heat_capacity, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table["composition"], 0.5, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.2, 1 / CRITICAL - 1e-5, 1 / CRITICAL, 0.7])
def test_kaufman_derivatives_are_those_of_log_z(beta):
    step, stencil = 3e-4, np.array([1, -8, 0, 8, -1]) / 12
    near = kaufman_log_z(16, 12, beta + step * np.arange(-2, 3))
    here = kaufman_log_z(16, 12, beta)
    assert float(here.energy) == pytest.approx(-(stencil @ near.log_z) / step / 192, rel=1e-9)
    assert float(here.heat_capacity) == pytest.approx(-(beta**2) * (stencil @ near.energy) / step, rel=1e-9)


def test_kaufman_on_large_lattices_and_at_extreme_temperatures():
    beta = 1 / np.array([0.002, 0.3, CRITICAL, 3.0, 1e4])
    large, turned = kaufman_log_z(1000, 1200, beta), kaufman_log_z(1200, 1000, beta)
    for name in ("log_z", "energy", "heat_capacity"):
        np.testing.assert_allclose(getattr(large, name), getattr(turned, name), rtol=1e-9)
    n = 1_200_000
    np.testing.assert_allclose(large.log_z[0], 2 * n * beta[0] + np.log(2), rtol=1e-14)
    # Four broken bonds cost 8; the energy at T_c is -sqrt(2) up to order 1/L; at high T the energy is -2 tanh(beta).
    assert float(large.heat_capacity[1]) == pytest.approx(64 * beta[1] ** 2 * np.exp(-8 * beta[1]), rel=1e-3)
    assert float(large.energy[2]) == pytest.approx(-np.sqrt(2), abs=2e-3)
    assert float(large.energy[4]) == pytest.approx(-2e-4, rel=1e-6)
    scaled = kaufman_log_z(8, 9, beta[1:4] / 2.5, coupling=2.5)
    np.testing.assert_allclose(scaled.energy, 2.5 * kaufman_log_z(8, 9, beta[1:4]).energy, rtol=1e-12)


def test_weights_by_composition_sum_to_the_number_of_states_at_high_temperature():
    log_weight, mean, variance = ising_by_composition(4, 6, np.array([1e-12]))
    n = np.arange(25)
    states = np.cumprod(np.concatenate([[1.0], (24 - n[:-1]) / (n[:-1] + 1)]))
    np.testing.assert_allclose(np.exp(log_weight[0]), states, rtol=1e-9)
    assert mean[0, 0] == mean[0, 24] == -48
    assert mean[0, 1] == mean[0, 23] == -40
    np.testing.assert_allclose(variance[0, [0, 1, 23, 24]], 0, atol=1e-9)


def test_an_end_member_far_below_any_wall_keeps_its_weight():
    log_weight, mean, variance = ising_by_composition(6, 6, np.array([50.0]))
    assert log_weight[0, 0] == 72 * 50
    assert np.isfinite([mean, variance]).all()
    table = sample_transfer_matrix((6, 6), SPECIES, np.array([0.02]), np.array([0.0, 0.1]))
    assert float(table["log_z"][0, 0]) == pytest.approx(3600 + np.log(2))
    assert float(table["composition"][0, 1, 1]) == pytest.approx(1.0)


def test_unusable_arguments_are_refused():
    with pytest.raises(SamplingError, match="sides of at least 3, found 2 x 4"):
        kaufman_log_z(2, 4, 1.0)
    with pytest.raises(SamplingError, match="sides of at least 3"):
        ising_by_composition(5, 2, np.array([1.0]))
    with pytest.raises(SamplingError, match="the shorter side is 13, at most 12"):
        ising_by_composition(14, 13, np.array([1.0]))
    with pytest.raises(SamplingError, match="coupling must be positive"):
        ising_by_composition(4, 4, np.array([1.0]), coupling=-1.0)
    for function in (kaufman_log_z, ising_by_composition):
        with pytest.raises(SamplingError, match="beta must be positive"):
            function(4, 4, np.array([0.0]))
    with pytest.raises(SamplingError, match="temperatures must be positive and increasing"):
        sample_transfer_matrix((4, 4), SPECIES, np.array([2.0, 1.0]), np.array([0.0]))
