"""The published Ag-Pd and Cu-Au expansions from their data, and fits that are better."""

from __future__ import annotations

from fractions import Fraction

import ase.io
import numpy as np
import pandas as pd
import pytest

from segalflow.errors import ArtefactError, ExpansionError
from segalflow.expansion.correlations import correlation_matrix
from segalflow.expansion.figures import enumerate_clusters
from segalflow.expansion.fit import fit_expansion, structure_weights
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.expansion.published import describe_published, import_expansion, with_pure_zero
from segalflow.expansion.regression import choose_method, fold_indices, predict_out_of_fold
from segalflow.expansion.validation import cluster_sizes, hull_order_violations, rms
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.ground_states import search_ground_states
from segalflow.structures.enumeration import enumerate_pool

pytestmark = pytest.mark.reference

FILES = {"agpd": "agpd_icet_625.extxyz", "cuau": "cuau_training_41.extxyz"}
ENERGY = {"agpd": "mixing_energy_per_atom", "cuau": "formation_energy_per_atom"}
# The rule of both published fits: ridge on unweighted energies per site, the constant not penalised, and these
# penalties (of CLEASE's logarithmic grid); Ag-Pd leaves out 12 of the 625 structures.
PENALTY = {"agpd": 10 ** (-25 / 7), "cuau": 10 ** (-4 / 7)}
PUBLISHED_FIT = {
    "method": "ridge",
    "cv": {"kind": "kfold", "folds": 10},
    "end_member_weight": 1.0,
    "hull_scale": None,
}


def _load(reference, system: str):
    """Return published expansion, structures with dataset entries, correlation functions and energies (eV/atom)."""
    expansion = read_expansion(reference / system / "eci_published.json")
    structures = ase.io.read(reference / system / FILES[system], ":")
    second = expansion.lattice.species[0][1]
    for number, atoms in enumerate(structures):
        symbols = atoms.get_chemical_symbols()
        atoms.set_array("occupation", np.array([int(s == second) for s in symbols]))
        atoms.info.update(
            structure=f"{number}",
            formation_energy=float(atoms.info[ENERGY[system]]),
            x=float(np.mean([s == second for s in symbols])),
            end_members=" ".join(f"{s}=0.0" for s in expansion.lattice.elements),
        )
    design = correlation_matrix(expansion.clusters, expansion.point_functions, expansion.lattice, structures)
    return expansion, structures, design, np.array([s.info["formation_energy"] for s in structures])


@pytest.fixture(scope="module")
def agpd(reference):
    return _load(reference, "agpd")


@pytest.fixture(scope="module")
def cuau(reference):
    return _load(reference, "cuau")


def _used(structures) -> np.ndarray:
    return np.array([int(s.info.get("used_in_ce", 1)) == 1 for s in structures])


@pytest.mark.parametrize("system", ["agpd", "cuau"])
def test_published_ecis_from_the_data(system, request) -> None:
    expansion, structures, design, energies = request.getfixturevalue(system)
    used = _used(structures)
    assert used.sum() == {"agpd": 613, "cuau": 41}[system]
    found = choose_method("ridge").solve(design[used], energies[used], np.ones(used.sum()), PENALTY[system])
    assert np.abs(found - [c.eci for c in expansion.clusters]).max() < 1e-9


def test_published_agpd_errors(agpd) -> None:
    _, structures, design, energies = agpd
    used, method, penalty = _used(structures), choose_method("ridge"), PENALTY["agpd"]
    design, energies = design[used], energies[used]
    weights = np.ones(len(energies))
    residual = design @ method.solve(design, energies, weights, penalty) - energies
    assert 0.00205 <= rms(residual) <= 0.00207
    scores = []
    for seed in range(5):
        folds = fold_indices(len(energies), "kfold", 10, np.random.default_rng(seed))
        scores.append(rms(predict_out_of_fold(design, energies, weights, method, penalty, folds) - energies))
    assert np.mean(scores) == pytest.approx(0.00228, abs=0.00002)


def test_published_cuau_leave_one_out(cuau) -> None:
    _, _, design, energies = cuau
    folds = fold_indices(41, "loo", 0, np.random.default_rng(0))
    predicted = predict_out_of_fold(design, energies, np.ones(41), "ridge", PENALTY["cuau"], folds)
    assert rms(predicted - energies) == pytest.approx(0.008153, abs=5e-7)


