"""Dilute ends of a free energy: exact ratios, taken from all decorations instead of from samples."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from scipy.special import logsumexp

from segalflow.energy.polynomial import ising_polynomial
from segalflow.lattice import ParentLattice, Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.thermo.dilute import dilute_levels, with_dilute_ends
from segalflow.thermo.free_energy import FreeEnergy, compute_free_energy
from segalflow.thermo.order_parameters import SOLUTION
from segalflow.thermo.phase_weights import PhaseWeights, with_dilute_solution

CELL = Supercell(parent_lattice("square", 1.0, ["down", "up"]), (4, 4, 1))
MODEL = ising_polynomial(CELL)
TEMPERATURE, FIELD = np.array([1.5, 2.5, 4.0]), np.linspace(-1.0, 1.0, 5)


@pytest.fixture(scope="module")
def exact() -> FreeEnergy:
    return compute_free_energy(enumerate_exactly(MODEL, ("down", "up"), TEMPERATURE, FIELD), None)


@pytest.fixture(scope="module")
def levels() -> dict:
    return dilute_levels(MODEL, CELL)


def noisy(free: FreeEnergy, error: float) -> FreeEnergy:
    """Free energies with independent errors of every composition, and replicates that say so."""
    rng = np.random.default_rng(1)
    value = free.log_weight + error * rng.standard_normal(free.log_weight.shape)
    return replace(free, log_weight=value, replicates=value + error * rng.standard_normal((50, *value.shape)))


def test_all_decorations_are_counted(levels) -> None:
    assert sorted(levels) == [0, 1, 2, 14, 15, 16]
    for n_atoms, (energy, count) in levels.items():
        assert count.sum() == comb(16, n_atoms)
        occupation = np.zeros((comb(16, n_atoms), 16), dtype=int)
        for row, sites in zip(occupation, itertools.combinations(range(16), n_atoms), strict=True):
            row[list(sites)] = 1
        every = logsumexp(-MODEL.energy(occupation) / 2.0)
        assert logsumexp(-energy / 2.0 + np.log(count)) == pytest.approx(every, abs=1e-12)


def test_two_sites_in_a_primitive_cell() -> None:
    cell = Supercell(ParentLattice("x", np.eye(3), [[0] * 3, [0.5] * 3], [["Ni", "Mg"]] * 2), (2, 2, 2))

    class Model:
        n_sites, n_species, boltzmann, energy_unit = cell.n_sites, np.full(cell.n_sites, 2), 1.0, "J"
        own = np.where(cell.sites[:, 0] == 0, 0.3, -0.2)

        def energy(self, occupations):
            return occupations @ self.own

    levels = dilute_levels(Model(), cell)
    energy, count = levels[2]
    assert count.sum() == comb(cell.n_sites, 2)
    pairs = [Model.own[list(pair)].sum() for pair in itertools.combinations(range(cell.n_sites), 2)]
    assert logsumexp(-energy + np.log(count)) == pytest.approx(logsumexp(-np.array(pairs)), abs=1e-12)
    Model.own = np.arange(cell.n_sites) / cell.n_sites  # no translation leaves that as it is
    assert dilute_levels(Model(), cell) == {}
    Model.n_species = np.where(cell.sites[:, 0] == 0, 1, 2)
    assert dilute_levels(Model(), cell) == {}


def test_exact_free_energies_stay_what_they_are(exact, levels) -> None:
    found = with_dilute_ends(exact, levels)
    assert np.abs(found.log_weight - exact.log_weight).max() < 1e-9
    assert with_dilute_ends(exact, {}) is exact


def test_ratios_are_exact_and_the_end_stays_where_samples_put_it(exact, levels) -> None:
    rough = noisy(exact, 0.1)
    found = with_dilute_ends(rough, levels)
    ends, inner = [[0, 1, 2], [14, 15, 16]], slice(3, 14)
    assert np.array_equal(found.log_weight[:, inner], rough.log_weight[:, inner])
    assert np.array_equal(found.replicates[..., inner], rough.replicates[..., inner])
    for end in ends:
        for curves in (found.log_weight, *found.replicates):
            ratio = np.diff(curves[:, end] - exact.log_weight[:, end], axis=1)
            assert np.abs(ratio).max() < 1e-9
        # The shift is a mean of the differences: between the least and the largest, for every replicate alike.
        apart = (rough.log_weight - exact.log_weight)[:, end]
        shift = (found.log_weight - exact.log_weight)[:, end[0]]
        assert np.all((shift >= apart.min(axis=1) - 1e-12) & (shift <= apart.max(axis=1) + 1e-12))
        assert np.all(found.stderr()[:, end] < rough.stderr()[:, end].max(axis=1, keepdims=True))
        assert np.all(found.stderr()[:, end] > 0.03)


def test_compositions_that_no_sample_met_are_filled_in_beside_one_that_was(exact, levels) -> None:
    rough = noisy(exact, 0.1)
    rough.log_weight[:, [1, 2]] = -np.inf
    rough.replicates[..., [1, 2]] = -np.inf
    rough.log_weight[0, 14:] = -np.inf  # nothing of this end is known at the lowest temperature
    rough.replicates[:, 0, 14:] = -np.inf
    found = with_dilute_ends(rough, levels)
    assert np.array_equal(found.log_weight[:, 0], rough.log_weight[:, 0])
    ratio = found.log_weight[:, 1] - found.log_weight[:, 0]
    assert ratio == pytest.approx(exact.log_weight[:, 1] - exact.log_weight[:, 0], abs=1e-9)
    assert np.all(np.isneginf(found.log_weight[0, 14:]))
    assert np.all(np.isfinite(found.log_weight[1:]))


def test_energies_of_the_ends_are_exact_too(exact, levels) -> None:
    blank = np.zeros_like(exact.log_weight)
    found = with_dilute_ends(replace(exact, energy=blank, energy_variance=blank), levels)
    energy, count = levels[2]
    for row, beta in enumerate(exact.beta):
        p = count * np.exp(-beta * (energy - energy.min()))
        p /= p.sum()
        assert found.energy[row, 2] == pytest.approx(p @ energy, rel=1e-12)
        assert found.energy_variance[row, 2] == pytest.approx(p @ energy**2 - (p @ energy) ** 2, rel=1e-9)
    assert np.all(found.energy[:, 3:14] == 0)


def test_only_the_solid_solution_of_phases_is_dilute(exact, levels) -> None:
    rough = noisy(exact, 0.1)
    other = replace(rough, log_weight=rough.log_weight.copy())
    other.log_weight[:, [0, 1, 2, 14, 15, 16]] = -np.inf
    found = with_dilute_solution(PhaseWeights({"ordered": other, SOLUTION: rough}), levels)
    assert found.phases["ordered"] is other
    assert np.array_equal(found.phases[SOLUTION].log_weight, with_dilute_ends(rough, levels).log_weight)
    mixed = PhaseWeights({"ordered": rough, SOLUTION: rough})
    assert with_dilute_solution(mixed, levels) is mixed
