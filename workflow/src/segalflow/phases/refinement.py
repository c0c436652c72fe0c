"""Where a sweep needs more conditions: boundary points whose interval is wider than asked.

A composition jump lies between two chemical potentials of the grid, and halving that step halves its interval, until
the cell itself smears it. Boundaries from free energies have the error of the samples around them, which falls with
the square root of their number. The top of a gap lies between two temperatures. New conditions stand at binary
fractions of the step that holds the point, so that temperatures share them and rounds never repeat them; none is
outside the window of the first sweep, which is what the network was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ndtri

from segalflow.cells import Grid
from segalflow.ensemble import added_conditions, sampled_conditions
from segalflow.errors import BoundaryError
from segalflow.phases.boundaries import merge_boundaries
from segalflow.phases.criteria import FROM_FREE_ENERGY, find_boundaries
from segalflow.phases.equal_weight import MERGED, OVERLAPPING
from segalflow.thermo.comparison import boltzmann_of, site_count
from segalflow.thermo.free_energy import compute_free_energy

FRACTIONS = (1, 3, 7)
"""Conditions that one round can put into a step: at halves, quarters or eighths of it."""
MARGIN = 0.8
"""Errors are aimed this much below what is asked for, being uncertain themselves."""
SMEARED = 8.0
"""No step of delta_mu is cut below this many kT / (N (x_right - x_left)): a cell of N sites flips from phase to phase
over it, and so near a condition averages over both."""
AROUND = (0.0, -0.5, 0.5, -1.0, 1.0)
"""Chemical potentials sampled at a new temperature, in steps of the first grid from the boundary's."""
CLOSE = 1e-9
"""Chemical potentials (eV) and temperatures (K) this close, relative to the window's width, are the same."""


@dataclass(frozen=True)
class Request:
    """What one boundary point asks for.

    Attributes:
        excess: width of its widest interval over the width asked for.
        conditions: (T, delta_mu) by what has to come first: those at 1, 3, 7 binary fractions.
    """

    excess: float
    conditions: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Limit:
    """A boundary point that more conditions do not help, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is sampled so far.

    Attributes:
        temperature, delta_mu: axes of the table, K and eV.
        sampled: which conditions, bool (n_temperatures, n_delta_mu); `usable`: which of them are reliable.
        first_temperature, first_delta_mu: axes of the first sweep, the window.
        kt: k_B T by temperature, (n_temperatures,).
        n_sites: sites of the cell, None where the table does not tell.
        rounds: rounds to come, this one among them.
    """

    temperature: np.ndarray
    delta_mu: np.ndarray
    sampled: np.ndarray
    usable: np.ndarray
    first_temperature: np.ndarray
    first_delta_mu: np.ndarray
    kt: np.ndarray
    n_sites: int | None
    rounds: int

    @classmethod
    def of(cls, table: xr.Dataset, rounds: int) -> Sweep:
        """Read it from an ensemble table."""
        temperature, delta_mu = (table[k].values.astype(float) for k in ("temperature", "delta_mu"))
        sampled = sampled_conditions(table)
        first = sampled & ~added_conditions(table)
        usable = sampled & (table["reliable"].values > 0.5)
        return cls(
            temperature, delta_mu, sampled, usable, temperature[first.any(axis=1)], delta_mu[first.any(axis=0)],
            boltzmann_of(table) * temperature, site_count(table),
            rounds,
        )  # fmt: skip

    def cuts(self, excess: float) -> float:
        """Return how many values cut a step so far that all rounds to come make it `excess` times narrower."""
        return float(np.ceil(round(excess ** (1 / self.rounds), 6)) - 1)

    def row(self, temperature: float) -> int:
        """Return the number of the nearest temperature."""
        return int(np.argmin(np.abs(self.temperature - temperature)))

    def potentials(self, row: int) -> np.ndarray:
        """Return the chemical potentials sampled at a temperature."""
        return self.delta_mu[self.sampled[row]]

    def holds(self, temperature: float, delta_mu: float) -> bool:
        """Whether a condition is sampled."""
        row = self.row(temperature)
        if abs(self.temperature[row] - temperature) > CLOSE * np.ptp(self.first_temperature):
            return False
        return bool(np.any(np.abs(self.potentials(row) - delta_mu) <= CLOSE * np.ptp(self.first_delta_mu)))


