"""Our side of the Monte Carlo benchmark: for every quantity the ways to get it, and how rates are measured."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
from peers import Work

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial, place_expansion
from segalflow.energy.single_chain import SingleChain
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.wang_landau import density_of_states
from segalflow.units import BOLTZMANN_EV_PER_K

TEMPERATURE = 500.0
"""K, of single chains and of peers; dmu is 0 there."""
ISING_TEMPERATURE = 2.4
"""J/k_B."""
TEMPERATURES = 32
"""Temperatures of the grid; its other axis is dmu."""


@dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
        seconds: processor time of one turn.
        rounds: turns of every code.
        chains: chains of the grid and walkers of metadynamics, a multiple of `TEMPERATURES`.
        walkers: of our Wang-Landau runs.
    """

    seconds: float = 5.0
    rounds: int = 2
    chains: int = 2048
    walkers: int = 16


def _timed(work: Work, n: int) -> tuple[int, float]:
    start = time.process_time()
    done = work(n)
    return done, max(time.process_time() - start, 1e-9)


def measure_rate(work: Work, seconds: float) -> float:
    """Return operations per second of processor time over a run of about `seconds`; the first call is not counted."""
    work(1)
    n = 1
    while (spent := _timed(work, n)[1]) < seconds / 10:
        n = max(n + 1, min(4 * n, int(n * seconds / 5 / spent)))
    done, spent = _timed(work, max(1, round(n * seconds / spent)))
    return done / spent


def fastest(works: Mapping[str, Work], seconds: float) -> str:
    """Return the name of the fastest of several ways to do the same."""
    return max(works, key=lambda name: measure_rate(works[name], seconds)) if len(works) > 1 else next(iter(works))


