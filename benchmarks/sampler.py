"""How well SEGAL samples: effective sample sizes over the full published grids, training time, energy evaluations.

    python benchmarks/sampler.py                                # Cu-Au 16 and 128, Ag-Pd 27 and 125, Ising 10x10
    python benchmarks/sampler.py --systems cuau-512 --write     # any other of `SYSTEMS`: one command each
    python benchmarks/sampler.py --systems cuau-1000 cuau-4096 --keep nets --write   # the second from the first

For every system the network is trained, the grid is swept by importance sampling with the defensive mixture, and the
proposal is scored from both sides (its own draws, and a replica-exchange pool that never saw it); the lower of both
counts. Cells of 16 and 27 sites are also scored exactly (`exact_ness`), and their log Z and x are compared with exact
sums, from as many draws as that takes (`precise_errors`). `--keep` keeps trained networks in a folder and takes them
from there: a measurement can be repeated, or a larger cell started, without training again. `--networks physics paper`
also runs the paper's network (masked, reverse KL, as it draws) with the same training time, `--networks paper` that one
alone beside a kept one. Times are processor seconds of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from exact_ness import exact_ness, levels_of

from segalflow.energy.polynomial import SpinPolynomial, ising_polynomial, place_expansion
from segalflow.ensemble import lower_ness
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.expansion.published import with_pure_zero
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.importance import sample_importance
from segalflow.sampling.proposal import choose_operations
from segalflow.sampling.transfer_matrix import sample_transfer_matrix
from segalflow.segal.checkpoint import read_sampler, write_sampler
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.symmetry import check_symmetry
from segalflow.segal.training import train
from segalflow.thermo.free_energy import free_energy_of_samples
from segalflow.thermo.pooling import pool_samples

BEGIN, END = "<!-- sampler.py --write: begin -->", "<!-- sampler.py --write: end -->"
README = Path(__file__).with_name("README.md")
KEPT = Path(__file__).with_name("sampler.json")
CUAU = (np.linspace(200, 1200, 21), np.linspace(-0.24, 0.24, 41))
AGPD = (np.linspace(200, 900, 15), np.linspace(-0.4, 0.4, 41))
ISING = (np.linspace(1.5, 3.5, 21), np.linspace(-0.8, 0.8, 17))


@dataclass(frozen=True)
class System:
    """A cell with the grid it is judged on, `steps` of training, `draws` a condition, and its own settings.

    `start` names the system whose network is the first one; `sweep` holds settings of importance sampling; `precise`
    are the first draws a condition for log Z and x against the exact sum (`precise_errors`).
    """

    expansion: str | None
    repeat: tuple[int, int, int]
    grid: tuple[np.ndarray, np.ndarray]
    steps: int
    sizes: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    draws: int = 1000
    sweep: dict[str, Any] = field(default_factory=dict)
    precise: int = 0


WIDE = {"window": 7.7}
"""For cells of 250 sites and more: the next 140 sites."""
SHARED = WIDE | {"site_features": 24}
"""For cells of 500 sites and more: what belongs to single sites by what they see."""
LARGE = {"refresh_every": 10, "site_groups": 4}
"""Draws cost more than steps there, and steps of a quarter of the sites are better than a quarter of the steps."""
TUNE = {"refresh_every": 20, "learning_rate": 0.002, "pool_sweeps": 100, "colder": 0}
"""For a cell that starts from a smaller one's network."""


def symmetrised(below: float, pool_samples: int = 256) -> dict[str, Any]:
    """Settings of the sweep: the proposal averaged over 8 operations where it is weaker, and size of the p side."""
    return {"symmetrise_below": below, "pool_samples": pool_samples}