def _inside(low: float, high: float) -> tuple[tuple[float, ...], ...]:
    """Values at 1, 3, 7 binary fractions of a step, without the two ends, rounded as grids are."""
    return tuple(tuple(round(float(v), 12) for v in np.linspace(low, high, number + 2)[1:-1]) for number in FRACTIONS)


def _enough(wanted: float) -> int:
    """How many of `FRACTIONS` hold at least `wanted` conditions."""
    return int(min(np.searchsorted(FRACTIONS, wanted), len(FRACTIONS) - 1)) + 1


def split_step(point: Any, sweep: Sweep, excess: Mapping[str, float]) -> Request | Limit:
    """Ask for conditions inside the step of delta_mu that brackets a composition jump."""
    if point.kind == "gap_top":
        return Limit("composition_jump knows tops between temperatures of the first grid only (free energies, finer)")
    row = sweep.row(point.temperature)
    at = sweep.potentials(row)
    start, stop = (int(np.argmin(np.abs(at - end))) for end in (point.delta_mu_low, point.delta_mu_high))
    jump = max(point.x_right - point.x_left, 1e-6)
    smallest = 0.0 if sweep.n_sites is None else SMEARED * sweep.kt[row] / (sweep.n_sites * jump)
    levels = sum((at[stop] - at[start]) / (number + 1) >= smallest for number in FRACTIONS)
    inner = (sweep.delta_mu > at[start]) & (sweep.delta_mu < at[stop]) & sweep.usable[row]
    if inner.any() or not levels:
        return Limit("a cell this small averages over both phases inside the step that brackets the jump")
    worst = max(excess.values())
    return _ask(worst, sweep.temperature[row], at[start], at[stop], min(sweep.cuts(worst), FRACTIONS[levels - 1]))


def add_samples(point: Any, sweep: Sweep, excess: Mapping[str, float]) -> Request | Limit:
    """Ask for conditions around a boundary point from free energies: errors fall with the root of their number."""
    if point.kind == "gap_top":
        if MERGED in point.note:
            return Limit(
                "two peaks merge before their gap closes, and no temperature between tells where (common_tangent)"
            )
        return _between_temperatures(point, sweep, max(excess.values()))
    if OVERLAPPING in point.note:
        return Limit("two peaks of a composition histogram overlap, and where they are parted decides, not the samples")
    row = sweep.row(point.temperature)
    at = sweep.potentials(row)
    k = int(np.clip(np.searchsorted(at, point.delta_mu, side="right"), 1, len(at) - 1))
    worst = max(excess.values())
    # The two ends of the step are there already.
    return _ask(worst, sweep.temperature[row], at[k - 1], at[k], 2 * ((worst / MARGIN) ** 2 - 1))


def _ask(excess: float, temperature: float, low: float, high: float, wanted: float) -> Request:
    """Conditions at one temperature inside a step of delta_mu."""
    kept = _inside(low, high)[: _enough(wanted)]
    return Request(excess, tuple(tuple((float(temperature), mu) for mu in values) for values in kept))


def _between_temperatures(point: Any, sweep: Sweep, excess: float) -> Request | Limit:
    """Ask for temperatures inside the interval of a gap's top, each with some chemical potentials around it."""
    window = sweep.first_temperature
    low, high = max(point.temperature_low, window[0]), min(point.temperature_high, window[-1])
    if not high > low:
        return Limit("the interval of the top lies outside the temperatures of the sweep")
    grid = sweep.first_delta_mu
    number = np.interp(point.delta_mu, grid, np.arange(len(grid)))
    places = np.clip(np.round(2 * number) / 2 + np.array(AROUND), 0, len(grid) - 1)
    potentials = [round(float(v), 12) for v in np.interp(places, np.arange(len(grid)), grid)]
    potentials = list(dict.fromkeys(potentials))
    kept = _inside(low, high)[: _enough(sweep.cuts(excess))]
    return Request(excess, tuple(tuple((round(t, 6), mu) for t in values for mu in potentials) for values in kept))


