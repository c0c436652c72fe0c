"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
import yaml
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]


# Files whose tests use one finished tiny study.
TINY_STUDY = ("tests/workflow/test_invalidation.py", "tests/workflow/test_workflow.py")


class ByFile(LoadScopeScheduling):
    """A file's tests on one worker, for its fixtures' sake, and all tests of the finished tiny study on one.

    (xdist 3.8's own `loadgroup` puts its marks where pytest 9 no longer looks.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "tiny study" if file in TINY_STUDY else file


def pytest_xdist_make_scheduler(config, log) -> ByFile:
    """Longest first: xdist begins with the scope of most tests."""
    return ByFile(config, log)


# Marks of tests of engines that are not dependencies: the modules they need, and how to get them.
ENGINES = {
    "gpaw": (
        ("gpaw", "dftd3"),
        "GPAW or dftd3 is not installed: apt-get install libxc-dev libopenblas-dev, pip install 'segalflow[gpaw]'",
    ),
    "chgnet": (("chgnet",), "CHGNet is not installed: pip install 'segalflow[chgnet]'"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out a test whose engine or device is not there, and say what it needs."""
    for mark, (modules, how) in ENGINES.items():
        if item.get_closest_marker(mark) and any(importlib.util.find_spec(m) is None for m in modules):
            pytest.skip(how)
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def schema(repository: Path) -> dict:
    """Schema of a study's config."""
    return yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of real first-principles data and published expansions."""
    folder = Path(os.environ.get("SEGALFLOW_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"reference data folder {folder} is not there (set SEGALFLOW_REFERENCE)")
    return folder
