"""A study's settings as a whole: the checks that need more than one key.

`prepare_study` is called once when the workflow is read; everything wrong with a config is said there, before any job
runs. It takes a plain dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from segalflow.cells import build_cell, choose_axes, choose_grid
from segalflow.dft.convergence import plan_points
from segalflow.dft.engines import check_engine
from segalflow.dft.ways import ENGINE, RUN, way_of
from segalflow.energy.kinds import (
    EXPANSION,
    KINDS,
    Kind,
    check_kind,
    check_methods,
    check_species_methods,
    kind_of,
)
from segalflow.energy.potentials import ExchangePotentials
from segalflow.errors import SegalflowError, SettingsError, suggest
from segalflow.lattice import ParentLattice, Supercell, lattice_from_settings, square_sides, supercell_matrix
from segalflow.settings import check_settings, merged
from segalflow.units import BOLTZMANN_EV_PER_K

REFINERS = ("composition_jump", "common_tangent", "equal_weight")
"""Criteria whose points can be refined (`segalflow.phases.refinement.REFINERS`, which needs the whole analysis)."""

CELL_OVERRIDES = (
    "grid", "segal", "snis", "metropolis", "tempering", "metadynamics", "canonical", "vcsgc", "scan", "wang_landau",
)  # fmt: skip


def cell_settings(config: Mapping[str, Any], cell: str, block: str) -> dict[str, Any]:
    """Return a block of the config with the overrides of one cell put in (an axis of a grid is replaced whole)."""
    override = config["cells"][cell].get(block, {})
    return {**config[block], **override} if block == "grid" else merged(config[block], override)


def kinds_of(config: Mapping[str, Any]) -> dict[str, Kind]:
    """Return the kind of every Hamiltonian of the config, by its name."""
    return {name: KINDS[kind_of(expansion)] for name, expansion in config["expansions"].items()}


def proposers_of(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the fits that propose structures, by calculation; none where the study has no generations."""
    if not config["structures"]["generations"]:
        return {}
    fits = {
        name: fit
        for name, fit in config["expansions"].items()
        if kind_of(fit) == EXPANSION and "published" not in fit and fit["proposals"]["number"] > 0
    }
    return {
        calculation: [name for name, fit in fits.items() if fit.get("calculation") == calculation]
        for calculation in config["calculations"]
    }


def energy_unit(config: Mapping[str, Any], cell: str) -> str:
    """Return the energy unit of a cell's Hamiltonian, ``"eV"`` or ``"J"``."""
    return kinds_of(config)[config["cells"][cell]["expansion"]].energy_unit


