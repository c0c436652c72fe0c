from __future__ import annotations

import json

import pandas as pd
import pytest

from segalflow.cli import main
from segalflow.errors import SettingsError
from segalflow.scripting import logged


def test_a_good_config_is_in_order(repository, capsys) -> None:
    schema = str(repository / "workflow" / "schemas" / "config.schema.yaml")
    assert main(["check", str(repository / "config" / "config.yaml"), "--schema", schema]) == 0
    assert "'cuau_emt' is in order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [("lattice: [", "not readable YAML"), ("study: x\n", "the key 'lattice' is missing"), (None, "does not exist")],
)
def test_a_bad_config_is_one_sentence_and_status_1(text, words, repository, tmp_path, capsys) -> None:
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    schema = str(repository / "workflow" / "schemas" / "config.schema.yaml")
    assert main(["check", str(path), "--schema", schema]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.reference
@pytest.mark.parametrize(("system", "n"), [("cuau", 16), ("agpd", 27)])
def test_energies_of_a_published_list(reference, system, n, tmp_path, capsys) -> None:
    configurations = reference / system / f"check_configs_{n}.json"
    arguments = ["--model", str(reference / system / "eci_published.json"), "--configurations", str(configurations)]
    assert main(["energies", *arguments, "--out", str(tmp_path / "energies.csv")]) == 0
    expected = json.loads(configurations.read_text())["configurations"]
    table = pd.read_csv(tmp_path / "energies.csv")
    assert list(table["configuration"]) == [c["label"] for c in expected]
    assert table["energy_eV"].to_numpy() == pytest.approx([c["E_total_eV"] for c in expected], abs=1e-9)
    assert len(capsys.readouterr().out.splitlines()) == len(expected)


@pytest.mark.reference
def test_wrong_configurations_are_one_sentence(reference, tmp_path, capsys) -> None:
    content = json.loads((reference / "cuau" / "check_configs_16.json").read_text())
    content["configurations"][0]["spins"] = "+-"
    (tmp_path / "c.json").write_text(json.dumps(content))
    model = str(reference / "cuau" / "eci_published.json")
    assert main(["energies", "--model", model, "--configurations", str(tmp_path / "c.json")]) == 1
    assert "configuration 'pure_Au' has 2 signs" in capsys.readouterr().err
    (tmp_path / "c.json").write_text("{}")
    assert main(["energies", "--model", model, "--configurations", str(tmp_path / "c.json")]) == 1
    assert "expected the keys" in capsys.readouterr().err


def test_a_scripts_error_is_one_sentence_in_log_and_terminal(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped, logged(tmp_path / "logs" / "rule.log") as log:  # noqa: PT012 - the context under test is the second one
        log.info("started")
        raise SettingsError("grid.temperature: the grid is empty")
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: grid.temperature: the grid is empty\n"
    assert (tmp_path / "logs" / "rule.log").read_text() == "INFO started\nerror: grid.temperature: the grid is empty\n"


def test_a_defect_keeps_its_traceback_in_the_log(tmp_path) -> None:
    with pytest.raises(SystemExit), logged(tmp_path / "rule.log"):
        raise ZeroDivisionError
    assert "Traceback" in (tmp_path / "rule.log").read_text()
