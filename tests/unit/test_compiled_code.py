"""Compiled functions: the same machine code whoever has them compiled, and never that of an older source."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import segalflow
from segalflow import compilation

PACKAGE = Path(segalflow.__file__).parent


def test_every_compiled_function_says_whether_arithmetic_may_be_rearranged() -> None:
    """Numba compiles a function that does not say so as its first caller is compiled, and keeps that for all others."""
    silent = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for decorator in getattr(node, "decorator_list", []):
                if ast.unparse(decorator).startswith("numba.njit"):
                    given = {k.arg: k.value for k in getattr(decorator, "keywords", [])}
                    inlined = "inline" in given and "cache" not in given  # has no code of its own
                    if "fastmath" not in given and not inlined:
                        silent.append(f"{path.name}: {node.name}")
    assert not silent


def test_a_state_of_sources_is_that_of_all_that_is_reached(tmp_path) -> None:
    package = tmp_path / "segalflow"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    outer, inner, other = package / "outer.py", package / "room" / "inner.py", package / "other.py"

    def state() -> str:
        compilation._read.cache_clear()
        return compilation.source_state(outer, package)

    outer.write_text("from segalflow.room import (\n    inner,\n)\n")
    inner.write_text("RATE = 1\n")
    other.write_text("A = 1\n")
    before = state()
    other.write_text("A = 2\n")
    assert state() == before
    inner.write_text("RATE = 2\n")
    changed = state()
    assert changed != before
    outer.write_text("import segalflow.room.inner as inner\n")
    reached_otherwise = state()
    inner.write_text("RATE = 1\n")
    assert len({before, changed, reached_otherwise, state()}) == 4


def test_code_is_kept_by_the_state_of_the_sources_and_found_by_another_copy(tmp_path) -> None:
    """A second process that has the same sources at another place compiles nothing."""
    code = """
import numpy as np
from segalflow.energy.kernels import draw_words
draw_words(np.ones((4, 2), np.uint64), np.empty(2, np.uint64))
print(sum(draw_words.stats.cache_hits.values()))
"""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "segalflow", ignore=shutil.ignore_patterns("__pycache__"))
    hits = []
    for place in (PACKAGE.parent, copy):
        environment = os.environ | {"PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        hits.append(int(done.stdout))
    assert hits == [0, 1]


def test_numba_comes_from_the_module_that_says_where_its_code_is_kept() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "compilation.py":
            assert not re.search(r"^\s*import numba\b", path.read_text(), re.MULTILINE), path.name
