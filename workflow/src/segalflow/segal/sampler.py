"""A trained sampler: decorations with their exact log probability and energy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell
from segalflow.segal.features import ConditionRange, PastFields, evaluate_energies, evaluate_past_fields
from segalflow.segal.kernels import run_pass
from segalflow.segal.network import PhysicsNetwork
from segalflow.segal.recorded import RecordedDraw
from segalflow.segal.resources import MEMORY_MB, device_of, in_parts
from segalflow.segal.torch_fields import TorchFields


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
        memory_mb: bound on the working memory of one pass in PyTorch, MB; larger batches go in parts.
        order: the sites in the order of their placement, which the network and `fields` count in; None: the cell's own.
        extrapolate: serve conditions outside the trained domain too (SNIS marks them); False refuses them.
    """

    model: EnergyModel
    cell: Supercell
    network: torch.nn.Module
    fields: PastFields
    domain: ConditionRange
    grid: tuple[np.ndarray, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    memory_mb: float = MEMORY_MB
    extrapolate: bool = False
    order: np.ndarray | None = None

    def placed(self, values: np.ndarray) -> np.ndarray:
        """Return values of sites, (batch, n_sites, ...), in the order of placement (the network's)."""
        return values if self.order is None else np.take(values, self.order, axis=1)

    def by_site(self, values: np.ndarray) -> np.ndarray:
        """Return values in the order of placement, (batch, n_sites, ...), in the cell's order."""
        return values if self.order is None else np.take(values, np.argsort(self.order), axis=1)

    @functools.cached_property
    def torch_fields(self) -> TorchFields:
        """The tables of the past fields on the device of the network."""
        return TorchFields(self.fields).to(device_of(self.network))

    @functools.cached_property
    def torch_draw(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        """``draw`` of the network with its fields, recorded where it is on a GPU."""
        fields_at = self.torch_fields.at if self.network.uses_fields else None
        if device_of(self.network).type == "cuda":
            return RecordedDraw(self.network, fields_at)
        return lambda uniform, *conditions: self.network.draw(uniform, fields_at, *conditions)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self.model.n_sites

    def conditions(self) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        """Return the shape of the grid and the temperature and delta_mu of all its conditions, each (n,)."""
        temperature, delta_mu = self.grid
        shape = (len(temperature), len(delta_mu))
        return shape, np.repeat(temperature, len(delta_mu)), np.tile(delta_mu, len(temperature))

    def reduced_energy(
        self, spins: np.ndarray, energy: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray
    ) -> np.ndarray:
        """Return ``(U - dmu N)/kT`` of spins (batch, n_sites) with their energies, all other shapes (batch,)."""
        return (energy - delta_mu * (spins > 0).sum(1)) / (self.model.boltzmann * temperature)

    def _check(self, temperature: np.ndarray, delta_mu: np.ndarray, extrapolate: bool) -> None:
        inside = self.domain.contains(temperature, delta_mu)
        if not (extrapolate or self.extrapolate) and not np.all(inside):
            worst = int(np.flatnonzero(~inside)[0])
            raise SamplingError(
                f"condition T = {temperature[worst]:g}, delta_mu = {delta_mu[worst]:g} is outside the trained domain "
                f"(T {self.domain.temperature}, delta_mu {self.domain.delta_mu}); train on it, or set segal.extrapolate"
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
        return self.by_site(spins), log_p, energy

    def log_prob(
        self, spins: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray, extrapolate: bool = False
    ) -> np.ndarray:
        """Return the log probability, float64 (batch,), of given spins, int8 (batch, n_sites), at given conditions."""
        temperature, delta_mu = np.atleast_1d(temperature).astype(float), np.atleast_1d(delta_mu).astype(float)
        self._check(temperature, delta_mu, extrapolate)
        spins = np.ascontiguousarray(self.placed(spins), dtype=np.int8)
        log_p, _ = _runner(self)(False, spins, temperature, delta_mu, np.zeros(len(spins), dtype=np.uint64))
        return log_p


def _energies(sampler: TrainedSampler, placed: np.ndarray) -> np.ndarray:
    if isinstance(sampler.model, SpinPolynomial):
        return evaluate_energies(sampler.fields, placed)
    return np.asarray(sampler.model.energy((sampler.by_site(placed) > 0).astype(np.int8)), dtype=float)


def _runner(sampler: TrainedSampler):
    fused = isinstance(sampler.network, PhysicsNetwork) and device_of(sampler.network).type == "cpu"
    return _run_physics(sampler) if fused else _run_torch(sampler)


def _conditions(sampler: TrainedSampler, temperature: np.ndarray, delta_mu: np.ndarray):
    """Return the distinct conditions' encodings and each sample's row among them."""
    pairs = np.stack([temperature, delta_mu], axis=1)
    # Equal conditions mostly come in runs: sorting one of each costs next to nothing.
    begins = np.ones(len(pairs), dtype=bool)
    begins[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    pairs, number = np.unique(pairs[begins], axis=0, return_inverse=True)
    row = number.ravel()[np.cumsum(begins) - 1]
    # A copy lies in PyTorch's aligned memory: matrix products round differently at other alignments.
    return torch.from_numpy(sampler.domain.encode(pairs[:, 0], pairs[:, 1])).clone(), row.astype(np.int64)


def _run_physics(sampler: TrainedSampler):
    network, fields = sampler.network, sampler.fields
    # The kernel sums the energy of a polynomial on its way; any other is asked once the decorations are there.
    summed = isinstance(sampler.model, SpinPolynomial)

    def run(draw, spins, temperature, delta_mu, states):
        with torch.no_grad():
            encoded, row = _conditions(sampler, temperature, delta_mu)
            film, site_bias = (t.numpy() for t in network.modulation(encoded))
            parameters = {**dict(network.named_parameters()), **network.by_site()}
            w = {name: values.detach().numpy() for name, values in parameters.items()}
        log_p, energy = np.empty(len(spins)), np.empty(len(spins))
        run_pass(
            draw, spins, states, 1.0 / (sampler.model.boltzmann * temperature), delta_mu, row,
            np.ascontiguousarray(film), np.ascontiguousarray(site_bias), network.starts.numpy(), network.seen.numpy(),
            network.displacement.numpy(), fields.n_classes,
            fields.rows(), fields.groups, fields.totals, fields.model.constant + float(fields.totals.base[0]),
            w["w1"], w["v"], w["b1"], w["w2"], w["b2"], w["u_site"] + w["u"], w["c_site"], w["bias"], log_p, energy,
        )  # fmt: skip
        return log_p, energy if summed or not draw else _energies(sampler, spins)

    return run


def _inputs(sampler: TrainedSampler, temperature: np.ndarray, delta_mu: np.ndarray) -> tuple[torch.Tensor, ...]:
    """beta, delta_mu and the encoded condition on the network's device."""
    beta = 1.0 / (sampler.model.boltzmann * temperature)
    values = (beta, delta_mu, sampler.domain.encode(temperature, delta_mu))
    return tuple(to_device(sampler.network, value) for value in values)


def to_device(network: torch.nn.Module, values: np.ndarray) -> torch.Tensor:
    """Return an array in single precision on the device of a network."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device_of(network))


def fields_in_torch(sampler: TrainedSampler, spins: np.ndarray) -> torch.Tensor:
    """Return what the network uses of the past fields, (batch, n_sites, n_classes or 0), on its device."""
    device = device_of(sampler.network)
    if not sampler.network.uses_fields:
        return torch.empty(*spins.shape, 0, device=device)
    if device.type == "cpu":
        return torch.from_numpy(evaluate_past_fields(sampler.fields, spins))
    return sampler.torch_fields(to_device(sampler.network, spins))


def torch_logits(sampler: TrainedSampler, spins: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray):
    """Return all logits by the network itself, float tensor (batch, n_sites): the twin of the fast kernel.

    Spins and logits are in the order of placement (`TrainedSampler.placed`).
    """
    signs, fields = to_device(sampler.network, spins), fields_in_torch(sampler, spins)
    return sampler.network.logits(signs, fields, *_inputs(sampler, temperature, delta_mu))


def log_prob_from_logits(logits: torch.Tensor, spins: np.ndarray) -> np.ndarray:
    """Return the sum of log conditionals, float64 (batch,)."""
    signed = logits.double() * torch.from_numpy(spins.astype(np.float64)).to(logits.device)
    return torch.nn.functional.logsigmoid(signed).sum(1).cpu().numpy()


def _run_torch(sampler: TrainedSampler):
    """Any network on any device, in parts that fit the memory; a draw is scored by the logits it was drawn with."""

    def run(draw, spins, temperature, delta_mu, states):
        uniform = np.random.default_rng(states).random(spins.shape) if draw else None
        log_p = np.empty(len(spins))

        def work(part: slice) -> None:
            t, mu = temperature[part], delta_mu[part]
            if draw:
                chance = to_device(sampler.network, uniform[part])
                found, logits = sampler.torch_draw(chance, *_inputs(sampler, t, mu))
                spins[part] = found.cpu().numpy()
            else:
                logits = torch_logits(sampler, spins[part], t, mu)
            log_p[part] = log_prob_from_logits(logits, spins[part])

        with torch.no_grad():
            network = sampler.network
            needs = network.bytes_per_draw if draw else network.bytes_per_decoration
            in_parts(work, len(spins), needs, sampler.memory_mb)
        # A score needs no energy, and energies may be what costs.
        return log_p, _energies(sampler, spins) if draw else np.full(len(spins), np.nan)

    return run
