"""Active learning, one generation at a time: what it begins with, what it asks for, when it stops, what it reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from segalflow.dft.dataset import build_dataset
from segalflow.errors import SettingsError
from segalflow.expansion.active_learning import BELOW_HULL, UNCERTAIN
from segalflow.expansion.fit import fit_expansion
from segalflow.expansion.generations import COLUMNS, generations_table, next_generation, selection_table
from segalflow.expansion.ground_states import lower_hull
from segalflow.lattice import parent_lattice
from segalflow.plotting.expansion import plot_generations
from segalflow.reporting.data import describe_generations
from segalflow.structures.enumeration import enumerate_pool
from segalflow.structures.initial import initial_structures
from segalflow.structures.pool import pool_table
from segalflow.study import prepare_study, proposers_of

DATA = Path(__file__).parents[1] / "data" / "cuau_emt_137.csv"
BASIS = {"max_diameters": {2: 6.0, 3: 3.0}, "size_rule": "largest_distance", "generator": "symmetry"}
FIT = {
    "method": "ridge",
    "alphas": [0.001, 0.01, 0.1],
    "cv": {"kind": "loo", "folds": 0},
    "end_member_weight": 100.0,
    "hull_scale": 0.02,
}
PROPOSALS = {"number": 4, "hull_tolerance": 0.001, "cv_tolerance": 0.15, "patience": 2}


@pytest.fixture(scope="module")
def lattice():
    return parent_lattice("fcc", 3.85, ["Cu", "Au"])


@pytest.fixture(scope="module")
def pool(lattice):
    """Everything up to 5 atoms: 57 structures."""
    return enumerate_pool(lattice, 5)


@pytest.fixture(scope="module")
def energies():
    """EMT energies, NaN where a calculation failed."""
    return pd.read_csv(DATA, comment="#").set_index("structure")["formation_energy_eV_per_atom"]


def calculated(structures, energies, lattice):
    """The dataset of these structures, from records as the engine would write them."""
    records = [
        {
            "structure": s.info["structure"],
            "status": "converged" if np.isfinite(energies[s.info["structure"]]) else "collapsed",
            "reason": "",
            "energy": float(len(s) * energies[s.info["structure"]]),
            "symbols": s.get_chemical_symbols(),
            "deformation": {},
            "max_force": 0.0,
            "n_steps": 1,
        }
        for s in structures
    ]
    return build_dataset(structures, records, lattice, 0.5)


@pytest.fixture(scope="module")
def run(lattice, pool, energies):
    """Eight generations, as the workflow unrolls them."""
    first = initial_structures(pool_table(pool, lattice), 14, seed=1)
    chosen = [s for s in pool if s.info["structure"] in first]
    generations, earlier = [], None
    for number in range(1, 9):
        dataset = calculated(chosen, energies, lattice)
        fitted = fit_expansion(dataset.structures, lattice, BASIS, FIT, seed=3)
        generation = next_generation(fitted, dataset, pool, PROPOSALS, number, earlier)
        generations.append(generation)
        chosen, earlier = [*chosen, *generation.structures], generation.status
    return first, chosen, generations


def test_the_first_structures_hold_the_pure_elements_and_stay_when_more_are_asked_for(lattice, pool) -> None:
    manifest = pool_table(pool, lattice)
    pure = set(manifest[manifest["x_Au"].isin([0.0, 1.0])]["structure"])
    first = {number: set(initial_structures(manifest, number, seed=1)) for number in (4, 12, 30)}
    assert [len(v) for v in first.values()] == [4, 12, 30]
    assert pure < first[4] < first[12] < first[30]
    # Another seed is another draw; the order of the manifest, and structures that rank behind, change nothing.
    assert set(initial_structures(manifest, 12, seed=2)) != first[12]
    assert set(initial_structures(manifest[::-1], 12, seed=1)) == first[12]
    part = manifest[manifest["structure"].isin(first[30])]
    assert set(initial_structures(part, 12, seed=1)) == first[12]
    assert set(initial_structures(manifest, None, seed=1)) == set(manifest["structure"])
    with pytest.raises(SettingsError, match=r"structures.initial: expected at most 57, .* up to 5 atoms, found 58"):
        initial_structures(manifest, 58, seed=1)


def test_generations_reach_the_hull_of_everything_and_then_ask_for_nothing(run, pool, energies) -> None:
    first, chosen, generations = run
    values = energies.loc[[s.info["structure"] for s in pool]].to_numpy()
    usable = np.flatnonzero(np.isfinite(values))
    x = np.array([s.get_array("occupation").mean() for s in pool])[usable]
    hull = [pool[usable[i]].info["structure"] for i in lower_hull(x, values[usable])]
    last = generations[-1].status
    assert last["settled"]
    assert last["hull"] == hull
    assert not set(hull) <= set(first)
    assert last["n_calculations"] == len(chosen) < len(pool)
    settled = [g.status["settled"] for g in generations]
    assert settled == sorted(settled)
    assert settled.count(False) >= 2
    for generation in generations:
        assert len(generation.structures) == (0 if generation.status["settled"] else 4)
        assert generation.table["structure"].tolist() == [s.info["structure"] for s in generation.structures]
    # Nothing is asked for twice, whether it was calculated or failed.
    names = [s.info["structure"] for s in chosen]
    assert len(names) == len(set(names))
    assert {r for g in generations for r in g.table["reason"]} == {BELOW_HULL, UNCERTAIN}


def test_a_violation_within_the_tolerance_is_calm_and_a_larger_one_is_not(run, lattice, pool, energies) -> None:
    first, _, generations = run
    chosen = [s for s in pool if s.info["structure"] in first]
    dataset = calculated(chosen, energies, lattice)
    fitted = fit_expansion(dataset.structures, lattice, BASIS, FIT, seed=3)
    status = generations[0].status
    worst = status["worst_violation"]
    assert worst > 0.001
    assert status["n_below_hull"] > 0
    assert status["worst_structure"] == generations[0].table["structure"].iloc[0]
    for tolerance, settled in ((1.01 * worst, True), (0.99 * worst, False)):
        again = next_generation(fitted, dataset, pool, {**PROPOSALS, "hull_tolerance": tolerance}, 2, status)
        assert (again.status["calm_rounds"] == 1) is settled
        assert (again.status["n_below_hull"] == 0) is settled
    # Another hull or another error is not calm either.
    loose = {**PROPOSALS, "hull_tolerance": 1.0}
    for change in ({"hull": status["hull"][:-2] + status["hull"][-1:]}, {"cv": 0.5 * status["cv"]}):
        assert not next_generation(fitted, dataset, pool, loose, 2, {**status, **change}).status["calm_rounds"]


def test_the_table_of_generations_ends_with_the_last_calculation(run) -> None:
    first, chosen, generations = run
    table = generations_table([g.status for g in generations])
    assert table.columns.tolist() == COLUMNS
    assert table["n_new"].iloc[0] == len(first)
    assert (table["n_new"].iloc[1:] > 0).all()
    assert table["n_calculations"].iloc[-1] == len(chosen)
    assert table["settled"].tolist() == [False] * (len(table) - 1) + [True]
    assert "; ".join(generations[0].status["new_ground_states"]) == table["new_ground_states"].iloc[0]
    _, data = plot_generations(table)
    assert data["cv_meV"].tolist() == pytest.approx((1000 * table["cv"]).tolist())
    section = describe_generations("main", table)
    assert "the fit asks for nothing more" in " ".join(section.sentences)
    assert not section.warnings
    assert len(section.tables[0].rows) == len(table)
    begun = describe_generations("main", generations_table([g.status for g in generations[:1]]))
    assert any("have not settled" in s for s in begun.warnings)
    assert any("below the hull" in s for s in begun.warnings)


def test_the_selection_says_when_and_why(run) -> None:
    first, chosen, generations = run
    proposed = {("main", g + 1): generation.table for g, generation in enumerate(generations)}
    # Another fit that asks for a structure later than the first one did changes nothing.
    proposed["other", 7] = generations[0].table.assign(reason=UNCERTAIN)
    table = selection_table(chosen, proposed).set_index("structure")
    assert set(table.index[table["generation"] == 0]) == set(first)
    assert set(table.loc[first, "reason"]) == {"initial"}
    for number, generation in enumerate(generations, start=1):
        assert set(table.index[table["generation"] == number]) == set(generation.table["structure"])
        for _, row in generation.table.iterrows():
            assert table.loc[row["structure"], "reason"] == row["reason"]
            assert table.loc[row["structure"], "energy"] == pytest.approx(row["energy"])
    assert set(table["expansion"]) == {"", "main"}


def test_without_a_covariance_there_are_no_proposals(run, lattice, pool, energies) -> None:
    from segalflow.errors import ExpansionError

    dataset = calculated([s for s in pool if s.info["structure"] in run[0]], energies, lattice)
    fitted = fit_expansion(dataset.structures, lattice, BASIS, FIT, seed=3)
    blind = replace(fitted, expansion=replace(fitted.expansion, eci_covariance=None))
    with pytest.raises(ExpansionError, match="has no covariance"):
        next_generation(blind, dataset, pool, PROPOSALS, 1)


@pytest.fixture
def config(repository):
    return yaml.safe_load((repository / "config" / "studies" / "cuau_active.yaml").read_text())


def test_every_fit_to_a_calculation_proposes_unless_its_number_is_zero(config, schema) -> None:
    config["expansions"]["also"] = {**config["expansions"]["main"], "proposals": {"number": 2}}
    config["expansions"]["silent"] = {**config["expansions"]["main"], "proposals": {"number": 0}}
    assert proposers_of(prepare_study(config, schema)) == {"emt": ["also", "main"]}
    config["structures"]["generations"] = 0
    assert proposers_of(prepare_study(config, schema)) == {}


VASP = {"engine": "vasp", "vasp": {}, "runs": {"folders": "runs/*"}}


@pytest.mark.parametrize(
    ("calculation", "said"),
    [
        ({**VASP, "mode": "ingest"}, "calculations.emt is 'vasp' of mode 'ingest', which cannot calculate proposed"),
        ({**VASP, "mode": "write"}, "calculations.emt is 'vasp' of mode 'write', which cannot calculate proposed"),
        (
            {
                "engine": "database",
                "database": {"path": "x.db", "energy": {"key": "e", "kind": "total", "per": "cell"}},
            },
            "calculations.emt is 'database', which cannot calculate proposed structures by itself",
        ),
    ],
)
def test_generations_need_an_engine(config, schema, calculation, said) -> None:
    config["calculations"]["emt"] = calculation
    with pytest.raises(SettingsError, match=r"structures\.generations: expected 0, found 8: ") as caught:
        prepare_study(config, schema)
    assert said in str(caught.value)


def test_generations_need_a_fit_that_proposes(config, schema) -> None:
    config["expansions"]["main"]["proposals"]["number"] = 0
    with pytest.raises(SettingsError, match=r"no cluster expansion is fitted to calculations\.emt that could propose"):
        prepare_study(config, schema)
    del config["expansions"]["main"]["calculation"]
    config["expansions"]["main"] = {"published": "list.json"}
    config["calculations"] = {}
    with pytest.raises(SettingsError, match="found 8: the study has no calculations"):
        prepare_study(config, schema)


def test_too_few_to_begin_with_is_one_sentence(config, schema) -> None:
    config["structures"]["initial"] = 3
    with pytest.raises(SettingsError, match=r"structures\.initial: expected a number >= 4, found 3"):
        prepare_study(config, schema)
