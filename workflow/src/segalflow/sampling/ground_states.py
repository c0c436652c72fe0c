"""Ground states of a cluster expansion: every small structure, and annealing of larger cells in lock step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from ase import Atoms

from segalflow.energy.lockstep import LockstepChains
from segalflow.energy.polynomial import SpinPolynomial, place_expansion
from segalflow.expansion.correlations import correlation_matrix
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.hamiltonian import ClusterExpansion
from segalflow.lattice import Supercell
from segalflow.structures.enumeration import enumerate_pool
from segalflow.structures.identity import primitive_decoration, structure_id
from segalflow.structures.pool import space_group, structure_name

TOLERANCE = 1e-6
"""Energies closer than this count as equal, eV/atom."""

SWEEPS_PER_STEP = 10
"""Sweeps between two looks at the energies."""


@dataclass(frozen=True, eq=False)
class GroundStateSearch:
    """What a search found.

    Attributes:
        states: the ground states of everything looked at, in order of x: structure (id), name, space_group, n_atoms,
            x, energy (of the model, eV/atom), energy_stderr, formation_energy (against the model's own pure elements,
            eV/atom), below_hull (how far below the hull of the structures known before, eV/atom; 0 for a known state
            and where none were given), known, excluded (status of its calculation, where that was of no use, else
            empty), found_by (``enumeration``, ``known`` or the annealed cell).
        structures: the same states as ideal structures.
        candidates: one row an enumerated structure: structure, n_atoms, x, energy, energy_stderr.
        pool: the enumerated structures, in the order of `candidates`.
        energy_evaluations: local updates of the annealing.
    """

    states: pd.DataFrame
    structures: list[Atoms]
    candidates: pd.DataFrame
    pool: list[Atoms]
    energy_evaluations: int


def predict_energies(expansion: ClusterExpansion, structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Return energies of ideal structures and their standard errors (NaN without a covariance), eV/atom."""
    design = correlation_matrix(expansion.clusters, expansion.point_functions, expansion.lattice, structures)
    per_atom = design @ np.array([c.eci for c in expansion.clusters])
    if expansion.eci_covariance is None:
        return per_atom, np.full(len(per_atom), np.nan)
    variance = np.einsum("ij,jk,ik->i", design, expansion.eci_covariance, design)
    return per_atom, np.sqrt(np.maximum(variance, 0.0))


