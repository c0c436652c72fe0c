"""Side by side for more than two species: every pair of methods on their common grid, element by element.

The rows are those of `segalflow.thermo.comparison`, with one column of delta_mu for each exchange of species.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from segalflow.ensemble import grid_dimensions
from segalflow.errors import ArtefactError
from segalflow.thermo.comparison import COLUMNS, check_comparable

SCALARS = ("log_z", "energy", "heat_capacity")


def species_columns(table: xr.Dataset) -> list[str]:
    """Return the columns of a comparison: `COLUMNS` with one delta_mu an exchange."""
    axes = list(grid_dimensions(table)[1:])
    at = COLUMNS.index("delta_mu")
    return [*COLUMNS[:at], *axes, *COLUMNS[at + 1 :]]


def compare_species(tables: Mapping[str, xr.Dataset], cell: str) -> pd.DataFrame:
    """Compare every pair of methods of one cell on their grid.

    Compositions count element by element (all but the first, which is what the others leave), susceptibilities by
    their diagonal. Errors hold what an unseen excitation could change (`unseen_excitation`) already.

    Args:
        tables: ensemble tables of one cell by method, on the same grid.
        cell: name of the cell, for the first column.

    Returns:
        One row per pair, quantity and condition (`species_columns`); ``near_jump`` is always false: jumps of several
        compositions are not looked for.

    Raises:
        BoundaryError: if two tables differ in species, energy unit, chemical-potential reference or model.
        ArtefactError: if two tables have different grids.
    """
    frames = []
    for (method_a, a), (method_b, b) in itertools.combinations(tables.items(), 2):
        check_comparable(a, b, cell)
        grid = grid_dimensions(a)
        if grid != grid_dimensions(b) or not all(
            a[name].shape == b[name].shape and np.allclose(a[name], b[name]) for name in grid
        ):
            raise ArtefactError(f"cannot compare '{method_a}' and '{method_b}' on cell '{cell}': their grids differ")
        conditions = np.meshgrid(*(np.asarray(a[name], float) for name in grid), indexing="ij")
        rest = {
            **{name: values.ravel() for name, values in zip(grid, conditions, strict=True)},
            "reliable_a": np.asarray(a["reliable"]).ravel() > 0.5,
            "reliable_b": np.asarray(b["reliable"]).ravel() > 0.5,
            "near_jump": False,
            "energy_evaluations_a": np.asarray(a["energy_evaluations"]).ravel(),
            "energy_evaluations_b": np.asarray(b["energy_evaluations"]).ravel(),
        }
        quantities = [dict(_quantities(a)), dict(_quantities(b))]
        for key in quantities[0]:
            if key not in quantities[1]:
                continue
            (value_a, error_a), (value_b, error_b) = (found[key] for found in quantities)
            difference, combined = value_a - value_b, np.hypot(error_a, error_b)
            # Rounding of two exact sums is no disagreement.
            rounding = 1e-9 * np.maximum(1.0, np.maximum(np.abs(value_a), np.abs(value_b)))
            frame = pd.DataFrame(
                {
                    "cell": cell, "method_a": method_a, "method_b": method_b, "variable": key[0], "value_a": value_a,
                    "value_b": value_b, "difference": difference, "combined_stderr": combined,
                    "z": difference / np.maximum(combined, rounding), **rest,
                }
            )  # fmt: skip
            frames.append(frame[np.isfinite(difference) & np.isfinite(combined)])
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(frames, ignore_index=True)[species_columns(a)]


def _quantities(table: xr.Dataset) -> Iterator[tuple[tuple[str, int], tuple[np.ndarray, np.ndarray]]]:
    """Values and errors, (n_conditions,) each, by variable and number of the species or exchange."""
    for name in SCALARS:
        if name in table:
            yield (name, 0), (table[name].values.ravel(), table[f"{name}_stderr"].values.ravel())
    for number in range(1, table.sizes["species"]):
        part = [table[f"composition{suffix}"].isel(species=number) for suffix in ("", "_stderr")]
        yield ("composition", number), tuple(v.values.ravel() for v in part)
    for number in range(table.sizes.get("exchange", 0)):
        part = [table[f"susceptibility{s}"].isel(exchange=number, potential=number) for s in ("", "_stderr")]
        yield ("susceptibility", number), tuple(v.values.ravel() for v in part)
