"""Monte Carlo side by side: CLEASE, icet, smol and segalflow, same expansion, same cell, same core, one process.

    python benchmarks/monte_carlo.py                 # published expansions of the reference folder
    python benchmarks/monte_carlo.py --quick --cases agpd-125
    python benchmarks/monte_carlo.py --write         # puts the table into benchmarks/README.md

Energies of all codes on a random decoration must agree before anything is timed. Codes take turns (A-B-A-B); a figure
is the median of the turns, in operations per second of processor time of this process, which is pinned to one core.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import io
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from peers import PEERS, TOLERANCE, OnCell, Unavailable, Work, quiet

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial, place_expansion
from segalflow.energy.single_chain import SingleChain
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion, read_expansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.wang_landau import density_of_states
from segalflow.units import BOLTZMANN_EV_PER_K

HERE = Path(__file__).resolve().parent
MARKERS = ("<!-- monte_carlo.py --write: begin -->", "<!-- monte_carlo.py --write: end -->")
OURS = "segalflow"
TEMPERATURE = 500.0
"""K, of single chains and of peers; dmu is 0 there."""
ISING_TEMPERATURE = 2.4
"""J/k_B."""
TEMPERATURES = 32
"""Temperatures of the grid; its other axis is dmu."""

# quantity: what the table calls it, and which quantity of the peers it is compared with
QUANTITIES = {
    "grid": ("trial flips/s, grid", "trials"),
    "single": ("trial flips/s, one chain", "trials"),
    "totals": ("total energies/s", "totals"),
    "metadynamics": ("metadynamics steps/s", "metadynamics"),
    "wang_landau": ("Wang-Landau steps/s", "wang_landau"),
}
STAGES = ("place the expansion", "make the chains", "first sweep")
"""Stages of a fresh process whose peak memory the table gives."""
# (quantity, peer): ratio asked for on Ag-Pd with AVX-512 and with AVX2 alone
TARGETS = {
    ("grid", "CLEASE"): (2000.0, 600.0),
    ("single", "CLEASE"): (10.0, 10.0),
    ("totals", "CLEASE"): (1000.0, 1000.0),
    ("metadynamics", "CLEASE"): (300.0, 300.0),
    ("wang_landau", "icet"): (100.0, 100.0),
}


@dataclass(frozen=True)
class Case:
    """A system on a cell.

    Attributes:
        name: what `--cases` calls it.
        title: what the table calls it.
        source: option that names its expansion file, or None for the Ising model.
        repeat: supercell in primitive vectors.
        quantities: what is measured.
    """

    name: str
    title: str
    source: str | None
    repeat: tuple[int, int, int]
    quantities: tuple[str, ...]


CASES = (
    Case("agpd-125", "Ag-Pd, 125 sites", "agpd", (5, 5, 5), tuple(QUANTITIES)),
    Case("agpd-512", "Ag-Pd, 512 sites", "agpd", (8, 8, 8), ("grid", "single", "totals", "metadynamics")),
    Case("agpd-1728", "Ag-Pd, 1728 sites", "agpd", (12, 12, 12), ("grid", "single", "totals", "metadynamics")),
    Case("cuau-128", "Cu-Au, 128 sites", "cuau", (8, 4, 4), tuple(QUANTITIES)),
    Case("ising-10", "Ising 10x10", None, (10, 10, 1), ("grid", "single", "totals", "wang_landau")),
    Case("ising-20", "Ising 20x20", None, (20, 20, 1), ("grid", "single", "totals")),
)


@dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
        seconds: processor time of one turn.
        rounds: turns of every code.
        chains: chains of the grid and walkers of metadynamics, a multiple of `TEMPERATURES`.
        walkers: of our Wang-Landau runs.
    """

    seconds: float = 5.0
    rounds: int = 2
    chains: int = 2048
    walkers: int = 16


