"""What every sampler of a study is given, read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.cells import read_cell, read_grid
from segalflow.energy.polynomial import SpinPolynomial, place_expansion
from segalflow.ensemble import source_attributes
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell


@dataclass(frozen=True)
class SamplingInputs:
    """The system of one cell.

    Attributes:
        cell: the cell.
        model: the expansion's energy on it.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: K, shape (n_temperatures,).
        delta_mu: eV, shape (n_delta_mu,).
        attributes: what the ensemble table says about its source.
    """

    cell: Supercell
    model: SpinPolynomial
    species: tuple[str, ...]
    temperature: np.ndarray
    delta_mu: np.ndarray
    attributes: Mapping[str, Any]

    @property
    def system(self) -> tuple[SpinPolynomial, tuple[str, ...], np.ndarray, np.ndarray]:
        """The leading arguments of every ``sample_...`` function."""
        return self.model, self.species, self.temperature, self.delta_mu


def read_inputs(expansion: str | Path, cell: str | Path, grid: str | Path, name: str) -> SamplingInputs:
    """Read model file, cell and grid of the cell called `name`.

    Raises:
        ArtefactError: if a file is missing, damaged or of another schema.
        ExpansionError: if the expansion does not belong to the cell's lattice.
    """
    placed, conditions, fitted = read_cell(cell), read_grid(grid), read_expansion(expansion)
    return SamplingInputs(
        placed,
        place_expansion(fitted, placed),
        placed.lattice.species[0],
        conditions.temperature,
        conditions.delta_mu,
        source_attributes(name, fitted.reference, expansion),
    )
