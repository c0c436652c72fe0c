"""Model alloys with known answers, written as ensemble tables."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, fsolve
from scipy.special import gammaln, logsumexp

from segalflow.ensemble import ensemble_table
from segalflow.samples import pack_spins, sample_set
from segalflow.thermo.free_energy import log_binomial
from segalflow.units import BOLTZMANN_EV_PER_K as KB


def regular_solution_table(
    omega, temperature, delta_mu, noise=0.0, seed=0, method="exact", cell="regular", n_sites=128
):
    """Mean-field regular solution ``u = omega x (1 - x)``: critical point kT = omega/2 at x = 1/2.

    The stable branch is taken (Maxwell jump at delta_mu = 0). With noise, x gets normal errors of that size.
    """
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    x = np.empty((len(temperature), len(delta_mu)))
    for t, kelvin in enumerate(temperature):
        kt = KB * kelvin
        for m, mu in enumerate(delta_mu):
            candidates = np.concatenate([np.geomspace(1e-12, 0.5, 4000), 1 - np.geomspace(1e-12, 0.5, 4000)])
            f = omega * candidates * (1 - candidates) - mu * candidates
            f += kt * (candidates * np.log(candidates) + (1 - candidates) * np.log1p(-candidates))
            best = candidates[np.argmin(f)]
            for _ in range(50):  # Newton's method on df/dx = 0 within the branch
                slope = omega * (1 - 2 * best) - mu + kt * np.log(best / (1 - best))
                curvature = -2 * omega + kt / (best * (1 - best))
                if curvature <= 0:
                    break
                best = float(np.clip(best - slope / curvature, best / 2, (1 + best) / 2))
            x[t, m] = best
    kt = KB * temperature[:, None]
    chi = 1 / np.maximum(kt / (x * (1 - x)) - 2 * omega, 1e-9)
    energy = omega * x * (1 - x)
    heat = (omega * (1 - 2 * x) - delta_mu[None, :]) ** 2 * chi / kt / KB / temperature[:, None] * KB
    error = np.full(x.shape, float(noise))
    observed = np.clip(x + error * np.random.default_rng(seed).standard_normal(x.shape), 0, 1)
    zero = np.zeros(x.shape)
    return ensemble_table(
        method,
        temperature,
        delta_mu,
        ("A", "B"),
        {
            "composition": np.stack([1 - observed, observed], axis=-1),
            "composition_stderr": np.stack([error, error], axis=-1),
            "energy": energy,
            "energy_stderr": zero,
            "heat_capacity": heat,
            "heat_capacity_stderr": zero,
            "susceptibility": chi,
            "susceptibility_stderr": zero,
            "n_samples": zero + 1000,
            "energy_evaluations": zero + 1e6,
            "reliable": zero + 1,
        },
        {"cell": cell, "n_sites": n_sites, "reference": "test"},
    )


def binodal(omega, temperature):
    """Composition of the poor phase of a regular solution at a temperature below its critical one."""
    kt = KB * temperature
    return brentq(lambda x: omega * (1 - 2 * x) + kt * np.log(x / (1 - x)), 1e-12, 0.5 - 1e-6)


def critical_temperature(omega):
    """Critical temperature of a regular solution."""
    return omega / (2 * KB)


def mean_field_energy(n_sites, omega, skew=0.0):
    """Energies of the sub-regular solution ``u = (omega + skew (2x - 1)) x (1 - x)`` by number of atoms."""
    x = np.arange(n_sites + 1) / n_sites
    return n_sites * (omega + skew * (2 * x - 1)) * x * (1 - x)


def mean_field_log_weight(n_sites, omega, temperature, skew=0.0):
    """log sum exp(-U/kT) by composition of that model on a lattice: every decoration of N atoms has the energy U(N)."""
    return log_binomial(n_sites) - mean_field_energy(n_sites, omega, skew) / (KB * np.asarray(temperature)[:, None])


def mean_field_sweep(
    n_sites, omega, temperature, delta_mu, samples, seed, skew=0.0, temper=0.9, cell="regular", method="snis"
):
    """Independent samples of that model as an importance sampler draws them (from p^temper), and their table."""
    temperature, delta_mu = np.asarray(temperature, float), np.asarray(delta_mu, float)
    energy = mean_field_energy(n_sites, omega, skew)
    n = np.arange(n_sites + 1)
    log_p = mean_field_log_weight(n_sites, omega, temperature, skew)[:, None]
    log_p = log_p + delta_mu[:, None] * n / (KB * temperature[:, None, None])
    log_z = np.logaddexp.reduce(log_p, axis=2)
    p = np.exp(log_p - log_z[..., None])
    q = p**temper
    q /= q.sum(axis=2, keepdims=True)
    rng = np.random.default_rng(seed)
    below = np.cumsum(q, axis=2)
    shape = (len(temperature), len(delta_mu), samples)
    drawn = np.array([[np.searchsorted(row, rng.random(samples)) for row in rows] for rows in below])
    drawn = np.minimum(drawn, n_sites).reshape(shape)
    weight = np.take_along_axis(p, drawn, 2) / np.take_along_axis(q, drawn, 2)
    source = {"n_sites": n_sites, "cell": cell, "reference": "test"}
    found = sample_set(
        method,
        temperature,
        delta_mu,
        ("A", "B"),
        {
            "occupation": np.zeros((*shape, -(-n_sites // 8)), np.uint8),
            "energy": energy[drawn],
            "n_atoms": drawn,
            "log_weight": np.log(weight),
            "log_mean_weight": log_z + np.log(weight.mean(axis=2)),
        },
        source,
    )
    x = (weight * drawn).mean(axis=2) / weight.mean(axis=2) / n_sites
    zero = np.zeros(x.shape)
    names = ("energy", "heat_capacity", "susceptibility")
    table = ensemble_table(
        method,
        temperature,
        delta_mu,
        ("A", "B"),
        {
            "composition": np.stack([1 - x, x], axis=-1),
            "composition_stderr": np.zeros((*x.shape, 2)),
            **{name + end: zero for name in names for end in ("", "_stderr")},
            "n_samples": zero + samples,
            "energy_evaluations": zero + samples,
            "reliable": zero + 1,
        },
        source,
    )
    return found, table


def common_tangent(omega, temperature, skew=0.0):
    """(x_left, x_right, slope) of the common tangent of a sub-regular solution, by Newton's method."""
    kt = KB * temperature

    def f(x):
        return (omega + skew * (2 * x - 1)) * x * (1 - x) + kt * (x * np.log(x) + (1 - x) * np.log1p(-x))

    def slope(x):
        excess = omega * (1 - 2 * x) + skew * (2 * x * (1 - x) + (2 * x - 1) * (1 - 2 * x))
        return excess + kt * np.log(x / (1 - x))

    grid = np.concatenate([np.geomspace(1e-9, 0.01, 4000), np.linspace(0.01, 0.99, 9801)[1:-1]])
    grid = np.concatenate([grid, 1 - grid[grid < 0.01][::-1]])
    hull = [0]
    values = f(grid)
    for k in range(1, len(grid)):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (values[b] - values[a]) * (grid[k] - grid[b]) < (values[k] - values[b]) * (grid[b] - grid[a]):
                break
            hull.pop()
        hull.append(k)
    edge = int(np.argmax(np.diff(grid[hull])))
    start = grid[hull[edge]], grid[hull[edge + 1]]

    def conditions(ends):
        a, b = ends
        return [(slope(a) - slope(b)) / kt, (f(b) - f(a) - slope(a) * (b - a)) / kt]

    a, b = fsolve(conditions, start, xtol=1e-12)
    return float(a), float(b), float(slope(a))


