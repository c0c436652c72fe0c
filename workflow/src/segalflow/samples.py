"""The samples artefact: decorations, energies and weights of every condition, beside the ensemble table they made.

``ensemble/{cell}/{method}_samples.nc`` has the dimensions ``temperature``, ``delta_mu``, ``sample`` and ``byte``.
Decorations are packed eight sites a byte, site 0 in the lowest bit, 1 for species 1. Conditions may hold different
numbers of samples: ``valid`` is 0 behind a condition's last one. Weights have the mean 1 over a condition's valid
samples, so that samples of Markov chains have ``log_weight`` 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from segalflow.artefacts import read_dataset, write_dataset
from segalflow.errors import ArtefactError

SCHEMA = "segalflow.samples/1"

_CONDITION = ("temperature", "delta_mu")
_SAMPLE = (*_CONDITION, "sample")
_VARIABLES: dict[str, tuple[tuple[str, ...], type, str, str]] = {
    "occupation": ((*_SAMPLE, "byte"), np.uint8, "1", "decoration, 8 sites a byte, site 0 in the lowest bit"),
    "energy": (_SAMPLE, np.float64, "eV", "potential energy U of the whole cell"),
    "n_atoms": (_SAMPLE, np.int32, "1", "number of species-1 atoms"),
    "log_weight": (_SAMPLE, np.float64, "1", "logarithm of the importance weight, of mean 1 over a condition"),
    "valid": (_SAMPLE, np.int8, "1", "1 where there is a sample, 0 behind the last one of a condition"),
    "log_mean_weight": (
        _CONDITION,
        np.float64,
        "1",
        "logarithm of the mean of exp(-(U - dmu N)/kT)/q over the draws: log Z as they give it",
    ),
    "independent_samples": (
        _CONDITION,
        np.float64,
        "1",
        "effective number of independent samples behind those kept (effective sample size, or samples / 2 tau)",
    ),
    "chain": (("sample",), np.int32, "1", "number of the Markov chain a sample is from; samples of one follow in time"),
}
_OPTIONAL = ("log_mean_weight",)


def pack_spins(spins: np.ndarray) -> np.ndarray:
    """Return +-1 spins (..., n_sites) as packed occupations, uint8 (..., ceil(n_sites / 8))."""
    return np.packbits(np.asarray(spins) > 0, axis=-1, bitorder="little")


def unpack_spins(packed: np.ndarray, n_sites: int) -> np.ndarray:
    """Return packed occupations (..., bytes) as +-1 spins, int8 (..., n_sites)."""
    bits = np.unpackbits(np.asarray(packed, dtype=np.uint8), axis=-1, count=n_sites, bitorder="little")
    spins = bits.view(np.int8)
    spins *= 2
    spins -= 1
    return spins


def thin_samples(log_w: np.ndarray, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose `number` of n weighted samples with new weights that keep every weighted mean unbiased.

    Samples heavier than a threshold are all kept; of the lighter ones, each with a probability in proportion to its
    weight, those kept take the threshold's weight (systematic threshold sampling; Fearnhead & Clifford 2003).

    Args:
        log_w: log weights, shape (n,).
        number: how many to keep, at least 1.
        rng: source of the one random number needed.

    Returns:
        Increasing indices of the kept samples, and their log weights; with ``n <= number`` all of them, unchanged.
    """
    if len(log_w) <= number:
        return np.arange(len(log_w)), np.asarray(log_w, dtype=float)
    w = np.exp(log_w - log_w.max())
    heavy_first = np.sort(w)[::-1]
    light = np.cumsum(heavy_first[::-1])[::-1]  # light[k]: the sum of all but the k heaviest
    kept = np.arange(number)
    thresholds = light[:number] / (number - kept)
    # The fewest heavy ones such that no lighter sample is above the threshold.
    n_heavy = int(np.argmax(heavy_first[:number] <= thresholds)) if np.any(heavy_first[:number] <= thresholds) else 0
    threshold = thresholds[n_heavy]
    chance = np.minimum(w / threshold, 1.0)
    reached = np.floor(np.cumsum(chance) + rng.random())
    chosen = np.flatnonzero(np.diff(reached, prepend=0.0) > 0)
    return chosen, np.log(np.maximum(w[chosen], threshold)) + log_w.max()


