"""Free energies by composition, f(x, T): from pooled samples or from tables that resolve composition.

``log_weight[T, N]`` is ``log sum exp(-U/kT)`` over the decorations with N atoms of species 1, so
``F(N, T) = -kT log_weight`` is the free energy of the cell and everything at any delta_mu follows by a sum over N.
Errors are carried by replicates: each is a whole set of curves that the data could have given as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import gammaln, logsumexp

from segalflow.artefacts import read_dataset, write_dataset
from segalflow.ensemble import LEFT_OUT, sampled_conditions
from segalflow.errors import BoundaryError
from segalflow.sampling.composition import observables_by_composition
from segalflow.sampling.statistics import student_factor
from segalflow.thermo.comparison import boltzmann_of
from segalflow.thermo.pooling import SamplePool, UnresolvedError, pool_samples

SCHEMA = "segalflow.free_energy/1"

CORRELATION = 0.1
"""Compositions over which the errors of a table's composition weights are taken as correlated."""


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """Free energies of one cell by temperature and composition.

    Attributes:
        temperature: K (or J/k_B), increasing, shape (n_t,).
        delta_mu: chemical potentials the data are from, eV, increasing, shape (n_delta_mu,).
        log_weight: see the module, (n_t, n_sites + 1); -inf where nothing is known.
        replicates: the same of every replicate, (n_replicates, n_t, n_sites + 1).
        energy: mean U of the cell at each composition, eV, (n_t, n_sites + 1); None where the method cannot tell.
        energy_variance: its variance, eV^2.
        boltzmann: k_B in these units.
        attributes: method, cell, species, chemical-potential reference, energy unit, and what was left out.
    """

    temperature: np.ndarray
    delta_mu: np.ndarray
    log_weight: np.ndarray
    replicates: np.ndarray
    energy: np.ndarray | None
    energy_variance: np.ndarray | None
    boltzmann: float
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_sites(self) -> int:
        """Number of sites of the cell."""
        return self.log_weight.shape[1] - 1

    @property
    def x(self) -> np.ndarray:
        """Fractions of species 1, shape (n_sites + 1,)."""
        return np.arange(self.n_sites + 1) / self.n_sites

    @property
    def beta(self) -> np.ndarray:
        """1/kT, shape (n_t,)."""
        return 1.0 / (self.boltzmann * self.temperature)

    def excess(self, log_weight: np.ndarray | None = None) -> np.ndarray:
        """Return f(x, T) less the entropy of random mixing, eV/site, (..., n_t, n_sites + 1).

        The number of decorations C(n, N) is taken out as it is, so what is left is smooth at x = 0 and 1 and free of
        the logarithms that a finite cell puts into its entropy.
        """
        values = self.log_weight if log_weight is None else log_weight
        return -(values - log_binomial(self.n_sites)) * self.boltzmann * self.temperature[:, None] / self.n_sites

    def stderr(self) -> np.ndarray:
        """Return the standard error of `log_weight`, (n_t, n_sites + 1); NaN where fewer than two replicates know it.

        A shift common to a whole isotherm, which no boundary depends on, is part of it.
        """
        return _spread(self.replicates)

    def at(self, temperature: np.ndarray) -> FreeEnergy:
        """Return the free energies at other temperatures inside the range.

        With energies known the logarithms are interpolated by their values and slopes ``-U``, else by a cubic spline
        in 1/kT; replicates by the linear interpolation of their differences.

        Raises:
            BoundaryError: for a temperature outside the range.
        """
        temperature = np.atleast_1d(np.asarray(temperature, dtype=float))
        low, high = self.temperature[0], self.temperature[-1]
        if np.any(temperature < low * (1 - 1e-9)) or np.any(temperature > high * (1 + 1e-9)):
            raise BoundaryError(f"free energy: expected temperatures from {low:g} to {high:g}, found {temperature}")
        beta, wanted = self.beta[::-1], 1.0 / (self.boltzmann * np.clip(temperature, low, high))
        known = np.isfinite(self.log_weight).all(axis=0)
        value = np.full((len(wanted), self.n_sites + 1), -np.inf)
        energy = variance = None
        if len(beta) == 1:
            value[:] = self.log_weight[0]
            energy, variance = self.energy, self.energy_variance
        else:
            # Slow to import, and most readers of free energies interpolate nothing.
            from scipy.interpolate import CubicHermiteSpline, CubicSpline

            curve = self.log_weight[::-1, known]
            if self.energy is not None:
                slope = -self.energy[::-1, known]
                value[:, known] = CubicHermiteSpline(beta, curve, slope)(wanted)
                energy, variance = np.full(value.shape, np.nan), np.full(value.shape, np.nan)
                spline = CubicHermiteSpline(beta, slope, self.energy_variance[::-1, known])
                energy[:, known] = -spline(wanted)
                variance[:, known] = np.maximum(spline(wanted, 1), 0.0)
            else:
                value[:, known] = CubicSpline(beta, curve)(wanted)
        # Where a row knows nothing of a composition, neither does any temperature between rows: it is left out.
        with np.errstate(invalid="ignore"):
            offset = self.replicates[..., known] - self.log_weight[:, known]
            upper = np.clip(np.searchsorted(self.temperature, temperature), 1, max(len(self.temperature) - 1, 1))
            if len(self.temperature) == 1:
                drawn = np.repeat(offset, len(wanted), axis=1)
            else:
                part = (self.beta[upper] - wanted) / (self.beta[upper] - self.beta[upper - 1])
                drawn = part[:, None] * (offset[:, :-1] - offset[:, 1:])[:, upper - 1]
                drawn[:, part == 0] = 0.0
                drawn += offset[:, upper]
            drawn += value[:, known]
        drawn[~np.isfinite(drawn)] = -np.inf
        replicates = np.full((len(offset), *value.shape), -np.inf)
        replicates[..., known] = drawn
        return replace(
            self, temperature=temperature, log_weight=value, replicates=replicates, energy=energy,
            energy_variance=variance,
        )  # fmt: skip

    def observables(self, delta_mu: np.ndarray) -> dict[str, np.ndarray]:
        """Return log_z, composition, energy, heat_capacity, susceptibility, entropy and their errors at any delta_mu.

        Arrays have the shape (n_t, n_delta_mu) (composition with a last axis of species) and the units of the ensemble
        table; ``entropy`` is in k_B per site. Errors (``<name>_stderr``) are those of log_z, composition and
        susceptibility, from the replicates; energies are given only where they are known by composition.
        """
        delta_mu = np.atleast_1d(np.asarray(delta_mu, dtype=float))
        with_energy = self.energy is not None
        blank = np.zeros_like(self.log_weight)
        mean = np.nan_to_num(self.energy) if with_energy else blank
        variance = np.nan_to_num(self.energy_variance) if with_energy else blank
        found = observables_by_composition(self.log_weight, mean, variance, self.beta, delta_mu)
        found.pop("composition_log_weight")
        if with_energy:
            x = found["composition"][..., 1]
            grand = self.n_sites * (found["energy"] - delta_mu * x)
            found["entropy"] = (found["log_z"] + self.beta[:, None] * grand) / self.n_sites
        else:
            del found["energy"], found["heat_capacity"]
        draws = [observables_by_composition(r, blank, blank, self.beta, delta_mu) for r in self.replicates]
        for name in ("log_z", "composition", "susceptibility"):
            found[f"{name}_stderr"] = _spread(np.array([d[name] for d in draws])) if draws else blank[:, :0]
        return found

    def chemical_potential(self) -> np.ndarray:
        """Return ``F(N + 1) - F(N)`` less that of random mixing plus ``kT ln(x / (1 - x))``, eV, (n_t, n_sites).

        Values are at ``x = (N + 1/2) / n_sites``: the delta_mu that holds this composition.
        """
        x = (np.arange(self.n_sites) + 0.5) / self.n_sites
        kt = self.boltzmann * self.temperature[:, None]
        with np.errstate(invalid="ignore"):
            return np.diff(self.excess(), axis=1) * self.n_sites + kt * np.log(x / (1 - x))

    def entropy(self) -> np.ndarray:
        """Return the entropy at each composition, k_B per site, (n_t, n_sites + 1).

        Raises:
            BoundaryError: where the method cannot tell the energy at a composition.
        """
        if self.energy is None:
            raise BoundaryError("free energy: the entropy needs energies by composition, which this method has not")
        return (self.log_weight + self.beta[:, None] * self.energy) / self.n_sites


