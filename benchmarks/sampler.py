"""How well SEGAL samples: effective sample sizes over the full published grids, training time, energy evaluations.

    python benchmarks/sampler.py                                # Cu-Au 16 and 128, Ag-Pd 27 and 125, Ising 10x10
    python benchmarks/sampler.py --systems cuau-512 --steps 8000 --write

For every system the network is trained, the grid is swept by importance sampling with the defensive mixture, and the
proposal is scored from both sides (its own draws, and a replica-exchange pool that never saw it); the lower of both
counts. `--paper` adds the paper's network (masked, reverse KL) with the same training time for the systems named. Times
are processor seconds of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.energy.polynomial import SpinPolynomial, ising_polynomial, place_expansion
from segalflow.ensemble import lower_ness
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.expansion.published import with_pure_zero
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.importance import sample_importance
from segalflow.sampling.proposal import MixtureProposal, hotter_temperature
from segalflow.sampling.transfer_matrix import sample_transfer_matrix
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.training import train

BEGIN, END = "<!-- sampler.py --write: begin -->", "<!-- sampler.py --write: end -->"
README = Path(__file__).with_name("README.md")
KEPT = Path(__file__).with_name("sampler.json")
CUAU = (np.linspace(200, 1200, 21), np.linspace(-0.24, 0.24, 41))
AGPD = (np.linspace(200, 900, 15), np.linspace(-0.4, 0.4, 41))
ISING = (np.linspace(1.5, 3.5, 21), np.linspace(-0.8, 0.8, 17))


@dataclass(frozen=True)
class System:
    """A cell with the grid it is judged on, `steps` of training, `draws` a condition, and its own settings."""

    expansion: str | None
    repeat: tuple[int, int, int]
    grid: tuple[np.ndarray, np.ndarray]
    steps: int
    sizes: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    draws: int = 1000


WIDE = {"window": 7.7}

SYSTEMS = {
    "ising-10": System(None, (10, 10, 1), ISING, 6000),
    "ising-20": System(None, (20, 20, 1), ISING, 4000),
    "cuau-16": System("cuau", (2, 2, 4), CUAU, 6000),
    "cuau-128": System("cuau", (8, 4, 4), CUAU, 14000),
    "cuau-256": System("cuau", (8, 8, 4), CUAU, 8000),
    "cuau-512": System("cuau", (8, 8, 8), CUAU, 10000, WIDE, {"batch": 16}, draws=300),
    "cuau-1000": System("cuau", (10, 10, 10), CUAU, 10000, WIDE, {"batch": 8}, draws=200),
    "cuau-4096": System("cuau", (16, 16, 16), CUAU, 1000, WIDE, {"batch": 2, "learning_rate": 0.002}, "cuau-512", 40),
    "agpd-27": System("agpd", (3, 3, 3), AGPD, 6000),
    "agpd-125": System("agpd", (5, 5, 5), AGPD, 14000),
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
PAPER_DRAWS = 200
"""Draws a condition of the paper's network, which takes one forward pass a site for each."""
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


def exact_log_z(name: str, system: System, model: SpinPolynomial, cell: Supercell) -> np.ndarray | None:
    """Return the exact log Z over the grid where it can be had."""
    species = cell.lattice.species[0]
    if model.n_sites <= 27:
        return enumerate_exactly(model, species, *system.grid)["log_z"].values
    if name == "ising-10":
        return sample_transfer_matrix(system.repeat[:2], species, *system.grid)["log_z"].values
    return None


