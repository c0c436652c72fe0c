"""Any number of species: the categorical network and its sweeps against exact sums of small cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segalflow.energy.adapters import ModuleModel
from segalflow.energy.polynomial import ising_polynomial
from segalflow.energy.potentials import ExchangePotentials
from segalflow.energy.site_functions import place_general
from segalflow.ensemble import grid_dimensions, read_ensemble, write_ensemble
from segalflow.errors import SamplingError, TrainingError
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion
from segalflow.lattice import ParentLattice, Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.species import enumerate_species, sample_species_importance, sample_species_metropolis
from segalflow.segal import optimisation
from segalflow.segal.categorical import build_species_network
from segalflow.segal.checkpoint import read_sampler, write_sampler
from segalflow.segal.features import evaluate_past_fields, past_fields
from segalflow.segal.species_sampler import SpeciesSampler
from segalflow.segal.species_training import train_species

TERNARY = parent_lattice("sc", 3.0, ["Cu", "Au", "Pd"])
CELL = Supercell(TERNARY, [2, 2, 2])
ROCKSALT = ParentLattice(
    "rocksalt", np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 4.2, [[0] * 3, [0.5] * 3],
    [["Ni", "Mg"], ["O", "S", "N"]],
)  # fmt: skip
T = np.array([600.0, 900.0, 1400.0])
AXES = (np.array([-0.08, 0.0, 0.08]), np.array([-0.05, 0.05]))
NETWORK = {"kind": "categorical", "sizes": {"hidden": 12}}
TRAINING = {
    "objective": "likelihood", "steps": 150, "batch": 24, "learning_rate": 0.01, "colder": 0, "pool_sweeps": 60,
    "sweeps_per_round": 1, "refresh_every": 2, "adaptive": True, "ness_target": None, "checkpoint_every": 20,
}  # fmt: skip


def expansion(lattice: ParentLattice, scale: float = 0.03) -> ClusterExpansion:
    """Pairs, with both point functions of three species, and a three-body figure."""
    point = tuple(
        ((-1.0, 1.0),) if len(names) == 2 else ((-1.0, 0.0, 1.0), (0.5, -1.0, 0.5)) for names in lattice.species
    )
    last = lattice.n_sublattices - 1
    along = np.array([[[0, 0, 0, 0], [last, *axis]] for axis in np.eye(3, dtype=int)])
    bent = np.array([[[last, 0, 0, 0], [last, 1, 0, 0], [0, 0, 1, 0]]])
    second = len(point[last]) - 1
    clusters = (
        Cluster("point", 1, 0.0, np.array([[[last, 0, 0, 0]]]), np.array([[0]]), 0.4 * scale),
        Cluster("pair", 2, 3.0, along, np.zeros((3, 2), int), scale),
        Cluster("mixed", 2, 3.0, along, np.tile([0, second], (3, 1)), -0.5 * scale),
        Cluster("corner", 3, 4.2, bent, np.array([[second, 0, 0]]), 0.7 * scale),
    )
    return ClusterExpansion(lattice, point, clusters, {"kind": "test"})


def states(model) -> np.ndarray:
    numbers = np.arange(int(np.prod(model.n_species)))
    return np.stack(np.unravel_index(numbers, tuple(model.n_species)), axis=1)


def trained(model, cell, axes=AXES, seed=5, **changes) -> SpeciesSampler:
    return train_species(model, cell, T, axes, network=NETWORK, training={**TRAINING, **changes}, seed=seed)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """The sample size that training reports is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimisation, "NESS_DRAWS", 8)
        yield


@pytest.fixture(scope="module")
def ternary() -> SpeciesSampler:
    return trained(place_general(expansion(TERNARY), CELL), CELL)


def z_scores(table, exact, name: str) -> np.ndarray:
    return ((table[name] - exact[name]) / table[f"{name}_stderr"]).values


def check_against_exact(table, exact, names, limit: float = 4.5) -> None:
    for name in names:
        z = z_scores(table, exact, name)
        assert np.abs(z).max() < limit, name
        assert np.sqrt(np.mean(z**2)) < 1.4, name


