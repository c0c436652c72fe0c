from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from segalflow.energy.polynomial import place_expansion
from segalflow.errors import ExpansionError
from segalflow.expansion.basis import build_basis, figure_correlations
from segalflow.expansion.fit import fit_expansion
from segalflow.expansion.ground_states import above_hull, check_commensurate, hull_slopes, lower_hull
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.expansion.regression import METHODS
from segalflow.lattice import Supercell, map_to_supercell, parent_lattice
from segalflow.structures.enumeration import enumerate_pool

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
SIZES = {2: 6.0, 3: 4.5}
FIT = {
    "method": "ridge",
    "alphas": [1e-8, 1e-4],
    "cv": {"kind": "loo", "folds": 10},
    "end_member_weight": 100.0,
    "hull_scale": 0.02,
}
BASIS = {"max_diameters": SIZES, "size_rule": "largest_distance"}


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 5)


@pytest.fixture(scope="module")
def dataset(pool):
    """Energies that are exactly a short cluster expansion, and zero for the pure elements."""
    basis = build_basis(FCC, {2: 4.0})
    truth = np.array([0.0, 0.0, 0.06, -0.012])
    truth[0] = -truth[2] - truth[3]
    for atoms in pool:
        correlations = figure_correlations(basis.clusters, basis.point_functions, *map_to_supercell(atoms, FCC))
        atoms.info["formation_energy"] = float(correlations @ truth)
        atoms.info["x"] = float(atoms.get_array("occupation").mean())
        atoms.info["end_members"] = "Cu=-0.5 Au=0.25"
    return pool


@pytest.fixture(scope="module")
def fitted(dataset):
    return fit_expansion(dataset, FCC, BASIS, FIT, seed=1)


def test_clease_and_our_figures_agree(pool) -> None:
    basis = build_basis(FCC, SIZES)
    skewed = [s for s in pool if len(s) in (1, 2, 5)][::3]
    ours = [figure_correlations(basis.clusters, basis.point_functions, *map_to_supercell(s, FCC)) for s in skewed]
    assert np.allclose(basis.correlations(skewed), ours, atol=1e-10)


def test_the_fit_finds_an_exact_expansion(fitted, dataset) -> None:
    assert fitted.metrics["rmse"] < 1e-6
    assert fitted.metrics["cv"] < 1e-5
    assert fitted.metrics["hull_violations"] == 0
    assert fitted.expansion.ecis["c2_d0000_0_00"] == pytest.approx(0.06, abs=1e-5)
    assert fitted.expansion.ecis["c2_d0001_0_00"] == pytest.approx(-0.012, abs=1e-5)


def test_the_same_data_give_the_same_fit(fitted, dataset) -> None:
    again = fit_expansion(dataset, FCC, BASIS, FIT, seed=1)
    assert again.expansion.ecis == fitted.expansion.ecis
    assert again.predictions.equals(fitted.predictions)


def test_the_model_on_a_cell_gives_the_fitted_energies(fitted, dataset) -> None:
    predicted = fitted.predictions.set_index("structure")["e_model"]
    for atoms in dataset[::7]:
        cell, occupations = map_to_supercell(atoms, FCC)
        model = place_expansion(fitted.expansion, cell)
        assert model.energy(occupations[None])[0] / cell.n_sites == pytest.approx(
            predicted[atoms.info["structure"]], abs=1e-12
        )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_recovers_noisy_interactions_within_its_errors(method, dataset) -> None:
    rng = np.random.default_rng(3)
    noisy = [s.copy() for s in dataset]
    for atoms in noisy:
        atoms.info["formation_energy"] += 0.002 * rng.standard_normal() * (len(atoms) > 1)
    found = fit_expansion(
        noisy, FCC, BASIS, {**FIT, "method": method, "alphas": [1e-5, 1e-3], "hull_scale": None}, seed=1
    )
    eci = {c.name: c for c in found.expansion.clusters}["c2_d0000_0_00"]
    # A penalty shrinks ECIs a little beyond their statistical error.
    assert abs(eci.eci - 0.06) < 4 * eci.eci_stderr + 0.001
    assert 0.0001 < eci.eci_stderr < 0.003
    assert 0.001 < found.metrics["rmse"] < 0.003
    assert found.metrics["cv"] > found.metrics["rmse"]


