"""Side by side: every pair of methods on their common conditions, with combined errors and z-scores."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from segalflow.artefacts import to_builtin
from segalflow.ensemble import second_species_composition
from segalflow.errors import ArtefactError, BoundaryError
from segalflow.thermo.jumps import find_jumps
from segalflow.units import BOLTZMANN_EV_PER_K

COLUMNS = (
    "cell",
    "method_a",
    "method_b",
    "variable",
    "temperature",
    "delta_mu",
    "value_a",
    "value_b",
    "difference",
    "combined_stderr",
    "z",
    "reliable_a",
    "reliable_b",
    "near_jump",
    "energy_evaluations_a",
    "energy_evaluations_b",
)

SUMMARY_COLUMNS = (
    "cell",
    "method_a",
    "method_b",
    "variable",
    "selection",
    "n",
    "fraction_within_3",
    "rms_z",
    "median_abs_z",
    "max_abs_z",
    "rms_difference",
    "max_abs_difference",
)

VARIABLES = ("log_z", "composition", "energy", "heat_capacity", "susceptibility")

# What must be equal for two tables to speak of the same thing.
_SAME_ATTRIBUTES = ("energy_unit", "reference", "chemical_potential_reference", "model_sha256", "n_sites")


def _plain(value: Any) -> str:
    """An attribute as text: the same for a table in memory and one read from a file, where dictionaries are JSON."""
    return value if isinstance(value, str) else json.dumps(to_builtin(value), sort_keys=True)


def check_comparable(a: xr.Dataset, b: xr.Dataset, cell: str) -> None:
    """Refuse two tables that do not describe the same system.

    Raises:
        BoundaryError: if species, energy unit, chemical-potential reference, model or number of sites differ.
    """
    names = f"'{a.attrs.get('method')}' and '{b.attrs.get('method')}' on cell '{cell}'"
    species = [tuple(map(str, t["species"].values)) for t in (a, b)]
    if species[0] != species[1]:
        raise BoundaryError(f"cannot compare {names}: their species differ, {species[0]} and {species[1]}")
    for key in _SAME_ATTRIBUTES:
        if key in a.attrs and key in b.attrs and _plain(a.attrs[key]) != _plain(b.attrs[key]):
            raise BoundaryError(
                f"cannot compare {names}: their {key.replace('_', ' ')} differs, {a.attrs[key]} and {b.attrs[key]}"
            )


def _values(table: xr.Dataset, variable: str, suffix: str = "") -> np.ndarray | None:
    name = f"{variable}{suffix}"
    if name not in table:
        return None
    return np.asarray(table[name].isel(species=1) if variable == "composition" else table[name], dtype=float)


def boltzmann_of(table: xr.Dataset) -> float:
    """Return k_B in the table's units: eV/K, or 1 for systems in units of J."""
    return BOLTZMANN_EV_PER_K if table.attrs.get("energy_unit", "eV") == "eV" else 1.0


def site_count(table: xr.Dataset) -> int | None:
    """Return the number of sites of the cell, from the attribute or from what implies it; None if nothing does."""
    if "n_sites" in table.attrs:
        return int(table.attrs["n_sites"])
    if "n_atoms" in table.sizes:
        return int(table.sizes["n_atoms"]) - 1
    if "log_z" in table and "grand_potential" in table:
        kt = boltzmann_of(table) * table["temperature"]
        ratio = np.asarray(-kt * table["log_z"] / table["grand_potential"], dtype=float)
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            return round(float(np.median(ratio)))
    return None


def resolution(table: xr.Dataset, variable: str) -> np.ndarray:
    """Return the smallest change of `variable` that the table's samples could have shown, shape (n_T, n_delta_mu).

    A chain or a set of samples that never left a perfect ground state has a spread of zero, which is no error of
    zero: of n independent samples of N sites, an excitation with a rate below 1/(nN) stays unseen. It costs about
    ``kT ln(nN)``, and one occurrence would have changed x by 1/(nN), the energy per site by ``kT ln(nN)/(nN)``, the
    heat capacity by ``ln(nN)^2/(nN)``, the susceptibility by ``1/(kT nN)`` and log Z by 1/n. Zero where the number of
    sites is unknown and for exact tables.
    """
    shape = table["n_samples"].shape
    sites = site_count(table)
    if sites is None or table.attrs.get("method") == "exact":
        return np.zeros(shape)
    independent = np.asarray(table["n_samples"], dtype=float)
    if "ness" in table:
        independent = independent * np.clip(np.nan_to_num(np.asarray(table["ness"], float)), 0.0, 1.0)
    if "autocorrelation_time" in table:
        # A frozen chain has no measurable time; it counts as uncorrelated, the kindest reading.
        independent = independent / np.maximum(1.0, 2 * np.nan_to_num(np.asarray(table["autocorrelation_time"], float)))
    independent = np.maximum(independent, 1.0)
    total = independent * sites
    kt = boltzmann_of(table) * np.asarray(table["temperature"], dtype=float)[:, None]
    cost = np.log(total)
    return {
        "log_z": 1 / independent,
        "composition": 1 / total,
        "energy": kt * cost / total,
        "heat_capacity": cost**2 / total,
        "susceptibility": 1 / (kt * total),
    }[variable]