REFINERS: dict[str, Callable[[Any, Sweep, Mapping[str, float]], Request | Limit]] = {
    "composition_jump": split_step,
    "common_tangent": add_samples,
    "equal_weight": add_samples,
}
"""What a point asks for, by the criterion that found it."""


def interval_widths(points: pd.DataFrame) -> pd.DataFrame:
    """Return the full widths of every point's intervals: columns ``x``, ``temperature`` and ``delta_mu``.

    A two-phase point has those of x (the wider of both sides) and delta_mu, a gap's top that of the temperature; the
    others are NaN.
    """
    fields = (points["kind"] == "two_phase").to_numpy()
    reach = 2 * ndtri(0.5 + points["confidence"].to_numpy(float) / 2)
    x = reach * points[["x_left_stderr", "x_right_stderr"]].to_numpy(float).max(axis=1, initial=0.0)
    potential = (points["delta_mu_high"] - points["delta_mu_low"]).to_numpy(float)
    kelvin = (points["temperature_high"] - points["temperature_low"]).to_numpy(float)
    tops = (points["kind"] == "gap_top").to_numpy()
    columns = {"x": (fields, x), "temperature": (tops, kelvin), "delta_mu": (fields, potential)}
    return pd.DataFrame({k: np.where(m, v, np.nan) for k, (m, v) in columns.items()}, index=points.index)


