"""Critical points by Binder's cumulant: the two-dimensional Ising model and the mean field, both known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from model_alloys import mean_field_sweep, regular_solution_table

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import BoundaryError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.phases.criteria import find_boundaries
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.sampling.transfer_matrix import sample_transfer_matrix
from segalflow.thermo.free_energy import compute_free_energy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

CRITICAL = 2 / np.log(1 + np.sqrt(2))
SPECIES = ("down", "up")
OMEGA = 2 * KB * 707.0


def chains(side, seed=3):
    """Free energies of the Ising model from replica-exchange chains around the critical temperature."""
    cell = Supercell(parent_lattice("square", 1.0, SPECIES), np.diag([side, side, 1]))
    kept = []
    table = sample_metropolis(
        ising_polynomial(cell), SPECIES, np.linspace(2.1, 2.5, 5), np.array([-0.02, 0.0, 0.02]), seed=seed,
        sweeps=4000, equilibration=200, chains_per_condition=8, n_ladder=6, measure_every=5, exchange_every=5,
        n_blocks=10, keep_samples=6400, collect=kept.append, attributes={"cell": f"side{side}"},
    )  # fmt: skip
    return compute_free_energy(table, kept[0], replicates=40, seed=seed)


def test_ising_has_a_line_at_zero_field_below_its_critical_temperature_and_none_above() -> None:
    temperature, field = np.array([1.5, 1.8, 2.1, 2.2, 2.35, 2.6, 3.0]), np.linspace(-0.4, 0.4, 5)
    table = sample_transfer_matrix((10, 10), SPECIES, temperature, field, attributes={"cell": "side10"})
    frame, _ = find_boundaries("equal_weight", [table])
    line = frame[frame["kind"] == "two_phase"]
    assert line["temperature"].tolist() == temperature[temperature < CRITICAL].tolist()
    assert set(frame["boundary"]) == {0}
    assert np.abs(line["delta_mu"]).max() < 1e-4
    assert (line["x_left"] + line["x_right"]).to_numpy() == pytest.approx(1.0, abs=1e-3)
    (top,) = frame[frame["kind"] == "gap_top"].itertuples()
    assert top.temperature_low < CRITICAL < top.temperature_high


def test_critical_temperature_of_ising_from_three_sizes_is_within_one_percent() -> None:
    frame, _ = find_boundaries("critical_point", [chains(side) for side in (10, 14, 20)])
    crossing = frame[frame["note"].str.contains("crossing")]
    assert len(crossing) == 1
    point = crossing.iloc[0]
    assert point["cell"] == "side20"
    assert point["temperature"] == pytest.approx(CRITICAL, rel=0.01)
    assert point["temperature_low"] < CRITICAL < point["temperature_high"]
    assert point["x_left"] == pytest.approx(0.5, abs=0.01)
    assert point["delta_mu"] == pytest.approx(0.0, abs=0.005)
    # Each cell on its own bounds the temperature, as this shape and dimension are at the end of the range.
    alone = frame[frame["note"].str.contains("one cell")]
    assert len(alone) >= 1
    assert np.all(alone["temperature_low"] < CRITICAL * 1.005)
    assert np.all(alone["temperature_high"] > CRITICAL)


@pytest.fixture(scope="module")
def mean_field():
    temperature, delta_mu = np.linspace(500, 900, 9), np.linspace(-0.06, 0.063, 9)
    sweeps = [mean_field_sweep(n, OMEGA, temperature, delta_mu, 4000, 5, cell=f"n{n}") for n in (64, 144, 324)]
    return [compute_free_energy(table, samples, replicates=40) for samples, table in sweeps]


def test_mean_field_cells_are_bounded_by_the_lowest_cumulant_and_cross_at_the_critical_temperature(mean_field) -> None:
    frame, _ = find_boundaries("critical_point", mean_field, {"lowest_cumulant": 0.26})
    alone = frame[frame["note"].str.contains("one cell")]
    assert alone["cell"].tolist() == ["n144", "n324", "n64"]
    assert ((alone["temperature_low"] < 707) & (alone["temperature_high"] > 707)).all()
    (point,) = frame[frame["note"].str.contains("crossing")].itertuples()
    assert point.temperature_low < 707 < point.temperature_high
    assert point.temperature == pytest.approx(707, rel=0.015)
    assert point.x_left == pytest.approx(0.5, abs=0.02)
    assert set(frame["kind"]) == {"gap_top"}


def test_without_a_gap_there_is_no_critical_point_and_a_cut_one_is_said(mean_field) -> None:
    hot = mean_field_sweep(96, OMEGA, np.linspace(760, 900, 4), np.linspace(-0.06, 0.063, 9), 500, 1)
    frame, notes = find_boundaries("critical_point", [compute_free_energy(*reversed(hot), replicates=30)])
    assert len(frame) == 0
    assert any("no critical point" in sentence for sentence in notes)
    cold = mean_field[-1].at(mean_field[-1].temperature[:4])
    frame, notes = find_boundaries("critical_point", [cold])
    assert len(frame) == 0
    assert any("cut off by the window" in sentence for sentence in notes)


def test_other_hamiltonians_are_not_compared_and_wrong_settings_are_refused(mean_field) -> None:
    from dataclasses import replace

    others = [replace(f, attributes={**f.attributes, "model_sha256": str(k)}) for k, f in enumerate(mean_field[:2])]
    frame, _ = find_boundaries("critical_point", others)
    assert not frame["note"].str.contains("crossing").any()
    with pytest.raises(BoundaryError, match=r"phases\.critical_point: unknown key 'alfa'"):
        find_boundaries("critical_point", mean_field[:1], {"alfa": 1.0})
    with pytest.raises(BoundaryError, match="not negative, found 'wide'"):
        find_boundaries("critical_point", mean_field[:1], {"confidence": "wide"})


@pytest.mark.parametrize("seed", range(4))
def test_differences_over_a_fixed_distance_find_the_field_and_invent_none(seed) -> None:
    temperature, delta_mu = np.linspace(500, 900, 9), np.arange(-10, 11) * 0.006 + 0.001
    wide = {"x_low": 0.0, "x_high": 1.0, "distance": 0.024}
    table = regular_solution_table(OMEGA, temperature, delta_mu, 0.002, seed)
    frame, _ = find_boundaries("composition_difference", [table], wide)
    line = frame[frame["kind"] == "two_phase"]
    assert line["temperature"].tolist() == temperature[temperature < 707].tolist()
    assert (line["delta_mu_high"] - line["delta_mu_low"]).to_numpy() == pytest.approx(0.024)
    assert ((line["delta_mu_low"] < 0) & (line["delta_mu_high"] > 0)).all()
    (top,) = frame[frame["kind"] == "gap_top"].itertuples()
    assert top.temperature_low < 707 < top.temperature_high
    frame, notes = find_boundaries("composition_difference", [regular_solution_table(0.0, temperature, delta_mu)], wide)
    assert len(frame) == 0
    assert any("No jump of x within 0.024 eV" in sentence for sentence in notes)
    # The bare rule of the paper has an answer everywhere.
    bare = {**wide, "ratio": 0}
    frame, _ = find_boundaries("composition_difference", [regular_solution_table(0.0, temperature, delta_mu)], bare)
    assert len(frame[frame["kind"] == "two_phase"]) == len(temperature)
    # Distances that the grid does not have are said.
    frame, notes = find_boundaries("composition_difference", [table], {**wide, "distance": 0.003})
    assert len(frame) == 0
    assert any("No two chemical potentials of this grid are 0.003 eV apart" in sentence for sentence in notes)
