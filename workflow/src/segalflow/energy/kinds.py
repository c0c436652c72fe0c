"""Kinds of Hamiltonian a study can name, and what the samplers can do with each: plain facts, checked before any job.

The models themselves are built by `segalflow.energy.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segalflow.errors import SettingsError, suggest

EXPANSION = "cluster_expansion"
ANY_MODEL = ("exact", "snis", "metropolis", "tempering")
"""Methods that ask a model only for energies; the others count in the terms of a spin polynomial."""
SPECIES_METHODS = ("exact", "snis", "metropolis")
"""Methods for more than two species."""
MAX_STATES = 5_000_000
"""Most decorations of an exact sum over more than two species."""


@dataclass(frozen=True)
class Kind:
    """A kind of Hamiltonian.

    Attributes:
        polynomial: whether it is a spin polynomial on every cell.
        fitted: whether it is made from a calculation's dataset (else it is given by its parameters).
        energy_unit: ``"eV"`` (temperatures in K), or ``"J"`` (temperatures in J/k_B).
        max_exact: largest cell of the exact sum.
        transfer_matrix: whether the exact sum of larger rectangular square cells comes from a transfer matrix.
        parameters: its parameters with their defaults.
    """

    polynomial: bool
    fitted: bool
    energy_unit: str = "eV"
    max_exact: int = 30
    transfer_matrix: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    EXPANSION: Kind(polynomial=True, fitted=True),
    "ising": Kind(True, False, "J", transfer_matrix=True, parameters={"coupling": 1.0}),
    # A network of total energies alone; every state of a cell above 20 sites is too many for it.
    "crystal_graph": Kind(False, True, max_exact=20),
    # The toy of Damewood et al. (2022): wells of depth, centre and width^2 in the magnetisation per spin.
    "legendre": Kind(
        False,
        False,
        "J",
        transfer_matrix=True,
        parameters={"coupling": 1.0, "wells": [[20.0, 0.5, 0.25], [25.0, -0.5, 0.25]]},
    ),
}


def kind_of(expansion: Mapping[str, Any]) -> str:
    """Return the kind that a block of ``expansions`` names."""
    return expansion.get("model", EXPANSION)


def check_kind(name: str, expansion: Mapping[str, Any]) -> None:
    """Check the block of one Hamiltonian.

    Raises:
        SettingsError: if a parameter is unknown or not a number, naming the key.
    """
    kind, given = kind_of(expansion), expansion.get("parameters", {})
    known = KINDS[kind].parameters
    for key, value in given.items():
        if key not in known:
            raise SettingsError(
                f"expansions.{name}.parameters: unknown parameter '{key}' of {kind}, expected "
                f"{'one of ' + ', '.join(known) if known else 'none'}{suggest(key, known)}"
            )
        if key == "wells":
            if not isinstance(value, list) or not all(
                isinstance(w, list) and len(w) == 3 and all(_is_number(v) for v in w) and w[2] > 0 for w in value
            ):
                raise SettingsError(
                    f"expansions.{name}.parameters.wells: expected a list of [depth, centre, width^2 > 0], "
                    f"found {value!r}"
                )
        elif not _is_number(value):
            raise SettingsError(f"expansions.{name}.parameters.{key}: expected a number, found {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_methods(name: str, kind: str, methods: list[str], n_sites: int, sides: tuple[int, int] | None) -> None:
    """Check that the methods of a cell can treat its Hamiltonian.

    Args:
        name: the cell's name.
        kind: the kind of its Hamiltonian.
        methods: its methods.
        n_sites: its number of sites.
        sides: of a rectangular square cell, else None.

    Raises:
        SettingsError: one sentence that names the method.
    """
    facts = KINDS[kind]
    for method in methods:
        if not facts.polynomial and method not in ANY_MODEL:
            raise SettingsError(
                f"cells.{name}.methods: '{method}' counts in the terms of a spin polynomial and cannot treat the model "
                f"'{kind}', expected some of {', '.join(ANY_MODEL)}"
            )
    if "exact" in methods and n_sites > facts.max_exact:
        if facts.transfer_matrix and sides is not None and 3 <= min(sides) <= 12:
            return
        more = ", or a square lattice of sides from 3 (the shorter one to 12)" if facts.transfer_matrix else ""
        raise SettingsError(
            f"cells.{name}.methods: 'exact' sums over all states and needs at most {facts.max_exact} sites{more}, "
            f"the cell has {n_sites}"
        )


def check_species_methods(name: str, methods: list[str], n_states: float) -> None:
    """Check the methods of a cell of more than two species.

    Args:
        name: the cell's name.
        methods: its methods.
        n_states: its number of decorations.

    Raises:
        SettingsError: one sentence that names the method.
    """
    for method in methods:
        if method not in SPECIES_METHODS:
            raise SettingsError(
                f"cells.{name}.methods: '{method}' treats two species, expected some of {', '.join(SPECIES_METHODS)}"
            )
    if "exact" in methods and n_states > MAX_STATES:
        raise SettingsError(
            f"cells.{name}.methods: 'exact' sums over at most {MAX_STATES:.3g} decorations, the cell has {n_states:.3g}"
        )
