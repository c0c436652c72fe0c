"""The proposal of importance sampling: a trained network, widened and symmetrised, with its exact density.

What sweeps and repairs need to know of decorations and their chemical potentials is asked of the proposal, so that they
serve two species and any number alike (`segalflow.sampling.species_proposal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from segalflow.energy.base import EnergyModel
from segalflow.energy.batch_chains import make_chains
from segalflow.samples import pack_spins, unpack_spins
from segalflow.sampling.estimators import Estimates, Statistics
from segalflow.segal.sampler import TrainedSampler

SMALL_CELL, SMALL_CELL_STEP = 32, 1.28
"""Sites up to which the defensive component is at least this many times as hot, and not just one row of the grid above.

On 16 sites frozen into an ordered phase the rare excitations are states that a network has met a few times at most; it
takes them for impossible, and so does the network a little above. Exact NESS of Cu-Au 16 at 200 to 300 K: 0.07 to 0.5
with the component 50 K above, 0.95 to 0.99 with 100 K. On cells of 100 sites and more such draws overlap too little.
"""


LARGE_CELL = 128
"""Sites from which on the defensive component comes nearer, as the widths of the distributions: with 1/sqrt(sites).

Its draws that no weight reaches are lost. Cu-Au 512, 5th percentile and median of the NESS: 0.43 and 0.956 with the
component 50 K above, 0.47 and 0.961 with it 25 K above.
"""


def hotter_temperature(temperature: np.ndarray, t: int, n_sites: int) -> float:
    """Return the temperature of the defensive component: one row of the grid above, further on a `SMALL_CELL`.

    Where the grid ends before, it is the highest temperature, and for that one step above it. On a `LARGE_CELL` it is a
    part of the way.
    """
    own = float(temperature[t])
    row = t + 1
    if n_sites <= SMALL_CELL and row < len(temperature):
        row = max(row, int(np.searchsorted(temperature, SMALL_CELL_STEP * own)))
    if t + 1 < len(temperature):
        above = float(temperature[min(row, len(temperature) - 1)])
    else:
        above = float(own**2 / temperature[t - 1]) if t else own
    return above if n_sites <= LARGE_CELL else own + (above - own) * (LARGE_CELL / n_sites) ** 0.5


@dataclass(frozen=True)
class MixtureProposal:
    """The network at `own` with a share of the draws from the network at `hotter` (both at the condition's delta_mu).

    The density of any component is exact wherever it is evaluated, so one step above the trained temperatures is safe.
    With several `operations` (site permutations of the cell's symmetry, (k, n_sites)) the network at `own` is
    symmetrised: a draw is moved by a random one, and its density is the mean over all of them. The hotter one is not:
    it is there for what the other misses, and for half the cost twice the operations serve better (Cu-Au 512, NESS at
    the 5th percentile: 0.63 with 4 operations of both, 0.71 with 8 of one).
    """

    sampler: TrainedSampler
    own: float
    hotter: float
    share: float
    operations: np.ndarray | None = None

    renewals: ClassVar[float] = 1.0
    """Draws of the network that a walker of a repair must take on average for the repair to be reliable.

    Walkers that start in one phase and refuse every draw, since the network knows another one only, agree with each
    other all the same: then nothing connects the two, and log Z is a guess.
    """

    @property
    def model(self) -> EnergyModel:
        """The energy."""
        return self.sampler.model

    @property
    def kt(self) -> float:
        """kT at the condition's own temperature, eV (or J)."""
        return self.model.boltzmann * self.own

    # ---- what two species are to sweeps and repairs -------------------------------------------------------------
    def exchanges(self, decorations: np.ndarray) -> np.ndarray:
        """Return N of ``delta_mu N`` for decorations (batch, n_sites): here the atoms of species 1, (batch,)."""
        return (decorations > 0).sum(1)

    def pull(self, delta_mu: np.ndarray, exchanges: np.ndarray) -> np.ndarray:
        """Return ``delta_mu N``; the arrays are broadcast."""
        return delta_mu * exchanges

    def energy_of(self, decorations: np.ndarray) -> np.ndarray:
        """Return total energies, (batch,), of decorations (batch, n_sites)."""
        return self.model.energy((decorations > 0).astype(np.int8))

    def pack(self, decorations: np.ndarray) -> np.ndarray:
        """Return decorations (..., n_sites) in the form that draws keep them in."""
        return pack_spins(decorations)

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """Return decorations, int8 (..., n_sites), from what `pack` made of them."""
        return unpack_spins(packed, self.model.n_sites)

    def start_chains(self, temperature: np.ndarray, delta_mu: np.ndarray, seed: int) -> Any:
        """Return heat-bath chains of the model, one for each temperature and delta_mu."""
        return make_chains(self.model, temperature, delta_mu, seed)

    def held_by(self, chains: Any) -> np.ndarray:
        """Return the decorations of chains, (n_chains, n_sites)."""
        return chains.spins

    def hand_to(self, chains: Any, decorations: np.ndarray) -> None:
        """Set the decorations of chains, (n_chains, n_sites)."""
        chains.set_spins(decorations)

    def series_of(self, exchanges: np.ndarray) -> list[np.ndarray]:
        """Return each kind of exchange by itself, as series like the energies."""
        return [exchanges]

    def of_exchanges(self, statistics: Statistics, exchanges: np.ndarray) -> Estimates:
        """Return the estimates that depend on N alone: composition, susceptibility, and the shares of compositions."""
        n_sites = self.model.n_sites
        x, x_error = statistics.mean(exchanges / n_sites)
        spread, spread_error = statistics.variance(exchanges.astype(float))
        share, share_error = statistics.shares(exchanges, n_sites + 1)
        return {
            "composition": np.stack([1 - x, x], axis=-1),
            "composition_stderr": np.stack([x_error, x_error], axis=-1),
            "susceptibility": spread / self.kt / n_sites,
            "susceptibility_stderr": spread_error / self.kt / n_sites,
            "composition_log_weight": share,
            "composition_log_weight_stderr": share_error,
        }

    # ---- the mixture ------------------------------------------------------------------------------------------
    def estimates(self, statistics: Statistics, delta_mu: np.ndarray, exchanges: np.ndarray, energy: np.ndarray):
        """Return all estimates but log Z, with errors (conditions on the first axis, samples on the last ones).

        Args:
            statistics: how means and errors are made.
            delta_mu: the conditions, broadcast with `exchanges`.
            exchanges: N of every sample.
            energy: energy of every sample.
        """
        u, u_error = statistics.mean(energy / self.model.n_sites)
        grand, grand_error = statistics.variance(energy - self.pull(delta_mu, exchanges))
        counted = self.of_exchanges(statistics, exchanges)
        return {
            "composition": counted["composition"],
            "composition_stderr": counted["composition_stderr"],
            "energy": u,
            "energy_stderr": u_error,
            "heat_capacity": grand / self.kt**2 / self.model.n_sites,
            "heat_capacity_stderr": grand_error / self.kt**2 / self.model.n_sites,
            **counted,
        }

    def _log_density(self, spins: np.ndarray, source: float, mu: np.ndarray) -> np.ndarray:
        temperature = np.full(len(mu), source)
        if self.operations is None or source != self.own:
            return self.sampler.log_prob(spins, temperature, mu, extrapolate=True)
        terms = np.empty((len(self.operations), len(mu)))
        for k, operation in enumerate(self.operations):
            moved = np.empty_like(spins)
            moved[:, operation] = spins
            terms[k] = self.sampler.log_prob(moved, temperature, mu, extrapolate=True)
        return np.logaddexp.reduce(terms, axis=0) - np.log(len(terms))

    def counts(self, n: int) -> dict[float, int]:
        """Draws of each component among `n`."""
        n_hot = round(self.share * n) if self.hotter > self.own else 0
        return {self.own: n - n_hot, self.hotter: n_hot} if n_hot else {self.own: n}

    def log_weights(
        self, spins: np.ndarray, mu: np.ndarray, energy: np.ndarray, n: int, known: dict[float, np.ndarray]
    ) -> np.ndarray:
        """Return ``log(p/q)`` of decorations under the mixture of `n` draws; `known` holds densities at hand."""
        terms = []
        for source, count in self.counts(n).items():
            log_q = known.get(source)
            terms.append(np.log(count / n) + (self._log_density(spins, source, mu) if log_q is None else log_q))
        return -(energy - self.pull(mu, self.exchanges(spins))) / self.kt - np.logaddexp.reduce(terms, axis=0)

    def draw(self, delta_mu: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return `n` draws of each delta_mu.

        Log weights and energies, each (n_conditions, n), numbers of exchanges between them (of species-1 atoms), and
        the packed decorations (n_conditions, n, bytes).
        """
        parts = []
        for source, number in self.counts(n).items():
            mu = np.repeat(delta_mu, number, axis=0)
            spins, log_q, energy = self.sampler.sample(
                np.full(len(mu), source), mu, int(rng.integers(2**63)), extrapolate=source != self.own
            )
            known = {source: log_q}
            if self.operations is not None and source == self.own:
                # The inverse of a random operation: site i takes the species of the site it moves to.
                chosen = self.operations[rng.integers(0, len(self.operations), len(spins))]
                spins, known = np.take_along_axis(spins, chosen, axis=1), {}
            log_w = self.log_weights(spins, mu, energy, n, known)
            found = (log_w, self.exchanges(spins), energy, self.pack(spins))
            parts.append([a.reshape(len(delta_mu), number, *a.shape[1:]) for a in found])
        return tuple(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))


def choose_operations(sampler: TrainedSampler, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the identity and up to ``n - 1`` other symmetry operations of the cell, (k, n_sites)."""
    cell = getattr(sampler, "cell", None)
    identity = np.arange(sampler.n_sites)[None]
    if n < 2 or cell is None:
        return identity
    point, shifts = cell.point_permutations, cell.translations
    n_all = len(point) * len(shifts)
    chosen = rng.choice(n_all, size=min(n, n_all) - 1, replace=False)
    moved = [shifts[c % len(shifts)][point[c // len(shifts)]] for c in chosen]
    return np.unique(np.concatenate([identity, np.array(moved).reshape(-1, sampler.n_sites)]), axis=0)
