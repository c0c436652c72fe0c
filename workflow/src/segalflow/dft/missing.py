"""What a dataset lacks: one row for everything that was asked for, or found, and has no usable energy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ase.formula import Formula

ABSENT = "absent"
"""Status of a structure of the pool that no run or entry is of."""

COLUMNS = ["structure", "formula", "n_atoms", "x", "status", "reason", "file"]


def kind_of_reason(reason: object) -> str:
    """Return what stands before the colon of a reason: what differs from one case to the next stands behind it."""
    return str(reason).split(":")[0]


def _content(formula: object, species: str) -> tuple[float, float]:
    """Return the number of atoms and the fraction of a species in a formula, NaN of an empty one."""
    counts = Formula(formula).count() if isinstance(formula, str) and formula else {}
    total = sum(counts.values())
    return (total, counts.get(species, 0) / total) if total else (np.nan, np.nan)


def missing_structures(
    dataset: pd.DataFrame, excluded: pd.DataFrame, species: str, pool: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return what has no usable energy, with its reason and the file that says so.

    Args:
        dataset: usable structures, column structure.
        excluded: what was left out: structure (where known), formula, status, reason, file.
        species: x is the fraction of this one.
        pool: structures that might be there (an ingestion takes what it finds): structure, formula; those that are
            neither used nor excluded are ``absent``.

    Returns:
        Columns `COLUMNS`, by status, composition and structure.
    """
    rows = excluded.reindex(columns=["structure", "formula", "status", "reason", "file"])
    if pool is not None:
        known = set(dataset["structure"]) | set(rows["structure"].dropna())
        absent = pool.loc[~pool["structure"].isin(known), ["structure", "formula"]]
        absent = absent.assign(status=ABSENT, reason="absent: no run or entry is of this structure", file="")
        rows = pd.concat([rows, absent], ignore_index=True) if len(absent) else rows
    content = [_content(formula, species) for formula in rows["formula"]]
    rows = rows.assign(n_atoms=[n for n, _ in content], x=[x for _, x in content])
    return rows[COLUMNS].sort_values(["status", "x", "structure", "file"], ignore_index=True)
