"""From a model file to the energy on a cell: every sampler reads its Hamiltonian here and does not know its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segalflow.artefacts import read_json, write_json
from segalflow.energy.base import EnergyModel
from segalflow.energy.graph_energy import place_graph
from segalflow.energy.kinds import EXPANSION, KINDS
from segalflow.energy.polynomial import place_expansion
from segalflow.energy.site_functions import place_general
from segalflow.energy.toys import ising_model, legendre_model
from segalflow.errors import ArtefactError, ExpansionError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import ParentLattice, Supercell

SCHEMA = "segalflow.model/1"

Place = Callable[[Mapping[str, Any], Supercell, Path], EnergyModel]
PLACES: dict[str, Place] = {
    "crystal_graph": place_graph,
    "ising": lambda content, cell, _: ising_model(cell, **content["parameters"]),
    "legendre": lambda content, cell, _: legendre_model(cell, **content["parameters"]),
}
"""How each kind of model file becomes the energy of a cell; the path is for files beside it."""


@dataclass(frozen=True)
class ModelFile:
    """A Hamiltonian on disk.

    Attributes:
        kind: a key of `segalflow.energy.kinds.KINDS`.
        lattice: its parent lattice.
        reference: what zero energy means.
        place: gives the energy on a cell of the lattice.
    """

    kind: str
    lattice: ParentLattice
    reference: Mapping[str, Any]
    place: Callable[[Supercell], EnergyModel]


def write_model(path: str | Path, kind: str, lattice: ParentLattice, content: Mapping[str, Any]) -> None:
    """Write the model file of a Hamiltonian that is no cluster expansion.

    Args:
        path: the file.
        kind: a key of `PLACES`.
        lattice: parent lattice.
        content: ``parameters`` (missing ones take their defaults), ``reference`` and whatever the kind needs more.
    """
    facts = KINDS[kind]
    parameters = {**facts.parameters, **content.get("parameters", {})}
    described = {"kind": kind, "lattice": lattice.to_dict(), "energy_unit": facts.energy_unit}
    write_json(path, {"reference": {"kind": kind}, **content, **described, "parameters": parameters}, SCHEMA)


def read_model_file(path: str | Path) -> ModelFile:
    """Read the model file of any kind: a cluster expansion (also a published list) or a `write_model` file.

    Raises:
        ArtefactError: if the file is missing, damaged or of another schema.
        ExpansionError: if a cluster has an ECI but no figures.
    """
    content = read_json(path)
    if content.get("schema") != SCHEMA:
        expansion = read_expansion(path)
        put = place_expansion if expansion.lattice.is_binary else place_general
        return ModelFile(EXPANSION, expansion.lattice, expansion.reference, lambda cell: put(expansion, cell))
    try:
        kind, lattice = content["kind"], ParentLattice.from_dict(content["lattice"])
        place, reference = PLACES[kind], content["reference"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path}: incomplete model file, {type(error).__name__}: {error}") from None

    def placed(cell: Supercell) -> EnergyModel:
        if not lattice.same_as(cell.lattice):
            raise ExpansionError(
                f"{path}: the model is for lattice {lattice.to_dict()}, the cell has {cell.lattice.to_dict()}"
            )
        return place(content, cell, Path(path))

    return ModelFile(kind, lattice, reference, placed)


def read_energy_model(path: str | Path, cell: Supercell) -> EnergyModel:
    """Return the energy of a model file of any kind on a cell.

    Raises:
        ArtefactError: if the file is missing, damaged or of another schema.
        ExpansionError: if the model does not belong to the cell's lattice.
    """
    return read_model_file(path).place(cell)
