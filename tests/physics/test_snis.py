"""SEGAL and SNIS against exact sums on cells small enough to enumerate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from segalflow.cells import Grid
from segalflow.energy.polynomial import ising_polynomial, place_expansion
from segalflow.ensemble import lower_ness, sampled_conditions
from segalflow.errors import SamplingError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.samples import spins_of
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.importance import sample_importance
from segalflow.sampling.refined import add_conditions
from segalflow.segal.training import train
from segalflow.thermo.comparison import compare_methods
from segalflow.thermo.free_energy import compute_free_energy
from segalflow.thermo.pooling import pool_samples

TRAINING = {
    "objective": "likelihood",
    "steps": 1500,
    "batch": 40,
    "learning_rate": 0.006,
    "conditions": "grid",
    "colder": 0,
    "pool_sweeps": 100,
    "sweeps_per_round": 1,
    "refresh_every": 5,
    "adaptive": True,
    "ness_target": None,
    "checkpoint_every": 10**9,
}
T, MU = np.linspace(300, 1200, 7), np.linspace(-0.24, 0.24, 13)


@pytest.fixture(scope="module")
def alloy(reference):
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    cell = Supercell(expansion.lattice, [2, 2, 4])
    return place_expansion(expansion, cell), cell


@pytest.fixture(scope="module")
def sampler(alloy):
    model, cell = alloy
    return train(model, cell, T, MU, network={"kind": "physics", "sizes": {}}, training=TRAINING, seed=3)


@pytest.mark.reference
def test_snis_agrees_with_the_exact_sum_within_its_errors(alloy, sampler) -> None:
    model, cell = alloy
    species = cell.lattice.species[0]
    exact = enumerate_exactly(model, species, T, MU)
    frames = []
    for seed in range(8):
        table = sample_importance(sampler, species, T, MU, seed=seed, samples_per_condition=1000)
        assert table["reliable"].values.mean() > 0.97
        assert np.median(table["ness"].values) > 0.95
        frames.append(compare_methods({"exact": exact, "snis": table}, "small"))
    comparison = pd.concat(frames)
    comparison = comparison[comparison["reliable_b"].astype(bool)]
    for name, part in comparison.groupby("variable"):
        assert len(part) > 700
        assert np.mean(np.abs(part["z"]) <= 3) >= 0.99, name
        # Frozen conditions have no spread to be wrong about: the size of errors is judged where there is one.
        moving = part[part["difference"].abs() > 1e-6]
        assert 0.75 < np.sqrt(np.mean(moving["z"] ** 2)) < 1.25, name


@pytest.mark.reference
def test_conditions_added_to_a_sweep_agree_with_the_exact_sum_and_stay_in_the_trained_window(alloy, sampler) -> None:
    model, cell = alloy
    species = cell.lattice.species[0]
    kept = []
    settings = {"samples_per_condition": 400, "pool_sweeps": 200}
    table = sample_importance(sampler, species, T[:3], MU, seed=1, collect=kept.append, **settings)
    wanted = np.array([[True, False, True], [False, False, False], [False, True, False]])
    grid = Grid(np.array([300.0, 450.0, 525.0]), np.array([-0.13, -0.005, 0.071]), "round 1", wanted)
    refined, samples = add_conditions(table, kept[0], sampler, grid, number=1, seed=2, **settings)
    assert np.array_equal(np.argwhere(refined["round"].values == 1), [[0, 3], [0, 10], [2, 7]])
    old = refined.sel(temperature=T[:3], delta_mu=MU)
    assert np.array_equal(old["composition"], table["composition"])
    exact = enumerate_exactly(model, species, refined["temperature"].values, refined["delta_mu"].values)
    new = refined["round"].values == 1
    assert (refined["reliable"].values[new] == 1).all()
    for name in ("log_z", "energy", "composition"):
        z = (refined[name] - exact[name]).values[new] / refined[f"{name}_stderr"].values[new]
        assert np.abs(z).max() < 4, name
    free = compute_free_energy(refined, samples, replicates=20)
    assert "refused" not in free.attributes
    # All sampled conditions are pooled, old and new, but for those whose numbers are a repair's.
    used = sampled_conditions(refined) & (refined["reliable"].values == 1) & (refined["repaired"].values == 0)
    assert used.sum() > 0.9 * sampled_conditions(refined).sum()
    assert (np.bincount(pool_samples(samples, refined).condition) > 0).sum() == used.sum()
    beyond = Grid(np.array([300.0]), np.array([MU[-1] + 0.01]), "round 1", np.ones((1, 1), dtype=bool))
    with pytest.raises(SamplingError, match="outside the trained domain"):
        add_conditions(table, kept[0], sampler, beyond, number=1, seed=2, **settings)
    nothing = Grid(T[:3], MU[:1], "round 1", np.zeros((3, 1), dtype=bool))
    assert add_conditions(table, kept[0], sampler, nothing, number=1, seed=2)[0] is table


@pytest.mark.reference
def test_every_degenerate_ground_state_is_drawn(alloy, sampler) -> None:
    """Coverage: 4 Cu3Au, 6 CuAu, 4 Au3Cu ground states, none missed (the paper found one or two of each)."""
    model, _ = alloy
    states = (2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1) - 1).astype(np.int8)
    energies, n_plus = model.energy_of_spins(states), (states > 0).sum(1)
    for count, mu, degeneracy in ((4, -0.07, 4), (8, 0.03, 6), (12, 0.0724, 4)):
        lowest = energies[n_plus == count].min()
        ground = {s.tobytes() for s in states[(n_plus == count) & (energies < lowest + 1e-6)]}
        assert len(ground) == degeneracy
        spins, _, _ = sampler.sample(np.full(4000, 300.0), np.full(4000, mu), seed=count)
        assert ground <= {s.tobytes() for s in spins}


@pytest.mark.reference
def test_log_probabilities_follow_the_cells_symmetry(alloy, sampler) -> None:
    """Symmetry images get nearly the same probability, though the site order breaks the symmetry."""
    _, cell = alloy
    spins, log_p, _ = sampler.sample(np.full(500, 600.0), np.full(500, -0.05), seed=1)
    operations = cell.symmetry_permutations()
    moved = np.empty_like(spins)
    chosen = operations[np.random.default_rng(2).integers(0, len(operations), len(spins))]
    moved[np.arange(len(spins))[:, None], chosen] = spins
    image = sampler.log_prob(moved, np.full(500, 600.0), np.full(500, -0.05))
    residual = np.var(image - log_p) / np.var(log_p)
    assert 1 - residual > 0.98


class OneSided:
    """A sampler that knows one of the ferromagnet's two phases: independent spins, nearly all up."""

    up = 0.97
    extrapolate = False

    def __init__(self) -> None:
        self.model = ising_polynomial(Supercell(parent_lattice("square", 1.0, ["down", "up"]), [4, 4, 1]))
        self.n_sites = self.model.n_sites

    def log_prob(self, spins, temperature, delta_mu, extrapolate=False):
        return np.where(spins > 0, np.log(self.up), np.log(1 - self.up)).sum(1)

    def sample(self, temperature, delta_mu, seed, extrapolate=False):
        draws = np.random.default_rng(seed).random((len(temperature), self.n_sites))
        spins = np.where(draws < self.up, 1, -1).astype(np.int8)
        return spins, self.log_prob(spins, temperature, delta_mu), self.model.energy_of_spins(spins)


