"""Structures placed on their parent lattice, ingestions, databases, optional engines."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fake_vasp import write_run

from segalflow.artefacts import write_structures
from segalflow.dft.calculation import run_calculation
from segalflow.dft.databases import (
    ingest_database,
    is_fetched,
    keep_fetched,
    locate,
    name_of,
    read_entries,
    total_energy,
)
from segalflow.dft.dataset import build_dataset, read_dataset, read_records
from segalflow.dft.engines import check_engine, create_engine
from segalflow.dft.ingestion import find_runs, ingest_vasp, require_some, run_files, write_records
from segalflow.dft.matching import match_to_lattice
from segalflow.dft.ways import calculations_by, environment_of, way_of
from segalflow.errors import ArtefactError, DatasetError, EngineError, LatticeError, SettingsError
from segalflow.lattice import ParentLattice, parent_lattice
from segalflow.provenance import file_sha256
from segalflow.structures.enumeration import enumerate_pool

FCC = parent_lattice("fcc", 3.85, ["Cu", "Au"])
LIMITS = {"max_strain": 0.1, "max_displacement": 0.6, "max_volume_change": 0.3}
VASP = {
    "preset": "paper",
    "incar": {},
    "kpoints": 64,
    "kpoints_scheme": "gamma",
    "potcar": {},
    "potcar_functional": "PBE_54",
    "structures": {},
    "unchecked": [],
    "max_formation": 2.0,
    "max_pressure": 10.0,
    "energy_range": [-30.0, 0.0],
}


@pytest.fixture(scope="module")
def pool():
    return enumerate_pool(FCC, 5)


def roughened(atoms, rng, strain=0.01, rattle=0.05):
    """The same structure turned, scaled, strained, rattled, moved, shuffled, and in another choice of cell."""
    atoms = atoms.copy()
    atoms.rotate(rng.uniform(0, 360), rng.normal(size=3), rotate_cell=True)
    atoms.set_cell(np.array(atoms.cell) @ (1.1 * np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(size=3) + rattle * rng.normal(size=atoms.positions.shape)
    change = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    atoms.set_cell(change @ np.array(atoms.cell))
    return atoms[rng.permutation(len(atoms))]


def test_rough_structures_find_their_decoration(pool) -> None:
    rng = np.random.default_rng(1)
    for ideal in pool:
        found = match_to_lattice(roughened(ideal, rng), FCC)
        assert found.ideal.info["structure"] == ideal.info["structure"]
        assert found.deformation["max_displacement"] < 0.4
        assert found.ideal.get_chemical_symbols() == found.actual.get_chemical_symbols()


def test_two_sublattices_are_matched() -> None:
    salt = ParentLattice(
        "rocksalt", 4.2 * FCC.cell / 3.85, [[0, 0, 0], [0.5, 0.5, 0.5]], [["Mg", "Ni"], ["O"]], (True,) * 3
    )
    rng = np.random.default_rng(2)
    for ideal in enumerate_pool(salt, 6):
        assert match_to_lattice(roughened(ideal, rng), salt).ideal.info["structure"] == ideal.info["structure"]


def test_what_is_not_on_the_lattice_is_a_sentence(pool) -> None:
    foreign = pool[0].copy()
    foreign.symbols[0] = "Pd"
    with pytest.raises(LatticeError, match="Pd is not among the species"):
        match_to_lattice(foreign, FCC)
    stacked = next(s for s in pool if len(s) == 4).copy()
    stacked.positions[1] = stacked.positions[0] + 0.1
    with pytest.raises(LatticeError, match="one to one"):
        match_to_lattice(stacked, FCC)
    wire = pool[0].copy()
    wire.set_cell(np.diag([1.0, 1.0, 16.0]) @ np.eye(3))
    with pytest.raises(LatticeError, match="near no supercell"):
        match_to_lattice(wire, FCC)


@pytest.mark.reference
def test_published_structures_are_all_different(reference) -> None:
    from ase.io import read

    names = {
        match_to_lattice(a, parent_lattice("fcc", 3.8, ["Cu", "Au"])).ideal.info["structure"]
        for a in read(reference / "cuau" / "cuau_training_41.extxyz", ":")
    }
    assert len(names) == 41


def ingest(folder, pattern="*", **changes):
    runs = find_runs({"folders": str(folder / pattern)})
    return ingest_vasp(runs, FCC, {"vasp": {**VASP, **changes}, **LIMITS})


def test_ingestion_does_not_depend_on_the_layout(pool, tmp_path) -> None:
    for number, structure in enumerate(pool[:6]):
        write_run(tmp_path / "a" / f"{number}", structure)
        write_run(tmp_path / "b" / f"deep{number}" / "relax", structure)
        flat = tmp_path / "c"
        flat.mkdir(exist_ok=True)
        for kind in ("vasprun.xml", "OUTCAR"):
            (flat / f"s{number}_{kind}").write_text((tmp_path / "a" / f"{number}" / kind).read_text())
    (tmp_path / "list.csv").write_text("folder\n" + "\n".join(f"a/{n}" for n in range(6)))
    energies = []
    for runs in (
        {"folders": str(tmp_path / "a" / "*")},
        {"folders": str(tmp_path / "b" / "**")},
        {"folders": str(tmp_path / "c" / "*vasprun*")},
        {"folders": str(tmp_path / "c" / "*")},
        {"manifest": str(tmp_path / "list.csv")},
    ):
        found = ingest_vasp(find_runs(runs), FCC, {"vasp": VASP, **LIMITS})
        assert found.rejects.empty, found.rejects
        assert len(run_files(runs)) == 12 + ("manifest" in runs)
        energies.append({r["structure"]: r["energy"] for r in found.records})
        assert all(len(r["files"]) == 2 for r in found.records)
    assert all(e == energies[0] for e in energies)


def test_a_wrong_source_of_runs_is_a_sentence(tmp_path) -> None:
    with pytest.raises(SettingsError, match="matches no folder"):
        find_runs({"folders": str(tmp_path / "nothing*")})
    with pytest.raises(SettingsError, match="expected either 'folders'"):
        find_runs({})
    (tmp_path / "m.csv").write_text("path\nx\n")
    with pytest.raises(ArtefactError, match="expected column 'folder'"):
        find_runs({"manifest": str(tmp_path / "m.csv")})
    assert run_files({"manifest": str(tmp_path / "m.csv")}) == []


def test_duplicates_odd_potcars_and_absurd_energies_are_rejects(pool, tmp_path) -> None:
    for number, structure in enumerate(pool[:6]):
        write_run(tmp_path / f"{number}", structure)
    write_run(tmp_path / "again", pool[3], energy=-3.6 * len(pool[3]))
    write_run(tmp_path / "absurd", pool[6], energy=-7.0 * len(pool[6]))
    odd = {"Cu": "PAW_PBE Cu 05Jan2001"}
    write_run(tmp_path / "odd", pool[7], titles=odd)
    (tmp_path / "odd" / "OUTCAR").unlink()
    (tmp_path / "none").mkdir()
    found = ingest(tmp_path)
    reasons = {Path(r["file"]).name: (r["status"], r["reason"]) for r in found.rejects.to_dict("records")}
    assert set(reasons) == {"3", "absurd", "odd", "none"}
    assert reasons["3"][0] == "duplicate"
    assert "100.000 meV/atom above it" in reasons["3"][1]
    assert "a formation energy of -3.500 eV/atom" in reasons["absurd"][1]
    assert "the other runs have 'PAW_PBE Cu 22Jun2005'" in reasons["odd"][1]
    assert reasons["none"][0] == "missing"
    assert found.summary["runs"].sum() == 10
    # Rejects leave the dataset, and the fraction counts those that are of no known structure.
    dataset = build_dataset(found.structures, found.records, FCC, 0.5, None, found.rejects)
    assert len(dataset.table) == 6
    assert list(dataset.excluded.columns) == ["structure", "formula", "status", "reason", "file"]
    with pytest.raises(DatasetError, match=r"6 of 9 calculations are usable.*'of no known structure': 1"):
        build_dataset(found.structures, found.records, FCC, 0.9, None, found.rejects)
    # Twice, and in another order, the same bytes.
    write_records(tmp_path / "1.json", found)
    again = ingest_vasp(list(reversed(find_runs({"folders": str(tmp_path / "*")}))), FCC, {"vasp": VASP, **LIMITS})
    write_records(tmp_path / "2.json", again)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert read_records([tmp_path / "1.json"])[0] == found.records


def test_nothing_usable_stops_with_the_reason(tmp_path, pool) -> None:
    write_run(tmp_path / "x", pool[0], settings={"ENCUT": 300.0})
    with pytest.raises(DatasetError, match="none of 1 calculations is usable; most often: settings"):
        require_some(ingest(tmp_path), "runs")


def energy_of(kind, per="atom", unit="eV", key="energy"):
    return {"key": key, "kind": kind, "per": per, "unit": unit}


def dataset_of(found, lattice=FCC):
    return build_dataset(found.structures, found.records, lattice, 0.1, found.end_members, found.rejects)


def test_total_formation_and_mixing_give_the_same_dataset(pool, tmp_path) -> None:
    rng = np.random.default_rng(3)
    pure = {"Cu": -3.7, "Au": -3.2}
    some = pool[:12]
    formation = [0.0 if len(set(a.symbols)) == 1 else float(rng.normal(-0.03, 0.02)) for a in some]
    total = [len(a) * e + sum(pure[s] for s in a.get_chemical_symbols()) for a, e in zip(some, formation, strict=True)]
    results = []
    for kind, per, unit, values in (
        ("total", "cell", "eV", total),
        ("total", "atom", "Ha", [e / len(a) / 27.211386245988 for e, a in zip(total, some, strict=True)]),
        ("formation", "atom", "meV", [1000 * e for e in formation]),
        ("mixing", "cell", "eV", [e * len(a) for e, a in zip(formation, some, strict=True)]),
    ):
        frames = []
        for atoms, value in zip(some, values, strict=True):
            frame = roughened(atoms, rng, 0.0, 0.0)
            frame.info = {"stored": value}
            frames.append(frame)
        path = tmp_path / "data.extxyz"
        write(path, frames)
        database = {"energy": energy_of(kind, per, unit, "stored"), "end_members": {} if kind == "total" else pure}
        found = ingest_database(path, FCC, {"database": database, **LIMITS})
        assert found.rejects.empty
        assert found.records[0]["settings"]["database"]["energy"]["kind"] == kind
        dataset = dataset_of(found)
        results.append(
            dict(zip(dataset.table["structure"], dataset.table["formation_energy_eV_per_atom"], strict=True))
        )
        assert dataset.end_members["Au"] == pytest.approx(pure["Au"])
        write_structures(tmp_path / "dataset.extxyz", dataset.structures)
        assert len(read_dataset(tmp_path / "dataset.extxyz", FCC)) == len(some)
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-9)
    assert total_energy(2.0, pool[0], energy_of("total", "cell", "Ry"), {}) == pytest.approx(27.211386245988)


def test_mixing_energies_need_no_pure_structures_but_deny_impossible_ones(pool, tmp_path) -> None:
    frames = [a.copy() for a in pool[2:6]]
    for frame in frames:
        frame.info = {"energy": -0.05}
    write(tmp_path / "m.extxyz", frames)
    settings = {"database": {"energy": energy_of("mixing")}, **LIMITS}
    dataset = dataset_of(ingest_database(tmp_path / "m.extxyz", FCC, settings))
    assert set(dataset.table["formation_energy_eV_per_atom"].round(12)) == {-0.05}
    impossible = pool[0].copy()
    impossible.info = {"energy": 0.2}
    foreign, far, silent = pool[0].copy(), pool[4].copy(), pool[4].copy()
    foreign.symbols[:] = "Pd"
    far.info, silent.info = {"energy": 9.0}, {}
    write(tmp_path / "m.extxyz", [*frames, impossible, foreign, far, silent])
    found = ingest_database(tmp_path / "m.extxyz", FCC, settings)
    said = " | ".join(found.rejects["reason"])
    for words in ("a mixing energy of 0.200000", "Pd is not among", "formation energy of 9.000", "no finite 'energy'"):
        assert words in said


def test_ase_and_clease_databases(pool, tmp_path) -> None:
    total = {a.info["structure"]: -3.5 * len(a) for a in pool[:6]}
    rng = np.random.default_rng(4)
    plain, clease = tmp_path / "plain.db", tmp_path / "clease.db"
    with connect(str(plain)) as ase_db, connect(str(clease)) as clease_db:
        for number, atoms in enumerate(pool[:6]):
            energy = total[atoms.info["structure"]]
            relaxed = roughened(atoms, rng)
            relaxed.calc = SinglePointCalculator(relaxed, energy=energy)
            ase_db.write(relaxed, used=int(number != 5))
            final = clease_db.write(relaxed, struct_type="final", name=f"s{number}")
            start = roughened(atoms, rng, 0.0, 0.0)
            clease_db.write(
                start, struct_type="initial", name=f"s{number}", converged=number != 4, final_struct_id=final
            )
    block = {"energy": energy_of("total", "cell"), "where": {"used": 1}}
    found = ingest_database(plain, FCC, {"database": block, **LIMITS})
    assert {r["structure"]: r["energy"] for r in found.records} == {
        a.info["structure"]: total[a.info["structure"]] for a in pool[:5]
    }
    found = ingest_database(clease, FCC, {"database": {**block, "where": {}, "format": "clease"}, **LIMITS})
    assert sum(r["status"] == "converged" for r in found.records) == 5
    assert list(found.rejects["status"]) == ["unconverged"]
    with pytest.raises(DatasetError, match="no entry fits"):
        ingest_database(plain, FCC, {"database": {**block, "where": {"used": 7}}, **LIMITS})
    clease.write_bytes(b"SQLite format 3\0" + b"broken" * 50)
    with pytest.raises(ArtefactError, match="not a readable ase-db file"):
        ingest_database(clease, FCC, {"database": block, **LIMITS})


def test_csv_tables_name_structures_in_three_ways(pool, tmp_path) -> None:
    some = pool[:6]
    write(tmp_path / "frames.extxyz", some)
    lines = ["# a comment", "id,number,path,E"]
    for number, atoms in enumerate(some):
        write(tmp_path / f"p{number}.vasp", atoms, format="vasp")
        lines.append(f"{atoms.info['structure']},{number},p{number}.vasp,{-3.5 * len(atoms)}")
    lines.append("ffffffffffff,99,lost.vasp,-1.0")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    by_id = {a.info["structure"]: a for a in pool}
    base = {"energy": energy_of("total", "cell", key="E"), "structures": str(tmp_path / "frames.extxyz")}
    for columns in ({"structure": "id"}, {"frame": "number"}, {"file": "path"}):
        found = ingest_database(path, FCC, {"database": {**base, "columns": columns}, **LIMITS}, by_id)
        assert [r["energy"] for r in found.records] == [-3.5 * len(r["symbols"]) for r in found.records]
        assert len(found.records) == 6
        assert "no structure" in found.rejects["reason"][0]
    with pytest.raises(SettingsError, match=r"database\.columns: expected one of 'file'"):
        read_entries(path, base)
    with pytest.raises(ArtefactError, match="expected column 'nr'"):
        read_entries(path, {**base, "columns": {"frame": "nr"}})


def test_files_are_checked_by_their_checksum(tmp_path) -> None:
    data, kept = tmp_path / "data.csv", tmp_path / "kept" / "data.csv"
    data.write_text("a\n1\n")
    good = file_sha256(data)
    public = {"url": "https://x.invalid/data.csv?raw=1", "sha256": good.upper()}
    assert locate({"path": str(data), "sha256": good}) == data
    assert (is_fetched(public), name_of(public)) == (True, "data.csv")
    keep_fetched(data, public, kept)
    assert kept.read_text() == "a\n1\n"
    assert locate(public, kept) == kept
    # A local file comes first, and without a checksum nothing is fetched.
    for database in ({**public, "path": str(data)}, {"url": public["url"]}, {"path": str(tmp_path / "no")}):
        assert not is_fetched(database)
    assert is_fetched({**public, "path": str(tmp_path / "no")})
    assert locate({**public, "path": str(data)}) == data
    with pytest.raises(ArtefactError, match=r"expected SHA-256 000.*, the file has"):
        keep_fetched(data, {**public, "sha256": "0" * 64}, tmp_path / "other" / "data.csv")
    assert not list((tmp_path / "other").iterdir())  # nothing of it is kept
    for database, fetched, error, words in (
        ({"path": str(data), "sha256": "0" * 64}, None, ArtefactError, "expected SHA-256 000"),
        ({**public, "sha256": "0" * 64}, kept, ArtefactError, "expected SHA-256 000"),
        ({"url": public["url"]}, None, SettingsError, "needs the SHA-256"),
        ({"path": str(tmp_path / "no")}, None, ArtefactError, "does not exist"),
        ({"path": "no", "url": "http://x.invalid/y"}, None, ArtefactError, "fetch it from http://x.invalid/y, or give"),
        ({}, None, SettingsError, "expected 'path'"),
    ):
        with pytest.raises(error, match=words):
            locate(database, fetched)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_a_member_of_an_archive_is_kept_by_its_own_checksum(tmp_path, kind) -> None:
    (tmp_path / "tree" / "data").mkdir(parents=True)
    data = tmp_path / "tree" / "data" / "mine.csv"
    data.write_text("a\n1\n")
    archive = Path(shutil.make_archive(str(tmp_path / "public"), kind, tmp_path / "tree"))
    member = "data/mine.csv" if kind == "zip" else "./data/mine.csv"  # as `make_archive` names it
    database = {"url": "https://x.invalid/public", "member": member, "sha256": file_sha256(data)}
    kept = tmp_path / "d" / name_of(database)
    keep_fetched(archive, database, kept)
    assert (kept.read_text(), kept.name) == ("a\n1\n", "mine.csv")
    # A local file is checked by the same checksum.
    assert locate({**database, "path": str(data)}) == data


def test_an_archive_that_is_none_or_lacks_the_member_is_a_sentence(tmp_path) -> None:
    (tmp_path / "tree" / "data").mkdir(parents=True)
    (tmp_path / "tree" / "data" / "mine.csv").write_text("a\n1\n")
    archive = Path(shutil.make_archive(str(tmp_path / "public"), "gztar", tmp_path / "tree"))
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:60])
    for download, member, words in (
        (archive, "data/other.csv", r"the archive holds no file 'data/other\.csv' \(database\.member\)"),
        (archive, "./data", r"holds no file '\./data'"),
        (archive, "./data/mine.csv", r"expected SHA-256 000.*, its member \./data/mine\.csv has"),
        (tmp_path / "tree" / "data" / "mine.csv", "mine.csv", "expected a zip or tar archive"),
        (cut, "./data/mine.csv", "expected a zip or tar archive"),
    ):
        database = {"url": "https://x.invalid/public", "member": member, "sha256": "0" * 64}
        with pytest.raises(ArtefactError, match=words):
            keep_fetched(download, database, tmp_path / "d" / "mine.csv")
    assert not list((tmp_path / "d").iterdir())


@pytest.mark.reference
def test_the_public_data_become_datasets(reference) -> None:
    silver = parent_lattice("fcc", 4.09, ["Ag", "Pd"])
    block = {"energy": energy_of("mixing", key="mixing_energy_per_atom"), "where": {"used_in_ce": 1}}
    found = ingest_database(reference / "agpd" / "agpd_icet_625.extxyz", silver, {"database": block, **LIMITS})
    assert (len(found.records), len(found.rejects)) == (613, 0)
    dataset = dataset_of(found, silver)
    assert dataset.table["formation_energy_eV_per_atom"].min() == pytest.approx(-0.0614, abs=5e-3)


def test_optional_engines_say_how_to_get_them(pool, monkeypatch) -> None:
    settings = {"parameters": {}, "relax": "full", "fmax": 0.05, "max_steps": 5, **LIMITS}
    for name, module in (("gpaw", "gpaw"), ("chgnet", "chgnet")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, f"{module}.model.dynamics", None)
        # Planning needs no engine: with `--sdm conda` it is in the job's environment only.
        assert check_engine(name, {}, ["Cu", "Au"]) == []
        with pytest.raises(EngineError, match=rf"'{name}' is not installed .*pip install 'segalflow\[{name}\]'"):
            run_calculation(pool[0], FCC, name, settings)
    for name in ("vasp", "database"):
        with pytest.raises(EngineError, match="makes no ASE calculator"):
            create_engine(name, {}).calculator(pool[0])


def test_the_way_follows_from_engine_and_mode() -> None:
    study = {
        "a": {"engine": "emt"},
        "b": {"engine": "vasp", "mode": "run"},
        "c": {"engine": "database"},
        "d": {"engine": "gpaw"},
    }
    assert [way_of(s) for s in study.values()] == ["engine", "run", "database", "engine"]
    assert calculations_by(study, "engine") == "a|d"
    assert calculations_by(study, "write") == "(?!)"
    assert [environment_of(s) for s in study.values()] == ["dft", "vasp", "dft", "gpaw"]
