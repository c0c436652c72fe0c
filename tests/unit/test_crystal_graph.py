"""The crystal-graph network: its graph, its gradient, its compiled twin, its training, its files."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from ase.io import read

from segalflow.artefacts import read_json
from segalflow.energy.crystal_graph import _GatedSums, activation, split_structures, train_crystal_graph
from segalflow.energy.graph_energy import NAMES, GraphModel, neighbour_shells, neighbour_table, write_weights
from segalflow.energy.registry import read_energy_model, write_model
from segalflow.errors import ArtefactError, ExpansionError, SettingsError, TrainingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.structures.enumeration import enumerate_pool
from segalflow.study import prepare_study

FCC = parent_lattice("fcc", 4.0, ["Ag", "Pd"])
SETTINGS = {
    "cutoff": 4.1,
    "features": 12,
    "layers": 2,
    "split": [0.8, 0.1, 0.1],
    "epochs": 80,
    "patience": 80,
    "batch": 16,
    "learning_rate": 0.01,
}


def graph_of(cell: Supercell, weights, cutoff: float = 4.1) -> GraphModel:
    shells = neighbour_shells(cell.lattice, cutoff)
    return GraphModel(neighbour_table(cell.positions, cell.cell, shells.vectors), shells.shell, weights)


@pytest.fixture(scope="module")
def dataset():
    """All structures of up to 5 atoms with energies of unlike nearest neighbours, bent by a square."""
    structures = enumerate_pool(FCC, 5)
    shells = neighbour_shells(FCC, 2.9)
    for atoms in structures:
        spins = 2 * atoms.get_array("occupation") - 1
        table = neighbour_table(atoms.positions, np.asarray(atoms.cell), shells.vectors)
        unlike = (1 - spins[:, None] * spins[table]).sum(axis=1) / 24
        atoms.info.update(
            formation_energy=float(np.mean(-0.1 * unlike + 0.05 * unlike**2)),
            x=float((spins > 0).mean()),
            end_members="Ag=0.0 Pd=0.0",
        )
    return structures


@pytest.fixture(scope="module")
def trained(dataset):
    return train_crystal_graph(dataset, FCC, SETTINGS, seed=3)


# ---- the graph ---------------------------------------------------------------------------------------------------
def test_shells_are_whole() -> None:
    counts = {2.9: 12, 4.01: 18, 4.89: 18, 4.9: 42, 5.7: 54}
    for cutoff, number in counts.items():
        shells = neighbour_shells(FCC, cutoff)
        assert len(shells.vectors) == number
        assert np.linalg.norm(shells.vectors, axis=1) == pytest.approx(shells.radii[shells.shell], abs=1e-3)
        assert shells.vectors.sum(axis=0) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ExpansionError, match=r"below the nearest distance, 2\.828"):
        neighbour_shells(FCC, 2.0)


def test_neighbours_are_mutual_and_complete() -> None:
    cell = Supercell(FCC, [3, 2, 4])
    shells = neighbour_shells(FCC, 4.1)
    table = neighbour_table(cell.positions, cell.cell, shells.vectors)
    opposite = [np.argmin(np.linalg.norm(shells.vectors + v, axis=1)) for v in shells.vectors]
    for k, back in enumerate(opposite):
        assert sorted(table[:, k]) == list(range(24))
        assert np.array_equal(table[table[:, k], back], np.arange(24))
    with pytest.raises(ExpansionError, match="not on the ideal lattice"):
        neighbour_table(cell.positions + 0.2 * np.eye(24, 3), cell.cell, shells.vectors)


# ---- the network -------------------------------------------------------------------------------------------------
def test_the_fused_sum_has_the_gradient_of_the_plain_one() -> None:
    rng = torch.Generator().manual_seed(1)
    n, width, k = 6, 5, 4
    mine, theirs, shells = (torch.randn(rows, 2 * width, generator=rng, requires_grad=True) for rows in (n, n, 2))
    neighbours = torch.randint(0, n, (n, k), generator=rng)
    shell = torch.tensor([0, 0, 1, 1])
    slope = torch.randn(n, width, generator=rng)
    f, g = (mine[:, None] + theirs[neighbours] + shells[shell]).chunk(2, dim=2)
    plain = (0.5 * (1 + f / torch.sqrt(1 + f * f)) * activation(g)).sum(1)
    expected = torch.autograd.grad((plain * slope).sum(), (mine, theirs, shells))
    fused = _GatedSums.apply(mine, theirs, shells, neighbours, shell)
    assert fused.detach().numpy() == pytest.approx(plain.detach().numpy(), abs=1e-5)
    for found, wanted in zip(torch.autograd.grad((fused * slope).sum(), (mine, theirs, shells)), expected, strict=True):
        assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-5)


def test_the_compiled_twin_gives_the_networks_energies(dataset, trained) -> None:
    shells = neighbour_shells(FCC, 4.1)
    for atoms, predicted in zip(dataset, trained.predictions["e_model"], strict=True):
        table = neighbour_table(atoms.positions, np.asarray(atoms.cell), shells.vectors)
        model = GraphModel(table, shells.shell, trained.weights)
        energy = float(model.energy(atoms.get_array("occupation")[None])[0])
        assert energy / len(atoms) == pytest.approx(predicted, abs=1e-6)


def test_energies_follow_the_cells_symmetry_and_size(trained) -> None:
    cell = Supercell(FCC, [2, 2, 2])
    model = graph_of(cell, trained.weights)
    occupations = np.random.default_rng(1).integers(0, 2, (4, 8))
    energies = model.energy(occupations)
    assert np.ptp(energies) > 0.01
    for operation in cell.symmetry_permutations()[::37]:
        moved = np.empty_like(occupations)
        moved[:, operation] = occupations
        assert model.energy(moved) == pytest.approx(energies, abs=1e-6)
    large = Supercell(FCC, [4, 2, 2])
    small_site = [
        int(np.argmin([np.abs(d - np.round(d)).max() for d in (p - cell.positions) @ np.linalg.inv(cell.cell)]))
        for p in large.positions
    ]
    assert graph_of(large, trained.weights).energy(occupations[:, small_site]) == pytest.approx(2 * energies, abs=1e-5)


def test_pure_species_have_no_formation_energy(trained) -> None:
    model = graph_of(Supercell(FCC, [2, 2, 3]), trained.weights)
    assert model.energy(np.array([[0] * 12, [1] * 12])) == pytest.approx([0.0, 0.0], abs=1e-6)
    pure = trained.predictions[trained.predictions["x"].isin([0.0, 1.0])]
    assert len(pure) == 2
    assert pure["e_model"].to_numpy() == pytest.approx([0.0, 0.0], abs=1e-6)


# ---- training ----------------------------------------------------------------------------------------------------
def test_training_learns_what_it_has_not_seen(dataset, trained) -> None:
    metrics, part = trained.metrics, trained.predictions["part"].value_counts()
    assert metrics["test_mae"] < 0.2 * metrics["energy_spread"]
    assert part["test"] == part["validation"] == round(0.1 * len(dataset))
    test = trained.predictions[trained.predictions["part"] == "test"]
    assert metrics["test_mae"] == pytest.approx(test["residual"].abs().mean())
    assert metrics["best_epoch"] == trained.history["validation_mae"].argmin() + 1
    assert metrics["validation_mae"] == pytest.approx(trained.history["validation_mae"].min(), rel=1e-4)
    assert set(trained.predictions.loc[[0, 1], "part"]) == {"train"}  # the pure elements


def test_training_repeats_to_the_same_bytes_and_follows_its_seed(dataset) -> None:
    short = {**SETTINGS, "epochs": 2}
    one, two, other = (train_crystal_graph(dataset, FCC, short, seed=s).weights for s in (1, 1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in NAMES)
    assert not np.array_equal(one["own"], other["own"])


def test_training_stops_when_validation_no_longer_improves(dataset) -> None:
    stopped = train_crystal_graph(dataset, FCC, {**SETTINGS, "patience": 3, "learning_rate": 0.3}, seed=1)
    assert len(stopped.history) < 80
    assert stopped.metrics["best_epoch"] == len(stopped.history) - 3


def test_parts_do_not_overlap() -> None:
    part = split_structures(40, [0.8, 0.1, 0.1], np.array([0, 39]), np.random.default_rng(1))
    assert np.bincount(part).tolist() == [32, 4, 4]
    assert part[0] == part[39] == 0


@pytest.mark.parametrize(
    ("settings", "number", "sentence"),
    [
        ({"split": [0.8, 0.1, 0.2]}, None, "three positive shares of sum 1"),
        ({}, 10, "10 structures, expected at least 20"),
    ],
)
def test_training_refuses_what_makes_no_sense(dataset, settings, number, sentence) -> None:
    with pytest.raises(TrainingError, match=sentence):
        train_crystal_graph(dataset[:number], FCC, {**SETTINGS, **settings}, seed=1)


# ---- files and config --------------------------------------------------------------------------------------------
def test_model_file_and_weights_belong_together(trained, tmp_path, repository) -> None:
    path = tmp_path / "model.json"
    weights = write_weights(tmp_path / "weights.safetensors", trained.weights)
    write_model(path, "crystal_graph", FCC, {**trained.content, "weights": weights})
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "model.schema.yaml").read_text())
    jsonschema.validate(read_json(path), schema)
    cell = Supercell(FCC, [2, 2, 2])
    occupations = np.random.default_rng(1).integers(0, 2, (5, 8))
    model = read_energy_model(path, cell)
    assert model.energy(occupations) == pytest.approx(graph_of(cell, trained.weights).energy(occupations), abs=1e-9)
    assert model.fingerprint == graph_of(cell, trained.weights).fingerprint
    write_weights(tmp_path / "weights.safetensors", {**trained.weights, "own": trained.weights["own"] + 1})
    with pytest.raises(ArtefactError, match="train the network again"):
        read_energy_model(path, cell)


@pytest.mark.parametrize(
    ("keys", "value", "sentence"),
    [
        (("cells", "main", "methods"), ["wang_landau"], "'wang_landau' counts in the terms"),
        (("cells", "main", "methods"), ["exact"], "at most 20 sites, the cell has 27"),
        (("expansions", "cgc", "basis"), {"max_diameters": {"2": 3.0}}, "either 'basis' of a fit, or 'model'"),
        (("expansions", "cgc", "calculation"), "agpt", "did you mean 'agpd'"),
        (("expansions", "cgc", "graph"), {"cutof": 5.0}, "did you mean 'cutoff'"),
    ],
)
def test_what_the_network_cannot_do_is_refused_at_once(repository, keys, value, sentence) -> None:
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    config = yaml.safe_load((repository / "config" / "studies" / "agpd_27_cgc.yaml").read_text())
    prepare_study(config, schema)
    block = config
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = value
    with pytest.raises(SettingsError, match=sentence):
        prepare_study(config, schema)


@pytest.mark.reference
def test_the_network_learns_silver_palladium(reference) -> None:
    """A tenth of the epochs of the study; the published network reaches a test MAE of 1.34 to 1.49 meV/atom in all."""
    lattice = parent_lattice("fcc", 4.09, ["Ag", "Pd"])
    structures = read(reference / "agpd" / "agpd_icet_625.extxyz", ":")
    for number, atoms in enumerate(structures):
        occupations = np.array([lattice.species[0].index(s) for s in atoms.get_chemical_symbols()])
        atoms.set_array("occupation", occupations)
        energy = float(atoms.info["mixing_energy_per_atom"])
        atoms.info = {"structure": str(number), "formation_energy": energy, "x": float(occupations.mean())}
    settings = {**SETTINGS, "cutoff": 5.2, "features": 32, "epochs": 15, "batch": 64, "learning_rate": 0.005}
    metrics = train_crystal_graph(structures, lattice, settings, seed=1).metrics
    assert metrics["test_mae"] < 0.003
