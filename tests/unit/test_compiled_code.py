"""Compiled functions: the same machine code whoever has them compiled, and never that of an older source."""

import ast
import subprocess
import sys
from pathlib import Path

import segalflow

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


def test_changed_sources_have_another_cache(tmp_path) -> None:
    package = tmp_path / "segalflow"
    package.mkdir()
    (package / "__init__.py").write_text((PACKAGE / "__init__.py").read_text())
    command = [sys.executable, "-c", "import segalflow, numba; print(numba.config.CACHE_DIR)"]

    def folder() -> str:
        environment = {"PYTHONPATH": "."}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    (package / "inner.py").write_text("import numba\n\nRATE = 1\n")
    before = folder()
    (package / "notes.py").write_text("A = 1\n")
    assert folder() == before  # nothing compiled in there
    (package / "inner.py").write_text("import numba\n\nRATE = 2\n")
    assert folder() != before
    assert Path(before.strip()).parent == package / "__pycache__"
