"""What a conditional may see: fields of the sites already placed, and the condition.

Sites are placed in the cell's order. For site i, ``h_i^(k)`` sums the monomials that hold i and exactly k sites not yet
placed, each with the product of its placed spins: ``h^(0)`` is exact (``E = constant + sum_i s_i h_i^(0)``), the others
say how much of the energy is still open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from segalflow.energy.base import EnergyModel
from segalflow.energy.composition import CompositionPolynomial
from segalflow.energy.polynomial import SpinPolynomial


@dataclass(frozen=True, eq=False)
class PastFields:
    """Tables of the terms of ``h_i^(k)``, equal placed subsets merged.

    Attributes:
        n_sites: number of sites.
        n_classes: number of classes k = 0 .. n_classes - 1.
        start: terms of (i, k) are ``start[i * n_classes + k]`` to the next entry.
        coefficient: J of each term, in the model's energy unit.
        n_placed: number of placed sites in each term.
        placed: their numbers, padded with 0, shape (n_terms, max(n_classes - 1, 1)).
    """

    n_sites: int
    n_classes: int
    start: np.ndarray
    coefficient: np.ndarray
    n_placed: np.ndarray
    placed: np.ndarray


def feature_polynomial(model: EnergyModel) -> SpinPolynomial:
    """Return the part of a model that conditionals may see fields of: itself, its polynomial, or one without terms."""
    if isinstance(model, SpinPolynomial):
        return model
    if isinstance(model, CompositionPolynomial):
        return model.polynomial
    return SpinPolynomial(model.n_sites, 0.0, (), (), model.boltzmann, model.energy_unit)


def past_fields(model: EnergyModel) -> PastFields:
    """Return the tables of a model's `feature_polynomial` for placement in site order."""
    model = feature_polynomial(model)
    n_classes = max(model.max_order, 1)
    table = model.site_table
    start, coefficient, n_placed, placed = [0], [], [], []
    for site in range(model.n_sites):
        merged: list[dict[tuple[int, ...], float]] = [{} for _ in range(n_classes)]
        for term in range(table.start[site], table.start[site + 1]):
            others = table.others[term, : table.n_others[term]]
            past = tuple(int(o) for o in others if o < site)
            group = merged[len(others) - len(past)]
            group[past] = group.get(past, 0.0) + float(table.coefficient[term])
        for group in merged:
            for past in sorted(group, key=lambda p: (len(p), p)):
                coefficient.append(group[past])
                n_placed.append(len(past))
                placed.append(past + (0,) * (max(n_classes - 1, 1) - len(past)))
            start.append(len(coefficient))
    return PastFields(
        model.n_sites,
        n_classes,
        np.array(start, dtype=np.int64),
        np.array(coefficient, dtype=np.float64),
        np.array(n_placed, dtype=np.int32),
        np.array(placed, dtype=np.int32).reshape(len(coefficient), max(n_classes - 1, 1)),
    )


@numba.njit(cache=True, fastmath=True)
def _all_fields(spins, n_classes, start, coefficient, n_placed, placed, out):  # pragma: no cover - compiled
    lanes = 32
    batch, n_sites = spins.shape
    block = np.zeros((n_sites, lanes), dtype=np.float32)
    total = np.zeros(lanes, dtype=np.float32)
    for first in range(0, batch, lanes):
        width = min(lanes, batch - first)
        for i in range(n_sites):
            for lane in range(width):
                block[i, lane] = spins[first + lane, i]
        for i in range(n_sites):
            for k in range(n_classes):
                total[:] = 0.0
                for t in range(start[i * n_classes + k], start[i * n_classes + k + 1]):
                    c = np.float32(coefficient[t])
                    if n_placed[t] == 0:
                        for lane in range(lanes):
                            total[lane] += c
                    elif n_placed[t] == 1:
                        a = placed[t, 0]
                        for lane in range(lanes):
                            total[lane] += c * block[a, lane]
                    elif n_placed[t] == 2:
                        a, b = placed[t, 0], placed[t, 1]
                        for lane in range(lanes):
                            total[lane] += c * block[a, lane] * block[b, lane]
                    elif n_placed[t] == 3:
                        a, b, d = placed[t, 0], placed[t, 1], placed[t, 2]
                        for lane in range(lanes):
                            total[lane] += c * block[a, lane] * block[b, lane] * block[d, lane]
                    else:
                        for lane in range(lanes):
                            product = c
                            for m in range(n_placed[t]):
                                product *= block[placed[t, m], lane]
                            total[lane] += product
                for lane in range(width):
                    out[first + lane, i, k] = total[lane]


def evaluate_past_fields(tables: PastFields, spins: np.ndarray) -> np.ndarray:
    """Return ``h_i^(k)``, float32 shape (batch, n_sites, n_classes), of +-1 spins, int8 shape (batch, n_sites)."""
    spins = np.ascontiguousarray(spins, dtype=np.int8)
    out = np.empty((*spins.shape, tables.n_classes), dtype=np.float32)
    _all_fields(spins, tables.n_classes, tables.start, tables.coefficient, tables.n_placed, tables.placed, out)
    return out


@dataclass(frozen=True)
class ConditionRange:
    """The domain of conditions a network is trained on, and its scaling to numbers of order one.

    Attributes:
        temperature: (lowest, highest), in the model's temperature unit.
        delta_mu: (lowest, highest), in the model's energy unit.
        boltzmann: Boltzmann constant of the model.
    """

    temperature: tuple[float, float]
    delta_mu: tuple[float, float]
    boltzmann: float

    def encode(self, temperature: np.ndarray, delta_mu: np.ndarray) -> np.ndarray:
        """Return the condition vectors, float32 shape (batch, 4)."""
        beta = 1.0 / (self.boltzmann * np.asarray(temperature, float))
        beta_max = 1.0 / (self.boltzmann * self.temperature[0])
        beta_min = 1.0 / (self.boltzmann * self.temperature[1])
        middle = sum(self.delta_mu) / 2
        half = max((self.delta_mu[1] - self.delta_mu[0]) / 2, 1e-12)
        shift = np.asarray(delta_mu, float) - middle
        columns = [2 * beta / beta_max - 1, 2 * beta_min / beta - 1, 1.5 * shift / half, 0.1 * beta * shift]
        return np.stack(columns, axis=-1).astype(np.float32)

    def contains(self, temperature: np.ndarray, delta_mu: np.ndarray) -> np.ndarray:
        """Whether each condition lies in the trained domain (to rounding), shape (batch,)."""
        margin_t = 1e-9 * self.temperature[1]
        margin_m = 1e-9 * max(abs(self.delta_mu[0]), abs(self.delta_mu[1]), 1e-9)
        temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
        return (
            (temperature >= self.temperature[0] - margin_t)
            & (temperature <= self.temperature[1] + margin_t)
            & (delta_mu >= self.delta_mu[0] - margin_m)
            & (delta_mu <= self.delta_mu[1] + margin_m)
        )
