"""Trial flips per second: CLEASE's semi-grand-canonical Monte Carlo and ours, same expansion, same cell, one process.

    python benchmarks/monte_carlo.py results/cuau_emt/expansion/main/model.json --repeat 8 4 4

Runs in the order A-B-A-B and prints medians and the ratio. Measure alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import place_expansion
from segalflow.expansion.basis import build_basis
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell


def clease_rate(model: Path, repeat: list[int], temperature: float, steps: int) -> float:
    """Trial steps per second of CLEASE at delta_mu = 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clease.calculator import attach_calculator
        from clease.montecarlo import SGCMonteCarlo
        from clease.tools import wrap_and_sort_by_position

        expansion = read_expansion(model)
        sizes = expansion.notes["basis"]
        basis = build_basis(
            expansion.lattice, {int(k): v for k, v in sizes["max_diameters"].items()}, sizes["size_rule"]
        )
        eci = {theirs: expansion.ecis[ours] for ours, theirs in zip(basis.names, basis.clease_names, strict=True)}
        names = expansion.lattice.species[0]
        atoms = wrap_and_sort_by_position(basis.settings.prim_cell.copy() * repeat)
        chosen = np.random.default_rng(0).integers(0, 2, len(atoms))
        atoms.symbols = [names[c] for c in chosen]
        atoms = attach_calculator(basis.settings, atoms=atoms, eci=eci)
        chain = SGCMonteCarlo(atoms, temperature, symbols=list(names))
        chain.run(steps=steps // 20, chem_pot={"c1_0": 0.0})
        start = time.perf_counter()
        chain.run(steps=steps, chem_pot={"c1_0": 0.0})
        return steps / (time.perf_counter() - start)


def our_rate(model: Path, repeat: list[int], temperature: float, chains: int, sweeps: int) -> float:
    """Trial flips per second, summed over lock-step chains, at delta_mu = 0."""
    expansion = read_expansion(model)
    placed = place_expansion(expansion, Supercell(expansion.lattice, repeat))
    pool = LockstepChains(placed, np.full(chains, temperature), np.zeros(chains), 1, rule="metropolis")
    pool.sweep(2)
    start = time.perf_counter()
    pool.sweep(sweeps)
    return chains * placed.n_sites * sweeps / (time.perf_counter() - start)


def main() -> None:
    """Measure and print a table, and JSON with the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeat", type=int, nargs=3, default=[8, 4, 4])
    parser.add_argument("--temperature", type=float, default=500.0)
    parser.add_argument("--chains", type=int, default=1024)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"CLEASE": [], "segalflow": []}
    for _ in range(2):
        rates["CLEASE"].append(clease_rate(arguments.model, arguments.repeat, arguments.temperature, 40_000))
        rates["segalflow"].append(
            our_rate(arguments.model, arguments.repeat, arguments.temperature, arguments.chains, 60)
        )
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:10s} {medians[name]:12.3e} trial flips/s   runs {', '.join(f'{v:.2e}' for v in values)}")
    print(json.dumps({"rates": rates, "medians": medians, "ratio": medians["segalflow"] / medians["CLEASE"]}))


if __name__ == "__main__":
    main()
