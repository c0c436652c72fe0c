"""The reference samplers against exact sums on small cells: values, and errors that mean what they say."""

import numpy as np
import pytest
from calibration import ESTIMATES, assert_calibrated

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial, ising_polynomial, place_expansion, polynomial_from_terms
from segalflow.errors import SamplingError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly, lowest_states
from segalflow.sampling.metadynamics import sample_metadynamics
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.sampling.replica_exchange import ReplicaExchange
from segalflow.sampling.statistics import (
    autocorrelation_time,
    bennett_ratio,
    jackknife_error,
    leave_one_out_means,
    student_factor,
)  # fmt: skip
from segalflow.sampling.tempering import sample_tempering


@pytest.fixture(scope="module")
def ising() -> SpinPolynomial:
    lattice = parent_lattice("square", 1.0, ("down", "up"))
    return ising_polynomial(Supercell(lattice, np.diag([4, 4, 1])))


def test_exact_enumeration_of_four_sites_equals_the_sum_written_out():
    model = polynomial_from_terms(4, 0.1, {(0, 1): -0.3, (1, 2): 0.2, (0, 2, 3): 0.15, (3,): 0.05}, 1.0, "J")
    table = enumerate_exactly(model, ("A", "B"), np.array([0.5, 1.0]), np.array([-0.2, 0.4]))
    states = ((np.arange(16)[:, None] >> np.arange(4)) & 1).astype(np.int8)
    u, n = model.energy(states), states.sum(axis=1)
    for i, t in enumerate((0.5, 1.0)):
        for j, mu in enumerate((-0.2, 0.4)):
            w = np.exp(-(u - mu * n) / t)
            p = w / w.sum()
            e = u - mu * n
            at = table.isel(temperature=i, delta_mu=j)
            assert float(at.log_z) == pytest.approx(np.log(w.sum()), abs=1e-12)
            assert float(at.composition[1]) == pytest.approx(p @ n / 4, abs=1e-12)
            assert float(at.energy) == pytest.approx(p @ u / 4, abs=1e-12)
            assert float(at.heat_capacity) == pytest.approx((p @ e**2 - (p @ e) ** 2) / t**2 / 4, abs=1e-12)
            assert float(at.susceptibility) == pytest.approx((p @ n**2 - (p @ n) ** 2) / t / 4, abs=1e-12)
            share = np.bincount(n, weights=p, minlength=5)
            np.testing.assert_allclose(np.exp(at.composition_log_weight), share, atol=1e-12)


def test_enumeration_by_any_energy_model_equals_the_gray_code_walk(ising):
    class Plain:
        n_sites, n_species, boltzmann, energy_unit = 16, np.full(16, 2), 1.0, "J"

        def energy(self, occupations):
            return ising.energy(occupations)

    grid = np.array([0.4, 2.0]), np.array([-0.5, 0.0])
    fast, plain = (enumerate_exactly(m, ("down", "up"), *grid) for m in (ising, Plain()))
    for name in (*ESTIMATES, "susceptibility", "composition_log_weight"):
        np.testing.assert_allclose(fast[name], plain[name], rtol=1e-9, atol=1e-9)


def test_enumeration_refuses_a_large_cell():
    model = polynomial_from_terms(40, 0.0, {(0, 1): 1.0})
    with pytest.raises(SamplingError, match="has 40 sites, this energy model allows at most 30"):
        enumerate_exactly(model, ("A", "B"), np.array([300.0]), np.array([0.0]))


def test_ising_ground_states(ising):
    energy, degeneracy = lowest_states(ising)
    assert energy[0] == energy[16] == -32
    assert degeneracy[0] == degeneracy[16] == 1
    assert degeneracy[1] == 16
    assert energy[8] == -16  # two straight walls
    assert degeneracy[8] == 8


def test_metropolis_and_metadynamics_on_ising(ising):
    temperature, field = np.array([1.8, 2.3, 3.0, 4.0]), np.array([-0.5, 0.0, 0.3])
    exact = enumerate_exactly(ising, ("down", "up"), temperature, field)
    common = (ising, ("down", "up"), temperature, field)
    assert_calibrated(
        [sample_metropolis(*common, seed=s, sweeps=12000, equilibration=300) for s in range(6)], exact, 0.9
    )
    assert_calibrated(
        [sample_metadynamics(*common, seed=s, walkers=32, production_sweeps=2000) for s in range(10)], exact, 1.0
    )


