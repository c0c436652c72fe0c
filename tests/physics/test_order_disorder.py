"""Order-disorder lines through the order parameter, against a two-sublattice model with a known line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from model_alloys import KB, two_sublattice_sweep
from scipy.optimize import brentq

from segalflow.errors import ArtefactError, BoundaryError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.phases.boundaries import BoundaryPoint, boundary_table
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.naming import name_by_order
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.thermo.order_parameters import SOLUTION, references_of
from segalflow.thermo.phase_weights import PhaseWeights, compute_phase_weights, read_phase_weights, write_phase_weights

CELL = Supercell(parent_lattice("bcc", 3.0, ["Cu", "Zn"]), np.diag([6, 6, 6]))
B2 = Atoms("CuZn", cell=3.0 * np.eye(3), scaled_positions=[[0, 0, 0], [0.5] * 3], pbc=True)
B2.set_array("occupation", np.array([0, 1]))
REFERENCES = references_of([B2], CELL)
(NAME,) = REFERENCES
T, MU = np.linspace(250.0, 750.0, 16), np.linspace(-0.22, 0.22, 23)
W = 2 * KB * 600.0  # the line's top is at 600 K, the tricritical points at 400 K


def continuous_line(mu: float) -> float:
    """Temperature of the continuous transition: 2 w x (1 - x) = kT in the ideal disordered phase."""
    x = brentq(lambda x: 2 * W * x * (1 - x) * np.log(x / (1 - x)) - mu, 0.21, 0.79)
    return 2 * W * x * (1 - x) / KB


def binodal(kelvin: float) -> tuple[float, float, float]:
    """x of the disordered and of the ordered phase, and delta_mu, below the tricritical point (poor side)."""
    x, delta = np.meshgrid(np.linspace(1e-3, 0.5, 1500), np.linspace(0, 0.5, 800), indexing="ij")
    f = -W * delta**2
    for part in (x + delta, x - delta):
        part = np.clip(part, 1e-12, 1 - 1e-12)
        f = f + 0.5 * KB * kelvin * (part * np.log(part) + (1 - part) * np.log1p(-part))
    f, x = np.where(delta <= np.minimum(x, 1 - x), f, np.inf).min(axis=1), x[:, 0]
    hull = [0]
    for k in range(1, len(x)):
        while len(hull) > 1 and (f[hull[-1]] - f[hull[-2]]) * (x[k] - x[hull[-1]]) >= (f[k] - f[hull[-1]]) * (
            x[hull[-1]] - x[hull[-2]]
        ):
            hull.pop()
        hull.append(k)
    a = hull[int(np.argmax(np.diff(hull)))]
    b = hull[hull.index(a) + 1]
    return x[a], x[b], (f[b] - f[a]) / (x[b] - x[a])


@pytest.fixture(scope="module")
def weights():
    sweep = two_sublattice_sweep(REFERENCES[NAME][0], W, T, MU, 150, 1)
    return compute_phase_weights(*sweep, REFERENCES, replicates=40)


@pytest.fixture(scope="module")
def found(weights):
    return find_boundaries("order_parameter", [weights])[0]


def test_the_continuous_line_is_within_its_interval(found) -> None:
    line = found[found["kind"] == "transition"]
    assert {-0.02, 0.0, 0.02} <= set(line["delta_mu"].round(6))
    for _, row in line.iterrows():
        assert row["temperature_low"] < continuous_line(row["delta_mu"]) < row["temperature_high"]
        assert row["temperature_high"] - row["temperature_low"] < 0.25 * row["temperature"]
        assert (row["left_phase"], row["right_phase"]) == (NAME, SOLUTION)
    assert line["temperature"].max() < 600 * 1.02


def test_the_first_order_part_is_a_two_phase_field_with_its_phases(found) -> None:
    fields = found[found["kind"] == "two_phase"]
    assert set(fields["temperature"]) <= set(T[T < 400])  # no gap above the tricritical point
    poor = fields[fields["delta_mu"] < 0]
    assert set(poor["temperature"]) >= set(T[T < 330])
    assert set(zip(poor["left_phase"], poor["right_phase"], strict=True)) == {(SOLUTION, NAME)}
    for _, row in poor.iterrows():
        left, right, mu = binodal(row["temperature"])
        assert row["delta_mu"] == pytest.approx(mu, abs=6e-4)
        if row["temperature"] < 330:  # in mean field the means of a finite phase are off by some 1/n, more near 400 K
            assert row["x_left"] == pytest.approx(left, abs=0.025)
            assert row["x_right"] == pytest.approx(right, abs=0.025)
    rich = fields[fields["delta_mu"] > 0]
    assert set(zip(rich["left_phase"], rich["right_phase"], strict=True)) == {(NAME, SOLUTION)}


def test_without_ordering_nothing_is_invented() -> None:
    sweep = two_sublattice_sweep(REFERENCES[NAME][0], 0.0, T[::3], MU[::2], 60, 2)
    found, notes = find_boundaries("order_parameter", [compute_phase_weights(*sweep, REFERENCES, replicates=20)])
    assert not len(found)
    assert "changes nowhere" in notes[0]


def test_a_phase_stable_between_two_chemical_potentials_of_the_grid_is_found() -> None:
    """Three compounds, the middle one the stable one over 0.4 meV of delta_mu, a fiftieth of the grid's step."""
    kelvin, grid, level = np.array([200.0, 300.0]), np.linspace(-0.2, 0.2, 21), (0.1030, 0.1034)
    beta, n, height, curves = 1 / (KB * kelvin)[:, None], np.arange(129), 0.0, {}
    for name, place, mu in zip(("AB", "AB2", "AB5"), (56, 80, 104), (0.0, *level), strict=True):
        height = height - beta * mu * (24 if curves else 0)
        log_weight = height - (n - place) ** 2 / 4 - beta * np.mean(level) * (n - place)
        curves[name] = FreeEnergy(kelvin, grid, log_weight, np.repeat(log_weight[None], 3, axis=0), None, None, KB)
    weights = PhaseWeights(curves, attributes={"method": "snis", "cell": "main", "species": ["A", "B"]})
    found = find_boundaries("order_parameter", [weights])[0]
    fields = found[found["kind"] == "two_phase"]
    pairs = [tuple(row) for row in fields[["left_phase", "right_phase"]].values]
    assert pairs == [("AB", "AB2")] * 2 + [("AB2", "AB5")] * 2
    np.testing.assert_allclose(fields["delta_mu"].values, np.repeat(level, 2), atol=1e-9)
    shift = 2 * np.tile(beta[:, 0], 2) * (np.repeat(level, 2) - np.mean(level)) / 128
    np.testing.assert_allclose(fields["x_left"].values, np.repeat([56, 80], 2) / 128 + shift, atol=1e-9)