def plan_refinement(
    points: pd.DataFrame,
    table: xr.Dataset,
    *,
    number: int,
    rounds: int,
    conditions: int,
    width_x: float | None = None,
    width_temperature: float | None = None,
    width_delta_mu: float | None = None,
) -> tuple[Grid, list[str]]:
    """Return the conditions of one round of refinement, and sentences on what they are for.

    The widest intervals come first; what is left of the budget is shared by the rounds still to come. With nothing to
    add, `Grid.wanted` holds nothing and the sentences say why.

    Args:
        points: boundary points of one method on one cell by criteria of `REFINERS`.
        table: its ensemble table, with the conditions of earlier rounds.
        number: number of this round, from 1.
        rounds: how many there are.
        conditions: most conditions of all rounds together.
        width_x, width_temperature, width_delta_mu: widest interval of a two-phase point's compositions, of a gap's top
            (K), and of a two-phase point's delta_mu (eV); None asks nothing.

    Raises:
        BoundaryError: if no width is asked for, a point is of another criterion, or of a temperature never sampled.
    """
    asked = {"x": width_x, "temperature": width_temperature, "delta_mu": width_delta_mu}
    asked = {name: width for name, width in asked.items() if width is not None}
    if not asked:
        raise BoundaryError("refinement: expected width_x, width_temperature or width_delta_mu, found none of them")
    sweep = Sweep.of(table, rounds - number + 1)
    head = f"Round {number}"
    left = conditions - int(added_conditions(table).sum())
    widths = interval_widths(points)
    over = pd.DataFrame({name: widths[name] / width for name, width in asked.items()}, index=points.index)
    requests: list[Request] = []
    limits: dict[str, int] = {}
    for point, ratios in zip(points.itertuples(), over.to_dict("records"), strict=True):
        excess = {name: ratio for name, ratio in ratios.items() if ratio > 1}
        if not excess:
            continue
        if point.criterion not in REFINERS:
            raise BoundaryError(
                f"refinement: no rule for criterion '{point.criterion}', expected one of {', '.join(REFINERS)}"
            )
        answer = _outside(point, sweep) or REFINERS[point.criterion](point, sweep, excess)
        if isinstance(answer, Limit):
            limits[answer.reason] = limits.get(answer.reason, 0) + 1
        else:
            requests.append(answer)
    n_wide = int((over > 1).any(axis=1).sum())
    notes = [f"{head}: {n_wide} of {len(points)} boundary points have an interval wider than asked for."]
    notes += [f"{head}: {n} points cannot be refined: {reason}." for reason, n in limits.items()]
    budget = -(-max(left, 0) // sweep.rounds)
    chosen = _allot(requests, sweep, budget)
    if requests and len(chosen) == budget:
        notes.append(f"{head}: the budget of {conditions} conditions allowed {budget} in this round.")
    if not chosen:
        why = "every interval is within the requested width" if not n_wide else "none would help or is left"
        why = why if len(points) else "there is no boundary to refine"
        notes.append(f"{head} adds no conditions: {why}.")
        empty = np.zeros((len(sweep.first_temperature), 1), dtype=bool)
        return Grid(sweep.first_temperature, sweep.first_delta_mu[:1], " ".join(notes), empty), notes
    temperature = np.union1d(sweep.first_temperature, [t for t, _ in chosen])
    delta_mu = np.unique([mu for _, mu in chosen])
    wanted = np.zeros((len(temperature), len(delta_mu)), dtype=bool)
    for kelvin, mu in chosen:
        wanted[np.searchsorted(temperature, kelvin), np.searchsorted(delta_mu, mu)] = True
    notes.append(f"{head} adds {len(chosen)} conditions at {int(wanted.any(axis=1).sum())} temperatures.")
    return Grid(temperature, delta_mu, " ".join(notes), wanted), notes


def _outside(point: Any, sweep: Sweep) -> Limit | None:
    """Points that the trained window does not hold cannot be refined."""
    grid, kelvin = sweep.first_delta_mu, sweep.first_temperature
    if not grid[0] <= point.delta_mu <= grid[-1] or not kelvin[0] <= point.temperature <= kelvin[-1]:
        return Limit("they lie outside the window of the sweep, which is all that the network was trained on")
    if point.kind == "two_phase" and abs(sweep.temperature[sweep.row(point.temperature)] - point.temperature) > 1e-6:
        raise BoundaryError(f"refinement: a boundary point at {point.temperature:g} is at no temperature of the table")
    return None


def _allot(requests: list[Request], sweep: Sweep, budget: int) -> list[tuple[float, float]]:
    """Share the budget: every request's halves first, then quarters, then eighths; the widest interval first."""
    order = sorted(requests, key=lambda request: (-request.excess, request.conditions))
    chosen: dict[tuple[float, float], None] = {}
    for level in range(len(FRACTIONS)):
        for request in order:
            if level >= len(request.conditions):
                continue
            new = [c for c in request.conditions[level] if c not in chosen and not sweep.holds(*c)]
            # A part of a level is better than none.
            for condition in new[: budget - len(chosen)]:
                chosen[condition] = None
    return sorted(chosen)


def points_of(table: xr.Dataset, boundaries: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the boundary points of a table's method and cell."""
    points = merge_boundaries(boundaries)
    mine = (points["method"] == table.attrs["method"]) & (points["cell"] == table.attrs["cell"])
    return points[mine].reset_index(drop=True)


def find_refined_boundaries(
    table: xr.Dataset,
    samples: xr.Dataset,
    *,
    criteria: Mapping[str, Mapping[str, Any]],
    blocks: int,
    replicates: int,
    seed: int,
) -> tuple[pd.DataFrame, list[str]]:
    """Return the boundary points of a refined sweep by several criteria, and what these have to say.

    Args:
        table, samples: all conditions so far.
        criteria: settings by criterion, of `REFINERS`.
        blocks, replicates, seed: for the free energies (`segalflow.thermo.free_energy.compute_free_energy`).
    """
    free = None
    if set(criteria) & set(FROM_FREE_ENERGY):
        free = compute_free_energy(table, samples, blocks=blocks, replicates=replicates, seed=seed)
    tables, notes = [], []
    for criterion, settings in criteria.items():
        found, said = find_boundaries(criterion, [free if criterion in FROM_FREE_ENERGY else table], settings)
        tables.append(found)
        notes += [f"{criterion}: {sentence}" for sentence in said]
    return merge_boundaries(tables), notes
