"""Sections on cells, samplers, sweeps and the agreement of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from segalflow.ensemble import grid_dimensions, lower_ness
from segalflow.reporting.page import METHOD_NAMES, Section, Table, formatted


def describe_cells(cells: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section on the sampled cells, from the contents of their files."""
    section = Section("Cells")
    rows = [
        [c["name"], str(c["n_sites"]), str(c["n_operations"]), str(c["lattice"]["name"])]
        for c in sorted(cells, key=lambda c: c["n_sites"])
    ]
    section.tables.append(Table("Cells sampled", ["cell", "sites", "symmetry operations", "lattice"], rows))
    for cell in cells:
        section.warnings.extend(cell["warnings"])
    return section


def describe_samplers(samplers: Mapping[str, Mapping[str, Any]], seed: int) -> Section:
    """Return the section on SEGAL's training, from the descriptions of its samplers by cell."""
    section = Section("SEGAL")
    rows = [
        [
            cell,
            f"{s['network']['kind']}, {s['n_parameters']} parameters",
            str(s["training"]["objective"]),
            str(s["steps"]),
            f"{s['energy_evaluations']:.2e}",
            formatted(s["final_ness"]),
        ]
        for cell, s in samplers.items()
    ]
    columns = ["cell", "network", "objective", "steps", "energy evaluations", "NESS at the end (median)"]
    section.tables.append(Table("Training of the autoregressive sampler", columns, rows))
    versions = {k: v for s in samplers.values() for k, v in s["versions"].items()}
    section.sentences.append(
        "The network gives the exact probability of every decoration it draws, so importance weights correct whatever "
        f"it learnt imperfectly. All random draws come from the study's seed {seed}; made with "
        f"{', '.join(f'{k} {v}' for k, v in versions.items())}."
    )
    return section


def describe_ensembles(tables: Sequence[xr.Dataset]) -> Section:
    """Return the section on what every method did: conditions, reliability, NESS, cost."""
    section = Section("Ensembles")
    rows = []
    for table in tables:
        reliable = float(table["reliable"].mean())
        ness = lower_ness(table).ravel() if "ness" in table else None
        rows.append(
            [
                f"{table.attrs['cell']}: {METHOD_NAMES.get(table.attrs['method'], table.attrs['method'])}",
                " × ".join(str(table.sizes[name]) for name in grid_dimensions(table)),
                f"{100 * reliable:.1f} %",
                "–" if ness is None else " / ".join(f"{v:.3f}" for v in np.percentile(ness, [0, 5, 50])),
                f"{float(table['energy_evaluations'].sum()):.2e}",
            ]
        )
    columns = ["cell and method", "conditions", "reliable", "NESS min / 5 % / median", "energy evaluations"]
    section.tables.append(Table("Sweeps over temperature × chemical potential", columns, rows))
    section.sentences.append(
        "'Reliable' is the share of conditions whose estimate passed its method's own test (effective sample size, "
        "agreement of chains from both sides, flatness). NESS is the lower of the q side (the sampler's own draws) and "
        "the p side (decorations of replica-exchange chains that never saw the network). Others are drawn with open "
        "symbols and never used silently."
    )
    return section


def describe_agreement(summary: pd.DataFrame) -> Section:
    """Return the section on the agreement of methods (rows of `summarise_comparison`, away from jumps)."""
    section = Section("Agreement of the methods")
    rows = [
        [
            f"{r['cell']}: {r['method_a']} – {r['method_b']}",
            str(r["variable"]),
            str(int(r["n"])),
            f"{100 * float(r['fraction_within_3']):.1f} %",
            formatted(float(r["rms_z"]), 2),
        ]
        for _, r in summary[summary["selection"] == "away_from_jumps"].iterrows()
    ]
    columns = ["cell and methods", "quantity", "conditions", "within 3 errors", "rms z"]
    section.tables.append(Table("Reliable conditions away from first-order jumps", columns, rows))
    section.sentences.append(
        "For calibrated errors 99.7 % of differences are within three combined errors and rms z is 1."
    )
    return section