def sub_regular_critical_point(omega, skew):
    """(x, T) at which f'' of a sub-regular solution first touches zero from above."""
    x = np.linspace(0.01, 0.99, 98001)
    spinodal = -x * (1 - x) * (-2 * omega + skew * (6 - 12 * x)) / KB
    k = int(np.argmax(spinodal))
    return float(x[k]), float(spinodal[k])


def two_sublattice_sweep(image, w, temperature, delta_mu, samples, seed):
    """Independent samples of a two-sublattice ordering model with a known line, and their table.

    ``u = -w delta^2`` a site for compositions x + delta and x - delta of the sublattices, those of a two-sublattice
    ordering `image` (+-1 a site). Mean field: kT = 2 w x (1 - x) where the transition is continuous, which it is for
    x (1 - x) > 1/6; below kT = w / 3 it is of first order.
    """
    sublattices = [np.flatnonzero(image > 0), np.flatnonzero(image < 0)]
    n_sites, half = len(image), len(image) // 2
    a, b = np.meshgrid(np.arange(half + 1), np.arange(half + 1), indexing="ij")
    energy, n_atoms = -w * n_sites * ((a - b) / n_sites) ** 2, a + b
    ways = 2 * gammaln(half + 1) - sum(gammaln(k + 1) + gammaln(half - k + 1) for k in (a, b))
    rng = np.random.default_rng(seed)
    shape = (len(temperature), len(delta_mu), samples)
    spins, drawn = -np.ones((*shape, n_sites), np.int8), np.zeros(shape, int)
    log_z, x = np.zeros(shape[:2]), np.zeros(shape[:2])
    for t, kelvin in enumerate(temperature):
        for m, mu in enumerate(delta_mu):
            log_p = ways - (energy - mu * n_atoms) / (KB * kelvin)
            log_z[t, m] = logsumexp(log_p)
            p = np.exp(log_p - log_z[t, m]).ravel()
            x[t, m] = p @ n_atoms.ravel() / n_sites
            drawn[t, m] = rng.choice(p.size, samples, p=p / p.sum())
            for sites, count in zip(sublattices, np.unravel_index(drawn[t, m], a.shape), strict=True):
                order = rng.random((samples, half)).argsort(1).argsort(1)
                spins[t, m][:, sites] = np.where(order < count[:, None], 1, -1)
    source = {"n_sites": n_sites, "cell": "two", "reference": "test"}
    axes = (np.asarray(temperature, float), np.asarray(delta_mu, float), ("Cu", "Zn"))
    variables = {"occupation": pack_spins(spins), "energy": energy.ravel()[drawn], "n_atoms": n_atoms.ravel()[drawn]}
    variables |= {"log_weight": np.zeros(shape), "log_mean_weight": log_z}
    zero = np.zeros(x.shape)
    table = {"composition": np.stack([1 - x, x], axis=-1), "composition_stderr": np.zeros((*x.shape, 2))}
    table |= {name + end: zero for name in ("energy", "heat_capacity", "susceptibility") for end in ("", "_stderr")}
    table |= {"n_samples": zero + samples, "energy_evaluations": zero + samples, "reliable": zero + 1}
    return sample_set("snis", *axes, variables, source), ensemble_table("snis", *axes, table, source)


