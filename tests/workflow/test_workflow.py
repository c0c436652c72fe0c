"""The workflow as a user meets it: shipped configs plan, bad input is one sentence, a broken file loses nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import yaml
from packaging.requirements import Requirement


def configs(repository):
    return sorted(str(p.relative_to(repository)) for p in (repository / "config").rglob("*.yaml"))


def test_every_shipped_config_plans(project, repository) -> None:
    for config in configs(repository):
        # Files that a user puts there need only exist to be planned with.
        content = yaml.safe_load((repository / config).read_text())
        given = [expansion.get("published") for expansion in content["expansions"].values()]
        given += [c.get("database", {}).get("path") for c in content.get("calculations", {}).values()]
        for path in filter(None, given):
            (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / path).touch()
        done = project.snakemake("--configfile", config, "--dry-run")
        assert "Nothing to be done" in done.stdout + done.stderr or "job" in done.stdout + done.stderr


def test_without_a_config_file_the_default_study_is_planned(project) -> None:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cuau_emt" in (project.folder / "config" / "config.yaml").read_text()


def test_lint_is_clean(project) -> None:
    done = project.snakemake("--lint")
    assert "Congratulations" in done.stdout + done.stderr


def test_a_bad_config_is_one_sentence_and_a_failure(project) -> None:
    project.config(lambda config: config["lattice"].update(constnt=3))
    done = project.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert "unknown key 'constnt' in 'lattice' (did you mean 'constant'?)" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_corrupted_intermediate_file_is_named_and_nothing_is_lost(project) -> None:
    model = project.folder / "results" / "tiny" / "expansion" / "main" / "model.json"
    table = project.folder / "results" / "tiny" / "ensemble" / "small" / "exact.nc"
    good, kept = (
        model.read_text(),
        (project.folder / "results" / "tiny" / "ensemble" / "small" / "snis.nc").read_bytes(),
    )
    written = model.stat()
    try:
        model.write_text(good[: len(good) // 2])
        table.unlink()
        done = project.snakemake(str(table.relative_to(project.folder)), check=False)
        assert done.returncode != 0
        said = done.stdout + done.stderr
        assert "model.json: not a whole JSON file" in said
        assert (project.folder / "results" / "tiny" / "ensemble" / "small" / "snis.nc").read_bytes() == kept
    finally:
        model.write_text(good)
        os.utime(model, ns=(written.st_atime_ns, written.st_mtime_ns))
        project.snakemake(str(table.relative_to(project.folder)))
        project.snakemake()
    assert table.exists()
    assert not project.planned()


def test_too_small_a_dataset_for_the_cut_offs_is_one_sentence(project) -> None:
    folder = project.folder / "results" / "tiny" / "expansion" / "main"
    files = [folder / f"{name}.json" for name in ("model", "metrics")]
    files += [folder / f"{name}.csv" for name in ("hull", "predictions", "learning_curve")]
    before = [path.read_bytes() for path in files]
    project.config(lambda config: config["expansions"]["main"]["basis"].update(max_diameters={2: 8.0}))
    done = project.snakemake("expansions", check=False)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert re.search(r"error: expansions\.main\.basis\.max_diameters: \d+ clusters but only \d+ structures", said)
    # Nothing is lost: the files of the last good fit still stand, and with the old key back they can be kept.
    assert [path.read_bytes() for path in files] == before
    project.config(lambda config: config["expansions"]["main"]["basis"].update(max_diameters={2: 3.0}))
    project.snakemake("--cleanup-metadata", *(str(path.relative_to(project.folder)) for path in files))
    assert not project.planned()


def test_the_same_config_gives_the_same_bytes(project) -> None:
    folder = project.folder / "results" / "tiny"
    chosen = [
        folder / name
        for name in (
            "segal/small/weights.safetensors",
            "segal/small/model.json",
            "ensemble/small/snis.nc",
            "ensemble/small/metropolis.nc",
            "ensemble/small/metadynamics.nc",
            "ensemble/small/snis_samples.nc",
            "ensemble/small/metropolis_samples.nc",
            "free_energy/small/snis.nc",
            "phases/model_error.csv",
            "phases/boundaries.csv",
            "figures/phase_diagram_small.svg",
            "figures/phase_diagram_small.png",
        )
    ]
    before = [path.read_bytes() for path in chosen]
    work = project.folder / "work" / "tiny"
    # A finished training leaves no checkpoint; the other samplers keep their state, to be extended, and it goes here
    # so that the tables are sampled anew and not read from them.
    kept = {"metropolis", "tempering", "metadynamics", "canonical", "vcsgc", "scan", "wang_landau"}
    assert {path.parts[-3] for path in work.rglob("*.safetensors")} == kept
    shutil.rmtree(work)
    for path in chosen:
        path.unlink()
    project.snakemake(*(str(path.relative_to(project.folder)) for path in chosen))
    for path, content in zip(chosen, before, strict=True):
        assert path.read_bytes() == content, path.name
    assert not project.planned()  # what else was made from the old files is good: they are the same


def test_every_rule_has_its_script_log_and_benchmark(repository) -> None:
    scripts = {p.stem for p in (repository / "scripts").glob("*.py")}
    rules = set()
    for file in sorted((repository / "workflow" / "rules").glob("*.smk")):
        for name, body in re.findall(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", file.read_text(), re.M | re.S):
            rules.add(name)
            assert f"scripts/{name}.py" in body, name
            assert f"logs/{{study}}/{name}" in body, name
            assert f"benchmarks/{name}" in body, name
            assert f'code("{name}.py")' in body, name
            for word in ("threads:", "mem_mb=", "runtime=", "conda:"):
                assert word in body, f"{name}: {word}"
    assert rules == scripts


def test_scripts_are_thin(repository) -> None:
    for path in sorted((repository / "scripts").glob("*.py")):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path.name
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(tree)), path.name
        assert len(path.read_text().splitlines()) < 70, path.name
        assert "snakemake.config" not in path.read_text(), path.name


def test_environments_pin_what_the_lock_pins(repository) -> None:
    lock = {
        line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2]
        for line in (repository / "envs" / "requirements.lock").read_text().split()
        if "==" in line
    }
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    optional = {r.name: r.specifier for r in map(Requirement, extras["gpaw"] + extras["chgnet"])}
    for file in sorted((repository / "envs").glob("*.yaml")):
        for name, version in re.findall(r"- ([\w-]+)==(\S+)", file.read_text()):
            name = name.lower().replace("_", "-")
            if name in lock:
                assert lock[name] == version, f"{file.name}: {name}"
            else:  # an optional engine: within the range of its extra
                assert version in optional[name], f"{file.name}: {name}"


def test_nothing_is_skipped_for_want_of_a_rule_target(project) -> None:
    """Every named target of the README plans."""
    targets = ("structures", "energies", "expansions", "samplers", "ensembles", "boundaries")
    assert project.snakemake("--dry-run", *targets).returncode == 0


def test_artefacts_follow_their_schemas(tiny_run, repository) -> None:
    folder = tiny_run.folder / "results" / "tiny"
    files = {
        "expansion": ["expansion/main/model.json"],
        "metrics": ["expansion/main/metrics.json"],
        "cell": ["cells/main.json", "cells/small.json"],
        "grid": ["grids/main.json", "grids/small.json"],
        "segal": ["segal/main/model.json", "segal/small/model.json"],
        "calculation": [str(p.relative_to(folder)) for p in sorted(folder.glob("dft/emt/records/*.json"))],
    }
    described = {p.name.removesuffix(".schema.yaml") for p in (repository / "workflow" / "schemas").glob("*.yaml")}
    # The tiny study holds no model but an expansion; the schema of models is tested in test_models.py.
    assert described == {*files, "config", "model"}
    for name, paths in files.items():
        schema = yaml.safe_load((repository / "workflow" / "schemas" / f"{name}.schema.yaml").read_text())
        assert paths
        for path in paths:
            jsonschema.validate(json.loads((folder / path).read_text()), schema)


def test_the_style_checks_are_clean(repository) -> None:
    tools = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "workflow/rules"],
    ]
    for tool, *arguments in tools:
        command = [str(Path(sys.executable).parent / tool), *arguments]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
