"""How much the expansion's own error moves the boundaries: draws of its ECIs, carried over by reweighting the samples.

The energy is linear in the ECIs, so the correlation functions of the decorations that a sweep has drawn give their
energies under any other ECIs. The pooled samples are reweighted to these (`segalflow.thermo.reweighting`), and every
boundary is found again. Where the effective sample size of that reweighting is low, or the boundary is lost in it, the
perturbed expansion is sampled itself around that boundary (`phases.resweep`), as far as a budget goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ndtri

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import place_expansion
from segalflow.errors import BoundaryError
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.lattice import Supercell
from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.common_tangent import find_common_tangents
from segalflow.phases.equal_weight import find_equal_weights
from segalflow.phases.grid import Findings
from segalflow.phases.resweep import Weak, expected_shift, sweep_again
from segalflow.samples import unpack_spins
from segalflow.thermo.free_energy import FreeEnergy, free_energy_of_samples
from segalflow.thermo.pooling import SamplePool, pool_samples, usable_conditions
from segalflow.thermo.reweighting import Mbar, Reweighted

FINDERS = {"common_tangent": find_common_tangents, "equal_weight": find_equal_weights}
"""Criteria that read free energies."""

COLUMNS = (
    "criterion",
    "method",
    "cell",
    "boundary",
    "temperature",
    "delta_mu",
    "x_left",
    "x_right",
    "delta_mu_sampling_stderr",
    "x_left_sampling_stderr",
    "x_right_sampling_stderr",
    "delta_mu_model_stderr",
    "x_left_model_stderr",
    "x_right_model_stderr",
    "draws",
    "draws_found",
    "ess",
    "ess_lowest",
    "resampled",
    "reliable",
)

BATCH = 16384
"""Decorations evaluated at once."""


def draw_ecis(expansion: ClusterExpansion, draws: int, seed: int) -> np.ndarray:
    """Return changes of the ECIs drawn from the fit's covariance, eV per site, shape (draws, n_clusters).

    Raises:
        BoundaryError: if the expansion holds no covariance (a published list has none).
    """
    if expansion.eci_covariance is None:
        raise BoundaryError("model error: the expansion has no covariance of its ECIs (a published list has none)")
    values, vectors = np.linalg.eigh(np.asarray(expansion.eci_covariance, dtype=float))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.random.default_rng(seed).standard_normal((draws, len(values))) @ root.T


def cluster_energies(expansion: ClusterExpansion, cell: Supercell, spins: np.ndarray) -> np.ndarray:
    """Return the energy of the cell per unit of each ECI, shape (n_samples, n_clusters), of +-1 spins.

    It is ``n_sites`` times the correlation function; repeated decorations are evaluated once.
    """
    packed = np.packbits(spins > 0, axis=1)
    _, first, inverse = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_inverse=True)
    # Lock-step chains that never move: their energies are counted with one bit a decoration.
    size = min(BATCH, len(first))
    batches = np.concatenate([first, np.repeat(first[-1:], -len(first) % size)]).reshape(-1, size)
    found = np.empty((batches.size, len(expansion.clusters)))
    for column, cluster in enumerate(expansion.clusters):
        if cluster.order == 0:
            found[:, column] = cell.n_sites
            continue
        unit = replace(expansion, clusters=(replace(cluster, eci=1.0),), eci_covariance=None)
        chains = LockstepChains(place_expansion(unit, cell), np.ones(size), np.zeros(size), seed=0)
        for number, members in enumerate(batches):
            chains.set_spins(spins[members])
            found[number * size : (number + 1) * size, column] = chains.energies()
    return found[inverse.ravel()]


def perturbed_free_energies(
    pool: SamplePool, reference: FreeEnergy, changes: np.ndarray, mbar: Mbar | None = None
) -> list[tuple[FreeEnergy, Reweighted]]:
    """Return the free energies under each change of the samples' energies.

    Args:
        pool: the samples.
        reference: their free energies as sampled; temperatures and attributes are taken from it.
        changes: changes of the energies of the samples, eV, shape (draws, n_samples).
        mbar: the solved equations of the pool, where they are at hand.
    """
    mbar = Mbar(pool) if mbar is None else mbar
    found = []
    for change in changes:
        sums = mbar.reweight(reference.beta, 0, energy=pool.energy + change)
        curve = replace(
            reference, log_weight=sums.log_weight, replicates=sums.replicates, energy=sums.energy,
            energy_variance=sums.energy_variance,
        )  # fmt: skip
        found.append((curve, sums))
    return found


def reweighting_ess(sums: Reweighted, row: int, delta_mu: float) -> float:
    """Return the effective number of independent samples behind a condition after reweighting.

    Args:
        sums: reweighted sums.
        row: number of the temperature.
        delta_mu: chemical potential, eV.
    """
    n = np.arange(sums.log_weight.shape[1])
    known = np.isfinite(sums.log_weight[row]) & (sums.samples[row] > 0)
    tilted = sums.log_weight[row][known] + sums.beta[row] * delta_mu * n[known]
    p = np.exp(tilted - tilted.max())
    p /= p.sum()
    return float(1.0 / np.sum(p**2 / sums.samples[row][known]))


def compute_model_errors(
    expansion: ClusterExpansion,
    cell: Supercell,
    samples: xr.Dataset,
    table: xr.Dataset,
    *,
    criteria: Mapping[str, Mapping[str, Any]],
    draws: int = 20,
    ess_floor: float = 100.0,
    resample_conditions: int = 0,
    resample_sweeps: int = 2000,
    blocks: int = 40,
    replicates: int = 100,
    seed: int = 0,
    changes: np.ndarray | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Return sampling error and model error of every two-phase point side by side.

    Args:
        expansion: the fit with the covariance of its ECIs.
        cell: the cell of the samples.
        samples: samples artefact of a sweep.
        table: its ensemble table.
        criteria: settings by criterion; only those that read free energies are taken.
        draws: draws of the ECIs.
        ess_floor: effective samples of the reweighting below which the boundary of a draw is sampled again.
        resample_conditions: most conditions (T, delta_mu) sampled again with drawn ECIs; 0 samples none.
        resample_sweeps: sweeps of their chains.
        blocks: blocks of samples for the sampling error.
        replicates: bootstrap draws for the sampling error.
        seed: seed of all draws.
        changes: changes of the ECIs to take in place of draws, eV per site, (draws, n_clusters).

    Returns:
        A table with the columns `COLUMNS`, one row a two-phase point of the unperturbed expansion: its sampling error,
        the standard deviation of the boundary over the draws in which it is found again, how many these are, the median
        and lowest effective sample size of the reweighting, and how many draws were sampled again (``resampled``); a
        point is ``reliable`` if every draw has its boundary, by enough effective samples or from a sweep of its own.
        Sentences on what cannot be told.

    Raises:
        BoundaryError: if the expansion has no covariance, or samples, table and cell do not belong together.
    """
    if changes is None:
        changes = draw_ecis(expansion, draws, seed)
    if int(table.attrs["n_sites"]) != cell.n_sites:
        raise BoundaryError(f"model error: the table is of {table.attrs['n_sites']} sites, the cell has {cell.n_sites}")
    pool = pool_samples(samples, table, blocks)
    reference = free_energy_of_samples(pool, table, None, replicates, seed)
    spins = unpack_spins(samples["occupation"].values[_pooled(samples, table)], cell.n_sites)
    shifts = (cluster_energies(expansion, cell, spins) @ np.asarray(changes, dtype=float).T).T
    perturbed = perturbed_free_energies(pool, reference, shifts)
    finders = {name: (find, criteria[name]) for name, find in FINDERS.items() if name in criteria}
    sums = [s for _, s in perturbed]
    known = []
    for criterion, (find, settings) in finders.items():
        own = find(reference, settings=dict(settings))
        others = [find(curve, settings=dict(settings)) for curve, _ in perturbed]
        fields = [point for point in own.points if point.kind == "two_phase"]
        known += [(criterion, point, _carry(point, others, sums, reference)) for point in fields]
    weak = []
    for _, point, carried in known:
        row = _row(reference, point)
        for draw, (best, size) in enumerate(carried):
            if best is None or size < ess_floor:
                moved = point.delta_mu + expected_shift(pool, shifts[draw], float(reference.beta[row]), point)
                weak.append(Weak(draw, row, size, (point.delta_mu, moved)))
    again, notes = sweep_again(
        expansion, cell, np.asarray(changes, dtype=float), weak if resample_conditions else [], table, finders,
        conditions=resample_conditions, sweeps=resample_sweeps, blocks=blocks, replicates=replicates, seed=seed,
    )  # fmt: skip
    rows = []
    for criterion, point, carried in known:
        row = _row(reference, point)
        own = {
            draw: again[draw, row][criterion]
            for draw, (best, size) in enumerate(carried)
            if (best is None or size < ess_floor) and (draw, row) in again
        }
        rows.append(_compare(point, carried, own, ess_floor))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    low = int((~frame["reliable"]).sum()) if len(frame) else 0
    if low:
        notes.append(
            f"{low} of {len(frame)} points: the reweighting to drawn ECIs keeps fewer than {ess_floor:g} effective "
            "samples or loses the field in a draw, and it was not sampled again or has no such field; their model "
            "error needs a sweep with the perturbed expansion."
        )
    return frame, notes


