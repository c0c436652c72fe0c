"""Convergence studies: energies of chosen structures against settings of a calculation, one setting at a time.

A scan names any setting of the calculation by its path (``vasp.kpoints``, ``parameters.mode.ecut``), so that every
engine is studied in the same way. What counts for an expansion is the formation energy, in which most of the error of
a total energy cancels; both are judged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.dft.calculation import CONVERGED, scaled_to_elements
from segalflow.dft.vasp_inputs import incar_of
from segalflow.dft.ways import DATABASE, way_of
from segalflow.errors import DatasetError, SettingsError, suggest
from segalflow.lattice import ParentLattice
from segalflow.provenance import content_hash
from segalflow.structures.pool import structure_name

SCHEMA = "segalflow.convergence/1"
COLUMNS = ["parameter", "value", "structure", "name", "n_atoms", "x", "energy", "energy_change", "formation_energy",
           "formation_energy_change", "status", "reason"]  # fmt: skip
QUANTITIES = ("formation_energy", "energy")

# What relaxation means for VASP; other engines have a setting of that name.
_INCAR = {"none": {"NSW": 0, "IBRION": -1}, "positions": {"ISIF": 2}, "full": {"ISIF": 3}}
_NOT_OF_A_POINT = ("convergence", "minimum_fraction", "runs", "mode")


@dataclass(frozen=True)
class Point:
    """One calculation of a study.

    Attributes:
        name: hash of structure and settings: a value that is added later repeats no calculation.
        label: name or id of the structure.
        settings: of the calculation, with the scanned value put in.
        scanned: which values it stands for, as (path, number of the value): where a scan passes through the
            calculation's own settings, one calculation serves several.
    """

    name: str
    label: str
    settings: dict[str, Any]
    scanned: tuple[tuple[str, int], ...]


def with_value(settings: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return settings with the value at a dotted path replaced.

    Raises:
        SettingsError: if there is nothing that the value could belong to.
    """
    result = copy.deepcopy(dict(settings))
    place: Any = result
    *blocks, last = path.split(".")
    for block in blocks:
        place = place.get(block) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (not blocks and last not in place):
        known = ", ".join(sorted(k for k in settings if k not in _NOT_OF_A_POINT))
        raise SettingsError(
            f"convergence.scan: '{path}' is no setting of the calculation (it has {known}); a setting inside a block "
            "needs that block to be written out, e.g. parameters.mode.ecut needs parameters.mode"
        )
    place[last] = value
    return result


