"""Segments of the map of effective sample sizes."""

from __future__ import annotations

import numpy as np
import pytest
from model_alloys import regular_solution_table

from segalflow.phases.criteria import find_boundaries
from segalflow.phases.ness_regions import segment_map
from segalflow.units import BOLTZMANN_EV_PER_K as KB

TEMPERATURE = np.linspace(300, 1000, 15)
DELTA_MU = np.linspace(-0.12, 0.123, 28)
OMEGA = 2 * KB * 707.0


def table_with(top: float, depth: float, centre: float = 0.0, noise: float = 0.1):
    """A regular solution whose sampler is `depth` times worse below `top` within 0.025 eV of `centre`."""
    table = regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU)
    ness = np.full(table["n_samples"].shape, 0.6)
    low = (TEMPERATURE[:, None] < top) & (np.abs(DELTA_MU - centre) < 0.025)
    ness = np.where(low, ness / depth, ness) * np.exp(noise * np.random.default_rng(0).standard_normal(ness.shape))
    table["ness"] = (("temperature", "delta_mu"), ness)
    return table, low


def test_a_region_has_its_sides_and_its_top() -> None:
    table, low = table_with(680, 40)
    frame, notes = find_boundaries("ness_regions", [table])
    fields = frame[frame["kind"] == "two_phase"]
    assert fields["temperature"].tolist() == TEMPERATURE[TEMPERATURE < 680].tolist()
    columns = np.flatnonzero(low[0])
    step = DELTA_MU[1] - DELTA_MU[0]
    assert fields["delta_mu_low"].to_numpy() == pytest.approx(DELTA_MU[columns[0]] - step / 2)
    assert fields["delta_mu_high"].to_numpy() == pytest.approx(DELTA_MU[columns[-1]] + step / 2)
    x = table["composition"].isel(species=1)
    assert fields["x_left"].to_numpy() == pytest.approx(x[: len(fields), columns[0] - 1].values)
    assert fields["x_right"].to_numpy() == pytest.approx(x[: len(fields), columns[-1] + 1].values)
    (top,) = frame[frame["kind"] == "gap_top"].itertuples()
    assert top.temperature_low == 650
    assert top.temperature_high == 700
    assert not notes


def test_an_even_map_has_no_region() -> None:
    frame, notes = find_boundaries("ness_regions", [table_with(680, 1)[0]])
    assert len(frame) == 0
    assert any("No region inside this window" in sentence for sentence in notes)


def test_what_the_window_cuts_off_is_said() -> None:
    frame, notes = find_boundaries("ness_regions", [table_with(1100, 40)[0]])
    assert set(frame["kind"]) == {"two_phase"}
    assert any("its top is cut off by the window" in sentence for sentence in notes)
    frame, notes = find_boundaries("ness_regions", [table_with(680, 40, centre=0.12)[0]])
    assert len(frame) == 0
    assert any("reaches an end of the delta_mu window" in sentence for sentence in notes)


def test_broken_values_count_as_lowest() -> None:
    ness = np.full((6, 8), 0.5)
    ness[1:3, 2:5] = np.nan
    assert set(segment_map(ness, 0.0).ravel()) == {0}
    ness[4, 6] = 0.01
    found = segment_map(ness, 0.0)
    assert found.max() == 2
    assert (found > 0).sum() == 7
