"""Options of fits: groups, constants, bootstrap, metrics, learning curves, our own clusters; annealing."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.polynomial import ising_polynomial, place_expansion
from segalflow.errors import ExpansionError
from segalflow.expansion.basis import build_basis
from segalflow.expansion.correlations import cell_correlations, correlation_matrix
from segalflow.expansion.figures import enumerate_clusters, orthogonal_point_functions
from segalflow.expansion.fit import fit_expansion
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.expansion.regression import (
    METHODS,
    bootstrap_covariance,
    choose_method,
    choose_penalty,
    fold_indices,
    predict_out_of_fold,
)
from segalflow.expansion.validation import (
    cluster_sizes,
    curve_numbers,
    error_metrics,
    hull_order_violations,
    learning_curve,
    structure_groups,
)
from segalflow.lattice import ParentLattice, Supercell, map_to_supercell, parent_lattice
from segalflow.plotting.expansion import plot_learning_curve
from segalflow.reporting.data import add_learning_curve
from segalflow.reporting.page import Section
from segalflow.sampling.enumeration import lowest_states
from segalflow.sampling.ground_states import anneal, search_ground_states
from segalflow.structures.enumeration import enumerate_pool

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
BASIS = {"max_diameters": {2: 6.0, 3: 4.5}, "size_rule": "largest_distance", "generator": "symmetry"}
FIT = {
    "method": "ridge",
    "alphas": [1e-6, 1e-3],
    "cv": {"kind": "kfold", "folds": 5},
    "end_member_weight": 100.0,
    "hull_scale": 0.02,
}


@pytest.fixture(scope="module")
def dataset():
    """Energies of a short expansion with noise; zero for the pure elements."""
    pool = enumerate_pool(FCC, 5)
    basis = build_basis(FCC, {2: 4.0}, generator="symmetry")
    truth = np.array([-0.048, 0.0, 0.06, -0.012])
    rng = np.random.default_rng(5)
    for atoms, energy in zip(pool, basis.correlations(pool) @ truth, strict=True):
        noise = 0.002 * rng.standard_normal() * (len(set(atoms.numbers)) > 1)
        atoms.info["formation_energy"] = float(energy + noise)
        atoms.info["x"] = float(atoms.get_array("occupation").mean())
        atoms.info["end_members"] = "Cu=-0.5 Au=0.25"
    return pool


# ---- clusters ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", ["largest_distance", "clease"])
def test_our_clusters_and_cleases_span_the_same_functions(rule, dataset) -> None:
    """Same numbers of clusters with the same multiplicities, and the same correlation functions in some order."""
    sizes = {2: 6.0, 3: 5.0, 4: 4.5}
    clease, ours = build_basis(FCC, sizes, rule), build_basis(FCC, sizes, rule, "symmetry")
    assert sorted(c.multiplicity for c in clease.clusters) == sorted(c.multiplicity for c in ours.clusters)
    a, b = clease.correlations(dataset[::7]), ours.correlations(dataset[::7])
    assert np.allclose(a[:, np.lexsort(a.round(8))], b[:, np.lexsort(b.round(8))], atol=1e-9)


def test_sizes_beyond_cleases_reach() -> None:
    with pytest.raises(ExpansionError, match="generator: symmetry"):
        build_basis(FCC, {2: 8.3})
    assert len(build_basis(FCC, {2: 8.3}, generator="symmetry").clusters) == 12  # ten shells of pairs
    with pytest.raises(ExpansionError, match="unknown generator 'cleese', expected one of clease, symmetry"):
        build_basis(FCC, {2: 4.0}, generator="cleese")


def test_clusters_of_three_species_on_two_sublattices() -> None:
    """Decorated clusters are complete: they tell all decorations of a cell apart, and are invariant under symmetry."""
    hexagonal = np.array([[1, 0, 0], [-0.5, np.sqrt(3) / 2, 0], [0, 0, 1.6]]) * 2.9
    lattice = ParentLattice(
        "hcp", hexagonal, np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]), (("Ag", "Pd", "Au"),) * 2
    )
    clusters, functions = enumerate_clusters(lattice, {2: 4.7, 3: 3.0})
    assert len(functions[0]) == 2
    cell = Supercell(lattice, [2, 1, 1])
    occupations = np.array(np.meshgrid(*[range(3)] * cell.n_sites)).reshape(cell.n_sites, -1).T
    values = cell_correlations(clusters, functions, cell, occupations)
    for permutation in cell.symmetry_permutations()[::3]:
        moved = np.empty_like(occupations)
        moved[:, permutation] = occupations
        assert np.allclose(cell_correlations(clusters, functions, cell, moved), values, atol=1e-12)


def test_point_functions_are_orthonormal() -> None:
    lattice = parent_lattice("fcc", 4.0, ["Cu", "Ag", "Au", "Pd"])
    values = np.array([(1.0,) * 4, *orthogonal_point_functions(lattice)[0]])
    assert np.allclose(values @ values.T / 4, np.eye(4), atol=1e-12)
    assert orthogonal_point_functions(FCC) == (((-1.0, 1.0),),)


# ---- regression ----------------------------------------------------------------------------------------------------
def test_groups_stay_together(dataset) -> None:
    for kind in ("composition", "supercell"):
        groups = structure_groups(dataset, FCC, kind)
        folds = fold_indices(len(dataset), "kfold", 3, np.random.default_rng(1), groups)
        assert sorted(np.concatenate(folds).tolist()) == list(range(len(dataset)))
        for label in set(groups):
            members = {i for i, g in enumerate(groups) if g == label}
            assert sum(bool(members & set(f.tolist())) for f in folds) == 1
        assert len(fold_indices(len(dataset), "loo", 3, np.random.default_rng(1), groups)) == len(set(groups))
    assert structure_groups(dataset, FCC, "none") is None
    with pytest.raises(ExpansionError, match=r"cv\.group: expected one of none, composition, supercell"):
        structure_groups(dataset, FCC, "size")
    with pytest.raises(ExpansionError, match=r"cv\.group: 50 folds but only"):
        fold_indices(len(dataset), "kfold", 50, np.random.default_rng(1), structure_groups(dataset, FCC, "supercell"))


def test_a_penalised_constant_is_scikit_learns_ridge(dataset) -> None:
    from sklearn.linear_model import Ridge

    design = build_basis(FCC, {2: 4.0}, generator="symmetry").correlations(dataset)
    energies = np.array([s.info["formation_energy"] for s in dataset])
    weights = np.linspace(1, 2, len(energies))
    found = choose_method("ridge", penalise_constant=True).solve(design, energies, weights, 0.5)
    assert np.allclose(found, Ridge(0.5, fit_intercept=False).fit(design, energies, sample_weight=weights).coef_)
    free = choose_method("ridge").solve(design, energies, weights, 0.5)
    assert np.allclose(free[1:], Ridge(0.5).fit(design[:, 1:], energies, sample_weight=weights).coef_)
    with pytest.raises(ExpansionError, match="penalise_constant: expected method 'ridge', found 'lasso'"):
        choose_method("lasso", penalise_constant=True)
    with pytest.raises(ExpansionError, match="did you mean 'cluster_prior'"):
        choose_method("cluster_priro")
    with pytest.raises(ExpansionError, match="needs the sizes"):
        choose_method("cluster_prior")


def test_the_cluster_prior_predicts_better_than_ridge_from_few_structures() -> None:
    """Interactions that fade, more clusters than structures: the prior's ranking of clusters pays."""
    pool = enumerate_pool(FCC, 6)
    basis = build_basis(FCC, {2: 9.0, 3: 6.0, 4: 4.5}, generator="symmetry")
    design, sizes = basis.correlations(pool), cluster_sizes(basis.clusters)
    rng = np.random.default_rng(7)
    better = []
    for _ in range(6):
        width = 0.05 * np.exp(-2.0 * (np.maximum(sizes[:, 1], 1) - 1) - 0.7 * np.maximum(sizes[:, 0] - 2, 0))
        energies = design @ (width * rng.standard_normal(len(width))) + 5e-4 * rng.standard_normal(len(pool))
        rows = rng.choice(len(pool), 40, replace=False)
        rest = np.setdiff1d(np.arange(len(pool)), rows)
        ones = np.ones(len(rows))

        def error(solution, rest=rest, energies=energies):
            return np.sqrt(np.mean((design[rest] @ solution - energies[rest]) ** 2))

        prior = error(choose_method("cluster_prior", sizes).solve(design[rows], energies[rows], ones, 0.0))
        ridge = min(
            error(METHODS["ridge"].solve(design[rows], energies[rows], ones, a)) for a in 10.0 ** np.arange(-6, 1)
        )
        better.append(prior / ridge)  # against the best penalty in hindsight
    assert np.median(better) < 0.9