def jump_borders(table: xr.Dataset) -> np.ndarray:
    """Return the conditions that border a first-order jump of x along delta_mu (`find_jumps`), bool, shape (n_T, n)."""
    x = np.asarray(second_species_composition(table), dtype=float)
    stderr = _values(table, "composition", "_stderr")
    chi = np.asarray(table["susceptibility"], dtype=float)
    delta_mu = np.asarray(table["delta_mu"], dtype=float)
    near = np.zeros(x.shape, dtype=bool)
    sites = site_count(table)
    every = np.ones(len(delta_mu), dtype=bool)
    for t, temperature in enumerate(np.asarray(table["temperature"], dtype=float)):
        sites_per_kt = None if sites is None else sites / (boltzmann_of(table) * temperature)
        for jump in find_jumps(delta_mu, x[t], stderr[t], chi[t], every, sites_per_kt=sites_per_kt):
            near[t, jump.start : jump.stop + 1] = True
    return near


def _matches(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the values common to two increasing axes, up to rounding."""
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()), 1e-300)
    equal = np.abs(a[:, None] - b[None, :]) <= 1e-9 * scale
    return np.nonzero(equal)


def compare_methods(tables: Mapping[str, xr.Dataset], cell: str) -> pd.DataFrame:
    """Compare every pair of methods on their common conditions and common variables.

    Args:
        tables: ensemble tables of one cell by method.
        cell: name of the cell, for the first column.

    Returns:
        One row per pair, variable and condition (`COLUMNS`). ``difference`` is ``value_a - value_b``;
        ``combined_stderr`` holds both standard errors and the `resolution` of both sample sizes, in quadrature;
        ``near_jump`` marks conditions that border a first-order jump of the composition in either table; energy
        evaluations are those spent at the condition. Conditions where a value is not a finite number are left out.

    Raises:
        BoundaryError: if two tables differ in species, energy unit, chemical-potential reference or model.
        ArtefactError: if two tables have no condition in common.
    """
    frames = []
    borders = {method: jump_borders(table) for method, table in tables.items()}
    for method_a, method_b in itertools.combinations(tables, 2):
        a, b = tables[method_a], tables[method_b]
        check_comparable(a, b, cell)
        ta, tb = _matches(np.asarray(a["temperature"], float), np.asarray(b["temperature"], float))
        ma, mb = _matches(np.asarray(a["delta_mu"], float), np.asarray(b["delta_mu"], float))
        if not len(ta) or not len(ma):
            raise ArtefactError(f"cannot compare '{method_a}' and '{method_b}' on cell '{cell}': no common conditions")
        at, bt = np.ix_(ta, ma), np.ix_(tb, mb)
        temperature, delta_mu = np.meshgrid(
            np.asarray(a["temperature"], float)[ta], np.asarray(a["delta_mu"], float)[ma], indexing="ij"
        )
        near = borders[method_a][at] | borders[method_b][bt]
        for variable in VARIABLES:
            values = [_values(a, variable), _values(b, variable)]
            if values[0] is None or values[1] is None:
                continue
            value_a, value_b = values[0][at], values[1][bt]
            errors = [
                _values(a, variable, "_stderr")[at],
                _values(b, variable, "_stderr")[bt],
                resolution(a, variable)[at],
                resolution(b, variable)[bt],
            ]
            combined = np.sqrt(sum(e**2 for e in errors))
            difference = value_a - value_b
            # Rounding of two exact sums is no disagreement.
            rounding = 1e-9 * np.maximum(1.0, np.maximum(np.abs(value_a), np.abs(value_b)))
            z = difference / np.maximum(combined, rounding)
            kept = np.isfinite(difference) & np.isfinite(combined)
            frame = pd.DataFrame(
                {
                    "temperature": temperature[kept],
                    "delta_mu": delta_mu[kept],
                    "value_a": value_a[kept],
                    "value_b": value_b[kept],
                    "difference": difference[kept],
                    "combined_stderr": combined[kept],
                    "z": z[kept],
                    "reliable_a": np.asarray(a["reliable"])[at][kept] > 0.5,
                    "reliable_b": np.asarray(b["reliable"])[bt][kept] > 0.5,
                    "near_jump": near[kept],
                    "energy_evaluations_a": np.asarray(a["energy_evaluations"])[at][kept],
                    "energy_evaluations_b": np.asarray(b["energy_evaluations"])[bt][kept],
                }
            )
            for position, (name, value) in enumerate(
                [("cell", cell), ("method_a", method_a), ("method_b", method_b), ("variable", variable)]
            ):
                frame.insert(position, name, value)
            frames.append(frame)
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)]


def summarise_comparison(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise `compare_methods` per cell, pair and variable.

    Returns:
        Two rows each (`SUMMARY_COLUMNS`): selection ``away_from_jumps`` (reliable in both tables and bordering no
        first-order jump) and ``all``. Without a row to count, n is 0 and the other numbers are NaN.
    """
    rows = []
    for key, part in frame.groupby(["cell", "method_a", "method_b", "variable"], sort=True):
        away = part["reliable_a"].astype(bool) & part["reliable_b"].astype(bool) & ~part["near_jump"].astype(bool)
        for selection, chosen in (("away_from_jumps", part[away]), ("all", part)):
            z = np.abs(chosen["z"].to_numpy(float))
            difference = np.abs(chosen["difference"].to_numpy(float))
            some = len(z) > 0
            rows.append(
                (
                    *key,
                    selection,
                    len(z),
                    float(np.mean(z <= 3)) if some else np.nan,
                    float(np.sqrt(np.mean(z**2))) if some else np.nan,
                    float(np.median(z)) if some else np.nan,
                    float(z.max()) if some else np.nan,
                    float(np.sqrt(np.mean(difference**2))) if some else np.nan,
                    float(difference.max()) if some else np.nan,
                )
            )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
