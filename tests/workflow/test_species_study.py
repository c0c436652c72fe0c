"""The smallest study of three species through the workflow: what it makes, what it leaves out, what an edit re-runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from config_edits import put
from project import Project, copy_sources

from segalflow.ensemble import read_ensemble

REPORTED = {"compare_species", "plot_comparison", "plot_costs", "plot_species_ensembles", "write_summary"}
SNIS = {"sample_species_snis", "plot_species_ness", *REPORTED}
TRAINING = {"train_species", "plot_training", *SNIS}
SAMPLERS = {"enumerate_species", "sample_species_metropolis", *TRAINING}
FIT = {
    "fit_expansion", "plot_species_expansion", "plot_learning_curve", "build_cell", "choose_species_grid", *SAMPLERS,
}  # fmt: skip


@pytest.fixture(scope="module")
def ternary(repository: Path, tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("ternary")
    copy_sources(repository, folder)
    study = Project(folder, "config/test/ternary.yaml")
    study.snakemake()
    return study


def test_three_species_go_from_structures_to_a_report(ternary) -> None:
    results = ternary.folder / "results" / "ternary"
    tables = {m: read_ensemble(results / "ensemble" / "small" / f"{m}.nc") for m in ("exact", "snis", "metropolis")}
    for table in tables.values():
        assert table["composition"].dims == ("temperature", "delta_mu_1", "delta_mu_2", "species")
        # In the order of the species, whatever the order of the axes in the config.
        assert list(table["exchange"].values) == ["Ag-Cu", "Au-Cu"]
        assert table["composition"].shape == (2, 2, 3, 3)
    assert np.allclose(tables["exact"]["composition"].sum("species"), 1.0)
    rows = pd.read_csv(results / "comparison.csv")
    judged = rows[(rows["method_a"] == "exact") & rows["reliable_b"]]
    assert len(judged) > 60
    assert np.mean(np.abs(judged["z"]) <= 3) > 0.95
    hull = pd.read_csv(results / "expansion" / "main" / "hull.csv")
    assert {"x_Ag", "x_Au"} <= set(hull.columns)
    assert {"Cu", "Ag", "Au"} <= set(hull.loc[hull["source"] == "model", "name"])
    for name in ("hull_main", "composition_maps_small", "isotherms_small", "ness_small", "comparison"):
        assert (results / "figures" / f"{name}.svg").stat().st_size > 1000, name
        assert (results / "figures" / f"{name}.csv").exists(), name
    page = (results / "summary.html").read_text()
    assert "this study has 3 (Cu, Ag, Au), so none are looked for" in page
    assert "2 × 2 × 3" in page
    assert not (results / "phases").exists()
    assert not (results / "free_energy").exists()
    assert not ternary.planned()


EDITS = {
    "SNIS samples": (put("snis", "samples_per_condition", 210), SNIS),
    "training steps": (put("segal", "training", "steps", 31), TRAINING),
    "an axis": (put("grid", "delta_mu", "Au", [-0.1, 0.1, 0.4]), {"choose_species_grid", *SAMPLERS}),
    "sweeps": (put("metropolis", "sweeps", 410), {"sample_species_metropolis", *REPORTED}),
    "what chains of three species do not use": (put("metropolis", "n_blocks", 10), set()),
    "what is kept of two species": (put("snis", "keep_samples", 100), set()),
    "figure setting": (put("figures", "isotherms", 2), {"plot_species_ensembles"}),
    "criteria of boundaries": (put("phases", "alpha_shape", "alpha", 1.5), set()),
    "fit": (put("expansions", "main", "fit", "method", "bayesian_ridge"), FIT),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_key_reruns_exactly_its_rules(ternary, repository, name) -> None:
    change, expected = EDITS[name]
    ternary.config(change)
    try:
        assert set(ternary.planned()) == expected
    finally:
        copy_sources(repository, ternary.folder)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("sampling/species_proposal.py", SAMPLERS - {"train_species", "plot_training"}),
        ("thermo/species_comparison.py", {"compare_species", "plot_comparison", "write_summary"}),
        ("sampling/metropolis.py", set()),
    ],
)
def test_a_module_reruns_exactly_its_users(ternary, repository, module, expected) -> None:
    ternary.append(f"workflow/src/segalflow/{module}", "\n_CHANGED = 1\n")
    try:
        assert set(ternary.planned()) == expected
    finally:
        copy_sources(repository, ternary.folder)