def test_probabilities_of_all_states_sum_to_one_and_a_site_sees_only_placed_ones(ternary) -> None:
    everything = states(ternary.model)
    for t, mu in ((650.0, [0.05, -0.03]), (1300.0, [-0.08, 0.05])):
        log_p = ternary.log_prob(everything, np.full(len(everything), t), np.tile(mu, (len(everything), 1)))
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    some = everything[:: len(everything) // 7]
    t, mu = np.full(len(some), 700.0), np.zeros((len(some), 2))
    with torch.no_grad():
        before = ternary.logits(some, t, mu)[1].numpy()
        for site in range(CELL.n_sites):
            changed = some.copy()
            changed[:, site] = (changed[:, site] + 1) % 3
            after = ternary.logits(changed, t, mu)[1].numpy()
            assert np.allclose(before[:, : site + 1], after[:, : site + 1], atol=1e-5)


def test_draws_have_the_stated_probabilities(ternary) -> None:
    cell = Supercell(TERNARY, [2, 2, 1])
    model = place_general(expansion(TERNARY), cell)
    sampler = trained(model, cell, steps=1, pool_sweeps=2)
    n = 20000
    drawn, log_p, energy = sampler.sample(np.full(n, 900.0), np.tile([0.05, -0.02], (n, 1)), seed=2)
    everything = states(model)
    p = np.exp(sampler.log_prob(everything, np.full(81, 900.0), np.tile([0.05, -0.02], (81, 1))))
    number = np.ravel_multi_index(tuple(drawn.T.astype(int)), tuple(model.n_species))
    common = p * n > 20
    z = (np.bincount(number, minlength=81) - n * p)[common] / np.sqrt(n * p * (1 - p))[common]
    assert np.abs(z).max() < 4.5
    assert 0.7 < np.sqrt(np.mean(z**2)) < 1.3
    assert np.allclose(log_p, np.log(p)[number], atol=1e-6)
    assert np.allclose(energy, model.energy(drawn), atol=1e-12)


def test_ternary_sweep_agrees_with_the_exact_sum(ternary, tmp_path) -> None:
    exact = enumerate_species(ternary.model, CELL, T, AXES)
    table = sample_species_importance(ternary, T, AXES, seed=3, samples_per_condition=1500, pool_sweeps=100)
    assert table["composition"].dims == ("temperature", "delta_mu_1", "delta_mu_2", "species")
    assert list(table["exchange"].values) == ["Au-Cu", "Pd-Cu"]
    assert float(table["ness"].min()) > 0.5
    assert float(table["ness_p"].min()) > 0.4
    assert bool((table["reliable"] == 1).all())
    check_against_exact(
        table, exact, ("log_z", "composition", "energy", "heat_capacity", "susceptibility", "grand_potential")
    )
    # The matrix is symmetric, and the derivative of the composition by both potentials.
    matrix = exact["susceptibility"].values
    assert np.allclose(matrix, np.swapaxes(matrix, -1, -2))
    near = enumerate_species(ternary.model, CELL, T, (AXES[0], AXES[1] + 1e-4))
    slope = (near["composition"] - exact["composition"].values).sel(species=["Au", "Pd"]).values / 1e-4
    assert np.allclose(slope, matrix[..., 1], rtol=5e-3, atol=1e-3)
    write_ensemble(tmp_path / "snis.nc", table)
    again = read_ensemble(tmp_path / "snis.nc")
    assert grid_dimensions(again) == ("temperature", "delta_mu_1", "delta_mu_2")
    assert again["delta_mu_2"].attrs["long_name"] == "mu(Pd) - mu(Cu)"


def test_chains_of_three_species_agree_with_the_exact_sum(ternary) -> None:
    exact = enumerate_species(ternary.model, CELL, T, AXES)
    table = sample_species_metropolis(
        ternary.model, CELL, T, AXES, seed=4, sweeps=1000, equilibration=100, chains_per_condition=8
    )
    check_against_exact(table, exact, ("composition", "energy", "heat_capacity"), limit=6.0)


def test_two_sublattices_of_two_and_three_species(tmp_path) -> None:
    cell = Supercell(ROCKSALT, [2, 2, 1])
    model = place_general(expansion(ROCKSALT), cell)
    axes = (np.array([-0.05, 0.05]), np.array([0.0]), np.array([-0.04, 0.04]))
    sampler = trained(model, cell, axes, steps=100)
    assert sampler.potentials.labels == ("Mg-Ni", "S-O", "N-O")
    everything = states(model)
    log_p = sampler.log_prob(
        everything, np.full(len(everything), 700.0), np.tile([0.02, 0, 0.01], (len(everything), 1))
    )
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    table = sample_species_importance(sampler, T, axes, seed=1, samples_per_condition=800, pool_sweeps=40)
    check_against_exact(table, enumerate_species(model, cell, T, axes), ("log_z", "composition", "energy"))


def test_two_species_are_the_binary_path() -> None:
    cell = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [3, 3, 1])
    model = ising_polynomial(cell)
    temperature, mu = np.array([1.8, 3.0]), np.array([-0.3, 0.0, 0.4])
    sampler = train_species(model, cell, temperature, (mu,), network=NETWORK, training=TRAINING, seed=1)
    everything = states(model)
    log_p = sampler.log_prob(everything, np.full(512, 2.0), np.full((512, 1), 0.2))
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-6)
    # Energies of the two species differ by twice the field of the binary features, class by class.
    energies = sampler.terms.evaluate(everything)
    fields = evaluate_past_fields(past_fields(model), (2 * everything - 1).astype(np.int8))
    assert np.allclose(energies[:, :, 1] - energies[:, :, 0], 2 * fields, atol=1e-5)
    exact = enumerate_exactly(model, ("down", "up"), temperature, mu)
    for name in ("log_z", "composition", "heat_capacity", "susceptibility"):
        assert np.allclose(enumerate_species(model, cell, temperature, (mu,))[name], exact[name], atol=1e-9)
    # Six conditions are few to judge errors by: several sweeps count together.
    tables = [
        sample_species_importance(sampler, temperature, (mu,), seed=seed, pool_sweeps=0 if seed else 50)
        for seed in range(5)
    ]
    assert tables[0]["composition"].dims == exact["composition"].dims
    for name in ("log_z", "composition", "energy", "heat_capacity", "susceptibility"):
        z = np.concatenate([z_scores(table, exact, name).ravel() for table in tables])
        assert np.abs(z).max() < 4.5, name
        assert 0.6 < np.sqrt(np.mean(z**2)) < 1.4, name