def grid_conditions(chains: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return temperatures (K) and dmu (eV) of a grid of `chains` conditions, shape (chains,) each."""
    if chains % TEMPERATURES:
        raise SystemExit(f"--chains: expected a multiple of {TEMPERATURES}, found {chains}")
    reach = 7.0 * BOLTZMANN_EV_PER_K * temperature
    t, dmu = np.meshgrid(
        np.linspace(0.5, 2.5, TEMPERATURES) * temperature, np.linspace(-reach, reach, chains // TEMPERATURES)
    )
    return t.ravel(), dmu.ravel()


class Ours:
    """segalflow on one cell: for every quantity the ways to get it, by name."""

    def __init__(self, expansion: ClusterExpansion, cell: Supercell, temperature: float, budget: Budget) -> None:
        self.temperature, self.budget = temperature, budget
        self.model = place_expansion(expansion, cell)
        t, dmu = grid_conditions(budget.chains, temperature)
        self.grid = LockstepChains(self.model, t, dmu, seed=1, rule="metropolis")

    def energy(self, occupations: np.ndarray) -> float:
        """Return the total energy, eV."""
        return float(self.model.energy(occupations[None])[0])

    def works(self, quantity: str, energy_bin: float) -> dict[str, Work]:
        """Return the ways to get a quantity."""
        return getattr(self, f"_{quantity}")(energy_bin)

    def _sweeps(self, chains: LockstepChains) -> Work:
        def work(n: int) -> int:
            chains.sweep(n)
            return n * self.model.n_sites * chains.n_chains

        return work

    def _grid(self, _: float) -> dict[str, Work]:
        spins = np.random.default_rng(0).choice([-1, 1], (self.grid.n_chains, self.model.n_sites))
        self.grid.set_spins(spins.astype(np.int8))
        return {"lock step": self._sweeps(self.grid)}

    def _single(self, _: float) -> dict[str, Work]:
        one = np.array([self.temperature])
        chain = LockstepChains(self.model, one, np.zeros(1), seed=1, rule="metropolis")
        alone = SingleChain(self.model, self.temperature, 0.0, seed=1)
        alone.spins = np.random.default_rng(0).choice([-1, 1], self.model.n_sites)

        def steps(n: int) -> int:
            alone.run(n * self.model.n_sites)
            return n * self.model.n_sites

        return {"lock step, one chain": self._sweeps(chain), "single chain": steps}

    def _totals(self, _: float) -> dict[str, Work]:
        n_chains, n_sites = self.grid.n_chains, self.model.n_sites
        spins = np.random.default_rng(0).choice([-1, 1], (n_chains, n_sites)).astype(np.int8)

        def lock_step(n: int) -> int:
            for _ in range(n):
                self.grid.set_spins(spins)
                self.grid.energies()
            return n * n_chains

        def plain(n: int) -> int:
            for _ in range(n):
                self.model.energy_of_spins(spins[:64])
            return n * 64

        return {"lock step": lock_step, "plain batch": plain}

    def _metadynamics(self, _: float) -> dict[str, Work]:
        n_chains, n_sites = self.grid.n_chains, self.model.n_sites
        t = np.linspace(0.5, 2.5, TEMPERATURES) * self.temperature
        row = np.repeat(np.arange(TEMPERATURES), n_chains // TEMPERATURES)
        walkers = LockstepChains(self.model, t[row], np.zeros(n_chains), seed=1)
        rng = np.random.default_rng(0)
        walkers.set_spins(np.where(rng.random((n_chains, n_sites)) < rng.random((n_chains, 1)), 1, -1))
        bias = np.zeros((TEMPERATURES, n_sites + 1))
        visits = np.zeros((n_chains, n_sites + 1), dtype=np.int64)

        def work(n: int) -> int:
            walkers.biased_sweep(n, bias, row, 1e-3, visits)
            return n * n_sites * n_chains

        return {"lock step": work}

    def _wang_landau(self, energy_bin: float) -> dict[str, Work]:
        def work(n: int) -> int:
            with contextlib.redirect_stderr(io.StringIO()):  # no progress bars
                states = density_of_states(
                    self.model,
                    seed=1,
                    bin_width=energy_bin,
                    walkers=self.budget.walkers,
                    final_log_f=1e-12,
                    max_sweeps=1000 * n,
                    production_sweeps=1,
                    by_composition=False,
                )
            return int(states.steps.sum())

        return {"density_of_states": work}


def reference_loop(model: SpinPolynomial, temperature: float) -> Work:
    """Plain single-chain Metropolis of a pair model: a loop over a table of neighbours, as a textbook has it."""
    table = model.site_table
    degree = int(np.diff(table.start)[0])
    neighbours = np.ascontiguousarray(table.others[:, 0].reshape(model.n_sites, degree))
    spins = np.random.default_rng(0).choice([-1, 1], model.n_sites).astype(np.int8)
    coupling = float(table.coefficient[0]) / (model.boltzmann * temperature)

    def work(n: int) -> int:
        _textbook(spins, neighbours, coupling, n)
        return n * model.n_sites

    return work


@numba.njit
def _textbook(spins, neighbours, coupling, sweeps):  # pragma: no cover - compiled
    for _ in range(sweeps * spins.shape[0]):
        i = np.random.randint(spins.shape[0])  # noqa: NPY002 - inside numba
        field = 0
        for k in range(neighbours.shape[1]):
            field += spins[neighbours[i, k]]
        gain = 2.0 * coupling * spins[i] * field
        if gain >= 0.0 or np.random.random() < np.exp(gain):  # noqa: NPY002
            spins[i] = -spins[i]


def ising_expansion() -> ClusterExpansion:
    """Return ``U = -sum_<ij> s_i s_j`` on the square lattice, in eV."""
    lattice = parent_lattice("square", 1.0, ("Ag", "Au"))
    figures = np.array([[[0, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 0]]])
    pairs = Cluster("c2", 2, 1.0, figures, np.zeros((2, 2), dtype=np.int64), -2.0)
    return ClusterExpansion(lattice, (((-1.0, 1.0),),), (pairs,), {"kind": "toy"})