def prepare_study(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with all defaults filled in, after every check that needs no data.

    Args:
        config: the study as read from its YAML file (and the command line).
        schema: the config's JSON schema.

    Raises:
        SegalflowError: one sentence that names the key.
    """
    # A round trip through JSON: keys become texts and nothing but plain types is left to compare between runs.
    config = check_settings(json.loads(json.dumps(config)), schema)
    lattice = lattice_from_settings(config["lattice"])
    for name, calculation in config["calculations"].items():
        try:
            check_engine(
                calculation["engine"], calculation["parameters"], lattice.elements, calculation["allow_unphysical"]
            )
            if calculation.get("convergence"):
                plan_points(calculation, lattice.elements)
        except SegalflowError as error:
            raise type(error)(f"calculations.{name}: {error}") from None
    for name, expansion in config["expansions"].items():
        check_kind(name, expansion)
        if "calculation" in expansion:  # a published expansion needs none
            _check_reference("expansions", name, "calculation", expansion["calculation"], config["calculations"])
    _check_generations(config)
    if not lattice.is_binary:
        _check_species_study(config)
    for name, cell in config["cells"].items():
        _check_reference("cells", name, "expansion", cell["expansion"], config["expansions"])
        description = build_cell(name, lattice, cell["repeat"])
        kind = kind_of(config["expansions"][cell["expansion"]])
        sides = square_sides(Supercell(lattice, supercell_matrix(cell["repeat"])))
        if lattice.is_binary:
            check_methods(name, kind, cell["methods"], description["n_sites"], sides)
        else:
            check_species_methods(name, cell["methods"], float(len(lattice.species[0])) ** description["n_sites"])
        # Overrides are checked as the whole blocks they make.
        whole = {block: cell_settings(config, name, block) for block in CELL_OVERRIDES}
        try:
            check_settings({**config, **whole}, schema)
        except SettingsError as error:
            raise SettingsError(f"cells.{name} (overrides): {error}") from None
        _check_start(config, name, whole["segal"]["start_from"])
        _check_network(name, whole["segal"], lattice.is_binary)
        _check_grid(name, kind, whole["grid"], lattice)
    _check_refinement(config)
    return json.loads(json.dumps(config, sort_keys=True))


def _check_grid(name: str, kind: str, grid: Mapping[str, Any], lattice: ParentLattice) -> None:
    """One axis of chemical potentials for two species, one an exchange for more."""
    key, delta_mu = f"cells.{name}.grid", grid["delta_mu"]
    if not lattice.is_binary:
        names = ExchangePotentials.of(Supercell(lattice, supercell_matrix([1, 1, 1]))).axis_names
        choose_axes(grid["temperature"], delta_mu, names, key)
        return
    if isinstance(delta_mu, Mapping) and "number" not in delta_mu:
        raise SettingsError(
            f"{key}.delta_mu: two species have one chemical potential; give start, stop, number, or a list, and not "
            f"an axis for each of {', '.join(delta_mu)}"
        )
    if not KINDS[kind].fitted and isinstance(delta_mu, Mapping) and "start" not in delta_mu:
        raise SettingsError(
            f"{key}.delta_mu: the model '{kind}' has no convex hull to choose a window from; "
            "give start, stop, number or a list"
        )
    choose_grid(grid["temperature"], delta_mu, [0.0], BOLTZMANN_EV_PER_K, key)


def _check_network(name: str, segal: Mapping[str, Any], is_binary: bool) -> None:
    """Networks of two species and of more are not the same."""
    kind, objective = segal["network"]["kind"], segal["training"]["objective"]
    if is_binary and kind == "categorical":
        raise SettingsError("segal.network.kind: 'categorical' is for more than two species, expected physics or made")
    if is_binary:
        return
    if kind != "categorical":
        raise SettingsError(f"segal.network.kind: '{kind}' is for two species, expected categorical")
    if objective == "mixed":
        raise SettingsError("segal.training.objective: 'mixed' is for two species, expected likelihood or reverse_kl")
    if segal["start_from"] is not None:
        raise SettingsError(f"cells.{name}.segal.start_from: networks of more than two species start anew")


def _check_species_study(config: Mapping[str, Any]) -> None:
    """What a study of more than two species cannot have: everything that knows one composition only."""
    for name, expansion in config["expansions"].items():
        kind = kind_of(expansion)
        if kind != EXPANSION:
            raise SettingsError(f"expansions.{name}.model: '{kind}' is a model of two species, expected a fit")
        if "published" in expansion:
            raise SettingsError(f"expansions.{name}.published: only expansions of two species are imported")
        if expansion["basis"]["generator"] != "symmetry":
            raise SettingsError(
                f"expansions.{name}.basis.generator: CLEASE's clusters are of two species here, expected symmetry"
            )
    if config["structures"]["generations"]:
        raise SettingsError("structures.generations: active learning is for two species, expected 0")
    if config["refinement"]["cells"]:
        raise SettingsError("refinement.cells: boundaries are looked for between two species only, expected none")


def _check_generations(config: Mapping[str, Any]) -> None:
    """Generations need calculations that the workflow can run, and a fit that says what it wants to know."""
    number = config["structures"]["generations"]
    if number and not config["calculations"]:
        raise SettingsError(f"structures.generations: expected 0, found {number}: the study has no calculations")
    for name, fits in proposers_of(config).items():
        calculation = config["calculations"][name]
        if way_of(calculation) not in (ENGINE, RUN):
            how = f"'{calculation['engine']}'" + (f" of mode '{calculation['mode']}'" if "mode" in calculation else "")
            raise SettingsError(
                f"structures.generations: expected 0, found {number}: calculations.{name} is {how}, which cannot "
                "calculate proposed structures by itself; generations need an engine, or vasp of mode 'run'"
            )
        if not fits:
            raise SettingsError(
                f"structures.generations: expected 0, found {number}: no cluster expansion is fitted to "
                f"calculations.{name} that could propose its structures (expansions.<name>.calculation, and "
                "proposals.number above 0)"
            )


def refined_criteria(config: Mapping[str, Any]) -> list[str]:
    """Return the criteria whose boundaries are refined: those named, or all that the study applies and can refine."""
    named = config["refinement"]["criteria"]
    applied = config["phases"]["criteria"]
    return [name for name in applied if name in REFINERS] if named is None else list(named)


def _check_refinement(config: Mapping[str, Any]) -> None:
    """Cells that are swept and in the diagram, criteria that are applied, and a width to reach."""
    settings = config["refinement"]
    for name in settings["cells"]:
        if name not in config["cells"]:
            known = config["cells"]
            raise SettingsError(
                f"refinement.cells: '{name}' is not defined, expected one of {', '.join(known)}{suggest(name, known)}"
            )
        if "snis" not in config["cells"][name]["methods"] or not config["cells"][name]["phases"]:
            raise SettingsError(
                f"refinement.cells: cell '{name}' needs the method snis and 'phases: true' for its boundaries to be "
                "refined"
            )
    if not settings["cells"]:
        return
    for name in settings["criteria"] or []:
        if name not in config["phases"]["criteria"]:
            raise SettingsError(f"refinement.criteria: '{name}' is not among phases.criteria, so it finds nothing")
    if not refined_criteria(config):
        raise SettingsError(f"refinement: expected one of {', '.join(REFINERS)} among phases.criteria, found none")
    if all(settings[f"width_{name}"] is None for name in ("x", "temperature", "delta_mu")):
        raise SettingsError("refinement: expected width_x, width_temperature or width_delta_mu, found none of them")


def _check_start(config: Mapping[str, Any], name: str, start: str | None) -> None:
    """Follow a cell's chain of starting cells: known, of the same expansion, and not back to itself."""
    seen = [name]
    while start is not None:
        _check_reference(f"cells.{seen[-1]}", "segal", "start_from", start, config["cells"])
        if start in seen:
            raise SettingsError(f"cells.{name}.segal.start_from: '{start}' starts from itself ({' <- '.join(seen)})")
        if config["cells"][start]["expansion"] != config["cells"][name]["expansion"]:
            raise SettingsError(f"cells.{name}.segal.start_from: cell '{start}' belongs to another expansion")
        seen.append(start)
        start = cell_settings(config, start, "segal")["start_from"]


def _check_reference(block: str, name: str, key: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise SettingsError(
            f"{block}.{name}.{key}: '{value}' is not defined, expected one of {', '.join(known)}{suggest(value, known)}"
        )
