"""Training of a categorical network on a grid of T and the delta_mu of every exchange of species."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import model_fingerprint
from segalflow.energy.potentials import ExchangePotentials
from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell
from segalflow.segal.categorical import build_species_network
from segalflow.segal.features import with_colder
from segalflow.segal.optimisation import TrainingRun, checkpoint_of, optimise
from segalflow.segal.resources import MEMORY_MB, choose_device
from segalflow.segal.species_features import ConditionBox, number_of_classes
from segalflow.segal.species_objectives import SPECIES_OBJECTIVES
from segalflow.segal.species_sampler import SpeciesSampler


def train_species(
    model: EnergyModel,
    cell: Supercell,
    temperature: np.ndarray,
    delta_mu: tuple[np.ndarray, ...],
    *,
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    seed: int,
    work: Path | None = None,
    device: str = "cpu",
    memory_mb: float = MEMORY_MB,
    extrapolate: bool = False,
) -> SpeciesSampler:
    """Train a network of any number of species and sublattices.

    Args:
        model: energy of the cell, of any kind; maximum likelihood needs site functions or a spin polynomial.
        cell: the cell.
        temperature: increasing, K (or J/k_B).
        delta_mu: increasing values of every exchange (`ExchangePotentials.pairs`), eV (or J).
        network: ``kind`` and ``sizes`` (`build_species_network`).
        training: as for `segalflow.segal.training.train`; ``objective`` is ``likelihood`` or ``reverse_kl``.
        seed, work, device, memory_mb, extrapolate: as for `segalflow.segal.training.train`.

    Raises:
        TrainingError: if training diverges (the last good checkpoint is named) or the settings make no sense.
        SamplingError: if the grid does not have one axis an exchange.
    """
    place, name = choose_device(device), training["objective"]
    if name not in SPECIES_OBJECTIVES:
        raise TrainingError(
            f"segal.training.objective: '{name}' is none for the network '{network['kind']}', expected one of "
            f"{', '.join(SPECIES_OBJECTIVES)}{suggest(name, SPECIES_OBJECTIVES)}"
        )
    if network.get("order", "raster") != "raster":
        raise TrainingError(f"segal.network.order: '{network['kind']}' places sites in the order 'raster' only")
    torch.set_num_threads(1)  # the sums' order, and so the bytes of the result, must not depend on the machine's cores
    temperature = with_colder(temperature, training["colder"])
    axes = tuple(np.asarray(axis, dtype=float) for axis in delta_mu)
    ExchangePotentials.of(cell).check(np.array([[axis[0] for axis in axes]]), 1)
    domain = ConditionBox(
        (float(temperature[0]), float(temperature[-1])),
        tuple((float(axis[0]), float(axis[-1])) for axis in axes),
        model.boltzmann,
    )
    built = build_species_network(network, cell, number_of_classes(model), domain.size, seed).to(place)
    settings = {"network": dict(network), "training": dict(training), "seed": seed, "device": device}
    sampler = SpeciesSampler(
        model, cell, built, domain, (temperature, *axes), settings, memory_mb=memory_mb, extrapolate=extrapolate
    )
    run = TrainingRun(sampler, training, seed)
    grid = [axis.tolist() for axis in sampler.grid]
    checkpoint = checkpoint_of(work, __file__, model_fingerprint(model), settings, grid)
    sampler.history = optimise(run, SPECIES_OBJECTIVES[name](run), checkpoint)
    return sampler
