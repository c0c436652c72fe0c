"""All samples of a sweep, or of several, in one pool: what multistate reweighting (`thermo.reweighting`) works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from segalflow.errors import BoundaryError
from segalflow.thermo.comparison import boltzmann_of, check_comparable

CHAIN_BLOCKS = 20
"""Most blocks each chain is cut into: they should be longer than its autocorrelation time."""


class UnresolvedError(BoundaryError):
    """The samples are in order but too few, or too far apart, to give a free energy."""


@dataclass(frozen=True, eq=False)
class SamplePool:
    """Samples of the conditions of one sweep or several; conditions are numbered (temperature, delta_mu) row by row.

    Attributes:
        beta: 1/kT of every condition, shape (n_conditions,).
        delta_mu: shape (n_conditions,).
        effective: effective number n_k of independent samples, (n_conditions,).
        log_z: log Z as known beforehand, (n_conditions,): where the solution starts, and the centre of the prior.
        log_z_stderr: standard deviation of that prior, infinite where there is none, (n_conditions,).
        resampled: whether that knowledge is the mean weight of the samples themselves, (n_conditions,).
        energy: U of every sample, shape (n_samples,).
        n_atoms: its number of species-1 atoms, (n_samples,).
        condition: number of its condition, (n_samples,).
        block: number of its block from 0, (n_samples,).
        copy: number of the copy of the grid that its chain is of (-1: samples are independent), (n_samples,).
        weight: its weight, (n_samples,); those of a condition sum to `effective`.
        n_sites: number of sites of the cell.
        boltzmann: k_B in the units of the energies.
    """

    beta: np.ndarray
    delta_mu: np.ndarray
    effective: np.ndarray
    log_z: np.ndarray
    log_z_stderr: np.ndarray
    resampled: np.ndarray
    energy: np.ndarray
    n_atoms: np.ndarray
    condition: np.ndarray
    block: np.ndarray
    copy: np.ndarray
    weight: np.ndarray
    n_sites: int
    boltzmann: float

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self.block.max()) + 1

    @property
    def n_copies(self) -> int:
        """Number of copies of chains, 0 for independent samples."""
        return int(self.copy.max()) + 1


def pool_samples(
    samples: xr.Dataset | Sequence[xr.Dataset], tables: xr.Dataset | Sequence[xr.Dataset], n_blocks: int = 40
) -> SamplePool:
    """Gather the samples of one method or several (of one cell) with what their ensemble tables know of log Z.

    Conditions that a table marks unreliable, or whose numbers are from a repair and not from these samples, bring none.

    Args:
        samples: samples artefacts.
        tables: the ensemble tables beside them, in the same order.
        n_blocks: blocks for the errors; every copy of the chains is cut in time, into at most `CHAIN_BLOCKS`.

    Raises:
        BoundaryError: if two tables differ in species, model or chemical-potential reference, a number is not finite,
            nothing is reliable, or all samples have the same composition.
    """
    samples = [samples] if isinstance(samples, xr.Dataset) else list(samples)
    tables = [tables] if isinstance(tables, xr.Dataset) else list(tables)
    for other in tables[1:]:
        check_comparable(tables[0], other, str(other.attrs.get("cell", "")))
    parts = [_read_part(s, t, n_blocks) for s, t in zip(samples, tables, strict=True)]
    conditions = blocks = copies = 0
    for part in parts:
        part["condition"] = part["condition"] + conditions
        part["block"] = part["block"] + blocks
        part["copy"] = np.where(part["copy"] < 0, -1, part["copy"] + copies)
        conditions += len(part["beta"])
        blocks = int(part["block"].max(initial=blocks - 1)) + 1
        copies = int(part["copy"].max(initial=copies - 1)) + 1
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    if not len(joined["energy"]):
        raise UnresolvedError("reweighting: no condition of the table is reliable, so there is nothing to pool")
    if np.ptp(joined["n_atoms"]) == 0:
        raise UnresolvedError(
            f"reweighting: all samples have the same composition ({int(joined['n_atoms'][0])} atoms), expected a range"
        )
    return SamplePool(**joined, n_sites=int(tables[0].attrs["n_sites"]), boltzmann=boltzmann_of(tables[0]))


def usable_conditions(table: xr.Dataset) -> np.ndarray:
    """Return where the samples beside a table speak for its conditions, bool (n_temperatures, n_delta_mu)."""
    usable = table["reliable"].values > 0.5
    return usable & (table["repaired"].values < 0.5) if "repaired" in table else usable


def _read_part(samples: xr.Dataset, table: xr.Dataset, n_blocks: int) -> dict[str, np.ndarray]:
    name = f"'{table.attrs.get('method')}' on cell '{table.attrs.get('cell', '')}'"
    for key in ("temperature", "delta_mu"):
        if not np.array_equal(samples[key].values, table[key].values):
            raise BoundaryError(f"reweighting: the samples of {name} are of another {key} grid than its table")
    kt = boltzmann_of(table) * table["temperature"].values
    shape = (len(kt), table.sizes["delta_mu"])
    usable = usable_conditions(table).ravel()
    effective = np.where(usable, samples["independent_samples"].values.ravel(), 0.0)
    n = np.maximum(samples["valid"].values.sum(axis=-1, dtype=int).ravel(), 1).astype(float)
    by_weights = "log_mean_weight" in samples
    if by_weights:
        log_z = samples["log_mean_weight"].values.ravel()
        error = np.sqrt(np.maximum(1.0 / np.maximum(effective, 1.0) - 1.0 / n, 1e-2 / n))
    elif "log_z" in table:
        log_z = table["log_z"].values.ravel()
        # A ladder's errors are correlated throughout: each condition carries its share of what is known.
        error = np.maximum(table["log_z_stderr"].values.ravel(), 1e-3) * np.sqrt(log_z.size)
    else:
        log_z, error = np.zeros(n.shape), np.full(n.shape, np.inf)
        error[0] = 1e-3  # the zero of log Z is free
    error = np.where(usable, error, np.inf)
    valid = (samples["valid"].values > 0) & usable.reshape(shape)[..., None]
    energy, log_w = samples["energy"].values, samples["log_weight"].values
    for what, values in (("energies", energy[valid]), ("weights", log_w[valid]), ("log Z", log_z[usable])):
        if not np.all(np.isfinite(values)):
            raise BoundaryError(f"reweighting: {what} of {name} are not finite")
    chain = samples["chain"].values
    if by_weights:
        block, copy = np.arange(len(chain)) % n_blocks, np.full(len(chain), -1)
    else:
        copy, parts = np.unique(chain, return_inverse=True)[1], min(n_blocks, CHAIN_BLOCKS)
        position = np.concatenate([np.arange(k) / k for k in np.bincount(copy)])
        block = copy * parts + (position * parts).astype(int)
    share = np.where(valid, np.exp(log_w), 0.0)
    share /= np.maximum(share.sum(axis=-1, keepdims=True), 1e-300)
    conditions = np.broadcast_to(np.arange(effective.size).reshape(shape)[..., None], valid.shape)
    return {
        "beta": np.repeat(1.0 / kt, shape[1]),
        "delta_mu": np.tile(table["delta_mu"].values, shape[0]),
        "effective": effective,
        "log_z": log_z,
        "log_z_stderr": error,
        "resampled": np.full(effective.shape, by_weights),
        "energy": energy[valid],
        "n_atoms": samples["n_atoms"].values[valid].astype(np.int64),
        "condition": conditions[valid],
        "block": np.broadcast_to(block, valid.shape)[valid],
        "copy": np.broadcast_to(copy, valid.shape)[valid],
        "weight": (share * effective.reshape(shape)[..., None])[valid],
    }
