"""The parts of the summary page, already formatted, and its rendering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from segalflow.artefacts import atomic_path

METHOD_NAMES = {
    "snis": "importance sampling from SEGAL",
    "metropolis": "Metropolis Monte Carlo",
    "tempering": "replica exchange in temperature and chemical potential",
    "metadynamics": "metadynamics in composition",
    "canonical": "canonical chains at every composition",
    "vcsgc": "variance-constrained semi-grand-canonical chains",
    "scan": "scans up and down",
    "wang_landau": "Wang-Landau sampling",
    "exact": "exact enumeration",
}


@dataclass
class Table:
    """A table of the page, already formatted."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """A titled part of the page."""

    title: str
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # (path beside the page, text)


def formatted(value: Any, digits: int = 3) -> str:
    """Return a number for a table cell; a dash for what is missing or not finite."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def text_or_empty(value: Any) -> str:
    """Return a text cell of a table read from CSV, where empty ones are NaN."""
    return value if isinstance(value, str) else ""


def write_summary(
    path: str | Path,
    template: str | Path,
    study: str,
    lattice: str,
    species: Sequence[str],
    sections: Sequence[Section],
) -> None:
    """Render the summary page from its template."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(Path(template).read_text(encoding="utf-8")).render(
        study=study, lattice=lattice, species=list(species), sections=list(sections)
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
