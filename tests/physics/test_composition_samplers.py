"""Canonical chains, VCSGC, scans and the schedules of metadynamics against the exact sum of a small alloy."""

from __future__ import annotations

import numpy as np
import pytest
from calibration import assert_calibrated

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import place_expansion, polynomial_from_terms
from segalflow.errors import SamplingError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell
from segalflow.sampling.canonical import sample_canonical
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.metadynamics import sample_metadynamics
from segalflow.sampling.scan import sample_scan
from segalflow.sampling.vcsgc import sample_vcsgc

GRID = (np.linspace(600, 1200, 4), np.linspace(-0.24, 0.24, 9))


@pytest.fixture(scope="module")
def alloy(reference):
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    model = place_expansion(expansion, Supercell(expansion.lattice, [2, 2, 4]))
    return model, ("Cu", "Au"), *GRID


@pytest.mark.reference
@pytest.mark.parametrize(
    ("sample", "settings"),
    [
        (sample_canonical, {"equilibration": 200, "measurements": 800}),
        (sample_vcsgc, {"equilibration": 200, "sweeps": 3000}),
        (sample_scan, {"sweeps": 400, "equilibration": 50, "walkers": 12}),
        (sample_metadynamics, {"schedule": "one_over_t", "production_sweeps": 3000, "last_deposit": 1e-3}),
        (sample_metadynamics, {"schedule": "well_tempered", "production_sweeps": 3000, "stage_sweeps": 200}),
    ],
    ids=["canonical", "vcsgc", "scan", "one_over_t", "well_tempered"],
)
def test_agrees_with_the_exact_sum(alloy, sample, settings) -> None:
    tables = [sample(*alloy, seed=seed, **settings) for seed in range(8)]
    assert_calibrated(tables, enumerate_exactly(*alloy), least_reliable=0.9)


def test_swaps_follow_the_transition_matrix() -> None:
    """From one decoration of four sites, one sweep of swaps lands where the product of two-site matrices says."""
    model = polynomial_from_terms(4, 0.0, {(0, 1): -0.7, (1, 2): 0.4, (0, 2, 3): 0.5, (3,): 0.3}, 1.0, "J")
    states = np.array([s for s in np.ndindex(2, 2, 2, 2) if sum(s) == 2])
    energy = model.energy(states)
    number = {tuple(s): k for k, s in enumerate(states.tolist())}

    def swap(i: int, j: int) -> np.ndarray:
        matrix = np.eye(6)
        for k, s in enumerate(states):
            moved = s.copy()
            moved[[i, j]] = moved[[j, i]]
            other = number[tuple(moved.tolist())]
            if other != k:
                p = 1 / (1 + np.exp(energy[other] - energy[k]))
                matrix[k, other], matrix[k, k] = p, 1 - p
        weight = np.exp(-energy)
        assert np.allclose(weight[:, None] * matrix, (weight[:, None] * matrix).T)  # detailed balance
        return matrix

    pairings = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    expected = np.mean([(swap(*a) @ swap(*b) + swap(*b) @ swap(*a)) / 2 for a, b in pairings], axis=0)
    for copies, seed in ((512, 1), (40, 2)):  # bits and bytes
        chains = LockstepChains(model, np.ones(copies), np.zeros(copies), seed=seed)
        counts = np.zeros(6)
        repeats = 20_000 // copies * 8
        for _ in range(repeats):
            chains.set_spins(np.repeat(2 * states[:1] - 1, copies, axis=0))
            chains.swap_sweep(1)
            counts += np.bincount([number[tuple(s)] for s in ((chains.spins + 1) // 2).tolist()], minlength=6)
        share = counts / counts.sum()
        # Chains share the pairs of a sweep: the sweeps, not the chains, are independent draws of those.
        per_order = [m[0] for a, b in pairings for m in (swap(*a) @ swap(*b), swap(*b) @ swap(*a))]
        spread = np.std(per_order, axis=0) / np.sqrt(repeats)
        error = np.sqrt(expected[0] * (1 - expected[0]) / counts.sum() + spread**2)
        assert np.all(np.abs(share - expected[0]) <= 4 * error)


def test_swaps_keep_the_composition(alloy) -> None:
    chains = LockstepChains(alloy[0], np.full(300, 700.0), np.zeros(300), seed=3)
    spins = np.where(np.random.default_rng(0).random((300, 16)) < 0.4, 1, -1)
    chains.set_spins(spins)
    assert chains.swap_sweep(20).mean() > 0.05
    assert np.array_equal(chains.n_plus(), (spins > 0).sum(axis=1))
    assert not np.array_equal(chains.spins, spins)


def test_a_scan_shows_hysteresis_and_marks_it() -> None:
    """A ferromagnet far below its transition keeps its first phase: the branches differ and the points are doubted."""
    bonds = {tuple(sorted((k, (k + step) % 36))): -1.0 for k in range(36) for step in (1, 6)}
    model = polynomial_from_terms(36, 0.0, bonds, 1.0, "J")
    table = sample_scan(
        model, ("down", "up"), np.array([1.0, 5.0]), np.linspace(-0.8, 0.8, 5), seed=1, sweeps=100, equilibration=20
    )
    assert table.attrs["largest_hysteresis"] > 0.9
    assert not table["reliable"].values[0, 1:-1].all()
    assert table["reliable"].values[1].all()
    difference = np.abs(table["composition_up"] - table["composition_down"]).values[0]
    doubted = table["reliable"].values[0] < 0.5
    assert np.all(table["composition_stderr"].values[0, doubted, 1] >= difference[doubted] / 2)


@pytest.mark.parametrize(
    ("sample", "settings", "words"),
    [
        (sample_canonical, {"measurements": 13}, "measurements in multiples of 10"),
        (sample_vcsgc, {"windows": 1}, "windows >= 2"),
        (sample_scan, {"walkers": 2}, "walkers >= 4"),
        (sample_metadynamics, {"schedule": "halfing"}, "did you mean 'halving'"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(alloy, sample, settings, words) -> None:
    with pytest.raises(SamplingError, match=words):
        sample(*alloy, seed=0, **settings)


def test_every_table_has_autocorrelation_times(alloy) -> None:
    """Of the order of sweeps where the alloy is disordered, and more where compositions are joined by diffusion."""
    for sample, settings in (
        (sample_canonical, {"equilibration": 100, "measurements": 200}),
        (sample_scan, {"sweeps": 200, "equilibration": 20}),
        (sample_vcsgc, {"equilibration": 50, "sweeps": 600}),
    ):
        time = sample(*alloy, seed=1, **settings)["autocorrelation_time"].values
        assert time.shape == (4, 9)
        assert np.all(time >= 0.5)
        assert 0.5 < np.median(time) < 200
