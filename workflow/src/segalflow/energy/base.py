"""The energy contract: what every sampler may ask of an energy model.

An energy model gives the total energy of decorations of one supercell. Whatever else it can do faster it offers as a
further protocol; samplers ask for the protocol they need and never for a class.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from segalflow.errors import SamplingError
from segalflow.lattice import Supercell


@runtime_checkable
class EnergyModel(Protocol):
    """Total energy of decorations of one cell.

    Attributes:
        n_sites: number of sites.
        n_species: number of species per site, shape (n_sites,).
        boltzmann: Boltzmann constant in the model's energy unit per temperature unit (eV/K for alloys, 1 for toys).
        energy_unit: ``"eV"`` or ``"J"``.
    """

    n_sites: int
    n_species: np.ndarray
    boltzmann: float
    energy_unit: str

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), of occupations, integers of shape (batch, n_sites)."""
        ...


@runtime_checkable
class LocalFieldModel(EnergyModel, Protocol):
    """A binary model that also gives local fields: ``E(s) = s_i h_i + (terms without site i)``.

    Spins are ``2 occupation - 1``.
    """

    def local_fields(self, spins: np.ndarray) -> np.ndarray:
        """Return h, float64 shape (batch, n_sites), for spins +-1, int8 shape (batch, n_sites)."""
        ...


@runtime_checkable
class ExchangeModel(EnergyModel, Protocol):
    """A model of any number of species that gives the energy change of a trial move.

    Attributes:
        kinds: integers, shape (n_sites,): equal exactly for sites that allow the same species in the same order.
    """

    kinds: np.ndarray

    def energy_changes(self, occupations: np.ndarray, site: np.ndarray | int, species: np.ndarray | int) -> np.ndarray:
        """Return E(after) - E(before), shape (batch,), when `site` takes `species`.

        Args:
            occupations: integers, shape (batch, n_sites).
            site: the site of each decoration, shape (batch,), or one for all.
            species: its new species, shape (batch,), or one for all.
        """
        ...

    def swap_changes(self, occupations: np.ndarray, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
        """Return E(after) - E(before), shape (batch,), when two sites of one kind swap species.

        Args:
            occupations: integers, shape (batch, n_sites).
            first: one site of each decoration, shape (batch,), or one for all.
            second: the other site, alike.
        """
        ...


@runtime_checkable
class LocalEnergyModel(ExchangeModel, Protocol):
    """A model of any number of species that also gives the energy of every species on every site: its local fields."""

    def local_energies(self, occupations: np.ndarray) -> np.ndarray:
        """Return the energy of every species on every site, shape (batch, n_sites, max_species).

        Entry (b, i, x) is the energy of the terms that depend on site i if it held species x, all else as in
        decoration b. Differences over x are exact energy changes. Species that a site does not allow have +inf.
        """
        ...

    def partial_local_energies(self, occupations: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
        """Return `local_energies` of the sites already placed, shape (batch, n_sites, max_species).

        Sites are placed in `order`, a permutation of shape (n_sites,) (None: site order). Entry (b, i, x) holds only
        the terms on site i and sites placed before it, so it does not depend on later ones; the entries of the species
        present sum to the energy, up to a constant of the model.
        """
        ...


def species_kinds(cell: Supercell) -> np.ndarray:
    """Return `ExchangeModel.kinds` of a cell, shape (n_sites,)."""
    numbers = {names: number for number, names in enumerate(dict.fromkeys(cell.lattice.species))}
    return np.array([numbers[names] for names in cell.lattice.species])[cell.sites[:, 0]]


def species_counts(cell: Supercell) -> np.ndarray:
    """Return `EnergyModel.n_species` of a cell, shape (n_sites,)."""
    return np.array([len(names) for names in cell.lattice.species])[cell.sites[:, 0]]


def checked_occupations(occupations: np.ndarray, n_species: np.ndarray) -> np.ndarray:
    """Return occupations as int64, shape (batch, n_sites).

    Raises:
        SamplingError: if they are not integers, not (batch, n_sites), or a site holds a species it does not allow.
    """
    found = np.atleast_2d(occupations)
    if found.ndim != 2 or found.shape[1] != len(n_species) or not np.issubdtype(found.dtype, np.integer):
        raise SamplingError(
            f"occupations: expected integers of shape (batch, {len(n_species)}), "
            f"found {found.dtype} of shape {found.shape}"
        )
    wrong = (found < 0) | (found >= n_species)
    if wrong.any():
        row, site = np.argwhere(wrong)[0]
        raise SamplingError(
            f"occupations: species {found[row, site]} on site {site}, expected 0 to {n_species[site] - 1}"
        )
    return np.ascontiguousarray(found, dtype=np.int64)


def exchanged(
    occupations: np.ndarray, site: np.ndarray | int, species: np.ndarray | int, n_species: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (sites, their new species, the new occupations), shapes (batch,), (batch,), (batch, n_sites).

    Raises:
        SamplingError: if a site does not exist or does not allow its new species.
    """
    rows = np.arange(len(occupations))
    site, species = (np.broadcast_to(np.asarray(v, dtype=np.int64), rows.shape) for v in (site, species))
    if np.any((site < 0) | (site >= len(n_species))):
        raise SamplingError(f"exchange: expected sites from 0 to {len(n_species) - 1}, found {site.tolist()}")
    after = occupations.copy()
    after[rows, site] = species
    return site, species, checked_occupations(after, n_species)


def check_swap(first: np.ndarray | int, second: np.ndarray | int, kinds: np.ndarray) -> None:
    """Refuse swaps between sites of different species.

    Raises:
        SamplingError: if a site does not exist or two sites to swap are of different kinds.
    """
    first, second = (np.asarray(v, dtype=np.int64) for v in (first, second))
    for site in (first, second):
        if np.any((site < 0) | (site >= len(kinds))):
            raise SamplingError(f"swap: expected sites from 0 to {len(kinds) - 1}, found {site.tolist()}")
    if np.any(kinds[first] != kinds[second]):
        raise SamplingError("swap: the two sites do not allow the same species, so they cannot swap them")
