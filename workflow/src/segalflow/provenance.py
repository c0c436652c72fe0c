"""What a result was made from: code fingerprints, input hashes, seeds and package versions.

Snakemake tracks a script by its modification time and the modules it imports not at all. `code_fingerprint` closes
that gap: a rule that holds it in its ``params`` re-runs when, and only when, the code it really uses changes.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE_ROOT = Path(__file__).resolve().parent
FACTS_VERSION = 1
"""Of the format of `SourceIndex` files; to be raised when what counts of a source changes."""


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


class _Facts(NamedTuple):
    """What counts of a source file: the digest of its syntax tree, and its imports as (level, module, name)."""

    digest: str
    imports: list[tuple[int, str, str]]


def _read_facts(source: str) -> _Facts:
    tree = ast.parse(source)
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.extend((0, a.name, "") for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.extend((node.level, node.module or "", a.name) for a in node.names)
    text = ast.dump(_without_docstrings(tree), include_attributes=False)
    return _Facts(hashlib.sha256(text.encode()).hexdigest(), imports)


class SourceIndex:
    """Facts of source files by the hash of their bytes; kept in a file, they are read from the syntax only once.

    Every job of a workflow fingerprints the code anew, so the reading must not cost more than the job.

    Args:
        path: file that keeps the facts between processes, or None. A damaged one is made anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._new = path, False
        self._head = f"{sys.version_info.major}.{sys.version_info.minor} {FACTS_VERSION}"
        self._known: dict[str, _Facts] = {}
        self._of_file: dict[Path, _Facts] = {}
        self._reached: dict[tuple[Path, Path], frozenset[Path]] = {}
        if path is not None and path.is_file():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["made_by"] == self._head:
                    self._known = {k: _Facts(d, [tuple(i) for i in m]) for k, (d, m) in content["facts"].items()}

    def facts(self, file: Path) -> _Facts:
        """Return the facts of a file; it is read once in the life of this index."""
        if file not in self._of_file:
            source = file.read_bytes()
            key = hashlib.sha256(source).hexdigest()
            if key not in self._known:
                self._known[key], self._new = _read_facts(source.decode("utf-8")), True
            self._of_file[file] = self._known[key]
        return self._of_file[file]

    def imported_files(self, file: Path, root: Path) -> frozenset[Path]:
        """Return the files of the package at `root` that a file imports, those of the packages on the way included."""
        if (file, root) not in self._reached:
            found = set()
            for name in _imported_modules(file, root, self):
                parts = name.split(".")
                found.update(_module_file(".".join(parts[: depth + 1]), root) for depth in range(len(parts)))
            self._reached[file, root] = frozenset(found - {None})
        return self._reached[file, root]

    def save(self) -> None:
        """Keep what is new, if there is a file to keep it in."""
        if self.path is None or not self._new:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"made_by": self._head, "facts": self._known}), encoding="utf-8")
        temporary.replace(self.path)
        self._new = False


def _module_file(name: str, root: Path) -> Path | None:
    relative = Path(*name.split(".")[1:]) if "." in name else Path()
    for candidate in (
        root / relative.with_suffix(".py") if relative.parts else root / "__init__.py",
        root / relative / "__init__.py",
    ):
        if candidate.is_file():
            return candidate
    return None


def _imported_modules(path: Path, root: Path, index: SourceIndex) -> set[str]:
    """Names of the `segalflow` modules that the file at `path` imports, at any depth of its code."""
    package = root.name
    found: set[str] = set()
    for level, module, name in index.facts(path).imports:
        if level:
            inside = path.resolve().relative_to(root.parent).with_suffix("").parts
            base = ".".join(inside[: len(inside) - level])
            module = f"{base}.{module}" if module else base
        if module.split(".")[0] == package:
            submodule = f"{module}.{name}"
            found.add(submodule if name and _module_file(submodule, root) else module)
    return found


def import_closure(path: Path, root: Path = PACKAGE_ROOT, index: SourceIndex | None = None) -> list[Path]:
    """Return the files of the `segalflow` package reached by imports from `path` (sorted, without `path` itself).

    The ``__init__.py`` of every package on the way counts too, since importing a submodule runs it.
    """
    index = index or SourceIndex()
    pending = [path]
    reached: set[Path] = set()
    while pending:
        new = index.imported_files(pending.pop(), root) - reached
        reached |= new
        pending += new
    return sorted(reached)


def code_fingerprint(script: str | Path, root: Path = PACKAGE_ROOT, index: SourceIndex | None = None) -> str:
    """Return the SHA-256 of the syntax trees of `script` and of all `segalflow` modules it imports.

    Docstrings, comments, formatting and time stamps do not count, so only a change of meaning changes it. An `index`
    spares the reading of files that it knows.
    """
    script, index = Path(script), index or SourceIndex()
    digest = hashlib.sha256(index.facts(script).digest.encode())
    for file in import_closure(script, root, index):
        digest.update(f"{file.relative_to(root)}:{index.facts(file).digest}".encode())
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
