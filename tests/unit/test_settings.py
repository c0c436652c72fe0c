"""Configs: every mistake is one sentence that names the key; defaults and documentation are one source."""

from __future__ import annotations

import copy

import pytest
import yaml
from config_edits import assert_refused, put

from segalflow import study
from segalflow.phases import (
    alpha_shape,
    common_tangent,
    composition_jump,
    equal_weight,
    heat_capacity,
    hysteresis,
    refinement,
)
from segalflow.settings import describe_keys, with_defaults
from segalflow.study import cell_settings, prepare_study


@pytest.fixture
def config(repository):
    return yaml.safe_load((repository / "config" / "config.yaml").read_text())


def test_every_shipped_config_is_in_order(repository, schema) -> None:
    shipped = sorted((repository / "config").rglob("*.yaml"))
    assert len(shipped) >= 2
    for path in shipped:
        prepare_study(yaml.safe_load(path.read_text()), schema)


def test_defaults_are_filled_in_and_nothing_else_changes(config, schema) -> None:
    before = copy.deepcopy(config)
    prepared = prepare_study(config, schema)
    assert config == before
    assert prepared["expansions"]["main"]["fit"]["cv"]["kind"] == "loo"
    assert prepared["calculations"]["emt"]["fmax"] == 0.01
    assert prepare_study(prepared, schema) == prepared


def test_a_cells_override_is_put_into_its_block_only(config, schema) -> None:
    config["cells"]["small"]["segal"] = {"training": {"steps": 7}}
    config["cells"]["small"]["grid"] = {"delta_mu": [0.0, 0.1]}
    prepared = prepare_study(config, schema)
    assert cell_settings(prepared, "small", "segal")["training"]["steps"] == 7
    assert cell_settings(prepared, "small", "segal")["training"]["batch"] == 64
    assert cell_settings(prepared, "main", "segal")["training"]["steps"] != 7
    assert cell_settings(prepared, "small", "grid")["delta_mu"] == [0.0, 0.1]


@pytest.mark.parametrize(
    "module", [composition_jump, alpha_shape, heat_capacity, common_tangent, equal_weight, hysteresis]
)
def test_the_schema_states_the_defaults_of_the_criteria(module, schema) -> None:
    block = schema["properties"]["phases"]["properties"][module.CRITERION]
    assert with_defaults({}, block) == module.DEFAULTS


def drop(*path):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    return change


BAD = {
    "typo in a key": (put("lattice", "constnt", 3), "unknown key 'constnt' in 'lattice' (did you mean 'constant'?)"),
    "typo at the top": (put("structure", {}), "unknown key 'structure' in the config (did you mean 'structures'?)"),
    "missing block": (drop("cells"), "the key 'cells' is missing in the config"),
    "missing key": (
        drop("expansions", "main", "basis", "max_diameters"),
        "the key 'max_diameters' is missing in 'expansions.main.basis'",
    ),
    "unknown element": (put("lattice", "species", ["Cu", "Ax"]), "'Ax' is not a chemical element"),
    "unknown lattice": (put("lattice", "name", "fc"), "lattice.name: unknown lattice 'fc'"),
    "three species": (
        put("lattice", "species", ["Cu", "Au", "Pd"]),
        "expansions.main.basis.generator: CLEASE's clusters are of two species here, expected symmetry",
    ),
    "one species": (put("lattice", "species", ["Cu"]), "lattice.species: expected at least 2 entries"),
    "wrong type": (
        put("structures", "max_atoms", "six"),
        "structures.max_atoms: expected a whole number, found 'six'",
    ),
    "out of range": (put("calculations", "emt", "fmax", 0), "calculations.emt.fmax: expected a number > 0, found 0"),
    "unknown engine": (
        put("calculations", "emt", "engine", "emtt"),
        "calculations.emt: engine: unknown engine 'emtt'",
    ),
    "element the engine lacks": (put("lattice", "species", ["Cu", "Mg"]), "'emt' cannot treat Mg"),
    "engine with the wrong sign": (put("lattice", "species", ["Pd", "Ag"]), "wrong sign of mixing"),
    "unknown method": (put("expansions", "main", "fit", {"method": "rigde"}), "(did you mean 'ridge'?)"),
    "unknown calculation": (
        put("expansions", "main", "calculation", "emd"),
        "expansions.main.calculation: 'emd' is not defined",
    ),
    "unknown expansion": (put("cells", "main", "expansion", "man"), "cells.main.expansion: 'man' is not defined"),
    "empty grid": (put("grid", "temperature", []), "grid.temperature: the grid is empty"),
    "reversed grid": (put("grid", "temperature", {"start": 900, "stop": 300, "number": 5}), "expected stop > start"),
    "reversed delta_mu": (put("grid", "delta_mu", [0.1, 0.0]), "expected increasing values in eV"),
    "negative temperature": (put("grid", "temperature", [-5, 300]), "expected positive temperatures"),
    "misspelt grid": (
        put("grid", "temperature", {"start": 1, "end": 2, "number": 3}),
        "grid.temperature: expected a mapping",
    ),
    "no cell": (put("cells", "main", "repeat", [0, 4, 4]), "cells.main.repeat"),
    "exact sum over a large cell": (put("cells", "main", "methods", ["exact"]), "needs at most 30 sites"),
    "override of nothing": (
        put("cells", "main", "snis", {"sampels": 3}),
        "cells.main (overrides): unknown key 'sampels'",
    ),
    "refinement of an unknown cell": (
        put("refinement", {"cells": ["mian"]}),
        "refinement.cells: 'mian' is not defined, expected one of small, main (did you mean 'main'?)",
    ),
    "refinement of a cell without boundaries": (
        put("refinement", {"cells": ["small"]}),
        "cell 'small' needs the method snis and 'phases: true'",
    ),
    "refinement of a criterion that is not applied": (
        lambda config: config.update(
            phases={"criteria": ["common_tangent"]}, refinement={"cells": ["main"], "criteria": ["equal_weight"]}
        ),
        "refinement.criteria: 'equal_weight' is not among phases.criteria",
    ),
    "refinement without a width": (
        put("refinement", {"cells": ["main"], "width_x": None}),
        "refinement: expected width_x, width_temperature or width_delta_mu, found none of them",
    ),
    "unknown criterion": (put("phases", "criteria", ["alpha_shap"]), "(did you mean 'alpha_shape'?)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_one_sentence_naming_the_key(name, config, schema) -> None:
    change, words = BAD[name]
    change(config)
    assert_refused(config, schema, words)


def test_the_wrong_sign_can_be_allowed_by_its_key(config, schema) -> None:
    config["lattice"]["species"] = ["Pd", "Ag"]
    config["calculations"]["emt"]["allow_unphysical"] = True
    assert prepare_study(config, schema)["lattice"]["species"] == ["Pd", "Ag"]


def test_what_can_be_refined_is_said_once() -> None:
    assert set(study.REFINERS) == set(refinement.REFINERS)


def test_every_key_is_explained(schema) -> None:
    rows = list(describe_keys(schema))
    assert len(rows) > 60
    for row in rows:
        assert row["meaning"], row["key"]
        assert row["reruns"] or "." not in row["key"], row["key"]


def test_the_key_table_of_the_readme_is_the_schemas(repository, schema, capsys) -> None:
    from segalflow.cli import main

    assert main(["keys", "--schema", str(repository / "workflow" / "schemas" / "config.schema.yaml")]) == 0
    table = capsys.readouterr().out.strip()
    assert table in (repository / "config" / "README.md").read_text(), (
        "run: segalflow keys, and put it into config/README.md"
    )
