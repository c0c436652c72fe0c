"""Site functions: the exact energy of any cluster expansion on one cell, for any number of species and sublattices.

The energy is multilinear: ``E = c + sum_m J_m prod_{a in m} phi_a``, where a factor ``a`` is one function of the
species on one site and the factors of a term are on distinct sites. A figure that wraps onto itself meets a site
several times; the product of its point functions there is again one function of the species, so small cells are exact.
The derivatives ``W_a = dE/dphi_a`` give every energy asked for: ``sum_a W_a f_a(x)`` over the factors of a site is the
energy of its terms with species x there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.base import check_swap, checked_occupations, exchanged, species_counts, species_kinds
from segalflow.errors import ExpansionError, SamplingError
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.lattice import Supercell
from segalflow.units import BOLTZMANN_EV_PER_K

LANES = 64
"""Decorations that go through the terms side by side, so that a term is read once for all of them."""
_CONSTANT = -1  # the canonical number of a site function that does not depend on the species


@dataclass(frozen=True, eq=False)
class FactorTable:
    """For every factor, terms it is part of (compressed rows).

    Attributes:
        start: shape (n_factors + 1,): terms of factor a are ``start[a]:start[a+1]``.
        coefficient: J of each term, eV.
        others: shape (n_rows, max(max_order - 1, 3)): the other factors, padded with n_factors, whose value is 1.
    """

    start: np.ndarray
    coefficient: np.ndarray
    others: np.ndarray


@dataclass(frozen=True, eq=False)
class SiteFunctionModel:
    """A cluster expansion on a cell; implements `EnergyModel`, `ExchangeModel` and `LocalEnergyModel`.

    Attributes:
        n_species: number of species per site, shape (n_sites,).
        kinds: equal for sites that allow the same species, shape (n_sites,).
        constant: energy of the empty product, eV.
        functions: values of the distinct site functions, shape (n_functions, max_species), padded with 0.
        factor_site: site of each factor, shape (n_factors,), increasing.
        factor_function: its function, shape (n_factors,).
        terms: factors of each term, int32 shape (n_terms, max_order), rows increasing, padded with n_factors.
        coefficients: J of each term, shape (n_terms,), eV.
    """

    n_species: np.ndarray
    kinds: np.ndarray
    constant: float
    functions: np.ndarray
    factor_site: np.ndarray
    factor_function: np.ndarray
    terms: np.ndarray
    coefficients: np.ndarray
    boltzmann: float = BOLTZMANN_EV_PER_K
    energy_unit: str = "eV"
    _partial_tables: dict[bytes, FactorTable] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.n_species)

    @property
    def n_terms(self) -> int:
        """Number of terms without the constant."""
        return len(self.coefficients)

    @functools.cached_property
    def table(self) -> FactorTable:
        """All terms of every factor."""
        return self._build_table(None)

    @functools.cached_property
    def first_factor(self) -> np.ndarray:
        """Factors of site i are ``first_factor[i]:first_factor[i+1]``, shape (n_sites + 1,)."""
        return np.searchsorted(self.factor_site, np.arange(self.n_sites + 1))

    @functools.cached_property
    def factor_values(self) -> np.ndarray:
        """Value of each factor for each species on its site, shape (n_factors, max_species)."""
        return self.functions[self.factor_function]

    def partial_table(self, order: np.ndarray | None = None) -> FactorTable:
        """Return the terms of every factor that hold only sites placed before its own in `order` (None: site order).

        Raises:
            SamplingError: if `order` is not a permutation of the sites.
        """
        order = np.arange(self.n_sites) if order is None else np.asarray(order, dtype=np.int64)
        if not np.array_equal(np.sort(order), np.arange(self.n_sites)):
            raise SamplingError(f"order: expected a permutation of the {self.n_sites} sites")
        key = order.tobytes()
        if key not in self._partial_tables:
            if len(self._partial_tables) > 3:  # the tables are large: keep only a few
                self._partial_tables.clear()
            self._partial_tables[key] = self._build_table(np.argsort(order))
        return self._partial_tables[key]

    def _build_table(self, rank: np.ndarray | None) -> FactorTable:
        """With ranks of the sites, a term belongs only to its factor of highest rank."""
        n_factors, (n_terms, order) = len(self.factor_site), self.terms.shape
        rows = np.arange(n_terms)
        if rank is None:
            row, column = (v.ravel() for v in np.meshgrid(rows, np.arange(order), indexing="ij"))
        else:
            ranks = np.append(rank[self.factor_site], -1)[self.terms]
            row, column = rows, ranks.argmax(axis=1)
        owner = self.terms[row, column]
        by_owner = np.argsort(owner, kind="stable")
        by_owner = by_owner[owner[by_owner] < n_factors]  # not the padding
        row, column, owner = row[by_owner], column[by_owner], owner[by_owner]
        kept = np.arange(order)[None, :] != column[:, None]
        others = np.full((len(row), max(order - 1, 3)), n_factors, dtype=np.int32)
        others[:, : order - 1] = self.terms[row][kept].reshape(len(row), order - 1)
        start = np.searchsorted(owner, np.arange(n_factors + 1)).astype(np.int64)
        return FactorTable(start, self.coefficients[row], others)

    def _values(self, occupations: np.ndarray) -> np.ndarray:
        """Values of the factors and the 1 of the padding, shape (batch, n_factors + 1)."""
        values = np.ones((len(occupations), len(self.factor_site) + 1))
        values[:, :-1] = self.functions[self.factor_function, occupations[:, self.factor_site]]
        return values

    def _site_energies(self, occupations: np.ndarray, table: FactorTable) -> np.ndarray:
        """Energies of every species on every site from the terms of a table, shape (batch, n_sites, max_species)."""
        out = np.zeros((*occupations.shape, self.functions.shape[1]))
        for low in range(0, len(occupations), LANES):
            values = np.ascontiguousarray(self._values(occupations[low : low + LANES]).T)
            _add_site_energies(
                values,
                self.factor_site,
                self.factor_values,
                table.start,
                table.coefficient,
                table.others,
                out[low : low + LANES],
            )
        out[:, np.arange(out.shape[2]) >= self.n_species[:, None]] = np.inf
        return out

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), eV, of occupations, integers of shape (batch, n_sites).

        Raises:
            SamplingError: if a site holds a species it does not allow.
        """
        occupations = checked_occupations(occupations, self.n_species)
        # Every term belongs to the last of its sites, so the partial energies of the species present add up to all.
        energies = self._site_energies(occupations, self.partial_table())
        return self.constant + np.take_along_axis(energies, occupations[:, :, None], axis=2).sum(axis=(1, 2))

    def local_energies(self, occupations: np.ndarray) -> np.ndarray:
        """Return the energy of the terms on each site for each species there, eV, (batch, n_sites, max_species).

        Differences over the species are exact energy changes; species that a site does not allow have +inf.

        Raises:
            SamplingError: if a site holds a species it does not allow.
        """
        return self._site_energies(checked_occupations(occupations, self.n_species), self.table)

    def partial_local_energies(self, occupations: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
        """Return `local_energies` of the terms whose other sites come earlier in `order`, eV.

        Entry (b, i, x) is for site i (not for position i of the order) and depends only on the species of sites
        before it, so what `occupations` says of later ones is without effect. With the species present,
        ``constant + sum_i`` is the energy.

        Args:
            occupations: integers, shape (batch, n_sites).
            order: the sites in the order of their placement, shape (n_sites,); None: site order.

        Returns:
            Energies, shape (batch, n_sites, max_species), +inf for species that a site does not allow.

        Raises:
            SamplingError: if `order` is not a permutation or a site holds a species it does not allow.
        """
        return self._site_energies(checked_occupations(occupations, self.n_species), self.partial_table(order))

    def energy_changes(self, occupations: np.ndarray, site: np.ndarray | int, species: np.ndarray | int) -> np.ndarray:
        """Return E(after) - E(before), shape (batch,), eV, when `site` takes `species` (see `ExchangeModel`).

        Raises:
            SamplingError: if a site does not exist or a species is not allowed there.
        """
        occupations = checked_occupations(occupations, self.n_species)
        site, species, _ = exchanged(occupations, site, species, self.n_species)
        return self._changes(occupations, site, species)

    def swap_changes(self, occupations: np.ndarray, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
        """Return E(after) - E(before), shape (batch,), eV, when two sites swap species (see `ExchangeModel`).

        Raises:
            SamplingError: if a site does not exist or two sites do not allow the same species.
        """
        occupations = checked_occupations(occupations, self.n_species)
        check_swap(first, second, self.kinds)
        rows = np.arange(len(occupations))
        first, to_first, between = exchanged(occupations, first, occupations[rows, second], self.n_species)
        second, to_second, _ = exchanged(between, second, occupations[rows, first], self.n_species)
        return self._changes(occupations, first, to_first) + self._changes(between, second, to_second)

    def _changes(self, occupations: np.ndarray, site: np.ndarray, species: np.ndarray) -> np.ndarray:
        out = np.zeros(len(occupations))
        _add_changes(
            self._values(occupations),
            self.first_factor,
            self.factor_values,
            self.table.start,
            self.table.coefficient,
            self.table.others,
            site,
            occupations[np.arange(len(occupations)), site],
            species,
            out,
        )
        return out


@numba.njit(cache=True, fastmath=False)
def _add_site_energies(values, site, functions, start, coefficient, others, out):  # pragma: no cover - compiled
    """Add the energies per species to `out` (batch, n_sites, species); `values` is (n_factors + 1, batch)."""
    n_factors, batch = len(site), values.shape[1]
    product, derivative = np.empty(batch), np.empty(batch)
    for a in range(n_factors):
        derivative[:] = 0.0
        for t in range(start[a], start[a + 1]):
            c, i, j, k = coefficient[t], others[t, 0], others[t, 1], others[t, 2]
            # Straight-line loops for up to four factors: the compiler turns them into vector instructions.
            if j == n_factors:
                for b in range(batch):
                    derivative[b] += c * values[i, b]
            elif k == n_factors:
                for b in range(batch):
                    derivative[b] += c * values[i, b] * values[j, b]
            else:
                for b in range(batch):
                    product[b] = c * values[i, b] * values[j, b] * values[k, b]
                for more in others[t, 3:]:
                    for b in range(batch):
                        product[b] *= values[more, b]
                for b in range(batch):
                    derivative[b] += product[b]
        for b in range(batch):
            for x in range(functions.shape[1]):
                out[b, site[a], x] += derivative[b] * functions[a, x]


@numba.njit(cache=True, fastmath=False)
def _add_changes(
    values, first_factor, functions, start, coefficient, others, site, before, after, out
):  # pragma: no cover - compiled
    """Add the energy change of one exchange per decoration to `out` (batch,); `values` is (batch, n_factors + 1)."""
    for b in range(len(out)):
        for a in range(first_factor[site[b]], first_factor[site[b] + 1]):
            derivative = 0.0
            for t in range(start[a], start[a + 1]):
                product = coefficient[t]
                for k in range(others.shape[1]):
                    product *= values[b, others[t, k]]
                derivative += product
            out[b] += derivative * (functions[a, after[b]] - functions[a, before[b]])


class _SiteFunctions:
    """The point functions, numbered over all sublattices, and the products of them that wrapped figures need."""

    def __init__(self, point_functions: tuple[tuple[tuple[float, ...], ...], ...]) -> None:
        point = [np.array(f, dtype=float) for functions in point_functions for f in functions]
        self.values = [np.ones(1), *point]  # number 0 is the constant 1, of slots without a site
        self.first = np.cumsum([1] + [len(functions) for functions in point_functions])[:-1]
        self.n_point = len(self.values)
        self._products: dict[tuple[int, int], int] = {}

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the numbers of the products of functions (by number, shape (n,)) of the same sublattice."""
        pairs, inverse = np.unique(np.column_stack([left, right]), axis=0, return_inverse=True)
        numbers = []
        for pair in map(tuple, pairs.tolist()):
            if pair not in self._products:
                self._products[pair] = len(self.values)
                self.values.append(self.values[pair[0]] * self.values[pair[1]])
            numbers.append(self._products[pair])
        return np.array(numbers)[inverse.ravel()]

    def canonical(self, max_species: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (table (n_distinct, max_species), number in it, scale): functions that differ by a factor are one.

        A function that does not depend on the species has the number `_CONSTANT` and is its scale.
        """
        seen: dict[bytes, int] = {}
        table, numbers, scales = [], [], []
        for values in self.values:
            size = np.abs(values)
            # The first of the largest values; the margin lets rounding not choose between -1 and 1.
            scale = values[np.argmax(size > size.max() * (1 - 1e-9))] if size.any() else 0.0
            shape = values / scale if scale else np.ones_like(values)
            scales.append(scale)
            if np.ptp(shape) < 1e-12:
                numbers.append(_CONSTANT)
                continue
            padded = np.zeros(max_species)
            padded[: len(shape)] = shape
            key = (np.round(padded, 12) + 0.0).tobytes()  # + 0.0: -0.0 and 0.0 are one
            if key not in seen:
                seen[key] = len(table)
                table.append(padded)
            numbers.append(seen[key])
        return np.array(table).reshape(-1, max_species), np.array(numbers, dtype=np.int64), np.array(scales)


def _check(expansion: ClusterExpansion, cell: Supercell) -> None:
    lattice = cell.lattice
    if not expansion.lattice.same_as(lattice):
        raise ExpansionError(
            f"the expansion is for lattice {expansion.lattice.to_dict()}, the cell has {lattice.to_dict()}"
        )
    if len(expansion.point_functions) != lattice.n_sublattices:
        raise ExpansionError(
            f"the expansion has point functions for {len(expansion.point_functions)} sublattices, "
            f"its lattice has {lattice.n_sublattices}"
        )
    for sublattice, (functions, names) in enumerate(zip(expansion.point_functions, lattice.species, strict=True)):
        if any(len(values) != len(names) for values in functions):
            raise ExpansionError(
                f"a point function of sublattice {sublattice} needs one value for each of its species "
                f"{', '.join(names)}, found {[list(values) for values in functions]}"
            )
    n_functions = np.array([len(functions) for functions in expansion.point_functions])
    for cluster in expansion.clusters:
        sublattices = cluster.figures[:, :, 0]
        if cluster.decorations.shape != sublattices.shape:
            raise ExpansionError(
                f"cluster '{cluster.name}': expected decorations of shape {sublattices.shape}, "
                f"found {cluster.decorations.shape}"
            )
        if np.any((sublattices < 0) | (sublattices >= len(n_functions))):
            raise ExpansionError(f"cluster '{cluster.name}': a figure is on a sublattice that the lattice lacks")
        if np.any((cluster.decorations < 0) | (cluster.decorations >= n_functions[sublattices])):
            raise ExpansionError(f"cluster '{cluster.name}': a decoration names a point function that is not there")


def _wrapped_figures(
    expansion: ClusterExpansion, cell: Supercell, functions: _SiteFunctions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (sites, site functions, weights) of all figures in the cell; no site has two functions in a row."""
    width = max([1, *(cluster.order for cluster in expansion.clusters)])
    all_sites, all_functions, all_weights = [], [], []
    for cluster in expansion.clusters:
        sublattices = cluster.figures[:, :, 0]
        moved = cell.offsets[:, None, None, :] + cluster.figures[None, :, :, 1:]
        wrapped = cell.site_index(sublattices[None], moved)
        numbers = functions.first[sublattices] + cluster.decorations
        # Sorted by site and function, so that a product does not depend on the order of the sites in the figure.
        codes = (wrapped * functions.n_point + numbers).reshape(cell.n_cells * cluster.multiplicity, cluster.order)
        codes.sort(axis=1)
        site, function = np.zeros((2, len(codes), width), dtype=np.int64)
        site[:, : cluster.order], function[:, : cluster.order] = np.divmod(codes, functions.n_point)
        for k in range(1, cluster.order):
            same = site[:, k] == site[:, k - 1]
            if same.any():
                function[same, k] = functions.product(function[same, k - 1], function[same, k])
                function[same, k - 1] = 0
        all_sites.append(site)
        all_functions.append(function)
        weight = cluster.eci * cell.n_sites / (cell.n_cells * cluster.multiplicity)
        all_weights.append(np.full(len(site), weight))
    return np.concatenate(all_sites), np.concatenate(all_functions), np.concatenate(all_weights)


def _merged(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, sorted, and the sums of their weights."""
    order = np.lexsort(rows.T[::-1])
    rows, weights = rows[order], weights[order]
    first = np.flatnonzero(np.append(True, np.any(rows[1:] != rows[:-1], axis=1)))
    return rows[first], np.add.reduceat(weights, first)


def place_general(expansion: ClusterExpansion, cell: Supercell) -> SiteFunctionModel:
    """Return the exact energy of a cluster expansion on a cell, for any species and sublattices.

    Raises:
        ExpansionError: if the cell's lattice or species differ from the expansion's, or its point functions,
            figures and decorations do not belong together.
    """
    _check(expansion, cell)
    if not expansion.clusters:
        raise ExpansionError("the expansion has no clusters")
    n_species = species_counts(cell)
    point = _SiteFunctions(expansion.point_functions)
    sites, functions, weights = _wrapped_figures(expansion, cell, point)
    table, numbers, scales = point.canonical(int(n_species.max()))
    weights = weights * scales[functions].prod(axis=1)
    used = numbers[functions] != _CONSTANT
    # A factor is a (site, function); the code after the last one is the padding, which sorts to the end of a row.
    padding = cell.n_sites * max(len(table), 1)
    codes = np.where(used, sites * len(table) + numbers[functions], padding)
    rows, weights = _merged(np.sort(codes, axis=1), weights)
    empty = rows[:, 0] == padding
    kept = ~empty & (np.abs(weights) > 1e-14 * np.abs(weights[~empty]).max(initial=0.0))
    factors = np.unique(rows[kept])
    factors = factors[factors != padding]
    site, function = np.divmod(factors, max(len(table), 1))
    return SiteFunctionModel(
        n_species,
        species_kinds(cell),
        float(weights[empty].sum()),
        table if len(table) else np.zeros((1, int(n_species.max()))),
        site,
        function,
        np.searchsorted(factors, rows[kept]).astype(np.int32),
        weights[kept],
    )