def test_bootstrap_and_posterior_covariances_agree(dataset) -> None:
    design = build_basis(FCC, {2: 4.0}, generator="symmetry").correlations(dataset)
    energies = np.array([s.info["formation_energy"] for s in dataset])
    ones, rng = np.ones(len(energies)), np.random.default_rng(2)
    posterior = METHODS["ridge"].fit(design, energies, ones, 1e-8, rng).covariance
    drawn = bootstrap_covariance(design, energies, ones, METHODS["ridge"], 1e-8, 400, rng)
    assert np.sqrt(np.diag(drawn)) == pytest.approx(np.sqrt(np.diag(posterior)), rel=0.6)


def test_fits_with_every_option(dataset) -> None:
    plain = fit_expansion(dataset, FCC, BASIS, FIT, seed=1)
    for change in (
        {"method": "cluster_prior"},
        {"covariance": "bootstrap"},
        {"penalise_constant": True},
        {"hull_decay": "exponential"},
        {"cv": {"kind": "kfold", "folds": 4, "group": "supercell"}},
        {"cv": {"kind": "loo", "folds": 4, "group": "composition"}},
    ):
        fitted = fit_expansion(dataset, FCC, BASIS, {**FIT, **change}, seed=1)
        assert fitted.metrics["rmse"] < 0.004
        assert fitted.metrics["cv"] < 0.006
        assert fitted.expansion.eci_covariance.shape == (len(plain.expansion.clusters),) * 2
        assert fitted.predictions["e_model_stderr"].between(0, 0.01).all()
    assert fitted.metrics["cv_kind"] == "leave-one-composition-out"
    few = [s for s in dataset if len(s) < 4]
    assert fit_expansion(few, FCC, BASIS, {**FIT, "method": "cluster_prior"}, seed=1).metrics["n_structures"] == 10
    with pytest.raises(ExpansionError, match=r"expansion\.fit\.penalise_constant: expected method 'ridge'"):
        fit_expansion(dataset, FCC, BASIS, {**FIT, "method": "ard", "penalise_constant": True}, seed=1)


