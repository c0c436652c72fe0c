"""Spin polynomials: the exact energy of any binary cluster expansion or Ising model on one cell.

``E(s) = c + sum_m J_m prod_{i in m} s_i`` with spins +-1 (``s = 2 occupation - 1``: species 1 is +1). Figures that wrap
onto themselves reduce by ``s^2 = 1`` and equal monomials are merged once, so small cells are exact.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.base import EnergyModel
from segalflow.errors import ExpansionError
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.lattice import Supercell
from segalflow.units import BOLTZMANN_EV_PER_K

_LOG = logging.getLogger(__name__)

FINGERPRINT_DECORATIONS = 16


@dataclass(frozen=True, eq=False)
class SiteTable:
    """For every site, the monomials it is part of (compressed rows).

    Attributes:
        start: shape (n_sites + 1,): terms of site i are ``start[i]:start[i+1]``.
        coefficient: J of each term, eV.
        n_others: number of other sites in each term.
        others: shape (n_terms, max_order - 1): the other sites, padded with -1.
    """

    start: np.ndarray
    coefficient: np.ndarray
    n_others: np.ndarray
    others: np.ndarray


@dataclass(frozen=True, eq=False)
class SpinPolynomial:
    """A polynomial in +-1 spins; implements `EnergyModel` and `LocalFieldModel`.

    Attributes:
        n_sites: number of sites.
        constant: energy of the empty product, eV.
        members: the sites of the monomials by order: ``members[k-1]`` has shape (n_k, k), int32, rows sorted.
        coefficients: their coefficients, ``coefficients[k-1]`` of shape (n_k,), eV.
        cell: a cell of one sublattice, sites in its order, whose translations leave the polynomial as it is; None if
            nothing is known of any.
    """

    n_sites: int
    constant: float
    members: tuple[np.ndarray, ...]
    coefficients: tuple[np.ndarray, ...]
    boltzmann: float = BOLTZMANN_EV_PER_K
    energy_unit: str = "eV"
    cell: Supercell | None = None

    @property
    def n_species(self) -> np.ndarray:
        """Two species on every site, shape (n_sites,)."""
        return np.full(self.n_sites, 2)

    @property
    def max_order(self) -> int:
        """Largest number of spins in a monomial."""
        return max((k + 1 for k, c in enumerate(self.coefficients) if len(c)), default=0)

    @property
    def n_monomials(self) -> int:
        """Number of monomials without the constant."""
        return sum(len(c) for c in self.coefficients)

    @property
    def is_even(self) -> bool:
        """Whether exchanging the two species changes no energy: no monomial of an odd number of spins."""
        return not any(value.any() for value in self.coefficients[::2])

    @functools.cached_property
    def site_table(self) -> SiteTable:
        """Monomials by site."""
        width = max(self.max_order - 1, 1)
        sites, coefficient, n_others, others = [], [], [], []
        for order, (member, value) in enumerate(zip(self.members, self.coefficients, strict=True), start=1):
            for column in range(order if len(value) else 0):
                rest = np.full((len(value), width), -1, dtype=np.int32)
                rest[:, : order - 1] = np.delete(member, column, axis=1)
                sites.append(member[:, column])
                coefficient.append(value)
                n_others.append(np.full(len(value), order - 1, dtype=np.int32))
                others.append(rest)
        if not sites:
            empty = np.zeros(0, dtype=np.int32)
            return SiteTable(np.zeros(self.n_sites + 1, np.int64), np.zeros(0), empty, np.zeros((0, width), np.int32))
        site = np.concatenate(sites)
        order_by_site = np.argsort(site, kind="stable")
        start = np.searchsorted(site[order_by_site], np.arange(self.n_sites + 1))
        return SiteTable(
            start.astype(np.int64),
            np.concatenate(coefficient)[order_by_site],
            np.concatenate(n_others)[order_by_site],
            np.ascontiguousarray(np.concatenate(others)[order_by_site]),
        )

    def translated(self, sites: np.ndarray) -> np.ndarray:
        """Return what `sites` (k,) become when site 0 is moved onto every site of the cell, shape (n_sites, k)."""
        offsets = self.cell.sites[:, 1:]
        return self.cell.site_index(0, (offsets[sites] - offsets[0])[None] + offsets[:, None])

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), eV, of occupations 0/1, shape (batch, n_sites)."""
        return self.energy_of_spins(2 * np.asarray(occupations, dtype=np.int8) - 1)

    def energy_of_spins(self, spins: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), eV, of +-1 spins, shape (batch, n_sites)."""
        spins = np.ascontiguousarray(np.atleast_2d(spins), dtype=np.int8)
        total = np.full(len(spins), self.constant)
        for member, value in zip(self.members, self.coefficients, strict=True):
            if len(value):
                _add_monomials(spins, member, value, total)
        return total

    def local_fields(self, spins: np.ndarray) -> np.ndarray:
        """Return h with ``E = s_i h_i + rest``, shape (batch, n_sites), eV, of +-1 spins, shape (batch, n_sites)."""
        spins = np.ascontiguousarray(np.atleast_2d(spins), dtype=np.int8)
        table = self.site_table
        fields = np.empty(spins.shape)
        _local_fields(spins, table.start, table.coefficient, table.n_others, table.others, fields)
        return fields

    def permuted(self, permutation: np.ndarray) -> SpinPolynomial:
        """Return the polynomial in relabelled sites: site i becomes ``permutation[i]``."""
        terms = {
            tuple(sorted(int(permutation[i]) for i in row)): float(v)
            for member, value in zip(self.members, self.coefficients, strict=True)
            for row, v in zip(member, value, strict=True)
        }
        return polynomial_from_terms(self.n_sites, self.constant, terms, self.boltzmann, self.energy_unit)


@numba.njit(cache=True, fastmath=False)
def _add_monomials(spins, members, coefficients, total):  # pragma: no cover - compiled
    batch, order = spins.shape[0], members.shape[1]
    for b in range(batch):
        accumulated = 0.0
        for m in range(members.shape[0]):
            product = np.int8(1)
            for k in range(order):
                product *= spins[b, members[m, k]]
            accumulated += coefficients[m] * product
        total[b] += accumulated


@numba.njit(cache=True, fastmath=False)
def _local_fields(spins, start, coefficient, n_others, others, fields):  # pragma: no cover - compiled
    for b in range(spins.shape[0]):
        for i in range(spins.shape[1]):
            accumulated = 0.0
            for t in range(start[i], start[i + 1]):
                product = np.int8(1)
                for k in range(n_others[t]):
                    product *= spins[b, others[t, k]]
                accumulated += coefficient[t] * product
            fields[b, i] = accumulated


def model_fingerprint(model: EnergyModel) -> str:
    """Return a hash that is equal for the same Hamiltonian on the same cell only.

    Of a polynomial's terms; of what a model says of itself (``fingerprint``); else of the energies of a few random
    decorations.
    """
    if not isinstance(model, SpinPolynomial):
        if hasattr(model, "fingerprint"):
            return model.fingerprint
        drawn = np.random.default_rng(0).random((FINGERPRINT_DECORATIONS, model.n_sites))
        energies = model.energy((drawn * model.n_species).astype(np.int64))
        return hashlib.sha256(f"{model.n_sites} {np.asarray(energies, float).tolist()}".encode()).hexdigest()
    digest = hashlib.sha256(f"{model.n_sites} {model.constant:.12e}".encode())
    for members, values in zip(model.members, model.coefficients, strict=True):
        digest.update(np.ascontiguousarray(members, dtype=np.int32).tobytes())
        # Sums of equal ECIs in another order differ in the last bits.
        digest.update("".join(f"{v:.12e}" for v in values.tolist()).encode())
    return digest.hexdigest()


def polynomial_from_terms(
    n_sites: int,
    constant: float,
    terms: dict[tuple[int, ...], float],
    boltzmann: float = BOLTZMANN_EV_PER_K,
    energy_unit: str = "eV",
) -> SpinPolynomial:
    """Return the polynomial of ``{sorted site tuple: coefficient}``; zero coefficients are dropped."""
    collected = _Monomials(n_sites)
    for order in {len(t) for t in terms}:
        chosen = [t for t in terms if len(t) == order]
        collected.add(np.array(chosen, dtype=np.int64), np.array([terms[t] for t in chosen]))
    collected.constant += constant
    return collected.polynomial(boltzmann, energy_unit, tiny=0.0)


class _Monomials:
    """Monomials collected with s^2 = 1 and merged at the end."""

    def __init__(self, n_sites: int) -> None:
        self.n_sites = n_sites
        self.constant = 0.0
        self.rows: dict[int, list[np.ndarray]] = {}
        self.values: dict[int, list[np.ndarray]] = {}

    def add(self, sites: np.ndarray, values: np.ndarray) -> None:
        """Add monomials: sites (n, k) in any order, repeated ones allowed, and coefficients (n,)."""
        order = sites.shape[1]
        if order == 0:
            self.constant += float(values.sum())
            return
        sites = np.sort(sites, axis=1)
        repeated = sites[:, 1:] == sites[:, :-1]
        wrapped = repeated.any(axis=1)
        if wrapped.any():
            # The first pair of equal neighbours cancels; what is left may hold another.
            rows, first = sites[wrapped], repeated[wrapped].argmax(axis=1)
            columns = np.arange(order)
            keep = (columns != first[:, None]) & (columns != first[:, None] + 1)
            self.add(rows[keep].reshape(len(rows), order - 2), values[wrapped])
            sites, values = sites[~wrapped], values[~wrapped]
        self.rows.setdefault(order, []).append(sites.astype(np.int32))
        self.values.setdefault(order, []).append(values)

    def polynomial(
        self, boltzmann: float, energy_unit: str, tiny: float, cell: Supercell | None = None
    ) -> SpinPolynomial:
        """Merge equal monomials; those of at most `tiny` times the largest coefficient are dropped.

        What was collected is let go order by order: it is the largest of all arrays made on the way to chains.
        """
        members, coefficients = [], []
        for order in range(1, max(self.rows, default=1) + 1):
            rows = np.concatenate(self.rows.pop(order, None) or [np.zeros((0, order), np.int32)])
            rows, inverse = _unique_rows(rows, self.n_sites)
            values = np.concatenate(self.values.pop(order, None) or [np.zeros(0)])
            members.append(rows)
            coefficients.append(np.bincount(inverse, weights=values, minlength=len(rows)))
        largest = max((float(np.abs(c).max()) for c in coefficients if len(c)), default=0.0)
        kept = [np.abs(c) > tiny * largest for c in coefficients]
        return SpinPolynomial(
            self.n_sites,
            self.constant,
            tuple(m[k] for m, k in zip(members, kept, strict=True)),
            tuple(c[k] for c, k in zip(coefficients, kept, strict=True)),
            boltzmann,
            energy_unit,
            cell,
        )


def _unique_rows(rows: np.ndarray, n_sites: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows in lexicographic order and each row's number among them."""
    order = rows.shape[1]
    if order * np.log2(max(n_sites, 2)) >= 62:
        unique, inverse = np.unique(rows, axis=0, return_inverse=True)
        return unique, inverse.ravel()
    keys = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        keys = keys * n_sites + column
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], inverse.ravel()


