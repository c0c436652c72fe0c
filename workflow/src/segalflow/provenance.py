"""What a result was made from: code fingerprints, input hashes, seeds and package versions.

Snakemake tracks a script by its modification time and the modules it imports not at all. `code_fingerprint` closes
that gap: a rule that holds it in its ``params`` re-runs when, and only when, the code it really uses changes.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE_ROOT = Path(__file__).resolve().parent


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            # A body must not become empty: `pass` stands for the removed docstring.
            node.body = body[1:] or [ast.Pass()]
    return tree


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def _syntax_digest(path: Path) -> str:
    tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
    return hashlib.sha256(ast.dump(tree, include_attributes=False).encode()).hexdigest()


def _module_file(name: str, root: Path) -> Path | None:
    relative = Path(*name.split(".")[1:]) if "." in name else Path()
    for candidate in (
        root / relative.with_suffix(".py") if relative.parts else root / "__init__.py",
        root / relative / "__init__.py",
    ):
        if candidate.is_file():
            return candidate
    return None


def _imported_modules(path: Path, root: Path) -> set[str]:
    """Names of the `segalflow` modules that the file at `path` imports, at any depth of its code."""
    package = root.name
    found: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.split(".")[0] == package)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                inside = path.resolve().relative_to(root.parent).with_suffix("").parts
                base = ".".join(inside[: len(inside) - node.level])
                module = f"{base}.{node.module}" if node.module else base
            else:
                module = node.module or ""
            if module.split(".")[0] != package:
                continue
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                found.add(submodule if _module_file(submodule, root) else module)
    return found


def import_closure(path: Path, root: Path = PACKAGE_ROOT) -> list[Path]:
    """Return the files of the `segalflow` package reached by imports from `path` (sorted, without `path` itself).

    The ``__init__.py`` of every package on the way counts too, since importing a submodule runs it.
    """
    pending = [path]
    reached: set[Path] = set()
    while pending:
        for name in _imported_modules(pending.pop(), root):
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                file = _module_file(".".join(parts[:depth]), root)
                if file is not None and file not in reached:
                    reached.add(file)
                    pending.append(file)
    return sorted(reached)


def code_fingerprint(script: str | Path, root: Path = PACKAGE_ROOT) -> str:
    """Return the SHA-256 of the syntax trees of `script` and of all `segalflow` modules it imports.

    Docstrings, comments, formatting and time stamps do not count, so only a change of meaning changes it.
    """
    script = Path(script)
    digest = hashlib.sha256(_syntax_digest(script).encode())
    for file in import_closure(script, root):
        digest.update(f"{file.relative_to(root)}:{_syntax_digest(file)}".encode())
    return digest.hexdigest()


def content_hash(value: Any, length: int = 64) -> str:
    """Return the first `length` hex digits of the SHA-256 of `value` written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of the bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def derive_seed(seed: int, rule: str, wildcards: Mapping[str, str] | None = None) -> int:
    """Return a 63-bit seed that depends on the study's seed, the rule's name and its wildcards, and on nothing else."""
    return int(content_hash([int(seed), rule, dict(wildcards or {})], 16), 16) >> 1


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed versions of the named distributions, and of segalflow, for an artefact's header."""
    return {name: importlib.metadata.version(name) for name in sorted({"segalflow", *names})}
