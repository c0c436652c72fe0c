"""What training makes small for any number of species: the twins of `segalflow.segal.objectives`.

Maximum likelihood needs an energy model in site functions: its chains make the pool and its local energies the
Rao-Blackwellised labels. Reverse KL needs total energies only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from segalflow.energy.lockstep import exchange_grid
from segalflow.energy.species_chains import SpeciesChains, as_site_functions, heat_bath, species_pool
from segalflow.errors import TrainingError
from segalflow.segal.categorical import log_conditionals
from segalflow.segal.objectives import KEPT, REPLAYED, centred_advantage, visited_conditions
from segalflow.segal.optimisation import TrainingRun
from segalflow.segal.resources import in_parts


class SpeciesLikelihood:
    """Maximum likelihood on a replica-exchange pool with heat-bath labels, as `LikelihoodObjective`."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        model = as_site_functions(run.sampler.model)
        if model is None:
            raise TrainingError(
                "segal.training.objective: 'likelihood' needs an energy model with local energies (a cluster "
                f"expansion), found {type(run.sampler.model).__name__}; use reverse_kl"
            )
        self.model, self.potentials = model, run.sampler.potentials
        self.chains = SpeciesChains(model, self.potentials, run.temperature, run.delta_mu, run.seed())
        self.rounds = self.refreshes = 0
        self.divergence = np.ones(len(run.temperature))
        self.limit = 2 * float(np.log(model.n_species).sum())
        self.kept = self.occupations = self.labels = None

    def prepare(self) -> None:
        """Start the pool in equilibrium, and keep a few decorations of each condition for good."""
        run = self.run
        pool, spent = species_pool(
            self.model, self.potentials, run.sampler.grid[0], run.sampler.grid[1:], seed=run.seed(),
            sweeps=run.settings["pool_sweeps"], n_samples=KEPT,
        )  # fmt: skip
        self.kept = np.ascontiguousarray(pool.transpose(1, 0, 2))
        self.chains.set_occupations(pool[np.arange(len(pool)), run.rng.integers(0, pool.shape[1], len(pool))])
        run.evaluations += spent

    def _refresh(self) -> None:
        """Propose one draw of the network to every chain, made there or, every second time, by a neighbour."""
        run, sampler = self.run, self.run.sampler
        neighbours = [*((axis, step) for axis in range(1, len(run.shape)) for step in (1, -1)), (0, 1)]
        axis, step = neighbours[(self.refreshes // 2) % len(neighbours)] if self.refreshes % 2 else (0, 0)
        self.refreshes += 1
        place = np.indices(run.shape)
        place[axis] = np.clip(place[axis] + step, 0, run.shape[axis] - 1)
        source = np.ravel_multi_index(tuple(place), run.shape).ravel()
        temperature, delta_mu = run.temperature[source], run.delta_mu[source]
        old, energy_old = self.chains.occupations, self.chains.energies()
        new, log_q_new, energy_new = sampler.sample(temperature, delta_mu, run.seed())
        log_q_old = sampler.log_prob(old, temperature, delta_mu)
        gain = (
            sampler.reduced_energy(old, energy_old, run.temperature, run.delta_mu)
            - sampler.reduced_energy(new, energy_new, run.temperature, run.delta_mu)
            + log_q_old
            - log_q_new
        )
        if step == 0:
            self.divergence = 0.8 * self.divergence - 0.2 * gain
        accepted = np.log(run.rng.random(len(gain))) < gain
        self.chains.set_occupations(np.where(accepted[:, None], new, old))
        run.evaluations += 2 * len(gain)

    def _new_round(self) -> None:
        run = self.run
        before = self.chains.energy_evaluations
        self.chains.sweep(run.settings["sweeps_per_round"])
        run.evaluations += self.chains.energy_evaluations - before
        if self.rounds % 2:
            for axis in range(len(run.shape)):
                if run.shape[axis] > 1:
                    exchange_grid(self.chains, run.shape, axis, (self.rounds // 2) % 2, run.rng)
        if run.step > 0.15 * run.settings["steps"] and self.rounds % run.settings["refresh_every"] == 0:
            self._refresh()
        self.rounds += 1
        occupations = self.chains.occupations
        replayed = np.flatnonzero(run.rng.random(len(occupations)) < REPLAYED)
        occupations[replayed] = self.kept[run.rng.integers(0, len(self.kept), len(replayed)), replayed]
        labels = heat_bath(self.model, self.potentials, occupations, run.beta, run.delta_mu).astype(np.float32)
        run.evaluations += occupations.size
        moved = run.sampler.cell.random_permutations(len(occupations), run.rng)
        rows = np.arange(len(occupations))[:, None]
        self.occupations, self.labels = np.empty_like(occupations), np.empty_like(labels)
        self.occupations[rows, moved] = occupations
        self.labels[rows, moved] = labels
        order = run.rng.permutation(visited_conditions(run, self.divergence))
        run.queue = np.array_split(order, max(1, round(len(order) / run.settings["batch"])))

    def step(self) -> None:
        """One optimiser step on a part of the pool."""
        run = self.run
        if not run.queue:
            self._new_round()
        chosen = run.queue.pop()
        total = 0.0

        def work(part: slice) -> None:
            nonlocal total
            rows = chosen[part]
            _, logits = run.sampler.logits(self.occupations[rows], run.temperature[rows], run.delta_mu[rows])
            label = torch.from_numpy(self.labels[rows]).to(logits.device)
            terms = torch.where(torch.isfinite(logits), label * torch.log_softmax(logits, dim=2), 0.0)
            loss = -terms.sum() / len(chosen)
            loss.backward()
            total += float(loss.detach())

        def restart() -> None:
            nonlocal total
            total = 0.0
            run.optimiser.zero_grad(set_to_none=True)

        restart()
        in_parts(work, len(chosen), run.network.bytes_per_decoration, run.sampler.memory_mb, restart)
        run.descend(total)

    def arrays(self) -> dict[str, np.ndarray]:
        """State of the pool."""
        state = {f"pool.{name}": np.asarray(value) for name, value in self.chains.state().items()}
        return {"divergence": self.divergence, "kept": self.kept, **state}

    def extra(self) -> dict[str, Any]:
        """Counters of the pool."""
        return {"rounds": self.rounds, "refreshes": self.refreshes}

    def restore(self, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """Put the pool back."""
        self.kept, self.divergence = arrays["kept"], arrays["divergence"]
        self.chains.restore({k.removeprefix("pool."): v for k, v in arrays.items() if k.startswith("pool.")})
        self.rounds, self.refreshes = extra["rounds"], extra["refreshes"]


class SpeciesReverse:
    """Reverse KL by REINFORCE with a leave-one-out baseline per condition, on conditions of the grid by lot."""

    draws = 16

    def __init__(self, run: TrainingRun) -> None:
        self.run = run

    def prepare(self) -> None:
        """Nothing to prepare: the network makes its own samples."""

    def step(self) -> None:
        """One optimiser step on draws."""
        run, sampler = self.run, self.run.sampler
        n = max(1, run.settings["batch"] // self.draws)
        chosen = np.repeat(run.rng.integers(0, len(run.temperature), n), self.draws)
        temperature, delta_mu = run.temperature[chosen], run.delta_mu[chosen]
        occupations, log_p, energy = sampler.sample(temperature, delta_mu, run.seed())
        run.evaluations += len(occupations)
        free = log_p + sampler.reduced_energy(occupations, energy, temperature, delta_mu)
        advantage = centred_advantage(free.reshape(n, self.draws))

        def work(part: slice) -> None:
            held, logits = sampler.logits(occupations[part], temperature[part], delta_mu[part])
            weight = torch.from_numpy(advantage[part]).to(logits.device)
            ((log_conditionals(logits, held).sum(dim=1) * weight).sum() / len(chosen)).backward()

        def restart() -> None:
            run.optimiser.zero_grad(set_to_none=True)

        restart()
        in_parts(work, len(chosen), run.network.bytes_per_decoration, sampler.memory_mb, restart)
        run.descend(float(free.mean()))

    def arrays(self) -> dict[str, np.ndarray]:
        """No state of its own."""
        return {}

    def extra(self) -> dict[str, Any]:
        """No state of its own."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """No state of its own."""


SPECIES_OBJECTIVES: dict[str, Callable[[TrainingRun], Any]] = {
    "likelihood": SpeciesLikelihood,
    "reverse_kl": SpeciesReverse,
}
