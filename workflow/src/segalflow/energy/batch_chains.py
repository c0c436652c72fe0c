"""Markov chains of any binary energy model: all chains visit one site, and one batch of energies serves them all.

What `LockstepChains` does for spin polynomials, for models that know only total energies: a flip costs one energy
(that of the flipped decoration), a sweep n_sites of them a chain.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from segalflow.energy.base import EnergyModel
from segalflow.energy.lockstep import RULES, LockstepChains
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.errors import SamplingError, suggest


class BatchChains:
    """Chains of one model in lock step; the interface is that of `LockstepChains`.

    A sweep visits every site once in a random order shared by all chains.

    Args:
        model: the energy; one with ``fields_at`` (`CompositionPolynomial`) is asked for fields, others for energies.
        temperature: shape (n_chains,), K (or J/k_B).
        delta_mu: shape (n_chains,), eV (or J).
        seed: any integer; same seed, same bytes.
        rule: a key of `RULES`.

    Raises:
        SamplingError: for an unknown rule, a model that is not binary, shapes that differ, or a temperature that is not
            positive.
    """

    def __init__(
        self, model: EnergyModel, temperature: np.ndarray, delta_mu: np.ndarray, seed: int, rule: str = "heat_bath"
    ) -> None:
        if rule not in RULES:
            raise SamplingError(
                f"unknown acceptance rule '{rule}', expected one of {', '.join(RULES)}{suggest(rule, RULES)}"
            )
        if np.any(np.asarray(model.n_species) != 2):
            raise SamplingError("chains: expected two species on every site")
        self.model, self.rule = model, rule
        self.n_chains = int(np.size(temperature))
        if self.n_chains == 0:
            raise SamplingError("chains: no temperatures were given")
        # Only doubles are drawn, so the four words of this generator are its whole state.
        self._rng = np.random.Generator(np.random.SFC64(seed % 2**64))
        self.energy_evaluations = 0
        self._spins = np.full((self.n_chains, model.n_sites), -1, dtype=np.int8)
        self._energy: np.ndarray | None = None
        self.set_conditions(temperature, delta_mu)

    # ---- conditions -------------------------------------------------------------------------------------------
    def set_conditions(self, temperature: np.ndarray, delta_mu: np.ndarray) -> None:
        """Give every chain its temperature and delta_mu, shape (n_chains,) each; an infinite temperature is allowed."""
        temperature, delta_mu = (np.atleast_1d(np.asarray(v, float)) for v in (temperature, delta_mu))
        if temperature.shape != (self.n_chains,) or delta_mu.shape != (self.n_chains,):
            raise SamplingError(
                f"chains: expected {self.n_chains} temperatures and delta_mu, "
                f"found shapes {temperature.shape} and {delta_mu.shape}"
            )
        if not np.all(temperature > 0) or not np.all(np.isfinite(delta_mu)):
            raise SamplingError("chains: expected positive temperatures and finite delta_mu")
        self.temperature, self.delta_mu = temperature.copy(), delta_mu.copy()
        self._beta = 1.0 / (self.model.boltzmann * self.temperature)

    # ---- decorations ------------------------------------------------------------------------------------------
    @property
    def spins(self) -> np.ndarray:
        """All decorations as +-1, int8 (n_chains, n_sites); a copy."""
        return self._spins.copy()

    @property
    def negative(self) -> np.ndarray:
        """Which spins are -1, uint8 (n_chains, n_sites)."""
        return (self._spins < 0).astype(np.uint8)

    def set_spins(self, spins: np.ndarray) -> None:
        """Set all decorations from +-1, shape (n_chains, n_sites)."""
        spins = np.asarray(spins)
        if spins.shape != self._spins.shape or not np.all(np.abs(spins) == 1):
            raise SamplingError(f"chains: expected +-1 spins of shape {self._spins.shape}, found shape {spins.shape}")
        self._spins = np.ascontiguousarray(spins, dtype=np.int8)
        self._energy = None

    def n_plus(self) -> np.ndarray:
        """Return the number of +1 spins (species 1) of every chain, int64 (n_chains,)."""
        return (self._spins > 0).sum(axis=1)

    # ---- energies ---------------------------------------------------------------------------------------------
    def _energies_of(self, spins: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.energy((spins > 0).astype(np.int8)), dtype=float)

    def energies(self) -> np.ndarray:
        """Return total energies U, float64 (n_chains,)."""
        if self._energy is None:
            self._energy = self._energies_of(self._spins)
        return self._energy.copy()

    def local_fields(self) -> np.ndarray:
        """Return h with ``U = s_i h_i + rest``, float32 (n_chains, n_sites)."""
        if hasattr(self.model, "local_fields"):
            return self.model.local_fields(self._spins).astype(np.float32)
        columns = [self._flipped(site)[0] for site in range(self.model.n_sites)]
        return np.stack(columns, axis=1).astype(np.float32)

    def _flipped(self, site: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Fields at a site, (n_chains,), and the energies with it flipped where they are at hand."""
        if hasattr(self.model, "fields_at"):
            return self.model.fields_at(self._spins, site), None
        spins = self._spins.copy()
        spins[:, site] *= -1
        after = self._energies_of(spins)
        return self._spins[:, site] * (self.energies() - after) / 2, after

    # ---- moves ------------------------------------------------------------------------------------------------
    def sweep(self, n: int = 1) -> np.ndarray:
        """Do `n` sweeps (every site visited once each) and return the accepted fraction, (n_chains,)."""
        accepted = np.zeros(self.n_chains)
        for _ in range(n):
            for site in np.argsort(self._rng.random(self.model.n_sites)):
                field, after = self._flipped(site)
                # exp(-cost) is the weight of the flipped decoration over that of the present one.
                cost = self._beta * self._spins[:, site] * (self.delta_mu - 2 * field)
                chance = expit(-cost) if RULES[self.rule] else np.exp(-np.maximum(cost, 0.0))
                flips = self._rng.random(self.n_chains) < chance
                self._spins[flips, site] *= -1
                self._energy = None if after is None else np.where(flips, after, self.energies())
                accepted += flips
        self.energy_evaluations += n * self.model.n_sites * self.n_chains
        return accepted / max(n * self.model.n_sites, 1)

    def swap(self, first: np.ndarray, second: np.ndarray) -> None:
        """Swap the decorations of chains ``first[k]`` and ``second[k]``."""
        first, second = np.asarray(first, np.int64), np.asarray(second, np.int64)
        for values in (self._spins, self._energy):
            if values is not None:
                values[first], values[second] = values[second], values[first]

    # ---- resuming ---------------------------------------------------------------------------------------------
    def state(self) -> dict[str, np.ndarray]:
        """Return everything a continued run needs, as plain arrays (inverse: `restore`)."""
        return {
            "negative": self.negative,
            "generator": self._rng.bit_generator.state["state"]["state"].copy(),
            "temperature": self.temperature.copy(),
            "delta_mu": self.delta_mu.copy(),
            "energy": self.energies(),
            "energy_evaluations": np.array(self.energy_evaluations),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state`: the following sweeps give the same bytes as an uninterrupted run.

        Raises:
            SamplingError: if the state belongs to chains of another number or size.
        """
        if state["negative"].shape != self._spins.shape or "generator" not in state:
            raise SamplingError(
                f"chain state: expected {self.n_chains} chains of {self.model.n_sites} sites, "
                f"found {state['negative'].shape}"
            )
        self.set_conditions(state["temperature"], state["delta_mu"])
        self.set_spins(1 - 2 * state["negative"].astype(np.int8))
        self._energy = np.array(state["energy"], dtype=float)
        generator = self._rng.bit_generator.state
        generator["state"]["state"] = np.asarray(state["generator"], dtype=np.uint64)
        self._rng.bit_generator.state = generator
        self.energy_evaluations = int(state["energy_evaluations"])


Chains = LockstepChains | BatchChains


def make_chains(
    model: EnergyModel, temperature: np.ndarray, delta_mu: np.ndarray, seed: int, rule: str = "heat_bath"
) -> Chains:
    """Return the fastest chains that serve a model: `LockstepChains` for spin polynomials, else `BatchChains`."""
    chosen = LockstepChains if isinstance(model, SpinPolynomial) else BatchChains
    return chosen(model, temperature, delta_mu, seed, rule)
