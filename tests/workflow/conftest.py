"""A copy of the project in which the smallest study has been run once, for tests of the rule graph."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import Project, copy_sources


@pytest.fixture(scope="session")
def tiny_run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study, run once from beginning to end."""
    folder = tmp_path_factory.mktemp("project")
    copy_sources(repository, folder)
    project = Project(folder)
    project.snakemake()
    return project


@pytest.fixture
def fresh_project(repository: Path, tmp_path: Path) -> Project:
    """A copy in which nothing has been run."""
    copy_sources(repository, tmp_path)
    return Project(tmp_path)


@pytest.fixture
def project(tiny_run: Project, repository: Path):
    """The finished copy; every source file is put back after the test."""
    yield tiny_run
    copy_sources(repository, tiny_run.folder)
