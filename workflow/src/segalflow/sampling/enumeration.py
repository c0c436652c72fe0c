"""Exact sums over every decoration of a small cell: the answer that samplers are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from segalflow.compilation import numba
from segalflow.energy.base import EnergyModel
from segalflow.energy.composition import CompositionPolynomial
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.energy.toys import SquareIsing
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import observables_by_composition
from segalflow.sampling.transfer_matrix import MAX_COLUMNS, ising_by_composition

MAX_SITES_POLYNOMIAL = 30
MAX_SITES_GENERAL = 20
_LOW_SITES = 14
"""Sites inside a block of states: 2^14 energies stay in the second-level cache."""
_TABLE_BYTES = 2**30
_BATCH = 4096


@numba.njit(cache=True, fastmath=False)
def _block_energies(first_high, n_low, high_masks, low_masks, coefficients, constant, energies):  # pragma: no cover
    """Write the energies of the 2^n_low states whose higher sites are the bits of `first_high` (1: spin +1).

    For fixed higher sites the energy is a polynomial in the lower spins: its coefficients are collected by subset, and
    a fast Walsh-Hadamard transform turns them into the energies of all lower states, n_low additions a state.
    """
    energies[:] = 0.0
    energies[0] = constant
    for m in range(coefficients.shape[0]):
        negative = high_masks[m] & ~first_high
        parity = 0
        while negative:
            negative &= negative - 1
            parity ^= 1
        energies[low_masks[m]] += -coefficients[m] if parity else coefficients[m]
    for bit in range(n_low):
        half = 1 << bit
        for start in range(0, energies.shape[0], 2 * half):
            for k in range(start, start + half):
                even, odd = energies[k], energies[k + half]
                energies[k] = even - odd
                energies[k + half] = even + odd


@numba.njit(cache=True, fastmath=False)
def _find_lowest(energies, n_plus, tolerance, floor, degeneracy, highest):  # pragma: no cover - compiled
    for k in range(energies.shape[0]):
        energy, n = energies[k], n_plus[k]
        if energy < floor[n] - tolerance:
            floor[n] = energy
            degeneracy[n] = 1
        elif energy <= floor[n] + tolerance:
            degeneracy[n] += 1
        highest[n] = max(highest[n], energy)


@numba.njit(cache=True, fastmath=False)
def _add_moments(energies, n_plus, start, width, moments):  # pragma: no cover - compiled
    """Add powers of the distance of every energy from its bin's centre, in bins, to moments (n, bins, POWERS)."""
    last = moments.shape[1] - 1
    for k in range(energies.shape[0]):
        n = n_plus[k]
        scaled = (energies[k] - start[n]) / width
        bin_ = min(max(np.int64(scaled), 0), last)
        distance = scaled - bin_ - 0.5
        target = moments[n, bin_]
        power = 1.0
        for p in range(target.shape[0]):
            target[p] += power
            power *= distance


_POWERS = 7
_LARGEST_EXPONENT = 0.02
"""Half a bin over kT at the lowest temperature: seven powers leave a relative error of 0.02^5/5! = 3e-11 at worst, in
the heat capacity, and below 1e-15 in the weights."""


