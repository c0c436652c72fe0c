"""Critical points from Binder's cumulant of the composition, ``1 - <m^4> / (3 <m^2>^2)`` with ``m = N - <N>``.

Along the line on which the cumulant is largest at each temperature (the symmetric line of a miscibility gap; Kim &
Fisher, Phys. Rev. Lett. 91, 065701, 2003) it falls from 2/3 (two phases) to 0 (one), and at the critical temperature
its curves for cells of different sizes cross (Binder, Z. Phys. B 43, 119, 1981). The crossing needs cells of one shape.
A single cell can only be compared with the value at the crossing, which depends on the universality class and the
cell's shape: 0.4655 for a cubic periodic cell of the three-dimensional Ising class (Ferrenberg, Xu & Landau, Phys.
Rev. E 97, 043301, 2018), 0.6107 for a square one in two dimensions (Kamieniarz & Bloete, J. Phys. A 26, 201, 1993) and
0.2705 in the mean field (Brezin & Zinn-Justin, Nucl. Phys. B 257, 867, 1985). The temperatures at which a single cell
passes the last two bound its critical point.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.equal_weight import balance_peaks
from segalflow.phases.gaps import Gap, find_gaps, number_lines, replicate_stderr
from segalflow.phases.grid import Findings, read_settings
from segalflow.thermo.free_energy import FreeEnergy

CRITERION = "critical_point"

DEFAULTS: dict[str, Any] = {
    "cumulant": 0.4655,  # at the critical point of a single cell: cubic, three dimensions
    "highest_cumulant": 0.6107,  # ends of the interval: square, two dimensions,
    "lowest_cumulant": 0.2705,  # and mean field
    "steps": 8,  # temperatures tried in a step of the grid
    "minimum_gap": 0.02,  # narrowest gap in x below the point
    "n_sigma": 4.0,  # standard errors by which f must rise above its tangent there
    "ratio": 3.0,  # across compositions without samples: a jump is this many times (susceptibility x step)
    "overlap": 0.25,  # smallest shared part of the gaps of one line at successive temperatures
    "confidence": 0.95,
}

TWO_PHASES = 2 / 3
"""The cumulant of two sharp peaks of one weight."""
REACH = 1.5
"""Widest distance in slope, in inverse standard deviations of N, from equal weights to the largest cumulant."""
APART = 0.15
"""Largest distance in x of the critical points of one line in two cells."""


@dataclass(frozen=True, eq=False)
class Locus:
    """The symmetric line that goes up from a gap; main estimate first, then the replicates, (n_draws, n_temperatures).

    Attributes:
        temperature: K, increasing, shape (n_temperatures,).
        delta_mu: eV.
        x: mean composition.
        cumulant: Binder's cumulant, the largest at each temperature.
        line: number of the gaps' line.
    """

    temperature: np.ndarray
    delta_mu: np.ndarray
    x: np.ndarray
    cumulant: np.ndarray
    line: int

    def falls(self, level: float) -> np.ndarray:
        """Return the temperatures at which the cumulant first falls through `level`, (n_draws,); NaN where never."""
        return first_fall(self.temperature, self.cumulant - level)


def first_fall(at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return where each row of `values` (n_rows, n) first goes from above zero to below it; NaN where it never does."""
    found = np.full(len(values), np.nan)
    for r, row in enumerate(values):
        k = np.flatnonzero((row[:-1] >= 0) & (row[1:] < 0))
        if len(k):
            part = row[k[0]] / (row[k[0]] - row[k[0] + 1])
            found[r] = at[k[0]] + part * (at[k[0] + 1] - at[k[0]])
    return found


