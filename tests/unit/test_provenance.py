from __future__ import annotations

from pathlib import Path

from segalflow.provenance import SourceIndex, code_fingerprint, content_hash, derive_seed, import_closure


def _package(root: Path) -> Path:
    package = root / "segalflow"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Package."""\n')
    (package / "sub" / "__init__.py").write_text("")
    (package / "a.py").write_text("from segalflow.sub import b\n\ndef f():\n    return b.g()\n")
    (package / "sub" / "b.py").write_text('"""Doc."""\n\ndef g():\n    """Doc."""\n    return 1  # one\n')
    (package / "other.py").write_text("x = 1\n")
    script = root / "script.py"
    script.write_text('"""Run."""\nfrom segalflow.a import f\n\nf()\n')
    return script


def _fresh(script: Path, root: Path) -> str:
    """The fingerprint as a new process finds it, with and without what earlier ones kept."""
    index = SourceIndex(root / "kept" / "sources.json")
    kept = code_fingerprint(script, root / "segalflow", index)
    index.save()
    assert kept == code_fingerprint(script, root / "segalflow")
    return kept


def test_closure_follows_imports_through_packages(tmp_path: Path) -> None:
    script = _package(tmp_path)
    names = {str(p.relative_to(tmp_path / "segalflow")) for p in import_closure(script, tmp_path / "segalflow")}
    assert names == {"__init__.py", "a.py", "sub/__init__.py", "sub/b.py"}


def test_fingerprint_ignores_comments_docstrings_and_format(tmp_path: Path) -> None:
    script = _package(tmp_path)
    before = _fresh(script, tmp_path)
    (tmp_path / "segalflow" / "sub" / "b.py").write_text(
        '"""Other."""\ndef g( ):\n\n    """Other."""\n    return (1)\n'
    )
    (tmp_path / "segalflow" / "other.py").write_text("x = 2\n")
    assert _fresh(script, tmp_path) == before


def test_fingerprint_changes_with_the_code_it_uses(tmp_path: Path) -> None:
    script = _package(tmp_path)
    before = _fresh(script, tmp_path)
    (tmp_path / "segalflow" / "sub" / "b.py").write_text("def g():\n    return 2\n")
    assert _fresh(script, tmp_path) != before


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    script = _package(tmp_path)
    before = _fresh(script, tmp_path)
    for content in ("", "{", "[1]", '{"made_by": "another"}'):
        (tmp_path / "kept" / "sources.json").write_text(content)
        assert _fresh(script, tmp_path) == before


def test_late_imports_count(tmp_path: Path) -> None:
    script = _package(tmp_path)
    (tmp_path / "segalflow" / "a.py").write_text("def f():\n    from segalflow.other import x\n    return x\n")
    before = _fresh(script, tmp_path)
    (tmp_path / "segalflow" / "other.py").write_text("x = 3\n")
    assert _fresh(script, tmp_path) != before


def test_seeds_differ_by_rule_and_wildcards_and_repeat() -> None:
    seeds = {derive_seed(1, "a", {"cell": "x"}), derive_seed(1, "b", {"cell": "x"}), derive_seed(1, "a", {"cell": "y"})}
    assert len(seeds) == 3
    assert derive_seed(1, "a", {"cell": "x"}) in seeds
    assert all(0 <= s < 2**63 for s in seeds)
    assert content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
