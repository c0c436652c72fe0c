"""Exact two-dimensional Ising model: Kaufman's formula at zero field, the transfer matrix for every field.

Square lattice on a torus, ``U = -J sum_<ij> s_i s_j`` with J > 0 and k_B = 1. The transfer matrix is applied site by
site to polynomials in the fugacity with only positive terms, so every share of log Z by number of up spins is exact to
rounding and all fields follow from one pass per temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from segalflow.compilation import numba
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import observables_by_composition

MIN_SIDE = 3
"""Shorter periodic sides join two sites by two bonds: another model."""
MAX_COLUMNS = 12
"""Longest shorter side of the transfer matrix: 2^12 states of a row."""


@dataclass(frozen=True, eq=False)
class ZeroFieldIsing:
    """Exact zero-field values, each of the shape of beta.

    Attributes:
        log_z: log of the partition function of the whole lattice.
        energy: mean energy per spin, units of J if beta is in 1/J.
        heat_capacity: ``beta^2 var(U)`` per spin, k_B.
    """

    log_z: np.ndarray
    energy: np.ndarray
    heat_capacity: np.ndarray


def kaufman_log_z(rows: int, columns: int, beta: np.ndarray | float, coupling: float = 1.0) -> ZeroFieldIsing:
    """Return the exact zero-field log Z, energy and heat capacity of the periodic rows x columns lattice.

    Kaufman's four products over ``cosh g_l = cosh 2K coth 2K - cos(pi l / columns)``, K = beta J, in log space with
    analytic derivatives (Kaufman, Phys. Rev. 76, 1232 (1949); Ferdinand & Fisher, Phys. Rev. 185, 832 (1969)).
    ``g_0 = 2K + ln tanh K`` keeps its sign: negative above T_c, zero at T_c, where only its product vanishes.

    Args:
        rows: number of rows.
        columns: number of columns.
        beta: 1/(k_B T), positive, any shape.
        coupling: J, positive.

    Raises:
        SamplingError: for sides below 3, or a beta or coupling that is not positive and finite.
    """
    _check(rows, columns, coupling)
    beta = np.asarray(beta, dtype=float)
    if not np.all((beta > 0) & np.isfinite(beta)):
        raise SamplingError("Kaufman's formula: beta must be positive and finite")
    columns, rows = sorted((int(rows), int(columns)))  # the value is symmetric, the work goes with the columns
    k = beta[..., None] * coupling
    angle = np.pi * np.arange(2 * columns) / columns
    # Hyperbolic functions of 2K times t = e^{-2K}, so that nothing overflows at low temperature.
    t, c, s = np.exp(-2 * k), (1 + np.exp(-4 * k)) / 2, -np.expm1(-4 * k) / 2
    above_one = (s - t) ** 2 / s + 2 * t * np.sin(angle / 2) ** 2  # t (cosh g - 1), without cancellation at T_c
    cosh, sinh = above_one + t, np.sqrt(above_one * (above_one + 2 * t))
    slope = 2 * c * (1 - (t / s) ** 2)  # t d(cosh g)/dK
    curve = 4 * s * (1 - (t / s) ** 2) + 8 * (c * t) ** 2 / s**3
    sinh[..., 0] = 1.0  # l = 0 is written out: the hyperbolic form loses its sign
    g = 2 * k + np.log(cosh + sinh)
    first = slope / sinh
    second = (curve - cosh * first**2) / sinh
    g[..., :1] = 2 * k + np.log(np.tanh(k))
    first[..., :1] = 2 + 2 * t / s
    second[..., :1] = -4 * c * t / s**2

    half = rows / 2
    y, y1, y2 = half * g, half * first, half * second
    decay = np.exp(-2 * np.abs(y))
    log_cosh, log_sinh = np.abs(y) + np.log1p(decay), np.abs(y) + np.log1p(-np.where(decay < 1, decay, 0.0))
    tanh = np.tanh(y)
    coth = 1 / np.where(tanh == 0, 1.0, tanh)
    # Sums over l of log(2 cosh y), log(2 sinh y) and their first two derivatives; rest: even l without l = 0.
    odd, even, rest = slice(1, None, 2), slice(0, None, 2), slice(2, None, 2)

    def product(logs: np.ndarray, ratio: np.ndarray, chosen: slice) -> np.ndarray:
        return np.stack(
            [
                part[..., chosen].sum(axis=-1)
                for part in (logs, ratio * y1, (1 - ratio**2) * y1**2 + ratio * y2)
            ]
        )  # fmt: skip

    positive = [product(log_cosh, tanh, odd), product(log_sinh, coth, odd), product(log_cosh, tanh, even)]
    last = product(log_sinh, coth, rest)
    y, y1, y2, decay = y[..., 0], y1[..., 0], y2[..., 0], decay[..., 0]
    a, b = -np.sign(y) * np.expm1(-2 * np.abs(y)), 1 + decay  # 2 sinh y_0 and 2 cosh y_0 over e^|y_0|
    top = np.max([p[0] for p in positive] + [last[0] + np.abs(y)], axis=0)
    # Derivatives are taken relative to that of the first product: squares of extensive numbers would cancel.
    origin = positive[0][1]
    total, total1, total2 = np.zeros_like(y), np.zeros_like(y), np.zeros_like(y)
    for log, d1, d2 in positive:
        weight, d1 = np.exp(log - top), d1 - origin
        total, total1, total2 = total + weight, total1 + weight * d1, total2 + weight * (d1**2 + d2)
    weight, d1 = np.exp(last[0] + np.abs(y) - top), last[1] - origin
    total += weight * a
    total1 += weight * (a * d1 + b * y1)
    total2 += weight * (a * (d1**2 + last[2] + y1**2) + b * (2 * d1 * y1 + y2))

    n, k, t, c, s = rows * columns, k[..., 0], t[..., 0], c[..., 0], s[..., 0]
    log_z = n / 2 * (2 * k + np.log(2 * s)) - np.log(2) + top + np.log(total)
    d1 = n * c / s + origin + total1 / total
    d2 = -2 * n * (t / s) ** 2 + total2 / total - (total1 / total) ** 2
    return ZeroFieldIsing(log_z, -coupling * d1 / n, k**2 * d2 / n)


def _check(rows: int, columns: int, coupling: float) -> None:
    if min(rows, columns) < MIN_SIDE:
        raise SamplingError(
            f"two-dimensional Ising model: expected sides of at least {MIN_SIDE}, found {rows} x {columns} "
            "(shorter periodic sides have double bonds)"
        )
    if not 0 < coupling < np.inf:
        raise SamplingError(f"two-dimensional Ising model: the coupling must be positive and finite, found {coupling}")


@numba.njit(cache=True, fastmath=False)
def _add_row(vector, moved, columns, length, boltzmann, broken, up):  # pragma: no cover - compiled
    """Write to `moved` the vector times the bonds inside its row and the fugacity of its up spins.

    Vectors are (states, 3, n): sums of weight, weight times broken bonds, weight times their square.
    """
    for state in range(vector.shape[0]):
        b, shift = float(broken[state]), up[state]
        weight = boltzmann[broken[state]]
        moved[state, :, : length + columns] = 0.0
        for n in range(length):
            v0, v1, v2 = vector[state, 0, n], vector[state, 1, n], vector[state, 2, n]
            moved[state, 0, n + shift] = weight * v0
            moved[state, 1, n + shift] = weight * (v1 + b * v0)
            moved[state, 2, n + shift] = weight * (v2 + 2.0 * b * v1 + b * b * v0)


@numba.njit(cache=True, fastmath={"contract", "nsz"})
def _bonds_to_next_row(vector, columns, length, q):  # pragma: no cover - compiled
    """Apply, column by column and in place, the bond to the next row: weight 1 if it is satisfied, q if broken."""
    for column in range(columns):
        bit = 1 << column
        for state in range(vector.shape[0]):
            if state & bit:
                continue
            down, up = vector[state], vector[state | bit]
            for n in range(length):
                d0, d1, d2 = down[0, n], down[1, n], down[2, n]
                u0, u1, u2 = up[0, n], up[1, n], up[2, n]
                down[0, n] = d0 + q * u0
                down[1, n] = d1 + q * (u1 + u0)
                down[2, n] = d2 + q * (u2 + 2.0 * u1 + u0)
                up[0, n] = u0 + q * d0
                up[1, n] = u1 + q * (d1 + d0)
                up[2, n] = u2 + q * (d2 + 2.0 * d1 + d0)


def _row_orbits(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one row state of each orbit under rotations, reflections and the global flip, and the orbit sizes."""
    states = np.arange(2**columns)
    bits = (states[:, None] >> np.arange(columns)) & 1
    least = states.copy()
    for image in (bits, bits[:, ::-1], 1 - bits, 1 - bits[:, ::-1]):
        for shift in range(columns):
            least = np.minimum(least, np.roll(image, shift, axis=1) @ (1 << np.arange(columns)))
    return np.unique(least, return_counts=True)