@pytest.mark.parametrize("system", ["agpd", "cuau"])
def test_our_clusters_are_the_published_ones(system, request) -> None:
    """The same classes of figures come from the lattice's symmetry and the largest pair distance."""
    expansion, *_ = request.getfixturevalue(system)
    sizes = {"agpd": {2: 8.0, 3: 6.5, 4: 5.5}, "cuau": {2: 6.0, 3: 4.5, 4: 4.5}}[system]
    clusters, functions = enumerate_clusters(expansion.lattice, sizes)

    def classes(many) -> set:
        def standard(figure):
            ordered = figure[np.lexsort(figure.T[::-1])][:, 1:]
            return tuple(map(tuple, (ordered - ordered[0]).tolist()))

        return {frozenset(standard(f) for f in c.figures) for c in many if c.order > 1}

    assert functions == expansion.point_functions == (((-1.0, 1.0),),)
    assert len(clusters) == len(expansion.clusters)
    assert classes(clusters) == classes(expansion.clusters)


def test_the_workflows_fit_gives_the_published_energies(agpd) -> None:
    """From settings alone, with our own clusters: the published model's energies and errors."""
    expansion, structures, design, _ = agpd
    kept = [s for s, used in zip(structures, _used(structures), strict=True) if used]
    fitted = fit_expansion(
        kept,
        expansion.lattice,
        {"max_diameters": {2: 8.0, 3: 6.5, 4: 5.5}, "size_rule": "largest_distance", "generator": "symmetry"},
        {**PUBLISHED_FIT, "alphas": [PENALTY["agpd"]]},
        seed=1,
    )
    published = design[_used(structures)] @ [c.eci for c in expansion.clusters]
    assert np.abs(fitted.predictions["e_model"] - published).max() < 1e-9
    assert fitted.metrics["cv"] == pytest.approx(0.00228, abs=0.00005)


def test_a_better_agpd_fit(agpd) -> None:
    """More clusters under a prior that lets interactions fade: 10-fold CV 1.72 meV/atom instead of 2.28."""
    expansion, structures, _, _ = agpd
    fitted = fit_expansion(
        structures,
        expansion.lattice,
        {"max_diameters": {2: 10.0, 3: 8.2, 4: 6.6}, "size_rule": "largest_distance", "generator": "symmetry"},
        {**PUBLISHED_FIT, "method": "cluster_prior", "alphas": [1.0]},
        seed=1,
    )
    assert fitted.metrics["n_parameters"] == 152
    assert fitted.metrics["cv"] < 0.0018
    assert fitted.metrics["effective_parameters"] < 100
    # Its error bars are honest: out-of-fold residuals against the predicted errors and the noise of the fit.
    noise = fitted.metrics["rmse"]
    spread = np.sqrt(fitted.predictions["e_model_stderr"] ** 2 + noise**2)
    z = (fitted.predictions["e_cv"] - fitted.predictions["e_data"]) / spread
    assert 0.8 < rms(z.to_numpy()) < 1.25


def test_grouped_folds_are_harder(agpd) -> None:
    """Without any structure of the same supercell to lean on, the published basis predicts worse, but not by much."""
    expansion, structures, _, _ = agpd
    settings = {**PUBLISHED_FIT, "alphas": [PENALTY["agpd"]]}
    basis = {"max_diameters": {2: 8.0, 3: 6.5, 4: 5.5}, "size_rule": "largest_distance", "generator": "symmetry"}
    cv = {}
    for group in ("none", "supercell"):
        fit = {**settings, "cv": {"kind": "kfold", "folds": 10, "group": group}}
        cv[group] = fit_expansion(structures, expansion.lattice, basis, fit, seed=1).metrics
    assert cv["supercell"]["cv_kind"] == "10-fold by supercell"
    assert 1.0 < cv["supercell"]["cv"] / cv["none"]["cv"] < 1.5