def compound_log_weight(n_sites, temperature, phases):
    """log sum exp(-U/kT) by composition of ordered phases with independent point defects.

    A phase (c, e, d, m) has c n sites of species 1 in place and an energy e n; an atom of species 1 on another site
    costs d + m, a missing one d - m.
    """
    found = []
    for kelvin in temperature:
        beta = 1 / (KB * kelvin)
        every = []
        for c, e, d, m in phases:
            home = round(c * n_sites)
            added = log_binomial(n_sites - home) - beta * (d + m) * np.arange(n_sites - home + 1)
            lost = log_binomial(home) - beta * (d - m) * np.arange(home + 1)
            pairs = added[:, None] + lost
            atoms = home + np.arange(len(added))[:, None] - np.arange(len(lost))
            every.append([logsumexp(pairs[atoms == k]) for k in range(n_sites + 1)] - beta * e * n_sites)
        found.append(logsumexp(every, axis=0))
    return np.array(found)


def compound_boundary(kelvin, first, second, window=(-0.2, 0.03)):
    """delta_mu at which two such phases of an infinite crystal coexist, in a window of it, and their compositions."""
    beta = 1 / (KB * kelvin)

    def occupied(mu, phase):
        _, _, d, m = phase
        return 1 / (1 + np.exp(beta * (d + m - mu))), 1 / (1 + np.exp(beta * (d - m + mu)))

    def potential(mu, phase):
        c, e, _, _ = phase
        added, lost = occupied(mu, phase)
        return e - mu * c + (1 - c) * np.log1p(-added) / beta + c * np.log1p(-lost) / beta

    mu = brentq(lambda mu: potential(mu, first) - potential(mu, second), *window, xtol=1e-14)
    x = []
    for phase in (first, second):
        added, lost = occupied(mu, phase)
        x.append(phase[0] + (1 - phase[0]) * added - phase[0] * lost)
    return mu, *x
