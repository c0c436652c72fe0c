"""The energy contract: what every sampler may ask of an energy model.

An energy model gives the total energy of decorations of one supercell. Whatever else it can do faster it offers as a
further protocol; samplers ask for the protocol they need and never for a class.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


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
