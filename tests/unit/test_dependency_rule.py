"""Data goes one way: the imports of the library follow DESIGN.md's dependency rule."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import segalflow

PACKAGE = Path(segalflow.__file__).parent

# Folders and top-level modules by layer; a module may import from its own room and from lower layers only.
LAYERS = [
    {"units", "errors", "progress", "provenance", "compilation"},
    {"artefacts", "scripting", "settings"},
    {"lattice"},
    {"ensemble", "cells", "samples"},
    {"structures", "dft", "expansion", "energy"},
    {"segal", "sampling"},
    {"thermo"},
    {"phases"},
    {"plotting"},
    {"study", "reporting"},
    {"cli", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Siblings of one layer may use each other only as written here.
SIBLINGS = {
    ("dft", "structures"),
    ("expansion", "structures"),
    ("expansion", "dft"),
    ("energy", "expansion"),
    ("energy", "structures"),
    ("energy", "dft"),
    ("sampling", "segal"),
}


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names.add(node.module)
            if node.module == "segalflow":
                names.update(f"segalflow.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_dependency_rule(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0].removesuffix(".py")
    assert room in LEVEL, f"{relative}: give the new room '{room}' its layer"
    for name in _imports(path):
        top = name.split(".")[0]
        assert top != "snakemake", f"{relative} imports snakemake"
        if top == "torch":
            assert room == "segal" or relative.name == "crystal_graph.py", f"{relative} imports torch"
        if top != "segalflow" or name == "segalflow":
            continue
        other = _room(name)
        allowed = LEVEL[other] < LEVEL[room] or other == room or (room, other) in SIBLINGS
        assert allowed, f"{relative} imports {name}: '{room}' may not know '{other}'"


def test_modules_stay_readable() -> None:
    long = {str(p.relative_to(PACKAGE)): n for p in _modules() if (n := len(p.read_text().splitlines())) > 450}
    assert not long, f"modules over 450 lines: {long}"
