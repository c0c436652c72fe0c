"""The other codes of the benchmark: the same expansion on the same cell, and one function for every thing timed.

A peer is made for one expansion (`for_expansion`) and then for one cell (`on_cell`). What it offers is a mapping from
quantity to work: ``work(n)`` does about `n` units (sweeps, steps, energies) and returns how many operations that was.
A peer that cannot be used raises `Unavailable` with a sentence that goes below the table.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from segalflow.errors import ExpansionError
from segalflow.expansion.basis import SIZE_RULES, build_basis
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion, translation_classes
from segalflow.lattice import Supercell

Work = Callable[[int], int]
TOLERANCE = 1e-6
"""Largest difference of total energies, eV, for which two codes are taken to hold the same expansion."""
_SLACK = 0.01  # on cut-offs, Angstrom


class Unavailable(Exception):
    """A peer cannot do what is asked; the message is a sentence."""


@dataclass(frozen=True)
class OnCell:
    """A peer on one cell.

    Attributes:
        energy: total energy, eV, of occupations in our site order, shape (n_sites,).
        works: work by quantity.
    """

    energy: Callable[[np.ndarray], float]
    works: Mapping[str, Work]


def _key(cluster_figures: np.ndarray) -> bytes:
    """Figures (n, order, 4) as something equal for equal sets of translation classes."""
    return translation_classes(np.asarray(cluster_figures, dtype=np.int64)).tobytes()


def _cutoffs(expansion: ClusterExpansion) -> dict[int, float]:
    """Largest distance between two sites by order, Angstrom, for 2, 3, ... sites without a gap."""
    sizes = {}
    for cluster in expansion.clusters:
        if cluster.order > 1:
            sizes[cluster.order] = max(sizes.get(cluster.order, 0.0), cluster.diameter)
    if sorted(sizes) != list(range(2, 2 + len(sizes))):
        raise Unavailable(f"the expansion's clusters have {sorted(sizes)} sites, with a gap")
    return {order: sizes[order] + _SLACK for order in sorted(sizes)}


def _sign(theirs: tuple[float, ...], ours: tuple[float, ...]) -> float:
    """Return +1 or -1 such that their point function is that times ours."""
    for sign in (1.0, -1.0):
        if np.allclose(theirs, sign * np.array(ours)):
            return sign
    raise Unavailable(f"its point functions {theirs} are not those of the expansion, {ours}")


def _load(*modules: str) -> None:
    """Import before the set-up on a cell is timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            importlib.import_module(name)


def _constant(expansion: ClusterExpansion) -> float:
    return sum(c.eci for c in expansion.clusters if c.order == 0)


def _by_figures(expansion: ClusterExpansion) -> dict[bytes, Cluster]:
    return {_key(c.figures): c for c in expansion.clusters if c.order > 0}


