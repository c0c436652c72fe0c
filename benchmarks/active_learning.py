"""Active against random choice of structures: Cu-Au with EMT energies, from 20 structures on.

    python benchmarks/active_learning.py [folder]

Energies are those of tests/data/cuau_emt_137.csv, so nothing is calculated. Writes active_learning.svg, .png and .csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from segalflow.expansion.active_learning import learn
from segalflow.expansion.basis import build_basis
from segalflow.expansion.fit import structure_weights
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.regression import choose_method, fold_indices, predict_out_of_fold
from segalflow.expansion.validation import cluster_sizes, rms
from segalflow.lattice import parent_lattice
from segalflow.plotting.expansion import plot_active_learning
from segalflow.plotting.style import save_figure
from segalflow.structures.enumeration import enumerate_pool

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 10


def main(folder: Path) -> None:
    """Run both strategies with `SEEDS` seeds and draw the figure."""
    lattice = parent_lattice("fcc", 3.85, ["Cu", "Au"])
    pool = enumerate_pool(lattice, 6)
    basis = build_basis(lattice, {2: 8.0, 3: 4.5, 4: 4.5}, generator="symmetry")
    design = basis.correlations(pool)
    table = pd.read_csv(ROOT / "tests" / "data" / "cuau_emt_137.csv", comment="#").set_index("structure")
    column = table["formation_energy_eV_per_atom"]
    energies = column.loc[[s.info["structure"] for s in pool]].to_numpy()
    x = np.array([s.get_array("occupation").mean() for s in pool])
    usable = np.flatnonzero(np.isfinite(energies))
    mixed = usable[(x[usable] > 0) & (x[usable] < 1)]
    hull = lower_hull(x[usable], energies[usable])
    names = " ".join(pool[usable[i]].info["structure"] for i in hull)
    distance = above_hull(x[usable], energies[usable], hull)
    weights = structure_weights([pool[i] for i in usable], distance, 100.0, 0.02)
    method = choose_method("cluster_prior", cluster_sizes(basis.clusters))
    folds = fold_indices(len(usable), "loo", 0, np.random.default_rng(0))
    out = predict_out_of_fold(design[usable], energies[usable], weights, method, 0.0, folds)
    target = rms((out - energies[usable])[(x[usable] > 0) & (x[usable] < 1)])
    print(f"all {len(pool)} structures: {1000 * target:.2f} meV/atom leave-one-out, {len(hull)} states on the hull")
    rows = []
    for strategy in ("active", "random"):
        for seed in range(SEEDS):
            run = learn(
                pool,
                basis,
                lambda structures: column.loc[[s.info["structure"] for s in structures]].to_numpy(),
                initial=20,
                per_round=5,
                max_calculations=len(pool),
                seed=seed,
                strategy=strategy,
                patience=99,
                design=design,
                watch=lambda fit, d, _: {"rmse_all": rms((d @ fit.coefficients - energies)[mixed])},
            )
            part = run.rounds[["n_calculations", "rmse_all", "hull"]].copy()
            part["hull_found"] = part.pop("hull") == names
            rows.append(part.assign(strategy=strategy, seed=seed))
            there = (part["hull_found"] & (part["rmse_all"] <= target)).to_numpy()
            late = np.flatnonzero(~there)
            first = part["n_calculations"].iloc[late[-1] + 1] if len(late) and late[-1] + 1 < len(part) else "never"
            print(f"{strategy}, seed {seed}: hull and error reached with {first} calculations")
    save_figure(*plot_active_learning(pd.concat(rows, ignore_index=True), target), folder / "active_learning")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
