"""Tables of a site's surroundings: one for all sites of a periodic cell, in vectors or one by one, same fields."""

import dataclasses

import numba
import numpy as np
import pytest

from segalflow.energy.groups import site_groups
from segalflow.energy.polynomial import ising_polynomial, place_expansion
from segalflow.energy.single_chain import SingleChain
from segalflow.energy.surroundings import WINDOW, _count_2, count_plainly, surroundings
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell, parent_lattice

REPEATS = [(7, 7, 7), (4, 2, 2), [[3, 1, 0], [0, 4, 1], [2, 0, 5]]]


def placed(reference, repeat):
    expansion = read_expansion(reference / "agpd" / "eci_published.json")
    return place_expansion(expansion, Supercell(expansion.lattice, repeat))


@pytest.mark.reference
@pytest.mark.parametrize("repeat", REPEATS, ids=str)
def test_fields_of_a_periodic_cell(reference, repeat) -> None:
    model = placed(reference, repeat)
    near = surroundings(model)
    assert len(near.start) == 2  # one class of sites
    assert (near.neighbours.shape[1] > WINDOW) == (model.n_sites > WINDOW)
    spins = np.random.default_rng(1).choice([-1, 1], size=model.n_sites).astype(np.int8)
    expected = 2 * model.local_fields(spins[None])[0]
    for polynomial in (model, dataclasses.replace(model, cell=None)):
        chain = SingleChain(polynomial, 500.0, 0.0, seed=1, spins=spins)
        assert np.allclose([chain.doubled_field(site) for site in range(model.n_sites)], expected, rtol=0, atol=1e-12)


@pytest.mark.reference
@pytest.mark.parametrize("repeat", REPEATS[1:], ids=str)
def test_groups_of_one_site_serve_all(reference, repeat) -> None:
    model = placed(reference, repeat)
    moved, plain = site_groups(model, pack=4), site_groups(dataclasses.replace(model, cell=None), pack=4)
    for name in ("start", "n_others", "n_packs", "coefficient"):
        assert np.array_equal(getattr(moved, name), getattr(plain, name)), name
    assert np.allclose(moved.base, plain.base, atol=1e-14)
    for g in range(len(moved.coefficient)):
        found = [
            np.sort(
                np.sort(
                    t.index[t.position[g] :][: t.n_packs[g] * 4 * t.n_others[g]]
                    .reshape(-1, t.n_others[g], 4)
                    .transpose(0, 2, 1)
                    .reshape(-1, t.n_others[g]),
                    axis=1,
                ),
                axis=0,
            )
            for t in (moved, plain)
        ]
        assert np.array_equal(*found)


def test_vectors_count_as_plain_loops_do() -> None:
    rng = np.random.default_rng(3)
    words, look_up = rng.integers(0, 2**63, 6).astype(np.uint64), np.zeros((5, 2, 2, 16), np.uint8)
    look_up[:, :, 0] = rng.integers(0, 16, (5, 2, 16))
    look_up[:, :, 1] = 1 << rng.integers(0, 8, (5, 2, 16))
    look_up[4, :, 1, 9:] = 0  # idle lanes
    windows = 16 * rng.integers(0, 3, (5, 2))

    @numba.njit
    def in_vectors(words, windows, look_up):
        return _count_2(words, windows, look_up, 1, 64, 4)

    flat = look_up.ravel()
    assert in_vectors(words, windows, flat) == count_plainly(words, windows, flat, 1, 64, 4, 2) > 0


def test_ising_fields_need_four_neighbours() -> None:
    model = ising_polynomial(Supercell(parent_lattice("square", 1.0, ["Cu", "Au"]), (6, 5, 1)))
    near = surroundings(model)
    assert near.neighbours.shape == (30, 8)
    assert np.sum(near.neighbours < 30, axis=1).tolist() == [4] * 30
