"""Section on the convergence study of a calculation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segalflow.reporting.page import Section, Table


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def describe_convergence(calculation: str, settings: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section on a convergence study.

    Args:
        calculation: name of the calculation.
        settings: what the study says of each setting (`segalflow.dft.convergence.recommend`).
    """
    section = Section(f"Convergence of '{calculation}'")
    section.links.append((f"figures/convergence_{calculation}.svg", "figure: changes of energies with each setting"))
    section.links.append((f"dft/{calculation}/convergence.csv", "convergence.csv: every energy"))
    rows = []
    for found in settings:
        name, tolerance = found["parameter"], 1000 * found["tolerance"]
        change = "–" if found["used_change"] is None else f"{1000 * found['used_change']:.2f}"
        rows.append(
            [
                name,
                ", ".join(_text(v) for v in found["values"]),
                _text(found["recommended"]),
                _text(found["recommended_energy"]),
                _text(found["used"]),
                change,
            ]
        )
        if found["missing"]:
            section.warnings.append(f"{name}: {found['missing']} calculation(s) of the study have no energy.")
        if found["recommended"] is None:
            section.warnings.append(
                f"{name}: formation energies do not settle to {tolerance:g} meV/atom before the last value; "
                "the study needs more accurate ones."
            )
        elif found["used_change"] is None:
            section.sentences.append(f"{name}: {_text(found['recommended'])} is recommended.")
        elif found["used_change"] > found["tolerance"]:
            section.warnings.append(
                f"{name}: with {_text(found['used'])}, the value of this calculation, a formation energy is still "
                f"{change} meV/atom off; {_text(found['recommended'])} is recommended for {tolerance:g} meV/atom."
            )
    columns = ["setting", "values", "recommended", "for total energies", "used", "change at it (meV/atom)"]
    section.tables.append(Table("First values from which on energies change by less than the tolerance", columns, rows))
    return section
