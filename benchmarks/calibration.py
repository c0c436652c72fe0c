"""How often the stated 95 % intervals of importance sampling hold the exact values, over repeats of a sweep.

    python benchmarks/calibration.py --keep nets            # Cu-Au 16, 200 repeats, every fourth row and fifth column
    python benchmarks/calibration.py --repeats 50 --keep nets

Every repeat draws anew from one trained network (`sampler.py`, which `--keep` holds). The share of intervals (1.96
stated errors) that hold the exact sum is given for log Z, x, U and C over all conditions and repeats, and how it
spreads over conditions; of 200 intervals that cover 95 %, 90 to 99 % hold at most conditions by chance alone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import sampler as systems

from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.importance import sample_importance

SYSTEM = "cuau-16"
QUANTITIES = {"log Z": "log_z", "x": "composition", "U": "energy", "C": "heat_capacity"}


def main() -> None:
    """Measure and print one row a quantity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000, help="draws a condition")
    parser.add_argument("--reference", type=Path, default=None, help="folder of the published expansions")
    parser.add_argument("--keep", type=Path, default=None, help="folder of trained networks (sampler.py)")
    arguments = parser.parse_args()
    default = os.environ.get("SEGALFLOW_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference")
    reference, system = arguments.reference or Path(default), systems.SYSTEMS[SYSTEM]
    model, cell = systems.place(system, reference)
    training = {**systems.TRAINING, **system.training, "steps": system.steps}
    network = {"kind": "physics", "sizes": system.sizes}
    sampler, _ = systems.trained(SYSTEM, system, model, cell, network, training, reference, arguments.keep)
    species, temperature, delta_mu = cell.lattice.species[0], system.grid[0][::4], system.grid[1][::5]
    exact = enumerate_exactly(model, species, temperature, delta_mu)
    held: dict[str, list[np.ndarray]] = {name: [] for name in QUANTITIES}
    for repeat in range(arguments.repeats):
        table = sample_importance(
            sampler, species, temperature, delta_mu, seed=1000 + repeat, samples_per_condition=arguments.draws,
            repair="none", pool_sweeps=0,
        )  # fmt: skip
        for name, variable in QUANTITIES.items():
            value, error, truth = (a.values for a in (table[variable], table[f"{variable}_stderr"], exact[variable]))
            inside = np.abs(value - truth) <= 1.96 * error
            held[name].append(inside[..., -1] if inside.ndim == 3 else inside)
    print(f"{SYSTEM}, {len(temperature)} x {len(delta_mu)} conditions, {arguments.draws} draws, "
          f"{arguments.repeats} repeats")  # fmt: skip
    print("| quantity | intervals that hold, % | lowest, 5 %, 95 % and highest condition, % |\n| --- | --- | --- |")
    for name, found in held.items():
        share = 100 * np.mean(found, axis=0).ravel()
        spread = " / ".join(f"{v:.1f}" for v in np.percentile(share, [0, 5, 95, 100]))
        print(f"| {name} | {share.mean():.1f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
