"""What training makes small: maximum likelihood on a replica-exchange pool, the paper's reverse KL, or both in turn.

Maximum likelihood (the recommended recipe): one chain per condition of the grid, kept in equilibrium by heat-bath
sweeps, exchanges between neighbouring conditions and, once the network has learnt something, independence
Metropolis with the network's own draws, which carries chains across first-order lines. Each configuration is moved by a
random symmetry of the cell and its sites carry the heat-bath probability as label (Rao-Blackwell): the same gradient on
average, far less noise. Where the energy does not change when the two species are exchanged (Ising), half of the
configurations are also flipped, and stand for the opposite delta_mu.

Reverse KL (Damewood et al. 2022): ``E_q[ln q + (U - dmu N)/kT]`` by REINFORCE with a leave-one-out baseline; needs no
Monte Carlo and collapses more easily.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from scipy.special import expit

from segalflow.energy.batch_chains import make_chains
from segalflow.energy.lockstep import exchange_grid
from segalflow.energy.replica_pool import equilibrium_pool
from segalflow.errors import TrainingError, suggest
from segalflow.segal.features import evaluate_past_fields
from segalflow.segal.gradients import fused_or_autograd
from segalflow.segal.resources import device_of, in_parts
from segalflow.segal.sampler import TrainedSampler, torch_logits

MAX_VISITS = 8.0
# Decorations of each condition kept from the first pool, and the share of a round that they replace.
KEPT, REPLAYED = 16, 0.2
# Steps in (T, delta_mu) to the conditions whose draws are proposed to the pool, in turn.
NEIGHBOURS = ((0, 0), (0, 1), (0, 0), (0, -1), (0, 0), (1, 0))


class Run(Protocol):
    """What an objective needs of the training run (`segalflow.segal.training`)."""

    sampler: TrainedSampler
    network: torch.nn.Module
    settings: Mapping[str, Any]
    rng: np.random.Generator
    optimiser: torch.optim.Optimizer
    step: int
    evaluations: int
    shape: tuple[int, int]
    temperature: np.ndarray
    delta_mu: np.ndarray
    beta: np.ndarray
    condition: torch.Tensor
    queue: list[Any]

    def seed(self) -> int:
        """Draw a seed."""

    def descend(self, shown: float, column: str = "loss") -> None:
        """Take one optimiser step with the gradients at hand and note the loss."""


def visited_conditions(run: Run, divergence: np.ndarray) -> np.ndarray:
    """Return the conditions of a round: each about once, those that diverge most up to `MAX_VISITS` times as often."""
    n = len(divergence)
    if not run.settings["adaptive"]:
        return np.arange(n)
    smooth = uniform_filter(divergence.reshape(run.shape), size=3, mode="nearest").ravel()
    weight = np.sqrt(np.clip(smooth, 0.02, None))
    weight = np.clip(weight / weight.mean(), 1 / MAX_VISITS, MAX_VISITS)
    # Systematic resampling: n draws of which each condition gets its share to within one.
    edges = np.cumsum(weight / weight.sum()) * n
    return np.minimum(np.searchsorted(edges, np.arange(n) + run.rng.random()), n - 1)


def mirrored_conditions(run: Run) -> np.ndarray | None:
    """Return for every condition the one of opposite delta_mu, -1 where the grid holds none, (n_conditions,).

    None if the model is not known to be the same with its species exchanged.
    """
    if not getattr(run.sampler.model, "is_even", False):
        return None
    opposite = np.isclose(run.delta_mu[:, None], -run.delta_mu[None], rtol=0, atol=1e-9 * np.ptp(run.delta_mu))
    found = opposite & (run.temperature[:, None] == run.temperature[None])
    return np.where(found.any(1), found.argmax(1), -1)


class LikelihoodObjective:
    """Maximum likelihood on the replica pool."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.chains = make_chains(run.sampler.model, run.temperature, run.delta_mu, run.seed(), rule="heat_bath")
        self.groups = run.settings.get("site_groups", 1)
        self.rounds = self.refreshes = 0
        # Twice the cross-entropy of guesses at even odds: only a network gone wrong stays above it.
        self.limit = 2 * np.log(2) * run.sampler.n_sites
        # Running estimate of KL(p|q) + KL(q|p) of every condition, from the refreshes.
        self.divergence = np.ones(len(run.temperature))
        self.spins = self.fields = self.past = self.kept = self.kept_fields = None
        self.mirror = mirrored_conditions(run)

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
        moved = run.sampler.cell.random_permutations(len(spins), run.rng)
        rows = np.arange(len(spins))[:, None]
        self.spins, self.fields = np.empty_like(spins), np.empty(spins.shape, dtype=np.float32)
        self.spins[rows, moved] = spins
        self.fields[rows, moved] = fields
        if self.mirror is not None:
            # A pair of conditions changes places, or neither.
            lot = run.rng.random(len(spins)) < 0.5
            flipped = np.flatnonzero((self.mirror >= 0) & lot[np.minimum(self.mirror, rows[:, 0])])
            self.spins[flipped], self.fields[flipped] = (-a[self.mirror[flipped]] for a in (self.spins, self.fields))
        self.spins, self.fields = run.sampler.placed(self.spins), run.sampler.placed(self.fields)
        orders = [run.rng.permutation(visited_conditions(run, self.divergence)) for _ in range(self.groups)]
        # Blocks of the counting kernel are wide: all of a round at once costs a fraction of one part after another.
        self.past = evaluate_past_fields(run.sampler.fields, self.spins)
        n_parts = max(1, round(len(orders[0]) / run.settings["batch"]))
        turns = zip(*(np.array_split(order, n_parts) for order in orders), strict=True)
        run.queue = [(part, group) for turn in turns for group, part in enumerate(turn)]

    def step(self) -> None:
        """One optimiser step on a part of the pool."""
        run = self.run
        if not run.queue:
            self._new_round()
        chosen, group = run.queue.pop()
        spins, beta, mu = self.spins[chosen], run.beta[chosen], run.delta_mu[chosen]
        # Heat-bath probability of species 1 given all other sites.
        label = expit(beta[:, None] * (mu[:, None] - 2 * self.fields[chosen])).astype(np.float32)
        loss = fused_or_autograd(run.network)(
            run.network,
            spins,
            self.past[chosen],
            label,
            beta,
            mu,
            run.condition[torch.from_numpy(chosen)],
            run.sampler.memory_mb,
            (group, self.groups),
        )
        run.descend(loss * self.groups)

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