def test_posterior_errors_have_the_right_size(dataset) -> None:
    """Over repeated noise the scatter of an ECI is the stated standard error."""
    rng = np.random.default_rng(4)
    values, stated = [], []
    basis = build_basis(FCC, {2: 4.0})
    design = np.array(
        [figure_correlations(basis.clusters, basis.point_functions, *map_to_supercell(s, FCC)) for s in dataset]
    )
    exact = np.array([s.info["formation_energy"] for s in dataset])
    for _ in range(200):
        result = METHODS["ridge"].fit(
            design, exact + 0.002 * rng.standard_normal(len(exact)), np.ones(len(exact)), 1e-8, rng
        )
        values.append(result.coefficients)
        stated.append(np.sqrt(np.diag(result.covariance)))
    assert np.allclose(np.std(values, axis=0) / np.mean(stated, axis=0), 1.0, atol=0.2)


def test_hull_by_hand() -> None:
    x = np.array([0.0, 0.25, 0.5, 0.5, 0.75, 1.0])
    energy = np.array([0.0, -0.1, -0.12, -0.3, -0.1, 0.0])
    hull = lower_hull(x, energy)
    assert hull.tolist() == [0, 3, 5]
    assert above_hull(x, energy, hull) == pytest.approx([0, 0.05, 0.18, 0, 0.05, 0])
    table = pd.DataFrame({"source": "model", "x": x[hull], "formation_energy": energy[hull]})
    assert hull_slopes(table) == pytest.approx([-0.6, 0.6])


def test_incommensurate_cells_are_warned_of_with_one_that_fits(pool) -> None:
    layered = [s for s in enumerate_pool(FCC, 2) if len(s) == 2]
    assert check_commensurate(layered, Supercell(FCC, [4, 4, 4])) == []
    (sentence,) = check_commensurate(layered, Supercell(FCC, [5, 5, 5]), key="cells.main.repeat")
    assert sentence.startswith("cells.main.repeat: 2 ground state(s)")
    named = [int(v) for v in sentence.split("repeat [")[1].split("]")[0].split(",")]
    assert check_commensurate(layered, Supercell(FCC, named)) == []


def test_more_clusters_than_structures_is_refused(dataset) -> None:
    with pytest.raises(
        ExpansionError, match=r"expansions\.ce\.basis\.max_diameters: \d+ clusters but only 6 structures"
    ):
        fit_expansion(dataset[:6], FCC, BASIS, FIT, seed=1, key="expansions.ce")


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        ({"max_diameters": {3: 4.0}, "size_rule": "clease"}, "without a gap"),
        ({"max_diameters": {2: 4.0}, "size_rule": "cleese"}, "did you mean 'clease'"),
        ({"max_diameters": {2: 4.0, 3: 2.0}, "size_rule": "clease"}, "no cluster of 3 sites within 2.0 A"),
        ({"max_diameters": {2: 8.3}, "size_rule": "largest_distance"}, "inequivalent figures of 2 sites"),
    ],
)
def test_bad_bases_are_refused(dataset, basis, words) -> None:
    with pytest.raises(ExpansionError, match=words):
        fit_expansion(dataset, FCC, basis, FIT, seed=1)


def test_more_folds_than_structures_are_refused(dataset) -> None:
    with pytest.raises(ExpansionError, match=r"expansion\.fit\.cv\.folds: 500 folds"):
        fit_expansion(dataset, FCC, BASIS, {**FIT, "cv": {"kind": "kfold", "folds": 500}}, seed=1)


def test_the_model_names_its_reference(fitted) -> None:
    assert fitted.expansion.reference["end_members"] == {"Cu": -0.5, "Au": 0.25}


@pytest.mark.reference
def test_published_clusters_come_out_of_the_cut_offs(reference) -> None:
    """Both published bases: multiplicities from the largest interatomic distance, and with CLEASE its names."""
    for system, sizes, generator in (
        ("cuau", {2: 6.0, 3: 4.5, 4: 4.5}, "clease"),
        ("agpd", {2: 8.0, 3: 6.5, 4: 5.5}, "symmetry"),
    ):
        published = read_expansion(reference / system / "eci_published.json")
        basis = build_basis(published.lattice, sizes, generator=generator)
        found, expected = (
            sorted((len(c.figures[0]) if len(c.figures) else 0, len(c.figures), c.name) for c in e.clusters)
            for e in (basis, published)
        )
        if generator == "clease":
            assert found == expected
        assert sorted(c[:2] for c in found) == sorted(c[:2] for c in expected)
