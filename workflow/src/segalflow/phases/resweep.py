"""Sweeps with a perturbed expansion near one boundary at one temperature, where reweighting keeps too few samples.

Replica exchange up to infinite temperature (`segalflow.sampling.tempering`) at a few chemical potentials around where
the boundary is expected, pooled and read as the first sweep is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.polynomial import place_expansion
from segalflow.errors import BoundaryError
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.lattice import Supercell
from segalflow.phases.boundaries import BoundaryPoint
from segalflow.phases.grid import Findings
from segalflow.sampling.tempering import sample_tempering
from segalflow.thermo.free_energy import free_energy_of_samples
from segalflow.thermo.pooling import SamplePool, pool_samples

REACH = 3
"""Steps of the grid on both sides of the boundaries, as they are and as they are expected, that are swept."""
MOST = 13
"""Most chemical potentials of one sweep; a wider window has wider steps."""
KEPT = 1000
"""Samples kept of each condition."""


@dataclass(frozen=True)
class Weak:
    """A boundary of one draw that reweighting cannot carry.

    Attributes:
        draw: number of the draw.
        row: number of the temperature.
        ess: effective samples of the reweighting.
        delta_mu: chemical potentials between which the boundary is looked for, eV: as sampled and as expected.
    """

    draw: int
    row: int
    ess: float
    delta_mu: tuple[float, float]


def perturbed(expansion: ClusterExpansion, change: np.ndarray) -> ClusterExpansion:
    """Return the expansion with changed ECIs; `change` in eV per site, shape (n_clusters,)."""
    clusters = tuple(replace(c, eci=c.eci + float(d)) for c, d in zip(expansion.clusters, change, strict=True))
    return replace(expansion, clusters=clusters, eci_covariance=None)


def expected_shift(pool: SamplePool, shift: np.ndarray, beta: float, point: BoundaryPoint) -> float:
    """Return by how much delta_mu of a boundary moves to first order, eV: ``d(delta_mu) = d(u_2 - u_1)/(x_2 - x_1)``.

    Args:
        pool: the samples.
        shift: changes of their energies, eV, shape (n_samples,).
        beta: 1/kT of the boundary: samples of this temperature speak for both sides.
        point: the boundary.
    """
    here = np.isclose(pool.beta[pool.condition], beta, rtol=1e-9)
    means = []
    for x in (point.x_left, point.x_right):
        away = np.where(here, np.abs(pool.n_atoms - x * pool.n_sites), np.inf)
        near = away <= max(float(away.min()), 0.5) + 0.5
        means.append(float(np.average(shift[near], weights=pool.weight[near])))
    return (means[1] - means[0]) / ((point.x_right - point.x_left) * pool.n_sites)


def _swept(windows: Sequence[tuple[float, float]], step: float) -> np.ndarray:
    """Chemical potentials to sweep for some windows of one temperature, eV, increasing."""
    low, high = min(min(w) for w in windows) - REACH * step, max(max(w) for w in windows) + REACH * step
    return np.linspace(low, high, min(int(np.ceil((high - low) / step)) + 1, MOST))


def sweep_again(
    expansion: ClusterExpansion,
    cell: Supercell,
    changes: np.ndarray,
    weak: Sequence[Weak],
    table: xr.Dataset,
    finders: Mapping[str, tuple[Callable[..., Findings], Mapping[str, Any]]],
    *,
    conditions: int,
    sweeps: int,
    blocks: int,
    replicates: int,
    seed: int,
) -> tuple[dict[tuple[int, int], dict[str, Findings]], list[str]]:
    """Sample the weak boundaries with their own expansions, those with the fewest effective samples first.

    Args:
        expansion, cell: as sampled.
        changes: changes of the ECIs, eV per site, (draws, n_clusters).
        weak: the boundaries.
        table: the first sweep's table: temperatures, steps of delta_mu, species.
        finders: criteria by name, with their settings.
        conditions: most conditions (T, delta_mu) sampled, over all draws.
        sweeps: sweeps of every chain, as many again half before them.
        blocks, replicates: of the samples' errors.
        seed: seed of all chains.

    Returns:
        What each criterion finds, by draw and number of the temperature; and sentences on what the budget left.
    """
    jobs: dict[tuple[int, int], list[Weak]] = {}
    for entry in sorted(weak, key=lambda w: (w.ess, w.draw, w.row)):
        jobs.setdefault((entry.draw, entry.row), []).append(entry)
    kelvin, step = table["temperature"].values.astype(float), float(np.median(np.diff(table["delta_mu"].values)))
    species = [str(name) for name in table["species"].values]
    found: dict[tuple[int, int], dict[str, Findings]] = {}
    spent, refused, left = 0, 0, 0
    for (draw, row), entries in jobs.items():
        delta_mu = _swept([entry.delta_mu for entry in entries], step)
        if spent + len(delta_mu) > conditions:
            left += 1
            continue
        spent += len(delta_mu)
        own = int(np.random.SeedSequence([seed, draw, row]).generate_state(1)[0])
        kept: list[xr.Dataset] = []
        again = sample_tempering(
            place_expansion(perturbed(expansion, changes[draw]), cell), species, kelvin[[row]], delta_mu, seed=own,
            sweeps=sweeps, equilibration=max(sweeps // 2, 1), keep_samples=KEPT, collect=kept.append,
            attributes={"cell": table.attrs.get("cell", ""), "reference": table.attrs.get("reference", "")},
        )  # fmt: skip
        try:
            free = free_energy_of_samples(pool_samples(kept[0], again, blocks), again, None, replicates, own)
        except BoundaryError:  # nothing reliable, or one composition only
            refused += 1
            continue
        found[draw, row] = {name: find(free, settings=dict(given)) for name, (find, given) in finders.items()}
    notes = [f"{len(found)} boundaries of drawn ECIs were sampled again, {spent} conditions in all."] if found else []
    if refused:
        notes.append(f"{refused} boundaries sampled again had no reliable samples.")
    if left:
        notes.append(f"{left} more to be sampled again are beyond the budget of {conditions} conditions.")
    return found, notes
