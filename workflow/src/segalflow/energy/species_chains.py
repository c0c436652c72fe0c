"""Heat-bath Markov chains for any number of species and sublattices, and the replica-exchange pool made of them."""

from __future__ import annotations

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.energy.potentials import ExchangePotentials, grid_conditions
from segalflow.energy.replica_pool import exchange_run
from segalflow.energy.site_functions import SiteFunctionModel
from segalflow.errors import SamplingError
from segalflow.progress import bar


def as_site_functions(model: object) -> SiteFunctionModel | None:
    """Return a model in site functions: itself, a spin polynomial written so, or None for models of energies alone."""
    if isinstance(model, SiteFunctionModel):
        return model
    if not isinstance(model, SpinPolynomial):
        return None
    n, width = model.n_sites, max(model.max_order, 1)
    rows = [np.full((len(c), width), n, dtype=np.int32) for c in model.coefficients]
    for row, members in zip(rows, model.members, strict=True):
        row[:, : members.shape[1]] = members
    return SiteFunctionModel(
        np.full(n, 2), np.zeros(n, dtype=np.int64), model.constant, np.array([[-1.0, 1.0]]), np.arange(n),
        np.zeros(n, dtype=np.int64), np.concatenate([*rows, np.zeros((0, width), np.int32)]),
        np.concatenate([*model.coefficients, np.zeros(0)]), model.boltzmann, model.energy_unit,
    )  # fmt: skip


