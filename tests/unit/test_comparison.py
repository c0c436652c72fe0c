from __future__ import annotations

import numpy as np
import pytest
from model_alloys import regular_solution_table

from segalflow.errors import ArtefactError, BoundaryError
from segalflow.thermo.comparison import COLUMNS, compare_methods, jump_borders, resolution, summarise_comparison
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 700
TEMPERATURE = np.linspace(300, 1000, 8)
DELTA_MU = np.linspace(-0.12, 0.12, 25)


def table(method, noise=0.0, seed=0, temperature=TEMPERATURE, delta_mu=DELTA_MU, omega=OMEGA):
    return regular_solution_table(omega, temperature, delta_mu, noise, seed, method)


def test_calibrated_errors_give_unit_normal_z_scores():
    a, b = table("metropolis", 0.002, 1), table("snis", 0.003, 2)
    frame = compare_methods({"metropolis": a, "snis": b}, "main")
    assert list(frame.columns) == list(COLUMNS)
    x = frame[(frame["variable"] == "composition") & (frame["value_a"] > 0.02) & (frame["value_a"] < 0.98)]
    assert len(x) > 100
    assert np.allclose(x["difference"], x["value_a"] - x["value_b"])
    # 1/(n N) of both sample sizes is added to the errors.
    assert np.allclose(x["combined_stderr"], np.sqrt(0.002**2 + 0.003**2 + 2 / (1000 * 128) ** 2))
    rms = np.sqrt(np.mean(x["z"] ** 2))
    assert abs(rms - 1) < 4 / np.sqrt(2 * len(x))


def test_a_biased_method_is_caught():
    a, b = table("metropolis", 0.001, 1), table("snis", 0.001, 2, omega=1.05 * OMEGA)
    summary = summarise_comparison(compare_methods({"metropolis": a, "snis": b}, "main"))
    row = summary[(summary["variable"] == "composition") & (summary["selection"] == "away_from_jumps")].iloc[0]
    assert row["rms_z"] > 3
    assert row["fraction_within_3"] < 0.9


def test_common_conditions_only():
    a, b = table("metropolis"), table("exact", temperature=TEMPERATURE[2:5], delta_mu=DELTA_MU[::3])
    frame = compare_methods({"metropolis": a, "exact": b}, "main")
    x = frame[frame["variable"] == "composition"]
    assert len(x) == 3 * 9
    assert set(x["temperature"]) == set(TEMPERATURE[2:5])
    assert np.all(x["difference"] == 0)
    assert np.all(x["z"] == 0)
    with pytest.raises(ArtefactError, match="no common conditions"):
        compare_methods({"a": a, "b": table("b", temperature=TEMPERATURE + 1)}, "main")


def test_conditions_that_border_the_gap_are_marked():
    near = jump_borders(table("exact"))
    below, above = TEMPERATURE < 700, TEMPERATURE > 700  # 700 K is the critical temperature itself
    assert near[below].sum(axis=1).min() >= 2  # both sides of the jump at delta_mu = 0
    assert not near[above].any()
    assert np.abs(DELTA_MU[near.any(axis=0)]).max() <= 0.0101
    frame = compare_methods({"a": table("a"), "b": table("b")}, "main")
    marked = frame[frame["near_jump"]]
    assert set(TEMPERATURE[below]) <= set(marked["temperature"]) <= set(TEMPERATURE[~above])


def test_summary_selections():
    a, b = table("metropolis", 0.002, 1), table("snis", 0.002, 2)
    b["reliable"][:3] = 0.0
    frame = compare_methods({"metropolis": a, "snis": b}, "main")
    summary = summarise_comparison(frame)
    away = summary[(summary["selection"] == "away_from_jumps") & (summary["variable"] == "composition")].iloc[0]
    whole = summary[(summary["selection"] == "all") & (summary["variable"] == "composition")].iloc[0]
    assert whole["n"] == TEMPERATURE.size * DELTA_MU.size
    chosen = frame[(frame["variable"] == "composition") & frame["reliable_b"] & ~frame["near_jump"]]
    assert away["n"] == len(chosen)
    assert away["max_abs_z"] == pytest.approx(np.abs(chosen["z"]).max())
    assert away["median_abs_z"] == pytest.approx(np.abs(chosen["z"]).median())


def test_a_frozen_sample_has_a_resolution_not_an_error_of_zero():
    frozen = table("metropolis")
    expected = 1 / (1000 * 128)
    assert np.allclose(resolution(frozen, "composition"), expected)
    frozen["autocorrelation_time"] = frozen["n_samples"] * 0 + 5.0
    assert np.allclose(resolution(frozen, "composition"), 10 * expected)
    assert not resolution(table("exact"), "composition").any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.attrs.update(energy_unit="J"), "energy unit differs"),
        (lambda t: t.attrs.update(reference={"kind": "raw"}), "reference differs"),
        (lambda t: t.attrs.update(model_sha256="b"), "model sha256 differs"),
        (lambda t: t.coords.update({"species": np.array(["A", "C"], dtype=object)}), "species differ"),
    ],
)
def test_tables_of_different_systems_are_refused(change, sentence):
    a, b = table("metropolis"), table("snis")
    a.attrs["model_sha256"] = b.attrs["model_sha256"] = "a"
    change(b)
    with pytest.raises(BoundaryError, match=sentence):
        compare_methods({"metropolis": a, "snis": b}, "main")


def test_a_reference_as_dictionary_and_as_text_is_the_same():
    a, b = table("metropolis"), table("snis")
    a.attrs["reference"], b.attrs["reference"] = {"kind": "formation", "n": 1}, '{"kind": "formation", "n": 1}'
    assert len(compare_methods({"metropolis": a, "snis": b}, "main"))


def test_one_method_has_nothing_to_compare():
    frame = compare_methods({"snis": table("snis")}, "main")
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 0
    assert len(summarise_comparison(frame)) == 0