def _spread(replicates: np.ndarray) -> np.ndarray:
    """Standard deviation over replicates (first axis) that are finite; NaN with fewer than two of them."""
    finite = np.isfinite(replicates)
    n = finite.sum(axis=0)
    values = np.where(finite, replicates, 0.0)
    mean = values.sum(axis=0) / np.maximum(n, 1)
    square = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
    return np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1)), np.nan)


def log_binomial(n_sites: int) -> np.ndarray:
    """Return the logarithm of the number of decorations of each composition, shape (n_sites + 1,)."""
    n = np.arange(n_sites + 1)
    return gammaln(n_sites + 1) - gammaln(n + 1) - gammaln(n_sites - n + 1)


def free_energy_of_samples(
    pool: SamplePool, table: xr.Dataset, temperature: np.ndarray | None = None, replicates: int = 100, seed: int = 0
) -> FreeEnergy:
    """Return the free energies of pooled samples at the table's temperatures, or at any others.

    Args:
        pool: samples of a sweep (`segalflow.thermo.pooling.pool_samples`).
        table: the ensemble table they belong to.
        temperature: K, shape (n_t,); None for the table's own.
        replicates: bootstrap draws.
        seed: seed of these draws.

    Raises:
        BoundaryError: if the conditions cannot be joined.
    """
    own = table["temperature"].values.astype(float)
    temperature = own if temperature is None else np.asarray(temperature, dtype=float)
    from segalflow.thermo.reweighting import Mbar  # compiled: only what has samples pays for it

    found = Mbar(pool).reweight(1.0 / (pool.boltzmann * temperature), replicates, seed)
    return FreeEnergy(
        temperature,
        table["delta_mu"].values.astype(float),
        found.log_weight,
        found.replicates,
        found.energy,
        found.energy_variance,
        pool.boltzmann,
        describe_source(table),
    )


