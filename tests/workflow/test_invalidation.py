"""The invalidation table of DESIGN.md: an edit re-runs exactly the rules it concerns, and nothing else ever re-runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from config_edits import put

DIAGRAMS = {"plot_phase_diagram", "plot_fields", "plot_interactive_diagram"}
INVARIANTS = {"find_invariants", "extrapolate_sizes", "plot_finite_size", "write_summary"}
BOUNDARIES = {"find_boundaries", "merge_boundaries", "check_consistency", *DIAGRAMS, *INVARIANTS}
COMPARISON = {"compare_methods", "plot_comparison", "write_summary"}
FREE_ENERGIES = {"compute_free_energies", "plot_tangents", *BOUNDARIES}
TABLES = {"plot_ensembles", "plot_costs", *COMPARISON, *FREE_ENERGIES}
LABELS = {"label_phases", "plot_phases", "plot_snapshots", *BOUNDARIES}
CALPHAD = {"export_tdb", "write_summary"}  # of the first method with samples, SNIS in the tiny study
SNIS = {"sample_snis", "export_tdb", "plot_ness", "compute_model_errors", *LABELS, *TABLES}
TRAINING = {"train_segal", "plot_training", *SNIS}
CHAINS = {
    "sample_metropolis",
    "sample_tempering",
    "sample_metadynamics",
    "sample_canonical",
    "sample_vcsgc",
    "sample_scan",
}
LOCKSTEP = {*CHAINS, *LABELS, *TABLES}
SAMPLERS = {"enumerate_exactly", "sample_wang_landau", *LOCKSTEP, *TRAINING}
FIT = {
    "fit_expansion",
    "search_ground_states",
    "plot_expansion",
    "plot_learning_curve",
    "build_cell",
    "choose_grid",
    *SAMPLERS,
}
REFINEMENT = {"refine_grid", "sample_snis_refined", "find_refined_boundaries"}
AFTER_REFINEMENT = {"merge_boundaries", "check_consistency", *DIAGRAMS, *INVARIANTS}
DATASET = {"build_dataset", "plot_missing", *FIT}


CONFIG_EDITS = {
    "boundary tolerance": (put("phases", "composition_jump", "n_sigma", 7.5), BOUNDARIES),
    "tangent setting": (
        put("phases", "common_tangent", "n_sigma", 5.0),
        {"compute_model_errors", "plot_tangents", *BOUNDARIES},
    ),
    "free-energy replicates": (
        put("free_energy", "replicates", 40),
        {"compute_model_errors", *CALPHAD, *FREE_ENERGIES, *LABELS},
    ),
    "refinement": (put("refinement", "cells", ["main"]), {*REFINEMENT, *AFTER_REFINEMENT}),
    "search": (put("expansions", "main", "ground_states", "sweeps", 3), {"search_ground_states", "write_summary"}),
    "ECI draws": (put("model_error", "draws", 4), {"compute_model_errors", "plot_fields"}),
    "Redlich-Kister order": (put("phases", "calphad", "maximum_order", 3), CALPHAD),
    "figure setting": (put("figures", "isotherms", 3), {"plot_ensembles"}),
    "SNIS samples": (put("snis", "samples_per_condition", 61), SNIS),
    # The snapshots are those of the first method with samples, SNIS in the tiny study.
    "Metropolis sweeps": (
        put("metropolis", "sweeps", 210),
        {"sample_metropolis", *LABELS, *TABLES} - {"plot_snapshots"},
    ),
    "training steps": (put("segal", "training", "steps", 31), TRAINING),
    "temperatures": (put("grid", "temperature", "stop", 950), {"choose_grid", *SAMPLERS}),
    "fit": (put("expansions", "main", "fit", "method", "bayesian_ridge"), FIT),
    "usable fraction": (put("calculations", "emt", "minimum_fraction", 0.5), DATASET),
    "relaxation": (put("calculations", "emt", "fmax", 0.03), {"calculate_structure", *DATASET}),
}

MODULE_EDITS = {
    "phases/alpha_shape.py": {"plot_tangents", *BOUNDARIES},
    "phases/invariants.py": INVARIANTS,
    "phases/finite_size.py": {"extrapolate_sizes", "plot_finite_size", "write_summary"},
    "plotting/finite_size.py": {"plot_finite_size"},
    "phases/consistency.py": {"check_consistency", "write_summary"},
    "phases/model_error.py": {"compute_model_errors", "plot_fields"},
    "phases/integration.py": {"check_consistency", "write_summary"},
    "phases/calphad.py": CALPHAD,
    "phases/order_disorder.py": {"plot_tangents", *BOUNDARIES},
    "plotting/fields.py": {"plot_fields"},
    "plotting/snapshots.py": {"plot_snapshots"},
    "thermo/order_parameters.py": {"plot_tangents", *LABELS, *CALPHAD},
    "thermo/short_range_order.py": {*LABELS, *CALPHAD},
    "thermo/reweighting.py": {"compute_model_errors", *CALPHAD, *FREE_ENERGIES, *LABELS},
    "phases/refinement.py": set(),
    "sampling/refined.py": set(),
    "expansion/fit.py": FIT,
    "sampling/metadynamics.py": {"sample_metadynamics", *TABLES},
    "energy/lockstep.py": {"search_ground_states", *LOCKSTEP, *TRAINING},
    "segal/network.py": TRAINING,
    "dft/calculation.py": {"calculate_structure", *DATASET},
    "plotting/phase_diagram.py": DIAGRAMS,
    "plotting/free_energy.py": {"plot_tangents"},
    "thermo/comparison.py": {"compute_model_errors", *CALPHAD, *COMPARISON, *FREE_ENERGIES, *LABELS},
    "settings.py": set(),
}


def test_a_second_run_has_nothing_to_do(project) -> None:
    done = project.snakemake()
    assert "Nothing to be done" in done.stdout + done.stderr


def test_touching_every_file_reruns_nothing(project) -> None:
    files = sorted(p for p in project.folder.rglob("*") if p.is_file() and ".snakemake" not in p.parts)
    before = {file: file.stat() for file in files}
    for file in files:
        os.utime(file)
    try:
        assert not project.planned()
    finally:  # without a record of checksums it is dates that count, and other tests take such records away
        for file, stat in before.items():
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_comments_and_docstrings_rerun_nothing(project) -> None:
    for file in sorted((project.folder / "workflow" / "src").rglob("*.py")):
        file.write_text(file.read_text() + "\n# a remark\n")
    assert not project.planned()


@pytest.mark.parametrize("name", CONFIG_EDITS)
def test_a_key_reruns_exactly_its_rules(project, name) -> None:
    change, expected = CONFIG_EDITS[name]
    project.config(change)
    assert set(project.planned()) == expected


@pytest.mark.parametrize("module", MODULE_EDITS)
def test_a_module_reruns_exactly_its_users(project, module) -> None:
    project.append(f"workflow/src/segalflow/{module}", "\n_CHANGED = 1\n")
    assert set(project.planned()) == MODULE_EDITS[module]


def test_one_cells_override_reruns_that_cell_only(project) -> None:
    project.config(put("cells", "small", "snis", {"samples_per_condition": 63}))
    assert project.planned()["sample_snis"] == 1


def test_one_criterion_reruns_alone(project) -> None:
    project.config(put("phases", "alpha_shape", "alpha", 1.5))
    assert project.planned()["find_boundaries"] == 1


def test_a_larger_pool_calculates_only_new_structures(fresh_project) -> None:
    project = fresh_project
    project.snakemake("energies")
    project.config(put("structures", "max_atoms", 3))
    jobs = project.planned()
    # What follows the checkpoint is planned once the new pool is known; here only the enumeration must be certain.
    assert jobs["enumerate_structures"] == 1
    folder = project.folder / "results" / "tiny" / "dft" / "emt" / "records"
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.json")}
    project.snakemake("energies")
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.json")}
    assert len(after) == 10 > len(before)
    assert {name: after[name] for name in before} == before


def generations(number):
    def change(config):
        config["structures"].update(generations=number, initial=4)
        config["expansions"]["main"].update(
            proposals={"number": 1, "max_atoms": 3}, ground_states={"repeats": [[2, 2, 2]], "sweeps": 2, "max_atoms": 3}
        )

    return change


def test_generations_are_unrolled_and_more_of_them_repeat_nothing(tiny_run, tmp_path) -> None:
    project = replace(tiny_run, folder=tmp_path / "copy")
    shutil.copytree(tiny_run.folder, project.folder)
    records = project.folder / "results" / "tiny" / "dft" / "emt" / "records"
    calculated = {p.name: p.stat().st_mtime_ns for p in records.iterdir()}
    project.config(generations(1))
    jobs = project.planned()
    # The pool of four is what it begins with; its calculations are those that are there.
    assert not set(jobs) & {"enumerate_structures", "calculate_structure", "write_model"}
    after = {"gather_generations": 1, "tabulate_generations": 1, "build_dataset": 1, "fit_expansion": 1}
    assert {rule: jobs[rule] for rule in after} == after
    assert jobs["propose_generation"] == 2
    table = "results/tiny/expansion/main/generations.csv"
    project.snakemake("expansions", table)
    new = {p.name for p in records.iterdir()} - set(calculated)
    assert len(new) == 1
    assert {name: (records / name).stat().st_mtime_ns for name in calculated} == calculated
    assert not project.planned("expansions", table)
    project.config(generations(2))
    assert project.planned("expansions", table) == {**after, "calculate_structure": 1, "propose_generation": 1}
    project.config(generations(1))
    assert not project.planned("expansions", table)


def test_more_to_begin_with_than_there_is_is_one_sentence(project) -> None:
    project.config(generations(1))
    project.config(put("structures", "initial", 9))
    done = project.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert (
        "structures.initial: expected at most 4, the structures of up to 2 atoms, found 9" in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