SYSTEMS = {
    "ising-10": System(None, (10, 10, 1), ISING, 4500, sweep=symmetrised(0.99), precise=2000),
    "ising-20": System(None, (20, 20, 1), ISING, 4800, {"window": 5.0}),
    "cuau-16": System("cuau", (2, 2, 4), CUAU, 6000, sweep=symmetrised(0.9), precise=10000),
    "cuau-128": System("cuau", (8, 4, 4), CUAU, 16000, sweep=symmetrised(0.98)),
    "cuau-128-long": System("cuau", (8, 4, 4), CUAU, 54000, sweep=symmetrised(0.98)),
    "cuau-256": System("cuau", (8, 8, 4), CUAU, 15000, WIDE, sweep=symmetrised(0.97)),
    "cuau-512": System("cuau", (8, 8, 8), CUAU, 28000, SHARED, LARGE, sweep=symmetrised(0.97)),
    "cuau-1000": System(
        "cuau", (10, 10, 10), CUAU, 36000, SHARED, LARGE | {"site_groups": 8}, sweep=symmetrised(0.97, 128)
    ),
    "cuau-4096": System(
        "cuau", (16, 16, 16), CUAU, 20000, SHARED, TUNE | {"site_groups": 32}, "cuau-1000", sweep=symmetrised(0.0, 64)
    ),
    "agpd-27": System("agpd", (3, 3, 3), AGPD, 30000, sweep=symmetrised(0.9), precise=20000),
    "agpd-125": System("agpd", (5, 5, 5), AGPD, 14000, sweep=symmetrised(0.975)),
    "agpd-125-long": System("agpd", (5, 5, 5), AGPD, 45000, sweep=symmetrised(0.975)),
}
DEFAULT = ("ising-10", "cuau-16", "agpd-27", "cuau-128", "agpd-125")
TRAINING = {
    "objective": "likelihood",
    "batch": 64,
    "learning_rate": 0.006,
    "conditions": "grid",
    "colder": 2,
    "pool_sweeps": 500,
    "sweeps_per_round": 4,
    "refresh_every": 5,
    "adaptive": True,
    "ness_target": None,
    "checkpoint_every": 10**9,
}
LOG_Z_ERROR = 2.5e-5
"""Standard error of log Z per site up to which `precise_errors` draws; the largest of 861 is some 3.5 times that."""
PAPER_DRAWS, PAPER_SITES = 200, 25600
"""Draws a condition of the paper's network, and sites of them: enough to see what it is worth, and slow to make."""
PAPER = {**TRAINING, "objective": "reverse_kl", "learning_rate": 0.001}


def place(system: System, reference: Path) -> tuple[SpinPolynomial, Supercell]:
    """Return the energy and the cell of a system."""
    if system.expansion is None:
        cell = Supercell(parent_lattice("square", 1.0, ["down", "up"]), system.repeat)
        return ising_polynomial(cell), cell
    expansion = read_expansion(reference / system.expansion / "eci_published.json")
    if system.expansion == "cuau":  # its tables count from its own pure elements
        expansion = with_pure_zero(expansion)
    cell = Supercell(expansion.lattice, system.repeat)
    return place_expansion(expansion, cell), cell


def exact_sums(name: str, system: System, model: SpinPolynomial, cell: Supercell) -> tuple[np.ndarray, ...] | None:
    """Return the exact log Z and composition over the grid where they can be had."""
    species = cell.lattice.species[0]
    if model.n_sites <= 27:
        table = enumerate_exactly(model, species, *system.grid)
    elif name == "ising-10":
        table = sample_transfer_matrix(system.repeat[:2], species, *system.grid)
    else:
        return None
    return table["log_z"].values, table["composition"].values[..., 1]


