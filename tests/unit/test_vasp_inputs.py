"""VASP inputs against golden files, POTCARs without a licence, jobs with a stand-in for VASP."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.io import read

from segalflow.dft.gate import CHECKS
from segalflow.dft.matching import match_to_lattice
from segalflow.dft.vasp_inputs import (
    assemble_potcar,
    incar_of,
    instructions,
    request_of,
    starting_cell,
    vasp_inputs,
    write_inputs,
)
from segalflow.dft.vasp_run import run_vasp, write_all_inputs
from segalflow.errors import EngineError, SettingsError
from segalflow.lattice import parent_lattice
from segalflow.settings import with_defaults
from segalflow.structures.enumeration import enumerate_pool

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "data" / "vasp_inputs"


@pytest.fixture(scope="module")
def vasp(repository):
    """The block ``vasp`` with its defaults."""
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    block = schema["properties"]["calculations"]["additionalProperties"]["properties"]["vasp"]
    return with_defaults({}, block, schema)


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 4)


@pytest.fixture(autouse=True)
def no_licence(monkeypatch) -> None:
    from pymatgen.core import SETTINGS

    for variable in ("PMG_VASP_PSP_DIR", "VASP_PP_PATH"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delitem(SETTINGS, variable, raising=False)


def cubic(pool):
    return next(
        s
        for s in pool
        if s.get_chemical_formula() == "AuCu3" and np.ptp(s.cell.lengths()) < 0.01 and np.allclose(s.cell.angles(), 90)
    )


CASES = {
    "L1_2": (cubic, {}),
    "L1_0": (lambda pool: next(s for s in pool if len(s) == 2), {}),
    "Au": (lambda pool: next(s for s in pool if s.get_chemical_formula() == "Au"), {}),
    "overrides": (
        cubic,
        {
            "incar": {"ENCUT": 600, "IVDW": None, "MAGMOM": [0.0, 0.5], "lcharg": True},
            "kpoints": 200,
            "kpoints_scheme": "monkhorst",
            "potcar": {"Cu": "Cu_pv"},
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_the_golden_files(name, pool, vasp) -> None:
    """SEGALFLOW_WRITE_GOLDEN=1 writes them anew: look at the difference before it is committed."""
    choose, changes = CASES[name]
    made = vasp_inputs(choose(pool), FCC.elements, {**vasp, **changes})
    if os.environ.get("SEGALFLOW_WRITE_GOLDEN"):
        (GOLDEN / name).mkdir(parents=True, exist_ok=True)
        for file, text in made.files.items():
            (GOLDEN / name / file).write_text(text)
    assert set(made.files) == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
    for file, text in made.files.items():
        assert text == (GOLDEN / name / file).read_text(), file


def test_the_preset_is_the_papers(vasp) -> None:
    tags = incar_of(vasp)
    expected = {"GGA": "PE", "IVDW": 11, "ENCUT": 520, "EDIFF": 1e-6, "EDIFFG": -0.01, "ISIF": 3, "IBRION": 2}
    assert {tag: tags[tag] for tag in expected} == expected
    assert vasp["kpoints"] == 64


def test_a_structure_can_have_settings_of_its_own(pool, vasp) -> None:
    one, other = pool[0], pool[1]
    own = {**vasp, "structures": {one.info["structure"]: {"incar": {"ENCUT": 700}, "kpoints": 500}}}
    assert "ENCUT = 700" in vasp_inputs(one, FCC.elements, own).files["INCAR"]
    assert "ENCUT = 520" in vasp_inputs(other, FCC.elements, own).files["INCAR"]
    assert vasp_inputs(one, FCC.elements, own).fingerprint != vasp_inputs(one, FCC.elements, vasp).fingerprint
    assert request_of(own, one.info["structure"]).density == 500


@pytest.mark.parametrize("number", range(0, 29, 3))
def test_poscar_is_the_structure(number, pool, vasp, tmp_path) -> None:
    made = vasp_inputs(pool[number], FCC.elements, vasp)
    (tmp_path / "POSCAR").write_text(made.files["POSCAR"])
    again = read(tmp_path / "POSCAR", format="vasp")
    assert match_to_lattice(again, FCC).ideal.info["structure"] == pool[number].info["structure"]
    assert np.linalg.det(again.cell) > 0
    assert made.files["POTCAR.spec"].split() == list(dict.fromkeys(again.get_chemical_symbols()))
    held = starting_cell(pool[number], FCC.elements, scale=False)
    assert held.get_volume() == pytest.approx(pool[number].get_volume())


def test_mistakes_are_sentences(vasp) -> None:
    with pytest.raises(SettingsError, match=r"unknown check 'KPOINT'.*did you mean 'KPOINTS'"):
        request_of({**vasp, "unchecked": ["KPOINT"]})
    with pytest.raises(SettingsError, match=r"vasp\.potcar_functional"):
        request_of({**vasp, "potcar_functional": "SCAN_1"})
    with pytest.raises(SettingsError, match="unknown preset"):
        incar_of({**vasp, "preset": "mine"})
    assert request_of({**vasp, "unchecked": list(CHECKS)}).unchecked == set(CHECKS)


def test_without_a_licence_it_says_what_to_set(pool, vasp, tmp_path) -> None:
    with pytest.raises(EngineError, match="set PMG_VASP_PSP_DIR"):
        assemble_potcar(["Cu"], "PBE_54")
    made = vasp_inputs(pool[0], FCC.elements, vasp)
    assert not write_inputs(tmp_path / "x", made, "PBE_54")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"]
    settings = {
        "vasp": {**vasp, "command": "true"},
        "max_strain": 0.1,
        "max_displacement": 0.6,
        "max_volume_change": 0.3,
    }
    with pytest.raises(EngineError, match=r"no licensed POTCAR library.*mode: write"):
        run_vasp(pool[0], FCC, settings, tmp_path)


def test_a_library_that_lacks_a_potcar_is_a_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(tmp_path))
    with pytest.raises(EngineError, match="has no Cu_pv of family PBE_54"):
        assemble_potcar(["Cu_pv"], "PBE_54")


def test_a_continued_runs_poscar_survives_a_second_writing(pool, vasp, tmp_path) -> None:
    table, ready = write_all_inputs(pool[:3], FCC, vasp, tmp_path / "work", tmp_path / "results" / "inputs.csv")
    assert ready == 0
    folder = (tmp_path / "results" / table["folder"][0]).resolve()
    (folder / "POSCAR").write_text("continued")
    write_all_inputs(pool[:3], FCC, vasp, tmp_path / "work", tmp_path / "results" / "inputs.csv")
    assert (folder / "POSCAR").read_text() == "continued"
    assert "put the PBE_54 POTCARs" in instructions("s", "c", "inputs.csv", 3, "PBE_54", 0)
    assert "assembled from this site's library" in instructions("s", "c", "inputs.csv", 3, "PBE_54", 3)


@pytest.mark.parametrize(
    ("manner", "attempts", "status", "kept"),
    [
        ("converged", 3, "converged", 0),
        ("then-converged", 3, "converged", 1),
        ("unconverged", 2, "unconverged", 1),
        ("killed", 2, "failed", 1),
    ],
)
def test_a_job_restarts_from_contcar_until_it_converges(manner, attempts, status, kept, pool, vasp, tmp_path) -> None:
    command = f"{sys.executable} {TESTS / 'fake_vasp.py'} {manner}"
    block = {**vasp, "command": command, "attempts": attempts}
    structure = cubic(pool)
    folder = tmp_path / f"{structure.info['structure']}-{vasp_inputs(structure, FCC.elements, block).fingerprint}"
    folder.mkdir()
    (folder / "POTCAR").write_text("licensed")
    settings = {"vasp": block, "max_strain": 0.1, "max_displacement": 0.6, "max_volume_change": 0.3}
    record = run_vasp(structure, FCC, settings, tmp_path)
    assert record["status"] == status, record["reason"]
    assert len(list(folder.glob("attempt_*"))) == kept
    if status == "converged":
        # A second job finds the finished run and starts nothing.
        before = (folder / "vasp.log").stat().st_mtime_ns
        assert run_vasp(structure, FCC, settings, tmp_path) == record
        assert (folder / "vasp.log").stat().st_mtime_ns == before
        assert record["energy"] == pytest.approx(record["energy_per_atom"] * 4)
    if kept:
        assert (folder / "attempt_1" / "POSCAR").read_text() == vasp_inputs(structure, FCC.elements, block).files[
            "POSCAR"
        ]
        assert (folder / "POSCAR").read_text() != (folder / "attempt_1" / "POSCAR").read_text()


def test_a_command_that_is_not_there_is_a_sentence(pool, vasp, tmp_path) -> None:
    block = {**vasp, "command": "no_such_vasp_std"}
    inputs = vasp_inputs(pool[0], FCC.elements, block)
    folder = tmp_path / f"{inputs.structure}-{inputs.fingerprint}"
    folder.mkdir()
    (folder / "POTCAR").write_text("licensed")
    with pytest.raises(EngineError, match="'no_such_vasp_std' does not exist"):
        run_vasp(
            pool[0],
            FCC,
            {"vasp": block, "max_strain": 0.1, "max_displacement": 0.6, "max_volume_change": 0.3},
            tmp_path,
        )
