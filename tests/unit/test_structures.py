from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from ase import Atoms

from segalflow.artefacts import read_structures, read_table, write_structures, write_table
from segalflow.errors import ArtefactError, SettingsError
from segalflow.lattice import ParentLattice, Supercell, lattice_operations, map_to_supercell, parent_lattice
from segalflow.structures.enumeration import enumerate_pool, iterate_structures
from segalflow.structures.identity import decoration_id, hermite_normal_form, primitive_decoration, structure_id
from segalflow.structures.pool import pool_table, read_pool, structure_name
from segalflow.structures.selection import SELECTIONS, select_structures

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 4)


def test_counts_are_those_of_hart_and_forcade(pool) -> None:
    counts = np.bincount([len(s) for s in pool], minlength=5)[1:]
    assert counts.tolist() == [2, 2, 6, 19]
    assert len({s.info["structure"] for s in pool}) == len(pool)


def test_six_atoms_give_137_structures() -> None:
    assert len(enumerate_pool(FCC, 6)) == 137


def test_ids_do_not_depend_on_cell_origin_rotation_or_order(pool) -> None:
    rng = np.random.default_rng(5)
    operations = lattice_operations(FCC)
    for atoms in pool:
        cell, occupations = map_to_supercell(atoms, FCC)
        # A larger, skewed cell of the same decoration ...
        step = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 2]])
        larger = Supercell(FCC, step @ cell.matrix)
        copied = occupations[cell.site_index(larger.sites[:, 0], larger.sites[:, 1:])]
        # ... turned by an operation of the lattice and shifted to another origin.
        rotation, _ = operations[rng.integers(len(operations))]
        turned = Supercell(FCC, larger.matrix @ rotation.T * round(np.linalg.det(rotation)))
        image = turned.site_index(0, larger.sites[:, 1:] @ rotation.T + rng.integers(-3, 4, 3))
        moved = np.empty_like(copied)
        moved[image] = copied
        again = turned.atoms(moved)
        again = again[rng.permutation(len(again))]
        assert structure_id(again, FCC) == atoms.info["structure"]


def test_ids_do_not_depend_on_the_lattice_constant(pool) -> None:
    other = parent_lattice("fcc", 4.1, ["Cu", "Au"])
    for atoms in pool[:10]:
        stretched = atoms.copy()
        stretched.set_cell(atoms.cell * 4.1 / 3.85, scale_atoms=True)
        assert structure_id(stretched, other) == atoms.info["structure"]


def test_primitive_decoration_finds_the_smallest_cell() -> None:
    cell = Supercell(FCC, [4, 4, 4])
    layered = (cell.sites[:, 1] % 2).astype(int)
    reduced, occupations = primitive_decoration(cell, layered)
    assert reduced.n_sites == 2
    assert sorted(occupations) == [0, 1]


def test_hermite_normal_form_is_one_per_lattice() -> None:
    matrix = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 2]])
    unimodular = np.array([[1, 2, 0], [0, 1, 0], [3, 0, 1]])
    assert np.array_equal(hermite_normal_form(matrix), hermite_normal_form(unimodular @ matrix))


def test_names_are_those_people_use(pool) -> None:
    names = {structure_name(s, FCC) for s in pool}
    assert {"Cu", "Au", "CuAu L1_0", "Cu3Au L1_2", "Au3Cu L1_2", "Cu3Au D0_22"} <= names


def test_manifest_and_round_trip(pool, tmp_path) -> None:
    table = pool_table(pool, FCC)
    assert list(table["structure"]) == [s.info["structure"] for s in pool]
    assert table["x_Au"].between(0, 1).all()
    write_structures(tmp_path / "pool.extxyz", pool)
    again = read_pool(tmp_path / "pool.extxyz", FCC)
    assert [s.info["structure"] for s in again] == list(table["structure"])
    assert all(
        np.array_equal(a.get_array("occupation"), b.get_array("occupation")) for a, b in zip(again, pool, strict=True)
    )


def test_a_damaged_pool_is_named(pool, tmp_path) -> None:
    path = tmp_path / "pool.extxyz"
    write_structures(path, pool)
    text = path.read_text()
    path.write_text(text[: int(len(text) * 0.7)].rsplit("\n", 1)[0][:-20])
    with pytest.raises(ArtefactError, match=r"pool\.extxyz"):
        read_pool(path, FCC)
    swapped = text.replace(pool[2].info["structure"], pool[3].info["structure"])
    path.write_text(swapped)
    with pytest.raises(ArtefactError, match="has the decoration of"):
        read_pool(path, FCC)


def test_no_atoms_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_atoms"):
        enumerate_pool(FCC, 0)


def test_ids_that_look_like_numbers_stay_texts(tmp_path) -> None:
    """One id in three hundred has digits alone, or digits and an e."""
    names = ["987947528893", "000123456789", "12345e678901", "00e000000000", "6f1e00000000"]
    structures = [Atoms("Cu", info={"structure": name, "x": 0.5}) for name in names]
    write_structures(tmp_path / "pool.extxyz", structures)
    assert [a.info for a in read_structures(tmp_path / "pool.extxyz")] == [a.info for a in structures]
    assert [a.info["structure"] for a in structures] == names
    write_table(tmp_path / "pool.csv", pd.DataFrame({"structure": names, "x": 0.5}))
    assert read_table(tmp_path / "pool.csv")["structure"].tolist() == names


