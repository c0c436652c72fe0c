"""What every sampler of a study is given, read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.cells import Grid, read_cell, read_grid
from segalflow.energy.base import EnergyModel
from segalflow.energy.registry import read_model_file
from segalflow.ensemble import source_attributes
from segalflow.errors import SamplingError
from segalflow.lattice import Supercell


@dataclass(frozen=True)
class SamplingInputs:
    """The system of one cell.

    Attributes:
        cell: the cell.
        model: the Hamiltonian's energy on it, of any kind.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: K (or J/k_B), shape (n_temperatures,).
        delta_mu: eV (or J), shape (n_delta_mu,).
        attributes: what the ensemble table says about its source.
        grid: the grid file's content.
    """

    cell: Supercell
    model: EnergyModel
    species: tuple[str, ...]
    temperature: np.ndarray
    delta_mu: np.ndarray
    attributes: Mapping[str, Any]
    grid: Grid

    @property
    def system(self) -> tuple[EnergyModel, tuple[str, ...], np.ndarray, np.ndarray]:
        """The leading arguments of every ``sample_...`` function."""
        return self.model, self.species, self.temperature, self.delta_mu


def read_inputs(model: str | Path, cell: str | Path, grid: str | Path, name: str) -> SamplingInputs:
    """Read model file, cell and grid of the cell called `name`.

    Raises:
        ArtefactError: if a file is missing, damaged or of another schema.
        ExpansionError: if the Hamiltonian does not belong to the cell's lattice.
    """
    placed, conditions, found = read_cell(cell), read_grid(grid), read_model_file(model)
    return SamplingInputs(
        placed,
        found.place(placed),
        placed.lattice.species[0],
        conditions.temperature,
        conditions.delta_mu,
        source_attributes(name, found.reference, model),
        conditions,
    )


def check_grid(temperature: np.ndarray, delta_mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return temperatures and delta_mu as arrays of floats.

    Raises:
        SamplingError: if a temperature is not positive, or they or delta_mu do not increase.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    if temperature.ndim != 1 or not len(temperature) or np.any(temperature <= 0) or np.any(np.diff(temperature) <= 0):
        raise SamplingError(f"temperatures must be positive and increasing, found {temperature.tolist()}")
    if delta_mu.ndim != 1 or not len(delta_mu) or np.any(np.diff(delta_mu) <= 0):
        raise SamplingError(f"delta_mu must be increasing, found {delta_mu.tolist()}")
    return temperature, delta_mu
