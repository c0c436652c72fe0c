"""The ways in which a calculation's settings lead to energies; the rule graph asks here which rules a study needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENGINE, RUN, WRITE, INGEST, DATABASE = "engine", "run", "write", "ingest", "database"


def way_of(settings: Mapping[str, Any]) -> str:
    """Return how a calculation gets its energies.

    Args:
        settings: of the calculation.

    Returns:
        ``engine`` (an ASE calculator, one job a structure), ``run`` (VASP, one job a structure), ``write`` (VASP inputs
        for a person to run), ``ingest`` (VASP runs that exist) or ``database``.
    """
    if settings["engine"] == "vasp":
        return settings["mode"]
    return DATABASE if settings["engine"] == "database" else ENGINE


def calculations_by(calculations: Mapping[str, Mapping[str, Any]], *ways: str) -> str:
    """Return a regular expression of the names of the calculations that go one of `ways`; it may match nothing."""
    return "|".join(name for name, settings in calculations.items() if way_of(settings) in ways) or "(?!)"


def environment_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the conda environment file of an engine (without suffix)."""
    return settings["engine"] if settings["engine"] in ("gpaw", "chgnet", "vasp") else "dft"