def test_all_68_cuau_structures_can_stay(reference, cuau) -> None:
    """The 28 structures that the published fit left out (up to 37 meV/atom) do no harm with weights by hull distance.

    Their decorations are not in the reference data: random decorations of their compositions, with their published
    energies, stand in for them. That is a harsher test than the true ones, since energies and decorations disagree.
    """
    expansion, structures, _, energies = cuau
    table = pd.read_csv(reference / "cuau" / "cuau_68.csv", comment="#")
    left_out = table[table["used_in_41"] == 0]
    assert len(left_out) == 28
    rng = np.random.default_rng(0)
    repeats = {64: (4, 4, 4), 18: (3, 3, 2), 12: (3, 2, 2)}
    stand_ins, high = [], []
    for row in left_out.itertuples():
        n = Fraction(row.x_Au).limit_denominator(64).denominator
        cell = Supercell(expansion.lattice, repeats[64 if 64 % n == 0 else 18 if n == 9 else 12])
        occupations = np.zeros(cell.n_sites, dtype=int)
        occupations[rng.permutation(cell.n_sites)[: round(row.x_Au * cell.n_sites)]] = 1
        stand_ins.append(cell.atoms(occupations))
        high.append(row.formation_energy_total_eV / cell.n_sites)
    everything = structures + stand_ins
    design = correlation_matrix(expansion.clusters, expansion.point_functions, expansion.lattice, everything)
    y = np.append(energies, high)
    x = np.array([np.mean([s == "Au" for s in a.get_chemical_symbols()]) for a in everything])
    distance = above_hull(x, y, lower_hull(x, y))
    low = distance < 0.010
    low[41:] = False  # errors of the real structures near the hull

    def near_hull_error(n: int, method: str, scale: float | None) -> tuple[float, int]:
        weights = structure_weights(everything[:n], distance[:n], 1.0, scale, "exponential")
        chosen = choose_method(method, cluster_sizes(expansion.clusters))
        predicted = design @ chosen.solve(design[:n], y[:n], weights, PENALTY["cuau"])
        return rms((predicted - y)[low]), hull_order_violations(x[:41], y[:41], predicted[:41])

    published, _ = near_hull_error(41, "ridge", None)
    # 40 of the table's 68 and the later Au3Cu make the published 41.
    alike, _ = near_hull_error(41 + 28, "ridge", None)
    weighted, violations = near_hull_error(41 + 28, "cluster_prior", 0.010)
    assert alike > 2 * published  # as the authors saw: taken alike, the high ones spoil the low ones
    assert weighted < published
    assert violations == 0


# ---- imported as given ---------------------------------------------------------------------------------------------
def test_an_imported_expansion_finds_the_published_ground_states(reference) -> None:
    path = reference / "cuau" / "eci_published.json"
    expansion = import_expansion(path, parent_lattice("fcc", 3.8, ["Cu", "Au"]), "pure_elements")
    found = search_ground_states(expansion, [(2, 2, 4), (4, 4, 4)], max_atoms=4, seed=1, sweeps=10)
    assert found.states["name"].tolist() == ["Cu", "Cu3Au L1_2", "CuAu L1_0", "Au3Cu L1_2", "Au"]
    assert found.states["energy"].to_numpy() == pytest.approx([0, -0.034167, -0.036182, -0.018754, 0], abs=5e-7)
    assert np.allclose(found.states["energy"], found.states["formation_energy"], atol=1e-12)


def test_importing_keeps_every_energy_whatever_the_order_of_species(reference) -> None:
    path = reference / "agpd" / "eci_published.json"
    given = read_expansion(path)
    turned = import_expansion(path, parent_lattice("fcc", 4.09, ["Ag", "Pd"]))
    assert given.lattice.species == (("Pd", "Ag"),)
    assert turned.lattice.species == (("Ag", "Pd"),)
    assert turned.ecis == given.ecis
    energies = []
    for expansion in (given, turned):
        pool = enumerate_pool(expansion.lattice, 4)
        design = correlation_matrix(expansion.clusters, expansion.point_functions, expansion.lattice, pool)
        values = design @ list(expansion.ecis.values())
        energies.append(sorted((s.get_chemical_formula(), e) for s, e in zip(pool, values, strict=True)))
    assert [name for name, _ in energies[0]] == [name for name, _ in energies[1]]
    assert np.allclose([e for _, e in energies[0]], [e for _, e in energies[1]], atol=1e-12)
    metrics, predictions = describe_published(turned, enumerate_pool(turned.lattice, 3))
    assert metrics["method"] == "published"
    assert metrics["rmse"] is None
    assert len(predictions) == len(enumerate_pool(turned.lattice, 3))


def test_wrong_imports_are_refused(reference) -> None:
    path = reference / "cuau" / "eci_published.json"
    fcc = parent_lattice("fcc", 3.8, ["Cu", "Au"])
    with pytest.raises(ExpansionError, match=r"expansions\.ce\.published: the expansion is for fcc of Cu, Au"):
        import_expansion(path, parent_lattice("fcc", 3.9, ["Cu", "Au"]), key="expansions.ce")
    with pytest.raises(ExpansionError, match="the study's lattice is fcc of Cu, Pd"):
        import_expansion(path, parent_lattice("fcc", 3.8, ["Cu", "Pd"]))
    with pytest.raises(ArtefactError, match="expected SHA-256 abc"):
        import_expansion(path, fcc, sha256="abc")
    with pytest.raises(ExpansionError, match="published_zero: expected one of as_given, pure_elements"):
        import_expansion(path, fcc, zero="zero")


def test_pure_zero_changes_nothing_but_a_line(cuau) -> None:
    expansion, structures, design, _ = cuau
    x = np.array([s.info["x"] for s in structures])
    change = design @ (
        np.array(list(with_pure_zero(expansion).ecis.values())) - np.array(list(expansion.ecis.values()))
    )
    assert np.allclose(change, np.polyval(np.polyfit(x, change, 1), x), atol=1e-12)