# ---- CLEASE -------------------------------------------------------------------------------------------------------
class Clease:
    """CLEASE with the expansion's ECIs on its own clusters, matched by their figures; other clusters are removed."""

    name = "CLEASE"

    def __init__(self, expansion: ClusterExpansion) -> None:
        _load("clease.calculator", "clease.montecarlo")
        self.expansion = expansion
        if expansion.lattice.name not in ("fcc", "bcc", "sc"):
            raise Unavailable(f"no {expansion.lattice.name} lattice is built for it")
        basis = self._basis()
        sign = _sign(basis.point_functions[0][0], expansion.point_functions[0][0])
        wanted = _by_figures(expansion)
        self.settings, self.eci = basis.settings, {}
        for cluster, name in zip(basis.clusters, basis.clease_names, strict=True):
            if cluster.order == 0:
                self.eci[name] = _constant(expansion)
            elif _key(cluster.figures) in wanted:
                self.eci[name] = wanted[_key(cluster.figures)].eci * sign**cluster.order
        # CLEASE makes more clusters than asked for here; without these its set-up takes a quarter of the time.
        kept = {name.rsplit("_", 1)[0] for name in self.eci} | {"c0", "c1"}
        clusters = self.settings.cluster_mng.clusters
        clusters.clusters[:] = [c for c in clusters.clusters if c.name in kept]
        clusters.clear_cache()
        self.eci.setdefault("c1_0", 0.0)  # the chemical potential is added to it

    def _basis(self) -> Any:
        wanted, reasons = set(_by_figures(self.expansion)), []
        for rule in reversed(SIZE_RULES):
            try:
                basis = build_basis(self.expansion.lattice, _cutoffs(self.expansion), rule)
            except ExpansionError as error:
                reasons.append(str(error))
                continue
            missing = wanted - {_key(c.figures) for c in basis.clusters if c.order > 0}
            if not missing:
                return basis
            reasons.append(f"{len(missing)} clusters are missing by the rule '{rule}'")
        raise Unavailable("its clusters do not cover the expansion: " + "; ".join(reasons))

    def on_cell(self, cell: Supercell, occupations: np.ndarray, temperature: float, energy_bin: float) -> OnCell:
        """Attach calculators to a cell and make the samplers (dmu = 0)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from clease.calculator import Clease as Calculator
            from clease.calculator import attach_calculator
            from clease.montecarlo import BinnedBiasPotential, MetaDynamicsSampler, Montecarlo, RandomFlip
            from clease.montecarlo import SGCMonteCarlo as Chain
            from clease.montecarlo.observers import ConcentrationObserver
            from clease.tools import wrap_and_sort_by_position

        names = list(cell.lattice.species[0])
        symbols = np.array(names)
        atoms = attach_calculator(self.settings, atoms=cell.atoms(occupations), eci=dict(self.eci))
        rng = np.random.default_rng(1)

        def separate() -> Atoms:
            copy = atoms.copy()
            copy.calc = Calculator(self.settings, eci=dict(self.eci))
            copy.get_potential_energy()
            return copy

        def energy(occupations: np.ndarray) -> float:
            given = wrap_and_sort_by_position(cell.atoms(occupations))
            return float(atoms.calc.calculate(given))

        def trials() -> Work:
            chain = Chain(separate(), temperature, symbols=names)

            def work(n: int) -> int:
                chain.run(steps=n, chem_pot={"c1_0": 0.0})
                return n

            return work

        def totals(n: int) -> int:
            # `calculate` updates what differs, which is faster here than `calculate_energy_from_scratch`.
            for _ in range(n):
                other.symbols = symbols[rng.integers(0, 2, cell.n_sites)]
                atoms.calc.calculate(other)
            return n

        def metadynamics() -> Work:
            walker = separate()
            share = ConcentrationObserver(walker, element=names[1])
            bias = BinnedBiasPotential(xmin=0.0, xmax=1.0, nbins=cell.n_sites + 1, getter=share)
            chain = Montecarlo(walker, temperature, generator=RandomFlip(names, walker))
            sampler = MetaDynamicsSampler(mc=chain, bias=bias, flat_limit=1.0, mod_factor=0.01)

            def work(n: int) -> int:
                with tempfile.TemporaryDirectory() as folder:
                    sampler.fname = str(Path(folder) / "state.json")  # written at the end of every run
                    sampler.run(max_sweeps=n - 1)  # a limit of 1.0 is never flat: it stops after n sweeps
                return chain.current_step

            return work

        other = atoms.copy()
        return OnCell(
            energy,
            {"trials": _later(trials), "totals": totals, "metadynamics": _later(metadynamics)},
        )


# ---- icet ---------------------------------------------------------------------------------------------------------
class Icet:
    """icet with the expansion's ECIs on its own orbits, matched by their figures."""

    name = "icet"

    def __init__(self, expansion: ClusterExpansion) -> None:
        _load("mchammer.calculators", "mchammer.ensembles")
        from icet import ClusterExpansion as Expansion
        from icet import ClusterSpace

        lattice = expansion.lattice
        self.stretch = np.where(lattice.pbc, 1.0, 10.0)[:, None]  # of directions without neighbours
        primitive = Atoms(lattice.species[0][0], cell=lattice.cell * self.stretch, positions=[[0, 0, 0]], pbc=True)
        space = ClusterSpace(primitive, list(_cutoffs(expansion).values()), sorted(lattice.species[0]))
        numbers = space.species_maps[0]
        values = tuple(
            space.evaluate_cluster_function(2, 0, numbers[atomic_numbers[name]]) for name in lattice.species[0]
        )
        sign = _sign(values, expansion.point_functions[0][0])
        # Offsets of icet's primitive cell in ours: the same lattice, maybe other vectors.
        to_ours = np.array(space.primitive_structure.cell) @ np.linalg.inv(lattice.cell * self.stretch)
        wanted = _by_figures(expansion)
        parameters = np.zeros(len(space))
        for row in space.as_list:
            if row["order"] == 0:
                parameters[row["index"]] = _constant(expansion)
                continue
            offsets = np.array(space.orbit_list.get_orbit(row["orbit_index"]).all_site_offsets)
            figures = np.zeros((*offsets.shape[:2], 4), dtype=np.int64)
            figures[..., 1:] = np.round(offsets @ to_ours)
            cluster = wanted.pop(_key(figures), None)
            parameters[row["index"]] = 0.0 if cluster is None else cluster.eci * sign**cluster.order
        if wanted:
            raise Unavailable(f"{len(wanted)} clusters of the expansion are not among its orbits")
        self.expansion = Expansion(space, parameters)

    def on_cell(self, cell: Supercell, occupations: np.ndarray, temperature: float, energy_bin: float) -> OnCell:
        """Make calculator and samplers (dmu = 0; Wang-Landau in energy, single flips)."""
        from mchammer.calculators import ClusterExpansionCalculator
        from mchammer.ensembles import SemiGrandCanonicalEnsemble, WangLandauEnsemble

        names = cell.lattice.species[0]
        numbers = np.array([atomic_numbers[name] for name in names])
        structure = Atoms(
            [names[o] for o in occupations],
            positions=cell.positions,
            cell=cell.matrix @ (cell.lattice.cell * self.stretch),
            pbc=True,
        )
        calculator = ClusterExpansionCalculator(structure, self.expansion)
        rng = np.random.default_rng(1)

        def energy(occupations: np.ndarray) -> float:
            return float(calculator.calculate_total(occupations=numbers[occupations]))

        def totals(n: int) -> int:
            for _ in range(n):
                calculator.calculate_total(occupations=numbers[rng.integers(0, 2, cell.n_sites)])
            return n

        def runner(ensemble: Any) -> Work:
            def work(n: int) -> int:
                ensemble.run(n)
                return n

            return work

        def trials() -> Work:
            mu = dict.fromkeys(names, 0.0)
            chain = ClusterExpansionCalculator(structure, self.expansion)
            return runner(SemiGrandCanonicalEnsemble(structure, chain, temperature, mu, random_seed=1))

        def wang_landau() -> Work:
            chain = ClusterExpansionCalculator(structure, self.expansion)
            return runner(
                WangLandauEnsemble(structure, chain, energy_spacing=energy_bin, trial_move="flip", random_seed=1)
            )

        return OnCell(energy, {"trials": _later(trials), "totals": totals, "wang_landau": _later(wang_landau)})


