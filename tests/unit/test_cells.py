from __future__ import annotations

import numpy as np
import pytest

from segalflow.cells import build_cell, choose_grid, read_cell, read_grid, write_cell, write_grid
from segalflow.errors import ArtefactError, LatticeError, SettingsError
from segalflow.lattice import parent_lattice
from segalflow.units import BOLTZMANN_EV_PER_K

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])


def test_cells_survive_their_file(tmp_path) -> None:
    write_cell(tmp_path / "cell.json", build_cell("main", FCC, [2, 2, 4], ["a warning"]))
    cell = read_cell(tmp_path / "cell.json")
    assert cell.n_sites == 16
    assert cell.lattice.same_as(FCC)
    with pytest.raises(LatticeError, match=r"cells\.main\.repeat"):
        build_cell("main", FCC, [2, 2])
    text = (tmp_path / "cell.json").read_text()
    (tmp_path / "cell.json").write_text(text[: len(text) // 3])
    with pytest.raises(ArtefactError, match=r"cell\.json: not a whole JSON file"):
        read_cell(tmp_path / "cell.json")


def test_the_window_is_chosen_from_the_hull(tmp_path) -> None:
    grid = choose_grid([300, 600], {"number": 21}, [-0.05, 0.02], BOLTZMANN_EV_PER_K)
    reach = 1.5 * BOLTZMANN_EV_PER_K * 600
    assert grid.delta_mu[0] == pytest.approx(-0.05 - reach, abs=1.1e-3)
    assert grid.delta_mu[-1] == pytest.approx(0.02 + reach, abs=1.1e-3)
    assert "hull" in grid.origin
    write_grid(tmp_path / "grid.json", grid)
    again = read_grid(tmp_path / "grid.json")
    assert np.array_equal(again.delta_mu, grid.delta_mu)
    assert again.shape == (2, 21)


def test_a_hull_without_transitions_cannot_choose() -> None:
    with pytest.raises(SettingsError, match="give start, stop, number"):
        choose_grid([300], {"number": 5}, [], BOLTZMANN_EV_PER_K)
