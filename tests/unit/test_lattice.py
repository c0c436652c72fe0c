from __future__ import annotations

import numpy as np
import pytest

from segalflow.errors import LatticeError
from segalflow.lattice import ParentLattice, Supercell, map_to_supercell, parent_lattice, supercell_matrix

FCC = parent_lattice("fcc", 3.8, ["Cu", "Au"])
SKEWED = [[2, 1, 0], [0, 3, 1], [1, 0, 2]]
CUBIC = [[-3, 3, 3], [3, -3, 3], [3, 3, -3]]


@pytest.mark.parametrize("repeat", [[2, 2, 4], [1, 1, 1], SKEWED, CUBIC])
def test_sites_fill_the_cell_once(repeat) -> None:
    cell = Supercell(FCC, supercell_matrix(repeat))
    assert len(cell.sites) == cell.n_sites == round(np.linalg.det(supercell_matrix(repeat)))
    assert np.array_equal(cell.site_index(0, cell.sites[:, 1:]), np.arange(cell.n_sites))
    shifted = cell.sites[:, 1:] + np.array([3, -2, 5]) @ cell.matrix
    assert np.array_equal(cell.site_index(0, shifted), np.arange(cell.n_sites))


@pytest.mark.parametrize(
    ("repeat", "point", "total"), [([8, 4, 4], 12, 1536), (CUBIC, 48, 5184), ([5, 5, 5], 48, 6000)]
)
def test_symmetry_orders(repeat, point, total) -> None:
    cell = Supercell(FCC, supercell_matrix(repeat))
    assert len(cell.point_permutations) == point
    assert len(cell.symmetry_permutations()) == total


@pytest.mark.parametrize("repeat", [[2, 2, 4], SKEWED, CUBIC])
def test_symmetries_keep_distances(repeat) -> None:
    cell = Supercell(FCC, supercell_matrix(repeat))
    distances = cell.atoms(np.zeros(cell.n_sites, int)).get_all_distances(mic=True)
    for permutation in cell.symmetry_permutations()[:: max(1, cell.n_sites // 4)]:
        assert np.array_equal(np.sort(permutation), np.arange(cell.n_sites))
        assert np.allclose(distances[np.ix_(permutation, permutation)], distances, atol=1e-8)


def test_random_operations_are_of_the_group_and_reach_all_of_it() -> None:
    cell = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [2, 3, 1])
    drawn = np.unique(cell.random_permutations(400, np.random.default_rng(0)), axis=0)
    assert np.array_equal(drawn, cell.symmetry_permutations())


def test_square_lattice_is_two_dimensional() -> None:
    cell = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [4, 4, 1])
    assert len(cell.point_permutations) == 8
    assert len(cell.symmetry_permutations()) == 128


@pytest.mark.parametrize("repeat", [[2, 2, 4], SKEWED])
def test_structures_map_back(repeat) -> None:
    cell = Supercell(FCC, supercell_matrix(repeat))
    occupations = np.random.default_rng(1).integers(0, 2, cell.n_sites)
    atoms = cell.atoms(occupations)
    atoms = atoms[np.random.default_rng(2).permutation(len(atoms))]
    found, back = map_to_supercell(atoms, FCC)
    assert np.array_equal(found.matrix, cell.matrix)
    assert np.array_equal(back, occupations)


def test_two_sublattices_round_trip() -> None:
    rock_salt = ParentLattice("rock_salt", FCC.cell, [[0, 0, 0], [0.5, 0.5, 0.5]], (("Ti", "Al"), ("N",)))
    cell = Supercell(ParentLattice.from_dict(rock_salt.to_dict()), [2, 1, 2])
    assert cell.n_sites == 8
    assert cell.lattice.same_as(rock_salt)
    occupations = np.array([0, 0, 1, 0, 0, 0, 1, 0])
    assert np.array_equal(map_to_supercell(cell.atoms(occupations), rock_salt)[1], occupations)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fc", 3.8, ["Cu", "Au"]), "unknown lattice 'fc'"),
        (("fcc", -1.0, ["Cu", "Au"]), "lattice.constant"),
        (("fcc", 3.8, ["Cu", "Ax"]), "'Ax' is not a chemical element"),
        (("fcc", 3.8, ["Cu", "Cu"]), "distinct species"),
    ],
)
def test_bad_lattices_are_refused(arguments, words) -> None:
    with pytest.raises(LatticeError, match=words):
        parent_lattice(*arguments)


@pytest.mark.parametrize("repeat", [[1, 2], [0, 1, 1], [[1, 0, 0], [1, 0, 0], [0, 0, 1]], [1.5, 1, 1]])
def test_bad_supercells_are_refused(repeat) -> None:
    with pytest.raises(LatticeError):
        supercell_matrix(repeat)


def test_a_structure_off_the_lattice_is_refused() -> None:
    atoms = Supercell(FCC, [2, 2, 2]).atoms(np.zeros(8, int))
    atoms.positions[3] += [0.4, 0, 0]
    with pytest.raises(LatticeError, match="one to one"):
        map_to_supercell(atoms, FCC)