def blocks_of_states(model: SpinPolynomial, label: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield energies and numbers of +1 spins of all states, 2^`_LOW_SITES` at a time."""
    n_sites, n_low = model.n_sites, min(_LOW_SITES, model.n_sites)
    high, low, coefficients = [], [], []
    for members, values in zip(model.members, model.coefficients, strict=True):
        mask = (np.int64(1) << members.astype(np.int64)).sum(axis=1)
        high.append(mask >> n_low)
        low.append(mask & ((1 << n_low) - 1))
        coefficients.append(values)
    tables = [np.concatenate(part) for part in (high, low, coefficients)]
    energies = np.empty(2**n_low)
    n_plus = np.bitwise_count(np.arange(2**n_low)).astype(np.int64)
    with bar(2 ** (n_sites - n_low), label, "block") as shown:
        for number in range(2 ** (n_sites - n_low)):
            _block_energies(number, n_low, *tables, model.constant, energies)
            yield energies, n_plus + number.bit_count()
            shown.update(1)


def _sum_states(model: SpinPolynomial, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log weights, mean and variance of U by composition, each (n_temperatures, n_sites + 1)."""
    n_sites = model.n_sites
    lowest, highest = _extremes(model)
    width = 2 * _LARGEST_EXPONENT / float(np.max(np.abs(beta)))
    # Energies of each composition are binned from its own lowest one.
    n_bins = int(np.max(highest - lowest) / width) + 2
    if (n_sites + 1) * n_bins * _POWERS * 8 > _TABLE_BYTES:
        raise SamplingError(
            f"exact enumeration: at the lowest temperature {n_bins} energy bins would be needed; start higher"
        )
    moments = np.zeros((n_sites + 1, n_bins, _POWERS))
    start = lowest - width / 2
    for energies, n_plus in blocks_of_states(model, "exact sum"):
        _add_moments(energies, n_plus, start, width, moments)
    log_weight, mean, variance = (np.empty((len(beta), n_sites + 1)) for _ in range(3))
    centre = (np.arange(n_bins) + 0.5) * width - width / 2  # relative to the lowest energy of the composition
    for t, b in enumerate(beta):
        # exp(-b (centre + d)) = exp(-b centre) sum_k (-b d)^k / k!, and the same with d and d^2 in front.
        taylor = np.cumprod(np.concatenate([[1.0], -b * width / np.arange(1, _POWERS)]))
        s0, s1, s2 = (moments[:, :, j:] @ taylor[: _POWERS - j] * width**j for j in range(3))
        boltzmann = np.exp(-b * centre)
        z = s0 @ boltzmann
        first = (centre * s0 + s1) @ boltzmann / z
        offset = centre - first[:, None]
        second = ((offset**2 * s0 + 2 * offset * s1 + s2) * boltzmann).sum(axis=1) / z
        log_weight[t], mean[t], variance[t] = np.log(z) - b * lowest, first + lowest, second
    return log_weight, mean, np.maximum(variance, 0.0)


def _extremes(model: SpinPolynomial) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest energy of every composition."""
    floor, _, highest = _floors(model, 0.0)
    return floor, highest


def _floors(model: SpinPolynomial, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = model.n_sites + 1
    floor, highest, degeneracy = np.full(size, np.inf), np.full(size, -np.inf), np.zeros(size, dtype=np.int64)
    for energies, n_plus in blocks_of_states(model, "lowest states"):
        _find_lowest(energies, n_plus, tolerance, floor, degeneracy, highest)
    return floor, degeneracy, highest


def _collect(model: EnergyModel, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same sums for any energy model, from its batch energies."""
    n_sites = model.n_sites
    numbers = np.arange(2**n_sites)
    energies, n_plus = np.empty(2**n_sites), np.bitwise_count(numbers).astype(np.int64)
    for first in range(0, 2**n_sites, _BATCH):
        part = numbers[first : first + _BATCH]
        occupations = ((part[:, None] >> np.arange(n_sites)) & 1).astype(np.int8)
        energies[first : first + _BATCH] = model.energy(occupations)
    log_weight, mean, variance = (np.empty((len(beta), n_sites + 1)) for _ in range(3))
    for n in range(n_sites + 1):
        here = energies[n_plus == n]
        low = here.min()
        for t, b in enumerate(beta):
            w = np.exp(-b * (here - low))
            z = w.sum()
            centre = (w * here).sum() / z
            log_weight[t, n], mean[t, n] = np.log(z) - b * low, centre
            variance[t, n] = (w * (here - centre) ** 2).sum() / z
    return log_weight, mean, variance


def _has_transfer_matrix(model: EnergyModel) -> bool:
    return isinstance(model, SquareIsing) and min(model.sides) <= MAX_COLUMNS and model.coupling > 0


def _sum_with_table(model: CompositionPolynomial, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sums of the polynomial part, moved by what each composition costs."""
    log_weight, mean, variance = _sums(model.polynomial, beta)
    return log_weight - beta[:, None] * model.by_composition, mean + model.by_composition, variance


def _sums(model: EnergyModel, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log weights, mean and variance of U by composition, the fastest way the model allows."""
    if isinstance(model, CompositionPolynomial):
        return _sum_with_table(model, beta)
    if _has_transfer_matrix(model):
        return ising_by_composition(*model.sides, beta, model.coupling)
    return _sum_states(model, beta) if isinstance(model, SpinPolynomial) else _collect(model, beta)


def _check_size(model: EnergyModel) -> None:
    if isinstance(model, CompositionPolynomial):
        model = model.polynomial
    if _has_transfer_matrix(model):
        return
    limit = MAX_SITES_POLYNOMIAL if isinstance(model, SpinPolynomial) else MAX_SITES_GENERAL
    if np.any(np.asarray(model.n_species) != 2):
        raise SamplingError("exact enumeration: expected two species on every site")
    if model.n_sites > limit:
        raise SamplingError(
            f"exact enumeration: the cell has {model.n_sites} sites, this energy model allows at most {limit}"
        )


def enumerate_exactly(
    model: EnergyModel,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the exact ensemble table (method ``exact``) from the sum over all 2^n_sites decorations.

    Args:
        model: energies; those of a `SpinPolynomial` come from fast Walsh-Hadamard transforms, the square Ising model
            (also with an energy by composition) is summed by its transfer matrix.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,).
        attributes: extra attributes of the table.

    Raises:
        SamplingError: if the cell is too large or not binary.
    """
    _check_size(model)
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    beta = 1.0 / (model.boltzmann * temperature)
    values = observables_by_composition(*_sums(model, beta), beta, delta_mu)
    shape = values["log_z"].shape
    stderr = {f"{name}_stderr": np.zeros_like(value) for name, value in values.items()}
    return ensemble_table(
        "exact",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **stderr,
            "n_samples": np.full(shape, 2.0**model.n_sites),
            "energy_evaluations": np.full(shape, 2.0**model.n_sites),
            "reliable": np.ones(shape),
        },
        {"n_sites": model.n_sites, **(attributes or {})},
        model.energy_unit,
    )


def lowest_states(model: SpinPolynomial, tolerance: float = 1e-9) -> tuple[np.ndarray, np.ndarray]:
    """Return the ground-state energy (eV) and its degeneracy for every number of +1 spins, shapes (n_sites + 1,).

    Raises:
        SamplingError: if the cell is too large.
    """
    if model.n_sites > MAX_SITES_POLYNOMIAL:
        raise SamplingError(
            f"lowest states: the cell has {model.n_sites} sites, at most {MAX_SITES_POLYNOMIAL} can be enumerated"
        )
    floor, degeneracy, _ = _floors(model, tolerance)
    return floor, degeneracy
