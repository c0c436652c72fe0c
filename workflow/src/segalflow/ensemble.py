"""The ensemble table: the one netCDF schema that every method writes (the second contract).

Dimensions are ``temperature``, ``delta_mu`` and ``species``; every estimate ``name`` has its standard error
beside it as ``name_stderr``. Boundary extraction, plots and comparisons read this table and never know the method.

With more than one exchange of species there is one dimension each, ``delta_mu_1``, ``delta_mu_2``, ..., named by the
coordinate ``exchange`` (``Au-Cu`` for mu(Au) - mu(Cu)), and ``susceptibility`` is a matrix over ``exchange`` (of
which fraction) and ``potential`` (by which delta_mu).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.artefacts import read_dataset, write_dataset
from segalflow.errors import ArtefactError
from segalflow.provenance import file_sha256

SCHEMA = "segalflow.ensemble/1"

GRID = ("temperature", "delta_mu")

# name: (dimensions, unit in eV systems, unit in J systems, long name, whether it carries a standard error)
VARIABLES: dict[str, tuple[tuple[str, ...], str, str, str, bool]] = {
    "log_z": (GRID, "1", "1", "logarithm of the semi-grand-canonical partition function of the whole cell", True),
    "grand_potential": (GRID, "eV/site", "J/site", "grand potential per site, -kT log Z / N", True),
    "composition": ((*GRID, "species"), "1", "1", "mean fraction of sites held by a species", True),
    "energy": (
        GRID,
        "eV/site",
        "J/site",
        "mean potential energy U per site (without the chemical-potential term)",
        True,
    ),
    "heat_capacity": (
        GRID,
        "k_B/site",
        "k_B/site",
        "heat capacity at constant delta_mu, var(U - dmu N) / (k_B T^2) / sites",
        True,
    ),
    "susceptibility": (GRID, "1/eV", "1/J", "composition susceptibility d<x>/d(dmu) = var(N) / kT / sites", True),
    "heat_capacity_network": (
        GRID,
        "k_B/site",
        "k_B/site",
        "heat capacity of the network by differentiating it by temperature",
        True,
    ),
    "susceptibility_network": (
        GRID,
        "1/eV",
        "1/J",
        "susceptibility of the network by differentiating it by delta_mu",
        True,
    ),
    "composition_up": (GRID, "1", "1", "fraction of species 1 on the branch of rising delta_mu", True),
    "composition_down": (GRID, "1", "1", "fraction of species 1 on the branch of falling delta_mu", True),
    "ness": (GRID, "1", "1", "normalised effective sample size of the importance weights (of the q side)", False),
    "ness_p": (
        GRID,
        "1",
        "1",
        "normalised effective sample size seen from equilibrium decorations made without the network (p side)",
        False,
    ),
    "acceptance": (GRID, "1", "1", "fraction of accepted trial moves", False),
    "autocorrelation_time": (
        GRID,
        "sweep",
        "sweep",
        "integrated autocorrelation time of U - dmu N (of methods that reweight or scan: that of x, from its error)",
        False,
    ),
    "n_samples": (GRID, "1", "1", "number of samples that entered the estimates", False),
    "energy_evaluations": (GRID, "1", "1", "energy evaluations spent (a local update counts as one)", False),
    "full_energy_evaluations": (GRID, "1", "1", "complete energies of a cell among the energy evaluations", False),
    "reliable": (
        GRID,
        "1",
        "1",
        "1 where the estimate passed the method's own test (ESS floor, convergence), else 0",
        False,
    ),
    "repaired": (GRID, "1", "1", "1 where the estimate comes from a repair of weak importance weights, else 0", False),
    "extrapolated": (GRID, "1", "1", "1 where a network served conditions outside its trained domain, else 0", False),
    "round": (
        GRID,
        "1",
        "1",
        "what a condition is from: 0 the first sweep, else the round of refinement; missing where nothing was sampled",
        False,
    ),
    "composition_log_weight": (
        (*GRID, "n_atoms"),
        "1",
        "1",
        "logarithm of the share of log Z held by each number of species-1 atoms",
        True,
    ),
}

LEFT_OUT = "log_weight_left_out"
"""Name of the optional variable of `with_walkers`."""

REQUIRED = ("composition", "energy", "heat_capacity", "susceptibility", "n_samples", "energy_evaluations", "reliable")

COUNTS = ("n_samples", "energy_evaluations", "full_energy_evaluations", "reliable", "repaired")
"""Variables that are 0, and not missing, where nothing was sampled."""


def ensemble_table(
    method: str,
    temperature: np.ndarray,
    delta_mu: np.ndarray | Mapping[str, np.ndarray],
    species: Sequence[str],
    variables: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    energy_unit: str = "eV",
) -> xr.Dataset:
    """Build and check an ensemble table.

    Args:
        method: ``snis``, ``metropolis``, ``metadynamics``, ``exact``, ...
        temperature: shape (n_temperatures,), K (or J/k_B), increasing.
        delta_mu: shape (n_delta_mu,), mu_1 - mu_0 in eV per exchanged atom (or J), increasing; for several exchanges
            the axis of each by its label.
        species: species of the sublattice, index 0 is the reference of delta_mu; for several exchanges all elements.
        variables: arrays by name (see `VARIABLES`); a standard error is passed as ``<name>_stderr``.
        attributes: cell, model hash, chemical-potential reference, seeds, settings; plain types.
        energy_unit: ``"eV"`` or ``"J"``.

    Raises:
        ArtefactError: if a variable is unknown, has the wrong shape, or a required one or its error is missing.
    """
    axes = _axes(delta_mu, species)
    grid = ("temperature", *axes)
    sizes = {"temperature": len(temperature), **{k: len(v) for k, (v, _) in axes.items()}, "species": len(species)}
    if len(axes) > 1:
        sizes |= {"exchange": len(axes), "potential": len(axes)}
    data: dict[str, Any] = {}
    for name, values in variables.items():
        base = name.removesuffix("_stderr")
        if base not in VARIABLES or (name != base and not VARIABLES[base][4]):
            raise ArtefactError(f"ensemble table of '{method}': unknown variable '{name}'")
        dimensions, unit, toy_unit, long_name, _ = VARIABLES[base]
        dimensions = (*grid, *dimensions[len(GRID) :])
        if base == "susceptibility" and len(axes) > 1:
            dimensions = (*dimensions, "exchange", "potential")
        values = np.asarray(values, dtype=np.float64)
        if "n_atoms" in dimensions:
            sizes.setdefault("n_atoms", values.shape[-1])
        expected = tuple(sizes[d] for d in dimensions)
        if values.shape != expected:
            raise ArtefactError(f"ensemble table of '{method}': '{name}' has shape {values.shape}, expected {expected}")
        described = long_name if name == base else f"standard error of: {long_name}"
        data[name] = (dimensions, values, {"units": unit if energy_unit == "eV" else toy_unit, "long_name": described})
    for name in REQUIRED:
        if name not in data:
            raise ArtefactError(f"ensemble table of '{method}': variable '{name}' is missing")
    for name in [n for n in data if n in VARIABLES and VARIABLES[n][4]]:
        if f"{name}_stderr" not in data:
            raise ArtefactError(f"ensemble table of '{method}': '{name}' has no standard error")
    temperature_unit = "K" if energy_unit == "eV" else "J/k_B"
    coordinates = {
        "temperature": (
            "temperature",
            np.asarray(temperature, float),
            {"units": temperature_unit, "long_name": "temperature"},
        ),
        **{
            name: (name, values, {"units": energy_unit, "long_name": long_name})
            for name, (values, long_name) in axes.items()
        },
        "species": ("species", np.array(list(species), dtype=object)),
    }
    if len(axes) > 1:
        labels = np.array(list(delta_mu), dtype=object)
        coordinates |= {"exchange": ("exchange", labels), "potential": ("potential", labels)}
    if "n_atoms" in sizes:
        coordinates["n_atoms"] = (
            "n_atoms",
            np.arange(sizes["n_atoms"]),
            {"long_name": f"number of {species[1]} atoms"},
        )
    attrs = {"schema": SCHEMA, "method": method, "energy_unit": energy_unit, **attributes}
    return xr.Dataset(data, coords=coordinates, attrs=attrs)


def with_walkers(table: xr.Dataset, log_weight: np.ndarray) -> xr.Dataset:
    """Return a table that also holds how its weights by composition scatter over independent walkers.

    Args:
        table: an ensemble table that resolves composition.
        log_weight: ``log sum exp(-U/kT)`` by composition, up to a constant, with one walker left out, shape
            (n_temperatures, n_walkers, n_sites + 1); NaN where nothing is known.
    """
    meaning = {"units": "1", "long_name": "logarithm of sum exp(-U/kT) at a composition with one walker left out"}
    return table.assign({LEFT_OUT: (("temperature", "walker", "n_atoms"), log_weight, meaning)})


def _axes(delta_mu: np.ndarray | Mapping[str, np.ndarray], species: Sequence[str]) -> dict[str, tuple[np.ndarray, str]]:
    """Return values and meaning of every axis of chemical potentials by the name of its dimension."""
    if not isinstance(delta_mu, Mapping):
        return {"delta_mu": (np.asarray(delta_mu, float), f"mu({species[1]}) - mu({species[0]})")}
    found = {}
    for number, (label, values) in enumerate(delta_mu.items(), start=1):
        name, _, reference = label.partition("-")
        key = "delta_mu" if len(delta_mu) == 1 else f"delta_mu_{number}"
        found[key] = (np.asarray(values, float), f"mu({name}) - mu({reference})")
    return found


def grid_dimensions(table: xr.Dataset) -> tuple[str, ...]:
    """Return the dimensions of the conditions of a table: temperature and every delta_mu."""
    names = itertools.takewhile(table.sizes.__contains__, (f"delta_mu_{k}" for k in itertools.count(1)))
    return ("temperature", *(("delta_mu",) if "delta_mu" in table.sizes else names))


def source_attributes(cell: str, reference: Mapping[str, Any], model_path: str | Path) -> dict[str, Any]:
    """Return the attributes that say which cell and Hamiltonian a table is for.

    Args:
        cell: name of the cell.
        reference: what zero energy means (`ClusterExpansion.reference`); tables of different ones are not compared.
        model_path: the model file; its hash is stored.
    """
    return {"cell": cell, "reference": dict(reference), "model_sha256": file_sha256(model_path)}


def write_ensemble(path: str | Path, table: xr.Dataset) -> None:
    """Write an ensemble table as netCDF-4; nested attributes become JSON text."""
    write_dataset(path, table)


def read_ensemble(path: str | Path) -> xr.Dataset:
    """Read an ensemble table into memory and check it.

    Raises:
        ArtefactError: if the file is missing, corrupted, of another schema, or lacks a required variable.
    """
    return read_dataset(path, SCHEMA, REQUIRED)


def read_ensembles(paths: Iterable[str | Path]) -> dict[str, dict[str, xr.Dataset]]:
    """Read ensemble tables of several cells and methods.

    Returns:
        The tables by method, by cell; both in the order of the paths.

    Raises:
        ArtefactError: as `read_ensemble`.
    """
    tables: dict[str, dict[str, xr.Dataset]] = {}
    for table in map(read_ensemble, paths):
        tables.setdefault(table.attrs["cell"], {})[table.attrs["method"]] = table
    return tables


def second_species_composition(table: xr.Dataset) -> xr.DataArray:
    """Return the fraction of species 1, dims (temperature, delta_mu): the x axis of every binary diagram here."""
    return table["composition"].isel(species=1)


def sampled_conditions(table: xr.Dataset) -> np.ndarray:
    """Return which conditions were sampled, bool (n_temperatures, n_delta_mu).

    Conditions added by refinement lie where they are needed; the others of their temperatures and chemical potentials
    are blanks: ``round``, estimates and errors NaN, ``n_samples`` and ``reliable`` 0.
    """
    if "round" not in table:
        return np.ones((table.sizes["temperature"], table.sizes["delta_mu"]), dtype=bool)
    return np.isfinite(table["round"].values)


def added_conditions(table: xr.Dataset) -> np.ndarray:
    """Return which conditions were added by refinement, bool (n_temperatures, n_delta_mu)."""
    if "round" not in table:
        return np.zeros((table.sizes["temperature"], table.sizes["delta_mu"]), dtype=bool)
    return np.nan_to_num(table["round"].values) > 0


def lower_ness(table: xr.Dataset) -> np.ndarray:
    """Return the normalised effective sample size of the q side, or of the p side where it is lower, shape (n_T, n)."""
    ness = np.asarray(table["ness"], dtype=float)
    return np.fmin(ness, np.asarray(table["ness_p"], dtype=float)) if "ness_p" in table else ness