def exact_ness(sampler: TrainedSampler, grid: tuple[np.ndarray, np.ndarray], share: float = 0.1) -> np.ndarray:
    """Return the exact NESS of the defensive mixture over the grid, by a sum over all states (16 sites or fewer).

    ``NESS = 1 / sum_s p(s)^2 / q(s)`` for every state of the cell, also those that no sample would ever show.
    """
    n = sampler.n_sites
    states = (2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1).astype(np.int8)
    energy, n_plus = sampler.model.energy_of_spins(states), (states > 0).sum(1)
    temperature, delta_mu = grid
    found = np.empty((len(temperature), len(delta_mu)))
    hot: list[dict[float, np.ndarray]] = [{} for _ in delta_mu]  # densities at the temperature above, where at hand
    for t in reversed(range(len(temperature))):
        mixture = MixtureProposal(sampler, float(temperature[t]), hotter_temperature(temperature, t), share)
        for m, mu in enumerate(delta_mu):
            at = np.full(len(states), mu)
            own = {mixture.own: sampler.log_prob(states, np.full(len(states), mixture.own), at)}
            log_w = mixture.log_weights(states, at, energy, 1000, {**hot[m], **own})
            hot[m] = own
            log_p = -(energy - mu * n_plus) / (sampler.model.boltzmann * temperature[t])
            log_z = np.logaddexp.reduce(log_p)
            found[t, m] = np.exp(-np.logaddexp.reduce(log_p - log_z + log_w - log_z))
    return found


def symmetry_r2(sampler: TrainedSampler, grid: tuple[np.ndarray, np.ndarray]) -> float:
    """R^2 of ln P of a draw and of ln P of the same draw moved by a random symmetry operation, four a condition."""
    temperature, delta_mu = (np.repeat(a.ravel(), 4) for a in np.meshgrid(*grid, indexing="ij"))
    rng = np.random.default_rng(3)
    spins, log_p, _ = sampler.sample(temperature, delta_mu, 3)
    operations = sampler.cell.symmetry_permutations()
    chosen = operations[rng.integers(0, len(operations), len(spins))]
    moved = sampler.log_prob(np.take_along_axis(spins, chosen, axis=1), temperature, delta_mu)
    return float(np.corrcoef(log_p, moved)[0, 1] ** 2)


def measure(
    name: str,
    reference: Path,
    steps: int | None,
    draws: int | None,
    paper: bool,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Train, sweep and report one system, and the paper's network beside it."""
    system = SYSTEMS[name]
    model, cell = place(system, reference)
    exact = exact_log_z(name, system, model, cell)
    settings = {**TRAINING, **system.training, "steps": steps or system.steps}
    networks = [("physics", {"kind": "physics", "sizes": system.sizes}, settings)]
    if paper:
        made = {"kind": "made", "sizes": {"layers": 3, "width": 2, "activation": "sigmoid"}}
        networks.append(("paper", made, {**PAPER, "steps": 0}))
    seconds = 0.0
    for label, network, training in networks:
        if label == "paper":
            training = {**training, "steps": _steps_in(seconds, model, cell, system, network, training)}
        first = None if system.start is None or label == "paper" else _trained(system.start, reference)
        start = time.process_time()
        sampler = train(model, cell, *system.grid, network=network, training=training, seed=1, start=first)
        spent = time.process_time() - start
        TRAINED[name] = sampler
        seconds = seconds or spent
        start = time.process_time()
        n = draws or system.draws
        if label == "paper":
            n = min(n, PAPER_DRAWS)
        table = sample_importance(
            sampler,
            cell.lattice.species[0],
            *system.grid,
            seed=2,
            samples_per_condition=n,
            max_factor=1,
            repair="none",
        )
        swept = time.process_time() - start
        ness = lower_ness(table)
        error = None
        if exact is not None:
            error = float(np.abs(table["log_z"].values - exact).max() / model.n_sites)
        report(
            {
                "system": name,
                "network": label,
                "steps": training["steps"],
                "train_s": spent,
                "sweep_s": swept,
                "draws": n,
                "symmetry_r2": symmetry_r2(sampler, system.grid),
                "evaluations": float(sampler.history["energy_evaluations"].iloc[-1]),
                "q": _quantiles(table["ness"].values),
                "p": _quantiles(table["ness_p"].values),
                "lower": _quantiles(ness),
                "above_0.1": float((ness > 0.1).mean()),
                "above_0.5": float((ness > 0.5).mean()),
                "log_z_error_per_site": error,
                "exact_ness": _quantiles(exact_ness(sampler, system.grid))
                if model.n_sites <= 16 and label == "physics"
                else None,
            }
        )


def ground_states(reference: Path) -> str:
    """Return a sentence on Cu-Au 16 at 20 K: share of draws in the minimum of U - dmu N, and distinct ground states."""
    model, cell = place(SYSTEMS["cuau-16"], reference)
    # 36 fields as in the paper, and one inside the narrow window of Au3Cu.
    fields = np.sort(np.append(np.linspace(-0.24, 0.24, 36), 0.0724))
    training = {**TRAINING, "steps": 6000, "colder": 0}
    temperature = np.geomspace(20, 1200, 18)
    sampler = train(model, cell, temperature, fields, network={"kind": "physics"}, training=training, seed=1)
    states = (2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1) - 1).astype(np.int8)
    energy, n_plus = model.energy_of_spins(states), (states > 0).sum(1)
    shares, found = [], {4: set(), 8: set(), 12: set()}
    for mu in fields:
        lowest = (energy - mu * n_plus).min()
        spins, _, drawn = sampler.sample(np.full(1000, 20.0), np.full(1000, mu), 5)
        hit = drawn - mu * (spins > 0).sum(1) < lowest + 1e-6
        shares.append(float(hit.mean()))
        for row in np.unique(spins[hit], axis=0):
            found.setdefault(int((row > 0).sum()), set()).add(row.tobytes())
    return (
        f"Cu-Au 16 at 20 K, {len(fields)} fields, 1000 draws each: {100 * np.mean(shares):.2f} % in the minimum of the "
        f"grand potential, {100 * min(shares):.1f} % at the worst field; ground states found at n_Au = 4, 8, 12: "
        f"{len(found[4])}, {len(found[8])}, {len(found[12])}."
    )


