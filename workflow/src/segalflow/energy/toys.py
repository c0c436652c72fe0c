"""Model Hamiltonians in units of their coupling: J = k_B = 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from segalflow.energy.composition import CompositionPolynomial
from segalflow.energy.polynomial import SpinPolynomial, ising_polynomial
from segalflow.lattice import Supercell, square_sides


@dataclass(frozen=True, eq=False)
class SquareIsing(SpinPolynomial):
    """The Ising model on a rectangular part of the square lattice, periodic: a polynomial with an exact solution.

    Attributes:
        sides: rows and columns.
        coupling: J.
    """

    sides: tuple[int, int] = (0, 0)
    coupling: float = 1.0


def ising_model(cell: Supercell, coupling: float = 1.0) -> SpinPolynomial:
    """Return ``U = -J sum_<ij> s_i s_j`` over nearest neighbours; a `SquareIsing` where its sides are at least 3."""
    model, sides = ising_polynomial(cell, coupling), square_sides(cell)
    if sides is None or min(sides) < 3:
        return model
    given = {f.name: getattr(model, f.name) for f in fields(SpinPolynomial)}
    return SquareIsing(**given, sides=sides, coupling=float(coupling))


def legendre_model(cell: Supercell, coupling: float, wells: Sequence[Sequence[float]]) -> CompositionPolynomial:
    """Return the Ising model with wells in the magnetisation per spin m (the toy of Damewood et al. 2022).

    ``U = -J sum_<ij> s_i s_j - sum_w depth exp(-(m - centre)^2 / width^2)``: two phases whose free energies have a
    common tangent.

    Args:
        cell: the cell.
        coupling: J.
        wells: (depth in J, centre, width^2) of each.
    """
    m = 2.0 * np.arange(cell.n_sites + 1) / cell.n_sites - 1.0
    table = -sum((d * np.exp(-((m - c) ** 2) / w) for d, c, w in wells), np.zeros(len(m)))
    return CompositionPolynomial(ising_model(cell, coupling), table)
