"""Active learning on Cu-Au with EMT energies: the hull and the error of the full fit with fewer calculations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segalflow.errors import ExpansionError
from segalflow.expansion.active_learning import BELOW_HULL, UNCERTAIN, gap_to_hull, learn, next_structures, propose
from segalflow.expansion.basis import build_basis
from segalflow.expansion.fit import fit_expansion, structure_weights
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.regression import Regression, choose_method, fold_indices, predict_out_of_fold
from segalflow.expansion.validation import cluster_sizes, rms
from segalflow.lattice import parent_lattice
from segalflow.plotting.expansion import plot_active_learning
from segalflow.structures.enumeration import enumerate_pool

DATA = Path(__file__).parents[1] / "data" / "cuau_emt_137.csv"


@pytest.fixture(scope="module")
def alloy():
    """Pool, basis, design and energies (NaN where the calculation collapsed) of the default study."""
    lattice = parent_lattice("fcc", 3.85, ["Cu", "Au"])
    pool = enumerate_pool(lattice, 6)
    basis = build_basis(lattice, {2: 8.0, 3: 4.5, 4: 4.5}, generator="symmetry")
    table = pd.read_csv(DATA, comment="#").set_index("structure")["formation_energy_eV_per_atom"]
    return pool, basis, basis.correlations(pool), table


def _run(alloy, strategy: str, seed: int, **options):
    pool, basis, design, table = alloy
    energies = table.loc[[s.info["structure"] for s in pool]].to_numpy()
    x = np.array([s.get_array("occupation").mean() for s in pool])
    usable = np.flatnonzero(np.isfinite(energies) & (x > 0) & (x < 1))

    def watch(fit, design, known):
        return {"rmse_all": rms((design @ fit.coefficients - energies)[usable])}

    return learn(
        pool,
        basis,
        lambda structures: table.loc[[s.info["structure"] for s in structures]].to_numpy(),
        seed=seed,
        strategy=strategy,
        design=design,
        watch=watch,
        **{"initial": 20, "per_round": 5, "max_calculations": 137, **options},
    )


@pytest.fixture(scope="module")
def target(alloy):
    """Hull and leave-one-out error of the fit to everything that converged."""
    pool, basis, design, table = alloy
    energies = table.loc[[s.info["structure"] for s in pool]].to_numpy()
    usable = np.flatnonzero(np.isfinite(energies))
    x = np.array([pool[i].get_array("occupation").mean() for i in usable])
    y = energies[usable]
    hull = lower_hull(x, y)
    weights = structure_weights([pool[i] for i in usable], above_hull(x, y, hull), 100.0, 0.02)
    method = choose_method("cluster_prior", cluster_sizes(basis.clusters))
    folds = fold_indices(len(y), "loo", 0, np.random.default_rng(0))
    out = predict_out_of_fold(design[usable], y, weights, method, 0.0, folds)
    names = " ".join(pool[usable[i]].info["structure"] for i in hull)
    return names, rms((out - y)[(x > 0) & (x < 1)])


def _calculations_needed(rounds: pd.DataFrame, hull: str, error: float) -> int:
    """Calculations after which hull and error are those of the full fit, for good."""
    there = ((rounds["hull"] == hull) & (rounds["rmse_all"] <= error)).to_numpy()
    late = np.flatnonzero(~there)
    first = 0 if not len(late) else late[-1] + 1
    return int(rounds["n_calculations"].iloc[first]) if first < len(rounds) else 1000


@pytest.mark.slow
def test_fewer_calculations_than_random_selection(alloy, target) -> None:
    hull, error = target
    assert len(hull.split()) == 4
    assert error == pytest.approx(0.0073, abs=0.0002)
    needed = {}
    for strategy, most, seeds in (("active", 80, 2), ("random", 110, 1)):
        runs = [_run(alloy, strategy, seed, patience=99, max_calculations=most) for seed in range(seeds)]
        # Random selection that is not there at its last calculation counts as if the next one would do.
        needed[strategy] = [min(_calculations_needed(r.rounds, hull, error), most + 1) for r in runs]
    assert max(needed["active"]) < min(needed["random"])
    assert np.median(needed["active"]) <= 0.65 * np.median(needed["random"]), needed


def test_a_run_settles_by_itself_with_the_right_hull(alloy, target) -> None:
    hull, error = target
    run = _run(alloy, "active", seed=1)
    last = run.rounds.iloc[-1]
    assert run.settled
    assert last["hull"] == hull
    assert last["n_below_hull"] == 0
    assert last["n_calculations"] <= 60
    assert last["rmse_all"] < 1.1 * error
    assert set(run.choices["reason"]) == {"random", BELOW_HULL, UNCERTAIN}
    assert not run.choices["structure"].duplicated().any()
    assert np.isfinite(run.energies).sum() == last["n_structures"]


def test_a_failed_calculation_is_not_asked_for_again(alloy) -> None:
    run = _run(alloy, "random", seed=0, per_round=20)
    assert run.rounds["n_calculations"].iloc[-1] == 137
    assert run.rounds["n_structures"].iloc[-1] == 130
    assert run.settled  # nothing was left


def test_proposals_by_hand() -> None:
    """Two unknowns, one axis each: the low one first, then the one that the first left uncertain."""
    design = np.array([[1.0, -1, 0, 0], [1, 1, 0, 0], [1, 0, -1, 0], [1, 0, 0, 2], [1, 0, 0, 1.9], [1, 0, 0.5, 0.1]])
    x = np.array([0.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    energies = np.array([0.0, 0.0, np.nan, np.nan, np.nan, np.nan])
    fit = Regression(np.array([0.0, 0, 0.02, 0]), np.diag([0.0, 0.0, 1e-4, 1e-3]), 2.0)
    chosen = propose(fit, design, x, energies, np.arange(2, 6), 3, noise=1e-4)
    # After row 3 the twin row 4 is known too; row 5 would tell of the other axis, but row 2 has.
    assert chosen["index"].tolist()[:2] == [2, 3]
    assert chosen["reason"].tolist() == [BELOW_HULL, UNCERTAIN, UNCERTAIN]
    assert chosen["energy"].iloc[0] == pytest.approx(-0.02)
    assert chosen["energy_stderr"].iloc[1] == pytest.approx(2 * np.sqrt(1e-3))
    assert gap_to_hull(design @ fit.coefficients, x, energies)[2] == pytest.approx(-0.02)
    # A model that is 20 meV too high throughout still tells of the state below.
    assert gap_to_hull(design @ fit.coefficients + 0.02, x, energies)[2] == pytest.approx(-0.02)


def test_bad_requests_are_refused(alloy) -> None:
    pool, basis, design, _ = alloy
    with pytest.raises(ExpansionError, match="expected strategy active or random, found 'greedy'"):
        _run(alloy, "greedy", seed=0)
    with pytest.raises(ExpansionError, match="expected initial from 4 to 137, found 3"):
        _run(alloy, "active", seed=0, initial=3)
    with pytest.raises(ExpansionError, match="both pure elements in the pool"):
        learn(
            pool[2:], basis, lambda s: np.zeros(len(s)), initial=20, per_round=5, max_calculations=50, seed=0,
            design=design[2:],
        )  # fmt: skip
    with pytest.raises(ExpansionError, match="energies of both pure elements"):
        gap_to_hull(np.zeros(2), np.array([0.0, 0.5]), np.array([0.0, 0.1]))


def test_the_next_generation_of_a_fit(alloy) -> None:
    """A fit that never saw the ground state asks for it first, and for nothing it has or that failed."""
    pool, _, _, table = alloy
    lattice = parent_lattice("fcc", 3.85, ["Cu", "Au"])
    lost = "db972e1f5d7d"  # Cu3Au D0_22, EMT's ground state
    dataset = []
    for atoms in pool:
        energy = table[atoms.info["structure"]]
        if np.isfinite(energy) and len(atoms) < 6 and atoms.info["structure"] != lost:
            known = atoms.copy()
            known.info.update(
                formation_energy=float(energy),
                x=float(atoms.get_array("occupation").mean()),
                end_members="Cu=0.0 Au=0.0",
            )
            dataset.append(known)
    basis = {"max_diameters": {2: 8.0, 3: 4.5, 4: 4.5}, "size_rule": "largest_distance", "generator": "symmetry"}
    fit = {"method": "ridge", "alphas": [0.01, 0.1], "cv": {"kind": "kfold", "folds": 10}}
    fitted = fit_expansion(dataset, lattice, basis, {**fit, "end_member_weight": 100.0, "hull_scale": 0.02}, seed=1)
    failed = set(table.index[table.isna()])
    chosen, structures = next_structures(fitted.expansion, dataset, pool, 6, fitted.metrics["rmse"], tried=failed)
    assert len(chosen) == len(structures) == 6
    assert chosen["structure"].iloc[0] == lost
    assert chosen["reason"].iloc[0] == BELOW_HULL
    assert not set(chosen["structure"]) & (failed | {s.info["structure"] for s in dataset})
    assert chosen["structure"].tolist() == [s.info["structure"] for s in structures]
    with pytest.raises(ExpansionError, match="has no covariance"):
        next_structures(replace(fitted.expansion, eci_covariance=None), dataset, pool, 6, 0.001)


def test_the_figure_shows_both_strategies() -> None:
    rows = [
        {"strategy": s, "seed": k, "n_calculations": n, "rmse_all": 0.01 - 1e-4 * n, "hull_found": n > 20}
        for s in ("active", "random")
        for k in range(2)
        for n in (20, 25)
    ]
    _, data = plot_active_learning(pd.DataFrame(rows), 0.0073)
    assert data["rmse_meV"].tolist() == pytest.approx([8.0, 7.5] * 2)
    assert data["hull_share"].tolist() == [0, 1, 0, 1]