def grid_conditions(run: Run, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` conditions of the grid."""
    chosen = run.rng.integers(0, len(run.temperature), n)
    return run.temperature[chosen], run.delta_mu[chosen]


def random_conditions(run: Run, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` conditions evenly from the ranges of T and delta_mu."""
    domain = run.sampler.domain
    return run.rng.uniform(*domain.temperature, n), run.rng.uniform(*domain.delta_mu, n)


def annealed_conditions(run: Run, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` conditions of the grid above a temperature that falls to the lowest in the first 70 % of the steps."""
    levels = np.unique(run.temperature)
    progress = min(1.0, run.step / (0.7 * run.settings["steps"]))
    floor = levels[round((1 - progress) * (len(levels) - 1))]
    chosen = run.rng.choice(np.flatnonzero(run.temperature >= floor), n)
    return run.temperature[chosen], run.delta_mu[chosen]


CONDITIONS: dict[str, Callable[[Run, int], tuple[np.ndarray, np.ndarray]]] = {
    "grid": grid_conditions,
    "random": random_conditions,
    "annealed": annealed_conditions,
}
"""Where reverse KL takes its conditions from (the three ways of the paper)."""


def centred_advantage(free: np.ndarray) -> np.ndarray:
    """Return the weights of REINFORCE, flat, from ``ln q + (U - dmu N)/kT`` of draws, (conditions, draws).

    The baseline leaves each draw out; the scale of each condition is its own spread; single wild draws are held back.
    """
    n = free.shape[1]
    advantage = (free - free.mean(1, keepdims=True)) * n / (n - 1)
    return np.clip(advantage / np.maximum(1.0, free.std(1, keepdims=True)), -4, 4).ravel()


class ReverseObjective:
    """Reverse KL by REINFORCE, as in the paper, with a leave-one-out baseline per condition."""

    draws = 16
    column = "loss"

    def __init__(self, run: Run) -> None:
        self.run = run
        name = run.settings["conditions"]
        if name not in CONDITIONS:
            raise TrainingError(
                f"segal.training.conditions: unknown choice '{name}', expected one of {', '.join(CONDITIONS)}"
                f"{suggest(name, CONDITIONS)}"
            )
        self.choose = CONDITIONS[name]

    def prepare(self) -> None:
        """Nothing to prepare: the network makes its own samples."""

    def step(self) -> None:
        """One optimiser step on draws at conditions chosen by lot."""
        run = self.run
        n = max(1, run.settings["batch"] // self.draws)
        temperature, mu = (np.repeat(values, self.draws) for values in self.choose(run, n))
        spins, log_p, energy = run.sampler.sample(temperature, mu, run.seed())
        run.evaluations += len(spins)
        free = log_p + run.sampler.reduced_energy(spins, energy, temperature, mu)
        advantage = centred_advantage(free.reshape(n, self.draws))
        spins = run.sampler.placed(spins)
        signs, weight = (torch.from_numpy(a.astype(np.float32)).to(device_of(run.network)) for a in (spins, advantage))

        def work(part: slice) -> None:
            logits = torch_logits(run.sampler, spins[part], temperature[part], mu[part])
            signed = torch.nn.functional.logsigmoid(logits * signs[part]).sum(1)
            ((signed * weight[part]).sum() / len(spins)).backward()

        def restart() -> None:
            run.optimiser.zero_grad(set_to_none=True)

        restart()
        in_parts(work, len(spins), run.network.bytes_per_decoration, run.sampler.memory_mb, restart)
        run.descend(float(free.mean()), self.column)

    def arrays(self) -> dict[str, np.ndarray]:
        """No state of its own."""
        return {}

    def extra(self) -> dict[str, Any]:
        """No state of its own."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """No state of its own."""


class MixedObjective:
    """Maximum likelihood, and reverse KL in a share of the steps: the pool shows what there is, draws what is too much.

    Both losses are bounded below by the same truth and have the same minimum, so turns need no relative scale.
    """

    def __init__(self, run: Run) -> None:
        share = run.settings["reverse_share"]
        if not 0 < share < 1:
            raise TrainingError(f"segal.training.reverse_share: expected a share between 0 and 1, found {share}")
        self.run, self.share = run, share
        self.likelihood, self.reverse = LikelihoodObjective(run), ReverseObjective(run)
        self.reverse.column = "reverse_loss"

    def prepare(self) -> None:
        """Bring the pool to equilibrium."""
        self.likelihood.prepare()

    def step(self) -> None:
        """One optimiser step of the objective whose turn it is."""
        turn = int((self.run.step + 1) * self.share) > int(self.run.step * self.share)
        (self.reverse if turn else self.likelihood).step()

    def arrays(self) -> dict[str, np.ndarray]:
        """State of the pool."""
        return self.likelihood.arrays()

    def extra(self) -> dict[str, Any]:
        """Counters of the pool."""
        return self.likelihood.extra()

    def restore(self, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
        """Put the pool back."""
        self.likelihood.restore(arrays, extra)


OBJECTIVES: dict[str, Callable[[Run], Any]] = {
    "likelihood": LikelihoodObjective,
    "reverse_kl": ReverseObjective,
    "mixed": MixedObjective,
}