def place_expansion(expansion: ClusterExpansion, cell: Supercell) -> SpinPolynomial:
    """Return the exact spin polynomial of a binary cluster expansion on a cell.

    Raises:
        ExpansionError: if the cell's lattice or species differ from the expansion's, or the lattice is not binary.
    """
    if not expansion.lattice.same_as(cell.lattice):
        raise ExpansionError(
            f"the expansion is for lattice {expansion.lattice.to_dict()}, the cell has {cell.lattice.to_dict()}"
        )
    if not cell.lattice.is_binary:
        raise ExpansionError("spin polynomials need one sublattice of two species")
    low, high = expansion.point_functions[0][0]
    mean, half = (low + high) / 2, (high - low) / 2  # point function = mean + half * spin
    collected = _Monomials(cell.n_sites)
    too_large: list[str] = []
    for cluster in expansion.clusters:
        weight = cluster.eci * cell.n_sites / (cell.n_cells * cluster.multiplicity)
        if cluster.order == 0:
            collected.constant += cluster.eci * cell.n_sites
            continue
        moved = cell.offsets[:, None, None, :] + cluster.figures[None, :, :, 1:]
        sites = cell.site_index(cluster.figures[None, :, :, 0], moved).reshape(-1, cluster.order)
        if len(np.unique(sites[0])) < cluster.order:
            too_large.append(cluster.name)
        # Expand prod (mean + half s): one term only for the usual +-1 functions.
        for size in range(cluster.order + 1):
            factor = mean ** (cluster.order - size) * half**size
            if factor == 0.0:
                continue
            for chosen in itertools.combinations(range(cluster.order), size):
                collected.add(sites[:, chosen], np.full(len(sites), weight * factor))
    if too_large:
        _LOG.warning(
            "the cell of %d sites is smaller than the figures of %d of %d clusters (%s): they wrap onto themselves and "
            "are summed exactly, but the cell cannot show what they are for",
            cell.n_sites, len(too_large), len(expansion.clusters), ", ".join(too_large[:5]),
        )  # fmt: skip
    return collected.polynomial(BOLTZMANN_EV_PER_K, "eV", tiny=1e-14, cell=cell)


def ising_polynomial(cell: Supercell, coupling: float = 1.0) -> SpinPolynomial:
    """Return ``U = -J sum_<ij> s_i s_j`` over nearest neighbours of a cell (J = k_B = 1 units)."""
    shells = _nearest_neighbours(cell)
    collected = _Monomials(cell.n_sites)
    for offset in shells:
        sites = np.column_stack(
            [np.arange(cell.n_sites), cell.site_index(cell.sites[:, 0], cell.sites[:, 1:] + offset)]
        )
        collected.add(sites, np.full(cell.n_sites, -coupling / 2))
    return collected.polynomial(boltzmann=1.0, energy_unit="J", tiny=1e-14, cell=cell)


def _nearest_neighbours(cell: Supercell) -> Sequence[np.ndarray]:
    axes = [(-1, 0, 1) if periodic else (0,) for periodic in cell.lattice.pbc]
    offsets = np.array([o for o in itertools.product(*axes) if any(o)])
    lengths = np.linalg.norm(offsets @ cell.lattice.cell, axis=1)
    return list(offsets[np.isclose(lengths, lengths.min())])