def _pooled(samples: xr.Dataset, table: xr.Dataset) -> np.ndarray:
    """Mask of the samples that `pool_samples` takes, in its order."""
    return (samples["valid"].values > 0) & usable_conditions(table)[..., None]


def _row(reference: FreeEnergy, point: BoundaryPoint) -> int:
    """Number of a point's temperature."""
    return int(np.argmin(np.abs(reference.temperature - point.temperature)))


def _same_field(point: BoundaryPoint, findings: Findings) -> BoundaryPoint | None:
    """The point of a draw that is the same field at the same temperature, None where it has none."""
    near = [
        p for p in findings.points
        if p.kind == "two_phase" and p.temperature == point.temperature and _overlap(p, point) > 0.5
    ]  # fmt: skip
    return max(near, key=lambda p: _overlap(p, point)) if near else None


def _carry(
    point: BoundaryPoint, others: Sequence[Findings], sums: Sequence[Reweighted], reference: FreeEnergy
) -> list[tuple[BoundaryPoint | None, float]]:
    """The point in every draw, by reweighting, and the effective samples there."""
    row, found = _row(reference, point), []
    for findings, part in zip(others, sums, strict=True):
        best = _same_field(point, findings)
        found.append((best, reweighting_ess(part, row, point.delta_mu if best is None else best.delta_mu)))
    return found


