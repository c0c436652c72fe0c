"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of real first-principles data and published expansions."""
    folder = Path(os.environ.get("SEGALFLOW_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"reference data folder {folder} is not there (set SEGALFLOW_REFERENCE)")
    return folder
