"""Energies of a crystal-graph network on a cell: the trained network's twin in one compiled pass, without PyTorch.

The graph joins every site to all sites of whole neighbour shells up to a cut-off, so equal surroundings look equal on
every cell. A convolution adds to each site's features the gated sum over its neighbours (Xie & Grossman, Phys. Rev.
Lett. 120, 145301 (2018)); the energy per site is read from their mean. All decorations of a cell share the graph.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.artefacts import atomic_path
from segalflow.compilation import numba
from segalflow.energy.adapters import TotalEnergyModel
from segalflow.energy.base import checked_occupations
from segalflow.errors import ArtefactError, ExpansionError
from segalflow.lattice import ParentLattice, Supercell
from segalflow.provenance import file_sha256
from segalflow.units import BOLTZMANN_EV_PER_K

WEIGHTS_FILE = "weights.safetensors"
"""Name of the file of weights beside the model file."""
NAMES = ("embedding", "own", "other", "shell", "scale", "shift", "hidden", "hidden_bias", "output", "pure")
"""Arrays of a network: see `GraphModel.weights`."""
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Shells:
    """Whole neighbour shells of a lattice of one sublattice.

    Attributes:
        radii: their radii, Angstrom, shape (n_shells,).
        vectors: lattice vectors to all neighbours by shell, Angstrom, shape (n_neighbours, 3).
        shell: number of the shell of each, shape (n_neighbours,).
    """

    radii: np.ndarray
    vectors: np.ndarray
    shell: np.ndarray


def neighbour_shells(lattice: ParentLattice, cutoff: float) -> Shells:
    """Return all neighbours of a site within a cut-off (Angstrom); shells are never cut.

    Raises:
        ExpansionError: if the lattice has several sublattices or no neighbour is within the cut-off.
    """
    if lattice.n_sublattices != 1:
        raise ExpansionError("crystal graph: expected a lattice of one sublattice")
    # A lattice vector of length R has no coefficient above R times the longest reciprocal vector.
    reach = int(np.ceil(cutoff * np.linalg.norm(np.linalg.inv(lattice.cell), axis=0).max())) + 1
    ranges = [np.arange(-reach, reach + 1) if periodic else np.zeros(1, int) for periodic in lattice.pbc]
    vectors = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3) @ lattice.cell
    length = np.linalg.norm(vectors, axis=1)
    kept = (length > _TOLERANCE) & (length <= cutoff + _TOLERANCE)
    if not kept.any():
        nearest = length[length > _TOLERANCE].min()
        raise ExpansionError(f"crystal graph: the cut-off {cutoff} A is below the nearest distance, {nearest:.3f} A")
    radii, shell = np.unique(np.round(length[kept], 4), return_inverse=True)
    order = np.lexsort((*np.round(vectors[kept], 4).T, shell))
    return Shells(radii, vectors[kept][order], shell.ravel()[order])


def neighbour_table(positions: np.ndarray, cell: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the site at the end of each vector from each site, int64 (n_sites, n_neighbours), images wrapped.

    Args:
        positions: ideal positions, Angstrom, shape (n_sites, 3).
        cell: cell vectors as rows, Angstrom.
        vectors: shape (n_neighbours, 3).

    Raises:
        ExpansionError: if a vector ends on no site: the positions are not those of the lattice.
    """
    inverse = np.linalg.inv(cell)
    sites, steps = positions @ inverse, vectors @ inverse
    table = np.empty((len(sites), len(steps)), dtype=np.int64)
    for i, site in enumerate(sites):
        apart = (site + steps)[:, None, :] - sites
        distance = np.abs((apart - np.round(apart)) @ cell).max(axis=2)
        table[i] = distance.argmin(axis=1)
        if distance.min(axis=1).max() > 1e-2:
            raise ExpansionError("crystal graph: the structure's positions are not on the ideal lattice")
    return table


