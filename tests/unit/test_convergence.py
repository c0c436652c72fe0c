"""Convergence studies: any setting of any engine, energies against it, a recommended value."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fake_vasp import write_run

from segalflow.artefacts import read_table, write_table
from segalflow.dft.convergence import (
    convergence_table,
    find_structures,
    plan_points,
    recommend,
    require_points,
    value_text,
    with_value,
)
from segalflow.dft.convergence_runs import RUNNERS, judge_points, write_point_inputs
from segalflow.errors import DatasetError, SettingsError
from segalflow.lattice import parent_lattice
from segalflow.plotting.convergence import plot_convergence
from segalflow.reporting.convergence import describe_convergence
from segalflow.settings import with_defaults
from segalflow.structures.enumeration import enumerate_pool
from segalflow.study import prepare_study

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
CUTOFFS, MESHES = [300, 400, 500, 600, 700, 800], [2.0, 4.0, 6.0, 8.0, 10.0]


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 4)


def study(repository, calculation):
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    return with_defaults({"calculations": {"c": calculation}}, schema)["calculations"]["c"]


@pytest.fixture
def settings(repository):
    return study(
        repository,
        {
            "engine": "ase",
            "parameters": {"calculator": "plane_waves.PlaneWaves", "cutoff": 400, "mesh": 8.0},
            "convergence": {
                "structures": ["CuAu L1_0", "Cu3Au L1_2"],
                "scan": {"parameters.cutoff": CUTOFFS, "parameters.mesh": MESHES},
            },
        },
    )


def run(settings, pool):
    points = plan_points(settings, FCC.elements)
    found = find_structures(pool, [p.label for p in points], FCC)
    records = {p.name: RUNNERS["engine"](found[p.label][0], FCC, p.settings, Path()) for p in points}
    names = {label: name for label, (_, name) in found.items()}
    return convergence_table(points, records, names, FCC.elements, settings["convergence"]["scan"]), points


def test_a_study_of_any_engine(settings, pool, tmp_path) -> None:
    table, points = run(settings, pool)
    # Four structures; the scans meet in the calculation's own settings, which are calculated once.
    assert len(points) == 4 * (len(CUTOFFS) + len(MESHES) - 1)
    assert len(table) == 4 * (len(CUTOFFS) + len(MESHES))
    at = table[(table["parameter"] == "parameters.mesh") & (table["name"] == "CuAu L1_0")]
    assert at["value"].tolist() == MESHES
    assert at["formation_energy"].to_numpy() == pytest.approx(0.25 * (-0.2 + 0.5 * np.exp(-np.array(MESHES))))
    assert at["formation_energy_change"].iloc[-1] == 0.0
    assert table.loc[table["name"].isin(["Cu", "Au"]), "formation_energy"].isna().all()
    scan = settings["convergence"]["scan"]
    cutoff, mesh = recommend(table, scan, 0.001, settings)
    # The error of the cut-off is every atom's: it cancels in formation energies, and total energies show it.
    assert (cutoff["recommended"], cutoff["recommended_energy"]) == (300, 700)
    assert 2 * np.exp(-600 / 80) > 0.001 > 2 * np.exp(-700 / 80)
    # That of the mesh does not: 0.25 x 0.5 exp(-4) is 2.3 meV, exp(-6) 0.3 meV.
    assert (mesh["recommended"], mesh["used"], mesh["missing"]) == (6.0, 8.0, 0)
    assert mesh["used_change"] == pytest.approx(0.125 * (np.exp(-8) - np.exp(-10)))
    assert recommend(table, scan, 0.1, settings)[1]["recommended"] == 2.0
    assert recommend(table, scan, 1e-5, settings)[1]["recommended"] is None  # only the last, which proves nothing
    write_table(tmp_path / "t.csv", table)
    figure, data = plot_convergence(read_table(tmp_path / "t.csv"), [cutoff, mesh])
    assert len(figure.axes) == 4
    assert data["energy_change_meV"].to_numpy() == pytest.approx(1000 * table["energy_change"].to_numpy())
    page = describe_convergence("c", [cutoff, mesh])
    assert page.tables[0].rows[1][2:] == ["6", "6", "8", "0.04"]
    assert not page.warnings


def test_a_coarse_setting_and_a_failed_point_are_said(settings, pool) -> None:
    settings["parameters"]["mesh"] = 2.0
    settings["convergence"]["scan"] = {"parameters.mesh": [0.5, 2.0, 4.0, 6.0, 8.0]}
    table, _ = run(settings, pool)
    failed = table[table["value"] == 0.5]
    assert failed["energy"].isna().all()
    assert set(failed["reason"]) == {"RuntimeError: the mesh has no points"}
    (found,) = recommend(table, settings["convergence"]["scan"], 0.001, settings)
    assert (found["recommended"], found["missing"]) == (6.0, 4)
    warnings = describe_convergence("c", [found]).warnings
    assert warnings[0] == "parameters.mesh: 4 calculation(s) of the study have no energy."
    assert "with 2, the value of this calculation, a formation energy is still 16.87 meV/atom off; 6 is" in warnings[1]
    # A point without an energy further on: nothing before it can be called converged.
    settings["convergence"]["scan"] = {"parameters.mesh": [4.0, 6.0, 8.0, 0.5, 10.0]}
    (found,) = recommend(run(settings, pool)[0], settings["convergence"]["scan"], 0.001, settings)
    assert found["recommended"] is None
    assert "do not settle to 1 meV/atom" in describe_convergence("c", [found]).warnings[-1]
    settings["convergence"]["scan"] = {"parameters.mesh": [0.1, 0.5]}
    with pytest.raises(DatasetError, match=r"study: none of 8 calculations has an energy; first: RuntimeError"):
        require_points(run(settings, pool)[0], "study")


def test_points_depend_on_nothing_but_themselves(settings) -> None:
    before = {p.name for p in plan_points(settings, FCC.elements)}
    settings["convergence"]["scan"]["parameters.cutoff"] = [250, *CUTOFFS]
    settings["convergence"]["tolerance"] = 0.5
    settings["minimum_fraction"] = 0.1
    after = {p.name for p in plan_points(settings, FCC.elements)}
    assert before < after
    assert len(after - before) == 4
    json.dumps([p.settings for p in plan_points(settings, FCC.elements)])


def test_vasp_inputs_are_written_and_taken_in(repository, pool, tmp_path) -> None:
    settings = study(
        repository,
        {
            "engine": "vasp",
            "mode": "write",
            "vasp": {"structures": {"x": {"kpoints": 9}}},
            "convergence": {
                "structures": ["CuAu L1_0"],
                "scan": {"vasp.kpoints": [64, 200, 400], "vasp.incar.ENCUT": [400, 520, 600]},
            },
        },
    )
    points = plan_points(settings, FCC.elements)
    assert len(points) == 3 * 5  # 520 eV at density 64 is the calculation itself
    manifest = tmp_path / "convergence" / "inputs.csv"
    table, in_place = write_point_inputs(points, pool, FCC, tmp_path / "work", manifest)
    assert (len(table), in_place) == (15, 0)
    folders = {row.point: (manifest.parent / row.folder).resolve() for row in table.itertuples()}
    assert len(set(folders.values())) == 15
    by_scan = {s: p for p in points if p.label == "CuAu L1_0" for s in p.scanned}
    incar = (folders[by_scan["vasp.incar.ENCUT", 0].name] / "INCAR").read_text()
    assert "ENCUT = 400\n" in incar
    assert "NSW = 0\n" in incar  # static, at the volume of the elements
    meshes = [(folders[by_scan["vasp.kpoints", k].name] / "KPOINTS").read_text().splitlines()[3] for k in range(3)]
    assert [np.prod([int(n) for n in m.split()]) for m in meshes] == sorted({int(np.prod([int(n) for n in m.split()]))
                                                                            for m in meshes})  # fmt: skip
    found = find_structures(pool, ["Cu", "Au", "CuAu L1_0"], FCC)
    names, scan = {label: label for label in found}, settings["convergence"]["scan"]
    nothing = convergence_table(points, judge_points(points, pool, FCC, folders), names, FCC.elements, scan)
    with pytest.raises(DatasetError, match="none of 18 calculations has an energy; first: no output"):
        require_points(nothing, "study")
    for point in points:
        structure, _ = found[point.label]
        mesh = tuple(int(n) for n in (folders[point.name] / "KPOINTS").read_text().splitlines()[3].split())
        cutoff = float(point.settings["vasp"]["incar"].get("ENCUT", 520))
        energy = len(structure) * (-3.5 - 10.0 / cutoff - (0.05 if len(structure) == 2 else 0.0) - 0.2 / np.prod(mesh))
        static = {"NSW": 0, "IBRION": -1, "ENCUT": cutoff}
        write_run(folders[point.name], structure, settings=static, mesh=mesh, energy=energy, ionic_steps=1)
    table = convergence_table(points, judge_points(points, pool, FCC, folders), names, FCC.elements, scan)
    assert set(table["status"]) == {"converged"}
    said = recommend(table, scan, 0.001, settings)
    assert [f["used"] for f in said] == [64, 520]
    assert [f["recommended"] for f in said] == [64, 400]
    assert said[1]["recommended_energy"] is None  # 10 eV/ENCUT still changes by 2.6 meV from 520 to 600 eV
    # A run with another cut-off than asked for is no point of the study.
    spoilt = by_scan["vasp.incar.ENCUT", 2]
    write_run(folders[spoilt.name], found[spoilt.label][0], settings={**static, "ENCUT": 400.0})
    judged = judge_points(points, pool, FCC, folders)
    assert (judged[spoilt.name]["status"], "ENCUT" in judged[spoilt.name]["reason"]) == ("mismatch", True)


def test_mistakes_are_one_sentence(repository, settings, pool) -> None:
    with pytest.raises(SettingsError, match=r"convergence.scan: 'parameters.mode.ecut' is no setting"):
        with_value(settings, "parameters.mode.ecut", 500)
    with pytest.raises(SettingsError, match=r"'cutoff' is no setting of the calculation \(it has allow_unphysical"):
        with_value(settings, "cutoff", 500)
    with pytest.raises(SettingsError, match=r"'CuAu L1O' is that of 0 in the pool .did you mean 'CuAu L1_"):
        find_structures(pool, ["Cu", "CuAu L1O"], FCC)
    assert value_text([6, 6, 6]) == "6 6 6"
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    config = yaml.safe_load((repository / "config" / "test" / "tiny.yaml").read_text())
    config["calculations"]["emt"]["convergence"] = {"structures": ["Cu"], "scan": {"vasp.kpoints": [1, 2]}}
    with pytest.raises(SettingsError, match=r"^calculations\.emt: convergence\.scan: 'vasp\.kpoints' is no setting"):
        prepare_study(config, schema)
    config["calculations"]["emt"] = {
        "engine": "database",
        "database": {"path": "x.db", "energy": {"kind": "total"}},
        "convergence": {"structures": ["Cu"], "scan": {"fmax": [1, 2]}},
    }
    with pytest.raises(SettingsError, match="energies from a database have no settings to scan"):
        prepare_study(config, schema)
