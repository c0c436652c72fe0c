"""What a conditional may see: fields of the sites already placed, and the condition.

Sites are placed in the cell's order. For site i, ``h_i^(k)`` sums the monomials that hold i and exactly k sites not yet
placed, each with the product of its placed spins: ``h^(0)`` is exact (``E = constant + sum_i s_i h_i^(0)``), the others
say how much of the energy is still open. Terms of equal coefficient are counted, as the chains do it
(`segalflow.energy.bitslice`): one bit a decoration.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from segalflow.compilation import numba
from segalflow.energy import bitslice, kernels
from segalflow.energy.base import EnergyModel
from segalflow.energy.composition import CompositionPolynomial
from segalflow.energy.groups import Monomials, distinct_coefficients, group_monomials
from segalflow.energy.lockstep import energy_counting, with_factor
from segalflow.energy.polynomial import SpinPolynomial

LANES = bitslice.CHUNK
"""Decorations of a block."""


@dataclass(frozen=True, eq=False)
class PastFields:
    """Terms of ``h_i^(k)`` in groups of equal coefficient, equal placed subsets merged.

    Attributes:
        model: the polynomial they belong to.
        n_classes: number of classes k = 0 .. n_classes - 1.
        groups: for the counting kernels; owner number ``i * n_classes + k`` is (i, k).
    """

    model: SpinPolynomial
    n_classes: int
    groups: kernels.Groups

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self.model.n_sites

    @property
    def sliced(self) -> bool:
        """Whether bits are counted; bytes where a monomial is beyond the bit counters."""
        return counts_bits(self.model)

    @functools.cached_property
    def totals(self) -> kernels.Groups:
        """Groups of all monomials, for exact energies of complete decorations."""
        return energy_counting(self.model, _pack(self.model))

    def rows(self) -> kernels.Rows:
        """Return empty rows of one block for the counting kernels."""
        words = np.zeros((self.n_sites + 1, LANES // 8), dtype=np.uint64)
        bits = np.zeros((self.n_sites + 1, LANES // 64 if self.sliced else 0), dtype=np.uint64)
        return kernels.Rows(words, words.view(np.uint8), bits)


def counts_bits(model: SpinPolynomial) -> bool:
    """Whether the bit counters have code for all products of a model."""
    return model.max_order <= bitslice.MAX_OTHERS


def _pack(model: SpinPolynomial) -> int:
    return bitslice.PACK if counts_bits(model) else kernels.PACK


def feature_polynomial(model: EnergyModel) -> SpinPolynomial:
    """Return the part of a model that conditionals may see fields of: itself, its polynomial, or one without terms."""
    if isinstance(model, SpinPolynomial):
        return model
    if isinstance(model, CompositionPolynomial):
        return model.polynomial
    return SpinPolynomial(model.n_sites, 0.0, (), (), model.boltzmann, model.energy_unit)


def in_order(model: SpinPolynomial, order: np.ndarray) -> SpinPolynomial:
    """Return a polynomial of the same spins numbered by their place in `order`, (n_sites,)."""
    if np.array_equal(order, np.arange(model.n_sites)):
        return model
    rank = np.argsort(order).astype(np.int32)
    members = tuple(np.sort(rank[m], axis=1) for m in model.members)
    return replace(model, members=members, cell=None)


def past_fields(model: EnergyModel, order: np.ndarray | None = None) -> PastFields:
    """Return the terms of a model's `feature_polynomial` for placement in an order (None: site order).

    The fields are then those of spins in this order.
    """
    model = feature_polynomial(model)
    model = model if order is None else in_order(model, order)
    n_classes = max(model.max_order, 1)
    table = group_monomials(model.n_sites, model.n_sites * n_classes, past_monomials(model, n_classes), _pack(model))
    factor = (-2.0 * table.coefficient).astype(np.float32)
    return PastFields(model, n_classes, with_factor(table, factor, table.base))


def past_monomials(model: SpinPolynomial, n_classes: int) -> Iterator[Monomials]:
    """Yield the terms by number of placed sites, those with the same owner and placed sites added up."""
    pieces: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for members, values in zip(model.members, model.coefficients, strict=True):
        members = np.sort(np.asarray(members), axis=1)
        order = members.shape[1]
        for column in range(order):
            # Members are sorted: those before the site itself are placed.
            owner = members[:, column] * n_classes + (order - 1 - column)
            pieces.setdefault(column, []).append((owner, members[:, :column], np.asarray(values, float)))
    for n_placed in sorted(pieces):
        owner, placed, values = (np.concatenate(part) for part in zip(*pieces[n_placed], strict=True))
        key = np.column_stack([owner, placed])
        order = np.lexsort(key.T[::-1])
        key, values = key[order], values[order]
        new = np.ones(len(key), dtype=bool)
        new[1:] = (key[1:] != key[:-1]).any(axis=1)
        merged = np.add.reduceat(values, np.flatnonzero(new)) if len(values) else values
        kept = np.abs(merged) > 1e-13 * np.abs(values).max(initial=0.0)
        key, merged = key[new][kept], merged[kept]
        if len(merged):
            coefficients, kind = distinct_coefficients(merged)
            yield Monomials(key[:, 0], key[:, 1:], kind, coefficients)


@numba.njit(cache=True, fastmath=False)
def _all_fields(rows, n_sites, n_classes, groups, counts, count_bytes, field, out):  # pragma: no cover - compiled
    for i in range(n_sites):
        for k in range(n_classes):
            kernels.doubled_field(rows.words, rows.bits, i * n_classes + k, groups, counts, count_bytes, field)
            for lane in range(out.shape[0]):
                out[lane, i, k] = field[lane]


def _blocks(tables: PastFields, spins: np.ndarray) -> Iterator[tuple[slice, kernels.Rows]]:
    """Yield the decorations of each block and the counting kernels' rows that hold them; the rows are used again."""
    rows = tables.rows()
    for first in range(0, len(spins), LANES):
        part = spins[first : first + LANES]
        rows.row_bytes[:-1, : len(part)] = (part < 0).T
        if tables.sliced:
            bitslice.pack_rows(rows.words[None], rows.bits[None])
        yield slice(first, first + len(part)), rows


