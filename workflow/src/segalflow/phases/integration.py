"""Thermodynamic integration as an independent check of the free energies.

``d log Z / d delta_mu = <N> / kT`` at constant T, and ``d log Z / d(1/kT) = -<U - delta_mu N>`` at constant delta_mu:
the means of an ensemble table, condition by condition, give changes of log Z that share no weights with the multistate
reweighting behind f(x, T) (`thermo.free_energy.integrate_log_z`). One row of the consistency table is one path: along
all delta_mu at a temperature, or along all temperatures at a delta_mu. Steps across a first-order jump, which no
quadrature resolves, and steps from or to unreliable conditions are left out of both sides.

Chains that are stuck in a metastable phase agree with their own means but not with those of their neighbours, so that
no set of log Z serves all: such paths stand out here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from segalflow.thermo.comparison import boltzmann_of
from segalflow.thermo.free_energy import FreeEnergy, integrate_log_z
from segalflow.thermo.tilting import tilted_log_sum

CHECK = "integration"
RATIO = 3.0
"""A step over which a mean changes by more than this many times what its fluctuations explain is a jump."""
N_SIGMA = 4.0
"""It must also be this many standard errors."""
FLOOR = 1e-3
"""Least standard error of a path, in log Z of the cell: rounding, and cubics that are none."""


def _steps(table: xr.Dataset, axis: int) -> np.ndarray:
    """Steps along an axis (0: temperature, 1: delta_mu) between reliable conditions without a jump between them."""
    temperature, mu = table["temperature"].values, table["delta_mu"].values
    x, x_error = (table[name].isel(species=1).values for name in ("composition", "composition_stderr"))
    if axis:
        value, error, step = x, x_error, np.diff(mu)[None]
        response = table["susceptibility"].values
    else:
        beta = (1 / (boltzmann_of(table) * temperature))[:, None]
        value = table["energy"].values - mu * x
        error = np.hypot(table["energy_stderr"].values, mu * x_error)
        step, response = -np.diff(beta, axis=0), table["heat_capacity"].values / beta**2
    usable = (table["reliable"].values > 0.5) & np.isfinite(value) & np.isfinite(response)
    ends = slice(None, -1), slice(1, None)
    low, high = ends if axis == 0 else tuple((slice(None), end) for end in ends)
    explained = RATIO * 0.5 * (response[low] + response[high]) * step
    jump = np.abs(value[high] - value[low]) > explained + N_SIGMA * np.hypot(error[low], error[high])
    return usable[low] & usable[high] & ~jump


def check_paths(table: xr.Dataset, free: FreeEnergy) -> list[dict[str, Any]]:
    """Return a row of the consistency table for every path of one method.

    Args:
        table: its ensemble table.
        free: the free energies of the same method and cell.

    Returns:
        Rows with ``value`` the change of log Z by integration, ``other_value`` that of the free energies, z-scores and
        in ``note`` how many steps are left out. Nothing for free energies that were refused, or without energies in the
        table.
    """
    if "refused" in free.attributes:
        return []
    kept = np.flatnonzero(np.isclose(table["temperature"].values[:, None], free.temperature, rtol=1e-9).any(axis=1))
    table = table.isel(temperature=kept)
    mu = table["delta_mu"].values.astype(float)
    rows = [int(np.abs(free.temperature - t).argmin()) for t in table["temperature"].values]
    slope = free.beta[rows, None] * mu
    curves = np.concatenate([free.log_weight[None], free.replicates])[:, rows]
    log_z = np.array([tilted_log_sum(curve[:, None], slope) for curve in curves])
    by_path = integrate_log_z(table)
    head = {"check": CHECK, **{key: str(free.attributes.get(key, "")) for key in ("cell", "method")}}
    found = []
    for axis, name in ((1, "delta_mu"), (0, "temperature")):
        taken = _steps(table, axis)
        change = np.where(taken, np.nan_to_num(by_path[name]), 0.0).sum(axis=axis)
        # Neighbouring steps share a condition: their errors go together, at most doubling the variance.
        error = np.sqrt(2 * np.where(taken, np.nan_to_num(by_path[f"{name}_stderr"]) ** 2, 0.0).sum(axis=axis))
        other = np.where(taken, np.nan_to_num(np.diff(log_z, axis=axis + 1)), 0.0).sum(axis=axis + 1)
        spread = other[1:].std(axis=0, ddof=1) if len(other) > 2 else np.zeros(other.shape[1])
        for k in np.flatnonzero(taken.sum(axis=axis) > 1):
            stderr = float(np.hypot(np.hypot(error[k], spread[k]), FLOOR))
            left_out = int((~taken).sum(axis=axis)[k])
            where = "" if axis else f"at delta_mu {mu[k]:g}"
            said = f"{left_out} of {taken.shape[axis]} steps left out (jumps, unreliable)" if left_out else ""
            found.append(
                {
                    **head,
                    "quantity": f"log Z along {name}",
                    "criterion": "",
                    "boundary": "",
                    "temperature": float(table["temperature"].values[k]) if axis else np.nan,
                    "other_method": "",
                    "other_criterion": "free energies",
                    "other_boundary": "",
                    "value": float(change[k]),
                    "value_stderr": float(error[k]),
                    "other_value": float(other[0, k]),
                    "other_stderr": float(spread[k]),
                    "difference": float(change[k] - other[0, k]),
                    "difference_stderr": stderr,
                    "z": float((change[k] - other[0, k]) / stderr),
                    "note": "; ".join(filter(None, [where, said])),
                }
            )
    return found
