"""Free energies from pooled samples and from tables against sums over all decorations."""

from __future__ import annotations

import numpy as np
import pytest
from model_alloys import KB, mean_field_log_weight, mean_field_sweep
from scipy.spatial import ConvexHull
from scipy.special import logsumexp

from segalflow.energy.polynomial import place_expansion, polynomial_from_terms
from segalflow.errors import ArtefactError, BoundaryError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell
from segalflow.phases.criteria import find_boundaries
from segalflow.samples import pack_spins, sample_set
from segalflow.sampling.enumeration import enumerate_exactly
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.thermo.free_energy import (
    FreeEnergy,
    compute_free_energy,
    free_energy_of_table,
    integrate_log_z,
    read_free_energy,
    write_free_energy,
)
from segalflow.thermo.pooling import UnresolvedError, pool_samples
from segalflow.thermo.reweighting import Mbar

T, MU = np.linspace(300.0, 900.0, 6), np.linspace(-0.25, 0.25, 11)


@pytest.fixture(scope="module")
def alloy(reference):
    expansion = read_expansion(reference / "cuau" / "eci_published.json")
    model = place_expansion(expansion, Supercell(expansion.lattice, np.diag([2, 2, 4])))
    states = (2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1) - 1).astype(np.int8)
    return model, states, model.energy_of_spins(states), (states > 0).sum(1)


def log_weights(energies, n_plus, temperature):
    """log sum exp(-U/kT) by composition, straight from the states."""
    beta = 1 / (KB * np.atleast_1d(temperature))
    return np.array([[logsumexp(-b * energies[n_plus == k]) for k in range(17)] for b in beta])


def draw_sweep(alloy, seed, samples=400):
    """Independent samples of the exact distribution, drawn from p^0.8 and weighted, beside the exact table."""
    model, states, energies, n_plus = alloy
    table = enumerate_exactly(model, ("Cu", "Au"), T, MU, attributes={"cell": "small"})
    rng = np.random.default_rng(seed)
    shape = (len(T), len(MU), samples)
    drawn, log_w, log_z = np.empty(shape, int), np.empty(shape), np.empty(shape[:2])
    for t, kelvin in enumerate(T):
        for m, mu in enumerate(MU):
            log_p = -(energies - mu * n_plus) / (KB * kelvin)
            log_q = 0.8 * log_p
            log_q -= logsumexp(log_q)
            below = np.cumsum(np.exp(log_q))
            drawn[t, m] = np.minimum(np.searchsorted(below, rng.random(samples)), len(states) - 1)
            log_w[t, m] = (log_p - log_q)[drawn[t, m]]
            log_z[t, m] = logsumexp(log_w[t, m]) - np.log(samples)
    content = {
        "occupation": pack_spins(states)[drawn],
        "energy": energies[drawn],
        "n_atoms": n_plus[drawn],
        "log_weight": log_w,
        "log_mean_weight": log_z,
    }
    return sample_set("snis", T, MU, ("Cu", "Au"), content, {**table.attrs, "n_sites": 16}), table


@pytest.mark.reference
def test_pooled_samples_give_the_exact_free_energy_within_their_errors(alloy) -> None:
    _, _, energies, n_plus = alloy
    exact = log_weights(energies, n_plus, T)
    z, inside = [], []
    for seed in range(12):
        free = compute_free_energy(*reversed(draw_sweep(alloy, seed)), seed=seed)
        error = free.stderr()
        assert np.isfinite(free.log_weight).all()
        z.append((free.log_weight - exact) / error)
        # Anywhere between the grid's points: log Z, x and U.
        found = free.at(np.array([480.0])).observables(np.array([-0.11]))
        p = np.exp(-(energies + 0.11 * n_plus) / (KB * 480.0))
        assert found["energy"].item() == pytest.approx(p @ energies / p.sum() / 16, abs=2e-3)
        assert abs(found["log_z"].item() - np.log(p.sum())) < 4 * found["log_z_stderr"].item()
        error = found["composition_stderr"][..., 1].item()
        assert abs(found["composition"][..., 1].item() - p @ n_plus / p.sum() / 16) < 4 * error < 0.02
        inside.append(abs(found["composition"][..., 1].item() - p @ n_plus / p.sum() / 16) < 2 * error)
    z = np.array(z)
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.15
    assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.94, abs=0.04)
    assert np.mean(inside) > 0.7


