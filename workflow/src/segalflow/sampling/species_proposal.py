"""The proposal of importance sampling for any number of species and sublattices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segalflow.energy.potentials import ExchangePotentials
from segalflow.energy.species_chains import SpeciesChains, make_species_chains
from segalflow.sampling.estimators import Estimates, Statistics
from segalflow.sampling.proposal import MixtureProposal


@dataclass(frozen=True)
class SpeciesProposal(MixtureProposal):
    """`MixtureProposal` of a `SpeciesSampler`: conditions, N and their series have an axis of exchanges at the end."""

    @property
    def potentials(self) -> ExchangePotentials:
        """The exchanges of the cell."""
        return self.sampler.potentials

    def exchanges(self, decorations: np.ndarray) -> np.ndarray:
        """Return how often every exchange was made, (batch, n_exchanges)."""
        return self.potentials.counts(decorations)

    def pull(self, delta_mu: np.ndarray, exchanges: np.ndarray) -> np.ndarray:
        """Return the sum of ``delta_mu N`` over the exchanges."""
        return (delta_mu * exchanges).sum(axis=-1)

    def energy_of(self, decorations: np.ndarray) -> np.ndarray:
        """Return total energies, (batch,), of occupations (batch, n_sites)."""
        return np.asarray(self.model.energy(decorations), dtype=float)

    def pack(self, decorations: np.ndarray) -> np.ndarray:
        """Return occupations as they are: one byte a site."""
        return decorations

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """Return occupations as they are."""
        return packed

    def start_chains(self, temperature: np.ndarray, delta_mu: np.ndarray, seed: int) -> SpeciesChains:
        """Return heat-bath chains, one for each temperature and row of delta_mu, (n_chains, n_exchanges)."""
        return make_species_chains(self.model, self.potentials, temperature, delta_mu, seed)

    def held_by(self, chains: SpeciesChains) -> np.ndarray:
        """Return the occupations of chains, (n_chains, n_sites)."""
        return chains.occupations

    def hand_to(self, chains: SpeciesChains, decorations: np.ndarray) -> None:
        """Set the occupations of chains, (n_chains, n_sites)."""
        chains.set_occupations(decorations)

    def series_of(self, exchanges: np.ndarray) -> list[np.ndarray]:
        """Return each exchange's numbers by themselves."""
        return list(np.moveaxis(exchanges, -1, 0))

    def of_exchanges(self, statistics: Statistics, exchanges: np.ndarray) -> Estimates:
        """Return the composition by element, (n_mu, n_elements), and the susceptibilities, (n_mu, k, k), with errors.

        Entry (a, b) is the derivative of the fraction of exchange a by the chemical potential of exchange b.
        """
        n_sites, series = self.model.n_sites, self.series_of(exchanges.astype(float))
        elements = np.moveaxis(self.potentials.composition_of(exchanges), -1, 0)
        x = [statistics.mean(values) for values in elements]
        matrix = np.empty((2, len(exchanges), len(series), len(series)))
        for a, first in enumerate(series):
            matrix[..., a, a] = statistics.variance(first)
            for b, second in enumerate(series[:a]):
                matrix[..., a, b] = matrix[..., b, a] = statistics.covariance(first, second)
        susceptibility, error = matrix / (self.kt * n_sites)
        return {
            "composition": np.stack([value for value, _ in x], axis=-1),
            "composition_stderr": np.stack([error for _, error in x], axis=-1),
            "susceptibility": susceptibility,
            "susceptibility_stderr": error,
        }
