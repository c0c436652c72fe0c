"""Boundaries of the 27-site Ag-Pd cell from its exact table against those from f(x) summed state by state."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from segalflow.energy.polynomial import place_expansion
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell
from segalflow.phases.criteria import find_boundaries
from segalflow.sampling.enumeration import blocks_of_states, enumerate_exactly
from segalflow.thermo.free_energy import FreeEnergy, compute_free_energy
from segalflow.units import BOLTZMANN_EV_PER_K as KB

TEMPERATURE = np.array([200.0, 300.0])


def sum_states(model, temperature):
    """log sum exp(-U/kT) by composition over all 2^27 states, one exponential a state: no bins, no series."""
    beta = 1 / (KB * temperature)
    shift, total = None, np.zeros((len(beta), model.n_sites + 1))
    for energies, n_plus in blocks_of_states(model, "every state"):
        shift = float(energies.min()) if shift is None else shift
        for t, b in enumerate(beta):
            total[t] += np.bincount(n_plus, np.exp(-b * (energies - shift)), model.n_sites + 1)
    return np.log(total) - beta[:, None] * shift


@pytest.mark.reference
def test_boundaries_of_27_sites_are_those_of_every_state_summed(reference) -> None:
    expansion = read_expansion(reference / "agpd" / "eci_published.json")
    model = place_expansion(expansion, Supercell(expansion.lattice, np.diag([3, 3, 3])))
    delta_mu = np.linspace(-0.4, 0.4, 41)
    table = enumerate_exactly(model, ("Pd", "Ag"), TEMPERATURE, delta_mu, attributes={"cell": "small"})
    free = compute_free_energy(table, None)
    direct = sum_states(model, TEMPERATURE)
    assert free.log_weight == pytest.approx(direct, abs=1e-8)
    by_hand = FreeEnergy(TEMPERATURE, delta_mu, direct, direct[None][:0], None, None, KB, free.attributes)
    for criterion in ("common_tangent", "equal_weight"):
        found, other = (find_boundaries(criterion, [f])[0] for f in (free, by_hand))
        assert (found["kind"] == "two_phase").sum() >= 2, criterion
        for column in ("temperature", "delta_mu", "x_left", "x_right"):
            assert found[column].to_numpy() == pytest.approx(other[column].to_numpy(), abs=1e-9), column
    # The hull of f(x) leaves out the same compositions, and its edge has the same slope.
    tangents = find_boundaries("common_tangent", [free])[0].query("kind == 'two_phase'")
    x = np.arange(28) / 27
    mixing = np.nan_to_num(x * np.log(np.maximum(x, 1e-300))) + (1 - x) * np.log(np.maximum(1 - x, 1e-300))
    for _, row in tangents.iterrows():
        t = int(np.flatnonzero(row["temperature"] == TEMPERATURE)[0])
        y = 27 * (free.excess()[t] / (KB * TEMPERATURE[t]) + mixing)
        hull = ConvexHull(np.column_stack([x, y]))
        lower = [sorted(e) for e, n in zip(hull.simplices, hull.equations, strict=True) if n[1] < 0]
        middle = 27 * (row["x_left"] + row["x_right"]) / 2
        (edge,) = [e for e in lower if e[0] < middle < e[1]]
        assert (27 * row["x_left"], 27 * row["x_right"]) == pytest.approx(edge, abs=1.0)
        slope = KB * TEMPERATURE[t] * (y[edge[1]] - y[edge[0]]) / (edge[1] - edge[0])
        # Sums over a phase and its lowest f part by less than a factor e in its weight.
        assert row["delta_mu"] == pytest.approx(slope, abs=KB * TEMPERATURE[t] / (edge[1] - edge[0]))
