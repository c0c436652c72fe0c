from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import parameters as fitted

from segalflow.artefacts import read_json, write_json, write_structures
from segalflow.dft.calculation import SCHEMA, deformation, run_calculation, scaled_to_elements, volume_change
from segalflow.dft.dataset import build_dataset, read_dataset
from segalflow.dft.engines import EMT_METALS, ENGINES, check_engine, create_engine
from segalflow.errors import ArtefactError, DatasetError, EngineError
from segalflow.lattice import parent_lattice
from segalflow.structures.enumeration import enumerate_pool
from segalflow.structures.pool import space_group, structure_name

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
SETTINGS = {
    "parameters": {},
    "relax": "full",
    "fmax": 0.01,
    "max_steps": 200,
    "max_strain": 0.1,
    "max_displacement": 0.6,
    "max_volume_change": 0.3,
}


class Broken(Calculator):
    """A calculator that always fails, as programs do."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        raise RuntimeError("segmentation\nfault")


class Bain(Calculator):
    """A calculator whose L1_0 runs away to B2, as DFT at low settings does, and converges there."""

    implemented_properties = ("energy", "forces", "stress")
    ideal: Atoms
    squeeze: float = 2**-0.5

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        tetragonal = np.abs(max(np.array(self.ideal.cell), key=np.linalg.norm)).argmax()
        squeeze = np.where(np.arange(3) == tetragonal, self.squeeze, 1) * self.squeeze ** (-1 / 3)
        metric, wanted = (np.array(c) @ np.array(c).T for c in (atoms.cell, self.ideal.cell @ np.diag(squeeze)))
        away, cell = metric - wanted, np.array(atoms.cell)
        stress = 0.2 * cell.T @ away @ cell / atoms.get_volume()
        self.results = {"energy": 0.05 * np.sum(away**2), "forces": np.zeros((len(atoms), 3))}
        self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 2)


@pytest.fixture(scope="module")
def records(pool):
    return [run_calculation(s, FCC, "emt", SETTINGS) for s in pool]


def test_emt_relaxations_converge(records) -> None:
    assert {r["status"] for r in records} == {"converged"}
    copper = records[0]
    # EMT's own lattice constant of copper is 3.6 Angstrom.
    assert abs(np.linalg.det(copper["cell"]) * 4) ** (1 / 3) == pytest.approx(3.60, abs=0.02)
    assert copper["max_force"] < 0.01


def test_formation_energies_refer_to_the_studys_end_members(pool, records) -> None:
    dataset = build_dataset(pool, records, FCC)
    by_name = dict(zip(dataset.table["formula"], dataset.table["formation_energy_eV_per_atom"], strict=True))
    assert by_name["Cu"] == 0.0
    assert by_name["Au"] == 0.0
    l1_0 = dataset.table[dataset.table["n_atoms"] == 2]["formation_energy_eV_per_atom"].min()
    assert l1_0 == pytest.approx(-0.0079, abs=0.0005)


def test_records_and_dataset_survive_their_files(pool, records, tmp_path) -> None:
    write_json(tmp_path / "r.json", records[2], SCHEMA)
    assert read_json(tmp_path / "r.json", SCHEMA)["energy"] == records[2]["energy"]
    dataset = build_dataset(pool, records, FCC)
    write_structures(tmp_path / "dataset.extxyz", dataset.structures)
    again = read_dataset(tmp_path / "dataset.extxyz", FCC)
    assert [s.info["formation_energy"] for s in again] == pytest.approx(
        [s.info["formation_energy"] for s in dataset.structures]
    )
    text = (tmp_path / "dataset.extxyz").read_text()
    energy = f"formation_energy={again[2].info['formation_energy']}"
    assert energy in text
    for spoilt, words in (
        ("2\nbroken\n", "not a readable extended XYZ"),
        (text.replace(energy, "formation_energy=nan"), "expected a finite 'formation_energy'"),
        (text.replace("end_members=", "end_memberz="), "does not name the end members"),
        (text.replace(pool[2].info["structure"], pool[3].info["structure"]), "has the decoration of"),
    ):
        (tmp_path / "dataset.extxyz").write_text(spoilt)
        with pytest.raises(ArtefactError, match=words):
            read_dataset(tmp_path / "dataset.extxyz", FCC)


def test_a_failing_calculator_is_data(pool) -> None:
    settings = {**SETTINGS, "parameters": {"calculator": f"{__name__}.Broken"}}
    record = run_calculation(pool[2], FCC, "ase", settings)
    assert record["status"] == "failed"
    assert record["reason"] == "RuntimeError: segmentation fault"


def test_too_few_steps_is_unconverged(pool) -> None:
    assert run_calculation(pool[2], FCC, "emt", {**SETTINGS, "max_steps": 1})["status"] == "unconverged"


def test_l1_0_relaxed_to_b2_counts_as_collapsed(pool) -> None:
    layered = next(s for s in pool if len(s) == 2)
    squeezed = layered.copy()
    # The Bain path: c/a of the tetragonal axis times 1/sqrt(2) turns fcc into bcc.
    axis = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 2**-0.5]]) * 2 ** (1 / 6)
    squeezed.set_cell(np.array(layered.cell) @ axis, scale_atoms=True)
    change = deformation(layered, squeezed)
    assert change["volume_ratio"] == pytest.approx(1.0)
    assert change["deviatoric_strain"] > SETTINGS["max_strain"]
    record = run_calculation(pool[2], FCC, "emt", {**SETTINGS, "max_strain": 1e-6})
    assert record["status"] == "collapsed"
    assert "left its parent lattice" in record["reason"]
    ordered = next(s for s in enumerate_pool(FCC, 3) if len(s) == 3)
    record = run_calculation(ordered, FCC, "emt", {**SETTINGS, "max_displacement": 1e-3})
    assert record["status"] == "collapsed"
    assert "an atom moved" in record["reason"]


def test_a_relaxation_that_runs_away_is_caught_though_it_converges(pool, monkeypatch) -> None:
    layered = next(s for s in pool if structure_name(s, FCC) == "CuAu L1_0")
    monkeypatch.setattr(Bain, "ideal", layered, raising=False)
    settings = {**SETTINGS, "parameters": {"calculator": f"{Bain.__module__}.Bain"}}
    record = run_calculation(layered, FCC, "ase", settings)
    assert record["max_force"] < SETTINGS["fmax"]
    assert space_group(Atoms(record["symbols"], record["positions"], cell=record["cell"], pbc=True))[0] == "Pm-3m"
    assert (record["status"], "left its parent lattice: strain 0.2" in record["reason"]) == ("collapsed", True)
    # Nor does one pass that was cut short on the way there.
    assert run_calculation(layered, FCC, "ase", {**settings, "max_steps": 1})["status"] == "unconverged"


def test_a_volume_far_from_the_elements_counts_as_collapsed(pool, monkeypatch) -> None:
    layered = next(s for s in pool if structure_name(s, FCC) == "CuAu L1_0")
    settings = {**SETTINGS, "max_strain": 0.2}
    change = volume_change(Atoms("CuAu", cell=np.diag([2.0, 1.0, 3.61**3 / 4 + 4.08**3 / 4]), pbc=True))
    assert change == pytest.approx(1.0)
    assert run_calculation(layered, FCC, "emt", settings)["status"] == "converged"
    swollen = layered.copy()
    swollen.set_cell(1.15 * np.array(scaled_to_elements(layered).cell), scale_atoms=True)
    monkeypatch.setattr(Bain, "ideal", swollen, raising=False)
    settings |= {"parameters": {"calculator": f"{Bain.__module__}.Bain"}}
    reasons = {}
    monkeypatch.setattr(Bain, "squeeze", 1.0)
    for allowed in (0.3, 1.0):
        record = run_calculation(layered, FCC, "ase", {**settings, "max_volume_change": allowed})
        reasons[allowed] = (record["status"], record["reason"])
    assert reasons[0.3] == (
        "collapsed",
        "left its parent lattice: its volume is +52% off the mean of its elements, allowed 30%",
    )
    assert reasons[1.0] == ("converged", "")
    # A cell that was given is nobody's relaxation.
    wide = parent_lattice("fcc", 5.0, ["Cu", "Au"])
    far = enumerate_pool(wide, 2)[2]
    assert run_calculation(far, wide, "emt", {**SETTINGS, "relax": "positions"})["status"] == "converged"


def test_a_reduced_cell_is_the_engines_own_affair(pool, monkeypatch) -> None:
    # Enumerated cells are reduced already, those of proposed structures need not be.
    skewed = pool[2].copy()
    skewed.set_cell(np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ np.array(skewed.cell))
    seen = []

    def reducing(parameters):
        plain = create_engine("emt", {})
        return replace(plain, reduce_cell=True, calculator=lambda a: seen.append(a.copy()) or plain.calculator(a))

    monkeypatch.setitem(ENGINES, "reducing", reducing)
    plain, reduced = (run_calculation(skewed, FCC, name, SETTINGS) for name in ("emt", "reducing"))
    assert (plain["status"], reduced["status"]) == ("converged", "converged")
    assert reduced["energy"] == pytest.approx(plain["energy"], abs=1e-4)
    np.testing.assert_allclose(reduced["cell"], plain["cell"], atol=2e-2)
    assert max(seen[0].cell.lengths()) < 0.5 * max(skewed.cell.lengths())


def test_gpaw_keeps_the_mesh_of_the_first_cell(pool, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gpaw", SimpleNamespace(GPAW=dict))
    made = create_engine("gpaw", {"mode": "lcao"})
    assert made.reduce_cell
    # Density 7 in 1/Angstrom: 2 pi / (a / sqrt 3) * 7 in a primitive fcc cell.
    expected = int(np.ceil(7 * 2 * np.pi * 3**0.5 / 3.85))
    asked = made.calculator(pool[0])
    assert (asked["mode"], asked["xc"], asked["kpts"]) == ("lcao", "PBE", {"size": [expected] * 3, "gamma": True})
    assert create_engine("gpaw", {"kpts": [2, 2, 2]}).calculator(pool[0])["kpts"] == [2, 2, 2]


def test_deformation_ignores_rotation_and_volume(pool) -> None:
    turned = pool[2].copy()
    turned.rotate(33, (1, 2, 3), rotate_cell=True)
    turned.set_cell(turned.cell * 1.05, scale_atoms=True)
    change = deformation(pool[2], turned)
    assert change["deviatoric_strain"] < 1e-12
    assert change["max_displacement"] < 1e-9
    assert change["volume_ratio"] == pytest.approx(1.05**3)


def test_exclusions_are_rows_with_reasons(pool, records) -> None:
    spoilt = [dict(r) for r in records]
    spoilt[2].update(status="unconverged", reason="not converged")
    dataset = build_dataset(pool, spoilt, FCC, minimum_fraction=0.5)
    assert list(dataset.excluded["reason"]) == ["not converged"]
    assert len(dataset.structures) == len(pool) - 1
    with pytest.raises(DatasetError, match=r"3 of 4 calculations are usable.*minimum_fraction = 0\.9"):
        build_dataset(pool, spoilt, FCC)
    with pytest.raises(DatasetError, match="have no calculation"):
        build_dataset(pool, records[1:], FCC)
    spoilt[0].update(status="failed", reason="x")
    with pytest.raises(DatasetError, match="pure element Cu"):
        build_dataset(pool, spoilt, FCC, minimum_fraction=0.1)


def test_engines_refuse_what_they_cannot_do() -> None:
    with pytest.raises(EngineError, match="cannot treat Mg"):
        check_engine("emt", {}, ["Cu", "Mg"])
    with pytest.raises(EngineError, match="wrong sign of mixing"):
        check_engine("emt", {}, ["Pd", "Ag"])
    assert "wrong sign" in check_engine("emt", {}, ["Ag", "Pd"], allow_unphysical=True)[0]
    assert len(check_engine("emt", {}, ["Cu", "Au"])) == 3
    assert set(fitted) - {"H", "C", "N", "O"} == EMT_METALS
    with pytest.raises(EngineError, match="did you mean 'emt'"):
        create_engine("emtt", {})
    with pytest.raises(EngineError, match="cannot be imported"):
        create_engine("ase", {"calculator": "no.such.Thing"})
    with pytest.raises(EngineError, match="import path"):
        create_engine("ase", {})
