"""What a conditional of any number of species may see: energies of the sites already placed, and the condition.

The twin of `segalflow.segal.features` for site functions. For site i, ``e_i^(k)(x)`` sums the terms on site i that hold
exactly k sites not yet placed, each with species x there, with the functions of its placed sites and without those of
the others. ``e^(0)`` is exact: with the species present, ``E = constant + sum_i e_i^(0)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.base import EnergyModel
from segalflow.energy.site_functions import SiteFunctionModel
from segalflow.energy.species_chains import as_site_functions

LANES = 64
"""Decorations of a block."""


@dataclass(frozen=True, eq=False)
class PastTerms:
    """The terms of ``e_i^(k)`` by factor and class, equal placed subsets merged.

    Attributes:
        model: the energy.
        n_classes: number of classes k = 0 .. n_classes - 1.
        start: terms of (factor a, class k) are ``start[o]:start[o+1]`` with ``o = a n_classes + k``.
        coefficient: eV.
        others: placed factors of each term, padded with n_factors, (n_rows, width).
    """

    model: SiteFunctionModel
    n_classes: int
    start: np.ndarray
    coefficient: np.ndarray
    others: np.ndarray

    def evaluate(self, occupations: np.ndarray) -> np.ndarray:
        """Return ``e_i^(k)(x)``, float32 (batch, n_sites, max_species, n_classes); species not allowed have 0."""
        model = self.model
        out = np.zeros((*occupations.shape, model.functions.shape[1], self.n_classes), dtype=np.float32)
        for low in range(0, len(occupations), LANES):
            values = self.values(occupations[low : low + LANES])
            self.add(values, 0, model.n_sites, out[low : low + LANES])
        return out

    def values(self, occupations: np.ndarray) -> np.ndarray:
        """Return the values of all factors and the 1 of the padding, float64 (n_factors + 1, batch)."""
        model = self.model
        values = np.ones((len(model.factor_site) + 1, len(occupations)))
        values[:-1] = model.functions[model.factor_function, occupations[:, model.factor_site]].T
        return values

    def add(self, values: np.ndarray, first: int, last: int, out: np.ndarray) -> None:
        """Add the energies of the sites first .. last - 1 to `out`, (batch, sites, max_species, n_classes)."""
        _add_past(
            values, first, last, self.model.first_factor, self.model.factor_values, self.n_classes, self.start,
            self.coefficient, self.others, out,
        )  # fmt: skip

    def place(self, values: np.ndarray, site: int, species: np.ndarray) -> None:
        """Put `species`, (batch,), on a site: set the values of its factors."""
        factors = slice(self.model.first_factor[site], self.model.first_factor[site + 1])
        values[factors] = self.model.factor_values[factors][:, species]


def number_of_classes(model: EnergyModel) -> int:
    """Return how many classes of past energies a model has; 0 for models of total energies alone."""
    functions = as_site_functions(model)
    return 0 if functions is None else functions.terms.shape[1]


def past_terms(model: SiteFunctionModel) -> PastTerms:
    """Return the terms of a model for placement in site order."""
    n_factors, order = len(model.factor_site), model.terms.shape[1]
    site = np.append(model.factor_site, -1)[model.terms]
    owners, placed, values = [], [], []
    for column in range(order):
        real = model.terms[:, column] < n_factors
        before = (site < site[:, column : column + 1]) & (site >= 0)
        n_open = (site >= 0).sum(axis=1) - 1 - before.sum(axis=1)
        owners.append((model.terms[:, column].astype(np.int64) * order + n_open)[real])
        placed.append(np.sort(np.where(before, model.terms, n_factors), axis=1)[real, : max(order - 1, 1)])
        values.append(model.coefficients[real])
    owner, others, coefficient = np.concatenate(owners), np.concatenate(placed), np.concatenate(values)
    key = np.column_stack([owner, others])
    rank = np.lexsort(key.T[::-1])
    key, coefficient = key[rank], coefficient[rank]
    new = np.append(True, np.any(key[1:] != key[:-1], axis=1))
    merged = np.add.reduceat(coefficient, np.flatnonzero(new)) if len(key) else coefficient
    key = key[new] if len(key) else key
    start = np.searchsorted(key[:, 0], np.arange(n_factors * order + 1)).astype(np.int64)
    return PastTerms(model, order, start, merged, np.ascontiguousarray(key[:, 1:], dtype=np.int32))


@numba.njit(cache=True, fastmath=False)
def _add_past(
    values, first, last, first_factor, functions, n_classes, start, coefficient, others, out
):  # pragma: no cover - compiled  # fmt: skip
    padding, batch = values.shape[0] - 1, values.shape[1]
    product, derivative = np.empty(batch), np.empty(batch)
    for i in range(first, last):
        for a in range(first_factor[i], first_factor[i + 1]):
            for k in range(n_classes):
                owner = a * n_classes + k
                derivative[:] = 0.0
                for t in range(start[owner], start[owner + 1]):
                    product[:] = coefficient[t]
                    for other in others[t]:
                        if other == padding:
                            break
                        for b in range(batch):
                            product[b] *= values[other, b]
                    for b in range(batch):
                        derivative[b] += product[b]
                for b in range(batch):
                    for x in range(functions.shape[1]):
                        out[b, i - first, x, k] += derivative[b] * functions[a, x]


@dataclass(frozen=True)
class ConditionBox:
    """The domain of (T, delta_mu, ...) a network is trained on, and its scaling to numbers of order one.

    With one exchange it is `segalflow.segal.features.ConditionRange`.

    Attributes:
        temperature: (lowest, highest), in the model's temperature unit.
        delta_mu: (lowest, highest) of every exchange, in the model's energy unit.
        boltzmann: Boltzmann constant of the model.
    """

    temperature: tuple[float, float]
    delta_mu: tuple[tuple[float, float], ...]
    boltzmann: float

    @property
    def size(self) -> int:
        """Length of a condition vector."""
        return 2 + 2 * len(self.delta_mu)

    def encode(self, temperature: np.ndarray, delta_mu: np.ndarray) -> np.ndarray:
        """Return the condition vectors, float32 (batch, size), of (batch,) and (batch, n_exchanges)."""
        beta = 1.0 / (self.boltzmann * np.asarray(temperature, float))
        beta_max, beta_min = (1.0 / (self.boltzmann * t) for t in self.temperature)
        columns = [2 * beta / beta_max - 1, 2 * beta_min / beta - 1]
        for (low, high), mu in zip(self.delta_mu, np.asarray(delta_mu, float).T, strict=True):
            shift, half = mu - (low + high) / 2, max((high - low) / 2, 1e-12)
            columns += [1.5 * shift / half, 0.1 * beta * shift]
        return np.stack(columns, axis=-1).astype(np.float32)

    def contains(self, temperature: np.ndarray, delta_mu: np.ndarray) -> np.ndarray:
        """Whether each condition lies in the trained domain (to rounding), shape (batch,)."""
        values = np.column_stack([temperature, delta_mu]).astype(float)
        low, high = np.array([self.temperature, *self.delta_mu]).T
        margin = 1e-9 * np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-9)
        return np.all((values >= low - margin) & (values <= high + margin), axis=1)