@dataclass(frozen=True, eq=False)
class GraphModel(TotalEnergyModel):
    """A trained crystal-graph network on one cell; implements `EnergyModel` and `ExchangeModel`.

    Attributes:
        neighbours: neighbours of every site, shape (n_sites, n_neighbours).
        shell: number of each neighbour's shell, shape (n_neighbours,).
        weights: float32 arrays named `NAMES`: ``embedding`` (n_species, F); per convolution ``own`` and ``other``
            (layers, F, 2F), ``shell`` (layers, n_shells, 2F), ``scale`` and ``shift`` (layers, F) of the sum over
            neighbours; ``hidden`` (F, H), ``hidden_bias`` (H,), ``output`` (H,) in eV per site, and ``pure``
            (n_species,) what it gives the pure species: energies are relative to these, so they end in zero.
    """

    neighbours: np.ndarray
    shell: np.ndarray
    weights: Mapping[str, np.ndarray]
    boltzmann: float = BOLTZMANN_EV_PER_K
    energy_unit: str = "eV"

    @functools.cached_property
    def n_species(self) -> np.ndarray:
        """Number of species per site, shape (n_sites,)."""
        return np.full(len(self.neighbours), len(self.weights["embedding"]))

    @property
    def kinds(self) -> np.ndarray:
        """All sites allow the same species, shape (n_sites,)."""
        return np.zeros(len(self.neighbours), dtype=np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the graph and the weights."""
        digest = hashlib.sha256(np.ascontiguousarray(self.neighbours, np.int64).tobytes())
        for name in NAMES:
            digest.update(np.ascontiguousarray(self.weights[name], np.float32).tobytes())
        return digest.hexdigest()

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return total energies, shape (batch,), eV, of occupations, integers of shape (batch, n_sites).

        Raises:
            SamplingError: if a site holds a species it does not allow.
        """
        occupations = checked_occupations(occupations, self.n_species)
        per_site = np.empty(len(occupations))
        _energies(occupations, self.neighbours, self.shell, *(self.weights[name] for name in NAMES), per_site)
        return per_site * self.n_sites


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def gated_sums(mine, theirs, shell_weights, neighbours, shells, total):  # pragma: no cover - compiled
    """Write the sum over neighbours of gate(f) activation(g), (n, F); (f, g) = mine_i + theirs_j + shell_s.

    ``gate(f) = (1 + f / sqrt(1 + f^2)) / 2`` and ``activation(g) = (g + sqrt(1 + g^2)) / 2``; all arrays float32.
    """
    one = np.float32(1.0)
    n, width = total.shape
    f_part = np.empty((shell_weights.shape[0], width), dtype=np.float32)
    g_part = np.empty((shell_weights.shape[0], width), dtype=np.float32)
    for i in range(n):
        for s in range(shell_weights.shape[0]):
            for h in range(width):
                f_part[s, h] = mine[i, h] + shell_weights[s, h]
                g_part[s, h] = mine[i, width + h] + shell_weights[s, width + h]
        out = total[i]
        out[:] = np.float32(0.0)
        for k in range(shells.shape[0]):
            row, f_here, g_here = theirs[neighbours[i, k]], f_part[shells[k]], g_part[shells[k]]
            for h in range(width):
                f = f_here[h] + row[h]
                g = g_here[h] + row[width + h]
                out[h] += (one + f / np.sqrt(one + f * f)) * (g + np.sqrt(one + g * g))
        for h in range(width):
            out[h] *= np.float32(0.25)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _energies(
    occupations, neighbours, shells, embedding, own, other, shell_weights, scale, shift, hidden, hidden_bias, output,
    pure, per_site,
):  # pragma: no cover - compiled  # fmt: skip
    n = neighbours.shape[0]
    layers, width = scale.shape
    half, one = np.float32(0.5), np.float32(1.0)
    v, total = np.empty((n, width), dtype=np.float32), np.empty((n, width), dtype=np.float32)
    pooled = np.empty(width, dtype=np.float32)
    for b in range(occupations.shape[0]):
        for i in range(n):
            v[i] = embedding[occupations[b, i]]
        for layer in range(layers):
            gated_sums(np.dot(v, own[layer]), np.dot(v, other[layer]), shell_weights[layer], neighbours, shells, total)
            for i in range(n):
                for h in range(width):
                    y = v[i, h] + total[i, h] * scale[layer, h] + shift[layer, h]
                    v[i, h] = half * (y + np.sqrt(one + y * y))
        for h in range(width):
            pooled[h] = np.float32(0.0)
            for i in range(n):
                pooled[h] += v[i, h]
            pooled[h] /= np.float32(n)
        energy = 0.0
        for i in range(n):
            energy -= pure[occupations[b, i]] / n
        for m in range(hidden.shape[1]):
            y = hidden_bias[m]
            for h in range(width):
                y += pooled[h] * hidden[h, m]
            energy += output[m] * half * (y + np.sqrt(one + y * y))
        per_site[b] = energy


def write_weights(path: str | Path, weights: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write the weights beside a model file and return what the model file must say of them."""
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(weights[name], np.float32) for name in NAMES}, temporary)
    return {"file": Path(path).name, "sha256": file_sha256(path)}


def place_graph(content: Mapping[str, Any], cell: Supercell, path: Path) -> GraphModel:
    """Return the energy of a crystal-graph model file on a cell.

    Raises:
        ArtefactError: if the weights are missing, damaged, or not those of the model file.
    """
    from safetensors.numpy import load_file

    file = path.with_name(content["weights"]["file"])
    if not file.is_file() or file_sha256(file) != content["weights"]["sha256"]:
        raise ArtefactError(f"{file}: not the weights that {path} describes; train the network again")
    weights = load_file(file)
    shells = neighbour_shells(cell.lattice, content["parameters"]["cutoff"])
    return GraphModel(neighbour_table(cell.positions, cell.cell, shells.vectors), shells.shell, weights)