def test_nine_atoms_stream_into_a_selection() -> None:
    """The counts of Hart and Forcade (2008), and a selection that is never held beside all of them."""
    counts = dict.fromkeys(range(1, 10), 0)

    def counted():
        for atoms in iterate_structures(FCC, 9):
            counts[len(atoms)] += 1
            yield atoms

    chosen = select_structures(counted(), 60)
    assert list(counts.values()) == [2, 2, 6, 19, 28, 80, 104, 390, 504]
    assert len({s.info["structure"] for s in chosen}) == 60
    compositions = [round(s.get_array("occupation").mean(), 6) for s in chosen]
    every = {round(k / n, 6) for n in range(1, 10) for k in range(n + 1)}
    assert set(compositions) == every  # none is left out, and none is preferred
    assert max(compositions.count(x) for x in every - {0.0, 1.0}) <= 3


def test_a_larger_cap_keeps_the_choice(pool) -> None:
    for selection in SELECTIONS:
        choices = [{s.info["structure"] for s in select_structures(pool, n, selection)} for n in (2, 7, 16, None)]
        assert [len(c) for c in choices] == [2, 7, 16, len(pool)]
        assert choices[0] < choices[1] < choices[2] < choices[3]
        # Neither does the order of the stream matter.
        assert choices[1] == {s.info["structure"] for s in select_structures(pool[::-1], 7, selection)}
    assert sorted(len(s) for s in select_structures(pool, 10, "smallest")) == sorted(len(s) for s in pool)[:10]


def test_impossible_selections_are_refused(pool) -> None:
    with pytest.raises(SettingsError, match=r"structures\.max_structures: expected at least 2 for the pure elements"):
        select_structures(pool, 1)
    with pytest.raises(SettingsError, match=r"structures\.selection: expected one of spread.*did you mean 'random'"):
        select_structures(pool, 5, "randon")


def every_decoration(lattice, n_cells: int) -> set[str]:
    """Ids of all primitive decorations of all superlattices of some size, by brute force."""
    ids = set()
    for a in range(1, n_cells + 1):
        for b in range(1, n_cells // a + 1):
            if n_cells % (a * b):
                continue
            c = n_cells // (a * b)
            for above in itertools.product(range(b), range(c), range(c)):
                matrix = np.array([[a, above[0], above[1]], [0, b, above[2]], [0, 0, c]])
                cell = Supercell(lattice, matrix)
                for occupations in itertools.product(*(range(len(cell.species_of(i))) for i in range(cell.n_sites))):
                    if primitive_decoration(cell, np.array(occupations))[0].n_sites == cell.n_sites:
                        ids.add(decoration_id(cell, np.array(occupations)))
    return ids


@pytest.mark.parametrize(
    ("lattice", "sizes"),
    [
        (parent_lattice("fcc", 3.85, ["Cu", "Au", "Ag"]), (1, 2, 3)),
        (ParentLattice("salt", 2 * (1 - np.eye(3)), [[0, 0, 0], [0.5] * 3], [["Cu", "Au"], ["O", "S"]]), (1, 2)),
        (ParentLattice("diamond", 2 * (1 - np.eye(3)), [[0, 0, 0], [0.25] * 3], [["Cu", "Au"]] * 2), (1, 2)),
    ],
    ids=["ternary", "two sublattices of different species", "two sublattices of the same species"],
)
def test_ternaries_and_two_sublattices(lattice, sizes) -> None:
    expected = [every_decoration(lattice, n) for n in sizes]
    found = list(iterate_structures(lattice, sizes[-1] * lattice.n_sublattices))
    assert len({s.info["structure"] for s in found}) == len(found)
    for n, ids in zip(sizes, expected, strict=True):
        assert {s.info["structure"] for s in found if len(s) == n * lattice.n_sublattices} == ids
    for atoms in found:
        cell, occupations = map_to_supercell(atoms, lattice)
        assert np.array_equal(cell.atoms(occupations).symbols, atoms.symbols)
        assert np.array_equal(occupations, atoms.get_array("occupation"))


def test_named_structures_alone_are_taken_with_the_pure_elements() -> None:
    chosen = enumerate_pool(FCC, 4, only=["Cu3Au L1_2", "809a490c5947", "CuAu L1_1"])
    # One L1_1: planes stacked AABB have its space group as well, in twice the cell.
    assert sorted(structure_name(s, FCC) for s in chosen) == ["Au", "Cu", "Cu3Au L1_2", "CuAu L1_0", "CuAu L1_1"]
    with pytest.raises(SettingsError, match=r"structures\.only: no structure with up to 2 atoms .* 'Cu3Au L1_2'"):
        enumerate_pool(FCC, 2, only=["Cu3Au L1_2", "CuAu L1_0"])
