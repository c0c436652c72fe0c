"""Transfer: a network trained on one cell serves, or starts the training of, a larger one.

Weights that depend on displacements only go over as they are. What belongs to single sites differs between them
because sites near the start of the order have fewer placed neighbours; along each axis of the cell the sites within the
window's reach of either end are matched with their likes, and all between get the mean over the source's sites between.
Where the target knows its sites by features, it gets what comes nearest to these values.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import torch

from segalflow.errors import TrainingError
from segalflow.lattice import Supercell
from segalflow.segal.network import SITE_PARAMETERS, PhysicsNetwork

_PER_SITE = (*SITE_PARAMETERS, "site_bias.weight", "site_bias.bias")


def transfer_weights(source: PhysicsNetwork, source_cell: Supercell, target: PhysicsNetwork, cell: Supercell) -> None:
    """Set the weights of `target`, a fresh network of `cell`, from those of `source`, trained on `source_cell`.

    Raises:
        TrainingError: if the networks or lattices differ, a cell is not a diagonal repeat of the primitive one, or the
            source is too small for its window (no site between the reaches of both ends).
    """
    _check(source, source_cell, target, cell)
    here, there = (_displacements(n, c) for n, c in ((target, cell), (source, source_cell)))
    number = {_key(source_cell, vector): row for row, vector in enumerate(there)}
    rows = np.array([number.get(_key(source_cell, vector), -1) for vector in here])
    if (rows < 0).any():
        raise TrainingError(
            "segal.start_from: the window of the network reaches displacements that the smaller cell "
            f"{np.diag(source_cell.matrix).tolist()} does not have; give both cells one window, at most half a cell"
        )
    likes = _site_likes(source_cell, cell, np.abs(there[:, 2:]).max(axis=0))
    old, new = source.state_dict(), target.state_dict()
    for name, value in new.items():
        if name in _PER_SITE:
            known = old[name] if source.features is None else source.features @ old[name]
            matched = torch.stack([known[sites].mean(dim=0) for sites in likes])
            value.copy_(matched if target.features is None else _fitted(target.features, matched))
        elif name != "features":
            value.copy_(old[name][torch.from_numpy(rows)] if name == "w1" else old[name])


def _fitted(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the coefficients, (n_features, ...), whose values on all sites, (n_sites, ...), are nearest."""
    flat = values.reshape(len(values), -1).double()
    return torch.linalg.lstsq(features.double(), flat).solution.reshape(-1, *values.shape[1:]).float()


def weights_hash(network: torch.nn.Module) -> str:
    """Return a hash of all weights of a network, 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check(source: PhysicsNetwork, source_cell: Supercell, target: PhysicsNetwork, cell: Supercell) -> None:
    for network in (source, target):
        if not isinstance(network, PhysicsNetwork):
            raise TrainingError(f"segal.start_from: expected networks of kind 'physics', found '{network.kind}'")
    if (source.hidden, source.n_classes) != (target.hidden, target.n_classes):
        raise TrainingError(
            f"segal.start_from: the networks differ: {source.hidden} hidden units and {source.n_classes} classes of "
            f"fields, expected {target.hidden} and {target.n_classes}"
        )
    for which in (source_cell, cell):
        if np.any(which.matrix != np.diag(np.diag(which.matrix))):
            raise TrainingError(
                f"segal.start_from: expected cells that repeat the primitive one along its vectors, found "
                f"{which.matrix.tolist()}"
            )
    if np.any(np.diag(cell.matrix) < np.diag(source_cell.matrix)):
        raise TrainingError(
            f"segal.start_from: expected a source no larger than the cell {np.diag(cell.matrix).tolist()} along any "
            f"axis, found {np.diag(source_cell.matrix).tolist()}"
        )


def _displacements(network: PhysicsNetwork, cell: Supercell) -> np.ndarray:
    """Return (sublattice of the site, of the seen one, nearest offset) of every row of `w1`, shape (n, 5)."""
    numbers, first = np.unique(network.displacement.cpu().numpy(), return_index=True)
    if len(numbers) != len(network.w1):
        raise TrainingError(
            "segal.start_from: the network sees the whole cell; set segal.network.sizes.window for both cells"
        )
    site, seen = network.site.cpu().numpy()[first], network.seen.cpu().numpy()[first]
    size = np.diag(cell.matrix)
    offset = cell.sites[seen, 1:] - cell.sites[site, 1:]
    images = np.array([i for i in itertools.product((-1, 0, 1), repeat=3)]) * size
    candidates = offset[:, None] + images
    basis = cell.lattice.basis[cell.sites[seen, 0]] - cell.lattice.basis[cell.sites[site, 0]]
    length = np.linalg.norm((candidates + basis[:, None]) @ cell.lattice.cell, axis=2)
    nearest = candidates[np.arange(len(first)), length.round(6).argmin(axis=1)]
    return np.column_stack([cell.sites[site, 0], cell.sites[seen, 0], nearest])


def _key(cell: Supercell, vector: np.ndarray) -> tuple[int, ...]:
    return (int(vector[0]), int(vector[1]), *(int(v) for v in np.mod(vector[2:], np.diag(cell.matrix))))


def _site_likes(source: Supercell, cell: Supercell, reach: np.ndarray) -> list[torch.Tensor]:
    """For every site of `cell` the sites of `source` that stand for it."""
    number = {tuple(site): k for k, site in enumerate(source.sites.tolist())}
    axes = []
    for small, large, r in zip(np.diag(source.matrix), np.diag(cell.matrix), reach, strict=True):
        if small == large:
            axes.append([[x] for x in range(large)])
            continue
        if small < 2 * r + 1:
            raise TrainingError(
                f"segal.start_from: the smaller cell has {small} primitive cells along an axis where the window "
                f"reaches {r}; expected at least {2 * r + 1}, so that some site is clear of both ends"
            )
        between = list(range(r, small - r))
        axes.append([[x] if x < r else [small - (large - x)] if x >= large - r else between for x in range(large)])
    likes = []
    for sublattice, *offset in cell.sites.tolist():
        choices = itertools.product(*(axes[k][x] for k, x in enumerate(offset)))
        likes.append(torch.tensor([number[(sublattice, *choice)] for choice in choices]))
    return likes
