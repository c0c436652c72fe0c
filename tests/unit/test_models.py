"""Models given by their parameters, model files of every kind, and chains of any energy model."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest
import yaml

from segalflow.artefacts import read_json
from segalflow.energy.adapters import ModuleModel
from segalflow.energy.base import EnergyModel, LocalFieldModel
from segalflow.energy.batch_chains import BatchChains, make_chains
from segalflow.energy.composition import CompositionPolynomial
from segalflow.energy.kinds import KINDS
from segalflow.energy.lockstep import LockstepChains, exchange_grid
from segalflow.energy.polynomial import model_fingerprint
from segalflow.energy.registry import PLACES, read_energy_model, read_model_file, write_model
from segalflow.energy.toys import SquareIsing, ising_model, legendre_model
from segalflow.errors import ArtefactError, ExpansionError, SamplingError, SettingsError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.sampling.transfer_matrix import kaufman_log_z
from segalflow.study import prepare_study

SQUARE = parent_lattice("square", 1.0, ["down", "up"])
SPECIES = ("down", "up")


def square(*sides: int) -> Supercell:
    return Supercell(SQUARE, [*sides, 1])


@pytest.fixture(scope="module")
def legendre() -> CompositionPolynomial:
    return legendre_model(square(4, 4), **KINDS["legendre"].parameters)


def all_spins(n: int) -> np.ndarray:
    return (2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1).astype(np.int8)


def test_the_legendre_energy_is_the_papers(legendre) -> None:
    spins = (2 * np.random.default_rng(0).integers(0, 2, (20, 16)) - 1).astype(np.int8)
    grid = spins.reshape(-1, 4, 4)
    pairs = (grid * np.roll(grid, 1, 1) + grid * np.roll(grid, 1, 2)).sum(axis=(1, 2))
    m = spins.mean(axis=1)
    wells = 20 * np.exp(-((m - 0.5) ** 2) / 0.25) + 25 * np.exp(-((m + 0.5) ** 2) / 0.25)
    assert legendre.energy((spins > 0).astype(np.int8)) == pytest.approx(-pairs - wells)
    assert isinstance(legendre, EnergyModel)
    assert isinstance(legendre, LocalFieldModel)


def test_the_fields_of_a_table_are_exact(legendre) -> None:
    spins = (2 * np.random.default_rng(1).integers(0, 2, (10, 16)) - 1).astype(np.int8)
    fields = legendre.local_fields(spins)
    for site in range(16):
        flipped = spins.copy()
        flipped[:, site] *= -1
        change = legendre.energy_of_spins(flipped) - legendre.energy_of_spins(spins)
        assert change == pytest.approx(-2 * spins[:, site] * fields[:, site])
        assert legendre.fields_at(spins, site) == pytest.approx(fields[:, site])


def test_the_exact_sum_of_the_toy_has_the_published_tangent() -> None:
    """5 x 5 spins at T = 2: the lower hull of f(x) has the slope 0.3513179394 between x = 0.24 and 0.80."""
    model = legendre_model(square(5, 5), **KINDS["legendre"].parameters)
    table = enumerate_exactly(model, SPECIES, np.array([2.0]), np.array([0.0]))
    free = -2.0 * (table["composition_log_weight"].values[0, 0] + float(table["log_z"][0, 0]))
    hull = [0]
    for n in range(1, 26):
        while len(hull) > 1 and (free[hull[-1]] - free[hull[-2]]) * (n - hull[-1]) >= (free[n] - free[hull[-1]]) * (
            hull[-1] - hull[-2]
        ):
            hull.pop()
        hull.append(n)
    widest = int(np.argmax(np.diff(hull)))
    left, right = hull[widest], hull[widest + 1]
    assert (left / 25, right / 25) == (0.24, 0.8)
    assert (free[right] - free[left]) / (right - left) == pytest.approx(0.3513179394, abs=1e-10)


def test_exact_sums_by_table_transfer_matrix_and_enumeration_agree(legendre) -> None:
    t, mu = np.array([1.5, 3.0]), np.array([-0.3, 0.35])
    fast = enumerate_exactly(legendre, SPECIES, t, mu)
    slow = enumerate_exactly(ModuleModel(legendre.energy, legendre.n_species, boltzmann=1.0), SPECIES, t, mu)
    for name in ("log_z", "composition", "energy", "heat_capacity", "susceptibility", "composition_log_weight"):
        assert fast[name].values == pytest.approx(slow[name].values, rel=1e-9, abs=1e-9), name


def test_the_exact_ising_model_is_served_by_its_transfer_matrix() -> None:
    model = ising_model(square(10, 10))
    assert isinstance(model, SquareIsing)
    assert not isinstance(ising_model(square(2, 4)), SquareIsing)  # double bonds: another model
    small = ising_model(square(4, 3))
    t, mu = np.array([2.0]), np.array([-0.4, 0.0])
    module = ModuleModel(small.energy, small.n_species, boltzmann=1.0)
    for name in ("log_z", "energy", "heat_capacity"):
        exact, slow = enumerate_exactly(small, SPECIES, t, mu)[name], enumerate_exactly(module, SPECIES, t, mu)[name]
        assert exact.values == pytest.approx(slow.values, rel=1e-10), name
    table = enumerate_exactly(ising_model(square(6, 5)), SPECIES, t, mu)
    assert float(table["log_z"][0, 1]) == pytest.approx(float(kaufman_log_z(6, 5, 0.5).log_z), rel=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in PLACES if not KINDS[kind].fitted])
def test_a_model_file_gives_the_energy_back(tmp_path, repository, kind) -> None:
    path = tmp_path / "model.json"
    write_model(path, kind, SQUARE, {"parameters": {"coupling": 0.7}})
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "model.schema.yaml").read_text())
    jsonschema.validate(read_json(path), schema)
    assert read_model_file(path).kind == kind
    model = read_energy_model(path, square(4, 3))
    direct = {"ising": ising_model, "legendre": legendre_model}[kind]
    expected = direct(square(4, 3), **{**KINDS[kind].parameters, "coupling": 0.7})
    states = (all_spins(12) > 0).astype(np.int8)
    assert model.energy(states) == pytest.approx(expected.energy(states), abs=1e-12)
    assert model_fingerprint(model) == model_fingerprint(expected)
    with pytest.raises(ExpansionError, match="the cell has"):
        read_energy_model(path, Supercell(parent_lattice("fcc", 1.0, ["down", "up"]), [2, 2, 2]))


def test_a_damaged_model_file_is_named(tmp_path) -> None:
    path = tmp_path / "model.json"
    write_model(path, "ising", SQUARE, {})
    path.write_text(path.read_text().replace('"ising"', '"potts"'))
    with pytest.raises(ArtefactError, match=r"model\.json: incomplete model file"):
        read_model_file(path)


def test_fingerprints_tell_models_apart(legendre) -> None:
    other = CompositionPolynomial(legendre.polynomial, legendre.by_composition + 1e-6)
    module = ModuleModel(legendre.energy, legendre.n_species)
    hashes = {model_fingerprint(m) for m in (legendre, other, legendre.polynomial, module)}
    assert len(hashes) == 4
    assert model_fingerprint(module) == model_fingerprint(ModuleModel(legendre.energy, legendre.n_species))


# ---- chains of any model -----------------------------------------------------------------------------------------
def test_the_fastest_chains_are_chosen(legendre) -> None:
    one = np.ones(3)
    assert isinstance(make_chains(legendre.polynomial, one, one, 1), LockstepChains)
    assert isinstance(make_chains(legendre, one, one, 1), BatchChains)


@pytest.mark.parametrize("rule", ["heat_bath", "metropolis"])
@pytest.mark.parametrize("as_module", [False, True])
def test_batch_chains_sample_the_exact_distribution(rule, as_module) -> None:
    """Mean composition and energy of 3 x 3 spins with wells against the sum over all states, within 4 errors."""
    model = legendre_model(square(3, 3), 1.0, [[3.0, 0.5, 0.25]])
    exact = enumerate_exactly(model, SPECIES, np.array([2.5]), np.array([0.4]))
    served = ModuleModel(model.energy, model.n_species, boltzmann=1.0) if as_module else model
    chains = BatchChains(served, np.full(200, 2.5), np.full(200, 0.4), 3, rule)
    chains.sweep(30)
    n, u = [], []
    for _ in range(40):
        chains.sweep(2)
        n.append(chains.n_plus())
        u.append(chains.energies())
    assert chains.energies() == pytest.approx(model.energy_of_spins(chains.spins))
    for series, value in ((n, exact["composition"][0, 0, 1]), (u, exact["energy"][0, 0])):
        by_chain = np.mean(series, axis=0) / 9
        error = by_chain.std(ddof=1) / np.sqrt(len(by_chain))
        assert abs(by_chain.mean() - float(value)) < 4 * error
        assert error < 0.03


def test_fields_of_a_model_of_energies_alone_are_exact(legendre) -> None:
    module = ModuleModel(legendre.energy, legendre.n_species, boltzmann=1.0)
    spins = (2 * np.random.default_rng(2).integers(0, 2, (6, 16)) - 1).astype(np.int8)
    fields = []
    for model in (legendre, module):
        chains = BatchChains(model, np.ones(6), np.zeros(6), 1)
        chains.set_spins(spins)
        fields.append(chains.local_fields())
    assert fields[0] == pytest.approx(fields[1], abs=1e-5)


def test_batch_chains_resume_to_the_same_bytes(legendre) -> None:
    def start() -> BatchChains:
        return BatchChains(legendre, np.linspace(1, 3, 4), np.zeros(4), 5)

    chains = start()
    chains.sweep(3)
    state = chains.state()
    chains.sweep(4)
    again = start()
    again.restore(state)
    again.sweep(4)
    assert np.array_equal(chains.spins, again.spins)
    assert chains.energy_evaluations == again.energy_evaluations
    with pytest.raises(SamplingError, match="4 chains of 16 sites"):
        again.restore({**state, "negative": state["negative"][:2]})


def test_exchanges_keep_energies_in_step(legendre) -> None:
    chains = BatchChains(ModuleModel(legendre.energy, legendre.n_species), np.linspace(1, 5, 6), np.zeros(6), 5)
    chains.sweep(5)
    exchange_grid(chains, (6, 1), 0, 0, np.random.default_rng(1))
    assert chains.energies() == pytest.approx(legendre.energy_of_spins(chains.spins))


def test_metropolis_runs_on_any_model(tmp_path) -> None:
    model = legendre_model(square(3, 3), 1.0, [[3.0, 0.5, 0.25]])
    t, mu = np.array([2.0, 3.0]), np.array([0.0, 0.4])
    exact = enumerate_exactly(model, SPECIES, t, mu)
    table = sample_metropolis(
        model, SPECIES, t, mu, seed=1, sweeps=1600, equilibration=100, n_ladder=4, work=tmp_path, measure_every=2
    )
    z = (table["composition"] - exact["composition"]) / table["composition_stderr"]
    assert np.abs(z.values).max() < 4
    z = (table["log_z"] - exact["log_z"]) / table["log_z_stderr"]
    assert np.abs(z.values).max() < 4


# ---- in the config -----------------------------------------------------------------------------------------------
@pytest.fixture
def study(repository):
    """Prepare one of the model studies after a change."""
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())

    def prepared(name, change=lambda config: None):
        config = yaml.safe_load((repository / "config" / "studies" / f"{name}.yaml").read_text())
        change(config)
        return prepare_study(config, schema)

    return prepared


@pytest.mark.parametrize("name", ["ising_10x10", "legendre"])
def test_the_model_studies_are_valid(study, name) -> None:
    assert study(name)["cells"]["main"]["methods"] == ["exact", "snis", "metropolis"]


@pytest.mark.parametrize("name", ["cuau_ground_states", "cuau_128", "agpd_27_ce", "agpd_125", "agpd_sizes"])
def test_the_studies_of_published_expansions_are_valid(study, name) -> None:
    prepared = study(name)
    assert prepared["study"] == name
    assert "published" in prepared["expansions"]["published"]


@pytest.mark.parametrize(
    ("name", "keys", "value", "sentence"),
    [
        (
            "legendre",
            ("cells", "main", "methods"),
            ["metadynamics"],
            "'metadynamics' counts in the terms of a spin poly",
        ),
        ("ising_10x10", ("cells", "main", "repeat"), [14, 14, 1], "'exact' sums over all states"),
        ("ising_10x10", ("grid", "delta_mu"), {"number": 11}, "no convex hull to choose a window from"),
        ("ising_10x10", ("expansions", "ising", "parameters"), {"couplings": 1}, "did you mean 'coupling'"),
        ("ising_10x10", ("expansions", "ising", "parameters"), {"coupling": "1"}, "expected a number, found '1'"),
        ("legendre", ("expansions", "toy", "parameters"), {"wells": [[1, 2]]}, r"list of \[depth, centre"),
        ("legendre", ("expansions", "toy", "basis"), {"max_diameters": {"2": 3.0}}, "either a 'model'"),
        ("legendre", ("expansions", "toy", "model"), "legendr", "did you mean 'legendre'"),
    ],
)
def test_what_a_model_cannot_do_is_refused_at_once(study, name, keys, value, sentence) -> None:
    def change(config):
        *path, last = keys
        for key in path:
            config = config[key]
        config[last] = value

    with pytest.raises(SettingsError, match=sentence):
        study(name, change)
