"""Monte Carlo side by side: CLEASE, icet, smol and segalflow, same expansion, same cell, same core, one process.

    python benchmarks/monte_carlo.py                 # published expansions of the reference folder
    python benchmarks/monte_carlo.py --quick --cases agpd-125
    python benchmarks/monte_carlo.py --write         # puts the table into benchmarks/README.md

Energies of all codes on a random decoration must agree before anything is timed. Codes take turns (A-B-A-B); a figure
is the median of the turns, in operations per second of processor time of this process, which is pinned to one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fresh_process import fresh_processes
from ours import (
    ISING_TEMPERATURE,
    TEMPERATURE,
    Budget,
    Ours,
    fastest,
    ising_expansion,
    measure_rate,
    reference_loop,
)
from peers import PEERS, TOLERANCE, OnCell, Unavailable, Work, quiet
from tables import OURS, QUANTITIES, TARGETS, Report, Row, machine, markdown, with_earlier, write_readme

from segalflow.expansion.hamiltonian import ClusterExpansion, read_expansion
from segalflow.lattice import Supercell
from segalflow.units import BOLTZMANN_EV_PER_K

HERE = Path(__file__).resolve().parent


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


def pin(core: int | None) -> None:
    """Keep every thread of this process, and so its children, on one core (where the system can)."""
    if not hasattr(os, "sched_setaffinity"):
        return
    core = max(os.sched_getaffinity(0)) if core is None else core
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that are loaded later


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
    parser.add_argument("--update", action="store_true", help="keep what --json holds of rows that are not run now")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    chosen = parser.parse_args(arguments)
    if chosen.update and not (chosen.json and chosen.json.is_file()):
        parser.error("--update needs the JSON file of an earlier run (--json)")
    chosen.seconds = chosen.seconds or (0.5 if chosen.quick else default.seconds)
    chosen.walkers = chosen.walkers or (4 if chosen.quick else default.walkers)
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print the table and JSON."""
    chosen = parse(arguments)
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
    report.machine["load"] = max(report.machine["load"], os.getloadavg()[0])
    if chosen.update:
        report = with_earlier(report, json.loads(chosen.json.read_text()))
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
