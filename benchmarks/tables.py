"""What a run of the Monte Carlo benchmark found, and its tables in Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding
from peers import PEERS

MARKERS = ("<!-- monte_carlo.py --write: begin -->", "<!-- monte_carlo.py --write: end -->")
OURS = "segalflow"

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


_GIVEN = ("case", "quantity", "runs", "targets", "variant")


@dataclass
class Report:
    """Everything a run found."""

    machine: dict[str, Any]
    budget: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    setup: list[dict[str, Any]] = field(default_factory=list)
    startup: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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


def with_earlier(report: Report, earlier: dict[str, Any]) -> Report:
    """Return a report with the rows, set-up times and start-up of an earlier one that it has not measured itself.

    A sentence says which rows are new and what the others are from.

    Args:
        report: the new report.
        earlier: a report as the JSON file holds it.
    """
    new = {(row.case, row.quantity) for row in report.rows}
    rows = {(r["case"], r["quantity"]): Row(**{k: r[k] for k in _GIVEN}) for r in earlier["rows"]}
    rows |= {(row.case, row.quantity): row for row in report.rows}
    setup = {entry["case"]: entry for entry in [*earlier["setup"], *report.setup]}
    measured = "; ".join(f"{case}: {QUANTITIES[quantity][0]}" for case, quantity in rows if (case, quantity) in new)
    about, budget = earlier["machine"], earlier["budget"]
    notes = [
        f"New in this run: {measured or 'no rows'}. The other rows are of {about['date']} ({about['processor']}, "
        f"{budget['rounds']} turns of {budget['seconds']:g} s, load {about['load']:.1f})."
    ]
    kept = [note for note in earlier["notes"] if note not in report.notes and not note.startswith("New in this run")]
    return Report(
        report.machine, report.budget, list(rows.values()), list(setup.values()), report.startup or earlier["startup"],
        [*notes, *kept, *report.notes],
    )  # fmt: skip


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
