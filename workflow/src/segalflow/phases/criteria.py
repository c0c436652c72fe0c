"""The criteria by name, and their run over the tables of all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from segalflow.ensemble import read_ensemble
from segalflow.errors import BoundaryError, suggest
from segalflow.phases.alpha_shape import find_alpha_shape
from segalflow.phases.boundaries import BoundaryPoint, boundary_table
from segalflow.phases.common_tangent import find_common_tangents
from segalflow.phases.composition_difference import find_composition_differences
from segalflow.phases.composition_jump import find_composition_jumps
from segalflow.phases.critical_point import find_critical_points, find_crossings
from segalflow.phases.equal_weight import find_equal_weights
from segalflow.phases.grid import Findings
from segalflow.phases.heat_capacity import find_heat_capacity_maxima
from segalflow.phases.hysteresis import find_hysteresis
from segalflow.phases.ness_regions import find_ness_regions
from segalflow.phases.order_disorder import find_order_lines
from segalflow.thermo.comparison import check_comparable
from segalflow.thermo.free_energy import FreeEnergy, compute_free_energy, read_free_energy
from segalflow.thermo.phase_weights import PhaseWeights, read_phase_weights

NOTES_SCHEMA = "segalflow.boundary_notes/1"

CRITERIA: dict[str, Callable[..., Findings]] = {
    "composition_jump": find_composition_jumps,
    "alpha_shape": find_alpha_shape,
    "heat_capacity": find_heat_capacity_maxima,
    "common_tangent": find_common_tangents,
    "equal_weight": find_equal_weights,
    "hysteresis": find_hysteresis,
    "critical_point": find_critical_points,
    "ness_regions": find_ness_regions,
    "composition_difference": find_composition_differences,
    "order_parameter": find_order_lines,
}

FROM_FREE_ENERGY = ("common_tangent", "equal_weight", "critical_point")
"""Criteria that take free energies (`segalflow.thermo.free_energy`) in place of ensemble tables."""

FROM_PHASE_WEIGHTS = ("order_parameter",)
"""Criteria that take the weights of the phases (`segalflow.thermo.phase_weights`) in place of ensemble tables."""

Source = xr.Dataset | FreeEnergy | PhaseWeights
"""What a criterion reads."""

ACROSS_CELLS: dict[str, Callable[..., Findings]] = {"critical_point": find_crossings}
"""What a criterion finds in all cells of one method together, beside what it finds in each."""


def read_sources(criterion: str, paths: Iterable[str | Path]) -> list[Source]:
    """Read what a criterion takes: ensemble tables, free energies, or weights of the phases.

    Raises:
        ArtefactError: if a file is missing, damaged or of another schema.
    """
    readers = dict.fromkeys(FROM_FREE_ENERGY, read_free_energy)
    readers |= dict.fromkeys(FROM_PHASE_WEIGHTS, read_phase_weights)
    return [readers.get(criterion, read_ensemble)(path) for path in paths]


def find_boundaries(
    criterion: str,
    tables: Mapping[str, Source] | Iterable[Source],
    settings: Mapping[str, Any] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Apply one criterion to every table.

    Args:
        criterion: a key of `CRITERIA`.
        tables: ensemble tables (for `FROM_FREE_ENERGY` free energies, or tables that resolve composition; for
            `FROM_PHASE_WEIGHTS` weights of the phases), by any name or in a row; method and cell are read from their
            attributes.
        settings: the criterion's settings (its ``DEFAULTS`` name them).

    Returns:
        The boundary table (`segalflow.phases.boundaries.COLUMNS`; no rows where nothing was found) and sentences on
        what was found, left out or cut off, each headed by ``method (cell):``.

    Raises:
        BoundaryError: for an unknown criterion, a wrong setting, a grid too coarse to bracket anything, or tables of
            one cell that differ in species, model or chemical-potential reference.
    """
    if criterion not in CRITERIA:
        raise BoundaryError(
            f"unknown criterion '{criterion}', expected one of {', '.join(CRITERIA)}{suggest(criterion, CRITERIA)}"
        )
    points: list[BoundaryPoint] = []
    notes: list[str] = []
    series: dict[tuple[str, str], list[Source]] = {}
    tables = list(tables.values() if isinstance(tables, Mapping) else tables)
    _check_references(tables)
    for table in tables:
        if criterion in FROM_FREE_ENERGY and isinstance(table, xr.Dataset):
            table = compute_free_energy(table, None)
        findings = CRITERIA[criterion](table, settings=dict(settings or {}))
        points += findings.points
        source = table.attrs if isinstance(table, xr.Dataset) else table.attributes
        head = f"{source.get('method', '')} ({source.get('cell', '')})"
        notes += [f"{head}: {sentence}" for sentence in findings.notes]
        # Sizes are compared of one Hamiltonian only.
        series.setdefault((str(source.get("method", "")), str(source.get("model_sha256", ""))), []).append(table)
    for (method, _), members in series.items() if criterion in ACROSS_CELLS else ():
        findings = ACROSS_CELLS[criterion](members, settings=dict(settings or {}))
        points += findings.points
        notes += [f"{method} (all cells): {sentence}" for sentence in findings.notes]
    return boundary_table(points), notes


def _check_references(tables: Iterable[Source]) -> None:
    """Refuse ensemble tables of one cell that do not describe the same system."""
    first: dict[str, xr.Dataset] = {}
    for table in tables:
        if isinstance(table, xr.Dataset):
            cell = str(table.attrs.get("cell", ""))
            check_comparable(first.setdefault(cell, table), table, cell)
