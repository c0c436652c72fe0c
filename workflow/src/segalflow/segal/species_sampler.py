"""A trained sampler of any number of species: decorations with their exact log probability and energy."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from segalflow.energy.base import EnergyModel
from segalflow.energy.potentials import ExchangePotentials, grid_conditions
from segalflow.energy.species_chains import as_site_functions
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell
from segalflow.segal.categorical import log_conditionals
from segalflow.segal.resources import MEMORY_MB, device_of, in_parts
from segalflow.segal.species_features import ConditionBox, PastTerms, past_terms


@dataclass(eq=False)
class SpeciesSampler:
    """A categorical network with the Hamiltonian, cell and conditions it belongs to.

    Attributes:
        model: energy of the cell, of any kind.
        cell: the cell.
        network: a module of `segalflow.segal.categorical.SPECIES_NETWORKS`.
        domain: the trained range of conditions.
        grid: temperatures and the delta_mu of every exchange it was trained on.
        settings: network and training settings, seed.
        history: training history.
        memory_mb: bound on the working memory of one pass, MB; larger batches go in parts.
        extrapolate: serve conditions outside the trained domain too (SNIS marks them); False refuses them.
    """

    model: EnergyModel
    cell: Supercell
    network: torch.nn.Module
    domain: ConditionBox
    grid: tuple[np.ndarray, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    memory_mb: float = MEMORY_MB
    extrapolate: bool = False

    @functools.cached_property
    def potentials(self) -> ExchangePotentials:
        """The exchanges of the cell."""
        return ExchangePotentials.of(self.cell)

    @functools.cached_property
    def terms(self) -> PastTerms | None:
        """The past energies, or None for a model of total energies alone."""
        functions = as_site_functions(self.model)
        return None if functions is None else past_terms(functions)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self.model.n_sites

    def conditions(self) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
        """Return the shape of the grid, its temperatures (n,) and its delta_mu (n, n_exchanges)."""
        return tuple(len(axis) for axis in self.grid), *grid_conditions(self.grid[0], self.grid[1:])

    def reduced_energy(
        self, occupations: np.ndarray, energy: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray
    ) -> np.ndarray:
        """Return ``(U - sum of delta_mu N)/kT``, (batch,)."""
        pull = (delta_mu * self.potentials.counts(occupations)).sum(axis=1)
        return (energy - pull) / (self.model.boltzmann * temperature)

    def sample(
        self, temperature: np.ndarray, delta_mu: np.ndarray, seed: int, extrapolate: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw one decoration per condition in one pass over the sites.

        Args:
            temperature: shape (batch,).
            delta_mu: shape (batch, n_exchanges).
            seed: seed of the draws.
            extrapolate: allow conditions outside the trained domain.

        Returns:
            Occupations, int8 (batch, n_sites), their log probabilities and energies, float64 (batch,).

        Raises:
            SamplingError: for a condition outside the trained domain.
        """
        temperature, delta_mu = self._checked(temperature, delta_mu, extrapolate)
        uniform = np.random.default_rng(seed).random((len(temperature), self.n_sites))
        occupations = np.empty(uniform.shape, dtype=np.int8)
        width, device = self.potentials.column.shape[1], device_of(self.network)

        def work(part: slice) -> None:
            chance = torch.from_numpy(uniform[part]).float().to(device)
            nothing = torch.zeros(len(chance), width, 0, device=device)
            values = None if self.terms is None else self.terms.values(np.zeros(chance.shape, dtype=np.int64))

            def energies_at(site: int) -> torch.Tensor:
                if values is None:
                    return nothing
                found = np.zeros((len(chance), 1, width, self.terms.n_classes), dtype=np.float32)
                self.terms.add(values, site, site + 1, found)
                return torch.from_numpy(found[:, 0]).to(device)

            def place(site: int, species: torch.Tensor) -> None:
                if values is not None:
                    self.terms.place(values, site, species.cpu().numpy())

            inputs = self._inputs(temperature[part], delta_mu[part])
            occupations[part] = self.network.draw(chance, energies_at, place, *inputs).cpu().numpy()

        with torch.no_grad():
            in_parts(work, len(uniform), self.network.bytes_per_decoration, self.memory_mb)
        log_p = self.log_prob(occupations, temperature, delta_mu, extrapolate)
        return occupations, log_p, np.asarray(self.model.energy(occupations), dtype=float)

    def log_prob(
        self, occupations: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray, extrapolate: bool = False
    ) -> np.ndarray:
        """Return the log probability, float64 (batch,), of given occupations, integers (batch, n_sites).

        Raises:
            SamplingError: for a condition outside the trained domain.
        """
        temperature, delta_mu = self._checked(temperature, delta_mu, extrapolate)
        occupations, log_p = np.asarray(occupations, dtype=np.int64), np.empty(len(temperature))

        def work(part: slice) -> None:
            held, logits = self.logits(occupations[part], temperature[part], delta_mu[part])
            log_p[part] = log_conditionals(logits, held).sum(dim=1).cpu().numpy()

        with torch.no_grad():
            in_parts(work, len(log_p), self.network.bytes_per_decoration, self.memory_mb)
        return log_p

    def logits(
        self, occupations: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return occupations and all logits, (batch, n_sites[, max_species]), on the network's device."""
        held = torch.from_numpy(np.asarray(occupations, dtype=np.int64)).to(device_of(self.network))
        if self.terms is None:
            energies = torch.zeros(*held.shape, self.potentials.column.shape[1], 0, device=held.device)
        else:
            energies = torch.from_numpy(self.terms.evaluate(np.asarray(occupations, dtype=np.int64))).to(held.device)
        return held, self.network.logits(held, energies, *self._inputs(temperature, delta_mu))

    def _inputs(self, temperature: np.ndarray, delta_mu: np.ndarray) -> tuple[torch.Tensor, ...]:
        beta = 1.0 / (self.model.boltzmann * temperature)
        values = (beta, self.potentials.on_sites(delta_mu), self.domain.encode(temperature, delta_mu))
        return tuple(torch.from_numpy(value.astype(np.float32)).to(device_of(self.network)) for value in values)

    def _checked(
        self, temperature: np.ndarray, delta_mu: np.ndarray, extrapolate: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        temperature = np.atleast_1d(temperature).astype(float)
        delta_mu = self.potentials.check(delta_mu, len(temperature))
        inside = self.domain.contains(temperature, delta_mu)
        if not (extrapolate or self.extrapolate) and not inside.all():
            worst = int(np.flatnonzero(~inside)[0])
            raise SamplingError(
                f"condition T = {temperature[worst]:g}, delta_mu = {delta_mu[worst].tolist()} is outside the trained "
                f"domain (T {self.domain.temperature}, delta_mu {self.domain.delta_mu}); train on it, or set "
                "segal.extrapolate"
            )
        return temperature, delta_mu
