"""Conditions added to a sweep that is there already: sampled alike, and joined with it into one table.

The joined table keeps the ensemble contract: its axes are all temperatures and chemical potentials of both, and
conditions of that rectangle that nobody sampled are blanks (`segalflow.ensemble.sampled_conditions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from segalflow.cells import Grid
from segalflow.ensemble import COUNTS, GRID, ensemble_table, sampled_conditions
from segalflow.errors import SamplingError
from segalflow.samples import sample_set
from segalflow.sampling.importance import sample_importance
from segalflow.segal.sampler import TrainedSampler


def add_conditions(
    table: xr.Dataset,
    samples: xr.Dataset,
    sampler: TrainedSampler,
    grid: Grid,
    *,
    number: int,
    seed: int,
    attributes: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return table and samples of a sweep with more conditions, drawn from the same trained network.

    Args:
        table, samples: of the sweep so far.
        sampler: the network that it was drawn from.
        grid: the conditions to add (`Grid.wanted`); with none the sweep is returned as it is.
        number: number of the round, from 1.
        seed: seed of all draws.
        attributes: extra attributes.
        settings: of `segalflow.sampling.importance.sample_importance`.

    Raises:
        SamplingError: for a condition that is sampled already or lies outside the trained domain.
    """
    if grid.wanted is None or not grid.wanted.any():
        return table, samples
    collected: list[xr.Dataset] = []
    more = sample_importance(
        sampler, [str(s) for s in table["species"].values], grid.temperature, grid.delta_mu, seed=seed,
        wanted=grid.wanted, collect=collected.append, attributes=attributes, **settings,
    )  # fmt: skip
    return join_sweeps((table, samples), (more, collected[0]), number)


def join_sweeps(
    first: tuple[xr.Dataset, xr.Dataset], added: tuple[xr.Dataset, xr.Dataset], number: int
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return table and samples of a sweep joined with those of the conditions added in round `number`."""
    return join_tables(first[0], added[0], number), join_samples(first[1], added[1])


def join_tables(first: xr.Dataset, added: xr.Dataset, number: int) -> xr.Dataset:
    """Return the ensemble table of a sweep and of the conditions added in round `number`, which ``round`` tells apart.

    Raises:
        SamplingError: if a condition was sampled in both, or the two are not of the same cell and Hamiltonian.
    """
    masks = [sampled_conditions(first), sampled_conditions(added)]
    rounds = [
        np.where(masks[0], first["round"].values if "round" in first else 0.0, np.nan),
        np.where(masks[1], float(number), np.nan),
    ]
    joint = _Joint([first, added], masks)
    names = [n for n in first.data_vars if n in added and n != "round"]
    variables = {n: joint([first[n].values, added[n].values], 0.0 if n in COUNTS else np.nan) for n in names}
    variables["round"] = joint(rounds, np.nan)
    attributes = _without(first.attrs)
    seeds = [s for s in (attributes.get("refined_seeds"), added.attrs.get("seed")) if s is not None]
    attributes["refined_seeds"] = ", ".join(map(str, seeds))
    attributes["refined_conditions"] = int(np.sum(variables["round"] > 0))
    unit, species = str(first.attrs["energy_unit"]), [str(s) for s in first["species"].values]
    return ensemble_table(str(first.attrs["method"]), *joint.axes, species, variables, attributes, unit)


def join_samples(first: xr.Dataset, added: xr.Dataset) -> xr.Dataset:
    """Return the samples of both; conditions are padded to the longer sample axis.

    Raises:
        SamplingError: as `join_tables`.
    """
    parts = [first, added]
    masks = [part["valid"].values.any(axis=-1) for part in parts]
    joint = _Joint(parts, masks)
    longest = max(part.sizes["sample"] for part in parts)

    def padded(name: str) -> list[np.ndarray]:
        values = [part[name].values for part in parts]
        if "sample" not in first[name].dims:
            return values
        return [np.pad(v, [(0, 0), (0, 0), (0, longest - v.shape[2])] + [(0, 0)] * (v.ndim - 3)) for v in values]

    content = {str(n): joint(padded(str(n)), 0) for n in first.data_vars if n != "chain" and n in added}
    content["chain"] = max((part["chain"].values for part in parts), key=len)
    unit, species = str(first.attrs["energy_unit"]), [str(s) for s in first["species"].values]
    sampled = joint(masks, False)
    return sample_set(str(first.attrs["method"]), *joint.axes, species, content, _without(first.attrs), unit, sampled)


def _without(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those that a table's or samples' own constructor writes."""
    return {k: v for k, v in attributes.items() if k not in ("schema", "method", "energy_unit", "bitorder")}


class _Joint:
    """Two rectangles of conditions placed in the rectangle that holds both."""

    def __init__(self, parts: Sequence[xr.Dataset], masks: Sequence[np.ndarray]) -> None:
        for key in ("n_sites", "model_sha256"):
            ours, theirs = (part.attrs.get(key) for part in parts)
            if ours != theirs:
                raise SamplingError(f"refinement: the sweep has {key} {ours}, the added conditions have {theirs}")
        self.axes = [np.union1d(*(part[name].values for part in parts)) for name in GRID]
        self.masks = masks
        self.places = [
            np.ix_(*(np.searchsorted(axis, part[name].values) for axis, name in zip(self.axes, GRID, strict=True)))
            for part in parts
        ]
        times = np.zeros((len(self.axes[0]), len(self.axes[1])), dtype=int)
        for place, mask in zip(self.places, masks, strict=True):
            times[place] += mask
        if (times > 1).any():
            t, m = np.argwhere(times > 1)[0]
            raise SamplingError(
                f"refinement: the condition T = {self.axes[0][t]:g}, delta_mu = {self.axes[1][m]:g} was sampled before"
            )

    def __call__(self, values: Sequence[np.ndarray], blank: float) -> np.ndarray:
        whole = np.full((*map(len, self.axes), *values[0].shape[2:]), blank, dtype=np.result_type(*values))
        for value, place, mask in zip(values, self.places, self.masks, strict=True):
            part = whole[place]
            part[mask] = value[mask]
            whole[place] = part
        return whole