def precise_errors(
    system: System, sampler: TrainedSampler, exact: tuple[np.ndarray, ...]
) -> tuple[float, dict[str, float], float]:
    """Return the largest error of log Z per site over the grid, of x at 250 and 750 K, and the mean number of draws.

    Every condition gets `System.precise` draws and more until its stated error of log Z per site is `LOG_Z_ERROR`; x is
    of the first draws of all conditions, pooled by multistate reweighting as in the workflow.
    """
    temperature, mu = system.grid
    collected: list[Any] = []
    table = sample_importance(
        sampler, sampler.cell.lattice.species[0], temperature, mu, seed=4, samples_per_condition=system.precise,
        max_factor=200, log_z_error=LOG_Z_ERROR, repair="none", keep_samples=system.precise, collect=collected.append,
        **{**system.sweep, "pool_sweeps": 0},
    )  # fmt: skip
    log_z = float(np.abs(table["log_z"].values - exact[0]).max()) / sampler.n_sites
    draws = float(table["n_samples"].mean())
    own = {f"{t:.0f}": int(np.flatnonzero(temperature == t)[0]) for t in (250.0, 750.0) if t in temperature}
    if not own:
        return log_z, {}, draws
    free = free_energy_of_samples(pool_samples(collected.pop(), table), table, replicates=2)
    x_error = np.abs(free.observables(mu)["composition"][..., 1] - exact[1]).max(axis=1)
    return log_z, {name: float(x_error[t]) for name, t in own.items()}, draws