@dataclass
class Row:
    """Runs of one quantity in one case: operations per second by code, and our ratios to the other codes."""

    case: str
    quantity: str
    runs: dict[str, list[float]]
    targets: dict[str, float]
    variant: str = ""
    medians: dict[str, float] = field(init=False)
    ratios: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.medians = {code: float(np.median(values)) for code, values in self.runs.items()}
        ours = self.medians[OURS]
        self.ratios = {code: ours / value for code, value in self.medians.items() if code != OURS}


@dataclass
class Report:
    """Everything a run found."""

    machine: dict[str, Any]
    budget: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    setup: list[dict[str, Any]] = field(default_factory=list)
    startup: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


# ---- measuring ----------------------------------------------------------------------------------------------------
def _timed(work: Work, n: int) -> tuple[int, float]:
    start = time.process_time()
    done = work(n)
    return done, max(time.process_time() - start, 1e-9)


def measure_rate(work: Work, seconds: float) -> float:
    """Return operations per second of processor time over a run of about `seconds`; the first call is not counted."""
    work(1)
    n = 1
    while (spent := _timed(work, n)[1]) < seconds / 10:
        n = max(n + 1, min(4 * n, int(n * seconds / 5 / spent)))
    done, spent = _timed(work, max(1, round(n * seconds / spent)))
    return done / spent


def fastest(works: Mapping[str, Work], seconds: float) -> str:
    """Return the name of the fastest of several ways to do the same."""
    return max(works, key=lambda name: measure_rate(works[name], seconds)) if len(works) > 1 else next(iter(works))


