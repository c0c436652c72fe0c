"""What every criterion needs of an ensemble table: composition, errors, and which conditions may be used."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from segalflow.ensemble import added_conditions, sampled_conditions, second_species_composition
from segalflow.errors import BoundaryError, suggest
from segalflow.phases.boundaries import BoundaryPoint
from segalflow.thermo.comparison import boltzmann_of, site_count
from segalflow.thermo.jumps import Jump, find_jumps


@dataclass
class Findings:
    """What a criterion found in one table.

    Attributes:
        points: boundary points; empty when the window holds no boundary.
        notes: sentences on what was found, left out, or cut off by the window.
    """

    points: list[BoundaryPoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Grid:
    """Arrays of a binary ensemble table; all of shape (n_temperatures, n_delta_mu) but the two axes.

    Attributes:
        method, cell: from the table's attributes.
        temperature, delta_mu: the axes.
        x, x_stderr: fraction of species 1.
        susceptibility: d<x>/d(delta_mu).
        usable: reliable and finite.
        sampled, added: which conditions were sampled at all, and which of them by refinement.
        boltzmann: k_B in the table's units.
        n_sites: number of sites, None where the table does not tell.
    """

    method: str
    cell: str
    temperature: np.ndarray
    delta_mu: np.ndarray
    x: np.ndarray
    x_stderr: np.ndarray
    susceptibility: np.ndarray
    usable: np.ndarray
    sampled: np.ndarray
    added: np.ndarray
    boltzmann: float
    n_sites: int | None
    temperature_unit: str = "K"

    def jumps(self, row: int, options: Mapping[str, Any], minimum: float) -> list[Jump]:
        """Return the first-order jumps at one temperature (`find_jumps`), of at least `minimum` in x.

        Conditions that refinement added narrow a jump's bracket; where they average over both phases they make poor
        ends of it, and the first sweep's bracket stands: that with the smaller susceptible part is kept.
        """
        first = self._jumps(row, self.usable[row] & ~self.added[row], options, minimum)
        if not self.added[row].any():
            return first
        refined = self._jumps(row, self.usable[row], options, minimum)
        kept = []
        for jump in first:
            inside = [r for r in refined if r.start >= jump.start and r.stop <= jump.stop]
            better = inside and sum(r.expected for r in inside) <= jump.expected
            kept += inside if better else [jump]
        apart = [r for r in refined if all(r.stop <= j.start or r.start >= j.stop for j in first)]
        return sorted([*kept, *apart], key=lambda jump: jump.start)

    def _jumps(self, row: int, usable: np.ndarray, options: Mapping[str, Any], minimum: float) -> list[Jump]:
        return find_jumps(
            self.delta_mu,
            self.x[row],
            self.x_stderr[row],
            self.susceptibility[row],
            usable,
            options["ratio"],
            minimum,
            options["n_sigma"],
            # Steps are the first sweep's: conditions added in between do not make a jump any wider.
            int(options["max_steps"]) + int((usable & self.added[row]).sum()),
            None if self.n_sites is None else self.n_sites / (self.boltzmann * self.temperature[row]),
        )

    def closed(self, row: int, left: float, right: float, ratio: float) -> bool:
        """Return whether x runs on without a jump from `left` to `right` at one temperature: no gap is left there.

        A step that susceptibilities do not explain keeps it open even where it is no clean jump (a phase narrower than
        the steps of the grid lies in it), and so does one over conditions that are not usable.
        """
        keep = np.flatnonzero(self.usable[row])
        for i, j in itertools.pairwise(keep):
            step = self.x[row, j] - self.x[row, i]
            if self.x[row, j] <= left or self.x[row, i] >= right or step <= 0.1 * (right - left):
                continue
            width = self.delta_mu[j] - self.delta_mu[i]
            # That of a condition that averages over two phases explains any step: no more than twice the lower one,
            # which is as far as the ends of a step are apart that straddles a critical point off its middle.
            ends = self.susceptibility[row, [i, j]]
            explained = min(0.5 * ends.sum(), 2.0 * ends.min()) * width
            if step > ratio * explained or (self.sampled & ~self.usable)[row, i : j + 1].any():
                return False
        return True

    def skipped(self) -> list[str]:
        """Return a sentence on conditions left out, or nothing."""
        bad = self.sampled & ~self.usable
        n = int(bad.sum())
        if not n:
            return []
        worst = [
            f"{t:g} {self.temperature_unit} ({int(k)})"
            for t, k in zip(self.temperature, bad.sum(axis=1), strict=True)
            if k
        ]
        where = ", ".join(worst[:8]) + (", ..." if len(worst) > 8 else "")
        return [f"{n} of {int(self.sampled.sum())} conditions are unreliable and were left out: {where}."]


def read_grid(table: xr.Dataset) -> Grid:
    """Return the arrays of a binary ensemble table.

    Temperatures that refinement added hold only what one boundary needed and are left out: they serve free energies.

    Raises:
        BoundaryError: if it has fewer than 3 temperatures or 3 chemical potentials, or not two species.
    """
    method, cell = str(table.attrs.get("method", "")), str(table.attrs.get("cell", ""))
    whole = (sampled_conditions(table) & ~added_conditions(table)).any(axis=1)
    if not whole.all():
        table = table.isel(temperature=np.flatnonzero(whole))
    n_t, n_mu = table.sizes["temperature"], table.sizes["delta_mu"]
    if n_t < 3 or n_mu < 3:
        raise BoundaryError(
            f"table of '{method}' on cell '{cell}': {n_t} temperatures x {n_mu} chemical potentials are too few to "
            f"bracket a phase boundary, expected at least 3 of each (grid.temperature, grid.delta_mu){_enough(table)}"
        )
    if table.sizes["species"] != 2:
        raise BoundaryError(f"table of '{method}' on cell '{cell}': boundaries are read from binary tables only")
    x = np.asarray(second_species_composition(table), dtype=float)
    x_stderr = np.asarray(table["composition_stderr"].isel(species=1), dtype=float)
    susceptibility = np.asarray(table["susceptibility"], dtype=float)
    finite = np.isfinite(x) & np.isfinite(susceptibility)
    return Grid(
        method,
        cell,
        np.asarray(table["temperature"], dtype=float),
        np.asarray(table["delta_mu"], dtype=float),
        x,
        np.nan_to_num(x_stderr),
        susceptibility,
        finite & (np.asarray(table["reliable"], dtype=float) > 0.5),
        sampled_conditions(table),
        added_conditions(table),
        boltzmann_of(table),
        site_count(table),
        str(table["temperature"].attrs.get("units", "K")),
    )


def _enough(table: xr.Dataset) -> str:
    """The steps that give a window three temperatures and chemical potentials, in words; nothing without a window."""
    parts = []
    for name in ("temperature", "delta_mu"):
        axis = np.asarray(table[name], dtype=float)
        if len(axis) == 2:
            parts.append(f"a step of {np.ptp(axis) / 2:.3g} {table[name].attrs.get('units', '')} in {name}".strip())
    return f": {' and '.join(parts)} would do" if parts else ""


def read_settings(criterion: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return `defaults` with `given` put in.

    Raises:
        BoundaryError: for an unknown key or a value that is no positive number.
    """
    for key, value in given.items():
        if key not in defaults:
            raise BoundaryError(
                f"phases.{criterion}: unknown key '{key}', expected one of {', '.join(defaults)}"
                f"{suggest(key, defaults)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise BoundaryError(f"phases.{criterion}.{key}: expected a number that is not negative, found {value!r}")
    return {**defaults, **given}


def half_steps(temperature: np.ndarray) -> np.ndarray:
    """Return half the step to the farther neighbour of every temperature of a grid, K; 0 for a single one."""
    if len(temperature) < 2:
        return np.zeros(len(temperature))
    steps = np.diff(temperature) / 2
    return np.maximum(np.append(steps, steps[-1]), np.append(steps[0], steps))


def track_lines(rows: Sequence[Sequence[tuple[float, float]]], overlap: float, max_gap: int = 1) -> list[list[int]]:
    """Join intervals of consecutive rows into lines.

    Args:
        rows: for each temperature, the composition intervals (left, right) of its two-phase fields.
        overlap: smallest intersection over union of two intervals of one line.
        max_gap: rows that a line may miss.

    Returns:
        For every row, the line number of each interval; numbers are from 0 in order of first appearance (low to high
        temperature, left to right).
    """
    numbers: list[list[int]] = []
    last: dict[int, tuple[int, tuple[float, float]]] = {}  # line: (row, interval)
    for r, row in enumerate(rows):
        found = [-1] * len(row)
        scores = []
        for i, (left, right) in enumerate(row):
            for line, (seen, (a, b)) in last.items():
                union = max(right, b) - min(left, a)
                shared = min(right, b) - max(left, a)
                if r - seen <= max_gap + 1 and union > 0 and shared / union >= overlap:
                    scores.append((-shared / union, line, i))
        used: set[int] = set()
        for _, line, i in sorted(scores):
            if found[i] < 0 and line not in used:
                found[i] = line
                used.add(line)
        for i, interval in enumerate(row):
            if found[i] < 0:
                found[i] = len(last)
            last[found[i]] = (r, interval)
        numbers.append(found)
    return numbers
