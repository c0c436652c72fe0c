"""Monomials of a spin polynomial in groups of equal coefficient, packed for the counting kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from segalflow.energy import kernels
from segalflow.energy.polynomial import SpinPolynomial


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Monomials of equal coefficient and order, in packs padded with the all-zero row.

    Attributes:
        start: groups of site i are ``start[i]:start[i+1]``, shape (n_sites + 1,) (energy table: all groups at once).
        n_others, n_packs, position: per group: sites in a monomial, packs, first entry in `index`.
        coefficient: per group, eV.
        index: row numbers, pack by pack, the first site of its monomials, then the second, ...
        base: per site: sum of the coefficients of its monomials (all spins +1), eV.
    """

    start: np.ndarray
    n_others: np.ndarray
    n_packs: np.ndarray
    position: np.ndarray
    coefficient: np.ndarray
    index: np.ndarray
    base: np.ndarray


@dataclass(frozen=True, eq=False)
class Monomials:
    """Monomials with an equal number of other sites, for `group_monomials`.

    Attributes:
        owner: the list each belongs to, shape (n,).
        others: its other sites, shape (n, k).
        kind: number of its coefficient, shape (n,).
        coefficients: the distinct coefficients, eV.
    """

    owner: np.ndarray
    others: np.ndarray
    kind: np.ndarray
    coefficients: np.ndarray


