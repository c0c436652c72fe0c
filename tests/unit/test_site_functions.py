"""The general energy path: any number of species and sublattices, any supercell, any calculator or module."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from segalflow.energy.adapters import CalculatorModel, ModuleModel
from segalflow.energy.base import EnergyModel, ExchangeModel, LocalEnergyModel
from segalflow.energy.polynomial import place_expansion
from segalflow.energy.site_functions import place_general
from segalflow.errors import EngineError, ExpansionError, SamplingError
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion, read_expansion
from segalflow.lattice import ParentLattice, Supercell, parent_lattice

FCC_CELL = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 4.2
LATTICES = {
    "binary": parent_lattice("fcc", 3.8, ["Cu", "Au"]),
    "ternary": parent_lattice("bcc", 3.0, ["Cu", "Au", "Pd"]),
    # Sublattices of two and three species in rocksalt positions, and one that no species can change.
    "rocksalt": ParentLattice("rocksalt", FCC_CELL, [[0, 0, 0], [0.5] * 3], [["Ni", "Mg"], ["O", "S", "N"]]),
    "spectator": ParentLattice(
        "spectator", FCC_CELL, [[0] * 3, [0.5] * 3, [0.25] * 3], [["Ni", "Mg", "Fe"], ["O"], ["Ni", "Mg", "Fe"]]
    ),
}
REPEATS = [
    [1, 1, 1],
    [2, 1, 1],
    [3, 1, 1],
    [2, 2, 2],
    [[2, 1, 0], [0, 2, 1], [1, 0, 2]],
    [[1, 1, -1], [0, 3, 1], [0, 0, 2]],
]
CASES = [(name, repeat) for name in LATTICES for repeat in REPEATS]


def random_expansion(lattice: ParentLattice, seed: int = 0) -> ClusterExpansion:
    """Random figures of up to five sites with random point functions: the energy only averages over what is listed."""
    rng = np.random.default_rng(seed)
    point = tuple(
        tuple(tuple(rng.normal(size=len(names)).tolist()) for _ in range(max(len(names) - 1, 1)))
        for names in lattice.species
    )
    clusters = [Cluster("c0", 0, 0.0, np.zeros((1, 0, 4), int), np.zeros((1, 0), int), -0.3)]
    for order, number in itertools.product(range(1, 6), range(3)):
        n_figures = int(rng.integers(1, 4))
        figures = rng.integers(-2, 3, (n_figures, order, 4))
        figures[..., 0] = rng.integers(0, lattice.n_sublattices, (n_figures, order))
        decorations = np.array([[rng.integers(len(point[s])) for s in row] for row in figures[..., 0]])
        clusters.append(Cluster(f"c{order}_{number}", order, 1.0, figures, decorations, float(rng.normal() * 0.05)))
    return ClusterExpansion(lattice, point, tuple(clusters), {"kind": "test"})


def direct_energy(expansion: ClusterExpansion, cell: Supercell, occupations: np.ndarray) -> float:
    """The defining sum over cells and figures, written as plainly as can be."""
    total = 0.0
    for cluster in expansion.clusters:
        for offset, (figure, decoration) in itertools.product(
            cell.offsets, list(zip(cluster.figures, cluster.decorations, strict=True))
        ):
            product = 1.0
            for site, function in zip(figure, decoration, strict=True):
                species = occupations[cell.site_index(site[0], offset + site[1:])]
                product *= expansion.point_functions[site[0]][function][species]
            total += cluster.eci * cell.n_sites * product / (cell.n_cells * cluster.multiplicity)
    return total


def random_occupations(n_species: np.ndarray, batch: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n_species, (batch, len(n_species)))


def check_moves(model: ExchangeModel, occupations: np.ndarray, tolerance: float = 1e-10) -> None:
    """Every exchange of every site and every swap of a kind equals the difference of the totals."""
    energy = model.energy(occupations)
    for site in range(model.n_sites):
        for species in range(model.n_species[site]):
            after = occupations.copy()
            after[:, site] = species
            changes = model.energy_changes(occupations, site, species)
            assert np.allclose(changes, model.energy(after) - energy, rtol=0, atol=tolerance)
    for first, second in itertools.product(range(model.n_sites), repeat=2):
        if model.kinds[first] == model.kinds[second]:
            after = occupations.copy()
            after[:, [first, second]] = after[:, [second, first]]
            changes = model.swap_changes(occupations, first, second)
            assert np.allclose(changes, model.energy(after) - energy, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "repeat"), CASES)
def test_energy_is_the_defining_sum_also_where_images_overlap(name, repeat) -> None:
    expansion, cell = random_expansion(LATTICES[name]), Supercell(LATTICES[name], repeat)
    model = place_general(expansion, cell)
    occupations = random_occupations(model.n_species, 3)
    expected = [direct_energy(expansion, cell, o) for o in occupations]
    assert np.allclose(model.energy(occupations), expected, rtol=0, atol=1e-10)
    assert all(isinstance(model, protocol) for protocol in (EnergyModel, ExchangeModel, LocalEnergyModel))


@pytest.mark.parametrize(("name", "repeat"), CASES)
def test_moves_are_differences_of_totals(name, repeat) -> None:
    model = place_general(random_expansion(LATTICES[name], 2), Supercell(LATTICES[name], repeat))
    check_moves(model, random_occupations(model.n_species, 2))


@pytest.mark.parametrize(("name", "repeat"), CASES)
def test_local_energies_give_all_energy_changes(name, repeat) -> None:
    model = place_general(random_expansion(LATTICES[name], 3), Supercell(LATTICES[name], repeat))
    occupations = random_occupations(model.n_species, 2)
    local = model.local_energies(occupations)
    assert local.shape == (2, model.n_sites, model.n_species.max())
    for site, count in enumerate(model.n_species):
        now = local[np.arange(2), site, occupations[:, site]]
        assert np.all(local[:, site, count:] == np.inf)
        for species in range(count):
            changes = model.energy_changes(occupations, site, species)
            assert np.allclose(local[:, site, species] - now, changes, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "repeat"), CASES)
def test_partial_local_energies_add_up_to_the_energy_and_do_not_see_the_future(name, repeat) -> None:
    model = place_general(random_expansion(LATTICES[name], 4), Supercell(LATTICES[name], repeat))
    occupations, other = random_occupations(model.n_species, 2), random_occupations(model.n_species, 2, 9)
    for order in (None, np.arange(model.n_sites), np.random.default_rng(5).permutation(model.n_sites)):
        partial = model.partial_local_energies(occupations, order)
        present = np.take_along_axis(partial, occupations[:, :, None], axis=2)
        assert np.allclose(model.constant + present.sum(axis=(1, 2)), model.energy(occupations), rtol=0, atol=1e-10)
        placed = np.arange(model.n_sites) if order is None else order
        for position, site in enumerate(placed):
            changed = occupations.copy()
            changed[:, placed[position:]] = other[:, placed[position:]]
            assert np.array_equal(model.partial_local_energies(changed, order)[:, site], partial[:, site])


def test_partial_local_energies_are_the_terms_of_the_sites_placed_so_far() -> None:
    lattice = LATTICES["ternary"]
    model = place_general(random_expansion(lattice, 6), Supercell(lattice, [2, 2, 1]))
    occupations = random_occupations(model.n_species, 1)
    order = np.array([2, 0, 3, 1])
    partial = model.partial_local_energies(occupations, order)
    for position, site in enumerate(order):
        allowed = set(order[: position + 1].tolist())
        for species in range(3):
            expected = 0.0
            for row, coefficient in zip(model.terms, model.coefficients, strict=True):
                factors = [a for a in row if a < len(model.factor_site)]
                sites = {int(model.factor_site[a]) for a in factors}
                if site in sites and sites <= allowed:
                    held = {s: species if s == site else occupations[0, s] for s in sites}
                    values = [model.functions[model.factor_function[a], held[model.factor_site[a]]] for a in factors]
                    expected += coefficient * np.prod(values)
            assert abs(partial[0, site, species] - expected) < 1e-12


@pytest.mark.parametrize("name", LATTICES)
def test_energy_is_invariant_under_translations(name) -> None:
    cell = Supercell(LATTICES[name], [[2, 1, 0], [0, 2, 1], [1, 0, 2]])
    model = place_general(random_expansion(LATTICES[name]), cell)
    occupations = random_occupations(model.n_species, 1)
    images = np.concatenate([occupations[:, np.argsort(p)] for p in cell.translations])
    assert np.allclose(model.energy(images), model.energy(occupations), rtol=0, atol=1e-10)


def test_a_symmetric_ternary_expansion_is_invariant_under_the_space_group() -> None:
    lattice = parent_lattice("sc", 3.0, ["Cu", "Au", "Pd"])
    point = (((-1.0, 0.0, 1.0), (1.0, -2.0, 1.0)),)
    axes = np.eye(3, dtype=int)
    bonds = np.array([[[0, 0, 0, 0], [0, *axis]] for axis in axes])
    corners = np.array(
        [
            [[0, 0, 0, 0], [0, *(p * a)], [0, *(q * b)]]
            for a, b in itertools.combinations(axes, 2)
            for p in (1, -1)
            for q in (1, -1)
        ]
    )
    clusters = (
        Cluster("pair", 2, 3.0, np.concatenate([bonds, bonds]), np.repeat([[0, 1], [1, 0]], 3, axis=0), 0.1),
        Cluster("corner", 3, 4.2, corners, np.tile([1, 0, 0], (12, 1)), -0.07),
    )
    for repeat in ([2, 2, 2], [4, 2, 2], [1, 1, 3]):
        cell = Supercell(lattice, repeat)
        model = place_general(ClusterExpansion(lattice, point, clusters, {"kind": "test"}), cell)
        occupations = random_occupations(model.n_species, 1)
        images = np.concatenate([occupations[:, np.argsort(p)] for p in cell.symmetry_permutations()])
        assert np.allclose(model.energy(images), model.energy(occupations), rtol=0, atol=1e-10)


@pytest.mark.reference
@pytest.mark.parametrize("system", ["cuau", "agpd"])
@pytest.mark.parametrize("repeat", [*REPEATS, [4, 2, 3]])
def test_binary_expansions_agree_with_the_spin_polynomial(reference, system, repeat) -> None:
    expansion = read_expansion(reference / system / "eci_published.json")
    cell = Supercell(expansion.lattice, repeat)
    general, fast = place_general(expansion, cell), place_expansion(expansion, cell)
    occupations = random_occupations(general.n_species, 70)  # more than one block of the kernel
    assert np.allclose(general.energy(occupations), fast.energy(occupations), rtol=0, atol=1e-10)
    local = general.local_energies(occupations)
    fields = fast.local_fields(2 * occupations - 1)
    assert np.allclose(local[..., 1] - local[..., 0], 2 * fields, rtol=0, atol=1e-10)
    assert general.n_terms == fast.n_monomials  # s^2 = 1 is found


def test_any_point_functions_of_two_species_agree_with_the_spin_polynomial() -> None:
    lattice = LATTICES["binary"]
    for repeat in REPEATS:
        cell = Supercell(lattice, repeat)
        general, fast = place_general(random_expansion(lattice), cell), place_expansion(random_expansion(lattice), cell)
        occupations = random_occupations(general.n_species, 4)
        assert np.allclose(general.energy(occupations), fast.energy(occupations), rtol=0, atol=1e-10)


def test_an_expansion_of_only_a_constant() -> None:
    lattice = LATTICES["ternary"]
    expansion = replace(random_expansion(lattice), clusters=random_expansion(lattice).clusters[:1])
    model = place_general(expansion, Supercell(lattice, [2, 1, 1]))
    occupations = random_occupations(model.n_species, 3)
    assert np.allclose(model.energy(occupations), -0.6)
    assert np.array_equal(model.local_energies(occupations), np.zeros((3, 2, 3)))
    assert np.array_equal(model.energy_changes(occupations, 0, 1), np.zeros(3))


def test_expansions_that_do_not_fit_are_refused() -> None:
    lattice = LATTICES["rocksalt"]
    expansion, cell = random_expansion(lattice), Supercell(lattice, [2, 1, 1])
    point, cluster = expansion.point_functions, expansion.clusters[4]
    moved = cluster.figures.copy()
    moved[..., 0] = 2
    for wrong, message in [
        (random_expansion(LATTICES["ternary"]), "the cell has"),
        (replace(expansion, point_functions=point[:1]), "point functions for 1 sublattices"),
        (replace(expansion, point_functions=(point[0], ((1.0, 2.0),))), "sublattice 1 needs one value for each"),
        (replace(expansion, clusters=()), "no clusters"),
        (replace(expansion, clusters=(replace(cluster, figures=moved),)), "'c2_0': a figure is on a sublattice"),
        (replace(expansion, clusters=(replace(cluster, decorations=cluster.decorations + 5),)), "'c2_0': a decoration"),
        (replace(expansion, clusters=(replace(cluster, decorations=cluster.decorations[:, :1]),)), "shape"),
    ]:
        with pytest.raises(ExpansionError, match=message):
            place_general(wrong, cell)


def test_moves_that_are_not_there_are_refused() -> None:
    lattice = LATTICES["rocksalt"]
    model = place_general(random_expansion(lattice), Supercell(lattice, [2, 1, 1]))
    occupations = random_occupations(model.n_species, 2)
    for call, message in [
        (lambda: model.energy(0 * occupations - 1), "species -1 on site 0, expected 0 to 1"),
        (lambda: model.energy(occupations * 1.0), "expected integers"),
        (lambda: model.energy(occupations[:, :2]), r"expected integers of shape \(batch, 4\)"),
        (lambda: model.energy_changes(occupations, 0, 2), "species 2 on site 0, expected 0 to 1"),
        (lambda: model.energy_changes(occupations, 4, 0), "expected sites from 0 to 3"),
        (lambda: model.swap_changes(occupations, 0, 4), "expected sites from 0 to 3"),
        (lambda: model.swap_changes(occupations, 0, 1), "do not allow the same species"),
        (lambda: model.partial_local_energies(occupations, np.array([0, 1, 1, 2])), "permutation"),
    ]:
        with pytest.raises(SamplingError, match=message):
            call()


def test_moves_differ_by_decoration() -> None:
    lattice = LATTICES["ternary"]
    model = place_general(random_expansion(lattice), Supercell(lattice, [3, 2, 1]))
    occupations = random_occupations(model.n_species, 4)
    site, species, rows = np.array([0, 5, 2, 2]), np.array([2, 1, 0, 1]), np.arange(4)
    after = occupations.copy()
    after[rows, site] = species
    expected = model.energy(after) - model.energy(occupations)
    assert np.allclose(model.energy_changes(occupations, site, species), expected, rtol=0, atol=1e-10)
    second = np.array([3, 5, 1, 0])
    after = occupations.copy()
    after[rows, site], after[rows, second] = occupations[rows, second], occupations[rows, site]
    expected = model.energy(after) - model.energy(occupations)
    assert np.allclose(model.swap_changes(occupations, site, second), expected, rtol=0, atol=1e-10)


def test_a_torch_module_is_an_energy_model() -> None:
    import torch

    class Pairs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.coupling = torch.nn.Parameter(torch.randn(6, 6, generator=generator, dtype=torch.float64))

        def forward(self, occupations: torch.Tensor) -> torch.Tensor:
            x = occupations.to(torch.float64)
            return torch.einsum("bi,ij,bj->b", x, self.coupling, x)

    module = Pairs()
    coupling = module.coupling.detach().numpy()
    model = ModuleModel(module, np.full(6, 3), to_input=torch.as_tensor, batch_size=4)
    assert isinstance(model, EnergyModel)
    assert isinstance(model, ExchangeModel)
    occupations = random_occupations(model.n_species, 10)
    assert np.allclose(model.energy(occupations), np.einsum("bi,ij,bj->b", occupations, coupling, occupations))
    check_moves(model, occupations)


def test_a_plain_function_is_an_energy_model_and_its_faults_are_named() -> None:
    occupations = np.array([[0, 1, 1], [1, 1, 0]])
    model = ModuleModel(lambda x: x.sum(axis=1, keepdims=True), [2, 2, 2])
    assert np.array_equal(model.energy(occupations), [2.0, 2.0])
    with pytest.raises(EngineError, match=r"expected energies of shape \(2,\), found \(2, 3\)"):
        ModuleModel(lambda x: x, [2, 2, 2]).energy(occupations)
    with pytest.raises(EngineError, match="expected finite energies, found nan"):
        ModuleModel(lambda x: x[:, 0] * np.nan, [2, 2, 2]).energy(occupations)
    with pytest.raises(EngineError, match="failed with TypeError"):
        ModuleModel(lambda: 0, [2, 2, 2]).energy(occupations)
    with pytest.raises(SamplingError, match="do not allow the same species"):
        ModuleModel(lambda x: x[:, 0], [2, 2, 2], kinds=[0, 1, 0]).swap_changes(occupations, 0, 1)


class CountingEMT(EMT):
    """EMT that counts its calculations."""

    count = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        self.count += 1
        super().calculate(atoms, properties, system_changes)


def test_an_ase_calculator_is_an_energy_model() -> None:
    cell = Supercell(LATTICES["binary"], [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])  # the cube of four sites
    model = CalculatorModel(cell, CountingEMT())
    assert isinstance(model, EnergyModel)
    assert isinstance(model, ExchangeModel)
    occupations = np.array([[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
    energies = model.energy(occupations)
    assert model.calculator.count == 2  # equal decorations once
    for row, energy in zip(occupations, energies, strict=True):
        atoms = cell.atoms(row)
        atoms.calc = EMT()
        assert abs(atoms.get_potential_energy() - energy) < 1e-12
    check_moves(model, occupations[:2], 1e-9)


def test_a_failing_calculator_is_named() -> None:
    class Failing(Calculator):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
            raise RuntimeError("no licence")

        implemented_properties = ("energy",)

    class Infinite(Failing):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
            self.results = {"energy": np.nan}

    cell = Supercell(LATTICES["binary"], [1, 1, 1])
    with pytest.raises(EngineError, match="calculator Failing, decoration Au: it failed with RuntimeError: no licence"):
        CalculatorModel(cell, Failing()).energy(np.array([[1]]))
    with pytest.raises(EngineError, match="expected a finite energy"):
        CalculatorModel(cell, Infinite()).energy(np.array([[1]]))
    with pytest.raises(EngineError, match="'down' is not a chemical element"):
        CalculatorModel(Supercell(parent_lattice("sc", 1.0, ["down", "up"]), [1, 1, 1]), EMT())
