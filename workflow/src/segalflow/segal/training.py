"""Training: maximum likelihood on a replica-exchange pool, or reverse KL; both in optimiser steps, both resumable.

Maximum likelihood (the recommended recipe): one chain per condition of the grid, kept in equilibrium by heat-bath
sweeps, exchanges between neighbouring conditions and, once the network has learnt something, independence
Metropolis with the network's own draws, which carries chains across first-order lines. Each configuration is moved by a
random symmetry of the cell and its sites carry the heat-bath probability as label (Rao-Blackwell): the same gradient on
average, far less noise.

Reverse KL (Damewood et al. 2022): ``E_q[ln q + (U - dmu N)/kT]`` by REINFORCE with a leave-one-out baseline, conditions
drawn from the grid; needs no Monte Carlo and collapses more easily.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import uniform_filter
from scipy.special import expit

from segalflow.artefacts import read_state, write_state
from segalflow.energy.base import EnergyModel
from segalflow.energy.batch_chains import make_chains
from segalflow.energy.lockstep import exchange_grid
from segalflow.energy.polynomial import model_fingerprint
from segalflow.energy.replica_pool import equilibrium_pool
from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell
from segalflow.progress import bar
from segalflow.provenance import code_fingerprint, content_hash
from segalflow.segal.features import ConditionRange, evaluate_past_fields, past_fields, with_colder
from segalflow.segal.gradients import GRADIENTS, autograd_step
from segalflow.segal.network import build_network
from segalflow.segal.sampler import TrainedSampler, torch_logits
from segalflow.segal.transfer import transfer_weights, weights_hash

# Draws per condition where the effective sample size is measured (few draws overstate a low one).
NESS_DRAWS = 64
MAX_VISITS = 4.0
# Decorations of each condition kept from the first pool, and the share of a round that they replace.
KEPT, REPLAYED = 16, 0.2
# Steps in (T, delta_mu) to the conditions whose draws are proposed to the pool, in turn.
NEIGHBOURS = ((0, 0), (0, 1), (0, 0), (0, -1), (0, 0), (1, 0))


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
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.98))
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

    def descend(self, shown: float) -> None:
        """One optimiser step with the gradients at hand, if they and the loss are finite."""
        if not math.isfinite(shown):
            raise FloatingPointError(f"the loss is {shown} at step {self.step}")
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is {norm} at step {self.step}")
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.step()
        self.history.append({"step": self.step, "loss": shown, "ness": np.nan, "energy_evaluations": self.evaluations})
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


class LikelihoodObjective:
    """Maximum likelihood on the replica pool."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.chains = make_chains(run.sampler.model, run.temperature, run.delta_mu, run.seed(), rule="heat_bath")
        self.operations = run.sampler.cell.symmetry_permutations()
        self.rounds = self.refreshes = 0
        # Running estimate of KL(p|q) + KL(q|p) of every condition, from the refreshes.
        self.divergence = np.ones(len(run.temperature))
        self.spins = self.fields = self.kept = self.kept_fields = None

    def prepare(self) -> None:
        """Start the pool in equilibrium: at each condition from above (disordered) or from an ordered state, by lot.

        A few decorations of each condition are kept for good (`REPLAYED`): a phase that is stable in a narrow range
        only can die out in the few chains that hold it, and would then be forgotten.
        """
        run = self.run
        t, m = run.sampler.grid
        pool, spent = equilibrium_pool(
            run.sampler.model, t, m, seed=run.seed(), sweeps=run.settings["pool_sweeps"], n_samples=KEPT
        )
        pool = pool.reshape(len(run.temperature), -1, run.sampler.n_sites)
        self.kept = np.ascontiguousarray(pool.transpose(1, 0, 2))
        self._measure_kept()
        self.chains.set_spins(pool[np.arange(len(pool)), run.rng.integers(0, pool.shape[1], len(pool))])
        run.evaluations += spent + self.kept.size

    def _measure_kept(self) -> None:
        self.kept_fields = np.empty(self.kept.shape, dtype=np.float32)
        for number, spins in enumerate(self.kept):
            self.chains.set_spins(spins)
            self.kept_fields[number] = self.chains.local_fields()

    def _exchange(self, number: int) -> None:
        for axis in (0, 1):
            if self.run.shape[axis] > 1:
                exchange_grid(self.chains, self.run.shape, axis, (number // 2) % 2, self.run.rng)

    def _refresh(self) -> None:
        """Propose one draw of the network to every chain: independence Metropolis on w = p/q.

        Draws come in turn from the chain's own condition and from its neighbours (any fixed choice is valid): where the
        pool sits in the wrong phase, and has taught it to the network, the right one is what a neighbour proposes.
        """
        run, sampler = self.run, self.run.sampler
        shift = NEIGHBOURS[self.refreshes % len(NEIGHBOURS)]
        self.refreshes += 1
        place = [np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(run.shape, shift, strict=True)]
        source = np.add.outer(place[0] * run.shape[1], place[1]).ravel()
        temperature, delta_mu = run.temperature[source], run.delta_mu[source]
        old = self.chains.spins.copy()
        new, log_q_new, energy_new = sampler.sample(temperature, delta_mu, run.seed())
        log_q_old = sampler.log_prob(old, temperature, delta_mu)
        energy_old = self.chains.energies()

        def log_w(spins: np.ndarray, energy: np.ndarray, log_q: np.ndarray) -> np.ndarray:
            return -run.beta * (energy - run.delta_mu * (spins > 0).sum(1)) - log_q

        gain = log_w(new, energy_new, log_q_new) - log_w(old, energy_old, log_q_old)
        if shift == (0, 0):
            # The mean of log w over p minus that over q is the symmetric divergence; both draws are at hand.
            self.divergence = 0.8 * self.divergence - 0.2 * gain
        accepted = np.log(run.rng.random(len(gain))) < gain
        self.chains.set_spins(np.where(accepted[:, None], new, old))
        run.evaluations += 2 * len(gain)

    def _new_round(self) -> None:
        run = self.run
        self.chains.sweep(run.settings["sweeps_per_round"])
        run.evaluations += run.settings["sweeps_per_round"] * self.chains.spins.size
        if self.rounds % 2:
            self._exchange(self.rounds)
        if run.step > 0.15 * run.settings["steps"] and self.rounds % run.settings["refresh_every"] == 0:
            self._refresh()
        self.rounds += 1
        spins, fields = self.chains.spins, self.chains.local_fields()
        run.evaluations += spins.size
        replayed = np.flatnonzero(run.rng.random(len(spins)) < REPLAYED)
        which = run.rng.integers(0, len(self.kept), len(replayed))
        spins[replayed], fields[replayed] = self.kept[which, replayed], self.kept_fields[which, replayed]
        moved = self.operations[run.rng.integers(0, len(self.operations), len(spins))]
        rows = np.arange(len(spins))[:, None]
        self.spins, self.fields = np.empty_like(spins), np.empty(spins.shape, dtype=np.float32)
        self.spins[rows, moved] = spins
        self.fields[rows, moved] = fields
        order = run.rng.permutation(self._visited())
        run.queue = np.array_split(order, max(1, round(len(order) / run.settings["batch"])))

    def _visited(self) -> np.ndarray:
        """Conditions of a round: each about once, bad ones up to `MAX_VISITS` times as often."""
        n = len(self.divergence)
        if not self.run.settings["adaptive"]:
            return np.arange(n)
        smooth = uniform_filter(self.divergence.reshape(self.run.shape), size=3, mode="nearest").ravel()
        weight = np.sqrt(np.clip(smooth, 0.02, None))
        weight = np.clip(weight / weight.mean(), 1 / MAX_VISITS, MAX_VISITS)
        # Systematic resampling: n draws of which each condition gets its share to within one.
        edges = np.cumsum(weight / weight.sum()) * n
        return np.minimum(np.searchsorted(edges, np.arange(n) + self.run.rng.random()), n - 1)

    def step(self) -> None:
        """One optimiser step on a part of the pool."""
        run = self.run
        if not run.queue:
            self._new_round()
        chosen = run.queue.pop()
        spins, beta, mu = self.spins[chosen], run.beta[chosen], run.delta_mu[chosen]
        # Heat-bath probability of species 1 given all other sites.
        label = expit(beta[:, None] * (mu[:, None] - 2 * self.fields[chosen])).astype(np.float32)
        gradient = GRADIENTS.get(type(run.network), autograd_step)
        loss = gradient(
            run.network,
            spins,
            evaluate_past_fields(run.sampler.fields, spins),
            label,
            beta,
            mu,
            run.condition[torch.from_numpy(chosen)],
        )
        run.descend(loss)

    def arrays(self) -> dict[str, np.ndarray]:
        """State of the pool."""
        return {"divergence": self.divergence, "kept": self.kept} | {
            f"pool.{k}": np.asarray(v) for k, v in self.chains.state().items()
        }

    def extra(self) -> dict[str, Any]:
        """Counters of the pool."""
        return {"rounds": self.rounds, "refreshes": self.refreshes}

    def restore(self, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """Put the pool back."""
        self.kept = arrays["kept"]
        self._measure_kept()
        self.chains.restore({k.removeprefix("pool."): v for k, v in arrays.items() if k.startswith("pool.")})
        self.rounds, self.refreshes = extra["rounds"], extra["refreshes"]
        self.divergence = arrays["divergence"]


class ReverseObjective:
    """Reverse KL by REINFORCE, as in the paper, with a leave-one-out baseline per condition."""

    draws = 16

    def __init__(self, run: _Run) -> None:
        self.run = run

    def prepare(self) -> None:
        """Nothing to prepare: the network makes its own samples."""

    def step(self) -> None:
        """One optimiser step on draws at random conditions of the grid."""
        run, model = self.run, self.run.sampler.model
        n = max(1, run.settings["batch"] // self.draws)
        chosen = np.repeat(run.rng.integers(0, len(run.temperature), n), self.draws)
        temperature, mu = run.temperature[chosen], run.delta_mu[chosen]
        spins, log_p, energy = run.sampler.sample(temperature, mu, run.seed())
        run.evaluations += len(spins)
        free = log_p + (energy - mu * (spins > 0).sum(1)) / (model.boltzmann * temperature)
        grouped = free.reshape(n, self.draws)
        advantage = (grouped - grouped.mean(1, keepdims=True)) * self.draws / (self.draws - 1)
        # The scale of each condition is its own spread; single wild draws are held back.
        advantage = np.clip(advantage / np.maximum(1.0, grouped.std(1, keepdims=True)), -4, 4).ravel()
        logits = torch_logits(run.sampler, spins, temperature, mu)
        signed = torch.nn.functional.logsigmoid(logits * torch.from_numpy(spins.astype(np.float32))).sum(1)
        run.optimiser.zero_grad(set_to_none=True)
        (signed * torch.from_numpy(advantage.astype(np.float32))).mean().backward()
        run.descend(float(grouped.mean()))

    def arrays(self) -> dict[str, np.ndarray]:
        """No state of its own."""
        return {}

    def extra(self) -> dict[str, Any]:
        """No state of its own."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """No state of its own."""


OBJECTIVES: dict[str, Callable[[_Run], Any]] = {"likelihood": LikelihoodObjective, "reverse_kl": ReverseObjective}


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
            ``refresh_every``, ``adaptive``, ``ness_target`` (None: never stop early), ``checkpoint_every`` (steps).
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
                last = {"loss": f"{run.history[-1]['loss']:.3f}", "evaluations": f"{run.evaluations:.1e}"}
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