@pytest.mark.reference
def test_pooling_beats_single_conditions_and_agrees_with_their_log_z(alloy) -> None:
    samples, table = draw_sweep(alloy, 5)
    pooled = Mbar(pool_samples(samples, table)).log_z.reshape(len(T), len(MU))
    alone = samples["log_mean_weight"].values
    exact = table["log_z"].values
    assert np.std(pooled - exact) < 0.7 * np.std(alone - exact)
    twice = pool_samples([samples, draw_sweep(alloy, 6)[0]], [table, table])
    assert len(twice.energy) == 2 * samples["valid"].values.sum()
    assert np.std(Mbar(twice).log_z[: pooled.size].reshape(pooled.shape) - exact) < np.std(alone - exact)


def test_chains_alone_are_joined_into_the_exact_free_energy() -> None:
    model = polynomial_from_terms(10, 0.05, {tuple(sorted((k, (k + 1) % 10))): -0.03 for k in range(10)})
    temperature, delta_mu = np.linspace(400, 900, 4), np.linspace(-0.12, 0.12, 5)
    kept: list = []
    table = sample_metropolis(
        model, ("A", "B"), temperature, delta_mu, seed=1, sweeps=8000, keep_samples=2000, collect=kept.append
    )
    free = compute_free_energy(table, kept[0])
    exact = free_energy_of_table(enumerate_exactly(model, ("A", "B"), temperature, delta_mu))
    z = (free.log_weight - exact.log_weight) / free.stderr()
    assert np.isfinite(z).all()
    assert np.sqrt(np.mean(z**2)) < 1.6
    assert np.abs(free.log_weight - exact.log_weight).max() < 0.5


@pytest.mark.reference
def test_exact_tables_give_the_boundaries_of_the_exact_free_energy(alloy) -> None:
    """Through the same code as samples: the tangents are edges of the hull of the directly summed f(x).

    The sums over the compositions of the two phases are equal there.
    """
    model, _, energies, n_plus = alloy
    cold = np.linspace(80.0, 260.0, 4)
    table = enumerate_exactly(model, ("Cu", "Au"), cold, np.linspace(-0.3, 0.3, 61), attributes={"cell": "small"})
    free = compute_free_energy(table, None)
    direct = log_weights(energies, n_plus, cold)
    assert free.log_weight == pytest.approx(direct, abs=1e-8)
    by_hand = FreeEnergy(cold, table["delta_mu"].values, direct, direct[None][:0], None, None, KB, free.attributes)
    for criterion in ("common_tangent", "equal_weight"):
        found, other = (find_boundaries(criterion, [f])[0] for f in (free, by_hand))
        assert len(found) > 4
        for column in ("temperature", "delta_mu", "x_left", "x_right"):
            assert found[column].to_numpy() == pytest.approx(other[column].to_numpy(), abs=1e-9), column
    tangents = find_boundaries("common_tangent", [free])[0]
    tangents = tangents[tangents["kind"] == "two_phase"]
    x = np.arange(17) / 16
    mixing = np.nan_to_num(x * np.log(np.maximum(x, 1e-300))) + (1 - x) * np.log(np.maximum(1 - x, 1e-300))
    for t, kelvin in enumerate(cold):
        y = 16 * (free.excess()[t] / (KB * kelvin) + mixing)
        hull = ConvexHull(np.column_stack([x, y]))
        lower = {tuple(sorted(e)) for e, n in zip(hull.simplices, hull.equations, strict=True) if n[1] < 0}
        wide = sorted(e for e in lower if e[1] - e[0] > 1)
        here = tangents[tangents["temperature"] == kelvin].sort_values("x_left")
        ends = [(round(16 * row["x_left"]), round(16 * row["x_right"])) for _, row in here.iterrows()]
        assert ends
        assert set(ends) <= set(wide)
        equal = find_boundaries("equal_weight", [free])[0]
        equal = equal[(equal["temperature"] == kelvin) & (equal["kind"] == "two_phase")].sort_values("x_left")
        if kelvin < 150:  # above, barriers of 16 sites are too low to part the phases
            for name, allowed in (("delta_mu", 1e-5), ("x_left", 1e-4), ("x_right", 1e-4)):
                assert here[name].to_numpy() == pytest.approx(equal[name].to_numpy(), abs=allowed), name


@pytest.mark.reference
def test_integration_along_both_axes_agrees(alloy) -> None:
    table = enumerate_exactly(alloy[0], ("Cu", "Au"), np.linspace(500, 900, 17), np.linspace(-0.2, 0.2, 41))
    found = integrate_log_z(table)
    for axis, name in enumerate(("temperature", "delta_mu")):
        change = np.diff(table["log_z"].values, axis=axis)
        assert found[name] == pytest.approx(change, abs=0.01)
        assert np.all(np.abs(found[name] - change) <= 2 * found[f"{name}_stderr"] + 1e-4)
    table["composition"] = table["composition"] + np.array([-0.05, 0.05])  # tables that contradict themselves show
    wrong = integrate_log_z(table)["delta_mu"] - np.diff(table["log_z"].values, axis=1)
    assert np.abs(wrong).min() > 0.05


