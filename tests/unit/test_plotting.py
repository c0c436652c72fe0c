from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from matplotlib import image
from model_alloys import regular_solution_table

from segalflow.expansion.hamiltonian import Cluster, ClusterExpansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.phases.boundaries import boundary_table, merge_boundaries
from segalflow.phases.criteria import CRITERIA, FROM_FREE_ENERGY, FROM_PHASE_WEIGHTS, find_boundaries
from segalflow.plotting import ensemble, expansion, fields, phase_diagram, snapshots
from segalflow.plotting.style import formula_label, save_figure
from segalflow.samples import pack_spins, sample_set
from segalflow.thermo.comparison import compare_methods
from segalflow.thermo.order_parameters import label_phases, references_of
from segalflow.units import BOLTZMANN_EV_PER_K as KB

OMEGA = 2 * KB * 700
TEMPERATURE = np.linspace(300, 1000, 8)
DELTA_MU = np.linspace(-0.12, 0.12, 25)


@pytest.fixture(scope="module")
def tables():
    found = {
        m: regular_solution_table(OMEGA, TEMPERATURE, DELTA_MU, 0.003, s, m)
        for s, m in enumerate(["snis", "metropolis"])
    }
    found["snis"]["ness"] = found["snis"]["n_samples"] / 2000
    found["snis"]["reliable"][0, 10:14] = 0.0
    return found


@pytest.fixture(scope="module")
def boundaries(tables):
    other = (*FROM_FREE_ENERGY, *FROM_PHASE_WEIGHTS)
    return merge_boundaries(find_boundaries(c, tables)[0] for c in CRITERIA if c not in other)


@pytest.fixture(scope="module")
def hull():
    rows = [
        (s, x, e, n) for s in ("data", "model") for x, e, n in [(0, 0, "A"), (0.25, -0.03, "Cu3Au L1_2"), (1, 0, "B")]
    ]
    return pd.DataFrame(rows, columns=["source", "x", "formation_energy", "name"]).assign(structure="s")


@pytest.fixture(scope="module")
def predictions():
    x = np.array([0, 0.25, 0.5, 0.5, 1.0])
    e = np.array([0, -0.03, -0.01, 0.02, 0])
    return pd.DataFrame({"structure": list("abcde"), "x": x, "e_data": e, "e_model": e + 0.001, "e_cv": e - 0.002})


def cluster_expansion():
    lattice = parent_lattice("fcc", 3.8, ["Cu", "Au"])
    figure = np.zeros((6, 2, 4), dtype=int)
    clusters = (
        Cluster("c0", 0, 0.0, np.zeros((1, 0, 4), int), np.zeros((1, 0), int), 0.1, 0.01),
        Cluster("c2", 2, 2.7, figure, np.zeros((6, 2), int), 0.02, 0.001),
        Cluster("c3", 3, 2.7, np.zeros((8, 3, 4), int), np.zeros((8, 3), int), -0.01),
    )
    return ClusterExpansion(lattice, (((-1.0, 1.0),),), clusters, {"kind": "formation"})


def all_figures(tables, boundaries, hull, predictions):
    history = pd.DataFrame({"step": np.arange(60), "loss": np.exp(-np.arange(60) / 10.0), "ness": np.nan})
    history.loc[::10, "ness"] = np.linspace(0.1, 0.9, 6)
    return {
        "hull": expansion.plot_hull(hull, predictions, "x"),
        "parity": expansion.plot_parity(predictions, {"rmse": 0.001, "cv": 0.002, "cv_kind": "10-fold"}),
        "ecis": expansion.plot_ecis(cluster_expansion()),
        "isotherms": ensemble.plot_isotherms(tables, 4),
        "ness": ensemble.plot_ness_map(tables["snis"]),
        "heat_capacity": ensemble.plot_heat_capacity(tables),
        "energy_evaluations": ensemble.plot_energy_evaluations({"main": tables}, {"main": 1e7}),
        "training": ensemble.plot_training(history),
        "comparison": ensemble.plot_comparison(compare_methods(tables, "main")),
        "phase_diagram": phase_diagram.plot_phase_diagram(boundaries, tables, hull, ("A", "B")),
        "phase_diagram_delta_mu": phase_diagram.plot_phase_diagram_delta_mu(boundaries, tables, ("A", "B")),
    }


def test_every_figure_is_written_with_its_data(tmp_path, tables, boundaries, hull, predictions):
    for name, (figure, data) in all_figures(tables, boundaries, hull, predictions).items():
        paths = save_figure(figure, data, tmp_path / name)
        assert [p.suffix for p in paths] == [".svg", ".png", ".pdf", ".csv"]
        pixels = image.imread(paths[1])
        assert (pixels[..., :3] < 0.9).mean() > 0.005, f"{name} is blank"
        assert len(pd.read_csv(paths[3])) == len(data) > 0


def test_the_same_figure_is_the_same_bytes(tmp_path, tables, boundaries, hull):
    for run in ("first", "second"):
        figure, data = phase_diagram.plot_phase_diagram(boundaries, tables, hull, ("A", "B"))
        save_figure(figure, data, tmp_path / run / "diagram")
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_plotted_data_is_what_the_tables_hold(tables, boundaries, hull):
    _, data = ensemble.plot_isotherms(tables, 3)
    snis = data[(data["method"] == "snis") & (data["temperature"] == 300)]
    assert np.array_equal(snis["x"], tables["snis"]["composition"].isel(species=1, temperature=0))
    assert (~snis["reliable"]).sum() == 4
    _, data = phase_diagram.plot_phase_diagram(boundaries, tables, hull, ("A", "B"))
    drawn = data[data["series"] == "boundary"]
    assert drawn["temperature"].tolist() == boundaries["temperature"].tolist()
    assert (data["series"] == "sampled, unreliable").sum() == 4
    assert (data["series"] == "ground state").sum() == 3
    _, data = ensemble.plot_energy_evaluations({"main": tables}, {"main": 1e7})
    assert data[data["part"] == "training"]["energy_evaluations"].tolist() == [1e7]
    assert data["energy_evaluations"].iloc[0] == float(tables["snis"]["energy_evaluations"].sum())


