"""Snakemake without the start of interpreters: its command line, and every script it runs, are forks of a process that
has imported the libraries already. Most of a small study's time is imports. Nothing of this project is imported there:
every fork does that for itself.
"""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

LIBRARIES = (
    "snakemake.cli", "numpy", "scipy.interpolate", "scipy.optimize", "scipy.spatial", "scipy.stats", "pandas",
    "xarray", "netCDF4", "numba", "torch", "ase.build", "matplotlib.pyplot",
)  # fmt: skip


def _ask(address: str, task: str, arguments: Sequence[str], folder, environment, out, err) -> tuple[int, Connection]:
    """Have a task done by a fork; return its process and where its exit status will come."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    connection = Connection(client.detach())
    connection.send((task, list(arguments), folder, dict(environment), out, err))
    return connection.recv(), connection


def _status(connection: Connection) -> int:
    with connection:
        try:
            return connection.recv()
        except EOFError:  # killed
            return 1


def _script(address: str, arguments: Sequence[str], *place) -> None:
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


def _snakemake(address: str, arguments: Sequence[str], folder, environment, out, err) -> None:
    from snakemake.benchmark import benchmarked
    from snakemake.cli import main
    from snakemake.script import PythonScript

    def execute_script(self: PythonScript, name: str, edit: bool = False) -> None:
        own = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}  # as Snakemake's shell
        process, connection = _ask(address, "script", [name], folder, own, out, err)
        with benchmarked(process, self.bench_record):
            status = _status(connection)
        if status:
            raise subprocess.CalledProcessError(status, ["python", name])

    PythonScript.execute_script = execute_script
    sys.argv = ["snakemake", *arguments]
    main(list(arguments))


TASKS = {"script": _script, "snakemake": _snakemake}


def _answer(address: str, connection: Connection) -> int:
    """Do, in a fork, what was asked for; return the exit status."""
    task, arguments, *place = connection.recv()
    folder, environment, out, err = place
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    connection.send(os.getpid())
    status = 0
    try:
        TASKS[task](address, arguments, *place)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(status)
    return status


def serve(address: str) -> None:
    """Fork for everyone who asks at this address, until standard input ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            return
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os._exit(_answer(address, Connection(client.detach())))
        client.close()


@functools.cache
def _server() -> tuple[str, subprocess.Popen, tempfile.TemporaryDirectory]:
    """Address, process and folder of this session's server; it ends with the session, when its standard input does."""
    folder = tempfile.TemporaryDirectory()
    address = f"{folder.name}/forks"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, address], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return address, process, folder


def run_snakemake(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the command line of Snakemake in a folder, and return its exit status and what it said."""
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        status = _status(_ask(_server()[0], "snakemake", arguments, folder, environment, out, err)[1])
        return subprocess.CompletedProcess(list(arguments), status, out.read_text(), err.read_text())


if __name__ == "__main__":
    serve(sys.argv[1])
