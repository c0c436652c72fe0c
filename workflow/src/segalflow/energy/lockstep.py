"""Many chains of one binary system advanced in lock step: all visit the same site in the same step.

Chains share the geometry, so every neighbour look-up and every vector instruction serves a whole row of them; each
has its own temperature and chemical potential. A shared site sequence leaves every chain's stationary distribution
alone and the chains independent given the sequence.
"""

from __future__ import annotations

import math

import numpy as np

from segalflow.energy import bitslice, kernels
from segalflow.energy.groups import GroupTable, energy_groups, site_groups
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.errors import SamplingError, suggest

RULES = {"metropolis": False, "heat_bath": True}
"""Acceptance rules and whether they are the heat bath: flips by min(1, e^-d) or by 1/(1+e^d), d = change/kT."""

MAX_LANES = 256
"""Chains in a block of bytes: 256 bytes a site keep a 128-site block and its neighbours in the first-level cache."""
MAX_SLICED_LANES = 1024
"""Chains in a block of bits: a site's list of monomials is read once for all of them."""
MAX_IDLE = 0.35
"""Bits are used where padding to whole vectors leaves at most this share of them idle, relative to the chains."""


def _pays_to_slice(model: SpinPolynomial, n_chains: int) -> bool:
    """Whether bits count faster than bytes: enough chains to fill the vectors, and products it has code for."""
    idle = -n_chains % bitslice.CHUNK
    return model.max_order <= bitslice.MAX_OTHERS and idle <= MAX_IDLE * n_chains


def with_factor(table: GroupTable, factor: np.ndarray, base: np.ndarray) -> kernels.Groups:
    """Groups as the kernels take them: factors and site constants in the precision they are used in."""
    return kernels.Groups(
        table.start, table.n_others, table.n_packs, table.position, factor, base.astype(factor.dtype), table.index
    )


