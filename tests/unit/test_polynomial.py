from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms

from segalflow.energy.polynomial import ising_polynomial, place_expansion
from segalflow.errors import ArtefactError, ExpansionError
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion, read_expansion
from segalflow.lattice import Supercell, map_to_supercell, parent_lattice

FCC = parent_lattice("fcc", 3.8, ["Cu", "Au"])


def small_expansion(values=(-1.0, 1.0)) -> ClusterExpansion:
    """Pairs, a triplet and a point term of made-up size on fcc, with any point function."""
    pair = [[[0, 0, 0, 0], [0, *o]] for o in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -1, 0], [0, 1, -1], [1, 0, -1])]
    triplet = [[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [[0, 0, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0]]]
    clusters = [
        Cluster("c0", 0, 0.0, np.zeros((1, 0, 4), int), np.zeros((1, 0), int), -0.3),
        Cluster("c1", 1, 0.0, np.zeros((1, 1, 4), int), np.zeros((1, 1), int), 0.07),
        Cluster("c2", 2, 2.7, np.array(pair), np.zeros((6, 2), int), 0.021),
        Cluster("c3", 3, 5.4, np.array(triplet), np.zeros((2, 3), int), -0.013),
    ]
    return ClusterExpansion(FCC, ((tuple(values),),), tuple(clusters), {"kind": "test"})


def direct_energy(expansion: ClusterExpansion, cell: Supercell, occupations: np.ndarray) -> float:
    """The defining sum over cells and figures, written as plainly as can be."""
    values = expansion.point_functions[0][0]
    total = 0.0
    for cluster in expansion.clusters:
        for offset in cell.offsets:
            for figure in cluster.figures:
                product = 1.0
                for site in figure:
                    product *= values[occupations[cell.site_index(site[0], offset + site[1:])]]
                total += cluster.eci * cell.n_sites * product / (cell.n_cells * len(cluster.figures))
    return total


@pytest.mark.parametrize("values", [(-1.0, 1.0), (1.0, -1.0), (0.0, 1.0), (0.3, -1.7)])
@pytest.mark.parametrize("repeat", [[1, 1, 1], [2, 1, 1], [2, 2, 2], [[2, 1, 0], [0, 2, 1], [1, 0, 2]], [3, 2, 4]])
def test_energy_is_the_defining_sum_also_where_images_overlap(values, repeat) -> None:
    expansion, cell = small_expansion(values), Supercell(FCC, repeat)
    model = place_expansion(expansion, cell)
    occupations = np.random.default_rng(3).integers(0, 2, (5, cell.n_sites))
    expected = [direct_energy(expansion, cell, o) for o in occupations]
    assert np.allclose(model.energy(occupations), expected, atol=1e-12)


@pytest.mark.parametrize("repeat", [[2, 1, 1], [2, 2, 2], [4, 2, 3]])
def test_local_fields_are_differences_of_energies(repeat) -> None:
    model = place_expansion(small_expansion(), Supercell(FCC, repeat))
    spins = (2 * np.random.default_rng(4).integers(0, 2, (3, model.n_sites)) - 1).astype(np.int8)
    fields = model.local_fields(spins)
    for site in range(model.n_sites):
        flipped = spins.copy()
        flipped[:, site] *= -1
        change = model.energy_of_spins(flipped) - model.energy_of_spins(spins)
        assert np.allclose(change, -2 * spins[:, site] * fields[:, site], atol=1e-10)


def test_energy_is_invariant_under_the_cells_symmetry() -> None:
    cell = Supercell(FCC, [4, 2, 2])
    model = place_expansion(small_expansion(), cell)
    # The triplet list above is not closed under the point group, translations are always a symmetry.
    spins = (2 * np.random.default_rng(5).integers(0, 2, (1, model.n_sites)) - 1).astype(np.int8)
    images = np.concatenate([spins[:, np.argsort(p)] for p in cell.translations])
    assert np.allclose(model.energy_of_spins(images), model.energy_of_spins(spins)[0], atol=1e-12)


def test_ising_ground_state_and_bonds() -> None:
    square = parent_lattice("square", 1.0, ["down", "up"])
    model = ising_polynomial(Supercell(square, [10, 10, 1]))
    assert model.n_monomials == 200
    assert model.energy(np.ones((1, 100), int))[0] == -200.0
    assert model.boltzmann == 1.0


def test_model_file_round_trip(tmp_path) -> None:
    expansion = small_expansion()
    expansion.write(tmp_path / "model.json")
    again = read_expansion(tmp_path / "model.json")
    again.write(tmp_path / "again.json")
    assert (tmp_path / "model.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert again.ecis == expansion.ecis


def test_broken_model_files_are_named(tmp_path) -> None:
    path = tmp_path / "model.json"
    small_expansion().write(path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ArtefactError, match=r"model\.json: not a whole JSON file"):
        read_expansion(path)
    path.write_text("{}")
    with pytest.raises(ArtefactError, match="expected schema"):
        read_expansion(path)
    content = json.loads(text)
    content["clusters"][2]["figures"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(ExpansionError, match="'c2'"):
        read_expansion(path)


def test_an_expansion_of_another_lattice_is_refused() -> None:
    other = Supercell(parent_lattice("fcc", 4.09, ["Pd", "Ag"]), [2, 2, 2])
    with pytest.raises(ExpansionError, match="the cell has"):
        place_expansion(small_expansion(), other)


@pytest.mark.reference
@pytest.mark.parametrize(("system", "n"), [("cuau", 16), ("agpd", 27)])
def test_published_expansions_give_the_published_energies(reference, system, n) -> None:
    expansion = read_expansion(reference / system / "eci_published.json")
    checks = json.loads((reference / system / f"check_configs_{n}.json").read_text())
    for configuration in checks["configurations"]:
        symbols = [checks["elements"][s] for s in configuration["spins"]]
        cell, occupations = map_to_supercell(
            Atoms(symbols, positions=checks["positions_A"], cell=checks["cell_A"], pbc=True), expansion.lattice
        )
        energy = place_expansion(expansion, cell).energy(occupations[None])[0]
        assert abs(energy - configuration["E_total_eV"]) < 1e-9


@pytest.mark.reference
def test_a_cell_smaller_than_a_figure_is_exact_and_says_so(reference, caplog) -> None:
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    small, large = Supercell(expansion.lattice, [1, 1, 2]), Supercell(expansion.lattice, [8, 8, 8])
    assert place_expansion(expansion, large).n_sites == 512
    assert not caplog.records
    model = place_expansion(expansion, small)
    assert "the cell of 2 sites is smaller than the figures of" in caplog.text
    # The same decoration, repeated: the same energy per site.
    big = np.zeros(512, dtype=np.int8)
    occupations = np.array([1, 0], dtype=np.int8)
    big[:] = occupations[small.site_index(0, large.sites[:, 1:])]
    repeated = place_expansion(expansion, large).energy(big[None])[0] / 512
    assert model.energy(occupations[None])[0] / 2 == pytest.approx(repeated, abs=1e-12)