def test_same_seed_same_table_other_seed_another(ising):
    common = (ising, ("down", "up"), np.array([2.0, 3.0]), np.array([0.0, 0.2]))
    for sampler, budget in ((sample_metropolis, {"sweeps": 400}), (sample_metadynamics, {"production_sweeps": 200})):
        first, second, other = (sampler(*common, seed=s, **budget) for s in (1, 1, 2))
        assert first.identical(second)
        assert not np.array_equal(first["energy"], other["energy"])


def test_metropolis_says_where_chains_from_two_starts_disagree():
    """A strong ferromagnet far below its transition never leaves the phase it starts in."""
    lattice = parent_lattice("square", 1.0, ("down", "up"))
    model = ising_polynomial(Supercell(lattice, np.diag([8, 8, 1])))
    table = sample_metropolis(
        model, ("down", "up"), np.array([0.7]), np.array([0.0]), seed=0, sweeps=400, exchange_every=0
    )
    assert float(table["reliable"][0, 0]) == 0
    assert table.attrs["largest_hysteresis"] > 0.9
    assert float(table["composition_stderr"][0, 0, 1]) > 0.4


def test_replica_exchange_carries_decorations_from_infinite_temperature(ising):
    """Ising chains with exchanges are right; the table says how decorations travelled."""
    grid = np.array([1.6, 2.2, 4.0]), np.array([-0.2, 0.0, 0.2])
    exact = enumerate_exactly(ising, ("down", "up"), *grid)
    common = (ising, ("down", "up"), *grid)
    budget = {"sweeps": 6000, "equilibration": 200, "n_ladder": 3, "n_blocks": 10, "measure_every": 4}
    tables = [sample_tempering(*common, seed=s, **budget, exchange_every=4) for s in range(10)]
    assert_calibrated(tables, exact, 0.7)
    table = tables[0]
    assert table.attrs["method"] == "tempering"
    renewals, shares = (np.array(table.attrs[n]) for n in ("renewals", "exchange_acceptance_temperature"))
    assert renewals.shape == (3, 3)
    assert renewals.min() > 20
    assert shares.shape == (6, 3)
    assert 0.05 < shares.min() < shares.max() < 1
    rare = sample_tempering(*common, seed=0, **budget, exchange_every=1000)
    assert np.array(rare.attrs["renewals"]).min() < 10
    assert not rare["reliable"].values.all()
    with pytest.raises(SamplingError, match=r"tempering\.exchange_every: expected 1 to 6000"):
        sample_tempering(*common, seed=0, **budget, exchange_every=0)


def test_renewals_are_counted_once_for_every_journey(ising):
    """Three rungs at infinite temperature accept every exchange: the way of each decoration is known."""
    chains = LockstepChains(ising, np.full(3, np.inf), np.zeros(3), seed=0)
    exchange = ReplicaExchange(chains, (3, 1, 1), np.random.default_rng(0))
    seen = []
    for number in range(6):
        exchange(number)
        seen.append(exchange.renewals[:, 0].tolist())
    # Moves: (0,1), (1,2), (0,1), ...: the decoration of the top comes down one rung at every other exchange.
    assert seen == [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 2, 0], [2, 2, 0], [2, 3, 0]]
    assert exchange.report(3)["exchange_acceptance_temperature"] == [[1.0], [1.0]]


def test_metadynamics_reports_stages_that_do_not_get_flat(ising):
    table = sample_metadynamics(
        ising, ("down", "up"), np.array([1.0]), np.array([0.0]), seed=0,
        walkers=4, stage_sweeps=10, check_every=10, production_sweeps=50,
    )  # fmt: skip
    assert table.attrs["unfinished_stages"][0] > 0
    assert float(table["reliable"][0, 0]) == 0


def test_autocorrelation_time_of_an_autoregressive_series():
    rng = np.random.default_rng(0)
    rho, series = 0.9, np.empty((40, 20000))
    noise = rng.normal(size=series.shape)
    series[:, 0] = noise[:, 0] / np.sqrt(1 - rho**2)
    for t in range(1, series.shape[1]):
        series[:, t] = rho * series[:, t - 1] + noise[:, t]
    assert autocorrelation_time(series).mean() == pytest.approx(0.5 * (1 + rho) / (1 - rho), rel=0.05)
    assert autocorrelation_time(np.full(100, -3.7))[()] == 0.5