def sample_set(
    method: str,
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    species: Sequence[str],
    variables: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    energy_unit: str = "eV",
    wanted: np.ndarray | None = None,
) -> xr.Dataset:
    """Build and check a samples artefact.

    Args:
        method: name of the sampler.
        temperature: K (or J/k_B), shape (n_temperatures,).
        delta_mu: eV (or J), shape (n_delta_mu,).
        species: the two species; index 0 is the reference of delta_mu.
        variables: arrays by name: occupation (packed), energy, n_atoms, log_weight and optionally valid (default:
            all), chain (default: 0), log_mean_weight; shapes as the dimensions in the file. Log weights are shifted
            so that valid ones have mean weight 1; behind the last sample every variable is set to 0.
        attributes: cell, n_sites, model hash, chemical-potential reference, seed; plain types.
        energy_unit: ``"eV"`` or ``"J"``.
        wanted: conditions that must hold samples, bool (n_temperatures, n_delta_mu); None: all.

    Raises:
        ArtefactError: if a variable is unknown, missing, of the wrong shape or not finite, or a condition is empty.
    """
    head = f"samples of '{method}'"
    given = {name: np.asarray(value) for name, value in variables.items()}
    for name in given:
        if name not in _VARIABLES:
            raise ArtefactError(f"{head}: unknown variable '{name}'")
    for name in ("occupation", "energy", "n_atoms", "log_weight"):
        if name not in given:
            raise ArtefactError(f"{head}: variable '{name}' is missing")
    shape = given["energy"].shape
    given.setdefault("valid", np.ones(shape, dtype=np.int8))
    given.setdefault("chain", np.zeros(shape[-1:], dtype=np.int32))
    sizes = dict(zip(_SAMPLE, (len(temperature), len(delta_mu), shape[-1] if shape else 0), strict=True))
    sizes["byte"] = -(-int(attributes["n_sites"]) // 8)
    for name, values in given.items():
        expected = tuple(sizes[d] for d in _VARIABLES[name][0])
        if values.shape != expected:
            raise ArtefactError(f"{head}: '{name}' has shape {values.shape}, expected {expected}")
    valid = given["valid"] > 0
    empty = ~valid.any(axis=-1)
    if (empty if wanted is None else empty & wanted).any():
        raise ArtefactError(f"{head}: a condition has no samples")
    for name in ("energy", "log_weight"):
        if not np.all(np.isfinite(given[name][valid])):
            raise ArtefactError(f"{head}: '{name}' holds numbers that are not finite")
    held = valid | empty[..., None]
    log_w = np.where(held, given["log_weight"], -np.inf)
    log_w = log_w - log_w.max(axis=-1, keepdims=True)  # equal weights become exactly 0
    log_w = log_w - (logsumexp(log_w, axis=-1) - np.log(held.sum(axis=-1)))[..., None]
    given["log_weight"] = np.where(valid, log_w, 0.0)
    if "independent_samples" not in given:
        squares = np.sum(np.exp(2 * log_w) / held.sum(axis=-1)[..., None] ** 2, axis=-1)
        given["independent_samples"] = np.where(empty, 0.0, 1.0 / squares)
    for name in ("energy", "n_atoms"):
        given[name] = np.where(valid, given[name], 0)
    given["occupation"] = np.where(valid[..., None], given["occupation"], 0)
    data = {
        name: (
            dims,
            given[name].astype(kind),
            {"units": energy_unit if unit == "eV" else unit, "long_name": long_name},
        )
        for name, (dims, kind, unit, long_name) in _VARIABLES.items()
        if name in given
    }
    coordinates = {
        "temperature": ("temperature", np.asarray(temperature, float)),
        "delta_mu": ("delta_mu", np.asarray(delta_mu, float)),
        "species": ("species", np.array(list(species), dtype=object)),
    }
    attrs = {"schema": SCHEMA, "method": method, "energy_unit": energy_unit, "bitorder": "little", **attributes}
    return xr.Dataset(data, coords=coordinates, attrs=attrs)


def write_samples(path: str | Path, samples: xr.Dataset) -> None:
    """Write a samples artefact as compressed netCDF-4; nested attributes become JSON text."""
    write_dataset(path, samples, packed=list(_VARIABLES))


def read_samples(path: str | Path) -> xr.Dataset:
    """Read a samples artefact into memory and check it.

    Raises:
        ArtefactError: if the file is missing, damaged, of another schema, lacks a variable, or holds numbers that are
            not finite.
    """
    samples = read_dataset(path, SCHEMA, [name for name in _VARIABLES if name not in _OPTIONAL])
    for name in ("energy", "log_weight"):
        if not np.all(np.isfinite(samples[name].values)):
            raise ArtefactError(f"{path}: '{name}' holds numbers that are not finite")
    return samples


def spins_of(samples: xr.Dataset) -> np.ndarray:
    """Return the decorations as +-1 spins, int8 (n_temperatures, n_delta_mu, n_samples, n_sites)."""
    return unpack_spins(samples["occupation"].values, int(samples.attrs["n_sites"]))
