"""The weight of every phase by composition and temperature: the pooled samples of a sweep, parted by their order.

``log_weight[phase][T, N]`` is ``log sum exp(-U/kT)`` over the decorations with N atoms of species 1 that are in this
phase (`thermo.order_parameters.classify`), so that two phases are in equilibrium where their sums over N at one
delta_mu are equal, whether their compositions differ or not. Beside them stand the sums of the second and fourth power
of the order, from whose ratio a continuous transition is told. All come from one multistate solution with the same
replicates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.artefacts import read_dataset, write_dataset
from segalflow.samples import unpack_spins
from segalflow.thermo.dilute import Levels, with_dilute_ends
from segalflow.thermo.free_energy import FreeEnergy, describe_source
from segalflow.thermo.order_parameters import SOLUTION, check_references, classify_samples, order_waves, squared_order
from segalflow.thermo.pooling import UnresolvedError, pool_samples, usable_conditions
from segalflow.thermo.tilting import log_add, log_sum

SCHEMA = "segalflow.phase_weights/1"


@dataclass(frozen=True)
class Star:
    """References whose concentration waves span one space, so that they share an order parameter.

    Attributes:
        phases: their names.
        components: dimensions of the space.
    """

    phases: tuple[str, ...]
    components: int


@dataclass(frozen=True, eq=False)
class PhaseWeights:
    """Weights of the phases of one sweep.

    Attributes:
        phases: free energies of every phase by name, the solid solution last.
        second, fourth: the same with every decoration times the square, and its square, of the order of each star.
        stars: the stars.
        attributes: method, cell, species, what was left out.
    """

    phases: Mapping[str, FreeEnergy]
    second: Sequence[FreeEnergy] = ()
    fourth: Sequence[FreeEnergy] = ()
    stars: Sequence[Star] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def whole(self) -> FreeEnergy:
        """Weights of all phases together, without energies."""
        curves = list(self.phases.values())
        return replace(
            curves[0], log_weight=log_add([curve.log_weight for curve in curves]),
            replicates=log_add([curve.replicates for curve in curves]), energy=None, energy_variance=None,
        )  # fmt: skip

    def at(self, temperature: np.ndarray) -> PhaseWeights:
        """Return the weights at other temperatures inside the range (`FreeEnergy.at`)."""
        return PhaseWeights(
            {name: curve.at(temperature) for name, curve in self.phases.items()},
            [curve.at(temperature) for curve in self.second],
            [curve.at(temperature) for curve in self.fourth],
            self.stars,
            self.attributes,
        )

    def named(self, row: int, x: float, reach: int = 1) -> tuple[str, float]:
        """Return the phase with the largest weight at a composition, and its share of all weight there.

        Args:
            row: number of the temperature.
            x: fraction of species 1; within `reach` atoms of it weights are added up.
            reach: see x.
        """
        n_sites = next(iter(self.phases.values())).n_sites
        middle = round(float(x) * n_sites)
        near = slice(max(middle - reach, 0), middle + reach + 1)
        values = np.array([log_sum(curve.log_weight[row, near]) for curve in self.phases.values()])
        if not np.isfinite(values).any():
            return "", 0.0
        best = int(np.argmax(values))
        return list(self.phases)[best], float(np.exp(values[best] - log_sum(values)))


def compute_phase_weights(
    samples: xr.Dataset,
    table: xr.Dataset,
    references: Mapping[str, np.ndarray],
    *,
    blocks: int = 40,
    replicates: int = 100,
    seed: int = 0,
    classified: tuple[np.ndarray, np.ndarray] | None = None,
) -> PhaseWeights:
    """Return the weights of the phases in the samples of one method.

    Where the samples are too few to tell, there are no phases and the attribute ``refused`` says why in a sentence.

    Args:
        samples: samples artefact.
        table: the ensemble table beside it.
        references: images by name (`order_parameters.references_of`).
        blocks, replicates, seed: as for `free_energy.compute_free_energy`.
        classified: `order_parameters.classify_samples` of these, if it is known.

    Raises:
        BoundaryError: if samples and table do not belong together, or a number is not finite.
        SamplingError: if a reference has another number of sites than the samples.
    """
    from segalflow.thermo.reweighting import Mbar  # compiled: readers of the weights need it not

    check_references(samples, references)
    source = describe_source(table)
    try:
        pool = pool_samples(samples, table, blocks)
        mbar = Mbar(pool)
    except UnresolvedError as error:
        return PhaseWeights({}, attributes={**source, "refused": str(error)})
    taken = (samples["valid"].values > 0) & usable_conditions(table)[..., None]
    spins = unpack_spins(samples["occupation"].values[taken], pool.n_sites)
    temperature, delta_mu = (table[k].values.astype(float) for k in ("temperature", "delta_mu"))

    def curve(factor: np.ndarray) -> FreeEnergy:
        sums = mbar.reweight(1.0 / (pool.boltzmann * temperature), replicates, seed, factor=factor)
        return FreeEnergy(
            temperature, delta_mu, sums.log_weight, sums.replicates, sums.energy, sums.energy_variance, pool.boltzmann,
            source,
        )  # fmt: skip

    number = (classified or classify_samples(samples, references))[0][taken]
    names = [*references, SOLUTION]
    phases = {name: curve(number == (k if k < len(references) else -1)) for k, name in enumerate(names)}
    stars, powers = [], []
    for members in _stars(references):
        images = references[members[0]]
        stars.append(Star(tuple(members), len(order_waves(images))))
        powers.append(squared_order(spins, images))
    return PhaseWeights(phases, [curve(p) for p in powers], [curve(p**2) for p in powers], stars, source)


def with_dilute_solution(weights: PhaseWeights, levels: Levels) -> PhaseWeights:
    """Return weights of the phases in which those of the dilute solid solution have their exact ratios.

    As `thermo.dilute.with_dilute_ends`, where no other phase holds samples of these compositions.
    """
    if not levels or SOLUTION not in weights.phases:
        return weights
    ends = sorted(levels)
    if any(np.isfinite(c.log_weight[:, ends]).any() for name, c in weights.phases.items() if name != SOLUTION):
        return weights
    exact = with_dilute_ends(weights.phases[SOLUTION], levels)
    return replace(weights, phases={**weights.phases, SOLUTION: exact})


def _stars(references: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Names of the references whose waves span the same space."""
    found: list[tuple[np.ndarray, list[str]]] = []
    for name, images in references.items():
        waves = order_waves(images)
        for other, members in found:
            if len(other) == len(waves) and np.isclose(np.sum((other @ waves.T) ** 2), len(waves)):
                members.append(name)
                break
        else:
            found.append((waves, [name]))
    return [members for _, members in found]


