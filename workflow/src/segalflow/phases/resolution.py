"""Grids too coarse to bracket a transition: where they are, and the step that would do.

A step of delta_mu over which x changes by more than the susceptibilities of its ends explain, but not by so much that
it must be a first-order jump (`thermo.jumps`), may hide one or not. If the unexplained part J is a jump, it stands out
from ``ratio`` times what is explained once ``J + chi h > ratio chi h``: at the step ``h = J / ((ratio - 1) chi)``. If
it is none, the susceptibilities at steps of that size explain it. Along T, a line of one or two points says nothing of
its course, and a maximum narrower than the steps nothing of its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segalflow.phases.grid import Grid
from segalflow.thermo.jumps import Jump

POINTS = 3
"""Fewest points that show the course of a line."""
OPEN = 0.5
"""Part of what susceptibilities explain that must be left unexplained: parabolas of x leave less."""
GROWTH = 2.0
"""Growth of the slope from the ends of a step to those of a smaller one in its middle, close to a critical point."""
FINEST = 10
"""Most parts that a step is asked to be cut into at once: an end in a mixture of two phases has no slope of its own."""


def hidden_jumps(grid: Grid, row: int, jumps: Sequence[Jump], ratio: float, minimum: float, n_sigma: float) -> float:
    """Return the step of delta_mu that would tell jumps from smooth changes at one temperature, infinite where it does.

    Args:
        grid: the table.
        row: number of the temperature.
        jumps: its first-order jumps, which are told.
        ratio: a jump is first order above this many times (susceptibility x step).
        minimum: smallest jump of x that counts.
        n_sigma: and its significance in standard errors.

    Returns:
        The smallest such step, in the units of delta_mu. Steps over conditions that are not usable, or that average
        over both phases of a jump, do not count: no finer grid makes these any better.
    """
    keep = np.flatnonzero(grid.usable[row])
    found = np.inf
    for i, j in itertools.pairwise(keep):
        if j != i + 1 or any(jump.start <= j and jump.stop >= i for jump in jumps):
            continue
        width = float(grid.delta_mu[j] - grid.delta_mu[i])
        ends = np.maximum(grid.susceptibility[row, [i, j]], 0.0)
        # No more than twice the lower one: the other may average over both phases, or lie close to a critical point.
        slope = float(min(ends.mean(), 2 * ends.min()))
        explained = slope * width
        open_part = float(grid.x[row, j] - grid.x[row, i]) - explained
        error = float(np.hypot(grid.x_stderr[row, i], grid.x_stderr[row, j]))
        least = max(minimum, n_sigma * error, OPEN * explained)
        if open_part < least or ratio <= 1 or not slope > 0:
            continue
        needed = open_part / (GROWTH * (ratio - 1) * float(ends.max()))
        found = min(found, float(np.clip(needed, width / FINEST, width / 2)))
    return found


def say_hidden_jumps(
    grid: Grid, jumps: Sequence[Sequence[Jump]], options: Mapping[str, Any], minimum: float
) -> list[str]:
    """Return a sentence on the temperatures at which steps of delta_mu may hide a jump, or nothing.

    Args:
        grid: the table.
        jumps: first-order jumps by temperature.
        options: settings of a criterion, of which ``ratio`` and ``n_sigma`` are read.
        minimum: smallest jump of x that counts.
    """
    steps = {
        float(kelvin): hidden_jumps(grid, t, jumps[t], options["ratio"], minimum, options["n_sigma"])
        for t, kelvin in enumerate(grid.temperature)
    }
    why = f"x changes in one step by {minimum:g} more than its slope explains, which may be a jump or not"
    return say_coarse(steps, float(np.max(np.diff(grid.delta_mu))), why)


def say_coarse(steps: Mapping[float, float], now: float, why: str) -> list[str]:
    """Return the sentence on a grid of too wide steps of delta_mu, or nothing.

    Args:
        steps: the step that would do, by temperature; infinite where the grid's own does.
        now: the widest step of the grid.
        why: what is wrong, in words.
    """
    coarse = {kelvin: step for kelvin, step in steps.items() if np.isfinite(step)}
    if not coarse:
        return []
    worst, step = min(coarse.items(), key=lambda item: item[1])
    return [
        f"The grid is too coarse at {len(coarse)} temperatures: {why}; at {worst:g} a step of {step:.2g} eV would do "
        f"(now {now:.2g} eV)."
    ]


def temperature_unit(attributes: Mapping[str, Any]) -> str:
    """Return the unit of temperatures that goes with the energy unit in a free energy's attributes."""
    return "K" if str(attributes.get("energy_unit", "eV")) == "eV" else f"{attributes['energy_unit']}/k_B"


def say_few_points(name: str, seen: int, step: float, axis: str, unit: str) -> list[str]:
    """Return a sentence on a line seen at fewer points than show its course, or nothing.

    Args:
        name: the line in words.
        seen: at how many successive conditions of the grid it is seen: it is about as many steps long.
        step: the grid's step there.
        axis: ``temperature`` or ``delta_mu``.
        unit: of the step.
    """
    if seen >= POINTS:
        return []
    return [
        f"{name} is seen at {seen} of the grid's {axis} values only, too few to show its course: a step of "
        f"{step * seen / POINTS:.3g} {unit} would do (now {step:.3g} {unit})."
    ]


def resolving_step(axis: np.ndarray, values: np.ndarray, peak: int) -> float:
    """Return the step that would put both neighbours of a maximum above half its height; infinite where they are.

    The shape is that of a Gaussian through the three points, whose logarithm is a parabola.

    Args:
        axis: abscissae, increasing, shape (n,).
        values: alike, positive at the maximum.
        peak: number of the maximum, not at an end.
    """
    around = slice(peak - 1, peak + 2)
    drop = np.log(values[peak] / np.maximum(values[around], 1e-12 * values[peak]))[[0, 2]]
    step = float(axis[peak + 1] - axis[peak - 1]) / 2
    return step * float(np.sqrt(np.log(2) / drop.mean())) if drop.min() > np.log(2) else np.inf