def test_thermodynamics_of_the_curves_is_consistent() -> None:
    omega, temperature = 2 * KB * 707, np.linspace(500, 900, 9)
    samples, table = mean_field_sweep(64, omega, temperature, np.linspace(-0.12, 0.12, 9), 3000, 4)
    free = compute_free_energy(table, samples)
    x = (np.arange(64) + 0.5) / 64
    expected = omega * (1 - 2 * x) + KB * temperature[:, None] * np.log(x / (1 - x))
    assert free.chemical_potential()[:, 4:-4] == pytest.approx(expected[:, 4:-4], abs=0.02)
    ideal = free.entropy()[4, 16:49]  # every decoration of one composition has the same energy
    assert ideal == pytest.approx(mean_field_log_weight(64, 0.0, temperature[:1])[0, 16:49] / 64, abs=0.01)
    between = free.at(np.array([612.0]))
    exact = mean_field_log_weight(64, omega, np.array([612.0]))
    assert np.abs(between.log_weight - exact)[0, 8:57].max() < 0.3
    assert between.log_weight[0] != pytest.approx(free.log_weight[2], abs=0.5)


def test_files_come_back_and_are_checked(tmp_path) -> None:
    samples, table = mean_field_sweep(16, 0.02, np.array([400.0, 500.0, 600.0]), np.linspace(-0.1, 0.1, 5), 300, 1)
    for name in ("a.nc", "b.nc"):
        write_free_energy(tmp_path / name, compute_free_energy(table, samples, replicates=25))
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
    free, again = compute_free_energy(table, samples, replicates=25), read_free_energy(tmp_path / "a.nc")
    assert np.array_equal(free.log_weight, again.log_weight)
    assert again.replicates.shape == (25, 3, 17)
    assert again.attributes["cell"] == "regular"
    (tmp_path / "a.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:500])
    with pytest.raises(ArtefactError, match=r"a\.nc: not a readable netCDF file"):
        read_free_energy(tmp_path / "a.nc")
    with pytest.raises(BoundaryError, match="expected temperatures from 400 to 600"):
        free.at(np.array([700.0]))


def test_bad_input_is_refused_in_a_sentence() -> None:
    def sweep(**changes):
        return mean_field_sweep(16, 0.02, np.array([400.0, 500.0]), np.linspace(-0.1, 0.1, 4), 100, 1, **changes)

    samples, table = sweep()
    other = sweep()
    other[1].attrs["reference"] = "something else"
    with pytest.raises(BoundaryError, match="their reference differs"):
        pool_samples([samples, other[0]], [table, other[1]])
    broken = samples.copy(deep=True)
    broken["energy"].values[0, 0, 0] = np.nan
    with pytest.raises(BoundaryError, match="energies of 'snis' on cell 'regular' are not finite"):
        pool_samples(broken, table)
    single = samples.copy(deep=True)
    single["n_atoms"].values[:] = 4
    with pytest.raises(UnresolvedError, match="all samples have the same composition"):
        pool_samples(single, table)
    with pytest.raises(BoundaryError, match="does not resolve composition"):
        free_energy_of_table(table)
    repaired = table.assign(repaired=table["reliable"] * 0)
    repaired["repaired"].values[0, 1] = 1.0  # its numbers are not from these samples
    pool = pool_samples(samples, repaired)
    assert np.flatnonzero(pool.effective == 0).tolist() == [1]
    assert not (pool.condition == 1).any()
    part = enumerate_exactly(polynomial_from_terms(4, 0.0, {(0, 1): 0.01}), ("A", "B"), T[:3], MU)
    part["reliable"].values[1] = 0
    kept = compute_free_energy(part, None)
    assert kept.temperature.tolist() == [T[0], T[2]]
    _, notes = find_boundaries("common_tangent", [kept])
    assert any("nothing is known at the temperatures [420.0]" in sentence for sentence in notes)
    unreliable = table.copy(deep=True)
    unreliable["reliable"].values[:] = 0
    refused = compute_free_energy(unreliable, samples)
    frame, notes = find_boundaries("common_tangent", [refused])
    assert len(frame) == 0
    assert any("no condition of the table is reliable" in sentence for sentence in notes)