def _compare(
    point: BoundaryPoint,
    carried: Sequence[tuple[BoundaryPoint | None, float]],
    again: Mapping[int, Findings],
    ess_floor: float,
) -> dict[str, Any]:
    """The row of one point; `again` holds what draws show that were sampled themselves."""
    best = [_same_field(point, again[d]) if d in again else p for d, (p, _) in enumerate(carried)]
    sure = [p is not None and (d in again or carried[d][1] >= ess_floor) for d, p in enumerate(best)]
    found = [(p.delta_mu, p.x_left, p.x_right) for p in best if p is not None]
    sizes = [size for _, size in carried]
    spread = np.std(found, axis=0, ddof=1) if len(found) > 1 else np.full(3, np.nan)
    factor = 2 * float(ndtri(0.5 + point.confidence / 2))
    return {
        **{name: getattr(point, name) for name in COLUMNS[:8]},
        "delta_mu_sampling_stderr": (point.delta_mu_high - point.delta_mu_low) / factor,
        "x_left_sampling_stderr": point.x_left_stderr,
        "x_right_sampling_stderr": point.x_right_stderr,
        "delta_mu_model_stderr": float(spread[0]),
        "x_left_model_stderr": float(spread[1]),
        "x_right_model_stderr": float(spread[2]),
        "draws": len(carried),
        "draws_found": len(found),
        "ess": float(np.median(sizes)),
        "ess_lowest": float(np.min(sizes)),
        "resampled": len(again),
        "reliable": bool(all(sure)),
    }


def _overlap(a: BoundaryPoint, b: BoundaryPoint) -> float:
    shared = min(a.x_right, b.x_right) - max(a.x_left, b.x_left)
    return shared / max(max(a.x_right, b.x_right) - min(a.x_left, b.x_left), 1e-12)
