"""The benchmark's script with tiny budgets: energies agree, turns, ratios, tables, files."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from segalflow.expansion.basis import build_basis
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.lattice import parent_lattice

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
monte_carlo = pytest.importorskip("monte_carlo")
fresh_process, tables = pytest.importorskip("fresh_process"), pytest.importorskip("tables")

TINY = monte_carlo.Budget(seconds=0.005, rounds=2, chains=256, walkers=4)


@pytest.fixture(scope="module")
def expansion() -> ClusterExpansion:
    """Nearest-neighbour pairs, triplets and quadruplets of fcc with odd and even ECIs."""
    lattice = parent_lattice("fcc", 3.8, ("Cu", "Au"))
    basis = build_basis(lattice, {2: 2.8, 3: 2.8, 4: 2.8})
    values = dict(zip(basis.names, (-0.01, 0.03, 0.02, -0.013, 0.007), strict=True))
    clusters = tuple(dataclasses.replace(c, eci=values[c.name]) for c in basis.clusters)
    return ClusterExpansion(lattice, basis.point_functions, clusters, {"kind": "toy"})


@pytest.fixture(scope="module")
def report(expansion):
    found = monte_carlo.Report(monte_carlo.machine(), dataclasses.asdict(TINY))
    bench = monte_carlo.Bench(TINY, found, ("CLEASE", "icet"))
    case = monte_carlo.Case("tiny", "Tiny, 64 sites", "agpd", (4, 4, 4), tuple(monte_carlo.QUANTITIES))
    bench.run(case, expansion, case.quantities)
    ising = next(c for c in monte_carlo.CASES if c.source is None)
    bench.run(ising, monte_carlo.ising_expansion(), ("single",))
    return found


def test_every_quantity_is_measured_in_turns_and_ratios_are_of_medians(report):
    rows = {(row.case, row.quantity): row for row in report.rows}
    codes = {"grid": {"CLEASE", "icet"}, "single": {"CLEASE", "icet"}, "totals": {"CLEASE", "icet"}}
    codes |= {"metadynamics": {"CLEASE"}, "wang_landau": {"icet"}}
    for quantity, peers in codes.items():
        row = rows["Tiny, 64 sites", quantity]
        assert set(row.ratios) == peers
        assert all(len(values) == TINY.rounds and min(values) > 0 for values in row.runs.values())
        for peer in peers:
            assert row.ratios[peer] == np.median(row.runs["segalflow"]) / np.median(row.runs[peer])
    assert set(rows["Ising 10x10", "single"].ratios) == {"icet", "plain loop"}
    assert "Ising 10x10: CLEASE left out: no square lattice is built for it." in report.notes


def test_tables_say_what_was_asked_for_and_where(report, tmp_path):
    table = monte_carlo.markdown(report)
    assert report.machine["processor"] in table
    assert report.machine["compiled_for"] in table
    assert ">= 10 x CLEASE" in table
    widths = {
        line.count("|") for line in table.splitlines() if line.startswith(("| Tiny, 64 sites | trial", "| system | q"))
    }
    assert len(widths) == 1
    json.dumps(dataclasses.asdict(report))
    readme = tmp_path / "README.md"
    begin, end = tables.MARKERS
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    monte_carlo.write_readme(table, readme)
    content = readme.read_text()
    assert content.startswith("before")
    assert content.endswith("after\n")
    assert table in content
    assert "old" not in content
    readme.write_text("nothing")
    with pytest.raises(SystemExit, match="does not hold the lines"):
        monte_carlo.write_readme(table, readme)


def test_rows_not_run_again_are_kept_and_named(report):
    earlier = json.loads(json.dumps(dataclasses.asdict(report)))
    earlier["machine"]["date"] = "2001-01-01"
    row = dataclasses.replace(report.rows[0], runs={"segalflow": [4.0, 6.0], "CLEASE": [1.0]})
    both = tables.with_earlier(dataclasses.replace(report, rows=[row], setup=[]), earlier)
    assert [(r.case, r.quantity) for r in both.rows] == [(r.case, r.quantity) for r in report.rows]
    assert both.rows[0].ratios == {"CLEASE": 5.0}
    assert both.rows[1].ratios == report.rows[1].ratios
    assert both.setup == report.setup
    assert "New in this run: Tiny, 64 sites: trial flips/s, grid. The other rows are of 2001-01-01" in both.notes[0]
    assert both.notes[0] in tables.markdown(both)


def test_peers_with_another_energy_are_refused(expansion):
    class Wrong:
        def on_cell(self, *_):
            return monte_carlo.OnCell(lambda occupations: 1e3, {})

    bench = monte_carlo.Bench(TINY, monte_carlo.Report(monte_carlo.machine(), {}), ())
    bench._prepared[id(expansion)] = {"wrong": Wrong()}
    with pytest.raises(SystemExit, match="energies of wrong and segalflow differ"):
        bench.run(monte_carlo.CASES[0], expansion, ("single",))


def test_start_up_is_measured(expansion, tmp_path):
    expansion.write(tmp_path / "model.json")
    found = fresh_process.start_up(tmp_path / "model.json", (4, 4, 4), 256)
    assert found["n_sites"] == 64
    assert found["setup_s"] > 0


def test_missing_files_and_markers_are_told(tmp_path, capsys):
    monte_carlo.main(["--reference", str(tmp_path), "--cases", "agpd-125", "--quick"])
    assert "Ag-Pd, 125 sites left out: no file" in capsys.readouterr().out
    assert all(marker in (monte_carlo.HERE / "README.md").read_text() for marker in tables.MARKERS)