# ---- our side -----------------------------------------------------------------------------------------------------
def grid_conditions(chains: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return temperatures (K) and dmu (eV) of a grid of `chains` conditions, shape (chains,) each."""
    if chains % TEMPERATURES:
        raise SystemExit(f"--chains: expected a multiple of {TEMPERATURES}, found {chains}")
    reach = 7.0 * BOLTZMANN_EV_PER_K * temperature
    t, dmu = np.meshgrid(
        np.linspace(0.5, 2.5, TEMPERATURES) * temperature, np.linspace(-reach, reach, chains // TEMPERATURES)
    )
    return t.ravel(), dmu.ravel()


class Ours:
    """segalflow on one cell: for every quantity the ways to get it, by name."""

    def __init__(self, expansion: ClusterExpansion, cell: Supercell, temperature: float, budget: Budget) -> None:
        self.temperature, self.budget = temperature, budget
        self.model = place_expansion(expansion, cell)
        t, dmu = grid_conditions(budget.chains, temperature)
        self.grid = LockstepChains(self.model, t, dmu, seed=1, rule="metropolis")

    def energy(self, occupations: np.ndarray) -> float:
        """Return the total energy, eV."""
        return float(self.model.energy(occupations[None])[0])

    def works(self, quantity: str, energy_bin: float) -> dict[str, Work]:
        """Return the ways to get a quantity."""
        return getattr(self, f"_{quantity}")(energy_bin)

    def _sweeps(self, chains: LockstepChains) -> Work:
        def work(n: int) -> int:
            chains.sweep(n)
            return n * self.model.n_sites * chains.n_chains

        return work

    def _grid(self, _: float) -> dict[str, Work]:
        spins = np.random.default_rng(0).choice([-1, 1], (self.grid.n_chains, self.model.n_sites))
        self.grid.set_spins(spins.astype(np.int8))
        return {"lock step": self._sweeps(self.grid)}

    def _single(self, _: float) -> dict[str, Work]:
        one = np.array([self.temperature])
        chain = LockstepChains(self.model, one, np.zeros(1), seed=1, rule="metropolis")
        alone = SingleChain(self.model, self.temperature, 0.0, seed=1)
        alone.spins = np.random.default_rng(0).choice([-1, 1], self.model.n_sites)

        def steps(n: int) -> int:
            alone.run(n * self.model.n_sites)
            return n * self.model.n_sites

        return {"lock step, one chain": self._sweeps(chain), "single chain": steps}

    def _totals(self, _: float) -> dict[str, Work]:
        n_chains, n_sites = self.grid.n_chains, self.model.n_sites
        spins = np.random.default_rng(0).choice([-1, 1], (n_chains, n_sites)).astype(np.int8)

        def lock_step(n: int) -> int:
            for _ in range(n):
                self.grid.set_spins(spins)
                self.grid.energies()
            return n * n_chains

        def plain(n: int) -> int:
            for _ in range(n):
                self.model.energy_of_spins(spins[:64])
            return n * 64

        return {"lock step": lock_step, "plain batch": plain}

    def _metadynamics(self, _: float) -> dict[str, Work]:
        n_chains, n_sites = self.grid.n_chains, self.model.n_sites
        t = np.linspace(0.5, 2.5, TEMPERATURES) * self.temperature
        row = np.repeat(np.arange(TEMPERATURES), n_chains // TEMPERATURES)
        walkers = LockstepChains(self.model, t[row], np.zeros(n_chains), seed=1)
        rng = np.random.default_rng(0)
        walkers.set_spins(np.where(rng.random((n_chains, n_sites)) < rng.random((n_chains, 1)), 1, -1))
        bias = np.zeros((TEMPERATURES, n_sites + 1))
        visits = np.zeros((n_chains, n_sites + 1), dtype=np.int64)

        def work(n: int) -> int:
            walkers.biased_sweep(n, bias, row, 1e-3, visits)
            return n * n_sites * n_chains

        return {"lock step": work}

    def _wang_landau(self, energy_bin: float) -> dict[str, Work]:
        def work(n: int) -> int:
            with contextlib.redirect_stderr(io.StringIO()):  # no progress bars
                states = density_of_states(
                    self.model,
                    seed=1,
                    bin_width=energy_bin,
                    walkers=self.budget.walkers,
                    final_log_f=1e-12,
                    max_sweeps=1000 * n,
                    production_sweeps=1,
                    by_composition=False,
                )
            return int(states.steps.sum())

        return {"density_of_states": work}


def reference_loop(model: SpinPolynomial, temperature: float) -> Work:
    """Plain single-chain Metropolis of a pair model: a loop over a table of neighbours, as a textbook has it."""
    table = model.site_table
    degree = int(np.diff(table.start)[0])
    neighbours = np.ascontiguousarray(table.others[:, 0].reshape(model.n_sites, degree))
    spins = np.random.default_rng(0).choice([-1, 1], model.n_sites).astype(np.int8)
    coupling = float(table.coefficient[0]) / (model.boltzmann * temperature)

    def work(n: int) -> int:
        _textbook(spins, neighbours, coupling, n)
        return n * model.n_sites

    return work


@numba.njit
def _textbook(spins, neighbours, coupling, sweeps):  # pragma: no cover - compiled
    for _ in range(sweeps * spins.shape[0]):
        i = np.random.randint(spins.shape[0])  # noqa: NPY002 - inside numba
        field = 0
        for k in range(neighbours.shape[1]):
            field += spins[neighbours[i, k]]
        gain = 2.0 * coupling * spins[i] * field
        if gain >= 0.0 or np.random.random() < np.exp(gain):  # noqa: NPY002
            spins[i] = -spins[i]


# ---- a case -------------------------------------------------------------------------------------------------------
def ising_expansion() -> ClusterExpansion:
    """Return ``U = -sum_<ij> s_i s_j`` on the square lattice, in eV."""
    lattice = parent_lattice("square", 1.0, ("Ag", "Au"))
    figures = np.array([[[0, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 0]]])
    pairs = Cluster("c2", 2, 1.0, figures, np.zeros((2, 2), dtype=np.int64), -2.0)
    return ClusterExpansion(lattice, (((-1.0, 1.0),),), (pairs,), {"kind": "toy"})


class Bench:
    """Runs cases; peers are prepared once for each expansion."""

    def __init__(self, budget: Budget, report: Report, peers: Sequence[str] = tuple(PEERS)) -> None:
        self.budget, self.report, self.names = budget, report, peers
        self._prepared: dict[int, dict[str, Any]] = {}

    def note(self, text: str) -> None:
        """Add a sentence below the table."""
        if text not in self.report.notes:
            self.report.notes.append(text)

    def _peers(self, case: Case, expansion: ClusterExpansion) -> dict[str, Any]:
        if id(expansion) not in self._prepared:
            made = {}
            for name in self.names:
                _say(f"{case.title}: {name}'s clusters")
                try:
                    with quiet():
                        made[name] = PEERS[name](expansion)
                except Unavailable as error:
                    self.note(f"{case.title.split(',')[0]}: {name} left out: {error}.")
                except ImportError as error:
                    self.note(f"{name} left out: it is not installed ({error}).")
            self._prepared[id(expansion)] = made
        return self._prepared[id(expansion)]

    def run(self, case: Case, expansion: ClusterExpansion, quantities: Sequence[str]) -> None:
        """Check energies, take turns and add the rows of one case."""
        cell = Supercell(expansion.lattice, case.repeat)
        temperature = TEMPERATURE if case.source else ISING_TEMPERATURE / BOLTZMANN_EV_PER_K
        energy_bin = 0.5 * BOLTZMANN_EV_PER_K * temperature if case.source else 4.0
        occupations = np.random.default_rng(0).integers(0, 2, cell.n_sites)
        prepared = self._peers(case, expansion)
        start = time.process_time()
        ours = Ours(expansion, cell, temperature, self.budget)
        setup = {"case": case.title, OURS: time.process_time() - start}
        ours.energy(occupations)
        on_cell: dict[str, OnCell] = {}
        for name, peer in prepared.items():
            _say(f"{case.title}: {name} on the cell")
            start = time.process_time()
            with quiet():
                on_cell[name] = peer.on_cell(cell, occupations, temperature, energy_bin)
            setup[name] = time.process_time() - start
            other = np.random.default_rng(1).integers(0, 2, cell.n_sites)
            difference = on_cell[name].energy(other) - ours.energy(other)
            if abs(difference) > TOLERANCE:
                raise SystemExit(f"error: {case.title}: energies of {name} and {OURS} differ by {difference:.2e} eV")
        self.report.setup.append(setup)
        works: dict[tuple[str, str], Work] = {}  # (code, quantity of peers or ours)
        for name, peer in on_cell.items():
            works |= {(name, what): work for what, work in peer.works.items()}
        if case.source is None:
            works["plain loop", "trials"] = reference_loop(ours.model, temperature)
        variants = {}
        for quantity in quantities:
            ways = ours.works(quantity, energy_bin)
            variants[quantity] = fastest(ways, self.budget.seconds / 5)
            works[OURS, quantity] = ways[variants[quantity]]
        runs: dict[tuple[str, str], list[float]] = {}
        for group in dict.fromkeys(QUANTITIES[q][1] for q in quantities):
            # What is compared runs side by side: A-B-A-B.
            keys = [key for key in works if key[1] == group and key[0] != OURS]
            keys += [(OURS, q) for q in quantities if QUANTITIES[q][1] == group]
            for turn in range(self.budget.rounds):
                for code, what in keys:
                    with quiet():
                        rate = measure_rate(works[code, what], self.budget.seconds)
                    runs.setdefault((code, what), []).append(rate)
                    _say(f"{case.title}: turn {turn + 1}, {code}, {what}: {rate:.3g}/s")
        vectors = self.report.machine["compiled_for"] == "AVX-512"
        for quantity in quantities:
            theirs = {code: v for (code, what), v in runs.items() if what == QUANTITIES[quantity][1] and code != OURS}
            targets = {c: t[0 if vectors else 1] for (q, c), t in TARGETS.items() if q == quantity}
            self.report.rows.append(
                Row(
                    case.title,
                    quantity,
                    theirs | {OURS: runs[OURS, quantity]},
                    targets if case.source == "agpd" else {},
                    variants[quantity],
                )
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- a fresh process ----------------------------------------------------------------------------------------------
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
            _say(f"a fresh process, {name}")
            command = [sys.executable, str(HERE / "monte_carlo.py"), "--start-up", str(expansion)]
            command += [*map(str, repeat), "--chains", str(chains)]
            environment = os.environ | {"NUMBA_CACHE_DIR": cache}
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(output)
    return found


# ---- the machine --------------------------------------------------------------------------------------------------
def machine() -> dict[str, Any]:
    """Return processor, vector extensions, versions and how busy the machine was."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x), model)
    features = dict(binding.get_host_cpu_features())
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512vnni": "VNNI", "gfni": "GFNI"}
    chosen = os.environ.get("NUMBA_CPU_NAME", "")
    wide = bool(features.get("avx512f")) and not chosen
    narrow = "AVX2" if features.get("avx2") else "no AVX2"
    return {
        "processor": f"{model} ({binding.get_host_cpu_name()})",
        "extensions": [name for key, name in known.items() if features.get(key)],
        "compiled_for": "AVX-512" if wide else f"{narrow} alone" + (f" (NUMBA_CPU_NAME={chosen})" if chosen else ""),
        "load": os.getloadavg()[0],
        "versions": {name: _version(name) for name in ("clease", "icet", "smol", "numba", "numpy", OURS)},
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pin(core: int | None) -> None:
    """Keep every thread of this process, and so its children, on one core (where the system can)."""
    if not hasattr(os, "sched_setaffinity"):
        return
    core = max(os.sched_getaffinity(0)) if core is None else core
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that are loaded later


# ---- the table ----------------------------------------------------------------------------------------------------
def _number(value: float) -> str:
    return f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-") if value >= 1000 else f"{value:.3g}"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def markdown(report: Report) -> str:
    """Return the tables and sentences of a report in Markdown."""
    about, budget = report.machine, report.budget
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    busy = "" if about["load"] < 0.5 else f" **Other work was running (load {about['load']:.1f}).**"
    text = [
        f"{about['date']}, {about['processor']}, {', '.join(about['extensions']) or 'no vector extensions'}; "
        f"our code compiled for {about['compiled_for']}; {versions}, Python {about['python']}. One core; "
        f"{budget['rounds']} turns of {budget['seconds']:g} s of processor time; {budget['chains']} chains.{busy}",
    ]
    codes = [c for c in (*PEERS, "plain loop") if any(c in row.runs for row in report.rows)]
    lines = []
    for row in report.rows:
        goals = []
        for code, target in row.targets.items():
            if code in row.ratios:
                goals.append(f">= {target:g} x {code}: {'yes' if row.ratios[code] >= target else 'no'}")
        lines.append(
            [row.case, QUANTITIES[row.quantity][0]]
            + [_number(row.medians[code]) if code in row.medians else "-" for code in codes]
            + [_number(row.medians[OURS]) + f" ({row.variant})"]
            + [f"**{_number(row.ratios[code])}**" if code in row.ratios else "-" for code in codes]
            + ["; ".join(goals) or "-"]
        )
    if lines:
        header = ["system", "quantity", *codes, OURS, *(f"ratio to {code}" for code in codes), "asked for"]
        text.append(_markdown(header, lines))
    if report.setup:
        names = [c for c in (*PEERS, OURS) if any(c in entry for entry in report.setup)]
        lines = [
            [entry["case"], *(f"{entry[name]:.2g}" if name in entry else "-" for name in names)]
            for entry in report.setup
        ]
        text.append("Set-up on the cell, s (clusters known; ours with all chains of the grid):")
        text.append(_markdown(["system", *names], lines))
    if report.startup:
        cold, warm = report.startup["compiling"], report.startup["cached"]
        compiled = "; ".join(f"{kind} {seconds:.2g} s" for kind, seconds in cold["first_calls_s"].items())
        cached = "; ".join(f"{kind} {seconds:.2g} s" for kind, seconds in warm["first_calls_s"].items())
        peaks = ", ".join(f"{name} {warm['peak_memory_mb'][name]:.0f}" for name in STAGES)
        text.append(
            f"A fresh process, {warm['n_sites']} sites, {warm['chains']} chains: set-up {warm['setup_s']:.2g} s; "
            f"{warm['memory_mb']:.0f} MB beside {warm['imports_mb']:.0f} MB of imports "
            f"(peak after each stage: {peaks}); first call beyond a second one: {compiled} (empty cache), "
            f"{cached} (cached)."
        )
    text += report.notes
    return "\n\n".join(text)


def write_readme(table: str, readme: Path) -> None:
    """Put the table between the markers of a file.

    Raises:
        SystemExit: if the markers are not there.
    """
    content = readme.read_text()
    begin, end = (content.find(marker) for marker in MARKERS)
    if not 0 <= begin < end:
        raise SystemExit(f"error: {readme} does not hold the lines {MARKERS[0]} and {MARKERS[1]}")
    readme.write_text(content[: begin + len(MARKERS[0])] + f"\n\n{table}\n\n" + content[end:])


# ---- the command --------------------------------------------------------------------------------------------------
def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line."""
    reference = os.environ.get("SEGALFLOW_REFERENCE", os.path.relpath(HERE.parents[1] / "shared" / "reference"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, default=Path(reference), help="folder of the published expansions")
    parser.add_argument("--agpd", type=Path, help="Ag-Pd expansion (default REFERENCE/agpd/eci_published.json)")
    parser.add_argument("--cuau", type=Path, help="Cu-Au expansion (default REFERENCE/cuau/eci_published.json)")
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--quantities", nargs="+", choices=list(QUANTITIES), default=list(QUANTITIES))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    default = Budget()
    parser.add_argument("--seconds", type=float, help=f"processor time of a turn (default {default.seconds:g})")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="turns of every code")
    parser.add_argument("--chains", type=int, default=default.chains, help="chains of the grid")
    parser.add_argument("--walkers", type=int, help=f"of our Wang-Landau runs (default {default.walkers})")
    parser.add_argument("--quick", action="store_true", help="turns of 0.5 s, 4 walkers: rough figures")
    parser.add_argument("--core", type=int, help="core to run on (default: the last one)")
    parser.add_argument("--no-start-up", action="store_true", help="skip memory and compilation in fresh processes")
    parser.add_argument("--json", type=Path, help="file for all runs and ratios (default: standard output)")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--start-up", nargs=4, metavar=("FILE", "N", "N", "N"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    chosen.seconds = chosen.seconds or (0.5 if chosen.quick else default.seconds)
    chosen.walkers = chosen.walkers or (4 if chosen.quick else default.walkers)
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print the table and JSON."""
    chosen = parse(arguments)
    if chosen.start_up:
        file, *repeat = chosen.start_up
        print(json.dumps(start_up(Path(file), [int(n) for n in repeat], chosen.chains)))
        return
    for name in ("icet", "clease"):
        logging.getLogger(name).setLevel(logging.ERROR)
    budget = Budget(chosen.seconds, chosen.rounds, chosen.chains, chosen.walkers)
    report = Report(machine(), dataclasses.asdict(budget))
    bench = Bench(budget, report, chosen.peers)
    files = {name: getattr(chosen, name) or chosen.reference / name / "eci_published.json" for name in ("agpd", "cuau")}
    expansions: dict[str | None, ClusterExpansion] = {None: ising_expansion()}
    for case in CASES:
        quantities = [q for q in case.quantities if q in chosen.quantities]
        if case.name not in chosen.cases or not quantities:
            continue
        if case.source is not None and case.source not in expansions:
            if not files[case.source].is_file():
                bench.note(f"{case.title} left out: no file {files[case.source]} (see --reference, --{case.source}).")
                continue
            expansions[case.source] = read_expansion(files[case.source])
        bench.run(case, expansions[case.source], quantities)
    if not chosen.no_start_up and files["agpd"].is_file():
        report.startup = fresh_processes(files["agpd"], (12, 12, 12), budget.chains)
    table = markdown(report)
    print(table)
    content = json.dumps(dataclasses.asdict(report), indent=None if chosen.json is None else 1)
    if chosen.json is None:
        print(f"\n{content}")
    else:
        chosen.json.write_text(content + "\n")
    if chosen.write:
        write_readme(table, HERE / "README.md")


if __name__ == "__main__":
    pin(parse(None).core)
    main()
