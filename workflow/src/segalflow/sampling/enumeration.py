"""Exact sums over every decoration of a small cell: the answer that samplers are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
import xarray as xr

from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import observables_by_composition

MAX_SITES_POLYNOMIAL = 30
MAX_SITES_GENERAL = 20
_CHUNK_BITS = 20
_BATCH = 4096


@numba.njit(cache=True)
def _add_state(energy, n, beta, lowest, sums):  # pragma: no cover - compiled
    """Add one state to the moments of its composition, kept relative to the lowest energy seen there."""
    if energy < lowest[n]:
        shift = lowest[n] - energy if lowest[n] < np.inf else 0.0
        for t in range(beta.shape[0]):
            s0, s1, s2 = sums[t, n, 0], sums[t, n, 1], sums[t, n, 2]
            scale = np.exp(-beta[t] * shift)
            sums[t, n, 0] = s0 * scale
            sums[t, n, 1] = (s1 + shift * s0) * scale
            sums[t, n, 2] = (s2 + 2.0 * shift * s1 + shift * shift * s0) * scale
        lowest[n] = energy
    above = energy - lowest[n]
    for t in range(beta.shape[0]):
        weight = np.exp(-beta[t] * above)
        sums[t, n, 0] += weight
        sums[t, n, 1] += weight * above
        sums[t, n, 2] += weight * above * above


@numba.njit(cache=True)
def _add_states(energies, n_plus, beta, lowest, sums):  # pragma: no cover - compiled
    for k in range(energies.shape[0]):
        _add_state(energies[k], n_plus[k], beta, lowest, sums)


@numba.njit(cache=True)
def _gray_chunk(
    first, count, spins, energy, n_plus, start, coefficient, n_others, others, beta, lowest, sums, floor, degeneracy,
    tolerance,
):  # pragma: no cover - compiled  # fmt: skip
    """Walk `count` states of the reflected Gray code from number `first` (already in `spins`); return (energy, n)."""
    for number in range(first, first + count):
        if number > 0:
            bit, site = number, 0
            while bit & 1 == 0:
                bit >>= 1
                site += 1
            field = 0.0
            for t in range(start[site], start[site + 1]):
                product = spins[others[t, 0]] if n_others[t] > 0 else 1
                for k in range(1, n_others[t]):
                    product *= spins[others[t, k]]
                field += coefficient[t] * product
            energy -= 2.0 * spins[site] * field
            n_plus -= spins[site]
            spins[site] = -spins[site]
        if beta.shape[0] > 0:
            _add_state(energy, n_plus, beta, lowest, sums)
        if energy < floor[n_plus] - tolerance:
            floor[n_plus] = energy
            degeneracy[n_plus] = 1
        elif energy <= floor[n_plus] + tolerance:
            degeneracy[n_plus] += 1
    return energy, n_plus


def _walk(model: SpinPolynomial, beta: np.ndarray, tolerance: float) -> tuple[np.ndarray, ...]:
    """Return (lowest, sums, floor, degeneracy) over all states."""
    n_sites = model.n_sites
    table = model.site_table
    lowest, floor = np.full(n_sites + 1, np.inf), np.full(n_sites + 1, np.inf)
    sums = np.zeros((len(beta), n_sites + 1, 3))
    degeneracy = np.zeros(n_sites + 1, dtype=np.int64)
    spins = np.full(n_sites, -1, dtype=np.int64)
    n_plus = 0
    chunk = min(2**_CHUNK_BITS, 2**n_sites)
    with bar(2**n_sites // chunk, "exact enumeration", "chunk") as shown:
        for first in range(0, 2**n_sites, chunk):
            # A fresh exact energy at every chunk keeps rounding of the running sum below 1e-12 eV.
            energy = float(model.energy_of_spins(spins[None].astype(np.int8))[0])
            energy, n_plus = _gray_chunk(
                first, chunk, spins, energy, n_plus, table.start, table.coefficient, table.n_others, table.others,
                beta, lowest, sums, floor, degeneracy, tolerance,
            )  # fmt: skip
            shown.update(1)
    return lowest, sums, floor, degeneracy


def _collect(model: EnergyModel, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n_sites = model.n_sites
    lowest, sums = np.full(n_sites + 1, np.inf), np.zeros((len(beta), n_sites + 1, 3))
    for first in range(0, 2**n_sites, _BATCH):
        numbers = np.arange(first, min(first + _BATCH, 2**n_sites))
        occupations = ((numbers[:, None] >> np.arange(n_sites)) & 1).astype(np.int8)
        energies = np.asarray(model.energy(occupations), dtype=float)
        _add_states(energies, occupations.sum(axis=1).astype(np.int64), beta, lowest, sums)
    return lowest, sums


def _check_size(model: EnergyModel) -> None:
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
        model: energies; a `SpinPolynomial` is walked in Gray-code order (one spin flip a state).
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
    if isinstance(model, SpinPolynomial):
        lowest, sums, _, _ = _walk(model, beta, 0.0)
    else:
        lowest, sums = _collect(model, beta)
    log_weight = np.log(sums[..., 0]) - beta[:, None] * lowest
    mean = sums[..., 1] / sums[..., 0]
    variance = np.maximum(sums[..., 2] / sums[..., 0] - mean**2, 0.0)
    values = observables_by_composition(log_weight, mean + lowest, variance, beta, delta_mu)
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
    _check_size(model)
    _, _, floor, degeneracy = _walk(model, np.zeros(0), tolerance)
    return floor, degeneracy