def composition_cumulant(log_weight: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, variance and Binder's cumulant of the number of atoms, each (n_draws, n_slopes).

    Args:
        log_weight: logarithms of the weights by number of atoms, (n_draws, n_sites + 1).
        slope: delta_mu/kT, (n_draws, n_slopes).
    """
    n = np.arange(log_weight.shape[1])
    tilted = log_weight[:, None] + slope[..., None] * n
    tilted -= tilted.max(axis=-1, keepdims=True)
    p = np.exp(tilted)
    p /= p.sum(axis=-1, keepdims=True)
    mean = p @ n
    square = (n - mean[..., None]) ** 2
    variance = np.maximum((p * square).sum(axis=-1), 1e-12)
    return mean, variance, 1 - (p * square**2).sum(axis=-1) / (3 * variance**2)


def largest_cumulant(log_weight: np.ndarray, divider: int, slope: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slope, mean composition and cumulant where the latter is largest, each (n_draws,).

    Args:
        log_weight: logarithms of the weights by number of atoms, (n_draws, n_sites + 1).
        divider: number of atoms that parts the phases: the search begins where both sides hold the same weight.
        slope: delta_mu/kT to start from.
    """
    n_sites = log_weight.shape[1] - 1
    gap = Gap(0, n_sites, divider, np.inf, 0.0)
    start = balance_peaks(log_weight, gap, (0, n_sites), slope)[0]
    known = np.isfinite(start)
    centre = np.where(known, start, slope)[:, None]
    _, variance, _ = composition_cumulant(log_weight, centre)
    tried = centre + np.linspace(-REACH, REACH, 61) / np.sqrt(variance)
    _, _, cumulant = composition_cumulant(log_weight, tried)
    best = np.clip(cumulant.argmax(axis=1), 1, tried.shape[1] - 2)[:, None]
    low, mid, high = (np.take_along_axis(cumulant, best + k, 1) for k in (-1, 0, 1))
    shift = np.clip((low - high) / (2 * np.minimum(low - 2 * mid + high, -1e-15)), -1.0, 1.0)
    slopes = np.take_along_axis(tried, best, 1) + shift * (tried[:, 1:2] - tried[:, :1])
    mean, _, cumulant = composition_cumulant(log_weight, slopes)
    values = [v[:, 0] for v in (slopes, mean / n_sites, cumulant)]
    return tuple(np.where(known, v, np.nan) for v in values)


def symmetric_lines(free: FreeEnergy, options: Mapping[str, Any], findings: Findings) -> list[Locus]:
    """Return the symmetric lines above all gaps of one cell; what cannot be followed is said in `findings`."""
    rows = find_gaps(free, options, findings)
    lines = number_lines(free, rows, options["overlap"])
    if not lines and "refused" not in free.attributes:
        findings.notes.append("No gap in the compositions of this window, so no critical point.")
    return [follow_line(free, [(t, rows[t][i]) for t, i in members], k, options) for k, members in enumerate(lines)]


def follow_line(free: FreeEnergy, members: Sequence[tuple[int, Gap]], line: int, options: Mapping[str, Any]) -> Locus:
    """Follow the largest cumulant upward from the last gap below which it is that of two phases.

    Args:
        free: free energies with replicates.
        members: rows and gaps of one line, with rising temperature.
        line: its number.
        options: `DEFAULTS`, of which ``highest_cumulant`` and ``steps`` count.
    """
    curves = np.concatenate([free.log_weight[None], free.replicates])
    for row, gap in reversed(members):
        divider = min(max((gap.left + gap.right) // 2, 1), free.n_sites - 1)
        slope = gap.delta_mu * free.beta[row]
        found = largest_cumulant(curves[:1, row], divider, slope)
        if found[2][0] > options["highest_cumulant"]:
            break
    temperature, parts = [], []
    steps = max(int(options["steps"]), 1)
    for k in range(row, max(len(free.temperature) - 1, row + 1)):
        last = k >= len(free.temperature) - 2
        upper = free.temperature[min(k + 1, len(free.temperature) - 1)]
        fine = np.linspace(free.temperature[k], upper, steps + 1)[: None if last else -1]
        there = free.at(fine)
        drawn = np.concatenate([there.log_weight[None], there.replicates])
        for t in range(len(fine)):
            if np.isnan(slope):
                break
            found = largest_cumulant(drawn[:, t], divider, slope)
            slope = float(found[0][0])
            temperature.append(float(fine[t]))
            parts.append((found[0] / there.beta[t], found[1], found[2]))
        if np.isnan(slope) or parts[-1][2][0] < 0:
            break
    delta_mu, x, cumulant = (np.array(values).T for values in zip(*parts, strict=True))
    kept = np.isfinite(cumulant[0])
    return Locus(np.array(temperature)[kept], delta_mu[:, kept], x[:, kept], cumulant[:, kept], line)


def find_critical_points(free: FreeEnergy, *, settings: Mapping[str, Any]) -> Findings:
    """Find the top of every gap of one cell as the temperature at which the cumulant passes its critical value.

    Args:
        free: free energies with replicates.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``gap_top`` for every line of gaps that ends inside the window. Its temperature interval reaches from where
        the cumulant passes ``highest_cumulant`` to where it passes ``lowest_cumulant``, with the statistical errors of
        these two: a bound on the unknown value at the crossing, not only noise. That the phases become one there, and
        not one of them a third, is for the names of the phases to tell.

    Raises:
        BoundaryError: for a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    findings = Findings()
    for locus in symmetric_lines(free, options, findings):
        name = f"Line {locus.line} (x = {locus.x[0, -1]:.3f})" if len(locus.temperature) else f"Line {locus.line}"
        middle = locus.falls(options["cumulant"])
        if not np.isfinite(middle[0]):
            cut = len(locus.temperature) and locus.temperature[-1] >= free.temperature[-1] * (1 - 1e-9)
            findings.notes.append(
                f"{name}: the cumulant does not fall through {options['cumulant']:g} inside this window"
                + ("; the top of the gap is cut off by the window." if cut else ".")
            )
            continue
        factor = float(ndtri(0.5 + options["confidence"] / 2))
        ends, notes = [], []
        for level, sign, end in (
            (options["highest_cumulant"], -1, locus.temperature[0]),
            (options["lowest_cumulant"], 1, locus.temperature[-1]),
        ):
            at = locus.falls(level)
            if np.isfinite(at[0]):
                ends.append(float(at[0]) + sign * factor * replicate_stderr(at))
            else:
                ends.append(float(end))
                notes.append(f"the window ends before the cumulant is {level:g}")
        noise = factor * replicate_stderr(middle)
        notes.insert(0, f"one cell: cumulant {options['cumulant']:g}, statistical error alone +-{noise:.3g}")
        low, high = min(ends[0], float(middle[0]) - noise), max(ends[1], float(middle[0]) + noise)
        findings.points.append(_point(free, locus, locus.line, float(middle[0]), low, high, options, notes))
    return findings


def find_crossings(frees: Iterable[FreeEnergy], *, settings: Mapping[str, Any]) -> Findings:
    """Find critical points where the cumulants of cells of different sizes cross.

    Args:
        frees: free energies of one method for cells of one shape; of those of one size the first is taken.
        settings: any of the keys of `DEFAULTS`.

    Returns:
        A ``gap_top`` for every line seen in the two largest cells, entered under the larger one. The error is that of
        the replicates and, with three cells or more, the distance to the crossing of the next smaller pair.

    Raises:
        BoundaryError: for a wrong setting.
    """
    options = read_settings(CRITERION, settings, DEFAULTS)
    findings = Findings()
    sizes: dict[int, FreeEnergy] = {}
    for free in frees:
        sizes.setdefault(free.n_sites, free)
    cells = [sizes[n] for n in sorted(sizes)]
    lines = [symmetric_lines(free, options, Findings()) for free in cells]
    names = [str(free.attributes.get("cell", "")) for free in cells]
    factor = float(ndtri(0.5 + options["confidence"] / 2))
    for locus in lines[-1] if len(cells) > 1 else []:
        chain = [locus]
        for others in reversed(lines[:-1]):
            near = [(abs(_place(other, options) - _place(locus, options)), k) for k, other in enumerate(others)]
            if not near or not min(near)[0] <= APART:
                break
            chain.insert(0, others[min(near)[1]])
        found = [crossing(small, large) for small, large in itertools.pairwise(chain)]
        if not found or not np.isfinite(found[-1][0]):
            findings.notes.append(
                f"The cumulants of line {locus.line} and of smaller cells do not cross inside this window."
            )
            continue
        estimate, error = float(found[-1][0]), replicate_stderr(found[-1])
        used = names[len(names) - len(chain) :]
        notes = [f"crossing of Binder's cumulants of the cells {', '.join(used)}"]
        if len(found) > 1 and np.isfinite(found[-2][0]):
            error = float(np.hypot(error, abs(estimate - found[-2][0])))
        else:
            notes.append("two cells: how far the crossing still moves with size is not known")
        # Numbers of crossings go on behind those of the larger cell's own lines.
        number = len(lines[-1]) + locus.line
        low, high = estimate - factor * error, estimate + factor * error
        findings.points.append(_point(cells[-1], locus, number, estimate, low, high, options, notes))
    return findings


def crossing(small: Locus, large: Locus) -> np.ndarray:
    """Return the temperatures, (n_draws,), above which the cumulant of the larger cell is the lower one.

    Only the fall itself is looked at: below and above it both curves meet anyhow, up to noise.
    """
    draws = min(len(small.cumulant), len(large.cumulant))
    top = (TWO_PHASES + DEFAULTS["highest_cumulant"]) / 2
    inside = (large.temperature >= small.temperature[0]) & (large.temperature <= small.temperature[-1])
    falling = np.flatnonzero(inside & (large.cumulant[0] < top))
    if not len(falling):
        return np.full(draws, np.nan)
    at = large.temperature[max(falling[0] - 1, 0) : falling[-1] + 1]
    at = at[(at >= small.temperature[0]) & (large.cumulant[0, np.searchsorted(large.temperature, at)] > 0.0)]
    if len(at) < 2:
        return np.full(draws, np.nan)
    curves = [
        np.array([np.interp(at, locus.temperature, row) for row in locus.cumulant[:draws]]) for locus in (small, large)
    ]
    return first_fall(at, curves[1] - curves[0])


def _place(locus: Locus, options: Mapping[str, Any]) -> float:
    """Composition at which the cumulant passes its critical value, or of the line's end."""
    at = locus.falls(options["cumulant"])[0]
    return float(np.interp(at if np.isfinite(at) else locus.temperature[-1], locus.temperature, locus.x[0]))


def _point(
    free: FreeEnergy,
    locus: Locus,
    number: int,
    temperature: float,
    low: float,
    high: float,
    options: Mapping[str, Any],
    notes: Sequence[str],
) -> BoundaryPoint:
    """The boundary point at a temperature of a locus; x and delta_mu move along it within the interval."""
    factor = float(ndtri(0.5 + options["confidence"] / 2))
    at = np.array([low, temperature, high])
    x, mu = (
        np.array([np.interp(at, locus.temperature, row) for row in v if np.isfinite(row).all()])
        for v in (locus.x, locus.delta_mu)
    )
    x_error, mu_error = (np.hypot(replicate_stderr(v[:, 1]), (v[0].max() - v[0].min()) / (2 * factor)) for v in (x, mu))
    middle = float(mu[0, 1])
    point = BoundaryPoint(
        CRITERION, str(free.attributes.get("method", "")), str(free.attributes.get("cell", "")), number, "gap_top",
        temperature, low, high, middle, middle - factor * mu_error, middle + factor * mu_error, float(x[0, 1]),
        float(x[0, 1]), float(x_error), float(x_error), confidence=float(options["confidence"]),
    )  # fmt: skip
    return replace(point, note="; ".join(notes))
