"""The cluster-expansion model file: clusters, their figures, their ECIs and the errors of these.

The energy of a decoration is ``E = N sum_a ECI_a <prod over figure a of point functions>`` with the mean taken over all
primitive cells and all symmetry-equivalent figures and decorations, periodic images wrapped. ECIs are eV per site and
hold no multiplicity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.artefacts import read_json, write_json
from segalflow.errors import ArtefactError, ExpansionError
from segalflow.lattice import ParentLattice, parent_lattice

SCHEMA = "segalflow.expansion/1"


@dataclass(frozen=True, eq=False)
class Cluster:
    """One symmetry class of figures.

    Attributes:
        name: unique name, e.g. CLEASE's ``c2_d0000_0_00``.
        order: number of sites in a figure (0: the constant, 1: points).
        diameter: largest distance between two of its sites, Angstrom.
        figures: integers, shape (n_figures, order, 4): sites as (sublattice, i, j, k); one entry per translation class.
        decorations: integers, shape (n_figures, order): the point function on each site of each figure.
        eci: effective cluster interaction, eV per site.
        eci_stderr: its standard error, eV per site (NaN when the fit gives none).
    """

    name: str
    order: int
    diameter: float
    figures: np.ndarray
    decorations: np.ndarray
    eci: float = 0.0
    eci_stderr: float = float("nan")

    @property
    def multiplicity(self) -> int:
        """Number of figures (with decorations) per primitive cell."""
        return len(self.figures)


@dataclass(frozen=True, eq=False)
class ClusterExpansion:
    """A fitted or published cluster expansion.

    Attributes:
        lattice: parent lattice with its species.
        point_functions: per sublattice, a tuple of functions; each function is a tuple of values, one per species.
        clusters: the clusters; names are unique.
        reference: what zero energy means, e.g. ``{"kind": "formation", "end_members": {"Cu": -0.007, "Au": ...}}``.
        eci_covariance: covariance of the ECIs in the order of `clusters`, or None.
        notes: anything else a reader wants (fit method, data, hashes).
    """

    lattice: ParentLattice
    point_functions: tuple[tuple[tuple[float, ...], ...], ...]
    clusters: tuple[Cluster, ...]
    reference: Mapping[str, Any]
    eci_covariance: np.ndarray | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [c.name for c in self.clusters]
        if len(set(names)) != len(names):
            raise ExpansionError(f"cluster expansion: cluster names are not unique: {sorted(names)}")

    @property
    def ecis(self) -> dict[str, float]:
        """ECI by cluster name, eV per site."""
        return {c.name: c.eci for c in self.clusters}

    def write(self, path: str | Path) -> None:
        """Write the model file (schema ``segalflow.expansion/1``)."""
        write_json(
            path,
            {
                "lattice": self.lattice.to_dict(),
                "point_functions": self.point_functions,
                "energy": "E_total(eV) = n_sites * sum of eci * mean over cells and figures of point-function products",
                "reference": self.reference,
                "clusters": [
                    {
                        "name": c.name,
                        "order": c.order,
                        "diameter": c.diameter,
                        "multiplicity": c.multiplicity,
                        "eci": c.eci,
                        "eci_stderr": c.eci_stderr,
                        "figures": c.figures,
                        "decorations": c.decorations,
                    }
                    for c in self.clusters
                ],
                "eci_covariance": self.eci_covariance,
                "notes": dict(self.notes),
            },
            SCHEMA,
        )


def read_expansion(path: str | Path) -> ClusterExpansion:
    """Read a model file, or a published list of figures and ECIs (told apart by the ``schema`` key).

    Raises:
        ArtefactError: if the file is missing, cut short, or neither format.
        ExpansionError: if a cluster has an ECI but no figures.
    """
    content = read_json(path)
    try:
        if content.get("schema") == SCHEMA:
            return _from_model_file(content)
        if "schema" not in content and "spin_convention" in content:
            return _from_published(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path}: incomplete cluster expansion, {type(error).__name__}: {error}") from None
    raise ArtefactError(f"{path}: expected schema '{SCHEMA}' or a published list of figures and ECIs")


def _figures(raw: Any, order: int, name: str) -> np.ndarray:
    figures = np.array(raw, dtype=np.int64)
    if order == 0:
        return np.zeros((1, 0, 4), dtype=np.int64)
    if figures.ndim != 3 or figures.shape[1:] != (order, 4) or not len(figures):
        raise ExpansionError(
            f"cluster '{name}': expected figures of {order} sites (sublattice, i, j, k), found shape {figures.shape}"
        )
    return figures


def _from_model_file(content: Mapping[str, Any]) -> ClusterExpansion:
    clusters = []
    for c in content["clusters"]:
        figures = _figures(c["figures"], c["order"], c["name"])
        clusters.append(
            Cluster(
                c["name"],
                c["order"],
                c["diameter"],
                figures,
                np.array(c["decorations"], dtype=np.int64).reshape(len(figures), c["order"]),
                c["eci"],
                float("nan") if c["eci_stderr"] is None else c["eci_stderr"],
            )
        )
    covariance = content.get("eci_covariance")
    return ClusterExpansion(
        ParentLattice.from_dict(content["lattice"]),
        tuple(tuple(tuple(f) for f in functions) for functions in content["point_functions"]),
        tuple(clusters),
        content["reference"],
        None if covariance is None else np.array(covariance),
        content.get("notes", {}),
    )


def translation_classes(figures: np.ndarray) -> np.ndarray:
    """Keep one figure of every translation class; figures (n, order, 4) on one sublattice."""
    seen: dict[tuple, np.ndarray] = {}
    for figure in figures:
        ordered = figure[np.lexsort(figure.T[::-1])]
        shifted = ordered.copy()
        shifted[:, 1:] -= ordered[0, 1:]
        seen.setdefault(tuple(map(tuple, shifted)), shifted)
    return np.array([seen[key] for key in sorted(seen)])


def _from_published(content: Mapping[str, Any]) -> ClusterExpansion:
    """A published list: +-1 spins, figures through the origin in units of half the lattice constant, Cartesian."""
    constant = content["lattice_constant_A"]
    spin = content["spin_convention"]
    species = sorted(spin, key=lambda name: spin[name])  # the -1 species is the reference of dmu
    lattice = parent_lattice(content["lattice"], constant, species)
    to_primitive = np.linalg.inv(lattice.cell) * (constant / 2)
    clusters = []
    for c in content["clusters"]:
        order, name = c["order"], c["name"]
        if order == 0:
            figures, diameter = np.zeros((1, 0, 4), dtype=np.int64), 0.0
        elif order == 1:
            figures, diameter = np.zeros((1, 1, 4), dtype=np.int64), 0.0
        else:
            raw = c.get("all_figures_through_origin_in_units_of_a_over_2")
            if not raw:
                raise ExpansionError(f"cluster '{name}': it has an ECI but no figures")
            offsets = np.array(raw) @ to_primitive
            whole = np.round(offsets).astype(np.int64)
            if np.abs(offsets - whole).max() > 1e-6 or whole.shape[1:] != (order, 3):
                raise ExpansionError(f"cluster '{name}': a figure's sites are not on the {content['lattice']} lattice")
            figures = translation_classes(np.concatenate([np.zeros((*whole.shape[:2], 1), np.int64), whole], axis=2))
            diameter = max(c["pair_distances_A"])
        clusters.append(
            Cluster(name, order, diameter, figures, np.zeros(figures.shape[:2], np.int64), c["eci_eV_per_atom"])
        )
    values = tuple(float(spin[name]) for name in species)
    return ClusterExpansion(
        lattice,
        ((values,),),
        tuple(clusters),
        {"kind": "published", "meaning": content.get("energy_meaning", "")},
        notes={"source": content.get("source", "")},
    )
