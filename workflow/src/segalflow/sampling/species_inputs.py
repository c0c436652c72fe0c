"""What every sampler of more than two species is given, read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.cells import AxesGrid, read_axes, read_cell
from segalflow.energy.base import EnergyModel
from segalflow.energy.registry import read_model_file
from segalflow.ensemble import source_attributes
from segalflow.lattice import Supercell


@dataclass(frozen=True)
class SpeciesInputs:
    """The system of one cell.

    Attributes:
        cell: the cell.
        model: the Hamiltonian's energy on it.
        grid: temperatures and the delta_mu of every exchange.
        attributes: what the ensemble table says about its source.
    """

    cell: Supercell
    model: EnergyModel
    grid: AxesGrid
    attributes: Mapping[str, Any]

    @property
    def system(self) -> tuple[EnergyModel, Supercell, np.ndarray, tuple[np.ndarray, ...]]:
        """The leading arguments of the methods that need no network."""
        return self.model, self.cell, self.grid.temperature, self.grid.axes


def read_species_inputs(model: str | Path, cell: str | Path, grid: str | Path, name: str) -> SpeciesInputs:
    """Read model file, cell and grid of the cell called `name`.

    Raises:
        ArtefactError: if a file is missing, damaged or of another schema.
        ExpansionError: if the Hamiltonian does not belong to the cell's lattice.
    """
    placed, found = read_cell(cell), read_model_file(model)
    return SpeciesInputs(placed, found.place(placed), read_axes(grid), source_attributes(name, found.reference, model))
