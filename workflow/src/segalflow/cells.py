"""Cells and the grids of conditions swept on them.

A cell file (``cells/{cell}.json``) holds the supercell with its sites, species and symmetry; a grid file
(``grids/{cell}.json``) the temperatures and chemical potentials that every method sweeps on that cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segalflow.artefacts import read_json, write_json
from segalflow.errors import ArtefactError, LatticeError, SettingsError
from segalflow.lattice import ParentLattice, Supercell, supercell_matrix

CELL_SCHEMA = "segalflow.cell/1"
GRID_SCHEMA = "segalflow.grid/1"

# The window of delta_mu chosen from the hull, where the config names only its number of points.
WINDOW_REACH = 1.5  # k_B T_max beyond the outermost ground-state transitions: independent sites reach x = 0.18, 0.82
WINDOW_MARGIN = 0.5  # or this share of the transitions' spread, whichever is wider


def build_cell(
    name: str, lattice: ParentLattice, repeat: Sequence[Any], warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the content of a cell file.

    Args:
        name: the cell's name in the config.
        lattice: parent lattice.
        repeat: three repeats of the primitive vectors, or a 3x3 integer matrix.
        warnings: sentences a reader must see (ground states that do not fit).

    Raises:
        LatticeError: if `repeat` is no supercell; the sentence names the key.
    """
    try:
        cell = Supercell(lattice, supercell_matrix(repeat))
    except LatticeError as error:
        raise LatticeError(f"cells.{name}.repeat: {error}") from None
    operations = cell.symmetry_permutations()
    return {
        **cell.to_dict(),
        "name": name,
        "n_sites": cell.n_sites,
        "cell": cell.cell,
        "sites": cell.sites,
        "positions": cell.positions,
        "n_point_operations": len(cell.point_permutations),
        "n_operations": len(operations),
        "point_operations": cell.point_permutations,
        "translations": cell.translations,
        "warnings": list(warnings),
    }


def write_cell(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a cell file."""
    write_json(path, content, CELL_SCHEMA)


def read_cell(path: str | Path) -> Supercell:
    """Read the supercell of a cell file.

    Raises:
        ArtefactError: if the file is missing, cut short or not a cell file.
    """
    content = read_json(path, CELL_SCHEMA)
    try:
        return Supercell.from_dict(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path}: incomplete cell file, {type(error).__name__}: {error}") from None


@dataclass(frozen=True, eq=False)
class Grid:
    """The conditions of a sweep.

    Attributes:
        temperature: K, increasing, shape (n_temperatures,).
        delta_mu: mu_1 - mu_0, eV, increasing, shape (n_delta_mu,).
        origin: one sentence on where the delta_mu window comes from.
        wanted: which conditions of the rectangle are to be sampled, bool (n_temperatures, n_delta_mu); None: all.
    """

    temperature: np.ndarray
    delta_mu: np.ndarray
    origin: str
    wanted: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_temperatures, n_delta_mu)."""
        return len(self.temperature), len(self.delta_mu)


def _axis(key: str, settings: Any, unit: str, positive: bool) -> np.ndarray:
    if isinstance(settings, Mapping):
        if settings["number"] > 1 and not settings["stop"] > settings["start"]:
            raise SettingsError(
                f"{key}: the grid runs from {settings['start']} to {settings['stop']} {unit}, expected stop > start"
            )
        values = np.linspace(settings["start"], settings["stop"], settings["number"])
    else:
        values = np.array(settings, dtype=float)
    if len(values) == 0:
        raise SettingsError(f"{key}: the grid is empty, expected at least one value")
    if np.any(np.diff(values) <= 0):
        raise SettingsError(f"{key}: expected increasing values in {unit}, found {values.tolist()}")
    if positive and values[0] <= 0:
        raise SettingsError(f"{key}: expected positive temperatures in {unit}, found {values[0]:g}")
    return np.round(values, 12)


def choose_window(slopes: Sequence[float], span: float, margin: float) -> tuple[float, float]:
    """Return a delta_mu window (eV) that shows every ground-state transition and both pure phases.

    The hull's slopes are the transitions at T = 0; the window reaches `margin` times their spread beyond the outermost
    ones, and at least `span` eV beyond each, so that single phases are seen on both sides at the highest temperature.
    """
    if len(slopes) == 0:
        raise SettingsError(
            "grid.delta_mu: the hull has no transition to choose a window from; give start, stop, number"
        )
    low, high = min(slopes), max(slopes)
    reach = max(span, margin * (high - low))
    return low - reach, high + reach


def choose_grid(temperature: Any, delta_mu: Any, slopes: Sequence[float], boltzmann: float, key: str = "grid") -> Grid:
    """Return the grid of a sweep.

    Args:
        temperature: ``{start, stop, number}`` or a list, K.
        delta_mu: the same in eV, or ``{number, reach, margin}`` for a window chosen from the hull's slopes, where
            `reach` is in units of k_B times the highest temperature.
        slopes: delta_mu of the ground-state transitions, eV.
        boltzmann: Boltzmann constant of the model, eV/K.
        key: key prefix for messages.

    Raises:
        SettingsError: for an empty, reversed or non-positive grid, naming the key.
    """
    temperatures = _axis(f"{key}.temperature", temperature, "K", positive=True)
    if isinstance(delta_mu, Mapping) and "start" not in delta_mu:
        reach = delta_mu.get("reach", WINDOW_REACH) * boltzmann * temperatures[-1]
        low, high = choose_window(slopes, reach, delta_mu.get("margin", WINDOW_MARGIN))
        settings = {"start": float(np.floor(low * 1000) / 1000), "stop": float(np.ceil(high * 1000) / 1000)}
        values = _axis(f"{key}.delta_mu", {**settings, "number": delta_mu["number"]}, "eV", positive=False)
        shown = ", ".join(f"{s:.4f}" for s in sorted(slopes))
        return Grid(temperatures, values, f"chosen from the slopes of the convex hull ({shown} eV)")
    return Grid(temperatures, _axis(f"{key}.delta_mu", delta_mu, "eV", positive=False), "given in the config")


def write_grid(path: str | Path, grid: Grid, energy_unit: str = "eV") -> None:
    """Write a grid file; with the energy unit ``"J"`` temperatures are in J/k_B."""
    content = {"temperature": grid.temperature, "delta_mu": grid.delta_mu, "origin": grid.origin}
    if grid.wanted is not None:
        content["conditions"] = [[grid.temperature[t], grid.delta_mu[m]] for t, m in np.argwhere(grid.wanted)]
    units = {"temperature": "K" if energy_unit == "eV" else f"{energy_unit}/k_B", "delta_mu": energy_unit}
    write_json(path, {**content, "units": units}, GRID_SCHEMA)


def read_grid(path: str | Path) -> Grid:
    """Read a grid file.

    Raises:
        ArtefactError: if the file is missing, cut short or not a grid file.
    """
    content = read_json(path, GRID_SCHEMA)
    try:
        temperature, delta_mu = (np.array(content[name], dtype=float) for name in ("temperature", "delta_mu"))
        wanted = None
        if "conditions" in content:
            wanted = np.zeros((len(temperature), len(delta_mu)), dtype=bool)
            for kelvin, mu in content["conditions"]:
                wanted[temperature.tolist().index(kelvin), delta_mu.tolist().index(mu)] = True
        return Grid(temperature, delta_mu, content["origin"], wanted)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path}: incomplete grid file, {type(error).__name__}: {error}") from None