# ---- metrics -------------------------------------------------------------------------------------------------------
def test_metrics_by_hand() -> None:
    x = np.array([0.0, 0.5, 0.5, 1.0])
    data = np.array([0.0, -0.020, -0.015, 0.0])
    model = np.array([0.0, -0.018, -0.019, 0.001])
    metrics = error_metrics(x, data, model, model, np.array([False, True, True, False]))
    assert metrics["rmse"] == pytest.approx(np.sqrt((4 + 16 + 1) / 4) * 1e-3)
    assert metrics["mae"] == pytest.approx(7e-3 / 4)
    assert metrics["cv"] == pytest.approx(np.sqrt(10) * 1e-3)
    assert metrics["n_near_hull"] == 4
    assert metrics["hull_violations"] == 2  # one leaves the hull, one comes
    assert metrics["hull_order_violations"] == 1
    assert hull_order_violations(x, data, data) == 0


def test_the_learning_curve_falls(dataset) -> None:
    basis = build_basis(FCC, {2: 6.0, 3: 5.0}, generator="symmetry")
    design = basis.correlations(dataset)
    energies = np.array([s.info["formation_energy"] for s in dataset])
    options = (np.ones(len(energies)), METHODS["ridge"], [1e-6])
    curve = learning_curve(design, energies, *options, [14, 25, 45], 20, np.random.default_rng(0), always=np.arange(2))
    assert curve["n_structures"].tolist() == [14, 25, 45]
    assert curve["rmse_test"].iloc[0] > curve["rmse_test"].iloc[1] > curve["rmse_test"].iloc[2] > 0.0018
    assert (curve["rmse_train"] < curve["rmse_test"]).all()
    assert (curve["rmse_test_stderr"] * np.sqrt(20)).to_numpy() == pytest.approx(curve["rmse_test_std"].to_numpy())
    with pytest.raises(ExpansionError, match=f"expected numbers from 1 to {len(energies) - 1}, found 500"):
        learning_curve(design, energies, *options, [500], 2, np.random.default_rng(0))