def ising_by_composition(
    rows: int, columns: int, beta: np.ndarray, coupling: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return exact sums over all states with a given number of up spins.

    ``Z = sum_ab A_ab(z) B_ab(z)`` with the transfer matrix of the upper and the lower half of the rows, a running
    over one row of each symmetry orbit; moments of the number of broken bonds are carried along (all terms positive).

    Args:
        rows: number of rows.
        columns: number of columns; the shorter side is at most `MAX_COLUMNS`.
        beta: 1/(k_B T), positive, shape (n_temperatures,).
        coupling: J, positive.

    Returns:
        ``log sum exp(-beta U)``, mean U and variance of U, shapes (n_temperatures, rows * columns + 1), index: number
        of up spins. Weights that underflow (below e^-700 of the end members) are -inf with zero moments.

    Raises:
        SamplingError: for sides below 3, a shorter side above `MAX_COLUMNS`, or unusable beta or coupling.
    """
    _check(rows, columns, coupling)
    beta = np.atleast_1d(np.asarray(beta, dtype=float))
    if not np.all((beta > 0) & np.isfinite(beta)):
        raise SamplingError("transfer matrix: beta must be positive and finite")
    columns, rows = sorted((int(rows), int(columns)))
    if columns > MAX_COLUMNS:
        raise SamplingError(f"transfer matrix: the shorter side is {columns}, at most {MAX_COLUMNS} is possible")
    n_sites, upper = rows * columns, rows // 2
    states = np.arange(2**columns)
    up = np.bitwise_count(states).astype(np.int64)
    rotated = (states >> 1) | ((states & 1) << (columns - 1))
    broken = np.bitwise_count(states ^ rotated).astype(np.int64)
    orbits, sizes = _row_orbits(columns)
    size = columns * (rows - upper) + 1
    vector, moved = np.zeros((2, len(states), 3, size))
    sums = np.zeros((len(beta), 3, n_sites + 1))
    with bar(len(beta), "transfer matrix", "temperature") as shown:
        for result, q in zip(sums, np.exp(-2 * beta * coupling), strict=True):
            boltzmann = q ** np.arange(columns + 1)
            for first, multiplicity in zip(orbits, sizes, strict=True):
                vector[:] = 0.0
                vector[first, 0, 0] = 1.0
                length = 1
                _bonds_to_next_row(vector, columns, length, q)
                for _ in range(upper - 1):
                    _add_row(vector, moved, columns, length, boltzmann, broken, up)
                    vector, moved, length = moved, vector, length + columns
                    _bonds_to_next_row(vector, columns, length, q)
                half = vector[:, :, :length].copy()
                _add_row(vector, moved, columns, length, boltzmann, broken, up)
                if rows % 2:  # the lower half has one row more
                    vector, moved, length = moved, vector, length + columns
                    _bonds_to_next_row(vector, columns, length, q)
                    _add_row(vector, moved, columns, length, boltzmann, broken, up)
                part = _meet(half, moved[:, :, : length + columns])
                b = float(broken[first])
                part = boltzmann[broken[first]] * np.stack(
                    [part[0], part[1] + b * part[0], part[2] + 2 * b * part[1] + b * b * part[0]]
                )
                where = slice(up[first], up[first] + part.shape[1])
                # The orbit holds the flipped rows too, which give the same with up and down exchanged.
                result[:, where] += 0.5 * multiplicity * part
                result[:, ::-1][:, where] += 0.5 * multiplicity * part
            shown.update(1)
    weight = np.where(sums[:, 0] > 0, sums[:, 0], 1.0)
    mean, square = sums[:, 1] / weight, sums[:, 2] / weight
    with np.errstate(divide="ignore"):
        log_weight = np.log(sums[:, 0]) + 2 * n_sites * coupling * beta[:, None]
    ground = -2 * n_sites * coupling
    return log_weight, ground + 2 * coupling * mean, 4 * coupling**2 * np.maximum(square - mean**2, 0.0)


def _meet(half: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return ``sum_states half * other`` as moments of polynomials, shape (3, n): the degrees and the counts add."""
    n_half, n_other = half.shape[2], other.shape[2]
    both = half.reshape(len(half), -1).T @ other.reshape(len(other), -1)
    both = both.reshape(3, n_half, 3, n_other)
    moments = (
        both[0, :, 0],
        both[1, :, 0] + both[0, :, 1],
        both[2, :, 0] + 2 * both[1, :, 1] + both[0, :, 2],
    )
    out = np.zeros((3, n_half + n_other - 1))
    for n in range(n_half):
        for power in range(3):
            out[power, n : n + n_other] += moments[power][n]
    return out


def sample_transfer_matrix(
    cell_shape: tuple[int, int],
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    coupling: float = 1.0,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the exact ensemble table (method ``transfer_matrix``) of the two-dimensional Ising model in a field.

    The weight of a state is ``exp(-(U - delta_mu N_up) / T)``; nothing is sampled, so all errors are zero.

    Args:
        cell_shape: sides of the periodic square lattice, the shorter one from 3 to `MAX_COLUMNS`.
        species: the two species, down and up; index 0 is the reference of delta_mu.
        temperature: increasing, J/k_B, shape (n_temperatures,).
        delta_mu: increasing, J, shape (n_delta_mu,).
        coupling: J, positive (1 in the units of the table).
        attributes: extra attributes of the table.

    Raises:
        SamplingError: for sides or couplings that `ising_by_composition` refuses, or temperatures that are not positive
            and increasing.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    if not len(temperature) or np.any(temperature <= 0) or np.any(np.diff(temperature) <= 0):
        raise SamplingError(f"temperatures must be positive and increasing, found {temperature.tolist()}")
    beta = 1.0 / temperature
    values = observables_by_composition(*ising_by_composition(*cell_shape, beta, coupling), beta, delta_mu)
    shape = values["log_z"].shape
    return ensemble_table(
        "transfer_matrix",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **{f"{name}_stderr": np.zeros_like(value) for name, value in values.items()},
            "n_samples": np.zeros(shape),
            "energy_evaluations": np.zeros(shape),
            "reliable": np.ones(shape),
        },
        {"n_sites": int(np.prod(cell_shape)), "coupling": coupling, **(attributes or {})},
        "J",
    )