TRAINED: dict[str, TrainedSampler] = {}


def _trained(name: str, reference: Path) -> TrainedSampler:
    """The network of another system, trained now if it has not been."""
    if name not in TRAINED:
        system = SYSTEMS[name]
        model, cell = place(system, reference)
        network = {"kind": "physics", "sizes": system.sizes}
        training = {**TRAINING, **system.training, "steps": system.steps}
        TRAINED[name] = train(model, cell, *system.grid, network=network, training=training, seed=1)
    return TRAINED[name]


def _steps_in(seconds: float, model, cell, system: System, network: dict, training: dict) -> int:
    """Steps of a network that fill the time, from a short trial."""
    start = time.process_time()
    train(model, cell, *system.grid, network=network, training={**training, "steps": 100}, seed=1)
    return max(20, int(100 * seconds / (time.process_time() - start)))


def _quantiles(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.percentile(values, [0, 5, 50])]


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    head = (
        "| system | network | steps | training, s | evaluations | draws | NESS q: min / 5 % / median | "
        "p: min / 5 % / median | lower: min / 5 % / median | > 0.1 | exact NESS: min / 5 % / median | "
        "max error of log Z per site | symmetry R² |\n" + "|---" * 13 + "|"
    )
    lines = []
    for r in rows:
        sides = [" / ".join(f"{v:.3f}" for v in r[side]) for side in ("q", "p", "lower")]
        exact = "–" if r["exact_ness"] is None else " / ".join(f"{v:.3f}" for v in r["exact_ness"])
        error = "–" if r["log_z_error_per_site"] is None else f"{r['log_z_error_per_site']:.1e}"
        lines.append(
            f"| {r['system']} | {r['network']} | {r['steps']} | {r['train_s']:.0f} | {r['evaluations']:.1e} | "
            f"{r['draws']} | {' | '.join(sides)} | {100 * r['above_0.1']:.1f} % | {exact} | {error} | "
            f"{r['symmetry_r2']:.5f} |"
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
    parser.add_argument(
        "--paper", nargs="+", choices=list(SYSTEMS), default=[], help="systems that the paper's network is run on too"
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
        measure(name, reference, arguments.steps, arguments.draws, name in arguments.paper, report)
    print(table_of(rows))


if __name__ == "__main__":
    main()