def anneal(
    model: SpinPolynomial,
    delta_mu: np.ndarray,
    temperature: np.ndarray,
    *,
    seed: int,
    sweeps: int,
    walkers: int = 8,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Anneal chains at many chemical potentials and return the lowest state met at every composition.

    Every chain cools through all temperatures at its own delta_mu. At each temperature grand-canonical heat-bath sweeps
    take turns with canonical ones, so that compositions that no chemical potential holds at low temperature are
    searched too.

    Args:
        model: the energy.
        delta_mu: chemical potentials, eV, shape (n_delta_mu,).
        temperature: decreasing, K, shape (n_temperatures,).
        seed: seed of all random draws.
        sweeps: sweeps at each temperature.
        walkers: chains of each delta_mu.

    Returns:
        Energies, shape (n_sites + 1,), eV (infinite where no chain came), occupations, int8
        (n_sites + 1, n_sites), and the number of energy evaluations.
    """
    field = np.repeat(np.asarray(delta_mu, float), walkers)
    chain_seed, draw_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2, np.uint64))
    rng = np.random.default_rng(draw_seed)
    chains = LockstepChains(model, np.full(len(field), float(temperature[0])), field, chain_seed)
    chains.set_spins(2 * rng.integers(0, 2, (chains.n_chains, model.n_sites), dtype=np.int8) - 1)
    lowest = np.full(model.n_sites + 1, np.inf)
    best = np.zeros((model.n_sites + 1, model.n_sites), dtype=np.int8)

    def look() -> None:
        energy, n_plus = chains.energies(), chains.n_plus()
        order = np.lexsort((energy, n_plus))
        first = order[np.flatnonzero(np.diff(n_plus[order], prepend=-1))]
        better = first[energy[first] < lowest[n_plus[first]] - 1e-9]
        if len(better):
            lowest[n_plus[better]] = energy[better]
            best[n_plus[better]] = (chains.spins[better] + 1) // 2

    for t in temperature:
        chains.set_conditions(np.full(len(field), float(t)), field)
        for start in range(0, sweeps, SWEEPS_PER_STEP):
            step = min(SWEEPS_PER_STEP, sweeps - start)
            if (start // SWEEPS_PER_STEP) % 2:
                chains.swap_sweep(step)
            else:
                chains.sweep(step)
            look()
    for composition in (0, model.n_sites):  # the pure elements need no search
        occupations = np.full((1, model.n_sites), composition // max(model.n_sites, 1), dtype=np.int8)
        lowest[composition], best[composition] = float(model.energy(occupations)[0]), occupations[0]
    return lowest, best, chains.energy_evaluations


def search_ground_states(
    expansion: ClusterExpansion,
    repeats: Sequence[Sequence[int]],
    *,
    max_atoms: int,
    seed: int,
    known: Sequence[Atoms] = (),
    excluded: Mapping[str, str] | None = None,
    sweeps: int = 40,
    n_temperatures: int = 25,
    n_delta_mu: int = 63,
) -> GroundStateSearch:
    """Find the lowest hull of a binary expansion over small structures and annealed cells.

    Args:
        expansion: the model.
        repeats: cells to anneal, each three repeats of the primitive vectors or a 3x3 matrix.
        max_atoms: all structures with up to this many atoms in the primitive cell are evaluated.
        seed: seed of all random draws.
        known: ideal structures known before (with ``info["structure"]``), whose hull the findings are compared with.
        excluded: statuses of structures (by id) that were calculated in vain: collapsed, failed.
        sweeps: sweeps at each temperature of a cooling.
        n_temperatures: temperatures of a cooling.
        n_delta_mu: chemical potentials of the chains.

    Raises:
        ExpansionError: if the expansion's lattice is not binary.
        LatticeError: if a structure or a cell does not belong to the lattice.
    """
    lattice = expansion.lattice
    pool = enumerate_pool(lattice, max_atoms)
    energy, stderr = predict_energies(expansion, pool)
    x = np.array([s.get_array("occupation").mean() for s in pool])
    candidates = pd.DataFrame(
        {
            "structure": [s.info["structure"] for s in pool],
            "n_atoms": [len(s) for s in pool],
            "x": x,
            "energy": energy,
            "energy_stderr": stderr,
        }
    )
    found: list[tuple[Atoms, str]] = [(s, "known") for s in known]
    ids = {s.info["structure"] for s in known}
    reference_x = np.array([_composition(s, expansion) for s in known])
    reference_energy = predict_energies(expansion, known)[0] if len(known) else np.zeros(0)
    hull = lower_hull(x, energy)
    found += [(pool[i], "enumeration") for i in hull if pool[i].info["structure"] not in ids]
    ids |= {pool[i].info["structure"] for i in hull}
    points_x, points_energy = np.concatenate([x, reference_x]), np.concatenate([energy, reference_energy])
    slopes = np.diff(energy[hull]) / np.diff(x[hull])
    margin = 0.25 * max(float(np.ptp(slopes)), 0.02)
    delta_mu = np.linspace(slopes.min() - margin, slopes.max() + margin, n_delta_mu)
    # From where everything is disordered (the spread of slopes bounds the ordering energies) to where nothing moves.
    hottest = 0.5 * max(float(np.ptp(slopes)), 0.02) / 8.617e-5
    temperature = np.geomspace(max(hottest, 500.0), 20.0, n_temperatures)
    evaluations = 0
    for number, repeat in enumerate(repeats):
        cell = Supercell(lattice, np.array(repeat))
        lowest, best, cost = anneal(
            place_expansion(expansion, cell), delta_mu, temperature, seed=seed + number, sweeps=sweeps
        )
        evaluations += cost
        met = np.flatnonzero(np.isfinite(lowest))
        here_x, here_energy = met / cell.n_sites, lowest[met] / cell.n_sites
        known_hull = lower_hull(points_x, points_energy)
        below = above_hull(
            np.concatenate([here_x, points_x]), np.concatenate([here_energy, points_energy]), len(met) + known_hull
        )
        for i in np.flatnonzero(below[: len(met)] < -TOLERANCE):
            reduced, occupations = primitive_decoration(cell, best[met[i]])
            atoms = reduced.atoms(occupations)
            atoms.set_array("occupation", np.asarray(occupations, dtype=int))
            atoms.info = {"structure": structure_id(atoms, lattice)}
            if atoms.info["structure"] not in ids:
                ids.add(atoms.info["structure"])
                label = "x".join(str(v) for v in np.array(repeat).ravel())
                found.append((atoms, f"annealing {label}"))
                points_x, points_energy = np.append(points_x, here_x[i]), np.append(points_energy, here_energy[i])
    return _assemble(expansion, found, reference_x, reference_energy, candidates, pool, evaluations, excluded or {})


def _composition(atoms: Atoms, expansion: ClusterExpansion) -> float:
    return float(np.mean([s == expansion.lattice.species[0][1] for s in atoms.get_chemical_symbols()]))


def _assemble(
    expansion: ClusterExpansion,
    found: Sequence[tuple[Atoms, str]],
    reference_x: np.ndarray,
    reference_energy: np.ndarray,
    candidates: pd.DataFrame,
    pool: list[Atoms],
    evaluations: int,
    excluded: Mapping[str, str],
) -> GroundStateSearch:
    """Reduce what was found to the states on the hull, and describe them."""
    structures = [atoms for atoms, _ in found]
    energy, stderr = predict_energies(expansion, structures)
    x = np.array([_composition(s, expansion) for s in structures])
    # A known structure comes first in the list and keeps its place among equals.
    hull = lower_hull(x, energy - TOLERANCE * np.array([by == "known" for _, by in found]))
    ends = {round(float(x[i])): float(energy[i]) for i in hull if x[i] in (0.0, 1.0)}
    old = lower_hull(reference_x, reference_energy) if len(reference_x) else None
    rows = []
    for i in hull:
        below = 0.0 if old is None else float(np.interp(x[i], reference_x[old], reference_energy[old]) - energy[i])
        atoms, by = found[i]
        rows.append(
            {
                "structure": atoms.info["structure"],
                "name": structure_name(_with_occupation(atoms, expansion), expansion.lattice),
                "space_group": space_group(atoms)[0],
                "n_atoms": len(atoms),
                "x": float(x[i]),
                "energy": float(energy[i]),
                "energy_stderr": float(stderr[i]),
                "formation_energy": float(energy[i] - (1 - x[i]) * ends[0] - x[i] * ends[1]),
                "below_hull": below if below > TOLERANCE else 0.0,
                "known": by == "known",
                "excluded": excluded.get(atoms.info["structure"], ""),
                "found_by": by,
            }
        )
    return GroundStateSearch(pd.DataFrame(rows), [structures[i] for i in hull], candidates, pool, evaluations)


def _with_occupation(atoms: Atoms, expansion: ClusterExpansion) -> Atoms:
    if atoms.has("occupation"):
        return atoms
    atoms = atoms.copy()
    names = expansion.lattice.species[0]
    atoms.set_array("occupation", np.array([names.index(s) for s in atoms.get_chemical_symbols()]))
    return atoms


def hull_table(found: GroundStateSearch) -> pd.DataFrame:
    """Return the states as a hull table (source ``model``), with the model's own energies, which the samplers see."""
    table = found.states[["structure", "name", "space_group", "n_atoms", "x"]].copy()
    table.insert(0, "source", "model")
    table["formation_energy"] = found.states["energy"]
    return table