def test_measured_points_are_drawn_over_the_diagram(tables, boundaries, hull):
    measured = pd.DataFrame(
        {"temperature": [350.0, 400.0, 410.0], "x": [0.2, 0.3, 0.7], "source": ["A 1990", "A 1990", "B 2001"]}
    )
    figure, data = phase_diagram.plot_phase_diagram(boundaries, tables, hull, ("A", "B"), measured)
    drawn = data[data["series"] == "measured"]
    assert drawn[["temperature", "x_left", "note"]].to_numpy().tolist() == measured.to_numpy().tolist()
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert named[-2:] == ["A 1990", "B 2001"]


def test_fields_are_named_and_hold_both_errors(boundaries):
    two = boundaries[boundaries["kind"] == "two_phase"]
    criterion, method = fields.choose_source(boundaries)
    line = two[(two["criterion"] == criterion) & (two["method"] == method)]
    model_error = line.assign(**{f"{name}_model_stderr": 0.01 for name in ("x_left", "x_right", "delta_mu")})
    labels = pd.DataFrame({"temperature": [300.0, 300.0, 500.0, 500.0], "delta_mu": [-0.1, 0.1, -0.1, 0.1]})
    labels = labels.assign(composition=[0.1, 0.9, 0.2, 0.8], phase=["AB L1_0", *(3 * ["solid solution"])])
    labels = labels.assign(most_probable=labels["phase"], probability=1.0)
    figure, data = fields.plot_fields(boundaries, ("A", "B"), labels, model_error)
    drawn = data[(data["series"] == "line") & (data["kind"] == "two_phase")]
    assert drawn["x_left"].tolist() == line["x_left"].tolist()
    assert drawn["x_left_sampling"].to_numpy() == pytest.approx(1.96 * line["x_left_stderr"].to_numpy(), rel=1e-3)
    assert drawn["x_right_model"].to_numpy() == pytest.approx(0.0196, rel=1e-3)
    written = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert written.count("solid solution") == 2
    _, data = fields.plot_fields(two, ("A", "B"))  # no tops
    assert set(data["kind"]) == {"two_phase"}
    figure, data = fields.plot_fields(boundary_table([]), ("A", "B"))
    assert not len(data)
    assert "no boundary found" in figure.axes[0].texts[0].get_text()


def test_snapshots_show_the_decorations_of_every_phase():
    lattice = parent_lattice("fcc", 4.0, ["Cu", "Au"])
    cell = Supercell(lattice, [4, 4, 4])
    atoms = bulk("Cu", "fcc", a=4.0, cubic=True)
    atoms.symbols = "AuCu3"
    atoms.set_array("occupation", np.array([1, 0, 0, 0]))
    references = references_of([atoms], cell)
    ordered = next(iter(references.values()))[:2]
    spins = np.array([[ordered, np.where(np.arange(64) < 9, 1, -1) * np.ones((2, 1))]])
    content = {"occupation": pack_spins(spins), "energy": np.zeros((1, 2, 2)), "n_atoms": (spins > 0).sum(-1)}
    samples = sample_set(
        "snis", [300.0], [0.0, 1.0], ["Cu", "Au"], {**content, "log_weight": np.zeros((1, 2, 2))},
        {"cell": "main", "n_sites": 64},
    )  # fmt: skip
    figure, data = snapshots.plot_snapshots(samples, label_phases(samples, references), references, cell)
    assert data["phase"].tolist() == 2 * ["Cu3Au L1_2"] + 2 * ["solid solution"]
    assert [row.count("1") for row in data["occupation"]] == [16, 16, 9, 9]
    # Every site of three conventional cells along each axis: a block of 6 x 6 x 6 half steps, half of them sites.
    assert len(snapshots.block_sites(cell)[0]) == 108
    assert len(figure.axes[0].collections[0].get_offsets()) == 108


def test_comparison_histogram_counts_reliable_conditions_away_from_jumps(tables):
    comparison = compare_methods(tables, "main")
    _, data = ensemble.plot_comparison(comparison)
    kept = comparison[comparison["reliable_a"] & comparison["reliable_b"] & ~comparison["near_jump"]]
    counted = data.groupby("variable")["count"].sum()
    for variable, part in kept.groupby("variable"):
        assert counted[variable] == len(part)


def test_an_empty_diagram_says_so_and_a_field_has_its_name(tables, hull, boundaries):
    figure, _ = phase_diagram.plot_phase_diagram(boundaries, tables, hull, ("A", "B"))
    assert [t.get_text() for t in figure.axes[0].texts if "+" in t.get_text()] == ["(A)\n+ (B)"]
    figure, data = phase_diagram.plot_phase_diagram(boundary_table([]), tables, hull, ("A", "B"))
    assert any("no boundary found" in t.get_text() for t in figure.axes[0].texts)
    assert "boundary" not in set(data["series"])


def test_formula_labels():
    assert formula_label("Cu3Au L1_2") == "Cu$_{3}$Au L1$_{2}$"
    assert formula_label("solid solution") == "solid solution"
    assert formula_label("Au") == "Au"