def evaluate_past_fields(tables: PastFields, spins: np.ndarray) -> np.ndarray:
    """Return ``h_i^(k)``, float32 shape (batch, n_sites, n_classes), of +-1 spins, int8 shape (batch, n_sites)."""
    spins = np.asarray(spins)
    out = np.empty((*spins.shape, tables.n_classes), dtype=np.float32)
    counts, field = np.zeros(LANES // 8, dtype=np.uint64), np.zeros(LANES, dtype=np.float32)
    for part, rows in _blocks(tables, spins):
        _all_fields(
            rows, tables.n_sites, tables.n_classes, tables.groups, counts, counts.view(np.uint8), field, out[part]
        )
    return out


def evaluate_energies(tables: PastFields, spins: np.ndarray) -> np.ndarray:
    """Return exact energies of the tables' polynomial, float64 (batch,), of +-1 spins, int8 shape (batch, n_sites).

    Many decorations are counted at once: a hundred times as fast as one after another.
    """
    spins, found = np.asarray(spins), np.empty((1, LANES))
    out = np.empty(len(spins))
    constant = tables.model.constant + float(tables.totals.base[0])
    for part, rows in _blocks(tables, spins):
        kernels.block_energies(kernels.Rows(*(held[None] for held in rows)), tables.totals, constant, found)
        out[part] = found[0, : part.stop - part.start]
    return out


def with_colder(temperature: np.ndarray, n: int) -> np.ndarray:
    """Return increasing temperatures with `n` colder ones in front, half a step of the grid apart and above T_min / 2.

    A network is weakest at the edge of what it is trained on: narrow ordered phases that are rare at the lowest
    temperature of a sweep are common below it, and learnt there.
    """
    temperature = np.asarray(temperature, float)
    step = (temperature[1] - temperature[0]) / 2 if len(temperature) > 1 else temperature[0] / 10
    step = min(step, temperature[0] / (2 * (n + 1)))
    return np.concatenate([temperature[0] - step * np.arange(n, 0, -1), temperature])


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

    def encode_slopes(self, temperature: np.ndarray, delta_mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the derivatives of `encode` by temperature and by delta_mu, float32 (batch, 4) each."""
        temperature = np.asarray(temperature, float)
        beta = 1.0 / (self.boltzmann * temperature)
        beta_max = 1.0 / (self.boltzmann * self.temperature[0])
        beta_min = 1.0 / (self.boltzmann * self.temperature[1])
        half = max((self.delta_mu[1] - self.delta_mu[0]) / 2, 1e-12)
        shift = np.asarray(delta_mu, float) - sum(self.delta_mu) / 2
        slope, nothing = -beta / temperature, np.zeros_like(beta)
        by_t = [2 * slope / beta_max, -2 * beta_min * slope / beta**2, nothing, 0.1 * slope * shift]
        by_mu = [nothing, nothing, np.full_like(beta, 1.5 / half), 0.1 * beta]
        return np.stack(by_t, axis=-1).astype(np.float32), np.stack(by_mu, axis=-1).astype(np.float32)

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
