"""Redlich-Kister fits: of a model alloy with known coefficients, of noisy data, and as pycalphad reads them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from model_alloys import mean_field_log_weight
from pycalphad import Database, calculate
from pycalphad import variables as v

from segalflow.phases.calphad import (
    JOULE_PER_MOL,
    RedlichKister,
    describe_fit,
    fit_redlich_kister,
    solution_points,
    tdb_text,
    write_tdb,
)
from segalflow.reporting.boundaries import describe_solutions
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

TEMPERATURE = np.linspace(400, 900, 6)
OMEGA, SKEW = 0.05, 0.02
PURE = (-0.1, 0.3)
SOURCE = {"cell": "main", "method": "snis"}


def free_energy(noise=0.0, species=("Cu", "Au"), n_sites=64, cut=0, **attributes):
    """A sub-regular solution whose pure elements have energies, with noise of that size (eV/site), smooth in x."""
    x = np.arange(n_sites + 1) / n_sites
    line = n_sites * (PURE[0] * (1 - x) + PURE[1] * x) / (KB * TEMPERATURE[:, None])
    exact = mean_field_log_weight(n_sites, OMEGA, TEMPERATURE, SKEW) - line
    rng = np.random.default_rng(3)
    waves = np.sin(np.pi * x * np.arange(1, 9)[:, None])
    drawn = rng.standard_normal((41, len(TEMPERATURE), 8)) @ waves * n_sites * noise / (KB * TEMPERATURE[:, None])
    value = exact + drawn[0]
    if cut:
        value[:, -cut:] = -np.inf
    return FreeEnergy(
        TEMPERATURE, np.array([0.0]), value, value + drawn[1:], None, None, KB, {"species": list(species), **attributes}
    )


def labels_of(probability):
    """Labels with the given probability of the solid solution at mean compositions 0, 0.1, ... at every temperature."""
    rows = [(t, k / 10, p) for t in TEMPERATURE for k, p in enumerate(probability)]
    table = pd.DataFrame(rows, columns=["temperature", "composition", "probability"])
    return pd.concat([table.assign(phase="Cu3Au L1_2", probability=0.5), table.assign(phase="solid solution")])


DISORDERED = labels_of(np.ones(11))


def test_a_known_solution_is_found_with_its_coefficients() -> None:
    fit = fit_redlich_kister(free_energy(), DISORDERED)
    assert fit.coefficients.ravel() == pytest.approx([OMEGA, -SKEW], abs=1e-9)
    assert fit.statistics["max_misfit"] < 1e-9
    x = np.linspace(0, 1, 11)
    ideal = np.zeros(11)
    ideal[1:-1] = x[1:-1] * np.log(x[1:-1]) + (1 - x[1:-1]) * np.log(1 - x[1:-1])
    expected = (OMEGA + SKEW * (2 * x - 1)) * x * (1 - x) + KB * 700 * ideal
    assert fit.mixing(x, 700) == pytest.approx(expected, abs=1e-9)


def test_noise_is_not_fitted_and_the_errors_cover_the_coefficients() -> None:
    fit = fit_redlich_kister(free_energy(noise=2e-4), DISORDERED)
    assert fit.coefficients.shape == (2, 1)
    assert fit.stderr.min() > 0
    assert (np.abs(fit.coefficients - [[OMEGA], [-SKEW]]) < 4 * fit.stderr).all()
    assert 1e-5 < fit.statistics["rms_misfit"] < 2e-3
    # Eight waves at each of six temperatures are behind the errors of all points.
    assert 4 < fit.statistics["independent_points"] < 48 < fit.statistics["points"] == 63 * 6


def test_a_coarser_accuracy_asks_for_fewer_terms() -> None:
    orders = [len(fit_redlich_kister(free_energy(), DISORDERED, accuracy=a).coefficients) for a in (1e-4, 0.1)]
    assert orders == [2, 1]


def test_compositions_next_to_an_ordered_phase_are_left_out() -> None:
    ordered = labels_of([1, 1, 0.95, 0.3, 0.0, 0.3, 0.9, 1, 1, 1, 1])
    free = free_energy(n_sites=50)
    points = solution_points(free, ordered, 0.9)
    assert (points == points[0]).all()
    assert free.x[~points[0]] == pytest.approx(np.arange(11, 30) / 50)
    fit = fit_redlich_kister(free, ordered)
    assert fit.statistics["left_out"] == 19 * 6
    assert fit.coefficients.ravel() == pytest.approx([OMEGA, -SKEW], abs=1e-9)


@pytest.mark.parametrize("species", [("Cu", "Au"), ("Ag", "Pd")])
def test_pycalphad_computes_what_was_fitted(species, tmp_path) -> None:
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(4, 3)) * [0.1, 1e-4, 1e-5]
    fit = RedlichKister(
        species, coefficients, 0 * coefficients, (400.0, 900.0),
        {"points": 9, "left_out": 1, "max_misfit": 1e-3, "rms_misfit": 5e-4, "rms_stderr": 1e-4, "x": [0.1, 0.9]},
    )  # fmt: skip
    write_tdb(tmp_path / "solution.tdb", fit, "fcc", SOURCE)
    assert max(map(len, (tmp_path / "solution.tdb").read_text().splitlines())) <= 80
    database = Database(str(tmp_path / "solution.tdb"))
    names = sorted(s.upper() for s in species)
    x = np.linspace(0.02, 0.98, 25)
    fractions = {species[0].upper(): 1 - x, species[1].upper(): x}
    temperature = np.array([300.0, 650.0, 1000.0])
    found = calculate(
        database, [*names, "VA"], "FCC_A1", T=temperature, P=101325, N=1, output="GM",
        points=np.stack([fractions[name] for name in names], axis=1),
    ).GM.values.reshape(3, -1)  # fmt: skip
    # With pycalphad's own gas constant, which has five digits.
    expected = fit.mixing(x, temperature[:, None], float(v.R) / JOULE_PER_MOL) * JOULE_PER_MOL
    assert found == pytest.approx(expected, rel=1e-6)
    assert expected.std() > 100


def test_the_misfit_is_stated_in_every_file() -> None:
    fit = fit_redlich_kister(free_energy(noise=2e-4), DISORDERED)
    said = f"max {1000 * fit.statistics['max_misfit']:.3f} meV/atom, rms {1000 * fit.statistics['rms_misfit']:.3f}"
    assert said in tdb_text(fit, "fcc", SOURCE)
    content = describe_fit(fit, SOURCE)
    assert content["rms_misfit"] == fit.statistics["rms_misfit"]
    (section,) = describe_solutions([content])
    assert f"{1000 * fit.statistics['rms_misfit']:.3f}" in section.tables[0].rows[0][4]
    assert not section.warnings
    assert describe_solutions([]) == []


@pytest.mark.parametrize(
    ("free", "labels", "reason"),
    [
        (free_energy(cut=3), DISORDERED, "pure Au was sampled at no temperature"),
        (free_energy(), labels_of(np.zeros(11)), "holds only 0 compositions"),
        (free_energy(refused="too few samples"), DISORDERED, "too few samples"),
    ],
)
def test_what_cannot_be_fitted_is_said_and_no_phase_is_written(free, labels, reason) -> None:
    fit = fit_redlich_kister(free, labels)
    assert reason in fit.refused
    database = Database.from_string(tdb_text(fit, "fcc", SOURCE), fmt="tdb")
    assert not database.phases
    assert {"AU", "CU"} < database.elements
    (section,) = describe_solutions([describe_fit(fit, SOURCE)])
    assert reason in section.warnings[0]
    assert not section.tables