def free_energy_of_table(table: xr.Dataset, replicates: int = 100, seed: int = 0) -> FreeEnergy:
    """Return the free energies of a table that holds ``composition_log_weight`` (exact sums, metadynamics, ...).

    At each temperature the shares of all reliable conditions are joined by the multiple-histogram formula with the
    table's log Z; temperatures without a reliable condition are left out. Replicates have the scatter of the table's
    walkers (`segalflow.ensemble.with_walkers`) where it tells; else they are smooth random curves with its standard
    errors, correlated over `CORRELATION` in x, as biased walks along the composition are.

    Raises:
        BoundaryError: if the table does not resolve composition, holds a single one, or a number is not finite.
    """
    name = f"table of '{table.attrs.get('method')}' on cell '{table.attrs.get('cell', '')}'"
    for needed in ("composition_log_weight", "log_z"):
        if needed not in table:
            raise BoundaryError(f"free energy: the {name} has no '{needed}', so it does not resolve composition")
    source = describe_source(table)
    known = (table["reliable"].values > 0.5).any(axis=1)
    if not known.any():
        raise UnresolvedError(f"free energy: the {name} has no reliable condition")
    source["left_out_temperatures"] = table["temperature"].values[~known].tolist()
    table = table.isel(temperature=np.flatnonzero(known))
    usable = table["reliable"].values > 0.5
    share, log_z = table["composition_log_weight"].values, table["log_z"].values
    if np.isnan(share[usable]).any() or not np.all(np.isfinite(log_z[usable])):
        raise BoundaryError(f"free energy: the {name} holds numbers that are not finite")
    if (np.isfinite(share[usable]).any(axis=0)).sum() < 2:
        raise UnresolvedError(f"free energy: the {name} holds a single composition, expected a range")
    n = np.arange(share.shape[-1])
    temperature, delta_mu = (table[k].values.astype(float) for k in ("temperature", "delta_mu"))
    beta = 1.0 / (boltzmann_of(table) * temperature)
    size = np.maximum(table["n_samples"].values * (table["ness"].values if "ness" in table else 1.0), 1.0)
    with np.errstate(divide="ignore"):
        size = np.log(np.where(usable, size, 0.0))[..., None]
    tilt = (beta[:, None] * delta_mu)[..., None] * n - np.where(usable, log_z, 0.0)[..., None]
    with np.errstate(invalid="ignore"):
        shares = np.where(usable[..., None], share, -np.inf)
        value = logsumexp(size + shares, axis=1) - logsumexp(size + tilt, axis=1)
        main = np.argmax(size + tilt, axis=1)[:, None]
    if LEFT_OUT in table:
        draws = value + _walker_noise(table[LEFT_OUT].values, replicates, seed)
        return FreeEnergy(temperature, delta_mu, value, draws, None, None, boltzmann_of(table), source)
    error = np.nan_to_num(table["composition_log_weight_stderr"].values)
    if "log_z_stderr" in table:
        error = np.hypot(error, np.nan_to_num(table["log_z_stderr"].values)[..., None])
    error = np.take_along_axis(error, main, axis=1)[:, 0]
    x = n / n[-1]
    kernel = np.exp(-0.5 * ((x[:, None] - x) / CORRELATION) ** 2) + 1e-9 * np.eye(len(x))
    noise = np.random.default_rng(seed).standard_normal((replicates, len(temperature), len(x)))
    draws = value + error * (noise @ np.linalg.cholesky(kernel).T)
    return FreeEnergy(temperature, delta_mu, value, draws, None, None, boltzmann_of(table), source)


