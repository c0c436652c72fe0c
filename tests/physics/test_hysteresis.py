"""First-order lines from the loops of a scan: the Ising model in a field, and tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import BoundaryError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.phases.criteria import find_boundaries
from segalflow.sampling.scan import sample_scan

FIELD = np.linspace(-1.8, 1.8, 25)


@pytest.fixture(scope="module")
def scan():
    cell = Supercell(parent_lattice("square", 1.0, ("down", "up")), [12, 12, 1])
    temperature = np.array([1.4, 1.7, 3.0, 3.5])
    return sample_scan(
        ising_polynomial(cell), ("down", "up"), temperature, FIELD, seed=1, walkers=16, equilibration=2, sweeps=20
    )


def test_the_line_of_the_ising_model_lies_inside_the_loops_below_its_critical_temperature(scan) -> None:
    table, notes = find_boundaries("hysteresis", [scan])
    assert table["temperature"].tolist() == [1.4, 1.7]
    assert (table["kind"] == "two_phase").all()
    assert table["boundary"].nunique() == 1
    # The first-order line is at zero field by symmetry, and both phases mirror each other.
    assert ((table["delta_mu_low"] < 0) & (table["delta_mu_high"] > 0)).all()
    assert np.abs(table["delta_mu"]).max() < 0.3
    assert (table["x_left"] < 0.1).all()
    assert (table["x_right"] > 0.9).all()
    assert not notes


def test_other_tables_and_open_loops_are_said(scan) -> None:
    table, notes = find_boundaries("hysteresis", [scan.isel(delta_mu=slice(11, 14))])
    assert not len(table)
    assert "1.4, 1.7 J/k_B reach an end of the delta_mu window" in notes[0]
    table, (note,) = find_boundaries("hysteresis", [scan.drop_vars(["composition_up", "composition_down"])])
    assert not len(table)
    assert "method 'scan' makes them" in note


def test_nothing_is_invented_above_the_critical_temperature(scan) -> None:
    hot = scan.isel(temperature=[2, 3, 3]).assign_coords(temperature=[3.0, 3.5, 4.0])
    table, (note,) = find_boundaries("hysteresis", [hot])
    assert not len(table)
    assert "No loop between the branches" in note


def test_too_coarse_a_grid_is_refused(scan) -> None:
    with pytest.raises(BoundaryError, match="too few to bracket a phase boundary"):
        find_boundaries("hysteresis", [scan.isel(temperature=[0, 1])])


def test_wrong_settings_are_refused(scan) -> None:
    with pytest.raises(
        BoundaryError, match=r"phases\.hysteresis: unknown key 'minimal_gap', expected one of minimum_gap"
    ):
        find_boundaries("hysteresis", [scan], {"minimal_gap": 0.1})
    with pytest.raises(BoundaryError, match=r"phases\.hysteresis\.overlap: expected a number that is not negative"):
        find_boundaries("hysteresis", [scan], {"overlap": "wide"})
