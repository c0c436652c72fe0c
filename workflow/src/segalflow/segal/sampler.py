"""A trained sampler: decorations with their exact log probability and energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell
from segalflow.segal.features import ConditionRange, PastFields, evaluate_past_fields
from segalflow.segal.kernels import run_pass
from segalflow.segal.network import PhysicsNetwork


def seed_states(seed: int, n: int) -> np.ndarray:
    """Return `n` independent 64-bit generator states, uint64, from a seed."""
    return np.random.SeedSequence(seed).generate_state(n, np.uint64)


@dataclass(eq=False)
class TrainedSampler:
    """A network with the Hamiltonian, cell and conditions it belongs to.

    Attributes:
        model: energy of the cell.
        cell: the cell.
        network: a module of `segalflow.segal.network.NETWORKS`.
        fields: tables of the past fields.
        domain: the trained range of conditions.
        grid: (temperatures, delta_mu) it was trained on.
        settings: network and training settings, seed.
        history: training history (step, loss, ness, energy_evaluations, ...).
    """

    model: EnergyModel
    cell: Supercell
    network: torch.nn.Module
    fields: PastFields
    domain: ConditionRange
    grid: tuple[np.ndarray, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self.model.n_sites

    def _check(self, temperature: np.ndarray, delta_mu: np.ndarray, extrapolate: bool) -> None:
        inside = self.domain.contains(temperature, delta_mu)
        if not extrapolate and not np.all(inside):
            worst = int(np.flatnonzero(~inside)[0])
            raise SamplingError(
                f"condition T = {temperature[worst]:g}, delta_mu = {delta_mu[worst]:g} is outside the trained domain "
                f"(T {self.domain.temperature}, delta_mu {self.domain.delta_mu}); train on it, or allow extrapolation"
            )

    def sample(
        self, temperature: np.ndarray, delta_mu: np.ndarray, seed: int, extrapolate: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw one decoration per condition.

        Args:
            temperature, delta_mu: shape (batch,).
            seed: seed of the draws; the same seed gives the same decorations.
            extrapolate: allow conditions outside the trained domain.

        Returns:
            Spins, int8 (batch, n_sites), their log probabilities and energies, float64 (batch,).

        Raises:
            SamplingError: for a condition outside the trained domain.
        """
        temperature, delta_mu = np.atleast_1d(temperature).astype(float), np.atleast_1d(delta_mu).astype(float)
        self._check(temperature, delta_mu, extrapolate)
        spins = np.empty((len(temperature), self.n_sites), dtype=np.int8)
        log_p, energy = _runner(self)(True, spins, temperature, delta_mu, seed_states(seed, len(temperature)))
        return spins, log_p, energy

    def log_prob(
        self, spins: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray, extrapolate: bool = False
    ) -> np.ndarray:
        """Return the log probability, float64 (batch,), of given spins, int8 (batch, n_sites), at given conditions."""
        temperature, delta_mu = np.atleast_1d(temperature).astype(float), np.atleast_1d(delta_mu).astype(float)
        self._check(temperature, delta_mu, extrapolate)
        spins = np.ascontiguousarray(spins, dtype=np.int8)
        log_p, _ = _runner(self)(False, spins, temperature, delta_mu, np.zeros(len(spins), dtype=np.uint64))
        return log_p


def _energies(model: EnergyModel, spins: np.ndarray) -> np.ndarray:
    return np.asarray(model.energy((spins > 0).astype(np.int8)), dtype=float)


def _runner(sampler: TrainedSampler):
    return _run_physics(sampler) if isinstance(sampler.network, PhysicsNetwork) else _run_any(sampler)


def _conditions(sampler: TrainedSampler, temperature: np.ndarray, delta_mu: np.ndarray):
    """Return the distinct conditions' encodings and each sample's row among them."""
    pairs, row = np.unique(np.stack([temperature, delta_mu], axis=1), axis=0, return_inverse=True)
    # A copy lies in PyTorch's aligned memory: matrix products round differently at other alignments.
    return torch.from_numpy(sampler.domain.encode(pairs[:, 0], pairs[:, 1])).clone(), row.ravel().astype(np.int64)


def _run_physics(sampler: TrainedSampler):
    network, fields = sampler.network, sampler.fields
    # The kernel sums the energy of a polynomial on its way; any other is asked once the decorations are there.
    summed = isinstance(sampler.model, SpinPolynomial)

    def run(draw, spins, temperature, delta_mu, states):
        with torch.no_grad():
            encoded, row = _conditions(sampler, temperature, delta_mu)
            film, site_bias = (t.numpy() for t in network.cpu().modulation(encoded))
            w = {k: p.detach().numpy() for k, p in network.named_parameters()}
        log_p, energy = np.empty(len(spins)), np.empty(len(spins))
        run_pass(
            draw, spins, states, 1.0 / (sampler.model.boltzmann * temperature), delta_mu, row,
            np.ascontiguousarray(film), np.ascontiguousarray(site_bias), network.starts.numpy(), network.seen.numpy(),
            network.displacement.numpy(), fields.n_classes,
            fields.rows(), fields.groups, fields.totals, fields.model.constant + float(fields.totals.base[0]),
            w["w1"], w["v"], w["b1"], w["w2"], w["b2"], w["u_site"] + w["u"], w["c_site"], w["bias"], log_p, energy,
        )  # fmt: skip
        return log_p, energy if summed or not draw else _energies(sampler.model, spins)

    return run


def torch_logits(sampler: TrainedSampler, spins: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray):
    """Return all logits by the network itself, float tensor (batch, n_sites): the twin of the fast kernel."""
    beta = torch.from_numpy((1.0 / (sampler.model.boltzmann * temperature)).astype(np.float32))
    used = sampler.network.uses_fields
    fields = evaluate_past_fields(sampler.fields, spins) if used else np.empty((*spins.shape, 0), np.float32)
    return sampler.network.logits(
        torch.from_numpy(spins.astype(np.float32)),
        torch.from_numpy(fields),
        beta,
        torch.from_numpy(delta_mu.astype(np.float32)),
        torch.from_numpy(sampler.domain.encode(temperature, delta_mu)),
    )


def log_prob_from_logits(logits: torch.Tensor, spins: np.ndarray) -> np.ndarray:
    """Return the sum of log conditionals, float64 (batch,)."""
    signed = logits.double() * torch.from_numpy(spins.astype(np.float64))
    return torch.nn.functional.logsigmoid(signed).sum(1).numpy()


def _run_any(sampler: TrainedSampler):
    """Any network: drawn by itself where it can, else with one forward pass per site; one pass to score."""

    def run(draw, spins, temperature, delta_mu, states):
        with torch.no_grad():
            uniform = np.random.default_rng(states).random(spins.shape) if draw else None
            if draw and hasattr(sampler.network, "draw"):
                condition = torch.from_numpy(sampler.domain.encode(temperature, delta_mu))
                spins[:] = sampler.network.draw(torch.from_numpy(uniform.astype(np.float32)), condition).numpy()
            elif draw:
                spins[:] = 1
                for i in range(spins.shape[1]):
                    p = torch.sigmoid(torch_logits(sampler, spins, temperature, delta_mu)[:, i].double()).numpy()
                    spins[:, i] = np.where(uniform[:, i] < p, 1, -1)
            log_p = log_prob_from_logits(torch_logits(sampler, spins, temperature, delta_mu), spins)
        # A score needs no energy, and energies may be what costs.
        return log_p, _energies(sampler.model, spins) if draw else np.full(len(spins), np.nan)

    return run
