"""One end of a common tangent: the composition of a phase at a chemical potential, and its grand potential.

Where the phase is as wide as random mixing or wider, both are read off f(x) itself, by a polynomial through its excess:
that is right up to a critical point. A stiffer phase, as an ordered compound, has a kink in f(x) and only a few
compositions of a finite cell, and its tangent touches now this one, now that, by tiny changes of f. There the sums over
its compositions N tell: with the weights ``W(N) exp(delta_mu N / kT)`` they give the mean N of the phase and its grand
potential, both smooth, and in a periodic cell off by what falls exponentially with its size (Borgs & Kotecky 1990).

Grand potentials are in kT of the cell. That of f(x) with the entropy of random mixing, y, is the sum's for a peak as
wide as random mixing makes it; for one of variance s^2 the sum is ``ln(n x (1 - x) / s^2) / 2`` above it. This is
counted where the peak is narrower, so that both ways meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from segalflow.phases.gaps import Gap
from segalflow.thermo.free_energy import FreeEnergy

DEPTH = 3.0
"""Height above the tangent, kT of the cell, up to which a polynomial is put through f."""
KINK = 0.05
"""Misfit of the polynomial, kT of the cell, above which f counts as kinked."""
STIFF = 1.0
"""Variance of N, in units of that of random mixing, below which the sums over compositions are taken."""
PARTED = 4.0
"""Height at which a phase should end, kT of the cell, for the weights of its compositions to be its own; where it is
less, weights are raised to the power that makes it as high, which keeps to what is next to the tangent."""
HIGHEST = 4
"""Degree of the polynomials for many compositions, and for fewer where a lower one does not do."""
FINE = 400
STRONGEST = 20.0
"""Largest such power."""


@dataclass(frozen=True, eq=False)
class Side:
    """Compositions of one phase with its free energies: main estimate first, then the replicates, (n_draws, n_x).

    Attributes:
        x: compositions.
        y: reduced free energies y on a fine grid where `smooth`, else ``-ln W``.
        smooth: whether f is a polynomial here.
        n_sites: sites of the cell.
        power: what weights are raised to (`PARTED`), (n_draws,).
        height: height at which the phase ends, kT of the cell; infinite where no other begins, or f is a polynomial.
    """

    x: np.ndarray
    y: np.ndarray
    smooth: bool
    n_sites: int
    power: np.ndarray
    height: float = np.inf

    def lowest(self, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x of the phase and its grand potential at a slope (delta_mu/kT) for each draw."""
        tilted = self.y - slope[:, None] * self.n_sites * self.x
        if not self.smooth:
            x, value, variance = self.sums(tilted)
            # Of less than a site's variance there is no peak to speak of.
            soft = np.log(np.maximum(variance, 1.0) / np.maximum(self.n_sites * x * (1 - x), 1.0))
            return x, value + 0.5 * np.maximum(soft, 0.0)
        k = np.clip(tilted.argmin(axis=1), 1, len(self.x) - 2)
        rows = np.arange(len(tilted))
        low, mid, high = tilted[rows, k - 1], tilted[rows, k], tilted[rows, k + 1]
        curve = np.maximum(low - 2 * mid + high, 1e-12)
        shift = np.clip((low - high) / (2 * curve), -1.0, 1.0)
        step = self.x[1] - self.x[0]
        x = self.x[k] + shift * step
        stiffness = curve / (step**2 * self.n_sites) * x * (1 - x)
        return x, mid - shift * (low - high) / 4 + 0.5 * np.log(np.maximum(stiffness, 1.0))

    def sums(self, tilted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean x, grand potential and variance of N over the compositions; NaN for draws that hold none."""
        exponent = -self.power[:, None] * tilted
        highest = exponent.max(axis=1)
        with np.errstate(invalid="ignore"):
            p = np.exp(exponent - highest[:, None])
            total = p.sum(axis=1)
            p /= total[:, None]
        total = highest + np.log(total)
        distance = self.x - self.x[exponent[0].argmax()]
        first, second = p @ distance, p @ distance**2
        mean = first + (self.x - distance)[0]
        variance = self.power * self.n_sites**2 * np.maximum(second - first**2, 0.0)
        # A power narrows the Gaussian peak, whose weight is sqrt(2 pi variance) times its height.
        height = np.maximum(np.log(2 * np.pi * np.maximum(variance, 1e-300)), 0.0)
        value = (-total - 0.5 * (self.power - 1) * height - 0.5 * np.log(self.power)) / self.power
        return mean, np.where(np.isfinite(total), value, np.nan), variance


def mixing_entropy(n_sites: int, x: np.ndarray) -> np.ndarray:
    """Return ``n (x ln x + (1 - x) ln(1 - x))``."""
    return n_sites * (xlogy(x, x) + xlogy(1 - x, 1 - x))


def make_side(free: FreeEnergy, t: int, y: np.ndarray, vertex: int, delta_mu: float, bounds: tuple[int, int]) -> Side:
    """Return the phase at one end of a gap.

    Args:
        free: free energies.
        t: number of the temperature.
        y: reduced free energies there, (n_draws, n_sites + 1).
        vertex: number of atoms where the hull has this end.
        delta_mu: of the hull's edge, eV.
        bounds: first and last number of atoms of the phase: beside the dividers of gaps, beyond which another phase
            begins, however low the barrier to it is.
    """
    n = free.n_sites
    slope = delta_mu / (free.boltzmann * free.temperature[t])
    every = np.arange(n + 1)
    weights = -np.concatenate([free.log_weight[None, t], free.replicates[:, t]])[: len(y)]
    height = _height(weights - slope * every, vertex, bounds)
    power = np.maximum(1.0, PARTED / np.maximum(height, PARTED / STRONGEST))
    atoms = every[bounds[0] : bounds[1] + 1]
    sums = Side(atoms / n, weights[:, atoms], False, n, power, float(height[0]))
    x, _, variance = sums.sums(weights[:, atoms] - slope * atoms)
    if variance[0] < STIFF * n * x[0] * (1 - x[0]):
        return sums
    return _polynomial(n, y, vertex, slope, bounds) or sums


def _height(tilted: np.ndarray, vertex: int, bounds: tuple[int, int]) -> np.ndarray:
    """Height above the vertex at which a phase ends, the lower one of its two sides, for each draw; infinite for none.

    It is the mean over compositions around the divider: a single one is high or low by noise.
    """
    lowest = np.full(len(tilted), np.inf)
    for divider in (bounds[0] - 1, bounds[1] + 1):
        reach = abs(divider - vertex) // 5
        part = tilted[:, max(divider - reach, 0) : divider + reach + 1]
        if 0 <= divider < tilted.shape[1] and np.isfinite(part[0]).all():
            lowest = np.minimum(lowest, part.mean(axis=1) - tilted[:, vertex])
    return np.where(np.isnan(lowest), np.inf, lowest)


def _polynomial(n: int, y: np.ndarray, vertex: int, slope: float, bounds: tuple[int, int]) -> Side | None:
    """The phase by a polynomial through the excess of its compositions, None where f is kinked or they are too few."""
    with np.errstate(invalid="ignore"):
        above = y[0] - y[0, vertex] - slope * (np.arange(n + 1) - vertex)
    deep = np.isfinite(above) & (above <= DEPTH)
    first = last = vertex
    while first > bounds[0] and deep[first - 1]:
        first -= 1
    while last < bounds[1] and deep[last + 1]:
        last += 1
    window = np.arange(first, last + 1)
    x, values = window / n, y[:, window] - mixing_entropy(n, window / n)
    values = np.where(np.isfinite(values), values, values[0])
    # A replicate's common shift and slope are no misfit: errors are those about the line through its ends.
    centred = values[1:] - values[0]
    part = (window - first) / max(last - first, 1)
    error = (centred - (1 - part) * centred[:, [0]] - part * centred[:, [-1]]).std(axis=0) if len(centred) else 0.0
    weight = 1.0 / np.hypot(error, 0.02 * np.ones(len(window)))
    scaled = (x - x.mean()) / max(np.ptp(x), 1e-12)
    for degree in range(min(len(window) // 5 + 1, HIGHEST), HIGHEST + 1):
        if len(window) < max(degree + 3, 5):
            return None
        powers = np.vander(scaled, degree + 1)
        coefficients = values @ (np.linalg.pinv(powers * weight[:, None]) * weight).T
        misfit = values[0] - powers @ coefficients[0]
        if np.sqrt(np.mean((misfit * weight) ** 2)) <= 3.0 or np.abs(misfit).max() <= KINK:
            break
    else:
        return None
    fine = np.linspace(x[0], x[-1], FINE)
    curve = coefficients @ np.vander((fine - x.mean()) / max(np.ptp(x), 1e-12), degree + 1).T
    return Side(fine, curve + mixing_entropy(n, fine), True, n, np.ones(len(curve)))


@dataclass(frozen=True, eq=False)
class Tangent:
    """One tangent: arrays over main estimate and replicates.

    Attributes:
        gap: the gap it spans.
        left, right: compositions of the phases.
        delta_mu: eV.
        smooth: whether f(x) itself gave them.
        height: lowest height at which a phase that sums gave ends, kT of the cell.
        parted: how far left, right and delta_mu depend on where the phases are parted.
    """

    gap: Gap
    left: np.ndarray
    right: np.ndarray
    delta_mu: np.ndarray
    smooth: tuple[bool, bool]
    height: float
    parted: tuple[float, ...] = (0.0, 0.0, 0.0)


def solve_tangent(free: FreeEnergy, t: int, y: np.ndarray, gap: Gap, bounds: Sequence[tuple[int, int]]) -> Tangent:
    """Return the tangent over a gap for every draw: the slope at which the grand potentials of its sides are level.

    Args:
        free: free energies.
        t: number of the temperature.
        y: reduced free energies there, main estimate first, (n_draws, n_sites + 1).
        gap: the gap.
        bounds: first and last number of atoms of the left and of the right phase.
    """
    left, right = (
        make_side(free, t, y, vertex, gap.delta_mu, bounds[k]) for k, vertex in enumerate((gap.left, gap.right))
    )
    kt = free.boltzmann * free.temperature[t]
    slope = np.full(len(y), gap.delta_mu / kt)
    for _ in range(60):
        (xa, va), (xb, vb) = left.lowest(slope), right.lowest(slope)
        known = np.isfinite(va) & np.isfinite(vb)
        change = np.where(known, np.where(known, vb, 0.0) - np.where(known, va, 0.0), 0.0)
        change /= free.n_sites * np.maximum(xb - xa, 1e-9)
        slope = slope + change
        if np.abs(change).max() < 1e-12 * max(np.abs(slope).max(), 1.0):
            break
    found = [np.where(known, values, np.nan) for values in (xa, xb, slope * kt)]
    return Tangent(gap, *found, (left.smooth, right.smooth), min(left.height, right.height))
