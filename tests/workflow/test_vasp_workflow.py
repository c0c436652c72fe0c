"""Studies with energies from VASP runs, written inputs or a database, through the rules to the dataset."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml
from ase.io import write

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fake_vasp import write_run
from project import Project, copy_sources

from segalflow.dft.vasp_inputs import vasp_inputs
from segalflow.errors import SettingsError
from segalflow.lattice import parent_lattice
from segalflow.provenance import file_sha256
from segalflow.structures.enumeration import enumerate_pool
from segalflow.study import prepare_study

pytestmark = pytest.mark.slow
FAKE = Path(__file__).resolve().parents[1] / "fake_vasp.py"
POOL = enumerate_pool(parent_lattice("fcc", 3.85, ["Cu", "Au"]), 3)


@pytest.fixture(scope="module")
def sources(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    copy_sources(repository, folder)
    return folder


def study_of(folder: Path, name: str, calculation: dict, lattice=None, structures=None) -> dict:
    config = yaml.safe_load((folder / "config" / "test" / "tiny.yaml").read_text())
    config.update(study=name, calculations={"emt": {"minimum_fraction": 0.5, **calculation}})
    config["lattice"] = lattice or config["lattice"]
    config["structures"] = structures or {"max_atoms": 3}
    return config


def snakemake(
    folder: Path, name: str, calculation: dict, *arguments: str, as_typed: bool = False, **study
) -> subprocess.CompletedProcess:
    config = study_of(folder, name, calculation, **study)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    project = Project(folder)
    run = project.command if as_typed else partial(project.snakemake, check=False)
    return run("--configfile", str(path), *arguments)


def table(folder: Path, study: str, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / study / "dft" / "emt" / name)


def test_finished_runs_are_ingested_and_twice_changes_nothing(sources) -> None:
    for number, structure in enumerate(POOL):
        write_run(sources / "runs" / f"by-hand-{number}", structure)
    (sources / "runs" / "by-hand-4" / "vasprun.xml").write_text("")
    settings = {"engine": "vasp", "mode": "ingest", "vasp": {}, "runs": {"folders": "runs/*"}}
    done = snakemake(sources, "ingest", settings, "energies")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(table(sources, "ingest", "dataset.csv")) == len(POOL) - 1
    rejects = table(sources, "ingest", "excluded.csv")
    assert list(rejects["file"]) == ["runs/by-hand-4"]
    assert "empty" in rejects["reason"][0]
    assert list(table(sources, "ingest", "ingestion.csv")["runs"]) == [len(POOL) - 1, 1]
    records = sources / "results" / "ingest" / "dft" / "emt" / "records.json"
    before = records.read_bytes()
    assert "Nothing to be done" in "".join(_said(snakemake(sources, "ingest", settings, "energies")))
    snakemake(sources, "ingest", settings, "energies", "--forcerun", "ingest_vasp")
    assert records.read_bytes() == before
    # A run that is repaired is taken in by the next start, and nothing else runs but what follows from it.
    write_run(sources / "runs" / "by-hand-4", POOL[4])
    plan = "".join(_said(snakemake(sources, "ingest", settings, "energies", "--dry-run")))
    assert "ingest_vasp" in plan
    assert "enumerate_structures" not in plan
    # The whole study plans with such a calculation.
    assert snakemake(sources, "ingest", settings, "--dry-run").returncode == 0


def _said(done: subprocess.CompletedProcess) -> tuple[str, str]:
    return done.stdout, done.stderr


def test_inputs_are_written_and_taken_in_when_they_have_run(sources) -> None:
    settings = {"engine": "vasp", "mode": "write", "vasp": {"kpoints": 64}}
    done = snakemake(sources, "write", settings, "energies")
    said = "".join(_said(done))
    assert done.returncode != 0
    assert f"VASP inputs of {len(POOL)} structures are written, see results/write/dft/emt/INSTRUCTIONS.txt" in said
    assert "Traceback" not in said
    written = table(sources, "write", "inputs.csv")
    base = sources / "results" / "write" / "dft" / "emt"
    folders = [(base / f).resolve() for f in written["folder"]]
    assert {p.name for p in folders[0].iterdir()} >= {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
    for folder in folders[:-1]:
        subprocess.run([sys.executable, str(FAKE)], cwd=folder, check=True)
    subprocess.run([sys.executable, str(FAKE), "killed"], cwd=folders[-1], check=False)
    done = snakemake(sources, "write", settings, "energies")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(table(sources, "write", "dataset.csv")) == len(POOL) - 1
    assert "cut short" in table(sources, "write", "excluded.csv")["reason"][0]


def test_jobs_without_a_licence_stop_with_a_sentence(sources) -> None:
    settings = {"engine": "vasp", "mode": "run", "vasp": {"command": "srun vasp_std"}}
    done = snakemake(sources, "run", settings, "energies")
    said = "".join(_said(done))
    assert done.returncode != 0
    assert "rule run_vasp" in said
    assert "no licensed POTCAR library is configured on this machine; set PMG_VASP_PSP_DIR" in said
    assert "Traceback" not in said


def test_jobs_run_vasp_restart_it_and_pass_the_gate(sources) -> None:
    """Every run stops unconverged once and goes on from its CONTCAR in the same job; one never ends well: data too."""
    few = {"max_atoms": 2, "only": ["CuAu L1_0"]}
    settings = {"engine": "vasp", "mode": "run", "vasp": {"attempts": 2}}
    settings["vasp"]["command"] = f'{sys.executable} {FAKE} "$(cat MANNER)"'
    schema = yaml.safe_load((sources / "workflow" / "schemas" / "config.schema.yaml").read_text())
    full = prepare_study(study_of(sources, "jobs", settings, structures=few), schema)["calculations"]["emt"]["vasp"]
    work = sources / "work" / "jobs" / "vasp" / "emt"
    pool, folders = enumerate_pool(parent_lattice("fcc", 3.85, ["Cu", "Au"]), **few), []
    for structure in pool:
        inputs = vasp_inputs(structure, ["Cu", "Au"], full)
        folders.append(work / f"{inputs.structure}-{inputs.fingerprint}")
        folders[-1].mkdir(parents=True)
        (folders[-1] / "POTCAR").write_text("in place, as after POTCARs were put together by hand")
        (folders[-1] / "MANNER").write_text("then-converged")
    (folders[-1] / "MANNER").write_text("killed")
    dataset = "results/jobs/dft/emt/dataset.csv"
    done = snakemake(sources, "jobs", settings, dataset, structures=few)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(table(sources, "jobs", "dataset.csv")) == len(pool) - 1
    rejects = table(sources, "jobs", "excluded.csv")
    assert (list(rejects["status"]), "cut short" in rejects["reason"][0]) == (["failed"], True)
    for folder in folders:
        assert {p.name for p in (folder / "attempt_1").iterdir()} >= {"POSCAR", "vasprun.xml"}
        assert not (folder / "attempt_2").exists()
        # The second attempt started where the first one had stopped.
        assert (folder / "POSCAR").read_text() != (folder / "attempt_1" / "POSCAR").read_text()


@pytest.mark.reference
def test_a_database_becomes_the_dataset(sources, reference) -> None:
    data = reference / "cuau" / "cuau_training_41.extxyz"
    energy = {"key": "formation_energy_per_atom", "kind": "formation"}
    settings = {"engine": "database", "database": {"path": str(data), "sha256": file_sha256(data), "energy": energy}}
    done = snakemake(sources, "database", settings, "energies", as_typed=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = table(sources, "database", "dataset.csv")
    assert len(found) == 41
    assert found["formation_energy_eV_per_atom"].min() == pytest.approx(-0.0432, abs=2e-4)
    settings["database"]["sha256"] = "0" * 64
    done = snakemake(sources, "database", settings, "energies")
    assert done.returncode != 0
    assert "expected SHA-256 0000" in "".join(_said(done))


def test_a_public_database_is_fetched_once_and_a_local_file_comes_first(sources, tmp_path) -> None:
    (tmp_path / "public").mkdir()
    data = tmp_path / "public" / "data.extxyz"
    for number, structure in enumerate(POOL):
        atoms = structure.copy()
        atoms.info = {"energy": -0.01 * number}
        write(data, atoms, format="extxyz", append=True)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(data.parent))

        def log_message(self, form, *arguments) -> None:
            asked.append(str(arguments[0]).split()[0])

    mine = tmp_path / "mine.extxyz"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/data.extxyz"
        public = {"path": str(mine), "url": url, "sha256": file_sha256(data), "energy": {"kind": "total"}}
        settings = {"engine": "database", "database": public}
        done = snakemake(sources, "public", settings, "energies")
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(table(sources, "public", "dataset.csv")) == len(POOL)
        assert asked.count("GET") == 1
        kept = sources / "work" / "public" / "databases" / "emt" / "data.extxyz"
        assert kept.read_bytes() == data.read_bytes()
        # Another file at the URL: the one that was fetched stays, and a study that asks for it now has no use for it.
        data.write_text("something else")
        assert "Nothing to be done" in "".join(_said(snakemake(sources, "public", settings, "energies")))
        done = snakemake(sources, "changed", settings, "energies")
        assert done.returncode != 0
        assert re.search(r"data\.extxyz: expected SHA-256 \w+ \(database\.sha256\), the file has", "".join(_said(done)))
        assert not (sources / "work" / "changed" / "databases" / "emt" / "data.extxyz").exists()
        server.shutdown()
    # Without the server what was fetched still serves, and a study that has not fetched it names the URL.
    assert "Nothing to be done" in "".join(_said(snakemake(sources, "public", settings, "energies")))
    done = snakemake(sources, "changed", settings, "energies")
    assert done.returncode != 0
    assert url in "".join(_said(done))
    shutil.copy(kept, mine)
    assert snakemake(sources, "changed", settings, "energies").returncode == 0
    assert len(table(sources, "changed", "dataset.csv")) == len(POOL)


def test_a_bad_block_is_one_sentence(repository) -> None:
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    config = yaml.safe_load((repository / "config" / "test" / "tiny.yaml").read_text())
    for calculation, words in (
        ({"engine": "vasp", "vasp": {}}, "the key 'mode' is missing in 'calculations.emt'"),
        ({"engine": "vasp", "mode": "ingest", "vasp": {}}, "the key 'runs' is missing"),
        ({"engine": "vasp", "mode": "run", "vasp": {}}, "the key 'command' is missing"),
        ({"engine": "vasp", "mode": "wrote", "vasp": {}}, "expected one of write, run, ingest"),
        ({"engine": "vasp", "mode": "ingest", "vasp": {}, "runs": {}}, r"expected either 'folders' \(a glob\)"),
        ({"engine": "vasp", "mode": "write", "vasp": {"unchecked": ["X"]}}, "expected one of FUNCTIONAL, ENCUT"),
        ({"engine": "vasp", "mode": "write", "vasp": {"enmax": 3}}, "unknown key 'enmax'"),
        ({"engine": "database", "database": {"path": "x.db"}}, "the key 'energy' is missing"),
        (
            {"engine": "database", "database": {"url": "http://x", "energy": {"kind": "total"}}},
            "expected 'path' .*with its 'sha256'",
        ),
    ):
        with pytest.raises(SettingsError, match=words):
            prepare_study({**config, "calculations": {"emt": calculation}}, schema)