def test_total_energies_alone_are_learnt_by_reverse_kl() -> None:
    cell = Supercell(TERNARY, [2, 2, 1])
    functions = place_general(expansion(TERNARY), cell)
    model = ModuleModel(functions.energy, functions.n_species)
    with pytest.raises(TrainingError, match=r"'likelihood' needs an energy model with local energies.*use reverse_kl"):
        trained(model, cell)
    sampler = trained(model, cell, objective="reverse_kl", steps=150, batch=128)
    assert sampler.terms is None
    table = sample_species_importance(sampler, T, AXES, seed=1, samples_per_condition=1500, pool_sweeps=100)
    assert float(table["ness"].min()) > 0.2
    check_against_exact(table, enumerate_species(model, cell, T, AXES), ("log_z", "composition", "energy"))


def test_interrupted_training_resumes_to_the_same_bytes(tmp_path, monkeypatch) -> None:
    cell = Supercell(TERNARY, [2, 1, 1])
    model, original = place_general(expansion(TERNARY), cell), optimisation.TrainingRun.descend

    def run(work):
        settings = {**TRAINING, "steps": 24, "batch": 6, "pool_sweeps": 3, "checkpoint_every": 3}
        return train_species(model, cell, T, AXES, network=NETWORK, training=settings, seed=9, work=work)

    def breaking(self, *shown):
        if self.step == 17:
            raise KeyboardInterrupt
        original(self, *shown)

    whole = run(tmp_path / "whole")
    monkeypatch.setattr(optimisation.TrainingRun, "descend", breaking)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(optimisation.TrainingRun, "descend", original)
    assert list((tmp_path / "cut").glob("checkpoint-*.safetensors"))
    resumed = run(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))
    assert whole.history.equals(resumed.history)


def test_a_sampler_survives_its_files_and_refuses_strangers(ternary, tmp_path) -> None:
    paths = [tmp_path / n for n in ("model.json", "weights.safetensors", "history.parquet")]
    write_sampler(ternary, *paths)
    again = read_sampler(*paths[:2], ternary.model, CELL)
    t, mu = np.full(30, 700.0), np.tile([0.01, -0.02], (30, 1))
    assert all(np.array_equal(a, b) for a, b in zip(again.sample(t, mu, 1), ternary.sample(t, mu, 1), strict=True))
    assert [axis.tolist() for axis in again.grid] == [axis.tolist() for axis in ternary.grid]
    with pytest.raises(TrainingError, match="trained for another Hamiltonian on this cell"):
        read_sampler(*paths[:2], place_general(expansion(TERNARY, 0.031), CELL), CELL)
    other = Supercell(TERNARY, [4, 2, 1])
    with pytest.raises(TrainingError, match="trained for another cell, Cu-Au-Pd on 'sc' with matrix"):
        read_sampler(*paths[:2], place_general(expansion(TERNARY), other), other)


