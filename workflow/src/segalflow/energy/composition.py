"""A spin polynomial with a further energy that depends on the composition alone: exact, and nearly as fast.

``U(s) = polynomial(s) + table[N_1]`` with N_1 the number of species-1 atoms. Sums by composition only shift by the
table, and the change of one flip is a local field and a difference of the table.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.polynomial import SpinPolynomial, model_fingerprint
from segalflow.errors import SamplingError


@dataclass(frozen=True, eq=False)
class CompositionPolynomial:
    """A polynomial in +-1 spins plus a table over the composition; implements `EnergyModel` and `LocalFieldModel`.

    Attributes:
        polynomial: the part that depends on the decoration.
        by_composition: the further energy by the number of species-1 atoms, shape (n_sites + 1,), in its unit.

    Raises:
        SamplingError: if the table has not n_sites + 1 finite entries.
    """

    polynomial: SpinPolynomial
    by_composition: np.ndarray

    def __post_init__(self) -> None:
        table = np.ascontiguousarray(self.by_composition, dtype=float)
        if table.shape != (self.n_sites + 1,) or not np.isfinite(table).all():
            raise SamplingError(
                f"energy by composition: expected {self.n_sites + 1} finite values, found shape {table.shape}"
            )
        object.__setattr__(self, "by_composition", table)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return self.polynomial.n_sites

    @property
    def n_species(self) -> np.ndarray:
        """Two species on every site, shape (n_sites,)."""
        return self.polynomial.n_species

    @property
    def boltzmann(self) -> float:
        """Boltzmann constant in the model's units."""
        return self.polynomial.boltzmann

    @property
    def energy_unit(self) -> str:
        """``"eV"`` or ``"J"``."""
        return self.polynomial.energy_unit

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of both parts (`model_fingerprint`)."""
        table = " ".join(f"{v:.12e}" for v in self.by_composition.tolist())
        return hashlib.sha256(f"{model_fingerprint(self.polynomial)} {table}".encode()).hexdigest()

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), of occupations 0/1, shape (batch, n_sites)."""
        return self.energy_of_spins(2 * np.asarray(occupations, dtype=np.int8) - 1)

    def energy_of_spins(self, spins: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), of +-1 spins, shape (batch, n_sites)."""
        spins = np.atleast_2d(spins)
        return self.polynomial.energy_of_spins(spins) + self.by_composition[(spins > 0).sum(axis=1)]

    def local_fields(self, spins: np.ndarray) -> np.ndarray:
        """Return h with ``E = s_i h_i + rest``, shape (batch, n_sites), of +-1 spins, shape (batch, n_sites)."""
        spins = np.atleast_2d(spins)
        others = (spins > 0).sum(axis=1)[:, None] - (spins > 0)
        return self.polynomial.local_fields(spins) + 0.5 * np.diff(self.by_composition)[others]

    def fields_at(self, spins: np.ndarray, site: int) -> np.ndarray:
        """Return column `site` of `local_fields`, shape (batch,)."""
        table = self.polynomial.site_table
        fields = np.empty(len(spins))
        _fields_at(
            spins, site, table.start, table.coefficient, table.n_others, table.others, self.by_composition, fields
        )
        return fields


@numba.njit(cache=True, fastmath=False)
def _fields_at(spins, site, start, coefficient, n_others, others, table, fields):  # pragma: no cover - compiled
    for b in range(spins.shape[0]):
        up = 0
        for i in range(spins.shape[1]):
            if i != site and spins[b, i] > 0:
                up += 1
        total = 0.5 * (table[up + 1] - table[up])
        for t in range(start[site], start[site + 1]):
            product = 1
            for k in range(n_others[t]):
                product *= spins[b, others[t, k]]
            total += coefficient[t] * product
        fields[b] = total
