"""Wang-Landau against exact sums: values, errors that mean what they say, honest flags."""

import numpy as np
import pytest

from segalflow.energy.polynomial import SpinPolynomial, ising_polynomial, place_expansion
from segalflow.errors import SamplingError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.transfer_matrix import kaufman_log_z
from segalflow.sampling.wang_landau import density_of_states, sample_wang_landau

ESTIMATES = ("log_z", "composition", "energy", "heat_capacity", "susceptibility")


def ising(*shape: int) -> SpinPolynomial:
    lattice = parent_lattice("square", 1.0, ("down", "up"))
    return ising_polynomial(Supercell(lattice, np.diag([*shape, 1])))


@pytest.mark.reference
def test_wang_landau_on_copper_gold(reference):
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    model = place_expansion(expansion, Supercell(expansion.lattice, np.diag([2, 2, 4])))
    temperature, delta_mu = np.linspace(400, 1200, 9), np.linspace(-0.24, 0.24, 9)
    exact = enumerate_exactly(model, ("Cu", "Au"), temperature, delta_mu)
    tables = [
        sample_wang_landau(
            model, ("Cu", "Au"), temperature, delta_mu, seed=seed,
            walkers=24, final_log_f=1e-3, production_sweeps=20000,
        )
        for seed in range(8)
    ]  # fmt: skip
    together = []
    for name in ESTIMATES:
        z = np.stack([((table[name] - exact[name]) / table[f"{name}_stderr"]).values for table in tables])
        assert np.all(np.isfinite(z)), name
        assert 0.6 < np.sqrt(np.mean(z**2)) < 1.4, name
        together.append(z.ravel())
    assert np.mean(np.abs(np.concatenate(together)) <= 3.5) >= 0.98
    for table in tables:
        assert table["reliable"].all()
        assert table.attrs["one_over_t"] == 24
        assert float(table["log_z_stderr"].max()) < 0.05
        assert float(table["composition_stderr"].max()) < 0.01
        assert float(table["energy_stderr"].max()) < 1e-3
        assert float((table["heat_capacity_stderr"] / exact["heat_capacity"].max()).max()) < 0.05


def test_the_joint_density_of_the_ising_model_is_that_of_all_states():
    states = density_of_states(ising(4, 4), seed=3, bin_width=1.0, walkers=8, final_log_f=3e-3, production_sweeps=20000)
    log_g, u, v = states.weights(np.zeros(1))
    found = np.isfinite(log_g[0])
    # Levels are four apart, so a bin holds one; a row per number of up spins: 1 state, 16 states, ...
    assert np.allclose(v[found], 0, atol=1e-12)
    assert np.allclose(np.exp(log_g[0]).sum(axis=1)[[0, 1, 2, 8, 16]], [1, 16, 120, 12870, 1])
    for n, energy, count in ((0, -32, 1), (1, -24, 16), (2, -20, 32), (2, -16, 88), (8, -16, 8), (8, 32, 2)):
        bin_ = np.flatnonzero(found[n] & np.isclose(u[n], energy))
        assert len(bin_) == 1
        assert np.exp(log_g[0, n, bin_[0]]) == pytest.approx(count, rel=0.1)


def test_the_density_in_energy_alone_gives_kaufmans_values():
    temperature = np.array([1.5, 2.0, 2.3, 3.0, 5.0])
    exact = kaufman_log_z(6, 6, 1 / temperature)
    found = [
        density_of_states(
            ising(6, 6), seed=seed, bin_width=1.0, walkers=16, final_log_f=1e-3, production_sweeps=10000,
            by_composition=False,
        ).canonical(1 / temperature)
        for seed in range(4)
    ]  # fmt: skip
    for name, value, scale in (
        ("log_z", exact.log_z, 1),
        ("energy", exact.energy, 36),
        ("heat_capacity", exact.heat_capacity, 36),
    ):
        z = np.stack([(f[name] - scale * value) / f[f"{name}_stderr"] for f in found])
        assert np.all(np.abs(z) < 4.5), name
        assert np.all(np.stack([f[f"{name}_stderr"] for f in found]) < 0.05 * np.abs(scale * value)), name


def test_same_seed_same_table_other_seed_another():
    common = (ising(4, 4), ("down", "up"), np.array([2.0, 3.0]), np.array([0.0, 0.2]))
    budget = {"walkers": 4, "final_log_f": 0.02, "production_sweeps": 500}
    first, second, other = (sample_wang_landau(*common, seed=seed, **budget) for seed in (1, 1, 2))
    assert first.identical(second)
    assert not np.array_equal(first["energy"], other["energy"])


def test_a_run_cut_short_of_the_1_over_t_stage_is_unreliable():
    table = sample_wang_landau(
        ising(6, 6), ("down", "up"), np.array([2.0]), np.array([0.0]), seed=0, walkers=4, max_sweeps=20
    )
    assert table.attrs["one_over_t"] < 4
    assert not table["reliable"].any()


def test_unusable_settings_are_refused():
    model, grid = ising(4, 4), (np.array([2.0]), np.array([0.0]))
    for settings, message in (
        ({"walkers": 3}, "walkers: expected at least 4"),
        ({"bin_width": 0.0}, "expected bin_width > 0"),
        ({"final_log_f": 1.5}, "0 < final_log_f < 1"),
        ({"max_sweeps": 0}, "must be at least 1"),
        ({"bin_width": 1e-6}, "do not fit; use fewer walkers or a wider bin"),
    ):
        with pytest.raises(SamplingError, match=message):
            sample_wang_landau(model, ("down", "up"), *grid, seed=0, **settings)
    with pytest.raises(SamplingError, match="temperatures must be positive and increasing"):
        sample_wang_landau(model, ("down", "up"), np.array([-1.0]), grid[1], seed=0)