def measure(
    name: str,
    reference: Path,
    steps: int | None,
    draws: int | None,
    networks: Sequence[str],
    keep: Path | None,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Train, sweep and report one system by each of `networks`: ``physics``, ``paper``.

    The paper's network trains as long as the other did, and draws without symmetrisation, as in the paper.
    """
    system = SYSTEMS[name]
    model, cell = place(system, reference)
    exact = exact_sums(name, system, model, cell)
    settings = {**TRAINING, **system.training, "steps": steps or system.steps}
    kinds = {
        "physics": ({"kind": "physics", "sizes": system.sizes}, settings),
        "paper": ({"kind": "made", "sizes": {"layers": 3, "width": 2, "activation": "sigmoid"}}, {**PAPER, "steps": 0}),
    }
    seconds = 0.0
    for label, (network, training) in kinds.items():
        if label == "paper" and label not in networks:
            continue
        if label == "paper":
            training = {**training, "steps": _steps_in(seconds, model, cell, system, network, training)}
        sampler, spent = trained(name, system, model, cell, network, training, reference, keep)
        for _ in range(3 * (label == "paper")):  # where trials took its steps for slower or faster than they are
            if abs(spent - seconds) <= 0.1 * seconds:
                break
            training = {**training, "steps": max(20, int(training["steps"] * seconds / spent))}
            sampler, spent = trained(name, system, model, cell, network, training, reference, keep)
        seconds = seconds or spent
        if label not in networks:
            continue
        start = time.process_time()
        n = draws or system.draws
        sweep = system.sweep
        if label == "paper":
            n = min(n, PAPER_DRAWS, PAPER_SITES // model.n_sites)
            sweep = {**sweep, "symmetrise_below": 0.0}
        table = sample_importance(
            sampler,
            cell.lattice.species[0],
            *system.grid,
            seed=2,
            samples_per_condition=n,
            max_factor=1,
            repair="none",
            **sweep,
        )
        swept = time.process_time() - start
        ness = lower_ness(table)
        error, x_errors, exactly, for_log_z = None, {}, None, None
        if exact is not None:
            error, for_log_z = float(np.abs(table["log_z"].values - exact[0]).max() / model.n_sites), float(n)
        if system.precise and label == "physics":
            error, x_errors, for_log_z = precise_errors(system, sampler, exact)
        if model.n_sites <= 27 and label == "physics":
            operations = choose_operations(sampler, system.sweep.get("symmetries", 8), np.random.default_rng(5))
            below = system.sweep.get("symmetrise_below", 0.5)
            exactly = exact_ness(sampler, levels_of(model), system.grid, operations, below)
        symmetry = check_symmetry(sampler, *system.grid, seed=3, flip_at=0.0 if model.is_even else None)
        report(
            {
                "system": name,
                "network": label,
                "steps": training["steps"],
                "train_s": spent,
                "sweep_s": swept,
                "draws": n,
                "symmetry_r2": symmetry.r_squared,
                "symmetry_r2_flipped": symmetry.r_squared_flipped if symmetry.flipped.any() else None,
                "evaluations": float(sampler.history["energy_evaluations"].iloc[-1]),
                "q": _quantiles(table["ness"].values),
                "p": _quantiles(table["ness_p"].values),
                "lower": _quantiles(ness),
                "above_0.01": float((ness > 0.01).mean()),
                "above_0.1": float((ness > 0.1).mean()),
                "above_0.5": float((ness > 0.5).mean()),
                "log_z_error_per_site": error,
                "log_z_draws": for_log_z,
                "x_errors": x_errors,
                "exact_ness": None if exactly is None else _quantiles(exactly),
            }
        )


def ground_states(reference: Path) -> str:
    """Return a sentence on Cu-Au 16 at 5 K: share of draws in the minimum of U - dmu N, and distinct ground states.

    T -> 0: at 20 K the exact share is 39 % at the field 0.4 meV from where Au3Cu and Au meet, at 5 K 92 %.
    """
    model, cell = place(SYSTEMS["cuau-16"], reference)
    # 36 fields as in the paper, and one inside the narrow window of Au3Cu.
    fields = np.sort(np.append(np.linspace(-0.24, 0.24, 36), 0.0724))
    training = {**TRAINING, "steps": 6000, "colder": 0}
    temperature = np.geomspace(5, 1200, 22)
    sampler = train(model, cell, temperature, fields, network={"kind": "physics"}, training=training, seed=1)
    states = (2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1) - 1).astype(np.int8)
    energy, n_plus = model.energy_of_spins(states), (states > 0).sum(1)
    shares, found = [], {4: set(), 8: set(), 12: set()}
    for mu in fields:
        lowest = (energy - mu * n_plus).min()
        spins, _, drawn = sampler.sample(np.full(1000, 5.0), np.full(1000, mu), 5)
        hit = drawn - mu * (spins > 0).sum(1) < lowest + 1e-6
        shares.append(float(hit.mean()))
        for row in np.unique(spins[hit], axis=0):
            found.setdefault(int((row > 0).sum()), set()).add(row.tobytes())
    return (
        f"Cu-Au 16 at 5 K, {len(fields)} fields, 1000 draws each: {100 * np.mean(shares):.2f} % in the minimum of the "
        f"grand potential, {100 * min(shares):.1f} % at the worst field; ground states found at n_Au = 4, 8, 12: "
        f"{len(found[4])}, {len(found[8])}, {len(found[12])}."
    )


def trained(
    name: str,
    system: System,
    model: SpinPolynomial,
    cell: Supercell,
    network: dict[str, Any],
    training: dict[str, Any],
    reference: Path,
    keep: Path | None,
) -> tuple[TrainedSampler, float]:
    """Return a trained network and the processor seconds that its training took, from the folder `keep` if it is there.

    Compiling happens in a short training before the clock starts: it is done once for all systems of a machine.
    """
    folder = None if keep is None else keep / f"{name}-{network['kind']}"
    if folder is not None and (folder / "model.json").exists():
        sampler = read_sampler(folder / "model.json", folder / "weights.safetensors", model, cell)
        if sampler.settings["training"] == training and sampler.settings["network"] == network:
            return sampler, json.loads((folder / "seconds.json").read_text())
    start = None
    if system.start is not None and network["kind"] == "physics":
        source = SYSTEMS[system.start]
        settings = {**TRAINING, **source.training, "steps": source.steps}
        start, _ = trained(system.start, source, *place(source, reference), network, settings, reference, keep)
    warm = {**training, "steps": 1, "pool_sweeps": min(training["pool_sweeps"], 2)}
    train(model, cell, *system.grid, network=network, training=warm, seed=1, start=start)
    before = time.process_time()
    sampler = train(model, cell, *system.grid, network=network, training=training, seed=1, start=start)
    spent = time.process_time() - before
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "seconds.json").write_text(json.dumps(spent))
        write_sampler(sampler, *(folder / name for name in ("model.json", "weights.safetensors", "history.parquet")))
    return sampler, spent


def _steps_in(seconds: float, model, cell, system: System, network: dict, training: dict) -> int:
    """Steps that fill the time, from short trials.

    Training measures the NESS 40 to 60 times, and trials of less than 80 steps after every one.
    """

    def trial(steps: int) -> float:
        start = time.process_time()
        train(model, cell, *system.grid, network=network, training={**training, "steps": steps}, seed=1)
        return time.process_time() - start

    trial(1)  # compiles
    if model.n_sites < 500:
        first = trial(80)  # measures as often as the training will
        return max(20, int(80 + (seconds - first) * 160 / (trial(240) - first)))
    measuring, both = trial(0), (trial(12) - trial(2)) / 10
    return max(20, int((seconds - 50 * measuring) / max(both - measuring, 0.05 * both)))


def _quantiles(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.percentile(values, [0, 5, 50])]


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    head = (
        "| system | network | steps | training, s | evaluations | draws | NESS q: min / 5 % / median | "
        "p: min / 5 % / median | lower: min / 5 % / median | > 0.1 | exact NESS: min / 5 % / median | "
        "max error of log Z per site (mean draws for it) | of x at 250, 750 K | "
        "symmetry R² (with spin flip) |\n" + "|---" * 14 + "|"
    )
    lines = []
    for r in rows:
        sides = [" / ".join(f"{v:.3f}" for v in r[side]) for side in ("q", "p", "lower")]
        exact = "–" if r["exact_ness"] is None else " / ".join(f"{v:.3f}" for v in r["exact_ness"])
        error = "–" if r["log_z_error_per_site"] is None else f"{r['log_z_error_per_site']:.1e}"
        error += f" ({r['log_z_draws']:.1e})" if r.get("log_z_draws") else ""
        lines.append(
            f"| {r['system']} | {r['network']} | {r['steps']} | {r['train_s']:.0f} | {r['evaluations']:.1e} | "
            f"{r['draws']} | {' | '.join(sides)} | {100 * r['above_0.1']:.1f} % | {exact} | {error} | "
            f"{' / '.join(f'{v:.1e}' for v in r.get('x_errors', {}).values()) or '–'} | {r['symmetry_r2']:.5f}"
            f"{'' if r.get('symmetry_r2_flipped') is None else ' ({:.5f})'.format(r['symmetry_r2_flipped'])} |"
        )
    return "\n".join([head, *lines])


def write(row: dict[str, Any]) -> None:
    """Put a row into the kept results, in place of the last one of its system and network, and into the README."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else []
    key = ("system", "network")
    kept = [old for old in kept if any(old[k] != row[k] for k in key)] + [row]
    kept.sort(key=lambda r: (list(SYSTEMS).index(r["system"]), r["network"] != "physics"))
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    machine = platform.processor() or platform.machine()
    README.write_text(f"{before}{BEGIN}\n\n{machine}, one core.\n\n{table_of(kept)}\n\n{END}{after}")


def main() -> None:
    """Measure, print, and with `--write` keep the table in the README beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(DEFAULT))
    parser.add_argument("--reference", type=Path, default=None, help="folder of the published expansions")
    parser.add_argument("--steps", type=int, default=None, help="steps of training instead of each system's own")
    parser.add_argument("--draws", type=int, default=None, help="draws a condition instead of each system's own")
    parser.add_argument("--networks", nargs="+", choices=["physics", "paper"], default=["physics"])
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder for trained networks, taken from there if found"
    )
    parser.add_argument("--ground-states", action="store_true", help="only the ground states of Cu-Au 16")
    parser.add_argument("--write", action="store_true", help="put the rows into sampler.json and benchmarks/README.md")
    arguments = parser.parse_args()
    default = os.environ.get("SEGALFLOW_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference")
    reference = arguments.reference or Path(default)
    if arguments.ground_states:
        print(ground_states(reference))
        return
    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        print(table_of([row]), flush=True)
        if arguments.write:
            write(row)

    for name in arguments.systems:
        measure(name, reference, arguments.steps, arguments.draws, arguments.networks, arguments.keep, report)
    print(table_of(rows))


if __name__ == "__main__":
    main()