@dataclass(frozen=True, eq=False)
class AxesGrid:
    """The conditions of a sweep of more than one chemical potential: every combination of the values.

    Attributes:
        temperature: K, increasing, shape (n_temperatures,).
        delta_mu: increasing values by name of the exchange, in the order of the cell's exchanges, eV.
    """

    temperature: np.ndarray
    delta_mu: Mapping[str, np.ndarray]

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """The values of every exchange."""
        return tuple(self.delta_mu.values())


def choose_axes(temperature: Any, delta_mu: Any, names: Sequence[str], key: str = "grid") -> AxesGrid:
    """Return the grid of a sweep of several exchanges of species.

    Args:
        temperature: ``{start, stop, number}`` or a list, K.
        delta_mu: the same in eV for every exchange, by name.
        names: the exchanges of the lattice (`segalflow.energy.potentials.ExchangePotentials.axis_names`).
        key: key prefix for messages.

    Raises:
        SettingsError: if an exchange has no axis, or an axis no exchange; for an empty, reversed or non-positive axis.
    """
    found = list(delta_mu) if isinstance(delta_mu, Mapping) else []
    if sorted(found) != sorted(names):
        raise SettingsError(
            f"{key}.delta_mu: expected one axis for each of {', '.join(names)} (their exchange for the first species), "
            f"found {delta_mu}"
        )
    temperatures = _axis(f"{key}.temperature", temperature, "K", positive=True)
    values = {name: _axis(f"{key}.delta_mu.{name}", delta_mu[name], "eV", positive=False) for name in names}
    return AxesGrid(temperatures, values)


def write_axes(path: str | Path, grid: AxesGrid, energy_unit: str = "eV") -> None:
    """Write the grid file of several exchanges."""
    units = {"temperature": "K" if energy_unit == "eV" else f"{energy_unit}/k_B", "delta_mu": energy_unit}
    content = {"temperature": grid.temperature, "delta_mu": dict(grid.delta_mu), "origin": "given in the config"}
    # Keys of a JSON file may be sorted: the order of the exchanges is written down.
    write_json(path, {**content, "exchanges": list(grid.delta_mu), "units": units}, GRID_SCHEMA)


def read_axes(path: str | Path) -> AxesGrid:
    """Read a grid file of several exchanges.

    Raises:
        ArtefactError: if the file is missing, cut short or not such a grid file.
    """
    content = read_json(path, GRID_SCHEMA)
    try:
        values = {name: np.array(content["delta_mu"][name], dtype=float) for name in content["exchanges"]}
        return AxesGrid(np.array(content["temperature"], dtype=float), values)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path}: incomplete grid file, {type(error).__name__}: {error}") from None
