"""Order parameters: against known orderings, under every symmetry operation, and where there is no order."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from segalflow.errors import SamplingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.plotting.phases import plot_phases
from segalflow.samples import pack_spins, sample_set
from segalflow.thermo.order_parameters import (
    SOLUTION,
    classify,
    label_phases,
    order_parameters,
    order_thresholds,
    reference_images,
    references_of,
    squared_order,
)
from segalflow.thermo.short_range_order import correlation_table, neighbour_shells, star_of

LATTICE = parent_lattice("fcc", 4.0, ["Cu", "Au"])
CELL = Supercell(LATTICE, [4, 4, 4])


def ordering(symbols: str):
    """The conventional cell of fcc with the four given species."""
    atoms = bulk("Cu", "fcc", a=4.0, cubic=True)
    atoms.symbols = symbols
    atoms.set_array("occupation", np.array([int(s == "Au") for s in atoms.symbols]))
    return atoms


L1_2, L1_0 = ordering("AuCu3"), ordering("CuCuAuAu")


@pytest.fixture(scope="module")
def references():
    # In this order also the pure element, which has no order of its own.
    return references_of([ordering("Cu4"), L1_2, L1_0], CELL)


def test_images_are_the_orientations_and_translations(references) -> None:
    assert {name: len(images) for name, images in references.items()} == {"Cu3Au L1_2": 4, "CuAu L1_0": 6}
    assert not len(reference_images(L1_2, Supercell(LATTICE, [3, 3, 3])))
    # An ordering along one axis is found along all of them where the cell itself is long along one.
    long = Supercell(LATTICE, [8, 4, 4])
    assert len(reference_images(L1_0, long)) == 6
    assert len(reference_images(L1_2, long)) == 4


def test_perfect_order_is_one_and_nothing_depends_on_the_image(references) -> None:
    for name, images in references.items():
        assert order_parameters(images, images) == pytest.approx(1.0)
        for other, others in references.items():
            if other != name:
                assert (order_parameters(others, images) < 0.7).all()
    rng = np.random.default_rng(1)
    spins = np.where(rng.random((1, CELL.n_sites)) < 0.1, -1, 1) * references["Cu3Au L1_2"][:1]
    values = set()
    for permutation in CELL.symmetry_permutations():
        moved = np.empty_like(spins)
        moved[:, permutation] = spins
        values.add(round(float(order_parameters(moved, references["Cu3Au L1_2"])[0]), 5))
    assert len(values) == 1
    assert 0.6 < values.pop() < 1.0


def test_without_order_it_is_small(references) -> None:
    rng = np.random.default_rng(2)
    spins = 2 * (rng.random((500, CELL.n_sites)) < 0.25).astype(np.int8) - 1
    assert np.quantile(order_parameters(spins, references["Cu3Au L1_2"]), 0.99) < 0.5
    assert order_parameters(np.ones((1, CELL.n_sites)), references["CuAu L1_0"]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("repeat", "least"), [([2, 2, 4], 0.7), ([4, 4, 4], 0.5)])
def test_random_decorations_hardly_ever_pass_for_ordered(repeat, least) -> None:
    cell = Supercell(LATTICE, repeat)
    found = references_of([L1_2, L1_0], cell)
    rng = np.random.default_rng(4)
    order = rng.random((4000, cell.n_sites)).argsort(axis=1).argsort(axis=1)
    for x in (0.25, 0.5, 0.75):
        phase, _ = classify(2 * (order < x * cell.n_sites).astype(np.int8) - 1, found)
        assert np.mean(phase >= 0) < 0.08
    assert order_thresholds(found["CuAu L1_0"])[cell.n_sites // 2] >= least - 1e-4
    # The perfect order always passes.
    for k, images in enumerate(found.values()):
        assert (classify(images, found)[0] == k).all()


def test_squared_order_is_one_in_the_reference_and_small_without(references) -> None:
    for images in references.values():
        assert squared_order(images, images) == pytest.approx(1.0)
    rng = np.random.default_rng(5)
    random = 2 * (rng.random((300, CELL.n_sites)) < 0.5).astype(np.int8) - 1
    # Three waves of random phases, each of n/n^2 of the whole.
    assert squared_order(random, references["CuAu L1_0"]).mean() == pytest.approx(3 / CELL.n_sites, rel=0.2)


def test_short_range_order_and_structure_factors() -> None:
    shells = neighbour_shells(CELL, 3)
    assert [count[0].sum() for _, count in shells] == [12, 6, 24]
    assert [d for d, _ in shells] == pytest.approx(4.0 * np.sqrt([0.5, 1, 1.5]), abs=1e-3)
    images = references_of([L1_2], CELL)["Cu3Au L1_2"]
    rng = np.random.default_rng(6)
    random = np.where(rng.random((4, CELL.n_sites)).argsort(1).argsort(1) < 16, 1, -1)
    table = correlation_table(samples_of([images, random], np.ones((2, 4))), CELL, 2, [[1, 0, 0], [0.3, 0, 0]])
    ordered, disordered = table.iloc[0], table.iloc[1]
    assert ordered["composition"] == disordered["composition"] == 0.25
    # In L1_2 no neighbour of a minority atom is of its kind, and all second ones are: 1 - 1 / (3/4) = -1/3, and 1.
    assert ordered[["alpha_1", "alpha_2"]].tolist() == pytest.approx([-1 / 3, 1.0])
    assert ordered["S(1,0,0)"] == pytest.approx(CELL.n_sites / 3)
    assert abs(disordered["alpha_1"]) < 0.15
    assert disordered["S(1,0,0)"] < 5
    assert not [name for name in table if name.startswith("S(0.3")]  # does not fit into the cell
    assert len(star_of([1, 0, 0], CELL)) == 6
    with pytest.raises(SamplingError, match="no equivalent of it fits"):
        star_of([0.3, 0, 0], CELL)
    with pytest.raises(SamplingError, match="the samples have 64 sites, the cell has 16"):
        correlation_table(samples_of([images], np.ones((1, 4))), Supercell(LATTICE, [2, 2, 4]))


def samples_of(conditions, weights):
    """A samples artefact of one temperature, from decorations (n_samples, n_sites) of each chemical potential."""
    spins = np.array(conditions)[None]
    variables = {
        "occupation": pack_spins(spins),
        "energy": np.zeros(spins.shape[:3]),
        "n_atoms": (spins > 0).sum(-1),
        "log_weight": np.log(np.array(weights))[None],
    }
    attributes = {"cell": "main", "n_sites": CELL.n_sites}
    return sample_set("snis", [300.0], np.arange(float(len(conditions))), ["Cu", "Au"], variables, attributes)


def test_probabilities_follow_the_weights(references) -> None:
    rng = np.random.default_rng(3)
    random = 2 * (rng.random((2, CELL.n_sites)) < 0.3).astype(np.int8) - 1
    ordered = references["Cu3Au L1_2"][[0, 3]]
    mixed = np.concatenate([ordered, random])
    table = label_phases(
        samples_of([mixed, np.concatenate([random, random])], [[3, 3, 1, 1], [1, 1, 1, 1]]), references
    )
    first, second = (table[table["delta_mu"] == mu].set_index("phase") for mu in (0.0, 1.0))
    assert first.loc["Cu3Au L1_2", "probability"] == pytest.approx(0.75)
    assert first.loc[SOLUTION, "probability"] == pytest.approx(0.25)
    assert first["probability"].sum() == pytest.approx(1.0)
    assert set(first["most_probable"]) == {"Cu3Au L1_2"}
    assert first.loc["Cu3Au L1_2", "order_parameter"] > 0.75
    assert second.loc[SOLUTION, "probability"] == 1.0
    assert (second["probability_stderr"] > 0.05).all()
    assert set(second["most_probable"]) == {SOLUTION}
    _, drawn = plot_phases([table], ["Cu", "Au"])
    assert drawn["phase"].tolist() == ["Cu3Au L1_2", SOLUTION]


def test_references_of_another_cell_are_refused(references) -> None:
    samples = samples_of([references["Cu3Au L1_2"][:1]], [[1]])
    with pytest.raises(SamplingError, match="reference 'x' has 3 sites, the samples have 64"):
        label_phases(samples, {"x": np.ones((1, 3), np.int8)})
