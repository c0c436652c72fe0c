"""Training of a network on a grid of conditions, in optimiser steps, resumable to the same result.

What is made small is in `segalflow.segal.objectives`, the course of the training in `segalflow.segal.optimisation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import model_fingerprint
from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell
from segalflow.segal.features import ConditionRange, past_fields, with_colder
from segalflow.segal.network import build_network
from segalflow.segal.objectives import OBJECTIVES
from segalflow.segal.optimisation import TrainingRun, checkpoint_of, optimise
from segalflow.segal.orders import placement
from segalflow.segal.resources import MEMORY_MB, choose_device
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.transfer import transfer_weights, weights_hash


def train(
    model: EnergyModel,
    cell: Supercell,
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    seed: int,
    work: Path | None = None,
    device: str = "cpu",
    memory_mb: float = MEMORY_MB,
    extrapolate: bool = False,
    start: TrainedSampler | None = None,
) -> TrainedSampler:
    """Train a network on a grid of conditions.

    Args:
        model: energy of the cell.
        cell: the cell.
        temperature, delta_mu: the grid, increasing, shape (n_temperatures,) and (n_delta_mu,).
        network: ``kind``, ``sizes`` and ``order`` (`segalflow.segal.network.build_network`).
        training: ``objective``, ``steps`` (0 with a `start`: it serves as it is), ``batch``, ``learning_rate``,
            ``colder`` (temperatures below the grid to train on as well), ``pool_sweeps``, ``sweeps_per_round``,
            ``refresh_every``, ``adaptive``, ``ness_target`` (None: never stop early), ``checkpoint_every`` (steps); for
            reverse KL ``conditions``, for ``mixed`` also ``reverse_share``.
        seed: seed of everything random.
        work: folder for checkpoints; an interrupted run found there with the same inputs and code is continued to the
            same result, and its checkpoint removed at the end.
        device: where the network works, ``cpu`` (compiled kernels), ``cuda`` (PyTorch) or ``auto``; energies and chains
            stay on the CPU.
        memory_mb: bound on the working memory of one pass in PyTorch; larger batches go in parts.
        extrapolate: whether the sampler will serve conditions outside the trained domain.
        start: sampler of a smaller cell whose weights are the first ones (`segalflow.segal.transfer`); its trained
            domain stays the domain, and must hold the grid unless `extrapolate`.

    Raises:
        TrainingError: if training diverges (the last good checkpoint is named) or the settings make no sense.
    """
    place = choose_device(device)
    if training["objective"] not in OBJECTIVES:
        raise TrainingError(
            f"segal.training.objective: unknown objective '{training['objective']}', expected one of "
            f"{', '.join(OBJECTIVES)}{suggest(training['objective'], OBJECTIVES)}"
        )
    torch.set_num_threads(1)  # the sums' order, and so the bytes of the result, must not depend on the machine's cores
    temperature, delta_mu = with_colder(temperature, training["colder"]), np.asarray(delta_mu, float)
    order = placement(network, cell, seed)
    tables = past_fields(model, order)
    domain = ConditionRange(
        (float(temperature[0]), float(temperature[-1])), (float(delta_mu[0]), float(delta_mu[-1])), model.boltzmann
    )
    settings: dict[str, Any] = {"network": dict(network), "training": dict(training), "seed": seed, "device": device}
    built = build_network(network, cell, tables.n_classes, seed)
    if start is not None:
        if not extrapolate and not np.all(start.domain.contains(temperature[[0, -1]], delta_mu[[0, -1]])):
            raise TrainingError(
                f"segal.start_from: the grid (T {domain.temperature}, delta_mu {domain.delta_mu}) is not inside the "
                f"domain of the other cell (T {start.domain.temperature}, delta_mu {start.domain.delta_mu}); "
                "train that cell on a wider grid, or set segal.extrapolate"
            )
        if order is not None or start.order is not None:
            raise TrainingError("segal.start_from: expected segal.network.order 'raster' for both cells")
        transfer_weights(start.network, start.cell, built, cell)
        domain = start.domain
        settings["start"] = weights_hash(start.network)
    grid = (temperature, delta_mu)
    sampler = TrainedSampler(model, cell, built.to(place), tables, domain, grid, settings)
    sampler.memory_mb, sampler.extrapolate, sampler.order = memory_mb, extrapolate, order
    run = TrainingRun(sampler, training, seed)
    inputs = (model_fingerprint(model), settings, temperature.tolist(), delta_mu.tolist())
    checkpoint = checkpoint_of(work, __file__, *inputs)
    sampler.history = optimise(run, OBJECTIVES[training["objective"]](run), checkpoint)
    return sampler
