"""Active learning in the workflow, one generation of calculations after the other.

Generation 0 is the initial choice. Each further one is what the fit to all generations before asks for
(`segalflow.expansion.active_learning`), until hull and cross-validation error have settled: then it asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.dft.dataset import Dataset
from segalflow.expansion.active_learning import gather_choices, is_calm
from segalflow.expansion.fit import FittedExpansion
from segalflow.provenance import content_hash

STATUS_SCHEMA = "segalflow.generation/1"
INITIAL = "initial"
CHOICE_COLUMNS = ["structure", "reason", "n_atoms", "x", "energy", "energy_stderr"]
COLUMNS = [
    "generation",
    "n_new",
    "n_calculations",
    "n_structures",
    "cv",
    "rmse",
    "new_ground_states",
    "n_below_hull",
    "worst_violation",
    "worst_structure",
    "largest_stderr",
    "settled",
]


@dataclass(frozen=True, eq=False)
class Generation:
    """A generation of structures to calculate, and the state of the fit that asks for it.

    Attributes:
        status: of the data of all generations before: generation (the last of them), n_calculations, n_structures
            (usable), cv, cv_kind and rmse of the fit, hull (ids) and ground_states (names) of the data,
            new_ground_states (names), n_below_hull (candidates below the hull by more than the tolerance),
            worst_violation (of the lowest) and worst_structure, largest_stderr (of a candidate), calm_rounds, settled;
            energies in eV/atom.
        table: one row a structure: structure, reason, n_atoms, x, energy and energy_stderr (predicted, eV/atom).
        structures: the same as ideal structures.
    """

    status: dict[str, Any]
    table: pd.DataFrame
    structures: list[Atoms]


def next_generation(
    fitted: FittedExpansion,
    dataset: Dataset,
    candidates: Sequence[Atoms],
    settings: Mapping[str, Any],
    generation: int,
    earlier: Mapping[str, Any] | None = None,
) -> Generation:
    """Return the structures of a generation.

    Args:
        fitted: fit to the generations before.
        dataset: their usable structures and what was excluded.
        candidates: structures to choose from (enumerated ones, ground states that were found).
        settings: ``number`` of structures at most, ``hull_tolerance`` (eV/atom), ``cv_tolerance`` (relative) and
            ``patience`` (calm generations in a row after which nothing is asked for).
        generation: its number, from 1.
        earlier: status that came with the generation before, if any.

    Raises:
        ExpansionError: if the expansion has no covariance, or the dataset lacks a pure element.
    """
    failed = {str(name) for name in dataset.excluded["structure"]}
    choices = gather_choices(fitted.expansion, dataset.structures, candidates, failed)
    gaps, stderr = choices.gaps(), choices.stderr()
    worst = int(gaps.argmin()) if len(gaps) else None
    violated = worst is not None and gaps[worst] < 0
    states = fitted.hull[fitted.hull["source"] == "data"]
    names = dict(zip(states["structure"].astype(str), states["name"], strict=True))
    before = set(earlier["hull"]) if earlier else {n for n, x in zip(names, states["x"], strict=True) if x in (0, 1)}
    status: dict[str, Any] = {
        "generation": generation - 1,
        "n_calculations": len(dataset.structures) + len(failed),
        "n_structures": len(dataset.structures),
        "cv": fitted.metrics["cv"],
        "cv_kind": fitted.metrics["cv_kind"],
        "rmse": fitted.metrics["rmse"],
        "hull": list(names),
        "ground_states": list(names.values()),
        "new_ground_states": [name for i, name in names.items() if i not in before],
        "n_below_hull": int((gaps < -settings["hull_tolerance"]).sum()),
        "worst_violation": float(-gaps[worst]) if violated else 0.0,
        "worst_structure": choices.pool[choices.n_known + worst].info["structure"] if violated else "",
        "largest_stderr": float(stderr.max()) if len(stderr) else 0.0,
        "units": "eV/atom",
        "dataset": content_hash([[s.info["structure"], float(s.info["formation_energy"])] for s in dataset.structures]),
    }
    calm = is_calm(status, earlier, settings["cv_tolerance"], settings["hull_tolerance"])
    status["calm_rounds"] = earlier["calm_rounds"] + 1 if calm else 0
    status["settled"] = status["calm_rounds"] >= settings["patience"] or not len(gaps)
    if status["settled"]:
        return Generation(status, pd.DataFrame(columns=CHOICE_COLUMNS), [])
    table, structures = choices.choose(settings["number"], status["rmse"])
    return Generation(status, table[CHOICE_COLUMNS], structures)


def generations_table(statuses: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row a generation: what was known once it was calculated.

    Args:
        statuses: of all generations asked for, in order; the first tells of generation 0.

    Returns:
        Columns `COLUMNS`, energies in eV/atom; n_new is the number of calculations that the generation added. It ends
        with the last generation that added any.
    """
    table = pd.DataFrame(statuses)
    table["n_new"] = np.diff(table["n_calculations"], prepend=0)
    table["new_ground_states"] = ["; ".join(names) for names in table["new_ground_states"]]
    # The state is judged with the data of a generation; without new data only the count of calm rounds goes on.
    last = int(np.flatnonzero(table["n_new"] > 0)[-1])
    table.loc[last, "settled"] = bool(table["settled"].iloc[last:].any())
    return table.loc[:last, COLUMNS]


def selection_table(pool: Sequence[Atoms], proposed: Mapping[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """Return which generation each structure of a calculation belongs to, and why it was chosen.

    Args:
        pool: the structures of all generations, ideal.
        proposed: tables of `Generation` by expansion and generation.

    Returns:
        One row a structure, in order of generation: structure, n_atoms, generation, expansion, reason, energy and
        energy_stderr (predicted when it was chosen, eV/atom). A structure that two expansions ask for is listed once.
    """
    why = {
        str(row["structure"]): {"generation": generation, "expansion": expansion, **row}
        for (expansion, generation), table in sorted(proposed.items(), key=lambda item: -item[0][1])
        for row in table.to_dict("records")
    }
    rows = []
    for atoms in pool:
        name = atoms.info["structure"]
        chosen = why.get(name, {"generation": 0, "expansion": "", "reason": INITIAL})
        rows.append({**chosen, "structure": name, "n_atoms": len(atoms)})
    columns = ["structure", "n_atoms", "generation", "expansion", "reason", "energy", "energy_stderr"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.sort_values(["generation", "n_atoms", "structure"], ignore_index=True)