def seed_states(seed: int, n_generators: int) -> np.ndarray:
    """Return xoshiro256++ states, uint64 (4, n_generators), from SplitMix64 started at `seed` (Blackman & Vigna)."""
    with np.errstate(over="ignore"):
        counter = np.arange(1, 4 * n_generators + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = counter + np.uint64(seed % 2**64) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.ascontiguousarray(z.reshape(n_generators, 4).T)


def energy_counting(model: SpinPolynomial, pack: int) -> kernels.Groups:
    """Return the groups of all monomials with their factors, for exact total energies by counting."""
    totals = energy_groups(model, pack)
    return with_factor(totals, -2.0 * totals.coefficient, totals.base)


class LockstepChains:
    """Chains of one spin polynomial in lock step.

    A sweep visits every site once in a shuffled order shared by all chains. A sweep with a given order leaves the
    distribution of every chain unchanged (balance); single steps obey detailed balance. Fields are float32 (relative
    rounding about 1e-7); energies are exact sums of integer counts. Uniform numbers have 24 bits, so acceptance
    probabilities are resolved to 6e-8. The heat bath is the default: with acceptances near 1 (high temperature) a
    Metropolis sweep flips nearly every spin and hardly forgets the decoration.

    Args:
        model: the energy.
        temperature: shape (n_chains,), K (or J/k_B).
        delta_mu: shape (n_chains,), eV (or J).
        seed: any integer; same seed, same bytes.
        rule: a key of `RULES`.

    Raises:
        SamplingError: for an unknown rule, shapes that differ, or a temperature that is not positive.
    """

    def __init__(
        self, model: SpinPolynomial, temperature: np.ndarray, delta_mu: np.ndarray, seed: int, rule: str = "heat_bath"
    ) -> None:
        if rule not in RULES:
            raise SamplingError(
                f"unknown acceptance rule '{rule}', expected one of {', '.join(RULES)}{suggest(rule, RULES)}"
            )
        self.model, self.rule = model, rule
        self.n_chains = int(np.size(temperature))
        if self.n_chains == 0:
            raise SamplingError("lock-step chains: no temperatures were given")
        self._sliced = _pays_to_slice(model, self.n_chains)
        unit, most = (bitslice.CHUNK, MAX_SLICED_LANES) if self._sliced else (32, MAX_LANES)
        self._blocks = -(-self.n_chains // most)
        self._lanes = unit * -(-self.n_chains // (unit * self._blocks))
        pack = bitslice.PACK if self._sliced else kernels.PACK
        sites = site_groups(model, pack)
        self._sites = with_factor(sites, (-4.0 * sites.coefficient).astype(np.float32), np.float32(2.0) * sites.base)
        self._totals = energy_counting(model, pack)
        words = np.zeros((self._blocks, model.n_sites + 1, self._lanes // 8), dtype=np.uint64)
        bits = np.zeros((self._blocks, model.n_sites + 1, self._lanes // 64 if self._sliced else 0), dtype=np.uint64)
        self._rows = kernels.Rows(words, words.view(np.uint8), bits)
        self._bytes = self._rows.row_bytes
        self._space = kernels.work_space(self._lanes)
        states = seed_states(seed, 1 + self._blocks * (self._lanes // 2))
        self._order_state = np.ascontiguousarray(states[:, :1])
        self._state = np.ascontiguousarray(states[:, 1:].reshape(4, self._blocks, -1).transpose(1, 0, 2))
        self.energy_evaluations = 0
        self.set_conditions(temperature, delta_mu)

    # ---- conditions -------------------------------------------------------------------------------------------
    def set_conditions(self, temperature: np.ndarray, delta_mu: np.ndarray) -> None:
        """Give every chain its temperature and delta_mu, shape (n_chains,) each; an infinite temperature is allowed."""
        temperature, delta_mu = (
            np.atleast_1d(np.asarray(temperature, float)),
            np.atleast_1d(np.asarray(delta_mu, float)),
        )
        if temperature.shape != (self.n_chains,) or delta_mu.shape != (self.n_chains,):
            raise SamplingError(
                f"lock-step chains: expected {self.n_chains} temperatures and delta_mu, "
                f"found shapes {temperature.shape} and {delta_mu.shape}"
            )
        if not np.all(temperature > 0) or not np.all(np.isfinite(delta_mu)):
            raise SamplingError("lock-step chains: temperatures must be positive and delta_mu finite")
        self.temperature, self.delta_mu = temperature.copy(), delta_mu.copy()
        self._beta = self._to_lanes(math.log2(math.e) / (self.model.boltzmann * temperature))
        self._dmu = self._to_lanes(delta_mu)

    def _to_lanes(self, values: np.ndarray) -> np.ndarray:
        padded = np.zeros(self._blocks * self._lanes, dtype=np.float32)
        padded[: self.n_chains] = values
        return padded.reshape(self._blocks, self._lanes)

    # ---- decorations ------------------------------------------------------------------------------------------
    @property
    def spins(self) -> np.ndarray:
        """Decorations of all chains as +-1, int8, shape (n_chains, n_sites)."""
        return (1 - 2 * self.negative.view(np.int8)).astype(np.int8)

    @property
    def negative(self) -> np.ndarray:
        """1 where a spin is -1 (species 0), uint8, shape (n_chains, n_sites)."""
        rows = self._bytes[:, :-1].transpose(0, 2, 1).reshape(-1, self.model.n_sites)
        return np.ascontiguousarray(rows[: self.n_chains])

    def set_spins(self, spins: np.ndarray) -> None:
        """Set all decorations from +-1, shape (n_chains, n_sites)."""
        spins = np.asarray(spins)
        if spins.shape != (self.n_chains, self.model.n_sites) or not np.all(np.abs(spins) == 1):
            raise SamplingError(
                f"lock-step chains: expected +-1 spins of shape {(self.n_chains, self.model.n_sites)}, "
                f"found shape {spins.shape}"
            )
        padded = np.zeros((self._blocks * self._lanes, self.model.n_sites), dtype=np.uint8)
        padded[: self.n_chains] = spins < 0
        self._bytes[:, :-1] = padded.reshape(self._blocks, self._lanes, -1).transpose(0, 2, 1)
        self._slice()

    def _slice(self) -> None:
        """Bring the bits in step with the bytes."""
        if self._sliced:
            bitslice.pack_rows(self._rows.words, self._rows.bits)

    def n_plus(self) -> np.ndarray:
        """Return the number of +1 spins (species 1) of every chain, int64 (n_chains,)."""
        counts = np.zeros((self._blocks, self._lanes), dtype=np.int32)
        kernels.negative_counts(self._bytes, self.model.n_sites, counts)
        return self.model.n_sites - counts.ravel()[: self.n_chains].astype(np.int64)

    # ---- energies ---------------------------------------------------------------------------------------------
    def energies(self) -> np.ndarray:
        """Return exact total energies U, float64 (n_chains,)."""
        out = np.empty((self._blocks, self._lanes))
        kernels.block_energies(self._rows, self._totals, self.model.constant + float(self._totals.base[0]), out)
        return out.ravel()[: self.n_chains].copy()

    def local_fields(self) -> np.ndarray:
        """Return h with ``U = s_i h_i + rest``, float32 (n_chains, n_sites)."""
        out = np.empty((self._blocks, self.model.n_sites, self._lanes), dtype=np.float32)
        kernels.block_fields(self._rows, self._sites, out)
        return np.ascontiguousarray(out.transpose(0, 2, 1).reshape(-1, self.model.n_sites)[: self.n_chains])

    # ---- moves ------------------------------------------------------------------------------------------------
    def _orders(self, n: int) -> np.ndarray:
        orders = np.empty((n, self.model.n_sites), dtype=np.int64)
        for row in orders:
            row[:] = np.arange(self.model.n_sites)
            kernels.shuffle(row, self._order_state)
        return orders

    def sweep(self, n: int = 1) -> np.ndarray:
        """Do `n` sweeps (every site visited once each) and return the accepted fraction, (n_chains,)."""
        n_sites = self.model.n_sites
        orders = self._orders(n)
        accepted = np.zeros((self._blocks, self._lanes), dtype=np.int64)
        kernels.sweep_blocks(
            self._rows,
            orders,
            self._sites,
            self._beta,
            self._dmu,
            RULES[self.rule],
            self._state,
            accepted,
            self._space,
        )
        self.energy_evaluations += n * n_sites * self.n_chains
        return accepted.ravel()[: self.n_chains] / max(n * n_sites, 1)

    def biased_sweep(
        self,
        n: int,
        bias: np.ndarray,
        bias_row: np.ndarray,
        deposit: float,
        visits: np.ndarray,
        tempering: float = 0.0,
    ) -> np.ndarray:
        """Do `n` heat-bath sweeps of ``exp(-U/kT - bias[row, n_plus])`` and return the accepted fraction, (n_chains,).

        Every step adds `deposit` to the bias at the chain's composition (chains of one row share it). The
        chains' delta_mu plays no part.

        Args:
            n: number of sweeps.
            bias: float64 (n_rows, n_sites + 1) in units of kT, changed in place.
            bias_row: integers (n_chains,), the row of each chain.
            deposit: what a visit adds to the bias; 0 keeps it.
            visits: int64 (n_chains, n_sites + 1), to which steps at each composition are added.
            tempering: 1/(bias factor - 1) of well-tempered metadynamics, which shrinks deposits where the bias is
                high; 0 deposits the same everywhere.
        """
        n_sites, size = self.model.n_sites, self._blocks * self._lanes
        orders = self._orders(n)
        rows, plus = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.int64)
        rows[: self.n_chains], plus[: self.n_chains] = bias_row, self.n_plus()
        shape = (self._blocks, self._lanes)
        seen = np.zeros((*shape, n_sites + 1), dtype=np.int64)
        accepted = np.zeros(shape, dtype=np.int64)
        kernels.biased_sweeps(
            self._rows, orders, self._sites, self._beta, self._state, plus.reshape(shape), rows.reshape(shape), bias,
            seen, float(deposit), float(tempering), accepted, self._space,
        )  # fmt: skip
        visits += seen.reshape(size, -1)[: self.n_chains]
        self.energy_evaluations += n * n_sites * self.n_chains
        return accepted.ravel()[: self.n_chains] / max(n * n_sites, 1)

    def swap_sweep(self, n: int = 1) -> np.ndarray:
        """Do `n` canonical heat-bath sweeps and return the accepted fraction, (n_chains,).

        A sweep tries ``n_sites // 2`` swaps of the spins of two random sites, the same pairs in all chains; the
        composition of every chain stays. The chains' delta_mu plays no part.
        """
        n_sites = self.model.n_sites
        orders = self._orders(n)
        pairs = np.ascontiguousarray(orders[:, : n_sites // 2 * 2].reshape(n, -1, 2))
        accepted = np.zeros((self._blocks, self._lanes), dtype=np.int64)
        kernels.swap_sweeps(self._rows, pairs, self._sites, self._beta, self._state, accepted, self._space)
        # A swap takes two local fields.
        self.energy_evaluations += 2 * n * pairs.shape[1] * self.n_chains
        return accepted.ravel()[: self.n_chains] / max(n * pairs.shape[1], 1)

    def swap(self, first: np.ndarray, second: np.ndarray) -> None:
        """Swap the decorations of chains ``first[k]`` and ``second[k]``."""
        kernels.swap_lanes(self._bytes, self.model.n_sites, np.asarray(first, np.int64), np.asarray(second, np.int64))
        self._slice()

    # ---- resuming ---------------------------------------------------------------------------------------------
    def state(self) -> dict[str, np.ndarray]:
        """Return everything a continued run needs, as plain arrays (inverse: `restore`)."""
        return {
            "negative": self.negative,
            "order_state": self._order_state.copy(),
            "lane_state": self._state.copy(),
            "padding": self._bytes[-1, :-1].copy(),
            "temperature": self.temperature.copy(),
            "delta_mu": self.delta_mu.copy(),
            "energy_evaluations": np.array(self.energy_evaluations),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state`: the following sweeps give the same bytes as an uninterrupted run.

        Raises:
            SamplingError: if the state belongs to chains of another number or size.
        """
        if state["negative"].shape != (self.n_chains, self.model.n_sites) or (
            state["lane_state"].shape != self._state.shape
        ):
            raise SamplingError(
                f"chain state: expected {self.n_chains} chains of {self.model.n_sites} sites, "
                f"found {state['negative'].shape}"
            )
        self.set_conditions(state["temperature"], state["delta_mu"])
        self.set_spins(1 - 2 * state["negative"].astype(np.int8))
        self._bytes[-1, :-1] = state["padding"]
        self._slice()
        self._order_state[:] = state["order_state"]
        self._state[:] = state["lane_state"]
        self.energy_evaluations = int(state["energy_evaluations"])


def exchange_grid(
    chains: LockstepChains, shape: tuple[int, ...], axis: int, parity: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Swap decorations between neighbouring conditions of a grid (replica exchange).

    Chain c sits at ``np.unravel_index(c, shape)``: (n_temperatures, n_delta_mu) or with further axes of independent
    replicas behind. Pairs (k, k+1) along `axis` with k of the given parity are tried with the exact probability
    ``min(1, exp[(beta_a - beta_b)(U_a - U_b) - (beta_a dmu_a - beta_b dmu_b)(N_a - N_b)])``.

    Returns:
        first and second chain of the pairs tried, and whether they swapped, shape (n_pairs,) each.

    Raises:
        SamplingError: if the shape does not hold the chains.
    """
    if int(np.prod(shape)) != chains.n_chains:
        raise SamplingError(f"replica exchange: a grid of shape {shape} does not hold {chains.n_chains} chains")
    numbers = np.moveaxis(np.arange(chains.n_chains).reshape(shape), axis, 0)
    first, second = numbers[parity:-1:2].ravel(), numbers[parity + 1 :: 2].ravel()
    if not len(first):
        return first, second, np.zeros(0, bool)
    energy, n_plus = chains.energies(), chains.n_plus()
    beta = 1.0 / (chains.model.boltzmann * chains.temperature)
    # One column an exchange of species; a binary has one.
    n_plus, delta_mu = (values.reshape(chains.n_chains, -1) for values in (n_plus, chains.delta_mu))
    pull = beta[:, None] * delta_mu
    log_ratio = (beta[first] - beta[second]) * (energy[first] - energy[second])
    log_ratio = log_ratio - ((pull[first] - pull[second]) * (n_plus[first] - n_plus[second])).sum(axis=1)
    taken = np.log(1.0 - rng.random(len(first))) < log_ratio
    chains.swap(first[taken], second[taken])
    return first, second, taken
