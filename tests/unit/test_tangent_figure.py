"""The figure of free energies and tangents: of a model alloy with known tangents, of tables cut short, of nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image
from model_alloys import common_tangent, mean_field_log_weight

from segalflow.phases.boundaries import boundary_table
from segalflow.phases.common_tangent import find_common_tangents
from segalflow.plotting.free_energy import COLUMNS, chosen_temperatures, free_energy_of_mixing, plot_tangents
from segalflow.plotting.style import save_figure
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA, SKEW = 2 * KB * 700, 0.01
TEMPERATURE = np.linspace(400, 1000, 13)
SPECIES = {"species": ["Cu", "Au"], "method": "snis", "cell": "main"}


@pytest.fixture(scope="module")
def free() -> FreeEnergy:
    value = mean_field_log_weight(200, OMEGA, TEMPERATURE, SKEW)
    smooth = np.sin(np.pi * np.arange(201) / 200 * np.arange(1, 5)[:, None])
    noise = np.random.default_rng(0).standard_normal((30, len(TEMPERATURE), 4)) @ smooth
    return FreeEnergy(TEMPERATURE, np.linspace(-0.1, 0.1, 21), value, value + 0.02 * noise, None, None, KB, SPECIES)


@pytest.fixture(scope="module")
def tangents(free):
    return boundary_table(find_common_tangents(free, settings={}).points)


def test_contact_points_are_those_of_the_alloy(free, tangents, tmp_path) -> None:
    figure, data = plot_tangents(free, tangents, 4)
    contacts = data[data["series"] == "contact"]
    # The lowest temperature, the first without a tangent, and two between.
    assert data["temperature"].nunique() == 4
    assert contacts["temperature"].nunique() == 3
    for temperature, ends in contacts.groupby("temperature"):
        left, right, slope = common_tangent(OMEGA, temperature, SKEW)
        assert ends["x"].to_numpy() == pytest.approx([left, right], abs=0.004)
        drawn = np.diff(ends["free_energy"])[0] / np.diff(ends["x"])[0]
        assert drawn == pytest.approx(slope, abs=2e-4)
        curve = data[(data["series"] == "free energy") & (data["temperature"] == temperature)]
        assert curve["above_hull"].min() == pytest.approx(0, abs=1e-15)
        assert curve["above_hull"].max() > 1e-4
    # The last one is the first above all tangents.
    last = data[(data["series"] == "free energy") & (data["temperature"] == data["temperature"].max())]
    two_phase = tangents[tangents["kind"] == "two_phase"]["temperature"]
    assert last["temperature"].iloc[0] == TEMPERATURE[two_phase.max() < TEMPERATURE][0]
    paths = save_figure(figure, data, tmp_path / "tangents")
    assert (image.imread(paths[1])[..., :3] < 0.9).mean() > 0.005


def test_errors_are_those_of_the_replicates_from_their_own_ends(free) -> None:
    mixing, error = free_energy_of_mixing(free)
    assert mixing[:, [0, -1]] == pytest.approx(0)
    assert error[:, [0, -1]] == pytest.approx(0)
    assert np.all(error[:, 1:-1] > 0)
    shifted = replace(free, replicates=free.replicates + np.arange(30)[:, None, None])
    assert free_energy_of_mixing(shifted)[1] == pytest.approx(error, abs=1e-12)


def test_a_window_that_reaches_no_pure_species_is_drawn_from_its_ends(free, tangents) -> None:
    value = free.log_weight.copy()
    value[:, :20] = -np.inf
    value[0] = -np.inf
    cut = replace(free, log_weight=value, replicates=np.where(np.isfinite(value), free.replicates, -np.inf))
    mixing, _ = free_energy_of_mixing(cut)
    assert np.isnan(mixing[:, :20]).all()
    assert mixing[1:, [20, -1]] == pytest.approx(0)
    assert chosen_temperatures(cut, tangents, 3)[0] == 1
    _, data = plot_tangents(cut, tangents[:0])
    assert data["x"].min() == 0.1
    assert data["temperature"].min() == TEMPERATURE[1]


def test_a_refused_free_energy_is_an_empty_figure_that_says_why(free, tangents, tmp_path) -> None:
    nothing = np.full_like(free.log_weight, -np.inf)
    refused = {**SPECIES, "refused": "too few samples"}
    unknown = replace(free, log_weight=nothing, replicates=free.replicates[:0], attributes=refused)
    figure, data = plot_tangents(unknown, tangents[:0])
    assert list(data.columns) == COLUMNS
    assert data.empty
    assert "too few samples" in [text.get_text() for text in figure.axes[0].texts]
    save_figure(figure, data, tmp_path / "empty")
