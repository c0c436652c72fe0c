"""Grids too coarse to bracket a transition: said with a step that then does, and not said of grids that do."""

from __future__ import annotations

import re

import numpy as np
import pytest
from model_alloys import critical_temperature, mean_field_log_weight, regular_solution_table

from segalflow.errors import BoundaryError
from segalflow.phases.criteria import find_boundaries
from segalflow.phases.resolution import resolving_step
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 707.0


def steps_said(notes: list[str], unit: str = "eV") -> list[float]:
    """The steps that the notes ask for."""
    return [float(v) for note in notes for v in re.findall(rf"a step of ([\d.e+-]+) {unit} .*would do", note)]


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape", "composition_difference"])
@pytest.mark.parametrize(("kelvin", "step"), [(660.0, 0.03), (690.0, 0.02)])
def test_a_jump_that_the_steps_hide_is_said_and_the_stated_step_shows_it(criterion, kelvin, step) -> None:
    settings = {"distance": step, "x_low": 0.01, "x_high": 0.99} if criterion == "composition_difference" else {}
    temperature = [kelvin, 900.0, 1000.0]
    table = regular_solution_table(OMEGA, temperature, np.arange(-4.1 * step, 4.5 * step, step))
    frame, notes = find_boundaries(criterion, [table], settings)
    assert not len(frame)  # at this step x changes by no more than three times what its slope explains
    (step,) = steps_said(notes)
    assert f"at 1 temperatures: x changes in one step by 0.0{4 if criterion == 'alpha_shape' else 2}" in notes[0]
    assert f"at {kelvin:g} a step of" in notes[0]
    finer = regular_solution_table(OMEGA, temperature, np.arange(-0.12 + step / 3, 0.13, step))
    frame, notes = find_boundaries(criterion, [finer], settings | ({"distance": step} if settings else {}))
    assert (frame[frame["kind"] == "two_phase"]["temperature"] == kelvin).sum() == 1
    assert not steps_said(notes)


def test_isotherms_that_the_steps_resolve_and_those_with_clear_jumps_are_left_alone() -> None:
    temperature = np.array([300.0, 500.0, 600.0, 800.0, 1000.0])
    for omega in (OMEGA, 0.0, -OMEGA):
        table = regular_solution_table(omega, temperature, np.linspace(-0.12, 0.123, 41))
        _, notes = find_boundaries("composition_jump", [table])
        assert not steps_said(notes), notes


def test_noise_hides_nothing() -> None:
    table = regular_solution_table(0.0, np.linspace(600.0, 1000.0, 9), np.linspace(-0.12, 0.12, 41), noise=0.02, seed=1)
    assert not steps_said(find_boundaries("composition_jump", [table])[1])


@pytest.mark.parametrize("criterion", ["composition_jump", "alpha_shape"])
def test_lines_at_one_or_two_temperatures_are_said_with_the_step_that_shows_their_course(criterion) -> None:
    delta_mu = np.linspace(-0.12, 0.123, 41)
    _, notes = find_boundaries(criterion, [regular_solution_table(OMEGA, [480.0, 780.0, 1080.0], delta_mu)])
    assert steps_said(notes, "K") == [100.0]
    finer = np.arange(480.0, 1081.0, 100.0)
    frame, notes = find_boundaries(criterion, [regular_solution_table(OMEGA, finer, delta_mu)])
    assert (frame["kind"] == "two_phase").sum() == 3
    assert not steps_said(notes, "K")


@pytest.mark.parametrize("criterion", ["common_tangent", "equal_weight"])
def test_lines_of_free_energies_too(criterion) -> None:
    def found(temperature):
        exact = mean_field_log_weight(200, OMEGA, temperature)
        attributes = {"method": "exact", "cell": "main", "species": ["A", "B"]}
        replicates = np.repeat(exact[None], 30, axis=0)
        free = FreeEnergy(temperature, np.linspace(-0.1, 0.1, 9), exact, replicates, None, None, KB, attributes)
        return find_boundaries(criterion, [free])

    (step,) = steps_said(found(np.array([400.0, 800.0, 1200.0]))[1], "K")
    assert step == pytest.approx(400 / 3, abs=10)  # two digits are said
    _, notes = found(np.arange(400.0, 1201.0, 100.0))
    assert critical_temperature(OMEGA) == pytest.approx(707.0)
    assert not steps_said(notes, "K")


def test_a_maximum_narrower_than_the_steps_is_said_with_one_that_samples_it() -> None:
    temperature = np.arange(300.0, 1001.0, 100.0)
    width = 40.0
    c = np.exp(-(((temperature - 600.0) / width) ** 2) / 2)
    step = resolving_step(temperature, c, 3)
    assert step == pytest.approx(width * np.sqrt(2 * np.log(2)))  # half its full width at half maximum
    assert resolving_step(np.arange(300.0, 1001.0, 40.0), np.exp(-((np.arange(-300.0, 401.0, 40.0) / 60) ** 2) / 2), 8)\
        == np.inf  # fmt: skip
    table = regular_solution_table(0.0, temperature, np.linspace(-0.1, 0.1, 9))
    table["heat_capacity"][:] = 0.1 + 3.0 * c[:, None]
    frame, notes = find_boundaries("heat_capacity", [table])
    assert len(frame) == 9
    (said,) = steps_said(notes, "K")
    assert said == pytest.approx(step, rel=0.2)
    finer = np.arange(300.0, 1001.0, 45.0)
    table = regular_solution_table(0.0, finer, np.linspace(-0.1, 0.1, 9))
    table["heat_capacity"][:] = 0.1 + 3.0 * np.exp(-(((finer - 600.0) / width) ** 2) / 2)[:, None]
    assert not steps_said(find_boundaries("heat_capacity", [table])[1], "K")


def test_narrow_loops_of_a_scan_are_said() -> None:
    def loops(step):
        delta_mu = np.arange(-0.2, 0.2001, step)
        table = regular_solution_table(0.0, [300.0, 400.0, 500.0], delta_mu)
        for branch, edge in (("up", 0.05), ("down", -0.05)):
            x = np.where(delta_mu > edge - 1e-9, 0.9, 0.1)
            table[f"composition_{branch}"] = (("temperature", "delta_mu"), np.tile(x, (3, 1)))
            table[f"composition_{branch}_stderr"] = 0 * table[f"composition_{branch}"]
        return find_boundaries("hysteresis", [table])

    frame, notes = loops(0.1)
    assert len(frame) == 3
    (step,) = steps_said(notes)
    assert step == pytest.approx(0.033, abs=0.002)
    assert not steps_said(loops(step)[1])


def test_small_regions_of_weak_sampling_are_said() -> None:
    table = regular_solution_table(0.0, np.linspace(300.0, 1000.0, 8), np.linspace(-0.1, 0.1, 9))
    ness = np.full((8, 9), 0.5)
    ness[3:4, 4:6] = 0.001
    table["ness"] = (("temperature", "delta_mu"), ness)
    _, notes = find_boundaries("ness_regions", [table], {"smoothing": 0.0})
    assert any("1 regions of at most 2 conditions are too small" in n and "and of 70.7 K would do" in n for n in notes)


def test_two_conditions_are_refused_with_the_step_that_gives_three() -> None:
    table = regular_solution_table(OMEGA, [300.0, 900.0], [-0.05, 0.01, 0.06])
    with pytest.raises(BoundaryError, match=r"at least 3 of each .*: a step of 300 K in temperature would do"):
        find_boundaries("composition_jump", [table])
