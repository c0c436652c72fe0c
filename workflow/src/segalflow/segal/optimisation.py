"""The course of a training: optimiser steps, effective sample sizes, checkpoints, resuming to the same result.

What is made small is an objective (`segalflow.segal.objectives`, `segalflow.segal.species_objectives`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from segalflow.artefacts import read_state, write_state
from segalflow.errors import TrainingError
from segalflow.progress import bar
from segalflow.provenance import code_fingerprint, content_hash

# Draws per condition where the effective sample size is measured (few draws overstate a low one).
NESS_DRAWS = 64
NESS_SITES = 24_000
"""Sites of the conditions at which it is measured: all of 48 up to 500 sites, fewer on larger cells."""
DIVERGED = 100
"""Steps in a row with a loss above the objective's `limit` after which training stops."""


class Sampler(Protocol):
    """What a training needs of a sampler; configurations are whatever it draws, the batch first."""

    model: Any
    network: torch.nn.Module
    domain: Any

    def conditions(self) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
        """Return the shape of the grid and the temperature and delta_mu of all its conditions, flat."""

    def sample(self, temperature: np.ndarray, delta_mu: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """Return configurations, log probabilities and energies."""

    def reduced_energy(
        self, configurations: np.ndarray, energy: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray
    ) -> np.ndarray:
        """Return (U - sum of delta_mu N)/kT."""


class TrainingRun:
    """State of a training run: everything a checkpoint must hold to go on to the same result."""

    def __init__(self, sampler: Sampler, settings: Mapping[str, Any], seed: int) -> None:
        self.sampler, self.settings = sampler, settings
        self.network = sampler.network
        self.rng = np.random.default_rng(seed)
        self.step = self.saved = 0
        self.evaluations = 0
        self.history: list[dict[str, float]] = []
        self.shape, self.temperature, self.delta_mu = sampler.conditions()
        self.beta = 1.0 / (sampler.model.boltzmann * self.temperature)
        self.condition = torch.from_numpy(sampler.domain.encode(self.temperature, self.delta_mu))
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.98), fused=True
        )
        self.shown = math.nan  # the last loss
        self.queue: list[Any] = []  # what is still to be visited in this round

    def learning_rate(self) -> float:
        """Warm-up over 50 steps, then a cosine to 0.3 % of the peak."""
        steps = self.settings["steps"]
        warm = min(1.0, (self.step + 1) / 50)
        return (
            self.settings["learning_rate"] * warm * (0.003 + 0.997 * 0.5 * (1 + math.cos(math.pi * self.step / steps)))
        )

    def seed(self) -> int:
        """Draw a seed."""
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
        n_conditions = min(48, max(8, NESS_SITES // self.sampler.model.n_sites), len(self.temperature))
        chosen = np.linspace(0, len(self.temperature) - 1, n_conditions).astype(int)
        t, m = np.repeat(self.temperature[chosen], NESS_DRAWS), np.repeat(self.delta_mu[chosen], NESS_DRAWS, axis=0)
        spins, log_p, energy = self.sampler.sample(t, m, self.seed())
        self.evaluations += len(spins)
        log_w = (-self.sampler.reduced_energy(spins, energy, t, m) - log_p).reshape(-1, NESS_DRAWS)
        weight = np.exp(log_w - log_w.max(1, keepdims=True))
        ness = float(np.median(weight.sum(1) ** 2 / (NESS_DRAWS * (weight**2).sum(1))))
        if not math.isfinite(ness):
            raise FloatingPointError(f"the effective sample size is {ness} at step {self.step}")
        return ness

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything numeric as named arrays."""
        found = {f"network.{k}": v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            for key, value in state.items():
                found[f"optimiser.{number}.{key}"] = np.asarray(value.cpu())
        return found

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put the weights and the optimiser back."""
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


def checkpoint_of(work: str | Path | None, script: str, *inputs: Any) -> Path | None:
    """Return the checkpoint of a run in the folder `work`, named by its inputs and code; None without a folder.

    The code counts too: a checkpoint of an older version of `script` or what it uses is not continued by a newer one.
    """
    if work is None:
        return None
    return Path(work) / f"checkpoint-{content_hash([*inputs, code_fingerprint(script)], 12)}.safetensors"


def optimise(run: TrainingRun, objective: Any, checkpoint: Path | None) -> pd.DataFrame:
    """Train until the steps are spent or the NESS target is met, and return the history.

    Args:
        run: the run; `settings` holds ``steps``, ``ness_target`` and ``checkpoint_every``.
        objective: what is made small; with a ``limit`` a loss that stays above it counts as divergence.
        checkpoint: file of an interrupted run, continued to the same result if it is there and removed at the end.

    Raises:
        TrainingError: if training diverges; the last good checkpoint is named.
    """
    settings = run.settings
    if not settings["steps"]:
        run.history.append(
            {"step": 0, "loss": np.nan, "ness": run.measure_ness(), "energy_evaluations": run.evaluations}
        )
    elif not _resume(run, objective, checkpoint):
        objective.prepare()
    try:
        _steps(run, objective, checkpoint)
    except FloatingPointError as error:
        kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
        raise TrainingError(f"training diverged: {error}; lower segal.training.learning_rate{kept}") from None
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)  # a finished run is never continued: asked for again, it trains again
    return pd.DataFrame(run.history)


def _steps(run: TrainingRun, objective: Any, checkpoint: Path | None) -> None:
    settings, limit, above = run.settings, getattr(objective, "limit", math.inf), 0
    every = max(1, settings["steps"] // 40)
    with bar(settings["steps"], "SEGAL", "step") as shown:
        shown.update(run.step)
        while run.step < settings["steps"]:
            objective.step()
            above = above + 1 if run.shown > limit else 0
            if above >= DIVERGED:
                raise FloatingPointError(
                    f"the loss is {run.shown:.3g} at step {run.step} and was above {limit:.3g} for {DIVERGED} steps, "
                    "worse than random guesses"
                )
            shown.update(1)
            if run.step % every == 0 or run.step == settings["steps"]:
                ness = run.measure_ness()
                run.history[-1]["ness"] = ness
                last = {"loss": f"{run.shown:.3f}", "evaluations": f"{run.evaluations:.1e}"}
                shown.set_postfix(NESS=f"{ness:.3f}", **last, refresh=False)
                if settings["ness_target"] is not None and ness >= settings["ness_target"]:
                    break
            # Checkpoints fall between rounds of the pool, where its chains are all there is to keep.
            due = run.step >= run.saved + settings["checkpoint_every"]
            if checkpoint is not None and not run.queue and not above and due:
                _save(run, objective, checkpoint)


def _save(run: TrainingRun, objective: Any, path: Path) -> None:
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


def _resume(run: TrainingRun, objective: Any, path: Path | None) -> bool:
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
