"""Which phase a decoration is in: order parameters against the ground states as named references.

The concentration wave of a reference is its decoration minus the mean; a decoration's order parameter is its projection
on that wave, largest over all orientations and translations of the reference,
``eta = max_g sum_i s_i c_g(i) / sum_i c_g(i)^2``: 1 in the perfect reference, lower by what is misplaced, and near zero
without long-range order. A decoration belongs to the reference with the largest order parameter if that is above a
threshold, else to the solid solution. The threshold is half of the perfect order, or what random decorations of the
same composition hardly reach, where that is more: in a cell of 16 sites a third of these have half the order of L1_0.

The waves of all images span a space; the squared length of a decoration's projection on it (`squared_order`, 1 in the
perfect reference) is the order parameter whose moments tell a continuous transition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from segalflow.errors import SamplingError
from segalflow.lattice import Supercell, lattice_operations, map_to_supercell
from segalflow.samples import spins_of
from segalflow.structures.identity import primitive_decoration
from segalflow.structures.pool import structure_name

SOLUTION = "solid solution"
THRESHOLD = 0.5
"""Least order parameter from which on a decoration counts as ordered: half of the perfect order."""
CHANCE = 0.05
"""Largest share of random decorations of one composition that may pass for ordered."""
RANDOM = 800
"""Random decorations of each composition from which that is told."""
PIECE = 4096
"""Decorations that are looked at together."""
COMPOSITIONS = 33
"""Compositions at which it is told; between them it is interpolated."""
COLUMNS = (
    "method",
    "cell",
    "temperature",
    "delta_mu",
    "composition",
    "phase",
    "probability",
    "probability_stderr",
    "order_parameter",
    "order_parameter_stderr",
    "most_probable",
    "mixture",
)
SHARE = 0.1
"""Probability from which on a phase is part of a condition's mixture."""


def reference_images(structure: Atoms, cell: Supercell) -> np.ndarray:
    """Return all orientations and translations of a structure in a cell, int8 spins (n_images, n_sites).

    No rows if it does not fit. On lattices of several sublattices only the structure's own orientation and those that
    the cell's symmetry makes of it.
    """
    own, occupations = primitive_decoration(*map_to_supercell(structure, cell.lattice))
    spins = 2 * np.asarray(occupations, dtype=np.int8) - 1
    single = cell.lattice.n_sublattices == 1
    rotations = [r for r, _ in lattice_operations(cell.lattice)] if single else [np.eye(3, dtype=np.int64)]
    sub, offsets = cell.sites[:, 0], cell.sites[:, 1:]
    images = []
    for rotation in rotations:
        back = np.round(np.linalg.inv(rotation)).astype(np.int64)
        repeats = (cell.matrix @ back.T) @ np.linalg.inv(own.matrix)
        if np.allclose(repeats, np.round(repeats), atol=1e-6):
            images.append(spins[own.site_index(sub, offsets @ back.T)])
    if not images:
        return np.empty((0, cell.n_sites), dtype=np.int8)
    found = np.unique(np.array(images), axis=0)
    moved = np.empty((len(cell.symmetry_permutations()), *found.shape), dtype=np.int8)
    for k, permutation in enumerate(cell.symmetry_permutations()):
        moved[k][:, permutation] = found
    return np.unique(moved.reshape(-1, cell.n_sites), axis=0)