def write_phase_weights(path: str | Path, weights: PhaseWeights) -> None:
    """Write the weights of the phases as compressed netCDF-4 (schema ``segalflow.phase_weights/1``)."""
    curves = [*weights.phases.values(), *weights.second, *weights.fourth]
    attributes = {
        "schema": SCHEMA,
        "phases": list(weights.phases),
        "stars": [[list(s.phases), s.components] for s in weights.stars],
        **weights.attributes,
    }
    grid = ("curve", "temperature", "n_atoms")
    data, coordinates = {}, {}
    if curves:
        first = curves[0]
        attributes["boltzmann"] = first.boltzmann

        def known(values: list[np.ndarray]) -> np.ndarray:
            found = np.array(values)
            return np.where(np.isfinite(found), found, np.nan)

        text = "log sum exp(-U/kT) of the phases, then of psi^2 and psi^4 of the stars"
        data = {
            "log_weight": (grid, known([c.log_weight for c in curves]), {"units": "1", "long_name": text}),
            "replicate": (
                ("curve", "draw", "temperature", "n_atoms"),
                known([c.replicates for c in curves]).astype(np.float32),
                {"units": "1", "long_name": "log_weight of each replicate"},
            ),
            "energy": (grid, known([c.energy for c in curves]), {"units": "eV", "long_name": "mean U of the cell"}),
            "energy_variance": (grid, known([c.energy_variance for c in curves]), {"units": "eV^2"}),
        }
        coordinates = {"temperature": first.temperature, "delta_mu": first.delta_mu}
    write_dataset(path, xr.Dataset(data, coordinates, attributes), packed=list(data))


def read_phase_weights(path: str | Path) -> PhaseWeights:
    """Read the weights of the phases.

    Raises:
        ArtefactError: if the file is missing, damaged, or of another schema.
    """
    found = read_dataset(path, SCHEMA)
    attributes = {k: v for k, v in found.attrs.items() if k not in ("schema", "boltzmann", "phases", "stars")}
    attributes["species"] = json.loads(attributes["species"])
    names = json.loads(found.attrs["phases"])
    stars = [Star(tuple(phases), int(n)) for phases, n in json.loads(found.attrs["stars"])]
    if not names:
        return PhaseWeights({}, attributes=attributes)

    def curve(k: int) -> FreeEnergy:
        log_weight, draws = (found[name].values[k].astype(float) for name in ("log_weight", "replicate"))
        return FreeEnergy(
            found["temperature"].values, found["delta_mu"].values,
            np.where(np.isfinite(log_weight), log_weight, -np.inf), np.where(np.isfinite(draws), draws, -np.inf),
            found["energy"].values[k], found["energy_variance"].values[k], float(found.attrs["boltzmann"]), attributes,
        )  # fmt: skip

    curves = [curve(k) for k in range(found.sizes["curve"])]
    first, last = len(names), len(names) + len(stars)
    phases = dict(zip(names, curves, strict=False))
    return PhaseWeights(phases, curves[first:last], curves[last:], stars, attributes)