def _walker_noise(left_out: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Random curves with the jackknife's covariance over walkers, (replicates, n_t, n_sites + 1).

    A walker keeps its number at all temperatures, between which it may exchange: errors go together along T as well.

    Args:
        left_out: log weights with one walker left out, (n_t, n_walkers, n_sites + 1).
        replicates: number of curves.
        seed: of the draws.
    """
    walkers = left_out.shape[1]
    apart = np.nan_to_num(left_out - left_out.mean(axis=1, keepdims=True))
    apart -= 0.5 * (apart[..., :1] + apart[..., -1:])  # the constant is free; the pure ends are what is known
    noise = np.random.default_rng(seed).standard_normal((replicates, walkers))
    scale = student_factor(walkers) * np.sqrt((walkers - 1) / walkers)
    return scale * np.einsum("rw,twn->rtn", noise, apart)


def compute_free_energy(
    table: xr.Dataset, samples: xr.Dataset | None, *, blocks: int = 40, replicates: int = 100, seed: int = 0
) -> FreeEnergy:
    """Return the free energies of one method: from its samples where there are any, else from its table.

    Where the data are too few to tell, every value is unknown and the attribute ``refused`` says why in a sentence.

    Raises:
        BoundaryError: if samples and table do not belong together, or a number is not finite.
    """
    try:
        if samples is None:
            return free_energy_of_table(table, replicates, seed)
        return free_energy_of_samples(pool_samples(samples, table, blocks), table, None, replicates, seed)
    except UnresolvedError as error:
        temperature, delta_mu = (table[k].values.astype(float) for k in ("temperature", "delta_mu"))
        unknown = np.full((len(temperature), int(table.attrs["n_sites"]) + 1), -np.inf)
        source = {**describe_source(table), "refused": str(error)}
        none = np.zeros((0, *unknown.shape))
        return FreeEnergy(temperature, delta_mu, unknown, none, None, None, boltzmann_of(table), source)


def describe_source(table: xr.Dataset) -> dict[str, Any]:
    """Return what a free energy says about the table it is from: plain attributes."""
    kept = ("method", "cell", "energy_unit", "reference", "chemical_potential_reference", "model_sha256")
    found = {key: table.attrs[key] for key in kept if key in table.attrs}
    unreliable = int(((table["reliable"].values < 0.5) & sampled_conditions(table)).sum())
    return {**found, "species": [str(s) for s in table["species"].values], "left_out": unreliable}


def write_free_energy(path: str | Path, free: FreeEnergy) -> None:
    """Write free energies as compressed netCDF-4 (schema ``segalflow.free_energy/1``)."""
    grid = ("temperature", "n_atoms")
    unit = str(free.attributes.get("energy_unit", "eV"))

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(values), values, np.nan)

    kt = free.boltzmann * free.temperature[:, None] / free.n_sites
    data = {
        "free_energy": (grid, -kt * known(free.log_weight), f"{unit}/site", "free energy at a composition"),
        "free_energy_stderr": (grid, kt * free.stderr(), f"{unit}/site", "its standard error"),
        "log_weight": (grid, known(free.log_weight), "1", "logarithm of sum exp(-U/kT) at a composition, whole cell"),
        "replicate": (("draw", *grid), known(free.replicates).astype(np.float32), "1", "log_weight of each replicate"),
    }
    if free.energy is not None:
        data["energy"] = (grid, known(free.energy), unit, "mean U of the cell at a composition")
        data["energy_variance"] = (grid, known(free.energy_variance), f"{unit}^2", "variance of U at a composition")
        data["entropy"] = (grid, known(free.entropy()), "k_B/site", "entropy at a composition")
    dataset = xr.Dataset(
        {k: (d, v, {"units": u, "long_name": text}) for k, (d, v, u, text) in data.items()},
        {"temperature": free.temperature, "n_atoms": np.arange(free.n_sites + 1), "delta_mu": free.delta_mu},
        {"schema": SCHEMA, "boltzmann": free.boltzmann, **free.attributes},
    )
    write_dataset(path, dataset, packed=list(data))


def read_free_energy(path: str | Path) -> FreeEnergy:
    """Read free energies.

    Raises:
        ArtefactError: if the file is missing, damaged, or of another schema.
    """
    found = read_dataset(path, SCHEMA)
    log_weight, draws = (found[k].values.astype(float) for k in ("log_weight", "replicate"))
    attributes = {k: v for k, v in found.attrs.items() if k not in ("schema", "boltzmann")}
    attributes["species"] = json.loads(attributes["species"])
    return FreeEnergy(
        found["temperature"].values,
        found["delta_mu"].values,
        np.where(np.isfinite(log_weight), log_weight, -np.inf),
        np.where(np.isfinite(draws), draws, -np.inf),
        found["energy"].values if "energy" in found else None,
        found["energy_variance"].values if "energy" in found else None,
        float(found.attrs["boltzmann"]),
        attributes,
    )


def integrate_log_z(table: xr.Dataset) -> dict[str, np.ndarray]:
    """Return what integration along both axes says of log Z: a check that shares nothing with reweighting.

    ``d log Z / d delta_mu = N / kT`` at constant T and ``d log Z / d(1/kT) = -(U - delta_mu N)`` at constant delta_mu,
    by the trapezoidal rule with end corrections from susceptibility and heat capacity (exact for cubics).

    Args:
        table: an ensemble table.

    Returns:
        ``delta_mu`` (n_t, n_delta_mu - 1) and ``temperature`` (n_t - 1, n_delta_mu): changes of log Z of the cell over
        every step; ``<name>_stderr`` their errors, with the size of the end correction for what steps leave out.
    """
    n_sites = int(table.attrs["n_sites"])
    temperature, delta_mu = (table[k].values.astype(float) for k in ("temperature", "delta_mu"))
    beta = 1.0 / (boltzmann_of(table) * temperature)[:, None]
    x, dx = (table[k].isel(species=1).values for k in ("composition", "composition_stderr"))
    u, du = table["energy"].values, table["energy_stderr"].values
    step = np.diff(delta_mu)
    slope = table["susceptibility"].values
    correction = step**2 / 12 * (slope[:, :-1] - slope[:, 1:])
    along = n_sites * beta * (step * (x[:, :-1] + x[:, 1:]) / 2 + correction)
    error = n_sites * beta * np.hypot(step * np.hypot(dx[:, :-1], dx[:, 1:]) / 2, correction / 2)
    grand, grand_error = u - delta_mu * x, np.hypot(du, delta_mu * dx)
    gap = np.diff(beta, axis=0)
    fall = -table["heat_capacity"].values / beta**2  # d(U - dmu N)/d beta, per site
    ends = gap**2 / 12 * (fall[:-1] - fall[1:])
    across = -n_sites * (gap * (grand[:-1] + grand[1:]) / 2 + ends)
    across_error = n_sites * np.hypot(gap * np.hypot(grand_error[:-1], grand_error[1:]) / 2, ends / 2)
    return {"delta_mu": along, "delta_mu_stderr": error, "temperature": across, "temperature_stderr": across_error}