def order_parameters(spins: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the order parameter, (n,), of +-1 spins (n, n_sites) against one reference (`reference_images`)."""
    wave = images - images.mean(axis=1, keepdims=True, dtype=float)
    wave = wave / (wave**2).sum(axis=1, keepdims=True)
    return np.concatenate([np.empty(0), *(part.max(axis=1).astype(float) for part in _projections(spins, wave))])


def _projections(spins: np.ndarray, waves: np.ndarray) -> Iterator[np.ndarray]:
    """Projections of spins (n, n_sites) on waves (n_waves, n_sites), float32, by pieces of `PIECE` decorations.

    Pieces stay in the cache; a whole sweep as float32 would go through memory several times.
    """
    columns = np.ascontiguousarray(waves.T, dtype=np.float32)
    for first in range(0, len(spins), PIECE):
        yield np.asarray(spins[first : first + PIECE], dtype=np.float32) @ columns


def order_waves(images: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the concentration waves of a reference, (n_components, n_sites)."""
    wave = images - images.mean(axis=1, keepdims=True, dtype=float)
    _, values, rows = np.linalg.svd(wave, full_matrices=False)
    return rows[values > 1e-8 * values[0]]


def squared_order(spins: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the squared projection of spins on all waves of a reference, (n,); 1 in the perfect reference."""
    size = float(((images[0] - images[0].mean()) ** 2).sum())
    parts = _projections(spins, order_waves(images))
    return np.concatenate([np.empty(0), *((part.astype(float) ** 2).sum(axis=1) for part in parts)]) / size


def order_thresholds(images: np.ndarray) -> np.ndarray:
    """Return the order parameter from which on a decoration counts as ordered, by number of atoms, (n_sites + 1,).

    It is `THRESHOLD`, or the smallest value that at most a share `CHANCE` of random decorations of that composition
    reach, and never more than the perfect order.
    """
    n_sites = images.shape[1]
    counts = np.unique(np.round(np.linspace(0, n_sites, min(n_sites + 1, COMPOSITIONS))).astype(int))
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((RANDOM, n_sites)), axis=1).argsort(axis=1)
    found = []
    for n in counts:
        eta = np.sort(order_parameters(2 * (order < n).astype(np.int8) - 1, images))
        allowed = eta[-int(CHANCE * RANDOM) - 1]
        # Values of small cells are few: the next one above that is reached too often.
        above = eta[eta > allowed + 1e-5]
        found.append(np.clip(above[0] if len(above) else allowed + 1e-3, THRESHOLD, 1.0) - 1e-5)
    return np.interp(np.arange(n_sites + 1), counts, found)


def classify(spins: np.ndarray, references: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the phase of every decoration, (n,), numbers of `references` or -1 for the solid solution, and eta.

    Args:
        spins: +-1 spins, (n, n_sites).
        references: images by name (`references_of`).

    Returns:
        The phases, and the order parameters (n_references, n). A decoration that passes several thresholds belongs to
        the reference whose order parameter is the largest.
    """
    eta = np.array([order_parameters(spins, images) for images in references.values()]).reshape(-1, len(spins))
    if not len(eta):
        return np.full(len(spins), -1), eta
    n_atoms = (np.asarray(spins) > 0).sum(axis=1)
    passed = np.array([e >= order_thresholds(i)[n_atoms] for e, i in zip(eta, references.values(), strict=True)])
    best = np.where(passed, eta, -np.inf)
    return np.where(passed.any(axis=0), best.argmax(axis=0), -1), eta


def classify_samples(samples: xr.Dataset, references: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return `classify` of all samples: phases of the shape of ``valid`` (-1 where there is none), and eta.

    Raises:
        SamplingError: if a reference has another number of sites than the samples.
    """
    check_references(samples, references)
    spins, valid = spins_of(samples), samples["valid"].values > 0
    phase, order = np.full(valid.shape, -1), np.zeros((len(references), *valid.shape))
    whole = spins.reshape(-1, spins.shape[-1]) if valid.all() else spins[valid]
    phase[valid], order[:, valid] = classify(whole, references)
    return phase, order


def references_of(ground_states: Sequence[Atoms], cell: Supercell) -> dict[str, np.ndarray]:
    """Return the images of every ordered ground state that fits into a cell, by name.

    Pure phases have no order of their own: they are the ends of the solid solution.
    """
    found = {}
    for structure in ground_states:
        images = reference_images(structure, cell)
        if len(images) and len(np.unique(images)) > 1:
            found[structure_name(structure, cell.lattice)] = images
    return found


def label_phases(
    samples: xr.Dataset,
    references: Mapping[str, np.ndarray],
    classified: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Return the probability of every phase at every condition, with `COLUMNS`.

    Args:
        samples: samples artefact (`segalflow.samples`).
        references: images by name (`references_of`).
        classified: `classify_samples` of these, if it is known.

    Returns:
        For every condition a row for every phase, the solid solution last (its order parameter is the largest one of
        the samples in it). Errors count the effective number of independent samples; `most_probable` names the phase
        with the highest probability, and `mixture` all that have a share of `SHARE` or more, joined by ``+``.

    Raises:
        SamplingError: if a reference has another number of sites than the samples.
    """
    phase, order = classified or classify_samples(samples, references)
    valid = samples["valid"].values > 0
    log_weight, n_atoms = samples["log_weight"].values, samples["n_atoms"].values
    independent = samples["independent_samples"].values
    names = [*references, SOLUTION]
    head = {key: str(samples.attrs.get(key, "")) for key in ("method", "cell")}
    rows = []
    for t, temperature in enumerate(samples["temperature"].values):
        for m, mu in enumerate(samples["delta_mu"].values):
            kept = valid[t, m]
            if not kept.any():
                continue
            weight = np.exp(log_weight[t, m, kept])
            weight /= weight.sum()
            eta, best = order[:, t, m, kept], phase[t, m, kept]
            n = max(float(independent[t, m]), 1.0)
            shares = [float(weight @ (best == k)) for k in (*range(len(references)), -1)]
            largest = names[int(np.argmax(shares))]
            mixture = " + ".join(name for name, share in zip(names, shares, strict=True) if share >= SHARE)
            values = [*eta, eta.max(axis=0, initial=0.0)]
            for name, share, value in zip(names, shares, values, strict=True):
                mean = float(weight @ value)
                spread = float(weight @ (value - mean) ** 2)
                # Wilson's centre keeps the error of a share of 0 or 1 from vanishing.
                centred = (share * n + 0.5) / (n + 1)
                rows.append(
                    {
                        **head,
                        "temperature": float(temperature),
                        "delta_mu": float(mu),
                        "composition": float(weight @ n_atoms[t, m, kept]) / int(samples.attrs["n_sites"]),
                        "phase": name,
                        "probability": share,
                        "probability_stderr": float(np.sqrt(centred * (1 - centred) / n)),
                        "order_parameter": mean,
                        "order_parameter_stderr": float(np.sqrt(spread / n)),
                        "most_probable": largest,
                        "mixture": mixture,
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def check_references(samples: xr.Dataset, references: Mapping[str, np.ndarray]) -> None:
    """Check that references are of the samples' cell.

    Raises:
        SamplingError: if a reference has another number of sites than the samples.
    """
    n_sites = int(samples.attrs["n_sites"])
    for name, images in references.items():
        if images.shape[1] != n_sites:
            raise SamplingError(f"reference '{name}' has {images.shape[1]} sites, the samples have {n_sites}")
