"""A working copy of the project that tests run snakemake in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from forks import run_snakemake

PARTS = ("Snakefile", "config", "envs", "profiles", "scripts", "workflow")


@dataclass
class Project:
    """A working copy: run snakemake in it, edit it, put it back.

    Attributes:
        folder: where it is.
        configfile: the study that is run and edited, from there.
    """

    folder: Path
    configfile: str = "config/test/tiny.yaml"

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run snakemake on the study of this copy (`forks`: without the start of interpreters)."""
        arguments = self._completed(arguments)
        done = run_snakemake(arguments, self.folder, self._environment())
        if check and done.returncode:
            raise AssertionError(
                f"snakemake {' '.join(arguments)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
            )
        return done

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run snakemake as a user does."""
        command = [sys.executable, "-m", "snakemake", *self._completed(arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False
        )

    def _completed(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        given = arguments[:1] == ("--configfile",)
        configured = arguments[:2] if given else ("--configfile", self.configfile)
        return (*configured, "--cores", "2", "--nolock", *arguments[2 * given :])

    @staticmethod
    def _environment() -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}

    def planned(self, *targets: str) -> Counter[str]:
        """Jobs a run would start now, by rule (without the targets)."""
        done = self.snakemake("--dry-run", *targets)
        text = done.stdout + done.stderr
        if "Nothing to be done" in text:
            return Counter()
        print(text)  # the reasons: pytest shows them where a test expected another plan
        table = re.search(r"^job\s+count\n[-\s]+\n(.*?)^total", text, re.MULTILINE | re.DOTALL)
        assert table, text
        jobs = Counter({row.split()[0]: int(row.split()[1]) for row in table.group(1).splitlines() if row.strip()})
        for target in ("all", *targets):
            jobs.pop(target, None)
        return jobs

    def config(self, change) -> None:
        """Apply a function to the study's config."""
        path = self.folder / self.configfile
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))

    def append(self, file: str, text: str) -> None:
        """Add text to a source file."""
        path = self.folder / file
        path.write_text(path.read_text() + text)


def copy_sources(repository: Path, folder: Path) -> None:
    """Put the sources of the project into a folder, over what is there."""
    for part in PARTS:
        source, target = repository / part, folder / part
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"), dirs_exist_ok=True
            )
        else:
            shutil.copy2(source, target)
