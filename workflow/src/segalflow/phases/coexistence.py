"""Both sides of a boundary point in a free energy: where the phases are parted, their weights, compositions, energies.

At coexistence each phase is a peak of the composition histogram, and its composition and energy are means over that
peak. Energies by composition come from the samples where a method keeps them, else as ``-d log_weight / d beta``.
Errors are those of replicates: the energy of a replicate differs by the derivative of its own deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import gammaln, xlogy

from segalflow.phases.equal_weight import PARTING, balance_peaks
from segalflow.phases.gaps import Gap
from segalflow.phases.tangent_sides import PARTED, STIFF, STRONGEST, Side
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.thermo.tilting import log_sum


@dataclass(frozen=True, eq=False)
class Peaks:
    """Two coexisting phases of one isotherm, at equal weight; main estimate first, then the replicates.

    Attributes:
        row: number of the temperature.
        divider: number of atoms that parts the phases; the left one holds it.
        bounds: first and last number of atoms that belong to them.
        barrier: height of the divider above the lower peak, kT of the cell; infinite where no sample is there.
        slope: delta_mu/kT, (n_draws,).
        x: mean compositions, (2, n_draws).
        weight: log weights by number of atoms, (n_draws, n_sites + 1), not tilted.
    """

    row: int
    divider: int
    bounds: tuple[int, int]
    barrier: float
    slope: np.ndarray
    x: np.ndarray
    weight: np.ndarray

    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last number of atoms of the left and of the right phase."""
        return (self.bounds[0], self.divider), (self.divider + 1, self.bounds[1])

    def share(self, slope: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight of the right phase and the mean composition of both together at a slope, (n_draws,)."""
        n = np.arange(self.weight.shape[1])
        inside = (n >= self.bounds[0]) & (n <= self.bounds[1])
        tilted = self.weight[:, inside] + slope * n[inside]
        p = np.exp(tilted - log_sum(tilted)[:, None])
        return p[:, n[inside] > self.divider].sum(axis=1), p @ n[inside] / n[-1]


@dataclass(eq=False)
class Coexistence:
    """The free energies of one method and cell, asked for both sides of boundary points.

    Attributes:
        free: the free energies.
        energy: mean U of the cell by composition, eV, (n_t, n_sites + 1); NaN where it is unknown.
        draws: the same of the replicates, (n_replicates, n_t, n_sites + 1).
        truncation: how far `energy` may be off because temperatures are apart, eV; zero where it is from samples.
    """

    free: FreeEnergy
    energy: np.ndarray = field(init=False)
    draws: np.ndarray = field(init=False)
    truncation: np.ndarray = field(init=False)
    _found: dict[tuple[int, ...], Peaks] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        free = self.free
        with np.errstate(invalid="ignore"):
            offset = np.where(np.isfinite(free.replicates), free.replicates - free.log_weight, np.nan)
        three_point = _gradient(free.beta)
        self.truncation = np.zeros_like(free.log_weight)
        if free.energy is not None:
            self.energy = np.where(np.isfinite(free.log_weight), free.energy, np.nan)
            moved = -_rows(three_point, np.nan_to_num(offset))
        else:
            smooth = _spline(free.beta)
            value = np.where(np.isfinite(free.log_weight), free.log_weight, np.nan)
            self.energy, moved = -_rows(smooth, value), -_rows(smooth, offset)
            # Two ways to differ that disagree by more than noise: the steps of temperature are too wide.
            apart, noise = _rows(smooth - three_point, value), _rows(smooth - three_point, offset)
            spread = noise.var(axis=0) if len(noise) > 1 else np.zeros_like(apart)
            square, spread = np.nan_to_num(apart) ** 2, np.nan_to_num(spread)
            self.truncation = np.where(square > 4 * spread, np.sqrt(np.maximum(square - spread, 0.0)), 0.0)
        self.draws = self.energy + np.nan_to_num(moved)

    def row(self, temperature: float) -> int | None:
        """Return the number of a temperature, None where the free energies have it not."""
        found = np.flatnonzero(np.isclose(self.free.temperature, temperature, rtol=1e-9, atol=0.0))
        return int(found[0]) if len(found) else None

    def peaks(self, row: int, points: Sequence[Mapping[str, Any]], number: int) -> Peaks | None:
        """Return the phases on both sides of a boundary point, None where the free energy shows no two of them.

        Args:
            row: number of the temperature.
            points: all boundary points of one source at this temperature, from left to right.
            number: which of them.
        """
        dividers = [self._divider(row, p["x_left"], p["x_right"]) for p in points]
        if dividers[number] is None:
            return None
        below = [d for d in dividers[:number] if d is not None and d < dividers[number]]
        above = [d for d in dividers[number + 1 :] if d is not None and d > dividers[number]]
        bounds = (max(below) + 1 if below else 0, min(above) if above else self.free.n_sites)
        key = (row, dividers[number], *bounds)
        if key not in self._found:
            self._found[key] = self._balance(*key)
        return self._found[key]

    def _divider(self, row: int, x_left: float, x_right: float) -> int | None:
        """Number of atoms at which the weight is lowest below its chord over a gap; the middle of what is unknown."""
        n = self.free.n_sites
        curve = self.free.log_weight[row]
        known = np.flatnonzero(np.isfinite(curve))
        if not len(known):
            return None
        left, right = (int(known[np.abs(known - x * n).argmin()]) for x in (x_left, x_right))
        if right - left < 2:
            return None
        inner = np.arange(left + 1, right)
        hole = inner[~np.isfinite(curve[inner])]
        if len(hole):
            return int(hole[len(hole) // 2])
        part = (inner - left) / (right - left)
        return int(inner[np.argmin(curve[inner] - (1 - part) * curve[left] - part * curve[right])])

    def _balance(self, row: int, divider: int, first: int, last: int, draws: int | None = None) -> Peaks:
        weight = np.concatenate([self.free.log_weight[None, row], self.free.replicates[:draws, row]])
        gap = Gap(first, last, divider, np.inf, 0.0)
        known = np.flatnonzero(np.isfinite(weight[0]))
        low, high = known[known <= divider], known[known > divider]
        a, b = low[np.argmax(weight[0, low])], high[np.argmax(weight[0, high])]
        start = float(weight[0, a] - weight[0, b]) / (b - a)
        slope, *x = balance_peaks(weight, gap, (first, last), start)
        tilted = weight[0] + slope[0] * np.arange(weight.shape[1])
        lower = min(tilted[first : divider + 1].max(), tilted[divider + 1 : last + 1].max())
        return Peaks(row, divider, (first, last), float(lower - tilted[divider]), slope, np.array(x), weight)

    def slope_of_peaks(self, peaks: Peaks) -> tuple[np.ndarray, float]:
        """Return du/dx between the phases' means, eV, (n_draws,), and what the steps of temperature leave open."""
        n = np.arange(peaks.weight.shape[1])
        energy = np.concatenate([self.energy[None, peaks.row], self.draws[:, peaks.row]])[: len(peaks.weight)]
        left_open = self.truncation[peaks.row]
        means, truncation = [], []
        for first, last in peaks.sides():
            side = slice(first, last + 1)
            tilted = peaks.weight[:, side] + peaks.slope[:, None] * n[side]
            tilted = np.where(np.isfinite(energy[:1, side]), tilted, -np.inf)
            with np.errstate(invalid="ignore"):
                p = np.exp(tilted - log_sum(tilted)[:, None])
            means.append((np.nan_to_num(energy[:, side]) * p).sum(axis=1) / n[-1])
            truncation.append(float(p[0] @ left_open[side]) / n[-1])
        width = peaks.x[1] - peaks.x[0]
        return (means[1] - means[0]) / width, float(np.hypot(*truncation) / width[0])

    def slope_of_points(self, row: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return du/dx between two compositions, eV, (n_draws,), its derivatives by both, and what is left open.

        On a common tangent this is the exact derivative: the tangent points' own movement cancels.

        Args:
            row: number of the temperature.
            x: the two compositions.
        """
        known = np.flatnonzero(np.isfinite(self.energy[row]))
        at, n = known / self.free.n_sites, self.free.n_sites
        curves = np.concatenate([self.energy[None, row], self.draws[:, row]])[:, known] / n
        u = _interpolate(x, at, curves)
        steep = np.gradient(curves[0], at) if len(at) > 1 else np.zeros(1)
        width = float(x[1] - x[0])
        slope = (u[:, 1] - u[:, 0]) / width
        by_x = (np.interp(x, at, steep) - slope[0]) * np.array([-1.0, 1.0]) / width
        return slope, by_x, float(np.hypot(*np.interp(x, at, self.truncation[row, known] / n)) / width)

    def finite_cell(self, peaks: Peaks) -> tuple[np.ndarray, float]:
        """Return how far the means of the peaks are from the points of a common tangent: in x, (2,), and delta_mu, eV.

        Of a peak narrower than random mixing a tangent takes the sums as well, with weights raised to a power where the
        peaks overlap (`tangent_sides`). Of a wider one it takes the points of f(x), with n sites' worth of random
        mixing, ``n_sites f_mix``, in place of the logarithm of the binomial coefficient C. To leading order in
        1/n_sites, with the cumulants k_2 and k_3 of N in the peak: its mean is ``k_3 / (2 k_2)`` above its maximum, and
        ``C exp(-n f_mix) ~ 1 / sqrt(x (1 - x))`` moves the maximum by ``-k_2 (1 - 2x) / (2 n x (1 - x))``. The peak's
        weight is ``sqrt(2 pi k_2)`` times its height. All this vanishes for an ideal solution.
        """
        n, shift, weight = self.free.n_sites, np.zeros(2), np.zeros(2)
        power = np.array([max(1.0, PARTED / max(peaks.barrier, PARTED / STRONGEST))])
        for side, (first, last) in enumerate(peaks.sides()):
            atoms = np.arange(first, last + 1)
            tilted = peaks.weight[0, atoms] + peaks.slope[0] * atoms
            tilted -= log_sum(tilted)
            p = np.exp(tilted)
            mean = float(p @ atoms)
            second, third = float(p @ (atoms - mean) ** 2), float(p @ (atoms - mean) ** 3)
            x = mean / n
            if second < max(STIFF * n * x * (1 - x), 1.0):
                raised, value, _ = Side(atoms / n, -tilted[None], False, n, power).sums(-tilted[None])
                shift[side], weight[side] = raised[0] - x, -value[0]
                continue
            mixing = -n * (xlogy(x, x) + xlogy(1 - x, 1 - x))
            binomial = gammaln(n + 1) - gammaln(mean + 1) - gammaln(n - mean + 1)
            weight[side] = max(0.5 * np.log(2 * np.pi * max(second, 1e-12)), 0.0) - (mixing - binomial)
            # A peak narrower than half a site is a single composition, and known as such.
            if second > 0.25:
                shift[side] = (third / second - second * (1 - 2 * x) / (n * x * (1 - x))) / (2 * n)
        kt = self.free.boltzmann * self.free.temperature[peaks.row]
        return np.abs(shift), float(kt * abs(weight[1] - weight[0]) / (n * float(peaks.x[1, 0] - peaks.x[0, 0])))

    def parting_error(self, peaks: Peaks) -> float:
        """Return how much du/dx depends on where the peaks are parted, eV: it matters where they overlap."""
        reach = int((peaks.x[1, 0] - peaks.x[0, 0]) * self.free.n_sites) // PARTING
        places = np.clip(peaks.divider + np.array([-reach, reach]), peaks.bounds[0], peaks.bounds[1] - 1)
        if not reach:
            return 0.0
        moved = [self._balance(peaks.row, int(place), *peaks.bounds, draws=0) for place in places]
        low, high = (float(self.slope_of_peaks(p)[0][0]) for p in moved)
        return abs(high - low) / 2

    def energy_stderr(self, peaks: Peaks) -> float:
        """Return a lower bound on the error of du/dx, eV: the spread of U over the samples that weigh the phases.

        Replicates tell the error of energies by how they differ between temperatures; where samples of neighbouring
        temperatures do not overlap that is too little. With n samples a phase the ratio of weights is known to about
        ``sqrt(2 / n)``, and so is the difference of energies in units of its spread.
        """
        if self.free.energy is None or len(peaks.slope) < 3:
            return 0.0
        n = np.arange(peaks.weight.shape[1])
        ratio, spread = [], []
        for first, last in peaks.sides():
            tilted = peaks.weight[:, first : last + 1] + peaks.slope[0] * n[first : last + 1]
            ratio.append(log_sum(tilted))
            p = np.exp(tilted[0] - ratio[-1][0])
            spread.append(float(p @ np.nan_to_num(self.free.energy_variance[peaks.row, first : last + 1])))
        with np.errstate(invalid="ignore"):
            change = (ratio[1] - ratio[0])[1:]
        change = change[np.isfinite(change)]
        error = float(change.std(ddof=1)) if len(change) > 1 else 0.0
        return error * float(np.sqrt(sum(spread) / 2)) / (n[-1] * float(peaks.x[1, 0] - peaks.x[0, 0]))


def _interpolate(x: np.ndarray, at: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Linear interpolation of many curves (n, n_at) at a few places, (n, n_x); their ends go on beyond."""
    if len(at) < 2:
        return np.repeat(curves, len(x), axis=1)
    k = np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(at) - 2)
    part = np.clip((x - at[k]) / (at[k + 1] - at[k]), 0.0, 1.0)
    return curves[:, k] + part * (curves[:, k + 1] - curves[:, k])


def _rows(operator: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A linear operator along the temperatures, the last axis but one; NaN where it needs what is unknown."""
    with np.errstate(invalid="ignore"):
        return np.einsum("ij,...jn->...in", operator, values)


def _gradient(at: np.ndarray) -> np.ndarray:
    """Matrix of the derivative by three points; zero for fewer than three rows."""
    if len(at) < 3:
        return np.zeros((len(at), len(at)))
    return np.gradient(np.eye(len(at)), at, axis=0, edge_order=2)


def _spline(at: np.ndarray) -> np.ndarray:
    """Matrix of the derivative by a cubic spline; NaN for fewer than four rows, which cannot tell how far it is off."""
    if len(at) < 4:
        return np.full((len(at), len(at)), np.nan)
    from scipy.interpolate import CubicSpline  # slow to import

    order = np.argsort(at)
    return CubicSpline(at[order], np.eye(len(at))[order])(at, 1)