def test_a_draw_of_the_learning_curve_chooses_its_own_penalty(dataset) -> None:
    """One that never sees the test structures: the same as fitting each draw by itself."""
    basis = build_basis(FCC, {2: 6.0, 3: 5.0}, generator="symmetry")
    design = basis.correlations(dataset)
    energies = np.array([s.info["formation_energy"] for s in dataset])
    weights, ridge, alphas = np.ones(len(energies)), METHODS["ridge"], [1e-8, 1e-3, 1.0]
    found = learning_curve(design, energies, weights, ridge, alphas, [20], 1, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    train = rng.choice(np.arange(len(energies)), 20, replace=False)
    folds = fold_indices(20, "kfold", 5, rng)
    everything = np.ones(20, dtype=bool)
    alpha, _ = choose_penalty(design[train], energies[train], weights[train], everything, ridge, alphas, folds)
    test = np.setdiff1d(np.arange(len(energies)), train)
    solution = ridge.solve(design[train], energies[train], weights[train], alpha)
    assert found["rmse_test"].item() == pytest.approx(np.sqrt(np.mean((design[test] @ solution - energies[test]) ** 2)))


def test_a_fit_comes_with_its_learning_curve(dataset) -> None:
    """The last row is the cross-validation, and the fit is the same without a curve."""
    with_curve = fit_expansion(dataset, FCC, BASIS, FIT, seed=1, curve_settings={"points": 3, "draws": 2})
    without = fit_expansion(dataset, FCC, BASIS, FIT, seed=1)
    curve = with_curve.curve
    assert without.curve.empty
    assert without.expansion.ecis == with_curve.expansion.ecis
    assert curve["kind"].tolist() == ["subset"] * 3 + ["cross-validation"]
    assert curve["rmse_test"].iloc[-1] == with_curve.metrics["cv"]
    assert len(with_curve.expansion.clusters) < curve["n_structures"].iloc[0]
    assert curve["n_structures"].iloc[2] == len(dataset) - round(len(dataset) / 10)
    section = Section("")
    add_learning_curve(section, curve)
    assert len(section.tables[0].rows) == 3
    assert "more" in section.sentences[0]
    figure, data = plot_learning_curve(curve)
    assert data["rmse_test_meV"].to_numpy() == pytest.approx(1000 * curve["rmse_test"].to_numpy())
    assert figure.axes[0].get_ylim()[1] > data["rmse_test_meV"].max()
    # Of the smallest study hardly anything is left to leave out: that is said.
    assert curve_numbers(4, 2, 4, 5) == []
    few = Section("")
    add_learning_curve(few, curve.iloc[-1:])
    assert few.sentences == ["Too few structures for a learning curve."]


# ---- ground states -------------------------------------------------------------------------------------------------
def test_annealing_finds_every_lowest_state_of_a_small_cell(dataset) -> None:
    """All compositions of 16 sites, against all 2^16 decorations."""
    fitted = fit_expansion(dataset, FCC, BASIS, FIT, seed=1)
    cell = Supercell(FCC, [2, 2, 4])
    model = place_expansion(fitted.expansion, cell)
    exact, _ = lowest_states(model)
    lowest, best, evaluations = anneal(model, np.linspace(-0.8, 0.8, 21), np.geomspace(3000, 20, 15), seed=3, sweeps=20)
    assert np.allclose(lowest, exact, atol=1e-9)
    assert np.allclose(model.energy(best), lowest, atol=1e-9)
    assert best.sum(axis=1).tolist() == list(range(17))
    assert evaluations > 0


def test_annealing_an_antiferromagnet() -> None:
    """Ising with J = -1 on 6 x 6: the chessboard at half filling."""
    model = ising_polynomial(Supercell(parent_lattice("square", 1.0, ("down", "up")), [6, 6, 1]), coupling=-1.0)
    lowest, best, _ = anneal(model, np.linspace(-6, 6, 9), np.geomspace(4, 0.1, 15), seed=1, sweeps=20)
    assert lowest[18] == pytest.approx(-72.0)
    assert len({tuple(best[18].reshape(6, 6)[i % 2].tolist()) for i in range(6)}) == 2


def test_a_ground_state_missing_from_the_data_is_reported(dataset) -> None:
    """The model is told of all structures but L1_0; the search reports it with its distance below their hull."""
    fitted = fit_expansion(dataset, FCC, BASIS, FIT, seed=1)
    full = search_ground_states(fitted.expansion, [], max_atoms=5, seed=1)
    lost = full.states[full.states["n_atoms"] > 1].iloc[0]["structure"]
    known = [s for s in dataset if s.info["structure"] != lost]
    found = search_ground_states(
        fitted.expansion, [(4, 4, 4)], max_atoms=4, seed=1, known=known, excluded={lost: "collapsed"}, sweeps=10
    )
    row = found.states.set_index("structure").loc[lost]
    assert (row["known"], row["excluded"]) == (False, "collapsed")
    assert (found.states["excluded"] == "").sum() == len(found.states) - 1
    assert row["below_hull"] > 1e-4
    assert 0 < row["energy_stderr"] < 0.005
    assert found.structures[list(found.states["structure"]).index(lost)].info["structure"] == lost
    others = found.states[found.states["structure"] != lost]
    assert (others["below_hull"] < 1e-3).all()


def test_model_energies_of_structures_and_cells_agree(dataset) -> None:
    basis = build_basis(FCC, {2: 6.0, 3: 4.5}, generator="symmetry")
    rng = np.random.default_rng(1)
    from dataclasses import replace

    clusters = tuple(replace(c, eci=float(rng.normal())) for c in basis.clusters)
    expansion = ClusterExpansion(FCC, basis.point_functions, clusters, {"kind": "test"})
    energies = correlation_matrix(clusters, basis.point_functions, FCC, dataset) @ [c.eci for c in clusters]
    for atoms, energy in list(zip(dataset, energies, strict=True))[::9]:
        cell, occupations = map_to_supercell(atoms, FCC)
        model = place_expansion(expansion, cell)
        assert model.energy(occupations[None])[0] / cell.n_sites == pytest.approx(energy, abs=1e-12)


def test_out_of_fold_takes_names_and_methods() -> None:
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(20), rng.normal(size=(20, 2))])
    energies = design @ [0.1, 0.2, -0.1]
    folds = fold_indices(20, "kfold", 4, rng)
    by_name = predict_out_of_fold(design, energies, np.ones(20), "ridge", 1e-9, folds)
    assert np.allclose(by_name, predict_out_of_fold(design, energies, np.ones(20), METHODS["ridge"], 1e-9, folds))
    assert np.allclose(by_name, energies, atol=1e-6)