def test_cells_without_order_and_unusable_samples_are_said(weights) -> None:
    samples, table = two_sublattice_sweep(REFERENCES[NAME][0], W, T[:3], MU[:3], 20, 3)
    _, notes = find_boundaries("order_parameter", [compute_phase_weights(samples, table, {}, replicates=20)])
    assert "No ordered ground state fits" in notes[0]
    one = compute_phase_weights(samples.isel(temperature=[0]), table.isel(temperature=[0]), REFERENCES, replicates=20)
    assert "brackets no boundary" in find_boundaries("order_parameter", [one])[1][0]
    table["reliable"][:] = 0
    _, notes = find_boundaries("order_parameter", [compute_phase_weights(samples, table, REFERENCES)])
    assert "no condition of the table is reliable" in notes[0]
    with pytest.raises(BoundaryError, match=r"phases\.order_parameter: unknown key .steeps.*did you mean 'steps'"):
        find_boundaries("order_parameter", [weights], {"steeps": 3})


def test_boundaries_of_other_criteria_get_the_names_of_their_samples(weights) -> None:
    left, right, mu = binodal(T[1])
    at = (T[1], T[1], T[1], mu, mu, mu)
    points = [
        BoundaryPoint("composition_jump", "metadynamics", "two", 0, "two_phase", *at, left, right, 0, 0),
        BoundaryPoint("heat_capacity", "snis", "two", 0, "transition", *(3 * [600.0]), *(3 * [0.0]), 0.5, 0.5, 0, 0),
        BoundaryPoint("common_tangent", "snis", "two", 0, "gap_top", *at, 0.3, 0.3, 0, 0),
    ]
    named = name_by_order(boundary_table(points), {"snis": weights}).set_index("criterion")
    assert tuple(named.loc["composition_jump", ["left_phase", "right_phase"]]) == (SOLUTION, NAME)
    assert named.loc["heat_capacity", "right_phase"] == SOLUTION
    assert tuple(named.loc["common_tangent", ["left_phase", "right_phase"]]) == ("", "")
    assert pd.DataFrame.equals(name_by_order(boundary_table(points), {}), boundary_table(points))


def test_files_come_back_and_are_checked(weights, tmp_path) -> None:
    write_phase_weights(tmp_path / "weights.nc", weights)
    back = read_phase_weights(tmp_path / "weights.nc")
    assert back.stars == weights.stars
    assert list(back.phases) == [NAME, SOLUTION]
    for name, curve in weights.phases.items():
        assert np.array_equal(back.phases[name].log_weight, curve.log_weight)
    (tmp_path / "weights.nc").write_bytes(b"x")
    with pytest.raises(ArtefactError, match="not a readable netCDF"):
        read_phase_weights(tmp_path / "weights.nc")
