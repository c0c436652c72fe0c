"""Set-up, first calls and memory of lock-step chains in a process of their own.

python benchmarks/fresh_process.py EXPANSION.json N N N CHAINS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ours import TEMPERATURE, grid_conditions

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import place_expansion
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell


def _peak_memory() -> float:
    """Return the largest resident memory of this process so far, MB (0 where the system does not tell)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def start_up(expansion: Path, repeat: Sequence[int], chains: int) -> dict[str, Any]:
    """Time the first calls of this process and measure the memory of its chains (imports are done by now)."""
    before = _peak_memory()
    times: dict[str, float] = {}
    memory: dict[str, float] = {}

    def took(name: str, action: Any) -> Any:
        start = time.process_time()
        result = action()
        times[name] = time.process_time() - start
        memory[name] = _peak_memory() - before
        return result

    read = read_expansion(expansion)
    cell = Supercell(read.lattice, repeat)
    model = took("place the expansion", lambda: place_expansion(read, cell))
    t, dmu = grid_conditions(chains, TEMPERATURE)
    pool = took("make the chains", lambda: LockstepChains(model, t, dmu, seed=1))
    took("first sweep", lambda: pool.sweep(1))
    took("second sweep", lambda: pool.sweep(1))
    took("first energies", pool.energies)
    took("second energies", pool.energies)
    bias, visits = np.zeros((1, model.n_sites + 1)), np.zeros((chains, model.n_sites + 1), dtype=np.int64)
    row = np.zeros(chains, dtype=np.int64)
    for name in ("first biased sweep", "second biased sweep"):
        took(name, lambda: pool.biased_sweep(1, bias, row, 1e-3, visits))
    kinds = ("sweep", "energies", "biased sweep")
    return {
        "n_sites": model.n_sites,
        "chains": chains,
        "memory_mb": memory["second energies"],
        "imports_mb": before,
        "setup_s": times["place the expansion"] + times["make the chains"],
        "first_calls_s": {kind: max(times[f"first {kind}"] - times[f"second {kind}"], 0.0) for kind in kinds},
        "times_s": times,
        "peak_memory_mb": memory,
    }


def fresh_processes(expansion: Path, repeat: Sequence[int], chains: int) -> dict[str, Any]:
    """Run `start_up` in two new processes: with an empty cache of compiled code, and with the cache that leaves."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("compiling", "cached"):
            print(f"a fresh process, {name}", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, str(expansion), *map(str, repeat), str(chains)]
            environment = os.environ | {"NUMBA_CACHE_DIR": cache}
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(output)
    return found


if __name__ == "__main__":
    file, *numbers = sys.argv[1:]
    *repeat, chains = map(int, numbers)
    print(json.dumps(start_up(Path(file), repeat, chains)))