# ---- smol ---------------------------------------------------------------------------------------------------------
class Smol:
    """smol with the expansion's ECIs on its own orbits, matched by their figures."""

    name = "smol"

    def __init__(self, expansion: ClusterExpansion) -> None:
        _load("smol.moca")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pymatgen.core import Lattice, Structure
            from smol.cofe import ClusterExpansion as Expansion
            from smol.cofe import ClusterSubspace

            lattice = expansion.lattice
            self.stretch = np.where(lattice.pbc, 1.0, 10.0)[:, None]
            mixed = dict.fromkeys(lattice.species[0], 0.5)
            primitive = Structure(Lattice(lattice.cell * self.stretch), [mixed], [[0, 0, 0]])
            space = ClusterSubspace.from_cutoffs(primitive, _cutoffs(expansion), basis="sinusoid", num_threads=1)
        names = [str(species) for species in space.orbits[0].site_spaces[0]]
        by_species = dict(zip(names, space.orbits[0].site_bases[0].function_array[0].tolist(), strict=True))
        sign = _sign(tuple(by_species[n] for n in lattice.species[0]), expansion.point_functions[0][0])
        to_ours = space.structure.lattice.matrix @ np.linalg.inv(lattice.cell * self.stretch)
        wanted = _by_figures(expansion)
        coefficients = np.zeros(space.num_corr_functions)
        coefficients[0] = _constant(expansion)
        for orbit in space.orbits:
            offsets = np.array([cluster.frac_coords for cluster in orbit.clusters]) @ to_ours
            figures = np.zeros((*offsets.shape[:2], 4), dtype=np.int64)
            figures[..., 1:] = np.round(offsets)
            cluster = wanted.pop(_key(figures), None)
            coefficients[orbit.bit_id] = 0.0 if cluster is None else cluster.eci * sign**cluster.order
        if wanted:
            raise Unavailable(f"{len(wanted)} clusters of the expansion are not among its orbits")
        self.expansion = Expansion(space, coefficients)

    def on_cell(self, cell: Supercell, occupations: np.ndarray, temperature: float, energy_bin: float) -> OnCell:
        """Make processor and sampler (dmu = 0)."""
        from smol.moca import Ensemble, Sampler

        names = cell.lattice.species[0]
        mu = dict.fromkeys(names, 0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ensemble = Ensemble.from_cluster_expansion(
                self.expansion, cell.matrix, processor_type="expansion", chemical_potentials=mu
            )
        processor = ensemble.processor
        codes = [str(species) for species in processor.get_sublattices()[0].site_space]
        theirs = np.array([codes.index(name) for name in names], dtype=np.int32)
        # smol has its own order of the sites.
        place = np.asarray(processor.structure.cart_coords) @ np.linalg.inv(cell.lattice.cell * self.stretch)
        order = cell.site_index(0, np.round(place).astype(np.int64))
        rng = np.random.default_rng(1)

        def energy(occupations: np.ndarray) -> float:
            return float(processor.compute_property(theirs[occupations[order]]))

        def totals(n: int) -> int:
            for _ in range(n):
                processor.compute_property(rng.integers(0, 2, cell.n_sites, dtype=np.int32))
            return n

        def trials() -> Work:
            sampler = Sampler.from_ensemble(ensemble, temperature=temperature, step_type="flip", seeds=[1])
            sampler.run(1, theirs[occupations[order]])

            def work(n: int) -> int:
                # It keeps samples only once in `thin_by` steps, which must divide the run.
                runs = max(1, n // cell.n_sites)
                sampler.run(runs * cell.n_sites, thin_by=cell.n_sites)
                return runs * cell.n_sites

            return work

        return OnCell(energy, {"trials": _later(trials), "totals": totals})


def _later(make: Callable[[], Work]) -> Work:
    """Make the sampler at the first call, which is never timed."""
    made: list[Work] = []

    def work(n: int) -> int:
        if not made:
            made.append(make())
        return made[0](n)

    return work


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep what peers print off the table."""
    return contextlib.redirect_stdout(io.StringIO())


PEERS: dict[str, Any] = {"CLEASE": Clease, "icet": Icet, "smol": Smol}
"""Peers by name, in the order of their turns."""