def test_small_memory_and_extrapolation(ternary) -> None:
    t, mu = np.full(50, 700.0), np.tile([0.01, -0.02], (50, 1))
    small = replace(ternary, memory_mb=7e-6 * ternary.network.bytes_per_decoration)
    for one, other in zip(ternary.sample(t, mu, 3), small.sample(t, mu, 3), strict=True):
        assert np.allclose(one, other, atol=1e-5)
    wide = replace(ternary, extrapolate=True)
    table = sample_species_importance(
        wide, T[:1], (np.array([0.0, 0.1]), AXES[1]), seed=1, samples_per_condition=20, pool_sweeps=0
    )
    assert table["extrapolated"].values.tolist() == [[[0, 0], [1, 1]]]


def test_bad_input_is_refused(ternary) -> None:
    with pytest.raises(SamplingError, match=r"one column for each of Au-Cu, Pd-Cu, found \(1, 1\)"):
        ternary.sample(np.array([700.0]), np.array([[0.0]]), seed=1)
    with pytest.raises(SamplingError, match=r"T = 700, delta_mu = \[0\.0, 0\.2\] is outside the trained domain"):
        ternary.sample(np.array([700.0]), np.array([[0.0, 0.2]]), seed=1)
    with pytest.raises(TrainingError, match="'physics' is no network for any number of species, expected one of categ"):
        train_species(ternary.model, CELL, T, AXES, network={"kind": "physics"}, training=TRAINING, seed=1)
    large = Supercell(TERNARY, [4, 3, 2])
    huge = place_general(expansion(TERNARY), large)
    with pytest.raises(SamplingError, match=r"the cell has 2\.82e\+11 decorations"):
        enumerate_species(huge, large, T, AXES)
    swapped = ParentLattice("x", np.eye(3), [[0] * 3, [0.5] * 3], [["Ni", "Mg"], ["Mg", "Ni"]])
    with pytest.raises(SamplingError, match=r"lattice\.species: the exchange of Ni for Mg follows from those of other"):
        ExchangePotentials.of(Supercell(swapped, [1, 1, 1]))
    shared = ParentLattice("x", np.eye(3), [[0] * 3, [0.5] * 3], [["Ni", "Mg"], ["Ni", "Mg", "Fe"]])
    assert ExchangePotentials.of(Supercell(shared, [1, 1, 1])).labels == ("Mg-Ni", "Fe-Ni")


def test_the_network_is_clean_of_devices(ternary) -> None:
    network = build_species_network(NETWORK, CELL, 3, 6, seed=1).to("meta")
    float_, held = dict(device="meta"), torch.empty(5, 8, dtype=torch.long, device="meta")
    conditions = (torch.empty(5, **float_), torch.empty(5, 8, 3, **float_), torch.empty(5, 6, **float_))
    assert network.logits(held, torch.empty(5, 8, 3, 3, **float_), *conditions).device.type == "meta"
    energies = torch.empty(5, 3, 3, **float_)
    drawn = network.draw(torch.empty(5, 8, **float_), lambda i: energies, lambda i, x: None, *conditions)
    assert (drawn.device.type, drawn.shape) == ("meta", (5, 8))


def test_the_snippet_of_the_readme_runs(repository) -> None:
    text = (repository / "README.md").read_text()
    section = text[text.index("## More than two species") :]
    code = section[section.index("```python") + len("```python") :]
    cell = Supercell(TERNARY, [2, 2, 1])
    names = {
        "expansion": expansion(TERNARY), "cell": cell, "temperature": T, "delta_mu_1": AXES[0], "delta_mu_2": AXES[1],
        "training": {**TRAINING, "steps": 60, "pool_sweeps": 20},
    }  # fmt: skip
    exec(code[: code.index("```")], names)
    check_against_exact(names["table"], names["exact"], ("log_z", "composition"), limit=5.0)
