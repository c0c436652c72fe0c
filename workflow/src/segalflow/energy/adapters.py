"""Energy models from outside: any ASE calculator and any module that maps decorations to energies.

They know only total energies, so the changes of trial moves are differences of totals: exact, but as slow as two
energies each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from segalflow.energy.base import check_swap, checked_occupations, exchanged, species_counts, species_kinds
from segalflow.errors import EngineError
from segalflow.lattice import Supercell
from segalflow.units import BOLTZMANN_EV_PER_K


class TotalEnergyModel:
    """Base of models that know only total energies: gives them the rest of `ExchangeModel`."""

    n_species: np.ndarray
    kinds: np.ndarray

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.n_species)

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), of occupations, integers of shape (batch, n_sites)."""
        raise NotImplementedError

    def energy_changes(self, occupations: np.ndarray, site: np.ndarray | int, species: np.ndarray | int) -> np.ndarray:
        """Return E(after) - E(before), shape (batch,), when `site` takes `species` (see `ExchangeModel`).

        Raises:
            SamplingError: if a site does not exist or a species is not allowed there.
            EngineError: if an energy cannot be had.
        """
        before = checked_occupations(occupations, self.n_species)
        _, _, after = exchanged(before, site, species, self.n_species)
        return self._difference(before, after)

    def swap_changes(self, occupations: np.ndarray, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
        """Return E(after) - E(before), shape (batch,), when two sites swap species (see `ExchangeModel`).

        Raises:
            SamplingError: if a site does not exist or two sites do not allow the same species.
            EngineError: if an energy cannot be had.
        """
        before = checked_occupations(occupations, self.n_species)
        check_swap(first, second, self.kinds)
        rows = np.arange(len(before))
        _, _, between = exchanged(before, first, before[rows, second], self.n_species)
        _, _, after = exchanged(between, second, before[rows, first], self.n_species)
        return self._difference(before, after)

    def _difference(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        start, end = np.split(self.energy(np.concatenate([before, after])), 2)
        return end - start


@dataclass(frozen=True, eq=False)
class CalculatorModel(TotalEnergyModel):
    """Energies of an ASE calculator on the ideal positions of a cell; implements `EnergyModel` and `ExchangeModel`.

    Attributes:
        cell: the supercell.
        calculator: an ASE calculator that gives potential energies, eV.

    Raises:
        EngineError: if the lattice has a species that is no chemical element.
    """

    cell: Supercell
    calculator: Any
    boltzmann: float = BOLTZMANN_EV_PER_K
    energy_unit: str = "eV"

    def __post_init__(self) -> None:
        toys = [name for name in self.cell.lattice.elements if name not in chemical_symbols[1:]]
        if toys:
            raise EngineError(f"calculator: '{toys[0]}' is not a chemical element, no calculator can treat it")

    @functools.cached_property
    def n_species(self) -> np.ndarray:
        """Number of species per site, shape (n_sites,)."""
        return species_counts(self.cell)

    @functools.cached_property
    def kinds(self) -> np.ndarray:
        """Equal for sites that allow the same species, shape (n_sites,)."""
        return species_kinds(self.cell)

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return potential energies, shape (batch,), eV, of occupations, integers of shape (batch, n_sites).

        Equal decorations are calculated once.

        Raises:
            SamplingError: if a site holds a species it does not allow.
            EngineError: if the calculator fails or its energy is not a finite number.
        """
        occupations = checked_occupations(occupations, self.n_species)
        distinct, inverse = np.unique(occupations, axis=0, return_inverse=True)
        return np.array([self._calculate(row) for row in distinct])[inverse.ravel()]

    def _calculate(self, occupations: np.ndarray) -> float:
        atoms = self.cell.atoms(occupations)
        atoms.calc = self.calculator
        name = f"calculator {type(self.calculator).__name__}, decoration {atoms.get_chemical_formula()}"
        try:
            energy = float(atoms.get_potential_energy())
        except Exception as error:  # a calculator may raise anything
            raise EngineError(f"{name}: it failed with {type(error).__name__}: {error}") from error
        if not np.isfinite(energy):
            raise EngineError(f"{name}: expected a finite energy, found {energy}")
        return energy


@dataclass(frozen=True, eq=False)
class ModuleModel(TotalEnergyModel):
    """Energies of any callable, such as a PyTorch module; implements `EnergyModel` and `ExchangeModel`.

    Attributes:
        module: maps decorations, shape (batch, n_sites), to energies, shape (batch,) or (batch, 1), as an array or a
            tensor. A PyTorch module should be in evaluation mode; single precision limits energy changes.
        n_species: number of species per site, shape (n_sites,).
        kinds: equal for sites that allow the same species, shape (n_sites,); None: sites of equal `n_species`.
        to_input: turns the int64 array of decorations into what the module takes, e.g. ``torch.as_tensor``; None: the
            module takes the array.
        batch_size: most decorations in one call of the module.
        boltzmann: Boltzmann constant in the module's energy unit per temperature unit.
        energy_unit: ``"eV"`` or ``"J"``.
    """

    module: Callable[[Any], Any]
    n_species: np.ndarray
    kinds: np.ndarray | None = None
    to_input: Callable[[np.ndarray], Any] | None = None
    batch_size: int = 1024
    boltzmann: float = BOLTZMANN_EV_PER_K
    energy_unit: str = "eV"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_species", np.asarray(self.n_species))
        object.__setattr__(self, "kinds", self.n_species if self.kinds is None else np.asarray(self.kinds))

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return the module's energies, shape (batch,), of occupations, integers of shape (batch, n_sites).

        Raises:
            SamplingError: if a site holds a species it does not allow.
            EngineError: if the module fails, or does not give one finite energy for each decoration.
        """
        occupations = checked_occupations(occupations, self.n_species)
        parts = [occupations[i : i + self.batch_size] for i in range(0, len(occupations), self.batch_size)]
        return np.concatenate([np.zeros(0), *map(self._evaluate, parts)])

    def _evaluate(self, occupations: np.ndarray) -> np.ndarray:
        name = f"module {type(self.module).__name__}"
        try:
            result = self.module(occupations if self.to_input is None else self.to_input(occupations))
        except Exception as error:  # a module may raise anything
            raise EngineError(f"{name}: it failed with {type(error).__name__}: {error}") from error
        energies = np.asarray(result.detach().cpu() if hasattr(result, "detach") else result, dtype=float)
        batch = len(occupations)
        if energies.shape not in ((batch,), (batch, 1)):
            raise EngineError(f"{name}: expected energies of shape ({batch},), found {energies.shape}")
        if not np.isfinite(energies).all():
            raise EngineError(f"{name}: expected finite energies, found {energies[~np.isfinite(energies)][0]}")
        return energies.reshape(batch)
