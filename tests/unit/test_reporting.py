from __future__ import annotations

import numpy as np
import pandas as pd

from segalflow.dft.missing import missing_structures
from segalflow.plotting.dataset import plot_missing
from segalflow.reporting.data import add_found_states, describe_data, describe_expansion
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
    dataset = pd.DataFrame({"structure": ["a", "b"], "x": [0.0, 0.5], "n_atoms": [1, 2]})
    excluded = pd.DataFrame(
        {
            "structure": ["c", None],
            "formula": ["Cu3Au", None],
            "status": ["collapsed", "failed"],
            "reason": ["left its parent lattice: strain 0.3", "unparsable: no energy"],
            "file": ["runs/c", "runs/d"],
        }
    )
    pool = pd.DataFrame({"structure": list("abcd"), "formula": ["Cu", "CuAu", "Cu3Au", "CuAu2"]})
    missing = missing_structures(dataset, excluded, "Au", pool)
    data = describe_data("emt", "emt", ["EMT is <wrong> here"], dataset, missing)
    template = repository / "workflow" / "report" / "summary.html.j2"
    write_summary(tmp_path / "s.html", template, "study", "fcc", ["Cu", "Au"], [data, Section("Empty")])
    page = (tmp_path / "s.html").read_text()
    assert "2 symmetry-distinct structures of up to 2 atoms have energies" in page
    assert "2 calculations or entries are excluded, each a row of missing.csv" in page
    assert "structures of up to 3 atoms, 1 have no run or entry (status &#39;absent&#39;)" in page
    assert "EMT is &lt;wrong&gt; here" in page
    assert "<td>left its parent lattice</td><td>collapsed</td><td>1</td>" in page
    # The table keeps every reason and file, and the compositions as far as they are known.
    assert missing["status"].tolist() == ["absent", "collapsed", "failed"]
    assert missing["file"].tolist() == ["", "runs/c", "runs/d"]
    assert missing["reason"].tolist()[1:] == list(excluded["reason"])
    assert np.allclose(missing["x"], [2 / 3, 0.25, np.nan], equal_nan=True)
    figure, plotted = plot_missing(dataset, missing, "x")
    assert plotted[plotted["panel"] == "reason"]["number"].sum() == 3
    by_composition = plotted[plotted["panel"] == "composition"].groupby("status")["number"].sum()
    assert by_composition.to_dict() == {"absent": 1, "collapsed": 1, "failed": 1, "used": 2}
    assert figure.axes[1].get_xticklabels()[-1].get_text() == "?"  # the failed one has no composition
    complete = missing_structures(dataset, excluded[:0], "Au")
    assert "nothing is missing" in [t.get_text() for t in plot_missing(dataset, complete, "x")[0].axes[0].texts]
    assert describe_data("emt", "emt", [], dataset, complete).tables == []


def test_states_below_the_hull_are_said() -> None:
    states = pd.DataFrame(
        {
            "name": ["Cu", "Cu3Au D0_22", "CuAu L1_0"],
            "n_atoms": [1, 4, 2],
            "x": [0.0, 0.25, 0.5],
            "energy_stderr": [0.0, 0.0021, 0.001],
            "formation_energy": [0.0, -0.0123, -0.03],
            "below_hull": [0.0, 0.0034, 0.0],
            "known": [True, False, True],
            "excluded": ["", np.nan, ""],
            "found_by": ["known", "annealing 4x4x4", "known"],
        }
    )
    section = Section("fit")
    add_found_states(section, states)
    assert "puts 1 state(s) that are not in the data below their hull, the lowest by 3.40" in (section.warnings[0])
    assert "(Cu3Au D0_22, 4 atoms, standard error of its energy 2.1 meV/atom)" in section.warnings[0]
    assert section.tables[0].rows == [["Cu3Au D0_22", "4", "0.250", "-12.30", "3.40", "annealing 4x4x4"]]
    # One that only ties with the hull, or was calculated, is none.
    quiet = Section("fit")
    add_found_states(quiet, states.assign(below_hull=0.0))
    assert (quiet.warnings, quiet.tables) == ([], [])
    assert quiet.sentences == ["The search for ground states found nothing below the hull of the data."]
    # A state whose calculation collapsed is not to be calculated.
    vain = Section("fit")
    add_found_states(vain, states.assign(excluded=["", "collapsed", ""]))
    assert vain.tables == []
    assert "puts Cu3Au D0_22 below the hull of the data, whose own calculation counts as collapsed" in vain.warnings[0]
    assert vain.sentences == ["The search for ground states found nothing else below the hull of the data."]
