"""The dataset: usable calculations with formation energies against the study's own end members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.artefacts import read_json
from segalflow.dft.calculation import CONVERGED
from segalflow.dft.calculation import SCHEMA as RECORD_SCHEMA
from segalflow.errors import ArtefactError, DatasetError
from segalflow.lattice import ParentLattice
from segalflow.structures.pool import read_pool

RECORDS_SCHEMA = "segalflow.calculations/1"
"""Schema of a file that holds the records of all structures (ingestions); one calculation's file has its own."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Energies of structures on ideal positions.

    Attributes:
        structures: usable structures; ``info`` holds structure, energy (eV), formation_energy (eV/atom), x.
        table: one row a usable structure.
        excluded: one row a structure left out, with status, reason and the file that says so.
        end_members: energy of the pure species, eV/atom.
    """

    structures: list[Atoms]
    table: pd.DataFrame
    excluded: pd.DataFrame
    end_members: dict[str, float]


def read_records(paths: Sequence[str | Path]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the records in some files, one a file or (from an ingestion) all in one, and the end members they state.

    A record that names no ``file`` that it comes from is given its own.

    Raises:
        ArtefactError: if a file is missing, damaged or of another schema.
    """
    records: list[dict[str, Any]] = []
    end_members: dict[str, float] = {}
    for path in paths:
        content = read_json(path)
        if content.get("schema") == RECORDS_SCHEMA:
            records += content["records"]
            end_members.update(content["end_members"])
        else:
            records.append({"file": str(path), **read_json(path, RECORD_SCHEMA)})
    return records, end_members


def build_dataset(
    pool: Sequence[Atoms],
    records: Sequence[Mapping[str, Any]],
    lattice: ParentLattice,
    minimum_fraction: float = 0.9,
    known: Mapping[str, float] | None = None,
    rejects: pd.DataFrame | None = None,
) -> Dataset:
    """Build the dataset from the pool and the records of its calculations.

    Args:
        pool: ideal structures.
        records: status records of `segalflow.dft.calculation.run_calculation`.
        lattice: parent lattice (one sublattice of two species).
        minimum_fraction: smallest usable fraction of the pool (and of the rejects that are of no known structure).
        known: energies of pure species known without a structure of their own (databases), eV/atom.
        rejects: rows of an ingestion (see `segalflow.dft.ingestion.Gathered`); they become ``excluded``.

    Raises:
        DatasetError: if a record is missing, too few calculations are usable, or a pure element is not among them.
    """
    by_id = {record["structure"]: record for record in records}
    missing = [s.info["structure"] for s in pool if s.info["structure"] not in by_id]
    if missing:
        raise DatasetError(f"dataset: {len(missing)} of {len(pool)} structures have no calculation, first {missing[0]}")
    usable = [s for s in pool if by_id[s.info["structure"]]["status"] == CONVERGED]
    reasons = pd.Series([by_id[s.info["structure"]]["status"] for s in pool]).value_counts().to_dict()
    unplaced = 0 if rejects is None else int((rejects["structure"].fillna("") == "").sum())
    total = len(pool) + unplaced
    if unplaced:
        reasons["of no known structure"] = unplaced
    if len(usable) < minimum_fraction * total:
        raise DatasetError(
            f"dataset: {len(usable)} of {total} calculations are usable ({reasons}), fewer than "
            f"minimum_fraction = {minimum_fraction}; the reasons are in the records"
        )
    end_members = {}
    for species in lattice.species[0]:
        pure = [s for s in usable if set(s.get_chemical_symbols()) == {species}]
        if not pure and species in (known or {}):
            end_members[species] = float(known[species])
            continue
        if not pure:
            raise DatasetError(f"dataset: the pure element {species} has no usable calculation to refer energies to")
        record = by_id[pure[0].info["structure"]]
        end_members[species] = record["energy"] / len(record["symbols"])
    structures, rows = [], []
    for ideal in usable:
        record = by_id[ideal.info["structure"]]
        symbols = ideal.get_chemical_symbols()
        energy = record["energy"]
        formation = (energy - sum(end_members[s] for s in symbols)) / len(symbols)
        x = float(np.mean([s == lattice.species[0][1] for s in symbols]))
        atoms = ideal.copy()
        atoms.info = {**ideal.info, "energy_total": energy, "formation_energy": formation, "x": x}
        structures.append(atoms)
        rows.append(
            {
                "structure": ideal.info["structure"],
                "formula": ideal.get_chemical_formula(mode="metal"),
                "n_atoms": len(symbols),
                "x": x,
                "energy_eV": energy,
                "formation_energy_eV_per_atom": formation,
                **record["deformation"],
                "max_force_eV_per_A": record["max_force"],
                "n_steps": record["n_steps"],
            }
        )
    rejected = [
        {
            "structure": s.info["structure"],
            "formula": s.get_chemical_formula(mode="metal"),
            "status": by_id[s.info["structure"]]["status"],
            "reason": by_id[s.info["structure"]]["reason"],
            "file": by_id[s.info["structure"]].get("file", ""),
        }
        for s in pool
        if by_id[s.info["structure"]]["status"] != CONVERGED
    ]
    excluded = pd.DataFrame(rejected, columns=["structure", "formula", "status", "reason", "file"])
    if rejects is not None:
        excluded = rejects
    for atoms in structures:
        atoms.info["end_members"] = " ".join(f"{s}={e!r}" for s, e in end_members.items())
    return Dataset(structures, pd.DataFrame(rows), excluded, end_members)


def read_dataset(path: str | Path, lattice: ParentLattice) -> list[Atoms]:
    """Read the structures of a dataset and check each against its id and its energy.

    Raises:
        ArtefactError: if the file is missing, cut short, or a structure lacks an entry, has an energy that is not
            finite, or is not what its id says.
    """
    structures = read_pool(path, lattice)
    for atoms in structures:
        name = atoms.info["structure"]
        for key in ("formation_energy", "energy_total", "x"):
            if not np.isfinite(float(atoms.info.get(key, np.nan))):
                raise ArtefactError(
                    f"{path}: structure {name}: expected a finite '{key}', found {atoms.info.get(key)}; "
                    "delete the file and run again to have it remade"
                )
        if set(end_members_of(atoms)) != set(lattice.elements):
            raise ArtefactError(f"{path}: structure {name} does not name the end members {', '.join(lattice.elements)}")
    if not structures:
        raise ArtefactError(f"{path}: the dataset is empty")
    return structures


def end_members_of(atoms: Atoms) -> dict[str, float]:
    """Return the energies of the pure species, eV/atom, that a dataset's formation energies refer to."""
    found = {}
    for entry in str(atoms.info.get("end_members", "")).split():
        species, _, energy = entry.partition("=")
        found[species] = float(energy)
    return found
