from __future__ import annotations

import pandas as pd

from segalflow.reporting.data import describe_data, describe_expansion
from segalflow.reporting.page import Section, write_summary

METRICS = {
    "method": "ridge",
    "n_parameters": 3,
    "n_structures": 9,
    "rmse": 0.001,
    "cv": 0.002,
    "cv_kind": "leave-one-out",
    "rmse_near_hull": 0.001,
    "cv_near_hull": 0.002,
    "hull_violations": 1,
}
HULL = pd.DataFrame(
    {
        "source": "model",
        "name": ["Cu", "CuAu L1_0", "Au"],
        "space_group": "x",
        "x": [0, 0.5, 1],
        "formation_energy": [0, -0.01, 0],
    }
)


def predictions(gap: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": ["CuAu L1_0", "CuAu L1_1"],
            "x": 0.5,
            "e_model": [-0.01, -0.01 + gap],
            "e_model_stderr": 0.002,
        }
    )


def test_ground_states_the_expansion_cannot_tell_apart_are_said() -> None:
    unsure = describe_expansion("main", METRICS, HULL, predictions(0.001)).warnings
    assert any("it cannot tell which of them is the ground state" in s for s in unsure)
    sure = describe_expansion("main", METRICS, HULL, predictions(0.01)).warnings
    assert not any("cannot tell" in s for s in sure)
    assert any("1 structure(s) change their place on the hull" in s for s in sure)


def test_faults_and_reasons_reach_the_page(repository, tmp_path) -> None:
    manifest = pd.DataFrame({"n_atoms": [1, 1, 2]})
    excluded = pd.DataFrame({"reason": ["left its parent lattice"]})
    data = describe_data("emt", "emt", ["EMT is <wrong> here"], manifest, excluded)
    template = repository / "workflow" / "report" / "summary.html.j2"
    write_summary(tmp_path / "s.html", template, "study", "fcc", ["Cu", "Au"], [data, Section("Empty")])
    page = (tmp_path / "s.html").read_text()
    assert "3 symmetry-distinct structures" in page
    assert "2 are used, 1 are excluded" in page
    assert "EMT is &lt;wrong&gt; here" in page
    assert "left its parent lattice" in page