def test_a_phase_the_sampler_never_draws_is_noticed() -> None:
    """At B = 0 below T_c half of the weight is magnetised down; at B > 0 hardly any."""
    conditions = {"species": ("down", "up"), "temperature": np.array([1.4, 1.5]), "delta_mu": np.array([0.0, 1.0])}
    sampler = OneSided()
    blind = sample_importance(sampler, **conditions, seed=1, pool_sweeps=0)
    checked = sample_importance(sampler, **conditions, seed=1, pool_sweeps=200)
    assert blind["reliable"].values.all()  # the weights alone see nothing wrong
    assert abs(float(blind["composition"][0, 0, 1]) - 0.5) > 0.4
    assert np.array_equal(checked["reliable"].values > 0.5, [[False, True], [False, True]])
    lower = lower_ness(checked)
    assert lower[:, 0].max() < 0.05
    assert lower[:, 1].min() > 0.3


def test_draws_are_added_until_log_z_is_as_sure_as_asked_for() -> None:
    conditions = {"species": ("down", "up"), "temperature": np.array([1.4, 1.5]), "delta_mu": np.array([1.0, 2.0])}
    settings = {"seed": 1, "pool_sweeps": 0, "symmetrise_below": 0.0, "repair": "none", "samples_per_condition": 500}
    plain = sample_importance(OneSided(), **conditions, **settings)
    asked = float(np.median(plain["log_z_stderr"])) / 16 / 2
    surer = sample_importance(OneSided(), **conditions, **settings, max_factor=64, log_z_error=asked)
    assert (surer["log_z_stderr"].values <= 16 * asked).all()
    assert surer["n_samples"].values.min() < surer["n_samples"].values.max()
    ended = sample_importance(OneSided(), **conditions, **settings, max_factor=2, log_z_error=asked / 10)
    assert (ended["n_samples"].values == 1000).all()


def test_the_samples_tell_what_the_table_tells() -> None:
    """Also where a repair drew more than are kept, and where another repair replaced the draws."""
    conditions = {"species": ("down", "up"), "temperature": np.array([2.5, 4.0]), "delta_mu": np.array([0.5, 2.0])}
    settings = {"seed": 1, "pool_sweeps": 0, "ess_floor": 400.0, "max_factor": 4, "symmetrise_below": 0.0}
    settings["repair"] = "none"  # estimates of chains are not those of the weighted draws
    kept: list = []
    table = sample_importance(OneSided(), **conditions, **settings, keep_samples=1500, collect=kept.append)
    (samples,) = kept
    assert (table["n_samples"].values > 1500).any()
    assert samples["valid"].sum("sample").values.tolist() == np.minimum(table["n_samples"].values, 1500).tolist()
    weights = np.exp(samples["log_weight"]) * samples["valid"]
    assert weights.sum("sample").values == pytest.approx(samples["valid"].sum("sample").values)
    for name, values, scale in (("energy", samples["energy"], 16), ("composition", samples["n_atoms"], 16)):
        mean = (weights * values).sum("sample") / weights.sum("sample") / scale
        whole = table[name] if name == "energy" else table[name].isel(species=1)
        error = table[f"{name}_stderr"] if name == "energy" else table[f"{name}_stderr"].isel(species=1)
        same = table["n_samples"].values <= 1500
        assert mean.values[same] == pytest.approx(whole.values[same], rel=1e-9)
        assert np.all(np.abs(mean.values - whole.values) <= 0.5 * error.values + 1e-9)
    spins = spins_of(samples)
    energies = OneSided().model.energy_of_spins(spins.reshape(-1, 16)).reshape(spins.shape[:3])
    assert np.where(samples["valid"], energies, 0) == pytest.approx(samples["energy"].values)