def group_monomials(n_rows: int, n_owners: int, monomials: Iterable[Monomials], pack: int) -> GroupTable:
    """Pack monomials for counting.

    Args:
        n_rows: number of real rows; row `n_rows` is the all-zero row.
        n_owners: number of lists of groups (sites; or 1 for energies).
        monomials: in portions; monomials of one list and coefficient are in one portion.
        pack: monomials in a pack.
    """
    owners, others_of, packs_of, starts, values, indices = [], [], [], [], [], []
    base = np.zeros(n_owners)
    length = 0
    number = np.uint16 if n_rows < 2**16 else np.uint32
    for part in monomials:
        base += np.bincount(part.owner, weights=part.coefficients[part.kind], minlength=n_owners)
        k = part.others.shape[1]
        if k == 0 or not len(part.owner):
            continue
        key = part.owner.astype(np.int64) * len(part.coefficients) + part.kind
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        rank = np.arange(len(key)) - np.repeat(first, np.diff(first, append=len(key)))
        opens = np.flatnonzero(rank % kernels.MAX_COUNT == 0)  # pieces of a group, each small enough to count
        size = np.diff(opens, append=len(key))
        n_packs = -(-size // pack)
        start = length + np.concatenate([[0], np.cumsum(n_packs[:-1])]) * (pack * k)
        index = np.full(int(n_packs.sum()) * pack * k, n_rows, dtype=number)
        rank %= kernels.MAX_COUNT
        place = np.repeat(start - length, size) + (rank // pack) * (pack * k) + rank % pack
        for j in range(k):
            index[place + j * pack] = part.others[order, j]
        owners.append(part.owner[order[opens]])
        others_of.append(np.full(len(opens), k))
        packs_of.append(n_packs)
        starts.append(start)
        values.append(part.coefficients[part.kind[order[opens]]])
        indices.append(index)
        length += len(index)
    if not owners:
        none = np.zeros(0, dtype=np.int64)
        return GroupTable(np.zeros(n_owners + 1, np.int64), none, none, none, np.zeros(0), np.zeros(0, number), base)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return GroupTable(
        np.searchsorted(owner[order], np.arange(n_owners + 1)).astype(np.int64),
        np.concatenate(others_of)[order].astype(np.int64),
        np.concatenate(packs_of)[order].astype(np.int64),
        np.concatenate(starts)[order].astype(np.int64),
        np.concatenate(values)[order],
        np.concatenate(indices),
        base,
    )


def distinct_coefficients(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct coefficients and, for each value, the number of its own.

    Sums of equal ECIs in another order differ in the last bits: 11 significant digits decide equality.
    """
    # A cell repeats few values many times: rounding looks at each once.
    exact, kind = np.unique(values, return_inverse=True)
    scale = 10.0 ** (10 - np.floor(np.log10(np.abs(exact))))
    _, rounded = np.unique(np.round(exact * scale) / scale, return_inverse=True)
    kind = rounded.ravel().astype(np.int32)[kind.ravel()]
    return np.bincount(kind, weights=values) / np.maximum(np.bincount(kind), 1), kind


SITES_AT_ONCE = 256
"""Sites whose groups are made together: their monomials are the largest temporary arrays."""
MONOMIALS_AT_ONCE = 100_000
"""Monomials of an energy table that are packed together, for the same reason (more where one coefficient has more)."""


def _some_kinds_at_once(kind: np.ndarray, n_kinds: int) -> Iterator[np.ndarray]:
    """Yield the numbers of monomials by coefficient, those of one coefficient together."""
    by_kind = np.argsort(kind, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(kind, minlength=n_kinds))
    low = 0
    while low < len(kind):
        reached = np.searchsorted(ends, low + MONOMIALS_AT_ONCE, side="right")
        high = int(ends[max(reached - 1, np.searchsorted(ends, low, side="right"))])
        yield by_kind[low:high]
        low = high


def monomials_through(
    members: np.ndarray, sites: np.ndarray, n_sites: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, some sites at a time, the monomials through each of `sites` (increasing).

    Args:
        members: sites of monomials of one order, shape (n, k).
        sites: the sites.
        n_sites: of the cell.

    Yields:
        owner (number in `sites`), other sites (m, k - 1) and row in `members`, by row.
    """
    for low in range(0, len(sites), SITES_AT_ONCE):
        number = np.full(n_sites, -1, dtype=np.int32)
        number[sites[low : low + SITES_AT_ONCE]] = np.arange(low, min(low + SITES_AT_ONCE, len(sites)))
        owner = number[members]
        rows, columns = np.nonzero(owner >= 0)
        keep = np.arange(members.shape[1]) != columns[:, None]
        yield owner[rows, columns], members[rows][keep].reshape(len(rows), members.shape[1] - 1), rows


def site_groups(model: SpinPolynomial, pack: int) -> GroupTable:
    """Return the groups of every site's other spins (for local fields)."""
    sites = np.arange(model.n_sites) if model.cell is None else np.zeros(1, np.int64)

    def monomials() -> Iterator[Monomials]:
        for members, values in zip(model.members, model.coefficients, strict=True):
            if not len(values):
                continue
            coefficients, kind = distinct_coefficients(values)
            for owner, others, rows in monomials_through(members, sites, model.n_sites):
                yield Monomials(owner, others, kind[rows], coefficients)

    table = group_monomials(model.n_sites, len(sites), monomials(), pack)
    return table if model.cell is None else _translated(table, model)


def _translated(table: GroupTable, model: SpinPolynomial) -> GroupTable:
    """Return the groups of all sites from those of site 0."""
    n_sites, n_groups, length = model.n_sites, len(table.coefficient), len(table.index)
    near, number = np.unique(table.index, return_inverse=True)
    real = near[near < n_sites]  # the all-zero row, if any, is the last and stays
    moved = np.full((n_sites, len(near)), n_sites, dtype=table.index.dtype)
    moved[:, : len(real)] = model.translated(real)
    return GroupTable(
        np.arange(n_sites + 1) * n_groups,
        np.tile(table.n_others, n_sites),
        np.tile(table.n_packs, n_sites),
        (np.arange(n_sites)[:, None] * length + table.position).ravel(),
        np.tile(table.coefficient, n_sites),
        moved[:, number.ravel()].ravel(),
        np.repeat(table.base, n_sites),
    )


def energy_groups(model: SpinPolynomial, pack: int) -> GroupTable:
    """Return the groups of all monomials (for total energies)."""

    def monomials() -> Iterator[Monomials]:
        for members, values in zip(model.members, model.coefficients, strict=True):
            coefficients, kind = distinct_coefficients(values)
            for rows in _some_kinds_at_once(kind, len(coefficients)):
                yield Monomials(np.zeros(len(rows), dtype=np.int64), members[rows], kind[rows], coefficients)

    return group_monomials(model.n_sites, 1, monomials(), pack)
