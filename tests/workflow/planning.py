"""Plans without the start of an interpreter: every plan is a fork of a process that has imported Snakemake already."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["snakemake.cli"])


def _plan(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], out: Path, err: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    from snakemake.cli import main

    sys.argv = ["snakemake", *arguments]
    main(list(arguments))


def plan(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command line of Snakemake that executes no job, e.g. a dry run, and return what it said."""
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        process = _FORKS.Process(target=_plan, args=(arguments, folder, environment, out, err))
        process.start()
        process.join()
        return subprocess.CompletedProcess(list(arguments), process.exitcode, out.read_text(), err.read_text())