@pytest.mark.parametrize("groups", [6, 24])
def test_errors_of_few_groups_are_wide_enough(groups):
    """Means of Gaussian groups over their errors have variance 1, though each error is itself uncertain."""
    draws = np.random.default_rng(2).normal(size=(20000, groups))
    error = student_factor(groups) * jackknife_error(leave_one_out_means(draws, axis=1), axis=1)
    assert np.std(draws.mean(axis=1) / error) == pytest.approx(1.0, abs=0.03)


def test_bennett_ratio_of_two_gaussians_with_its_error():
    """log(Z_b/Z_a) of exp(-x^2/2) and exp(-(x-1)^2/(2 0.7^2)) is log 0.7; errors from the influences."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(500, 400)), 1 + 0.7 * rng.normal(size=(500, 400))

    def log_ratio(x):
        return -((x - 1) ** 2) / (2 * 0.49) + x**2 / 2

    value, influence = bennett_ratio(log_ratio(a), log_ratio(b))
    error = np.sqrt((influence**2).sum(axis=(0, 2)))
    z = (value - np.log(0.7)) / error
    assert abs(z.mean()) < 4 / np.sqrt(500)
    assert z.std() == pytest.approx(1.0, abs=0.12)


@pytest.fixture(scope="module")
def copper_gold(reference) -> SpinPolynomial:
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    return place_expansion(expansion, Supercell(expansion.lattice, np.diag([2, 2, 4])))


@pytest.mark.reference
def test_copper_gold_hull_and_degeneracies(copper_gold):
    energy, degeneracy = lowest_states(copper_gold)
    formation = (energy - energy[0] - (energy[16] - energy[0]) * np.arange(17) / 16) / 16
    assert degeneracy[[4, 8, 12]].tolist() == [4, 6, 4]
    np.testing.assert_allclose(formation[[4, 8, 12]], [-0.034167, -0.036182, -0.018754], atol=1e-6)


@pytest.mark.reference
def test_samplers_on_copper_gold(copper_gold):
    temperature, delta_mu = np.linspace(400, 1200, 9), np.linspace(-0.24, 0.24, 9)
    exact = enumerate_exactly(copper_gold, ("Cu", "Au"), temperature, delta_mu)
    common = (copper_gold, ("Cu", "Au"), temperature, delta_mu)
    assert_calibrated(
        [sample_metropolis(*common, seed=s, sweeps=6000, equilibration=300) for s in range(2)], exact, 0.97
    )
    assert_calibrated(
        [sample_metadynamics(*common, seed=s, walkers=32, production_sweeps=3000) for s in range(2)], exact, 1.0
    )


@pytest.mark.reference
def test_the_exact_sum_of_27_sites(reference):
    """2^27 decorations of Ag-Pd: the count, the symmetry of pure ends, and replica-exchange chains agree."""
    expansion = read_expansion(reference / "agpd" / "eci_published.json")
    model = place_expansion(expansion, Supercell(expansion.lattice, [3, 3, 3]))
    conditions = ("Ag", "Pd"), np.array([600.0, 900.0, 1e12]), np.array([-0.1, 0.0, 0.1])
    exact = enumerate_exactly(model, *conditions)
    assert np.allclose(exact["log_z"].values[2], 27 * np.log(2), atol=1e-6)
    ends = model.energy_of_spins(np.array([[-1] * 27, [1] * 27], dtype=np.int8))
    beta = 1 / (model.boltzmann * 600.0)
    share = exact["composition_log_weight"].values[0, 1, [0, -1]]
    assert np.allclose(share, -beta * ends - float(exact["log_z"][0, 1]), atol=1e-9)
    table = sample_metropolis(model, conditions[0], conditions[1][:2], conditions[2], seed=4, sweeps=4000, n_ladder=6)
    for name in ESTIMATES:
        z = ((table[name] - exact[name][:2]) / table[f"{name}_stderr"]).values
        assert np.abs(z).max() < 4, name
