"""Where a network works: draws, densities and training steps on one core by the compiled kernels and on a GPU.

    python benchmarks/devices.py --keep nets                       # Cu-Au 128 and 1000, networks trained before
    python benchmarks/devices.py --systems cuau-128 --device cpu   # without a GPU: the kernels alone

Wall-clock seconds after a first call. The same decorations are scored on both, and both draw: the largest difference of
log P per site and the effective sample size of each one's draws say that they are one network. Networks are trained on
the spot (`TRAINED` steps) where `--keep` (as `sampler.py` writes it) does not hold them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sampler as systems
import torch

from segalflow.sampling.weights import normalised_ess
from segalflow.segal.checkpoint import read_sampler
from segalflow.segal.features import evaluate_energies
from segalflow.segal.objectives import OBJECTIVES
from segalflow.segal.optimisation import TrainingRun
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.training import train

TRAINED = 2000
STEPS = {"physics": 200, "made": 40}
PAPER = {"kind": "made", "sizes": {"layers": 3, "width": 2, "activation": "sigmoid"}}


def seconds_of(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the least wall-clock seconds of `work` after a first call, and its result."""
    found, spent = work(), []
    for _ in range(repeats):
        start = time.perf_counter()
        found = work()
        spent.append(time.perf_counter() - start)
    return min(spent), found


def conditions_of(sampler: TrainedSampler, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `n` draws' conditions: equal numbers at sixteen points inside the grid."""
    temperature, delta_mu = sampler.grid
    t = temperature[np.linspace(len(temperature) // 3, len(temperature) - 2, 4).astype(int)]
    mu = delta_mu[np.linspace(2, len(delta_mu) - 3, 4).astype(int)]
    return np.repeat(np.repeat(t, 4), n // 16), np.repeat(np.tile(mu, 4), n // 16)


def ness_of(sampler: TrainedSampler, drawn: tuple[np.ndarray, ...], at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the effective sample size of the draws of each of the sixteen conditions, as a share."""
    spins, log_p, energy = drawn
    log_w = -sampler.reduced_energy(spins, energy, *at) - log_p
    return normalised_ess(log_w.reshape(16, -1))


def step_seconds(name: str, network: dict[str, Any], device: str, reference: Path) -> float:
    """Return the seconds of a step of training, rounds of the pool included, over `STEPS` after as many others."""
    system = systems.SYSTEMS[name]
    model, cell = systems.place(system, reference)
    base = systems.PAPER if network["kind"] == "made" else {**systems.TRAINING, **system.training}
    settings = {**base, "steps": 10**6, "pool_sweeps": 2}
    sampler = train(
        model, cell, *system.grid, network=network, training={**settings, "steps": 1}, seed=1, device=device,
        memory_mb=8000,
    )  # fmt: skip
    run = TrainingRun(sampler, settings, 1)
    objective = OBJECTIVES[settings["objective"]](run)
    objective.prepare()
    n, spent = STEPS[network["kind"]], []
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(n):
            objective.step()
        spent.append((time.perf_counter() - start) / n)
    return spent[1]


def measure(name: str, device: str, reference: Path, keep: Path | None, draws: int, memory_mb: float) -> None:
    """Print the rows of one system."""
    system = systems.SYSTEMS[name]
    model, cell = systems.place(system, reference)
    settings = {**systems.TRAINING, **system.training, "steps": TRAINED}
    network = {"kind": "physics", "sizes": system.sizes}
    folder = None if keep is None else keep / f"{name}-physics"
    if folder is not None and (folder / "model.json").exists():
        found = [read_sampler(folder / "model.json", folder / "weights.safetensors", model, cell) for _ in range(2)]
        local, other = found
    else:
        local = train(model, cell, *system.grid, network=network, training=settings, seed=1)
        other = train(model, cell, *system.grid, network=network, training=settings, seed=1)
    other.network.to(device)
    other.memory_mb = memory_mb
    at = conditions_of(local, draws)
    spins = local.sample(*at, seed=3)[0]
    rows = {}
    for label, sampler in (("one core", local), (device, other)):
        drawing, drawn = seconds_of(lambda s=sampler: s.sample(*at, seed=4))
        scoring, log_p = seconds_of(lambda s=sampler: s.log_prob(spins, *at))
        energies, _ = seconds_of(lambda s=sampler: evaluate_energies(s.fields, s.placed(spins)))
        rows[label] = (drawing, scoring, energies, log_p, ness_of(sampler, drawn, at))
    for label, (drawing, scoring, energies, _, ness) in rows.items():
        print(
            f"| {name} | {label} | {len(at[0])} | {drawing:.3g} | {energies:.3g} | {scoring:.3g} | "
            f"{np.median(ness):.3f} |",
            flush=True,
        )
    apart = np.abs(rows["one core"][3] - rows[device][3]).max() / model.n_sites
    print(f"{name}: largest difference of log P per site {apart:.1e}", flush=True)
    for label, kind in (("physics", network), ("paper", PAPER)):
        if kind["kind"] == "physics" or model.n_sites <= 256:
            one, two = (step_seconds(name, kind, where, reference) for where in ("cpu", device))
            print(f"{name}, {label}: a step of training takes {1e3 * one:.2f} ms on one core, {1e3 * two:.2f} ms on "
                  f"{device}", flush=True)  # fmt: skip


def main() -> None:
    """Measure the systems asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=list(systems.SYSTEMS), default=["cuau-128", "cuau-1000"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--draws", type=int, default=10000)
    parser.add_argument("--memory-mb", type=float, default=20000.0, help="bound on the working memory of a pass")
    parser.add_argument("--reference", type=Path, default=None, help="folder of the published expansions")
    parser.add_argument("--keep", type=Path, default=None, help="folder of trained networks (sampler.py)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    default = os.environ.get("SEGALFLOW_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference")
    what = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
    print(f"{what}, PyTorch {torch.__version__}")
    print("| system | where | draws | draw with log P and energy, s | energies alone, s | score, s | median NESS |")
    for name in arguments.systems:
        measure(
            name, arguments.device, arguments.reference or Path(default), arguments.keep, arguments.draws,
            arguments.memory_mb,
        )  # fmt: skip


if __name__ == "__main__":
    main()
