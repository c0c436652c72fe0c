"""Whether the errors of ensemble tables mean what they say."""

from __future__ import annotations

import numpy as np

ESTIMATES = ("log_z", "composition", "energy", "heat_capacity")


def z_scores(table, exact, name: str) -> np.ndarray:
    z = ((table[name] - exact[name]) / table[f"{name}_stderr"]).values
    z = z[..., 1] if name == "composition" else z
    z = z[table["reliable"].values > 0]
    assert np.all(np.isfinite(z))
    return z


def assert_calibrated(tables, exact, least_reliable: float) -> None:
    """At least 99 % of all reliable estimates within 3 errors, and errors neither too large nor too small."""
    together = []
    for name in (n for n in ESTIMATES if n in exact and n in tables[0]):
        z = np.concatenate([z_scores(table, exact, name) for table in tables])
        assert 0.7 < np.sqrt(np.mean(z**2)) < 1.3, name
        together.append(z)
    together = np.concatenate(together)
    assert np.mean(np.abs(together) <= 3) >= 0.99
    for table in tables:
        assert float(table["reliable"].mean()) >= least_reliable
