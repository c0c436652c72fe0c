"""Studies of more than two species: their settings, hull, fit, comparison and figures."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import yaml
from config_edits import assert_refused, put
from scipy.optimize import linprog

from segalflow.cells import choose_axes, read_axes, write_axes
from segalflow.energy.potentials import ExchangePotentials
from segalflow.energy.site_functions import place_general
from segalflow.errors import ArtefactError, BoundaryError, SettingsError
from segalflow.expansion.correlations import correlation_matrix
from segalflow.expansion.figures import enumerate_clusters
from segalflow.expansion.fit import fit_expansion
from segalflow.expansion.ground_states import above_hull, lower_hull, lower_surface, tie_energies
from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion
from segalflow.lattice import ParentLattice, Supercell, parent_lattice
from segalflow.plotting.species import (
    plot_species_hull,
    plot_species_isotherms,
    plot_species_maps,
    plot_species_ness,
)
from segalflow.reporting.boundaries import no_boundaries
from segalflow.reporting.ensembles import describe_ensembles
from segalflow.sampling.species import enumerate_species
from segalflow.structures.enumeration import enumerate_pool
from segalflow.study import prepare_study
from segalflow.thermo.comparison import summarise_comparison
from segalflow.thermo.species_comparison import compare_species

FCC = parent_lattice("fcc", 4.0, ["Cu", "Ag", "Au"])
T = np.array([600.0, 1000.0])
AXES = (np.array([-0.1, 0.0, 0.2]), np.array([-0.05, 0.15]))


@pytest.fixture
def ternary(repository):
    return yaml.safe_load((repository / "config" / "test" / "ternary.yaml").read_text())


BAD = {
    "no axis for a species": (
        put("grid", "delta_mu", {"Au": [0.0, 0.1], "Pd": [0.0, 0.1]}),
        "cells.small.grid.delta_mu: expected one axis for each of Ag, Au (their exchange for the first species)",
    ),
    "one axis": (put("grid", "delta_mu", [0.0, 0.1]), "grid.delta_mu: expected one axis for each of Ag, Au"),
    "no grid": (put("grid", {"temperature": [500]}), "grid.delta_mu: expected one axis for each of Ag, Au"),
    "falling axis": (
        put("grid", "delta_mu", "Au", [0.1, 0.0]),
        "cells.small.grid.delta_mu.Au: expected increasing values in eV, found [0.1, 0.0]",
    ),
    "network of two species": (
        put("segal", "network", "kind", "physics"),
        "segal.network.kind: 'physics' is for two species, expected categorical",
    ),
    "mixed objective": (
        put("segal", "training", "objective", "mixed"),
        "segal.training.objective: 'mixed' is for two species",
    ),
    "start from": (put("segal", "start_from", "small"), "segal.start_from"),
    "method of two species": (
        put("cells", "small", "methods", ["snis", "wang_landau"]),
        "cells.small.methods: 'wang_landau' treats two species, expected some of exact, snis, metropolis",
    ),
    "too large for the exact sum": (
        put("cells", "small", "repeat", [4, 4, 1]),
        "cells.small.methods: 'exact' sums over at most 5e+06 decorations, the cell has 4.3e+07",
    ),
    "CLEASE": (
        put("expansions", "main", "basis", "generator", "clease"),
        "expansions.main.basis.generator: CLEASE's clusters are of two species here, expected symmetry",
    ),
    "a model of two species": (
        put("expansions", "main", {"model": "ising"}),
        "expansions.main.model: 'ising' is a model of two species, expected a fit",
    ),
    "published": (
        put("expansions", "main", {"published": "x.json"}),
        "expansions.main.published: only expansions of two species are imported",
    ),
    "generations": (put("structures", "generations", 1), "structures.generations: active learning is for two species"),
    "refinement": (
        put("refinement", {"cells": ["small"], "width_x": 0.1}),
        "refinement.cells: boundaries are looked for between two species only",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_three_species_cannot_have_is_one_sentence(name, ternary, schema) -> None:
    change, words = BAD[name]
    change(ternary)
    assert_refused(ternary, schema, words)


def test_two_species_have_one_axis_and_their_own_network(repository, schema) -> None:
    config = yaml.safe_load((repository / "config" / "config.yaml").read_text())
    several = copy.deepcopy(config)
    several.setdefault("grid", {})["delta_mu"] = {"Au": [0.0, 0.1], "Ag": [0.0, 0.1]}
    with pytest.raises(SettingsError, match=r"two species have one chemical potential.* an axis for each of Au, Ag"):
        prepare_study(several, schema)
    config.setdefault("segal", {})["network"] = {"kind": "categorical"}
    with pytest.raises(SettingsError, match="'categorical' is for more than two species, expected physics or made"):
        prepare_study(config, schema)


def test_axes_survive_their_file_in_the_order_of_the_exchanges(tmp_path) -> None:
    grid = choose_axes([500, 700], {"Au": [0.0, 0.1], "Ag": {"start": -1, "stop": 1, "number": 3}}, ["Ag", "Au"])
    write_axes(tmp_path / "grid.json", grid)
    again = read_axes(tmp_path / "grid.json")
    assert list(again.delta_mu) == ["Ag", "Au"]
    assert [axis.tolist() for axis in again.axes] == [[-1, 0, 1], [0, 0.1]]
    (tmp_path / "grid.json").write_text('{"schema": "segalflow.grid/1", "temperature": [1], "delta_mu": [1]}')
    with pytest.raises(ArtefactError, match="incomplete grid file, KeyError"):
        read_axes(tmp_path / "grid.json")


def test_exchanges_are_named_by_what_comes_in_unless_two_bring_the_same() -> None:
    assert ExchangePotentials.of(Supercell(FCC, [1, 1, 1])).axis_names == ("Ag", "Au")
    two = ParentLattice("x", np.eye(3), [[0] * 3, [0.5] * 3], [["Ni", "Mg"], ["O", "Mg", "S"]])
    assert ExchangePotentials.of(Supercell(two, [1, 1, 1])).axis_names == ("Mg-Ni", "Mg-O", "S")


def lowest_mixture(x: np.ndarray, energy: np.ndarray, at: np.ndarray) -> float:
    """Energy of the best mixture of the points at a composition, by linear programming."""
    found = linprog(energy, A_eq=np.vstack([x.T, np.ones(len(x))]), b_eq=[*at, 1.0], bounds=(0, None))
    return float(found.fun)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_hull_is_the_energy_of_the_best_mixture(k) -> None:
    rng = np.random.default_rng(k)
    x = np.vstack([np.zeros(k), np.eye(k), rng.dirichlet(np.ones(k + 1), 40)[:, 1:]])
    energy = np.concatenate([np.zeros(k + 1), rng.normal(0.0, 0.02, 40)])
    corners, height = lower_surface(x, energy)
    assert np.allclose(height, [lowest_mixture(x, energy, at) for at in x], atol=1e-9)
    on_it = set(np.flatnonzero(energy - height < 1e-9).tolist())
    assert set(corners.tolist()) <= on_it
    assert set(range(k + 1)) <= set(corners.tolist())
    # What is no corner changes nothing.
    assert np.allclose(lower_surface(x[corners], energy[corners])[1], energy[corners], atol=1e-9)
    # Along the same tie lines: the hull's own height, and other energies of its corners, linear between them.
    assert np.allclose(tie_energies(x, energy, energy), height, atol=1e-9)
    other = rng.normal(0.0, 0.02, len(x))
    tied = tie_energies(x, energy, other)
    assert np.allclose(tied[corners], other[corners], atol=1e-9)
    assert np.allclose(tie_energies(x, energy, x @ np.arange(1.0, k + 1)), x @ np.arange(1.0, k + 1), atol=1e-9)
    assert tied.min() >= other[corners].min() - 1e-9
    assert tied.max() <= other[corners].max() + 1e-9
    flat, level = lower_surface(x, np.zeros(len(x)))
    assert set(flat.tolist()) == set(range(k + 1))
    assert np.allclose(level, 0.0, atol=1e-12)
    if k == 1:
        assert corners.tolist() == lower_hull(x[:, 0], energy).tolist()
        assert np.array_equal(energy - height, above_hull(x[:, 0], energy, corners))


def known_expansion() -> ClusterExpansion:
    clusters, functions = enumerate_clusters(FCC, {2: 3.0})
    ecis = [0.0, 0.01, -0.02, 0.03, -0.012, 0.02]
    given = tuple(
        Cluster(c.name, c.order, c.diameter, c.figures, c.decorations, e) for c, e in zip(clusters, ecis, strict=True)
    )
    return ClusterExpansion(FCC, functions, given, {"kind": "test"})


def test_a_ternary_fit_gives_the_energies_and_ground_states_back(schema) -> None:
    truth, pool = known_expansion(), enumerate_pool(FCC, 3)
    energy = correlation_matrix(truth.clusters, truth.point_functions, FCC, pool) @ [c.eci for c in truth.clusters]
    symbols = [np.array(s.get_chemical_symbols()) for s in pool]
    fractions = np.array([[np.mean(held == name) for name in FCC.elements] for held in symbols])
    pure = {name: float(energy[np.argmax(fractions[:, j])]) for j, name in enumerate(FCC.elements)}
    formation = energy - fractions @ list(pure.values())
    for atoms, e, x in zip(pool, formation, fractions, strict=True):
        ends = " ".join(f"{s}={v!r}" for s, v in pure.items())
        atoms.info |= {"formation_energy": float(e), "energy_total": 0.0, "x": float(x[1]), "end_members": ends}
    settings = prepare_study(
        {
            "study": "s", "lattice": {"name": "fcc", "constant": 4.0, "species": ["Cu", "Ag", "Au"]},
            "calculations": {"c": {"engine": "emt"}},
            "expansions": {"e": {"calculation": "c", "basis": {"generator": "symmetry", "max_diameters": {2: 3.0}}}},
            "grid": {"delta_mu": {"Ag": [0.0], "Au": [0.0]}},
            "cells": {"a": {"repeat": [1, 1, 1], "expansion": "e", "methods": ["exact"]}},
            "segal": {"network": {"kind": "categorical"}},
        },
        schema,
    )["expansions"]["e"]  # fmt: skip
    fit = {**settings["fit"], "method": "ridge", "alphas": [1e-9], "hull_scale": 0.05}
    fitted = fit_expansion(pool, FCC, settings["basis"], fit, seed=1, curve_settings=None)
    assert np.allclose(fitted.predictions["e_model"], formation, atol=1e-6)
    states = fitted.hull[fitted.hull["source"] == "model"]
    further = fractions[:, 1:]
    lowest = [i for i, x in enumerate(further) if formation[i] < lowest_mixture(further, formation, x) + 1e-7]
    corners = {pool[i].info["structure"] for i in lowest}
    assert set(states["structure"]) <= corners
    assert len(states) > 4  # the elements and more
    assert np.allclose(fitted.predictions["x_Au"], fractions[:, 2])
    assert fitted.metrics["hull_order_violations"] == 0
    figure, data = plot_species_hull(fitted.hull, fitted.predictions, FCC.elements)
    assert len(figure.axes) == 3
    assert int(data["ground_state"].sum()) == len(states)
    assert np.allclose(data[["x_Cu", "x_Ag", "x_Au"]].sum(axis=1), 1.0)


@pytest.fixture(scope="module")
def tables():
    cell = Supercell(FCC, [2, 2, 1])
    exact = enumerate_species(place_general(known_expansion(), cell), cell, T, AXES, attributes={"cell": "small"})
    snis = exact.copy(deep=True)
    rng = np.random.default_rng(3)
    for name in ("log_z", "composition", "energy", "heat_capacity", "susceptibility"):
        snis[f"{name}_stderr"][:] = 0.01
        snis[name][:] += 0.01 * rng.normal(size=snis[name].shape)
    snis["ness"] = snis["ness_p"] = snis["log_z"] * 0 + 0.5
    snis["ness"][0, 1, 0] = 0.02
    snis["reliable"][0, 1, 0] = 0.0
    return {"exact": exact, "snis": snis.assign_attrs(method="snis")}


def test_methods_are_compared_element_by_element(tables) -> None:
    rows = compare_species(tables, "small")
    counts = rows.groupby("variable").size().to_dict()
    # Two elements and two diagonal susceptibilities at each of 2 x 3 x 2 conditions.
    assert counts == {"log_z": 12, "energy": 12, "heat_capacity": 12, "composition": 24, "susceptibility": 24}
    one = rows[(rows["variable"] == "composition") & np.isclose(rows["delta_mu_1"], 0.2)].iloc[0]
    at = {"temperature": 600.0, "delta_mu_1": 0.2, "delta_mu_2": -0.05, "species": "Ag"}
    assert one["value_b"] == float(tables["snis"]["composition"].sel(at))
    assert one["z"] == pytest.approx((one["value_a"] - one["value_b"]) / 0.01)
    summary = summarise_comparison(rows)
    away = summary[(summary["selection"] == "away_from_jumps") & (summary["variable"] == "log_z")].iloc[0]
    assert away["n"] == 11  # one condition is unreliable
    with pytest.raises(ArtefactError, match="'exact' and 'snis' on cell 'small': their grids differ"):
        compare_species({**tables, "snis": tables["snis"].isel(delta_mu_1=[0, 1])}, "small")
    with pytest.raises(BoundaryError, match="their n sites differs"):
        compare_species({**tables, "snis": tables["snis"].assign_attrs(n_sites=5)}, "small")
    assert compare_species({"exact": tables["exact"]}, "small").empty


def test_figures_hold_what_the_tables_hold(tables) -> None:
    figure, data = plot_species_isotherms(tables)
    assert len(figure.axes) == 4
    chosen = data[(data["method"] == "exact") & (data["exchange"] == "Au-Cu") & (data["temperature"] == 600.0)]
    assert np.allclose(chosen["x_Au"], tables["exact"]["composition"][0, 1, :, 2])
    figure, data = plot_species_maps(tables["snis"])
    assert len(figure.axes) == 2 * 3 + 1
    assert figure.axes[0].get_title() == r"$x_\mathrm{Cu}$"
    image = figure.axes[1].collections[0].get_array()
    assert np.allclose(np.ravel(image), tables["snis"]["composition"].values[0, ..., 1].T.ravel())
    assert list(figure.axes[0].lines[0].get_xdata()) == [0.0]  # the unreliable condition is crossed out
    assert len(data) == 12
    figure, data = plot_species_ness(tables["snis"])
    assert len(figure.axes) == 3
    assert data["ness"].min() == 0.02
    assert data["reliable"].sum() == 11


def test_a_third_exchange_stays_in_the_middle_and_is_said() -> None:
    rocksalt = ParentLattice(
        "rocksalt", np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 4.2, [[0] * 3, [0.5] * 3],
        [["Ni", "Mg"], ["O", "S", "N"]],
    )  # fmt: skip
    clusters, functions = enumerate_clusters(rocksalt, {2: 2.2})
    cell = Supercell(rocksalt, [1, 1, 1])
    model = place_general(ClusterExpansion(rocksalt, functions, clusters, {"kind": "test"}), cell)
    table = enumerate_species(model, cell, T, (*AXES, np.array([-0.1, 0.0, 0.1])), attributes={"cell": "a"})
    figure, data = plot_species_maps(table)
    assert "N-O at 0" in figure.get_supxlabel()
    assert len(data) == 2 * 3 * 2 * 3
    assert len(plot_species_isotherms({"exact": table})[0].axes) == 2 * 3
    section = describe_ensembles([table])
    assert section.tables[0].rows[0][1] == "2 × 3 × 2 × 3"


def test_the_report_says_why_there_are_no_boundaries() -> None:
    section = no_boundaries(["Cu", "Ag", "Au"])
    assert len(section.sentences) == 1
    assert "this study has 3 (Cu, Ag, Au), so none are looked for" in section.sentences[0]
    assert not section.tables


def test_a_hull_tells_compositions_apart_by_all_species() -> None:
    """Two structures of one x but different third fractions are no rivals for the same ground state."""
    from segalflow.reporting.data import _undecided

    shared = {"x": [0.5, 0.5], "e_model": [-0.02, -0.0199], "e_model_stderr": [0.01, 0.01], "name": ["CuAg", "AgAu"]}
    hull = pd.DataFrame({"source": ["model"], "x": [0.5], "x_Ag": [0.5], "x_Au": [0.0], "name": ["CuAg"]})
    apart = pd.DataFrame({**shared, "x_Ag": [0.5, 0.5], "x_Au": [0.0, 0.5]})
    assert not _undecided(hull, apart)
    assert len(_undecided(hull, apart.assign(x_Au=0.0))) == 1