def value_text(value: Any) -> Any:
    """Return a scanned value as tables hold it: a number, or a text (``6 6 6`` of a list)."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def own_value(settings: Mapping[str, Any], path: str) -> Any:
    """Return the value that the calculation itself has at a path, None if it leaves it to the engine."""
    place: Any = settings
    if path.startswith("vasp.incar."):
        return incar_of(settings["vasp"]).get(path.rsplit(".", 1)[1].upper())
    for key in path.split("."):
        place = place.get(key) if isinstance(place, Mapping) else None
    return place


def plan_points(settings: Mapping[str, Any], elements: Sequence[str]) -> list[Point]:
    """Return the calculations of a study, each once.

    Args:
        settings: of the calculation, with its block ``convergence``: structures, scan, relax.
        elements: the pure ones are always calculated, since formation energies refer to them.

    Raises:
        SettingsError: if the calculation has no settings to scan, or a path leads nowhere.
    """
    study = settings["convergence"]
    if way_of(settings) == DATABASE:
        raise SettingsError("convergence: energies from a database have no settings to scan")
    base = {k: v for k, v in settings.items() if k not in _NOT_OF_A_POINT}
    if "vasp" in base:
        # Written out in full, a value that is the preset's own is the same point. Settings of single structures would
        # win over the scanned value.
        own = {tag.upper(): value for tag, value in base["vasp"]["incar"].items()}
        incar = {**incar_of(base["vasp"]), **{tag: None for tag in own if own[tag] is None}, **_INCAR[study["relax"]]}
        base["vasp"] = {**base["vasp"], "incar": incar, "structures": {}}
    else:
        base["relax"] = study["relax"]
    found: dict[str, Point] = {}
    for path, values in study["scan"].items():
        for number, value in enumerate(values):
            changed = with_value(base, path, value)
            for label in dict.fromkeys([*elements, *study["structures"]]):
                name = content_hash({"structure": label, "settings": changed}, 12)
                before = found[name].scanned if name in found else ()
                found[name] = Point(name, label, changed, (*before, (path, number)))
    return list(found.values())


def find_structures(
    pool: Sequence[Atoms], labels: Iterable[str], lattice: ParentLattice
) -> dict[str, tuple[Atoms, str]]:
    """Return structures and their names by the id or name that a config calls them by.

    Their volume is that of their elements on average.

    Raises:
        SettingsError: if no structure of the pool, or more than one, is called so.
    """
    names = [structure_name(atoms, lattice) for atoms in pool]
    result = {}
    for label in dict.fromkeys(labels):
        found = [n for n, atoms in enumerate(pool) if label in (atoms.info["structure"], names[n])]
        if len(found) != 1:
            advice = "; give the id of one of them" if found else suggest(label, names)
            raise SettingsError(
                "convergence.structures: expected the id or name (see structures/manifest.csv) of a structure, "
                f"'{label}' is that of {len(found)} in the pool{advice}"
            )
        result[label] = scaled_to_elements(pool[found[0]]), names[found[0]]
    return result


def convergence_table(
    points: Sequence[Point],
    records: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    elements: Sequence[str],
    scan: Mapping[str, Sequence[Any]],
) -> pd.DataFrame:
    """Return energies, and their changes to the last value of each scan, eV/atom.

    Args:
        points: of `plan_points`.
        records: record of each point by its name (see `segalflow.dft.calculation.run_calculation`).
        names: what to call each structure, by label.
        elements: the pure species, the reference of x first.
        scan: values by path, from the cheapest to the most accurate.

    Returns:
        Columns `COLUMNS`, one row a value and structure; what did not converge has no energy, and its reason.
    """
    rows = []
    for point in points:
        record = records[point.name]
        usable, symbols = record["status"] == CONVERGED, record["symbols"]
        for path, number in point.scanned:
            rows.append(
                {
                    "parameter": path,
                    "number": number,
                    "value": value_text(scan[path][number]),
                    "structure": record["structure"],
                    "name": names[point.label],
                    "n_atoms": len(symbols),
                    "x": symbols.count(elements[1]) / len(symbols),
                    "energy": record["energy"] / len(symbols) if usable else np.nan,
                    "status": record["status"],
                    "reason": record["reason"],
                    **{f"share_{e}": symbols.count(e) / len(symbols) for e in elements},
                }
            )
    table = pd.DataFrame(rows).sort_values(["parameter", "number", "x", "structure"], ignore_index=True)
    formation = table["energy"].copy()
    for _, part in table.groupby(["parameter", "number"]):
        for element in elements:
            pure = part.loc[part[f"share_{element}"] == 1.0, "energy"]
            formation[part.index] -= part[f"share_{element}"] * (pure.iloc[0] if len(pure) else np.nan)
    # A pure element's is zero by definition and says nothing.
    table["formation_energy"] = formation.where(table[[f"share_{e}" for e in elements]].max(axis=1) < 1)
    for quantity in QUANTITIES:
        last = table.groupby(["parameter", "structure"])[quantity].transform(lambda v: v.iloc[-1])
        table[f"{quantity}_change"] = table[quantity] - last
    return table[COLUMNS]


def _first_converged(part: pd.DataFrame, quantity: str, values: Sequence[Any], tolerance: float) -> int | None:
    """Number of the first value from which on no structure changes by more than the tolerance; the last is no proof."""
    asked = part[part["n_atoms"] > 0] if quantity == "energy" else part[(part["x"] > 0) & (part["x"] < 1)]
    per_value = len(asked) // len(values)
    if not per_value:
        return None
    worst = np.abs(asked[f"{quantity}_change"].to_numpy(float)).reshape(len(values), per_value).max(axis=1)
    good = worst <= tolerance  # what has no energy is not good
    first = len(values)
    while first and good[first - 1]:
        first -= 1
    return first if first < len(values) - 1 else None


def recommend(
    table: pd.DataFrame, scan: Mapping[str, Sequence[Any]], tolerance: float, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what the study says about each setting.

    Args:
        table: of `convergence_table`.
        scan: values by path.
        tolerance: largest change that counts as converged, eV/atom.
        settings: of the calculation, with its own value of each setting.

    Returns:
        By setting: parameter, tolerance, ``recommended`` (the first value from which on formation energies change by no
        more than the tolerance; null if there is none before the last), ``recommended_energy`` (the same for total
        energies), ``used`` (the calculation's own), ``used_change`` (largest change of a formation energy at it,
        eV/atom, null if it is not among the values), ``missing`` (calculations without an energy).
    """
    found = []
    for path, values in scan.items():
        part = table[table["parameter"] == path]
        numbers = {q: _first_converged(part, q, values, tolerance) for q in QUANTITIES}
        chosen = {q: None if n is None else values[n] for q, n in numbers.items()}
        used = own_value(settings, path)
        same = [n for n, value in enumerate(values) if value == used]
        change = None
        if same:
            at = part.groupby("structure")["formation_energy_change"].nth(same[0]).abs()
            change = float(at.max()) if np.isfinite(at.max()) else None
        found.append(
            {
                "parameter": path,
                "values": list(values),
                "tolerance": tolerance,
                "recommended": chosen["formation_energy"],
                "recommended_energy": chosen["energy"],
                "used": used,
                "used_change": change,
                "missing": int(part["energy"].isna().sum()),
            }
        )
    return found


def require_points(table: pd.DataFrame, what: str) -> None:
    """Stop with a sentence if nothing has been calculated.

    Raises:
        DatasetError: with the first reason.
    """
    if table["energy"].isna().all():
        raise DatasetError(f"{what}: none of {len(table)} calculations has an energy; first: {table['reason'].iloc[0]}")
