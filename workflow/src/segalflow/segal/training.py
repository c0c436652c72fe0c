"""Training of a network on a grid of conditions, in optimiser steps, resumable to the same result.

What is made small is in `segalflow.segal.objectives`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from segalflow.artefacts import read_state, write_state
from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import model_fingerprint
from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell
from segalflow.progress import bar
from segalflow.provenance import code_fingerprint, content_hash
from segalflow.segal.features import ConditionRange, past_fields, with_colder
from segalflow.segal.network import build_network
from segalflow.segal.objectives import OBJECTIVES
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.transfer import transfer_weights, weights_hash

# Draws per condition where the effective sample size is measured (few draws overstate a low one).
NESS_DRAWS = 64


class _Run:
    """State of a training run: everything a checkpoint must hold to go on to the same result."""

    def __init__(self, sampler: TrainedSampler, settings: Mapping[str, Any], seed: int, device: str) -> None:
        self.sampler, self.settings, self.device = sampler, settings, device
        self.network = sampler.network
        self.rng = np.random.default_rng(seed)
        self.step = 0
        self.evaluations = 0
        self.history: list[dict[str, float]] = []
        temperature, delta_mu = sampler.grid
        self.shape = (len(temperature), len(delta_mu))
        self.temperature = np.repeat(temperature, len(delta_mu))
        self.delta_mu = np.tile(delta_mu, len(temperature))
        self.beta = 1.0 / (sampler.model.boltzmann * self.temperature)
        self.condition = torch.from_numpy(sampler.domain.encode(self.temperature, self.delta_mu))
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.98), fused=True
        )
        self.shown = math.nan  # the last loss
        self.queue: list[np.ndarray] = []  # conditions still to be visited in this round

    def learning_rate(self) -> float:
        """Warm-up over 50 steps, then a cosine to 0.3 % of the peak."""
        steps = self.settings["steps"]
        warm = min(1.0, (self.step + 1) / 50)
        return (
            self.settings["learning_rate"] * warm * (0.003 + 0.997 * 0.5 * (1 + math.cos(math.pi * self.step / steps)))
        )

    def seed(self) -> int:
        return int(self.rng.integers(2**63))

    def descend(self, shown: float, column: str = "loss") -> None:
        """One optimiser step with the gradients at hand, if they and the loss (noted in `column`) are finite."""
        if not math.isfinite(shown):
            raise FloatingPointError(f"the loss is {shown} at step {self.step}")
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is {norm} at step {self.step}")
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.step()
        self.shown = shown
        row = {"step": self.step, "loss": np.nan, column: shown, "ness": np.nan}
        self.history.append({**row, "energy_evaluations": self.evaluations})
        self.step += 1

    def measure_ness(self) -> float:
        """Median over a spread of conditions of the effective sample size of `NESS_DRAWS` draws."""
        chosen = np.linspace(0, len(self.temperature) - 1, min(48, len(self.temperature))).astype(int)
        t, m = np.repeat(self.temperature[chosen], NESS_DRAWS), np.repeat(self.delta_mu[chosen], NESS_DRAWS)
        spins, log_p, energy = self.sampler.sample(t, m, self.seed())
        self.evaluations += len(spins)
        n_plus = (spins > 0).sum(1)
        log_w = (-(energy - m * n_plus) / (self.sampler.model.boltzmann * t) - log_p).reshape(-1, NESS_DRAWS)
        weight = np.exp(log_w - log_w.max(1, keepdims=True))
        return float(np.median(weight.sum(1) ** 2 / (NESS_DRAWS * (weight**2).sum(1))))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything numeric as named arrays."""
        found = {f"network.{k}": v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            for key, value in state.items():
                found[f"optimiser.{number}.{key}"] = np.asarray(value.cpu())
        return found

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.network.load_state_dict(
            {
                k.removeprefix("network."): torch.from_numpy(v.copy())
                for k, v in arrays.items()
                if k.startswith("network.")
            }
        )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in arrays.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = torch.from_numpy(np.asarray(value).copy())
        full = self.optimiser.state_dict()
        full["state"] = state
        self.optimiser.load_state_dict(full)


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
    start: TrainedSampler | None = None,
) -> TrainedSampler:
    """Train a network on a grid of conditions.

    Args:
        model: energy of the cell.
        cell: the cell.
        temperature, delta_mu: the grid, increasing, shape (n_temperatures,) and (n_delta_mu,).
        network: ``kind`` and ``sizes`` (`segalflow.segal.network.build_network`).
        training: ``objective``, ``steps`` (0 with a `start`: it serves as it is), ``batch``, ``learning_rate``,
            ``colder`` (temperatures below the grid to train on as well), ``pool_sweeps``, ``sweeps_per_round``,
            ``refresh_every``, ``adaptive``, ``ness_target`` (None: never stop early), ``checkpoint_every`` (steps); for
            reverse KL ``conditions``, for ``mixed`` also ``reverse_share``.
        seed: seed of everything random.
        work: folder for checkpoints; an interrupted run found there with the same inputs and code is continued to the
            same result, and its checkpoint removed at the end.
        device: torch device (the fast kernels run on the CPU; only ``"cpu"`` is accepted now).
        start: sampler of a smaller cell whose weights are the first ones (`segalflow.segal.transfer`); its trained
            domain, which must hold the grid, stays the domain.

    Raises:
        TrainingError: if training diverges (the last good checkpoint is named) or the settings make no sense.
    """
    if device != "cpu":
        raise TrainingError(f"segal.device: expected 'cpu', found '{device}' (the sampling kernels run on the CPU)")
    if training["objective"] not in OBJECTIVES:
        raise TrainingError(
            f"segal.training.objective: unknown objective '{training['objective']}', expected one of "
            f"{', '.join(OBJECTIVES)}{suggest(training['objective'], OBJECTIVES)}"
        )
    torch.set_num_threads(1)  # the sums' order, and so the bytes of the result, must not depend on the machine's cores
    temperature, delta_mu = with_colder(temperature, training["colder"]), np.asarray(delta_mu, float)
    tables = past_fields(model)
    domain = ConditionRange(
        (float(temperature[0]), float(temperature[-1])), (float(delta_mu[0]), float(delta_mu[-1])), model.boltzmann
    )
    settings = {"network": dict(network), "training": dict(training), "seed": seed}
    built = build_network(network, cell, tables.n_classes, seed)
    if start is not None:
        if not np.all(start.domain.contains(temperature[[0, -1]], delta_mu[[0, -1]])):
            raise TrainingError(
                f"segal.start_from: the grid (T {domain.temperature}, delta_mu {domain.delta_mu}) is not inside the "
                f"domain of the other cell (T {start.domain.temperature}, delta_mu {start.domain.delta_mu})"
            )
        transfer_weights(start.network, start.cell, built, cell)
        domain = start.domain
        settings["start"] = weights_hash(start.network)
    sampler = TrainedSampler(model, cell, built, tables, domain, (temperature, delta_mu), settings)
    run = _Run(sampler, training, seed, device)
    objective = OBJECTIVES[training["objective"]](run)
    # The code counts too: a checkpoint of an older version of this module is not continued by a newer one.
    inputs = [model_fingerprint(model), settings, temperature.tolist(), delta_mu.tolist(), code_fingerprint(__file__)]
    fingerprint = content_hash(inputs)
    checkpoint = None if work is None else Path(work) / f"checkpoint-{fingerprint[:12]}.safetensors"
    if not training["steps"]:
        run.history.append(
            {"step": 0, "loss": np.nan, "ness": run.measure_ness(), "energy_evaluations": run.evaluations}
        )
    elif not _resume(run, objective, checkpoint):
        objective.prepare()
    every = max(1, training["steps"] // 40)
    with bar(training["steps"], "SEGAL", "step") as shown:
        shown.update(run.step)
        while run.step < training["steps"]:
            try:
                objective.step()
            except FloatingPointError as error:
                kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
                raise TrainingError(f"training diverged: {error}; lower segal.training.learning_rate{kept}") from None
            shown.update(1)
            if run.step % every == 0 or run.step == training["steps"]:
                ness = run.measure_ness()
                run.history[-1]["ness"] = ness
                last = {"loss": f"{run.shown:.3f}", "evaluations": f"{run.evaluations:.1e}"}
                shown.set_postfix(NESS=f"{ness:.3f}", **last, refresh=False)
                if training["ness_target"] is not None and ness >= training["ness_target"]:
                    break
            # Checkpoints fall between rounds of the pool, where its chains are all there is to keep.
            if checkpoint is not None and not run.queue and run.step >= run.saved + training["checkpoint_every"]:
                _save(run, objective, checkpoint)
    sampler.history = pd.DataFrame(run.history)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)  # a finished run is never continued: asked for again, it trains again
    return sampler


def _save(run: _Run, objective: Any, path: Path) -> None:
    run.saved = run.step
    write_state(
        path,
        {**run.arrays(), **objective.arrays()},
        {
            "step": run.step,
            "evaluations": run.evaluations,
            "history": run.history,
            "rng": run.rng.bit_generator.state,
            "objective": objective.extra(),
        },
    )


def _resume(run: _Run, objective: Any, path: Path | None) -> bool:
    run.saved = 0
    if path is None or not path.exists():
        return False
    arrays, extra = read_state(path)
    run.restore(arrays)
    objective.restore(arrays, extra["objective"])
    run.step = run.saved = extra["step"]
    run.evaluations = extra["evaluations"]
    run.history = [{k: (np.nan if v is None else v) for k, v in row.items()} for row in extra["history"]]
    run.rng.bit_generator.state = extra["rng"]
    return True
