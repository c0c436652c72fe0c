"""A calculator whose energies converge with a cut-off and a mesh, as those of plane waves do, in no time at all."""

from __future__ import annotations

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class PlaneWaves(Calculator):
    """Pair-free energies: an error that every atom has alike falls with `cutoff`, one of unlike pairs with `mesh`.

    Args:
        cutoff: eV.
        mesh: k-points per inverse Angstrom.
    """

    implemented_properties = ("energy", "forces", "stress")
    OWN = {"Cu": -3.7, "Au": -3.2}  # noqa: RUF012

    def __init__(self, cutoff: float = 400.0, mesh: float = 4.0, **keywords) -> None:
        super().__init__(**keywords)
        self.cutoff, self.mesh = cutoff, mesh

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if self.mesh < 1:
            raise RuntimeError("the mesh has no points")
        symbols = self.atoms.get_chemical_symbols()
        x = symbols.count("Au") / len(symbols)
        per_atom = sum(self.OWN[s] for s in symbols) / len(symbols) + 2.0 * np.exp(-self.cutoff / 80.0)
        per_atom += x * (1 - x) * (-0.2 + 0.5 * np.exp(-self.mesh))
        self.results = {
            "energy": per_atom * len(symbols),
            "forces": np.zeros((len(symbols), 3)),
            "stress": np.zeros(6),
        }
