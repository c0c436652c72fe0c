"""Chemical potentials of any number of species and sublattices: one delta_mu for every exchange of species."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segalflow.errors import SamplingError
from segalflow.lattice import Supercell


@dataclass(frozen=True, eq=False)
class ExchangePotentials:
    """The exchanges of a cell: on every sublattice each further species for the first one, its reference.

    Equal exchanges of several sublattices share one delta_mu. A binary has one, a ternary two.

    Attributes:
        pairs: (reference, species) of every exchange; its delta_mu is mu(species) - mu(reference).
        column: number of the exchange that puts a species on a site, -1 for the reference, (n_sites, max_species).
        elements: all species of the cell.
        element: number of the element, -1 for species that a site does not allow, shape (n_sites, max_species).
    """

    pairs: tuple[tuple[str, str], ...]
    column: np.ndarray
    elements: tuple[str, ...]
    element: np.ndarray

    @classmethod
    def of(cls, cell: Supercell) -> ExchangePotentials:
        """Return the exchanges of a cell.

        Raises:
            SamplingError: if exchanges depend on each other (A for B on one sublattice, B for A on another).
        """
        lattice = cell.lattice
        pairs = tuple(dict.fromkeys((names[0], name) for names in lattice.species for name in names[1:]))
        group = {name: {name} for name in lattice.elements}
        for reference, name in pairs:
            if group[reference] is group[name]:
                raise SamplingError(
                    f"lattice.species: the exchange of {name} for {reference} follows from those of other sublattices "
                    f"({[list(names) for names in lattice.species]}); name one reference first on every sublattice"
                )
            joined = group[reference] | group[name]
            group |= dict.fromkeys(joined, joined)
        width = max(len(names) for names in lattice.species)
        column, element = np.full((2, lattice.n_sublattices, width), -1)
        for s, names in enumerate(lattice.species):
            element[s, : len(names)] = [lattice.elements.index(name) for name in names]
            column[s, 1 : len(names)] = [pairs.index((names[0], name)) for name in names[1:]]
        return cls(pairs, column[cell.sites[:, 0]], lattice.elements, element[cell.sites[:, 0]])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the exchanges, e.g. ``Au-Cu`` for mu(Au) - mu(Cu)."""
        return tuple(f"{name}-{reference}" for reference, name in self.pairs)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the exchanges in a config: the species that comes in, or the label where two exchanges bring it."""
        brought = [name for _, name in self.pairs]
        return tuple(name if brought.count(name) == 1 else f"{name}-{first}" for first, name in self.pairs)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.column)

    def on_sites(self, delta_mu: np.ndarray) -> np.ndarray:
        """Return the chemical potential of every species on every site, (batch, n_sites, max_species); references 0.

        `delta_mu` has shape (batch, n_exchanges).
        """
        padded = np.concatenate([delta_mu, np.zeros((len(delta_mu), 1))], axis=1)
        return padded[:, self.column]

    def counts(self, occupations: np.ndarray) -> np.ndarray:
        """Return how often every exchange was made, int64 (batch, n_exchanges): N of delta_mu N."""
        return self._count(self.column, occupations, len(self.pairs))

    def composition(self, occupations: np.ndarray) -> np.ndarray:
        """Return the fraction of sites that each element holds, float64 (batch, n_elements)."""
        return self._count(self.element, occupations, len(self.elements)) / self.n_sites

    def composition_of(self, counts: np.ndarray) -> np.ndarray:
        """Return the fraction of sites that each element holds, (..., n_elements), from `counts`, (..., n_exchanges).

        Every site begins with its reference, and each exchange takes one atom of its reference away.
        """
        change = np.zeros((len(self.pairs), len(self.elements)))
        for number, pair in enumerate(self.pairs):
            for name, sign in zip(pair, (-1.0, 1.0), strict=True):
                change[number, self.elements.index(name)] += sign
        before = np.bincount(self.element[:, 0], minlength=len(self.elements))
        return (before + counts @ change) / self.n_sites

    def _count(self, table: np.ndarray, occupations: np.ndarray, n: int) -> np.ndarray:
        found = table[np.arange(self.n_sites), occupations]
        return np.stack([(found == number).sum(axis=1) for number in range(n)], axis=1)

    def check(self, delta_mu: np.ndarray, batch: int) -> np.ndarray:
        """Return delta_mu as float64 (batch, n_exchanges).

        Raises:
            SamplingError: if it has another shape.
        """
        delta_mu = np.asarray(delta_mu, dtype=float)
        if delta_mu.shape != (batch, len(self.pairs)):
            raise SamplingError(
                f"delta_mu: expected shape ({batch}, {len(self.pairs)}), one column for each of "
                f"{', '.join(self.labels)}, found {delta_mu.shape}"
            )
        return delta_mu


def grid_conditions(temperature: np.ndarray, axes: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return temperature (n,) and delta_mu (n, n_exchanges) of all conditions of a grid, the last axis fastest."""
    mesh = [axis.ravel() for axis in np.meshgrid(temperature, *axes, indexing="ij")]
    return mesh[0].astype(float), np.stack(mesh[1:], axis=1).astype(float)