class SpeciesChains:
    """Heat-bath chains of one cluster expansion, each at its own condition.

    A sweep visits every site once, in a random order shared by all chains.

    Args:
        model: the energy, as site functions (other models: `make_species_chains`).
        potentials: the exchanges of the cell.
        temperature: shape (n_chains,), K (or J/k_B).
        delta_mu: shape (n_chains, n_exchanges), eV (or J).
        seed: any integer; same seed, same bytes.

    Raises:
        SamplingError: for shapes that do not fit or a temperature that is not positive.
    """

    def __init__(
        self,
        model: EnergyModel,
        potentials: ExchangePotentials,
        temperature: np.ndarray,
        delta_mu: np.ndarray,
        seed: int,
    ) -> None:
        self.model, self.potentials = model, potentials
        self.n_chains = len(temperature)
        self.set_conditions(temperature, delta_mu)
        # Only doubles are drawn, so the four words of this generator are its whole state.
        self._rng = np.random.Generator(np.random.SFC64(seed % 2**64))
        self.energy_evaluations = 0
        self._occupations = np.zeros((self.n_chains, model.n_sites), dtype=np.int64)
        self._energy: np.ndarray | None = None

    def set_conditions(self, temperature: np.ndarray, delta_mu: np.ndarray) -> None:
        """Give every chain its temperature, shape (n_chains,), and delta_mu, (n_chains, n_exchanges).

        Raises:
            SamplingError: for shapes that do not fit or a temperature that is not positive.
        """
        self.temperature = np.array(temperature, dtype=float)
        self.delta_mu = self.potentials.check(delta_mu, self.n_chains)
        if self.temperature.shape != (self.n_chains,) or not np.all(self.temperature > 0):
            raise SamplingError(f"chains: expected {self.n_chains} positive temperatures")
        self._beta = 1.0 / (self.model.boltzmann * self.temperature)

    @property
    def occupations(self) -> np.ndarray:
        """All decorations, int64 (n_chains, n_sites); a copy."""
        return self._occupations.copy()

    def set_occupations(self, occupations: np.ndarray) -> None:
        """Set all decorations, integers (n_chains, n_sites)."""
        self._occupations = np.array(occupations, dtype=np.int64)
        self._energy = None

    def randomise(self) -> None:
        """Give every site of every chain a random species."""
        drawn = self._rng.random(self._occupations.shape)
        self.set_occupations((drawn * self.model.n_species).astype(np.int64))

    def energies(self) -> np.ndarray:
        """Return total energies U, float64 (n_chains,)."""
        if self._energy is None:
            self._energy = self.model.energy(self._occupations)
        return self._energy.copy()

    def n_plus(self) -> np.ndarray:
        """Return how often every exchange was made, int64 (n_chains, n_exchanges)."""
        return self.potentials.counts(self._occupations)

    def heat_bath(self) -> np.ndarray:
        """Return the probabilities of species given all other sites, (n_chains, n_sites, max_species)."""
        return heat_bath(self.model, self.potentials, self._occupations, self._beta, self.delta_mu)

    def sweep(self, n: int = 1) -> None:
        """Do `n` sweeps."""
        model = self.model
        values = np.ones((self.n_chains, len(model.factor_site) + 1))
        values[:, :-1] = model.functions[model.factor_function, self._occupations[:, model.factor_site]]
        mu = np.concatenate([self.delta_mu, np.zeros((self.n_chains, 1))], axis=1)
        column = np.where(self.potentials.column < 0, len(self.potentials.pairs), self.potentials.column)
        for _ in range(n):
            order = np.argsort(self._rng.random(model.n_sites))
            uniform = self._rng.random(self._occupations.shape)
            _sweep(
                values, self._occupations, order, uniform, self._beta, mu, column, model.n_species,
                model.first_factor, model.factor_values, model.table.start, model.table.coefficient, model.table.others,
            )  # fmt: skip
        self._energy = None
        self.energy_evaluations += n * self._occupations.size

    def swap(self, first: np.ndarray, second: np.ndarray) -> None:
        """Swap the decorations of chains ``first[k]`` and ``second[k]``."""
        for values in (self._occupations, self._energy):
            if values is not None:
                values[first], values[second] = values[second], values[first]

    def state(self) -> dict[str, np.ndarray]:
        """Return everything a continued run needs, as plain arrays (inverse: `restore`)."""
        return {
            "occupations": self.occupations,
            "generator": self._rng.bit_generator.state["state"]["state"].copy(),
            "energy_evaluations": np.array(self.energy_evaluations),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state`: the following sweeps give the same bytes as an uninterrupted run."""
        self.set_occupations(state["occupations"])
        generator = self._rng.bit_generator.state
        generator["state"]["state"] = np.asarray(state["generator"], dtype=np.uint64)
        self._rng.bit_generator.state = generator
        self.energy_evaluations = int(state["energy_evaluations"])


class SpeciesBatchChains(SpeciesChains):
    """Heat-bath chains of a model of total energies alone: a site costs one energy of every species it allows."""

    def sweep(self, n: int = 1) -> None:
        """Do `n` sweeps."""
        mu = self.potentials.on_sites(self.delta_mu)
        for _ in range(n):
            for site in np.argsort(self._rng.random(self.model.n_sites)):
                tried, energy = self._occupations.copy(), []
                for species in range(self.model.n_species[site]):
                    tried[:, site] = species
                    energy.append(np.asarray(self.model.energy(tried), dtype=float))
                energies = np.stack(energy, axis=1)
                exponent = self._beta[:, None] * (mu[:, site, : len(energy)] - energies)
                below = np.cumsum(np.exp(exponent - exponent.max(axis=1, keepdims=True)), axis=1)
                chosen = (self._rng.random((self.n_chains, 1)) * below[:, -1:] >= below).sum(axis=1)
                self._occupations[:, site] = chosen = np.minimum(chosen, len(energy) - 1)
                self._energy = energies[np.arange(self.n_chains), chosen]
                self.energy_evaluations += energies.size

    def heat_bath(self) -> np.ndarray:
        """Not offered: it needs local energies.

        Raises:
            SamplingError: always.
        """
        raise SamplingError("chains: probabilities of all sites need a model with local energies")


def make_species_chains(
    model: EnergyModel, potentials: ExchangePotentials, temperature: np.ndarray, delta_mu: np.ndarray, seed: int
) -> SpeciesChains:
    """Return the fastest chains that serve a model (arguments of `SpeciesChains`)."""
    functions = as_site_functions(model)
    if functions is None:
        return SpeciesBatchChains(model, potentials, temperature, delta_mu, seed)
    return SpeciesChains(functions, potentials, temperature, delta_mu, seed)


def heat_bath(
    model: SiteFunctionModel,
    potentials: ExchangePotentials,
    occupations: np.ndarray,
    beta: np.ndarray,
    delta_mu: np.ndarray,
) -> np.ndarray:
    """Return the probability of every species on every site given all other sites, (batch, n_sites, max_species)."""
    exponent = beta[:, None, None] * (potentials.on_sites(delta_mu) - model.local_energies(occupations))
    weight = np.exp(exponent - exponent.max(axis=2, keepdims=True))
    return weight / weight.sum(axis=2, keepdims=True)


@numba.njit(cache=True, fastmath=False)
def _sweep(
    values, occupations, order, uniform, beta, mu, column, n_species, first_factor, functions, start, coefficient,
    others,
):  # pragma: no cover - compiled  # fmt: skip
    width = functions.shape[1]
    energy, weight = np.empty(width), np.empty(width)
    for c in range(occupations.shape[0]):
        for i in order:
            energy[:] = 0.0
            for a in range(first_factor[i], first_factor[i + 1]):
                derivative = 0.0
                for t in range(start[a], start[a + 1]):
                    product = coefficient[t]
                    for k in range(others.shape[1]):
                        product *= values[c, others[t, k]]
                    derivative += product
                for x in range(n_species[i]):
                    energy[x] += derivative * functions[a, x]
            highest = -np.inf
            for x in range(n_species[i]):
                weight[x] = beta[c] * (mu[c, column[i, x]] - energy[x])
                highest = max(highest, weight[x])
            total = 0.0
            for x in range(n_species[i]):
                weight[x] = np.exp(weight[x] - highest)
                total += weight[x]
            left, chosen = uniform[c, i] * total, 0
            while chosen < n_species[i] - 1 and left >= weight[chosen]:
                left -= weight[chosen]
                chosen += 1
            occupations[c, i] = chosen
            for a in range(first_factor[i], first_factor[i + 1]):
                values[c, a] = functions[a, chosen]


def species_pool(
    model: EnergyModel,
    potentials: ExchangePotentials,
    temperature: np.ndarray,
    axes: tuple[np.ndarray, ...],
    *,
    seed: int,
    sweeps: int,
    n_samples: int,
) -> tuple[np.ndarray, int]:
    """Return equilibrium decorations of every condition of a grid and the energy evaluations they cost.

    As `segalflow.energy.replica_pool.equilibrium_pool`: half of the chains start from disorder, half from the lowest
    ``U - sum of delta_mu N`` that any chain has met.

    Args:
        model: the energy.
        potentials: the exchanges.
        temperature: increasing, shape (n_temperatures,).
        axes: increasing delta_mu of every exchange.
        seed: seed of all random draws.
        sweeps: sweeps of each of the three parts (search, start from both sides, samples).
        n_samples: decorations of each condition, even.

    Returns:
        Occupations, int8 (n_conditions, n_samples, n_sites), and the number of energy evaluations.
    """
    t, mu = (np.repeat(values, 2, axis=0) for values in grid_conditions(temperature, axes))
    shape = (len(temperature), *(len(axis) for axis in axes), 2)
    chain_seed, draw_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2, np.uint64))
    rng = np.random.default_rng(draw_seed)
    chains = make_species_chains(model, potentials, t, mu, chain_seed)
    chains.randomise()
    taken = max(1, n_samples // 2)
    fields = mu[: 2 * int(np.prod(shape[1:-1])) : 2]
    lowest, found = np.full(len(fields), np.inf), np.zeros((len(fields), model.n_sites), dtype=np.int64)
    with bar(3 * sweeps, "equilibrium pool", "sweep") as shown:
        for step in exchange_run(chains, shape, sweeps, rng):
            grand = chains.energies()[:, None] - chains.n_plus() @ fields.T
            best = grand.argmin(axis=0)
            value = grand[best, np.arange(len(fields))]
            better = value < lowest
            lowest[better], found[better] = value[better], chains.occupations[best[better]]
            shown.update(step)
        occupations = chains.occupations.reshape(shape[0], -1, 2, model.n_sites)
        occupations[:, :, 1] = found
        chains.set_occupations(occupations.reshape(-1, model.n_sites))
        for step in exchange_run(chains, shape, sweeps, rng):
            shown.update(step)
        kept = np.empty((chains.n_chains // 2, 2, taken, model.n_sites), dtype=np.int8)
        for number in range(taken):
            part = sweeps * (number + 1) // taken - sweeps * number // taken
            for step in exchange_run(chains, shape, max(1, part), rng):
                shown.update(step)
            kept[:, :, number] = chains.occupations.reshape(-1, 2, model.n_sites)
    return kept.reshape(len(kept), 2 * taken, model.n_sites), chains.energy_evaluations
