"""The solid solution for CALPHAD codes: a Redlich-Kister fit of its free energy of mixing, written as a TDB file.

``G_mix(x, T) = RT [x ln x + (1 - x) ln(1 - x)] + x (1 - x) sum_n L_n(T) (1 - 2x)^n`` with
``L_n(T) = a_n + b_n T + c_n T ln T`` (Redlich & Kister 1948; Lukas, Fries & Sundman, *Computational Thermodynamics*
2007, chapter 5). Pure elements on this lattice are zero at all temperatures, and energies are configurational: what
vibrations and electrons add is not in them. Ordered phases are left out of the fit, as they are not this phase.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import units
from ase.data import atomic_masses, atomic_numbers

from segalflow.artefacts import atomic_path
from segalflow.thermo.free_energy import FreeEnergy
from segalflow.thermo.order_parameters import SOLUTION
from segalflow.thermo.pooling import UnresolvedError

SCHEMA = "segalflow.calphad/1"

JOULE_PER_MOL = units.mol / units.J
"""One eV per atom in J per mol of atoms."""

THERMAL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": np.ones_like,
    "*T": lambda temperature: temperature,
    "*T*LN(T)": lambda temperature: temperature * np.log(temperature),
}
"""Temperature functions of L_n, as a TDB file writes them behind their coefficient; a fit uses the first of them."""

PHASE_NAMES = {"fcc": "FCC_A1", "bcc": "BCC_A2", "sc": "CUB_A_H"}
"""Names that CALPHAD databases give the disordered phase of a lattice; others are named as the lattice."""

LIMITS = (1, 6000)
"""Temperatures (K) between which the parameters are declared; what was fitted is said in the comments."""


@dataclass(frozen=True, eq=False)
class RedlichKister:
    """A fit of the solid solution's free energy of mixing.

    Attributes:
        species: the two species; x is the fraction of the second.
        coefficients: a_n, b_n, ... (`THERMAL`), eV/atom, shape (order + 1, n_terms); empty where it was refused.
        stderr: their standard errors, from refits of the free energies' replicates.
        temperature: lowest and highest temperature fitted, K.
        statistics: points used, misfit and candidates tried; plain types.
        refused: why there is no fit, in a sentence; empty where there is one.
    """

    species: tuple[str, str]
    coefficients: np.ndarray
    stderr: np.ndarray
    temperature: tuple[float, float]
    statistics: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    def excess(self, x: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """Return the excess free energy of mixing, eV/atom, at fractions of species 1 and temperatures (K)."""
        x, temperature = np.broadcast_arrays(np.asarray(x, float), np.asarray(temperature, float))
        return _basis(x, temperature, *self.coefficients.shape) @ self.coefficients.ravel()

    def mixing(self, x: np.ndarray, temperature: np.ndarray, boltzmann: float = units.kB) -> np.ndarray:
        """Return the whole free energy of mixing, eV/atom; 0 at both ends."""
        x, temperature = np.broadcast_arrays(np.asarray(x, float), np.asarray(temperature, float))
        inside = np.clip(x, 1e-300, 1 - 1e-16)
        ideal = inside * np.log(inside) + (1 - inside) * np.log1p(-inside)
        return self.excess(x, temperature) + boltzmann * temperature * np.where((x > 0) & (x < 1), ideal, 0.0)


def _basis(x: np.ndarray, temperature: np.ndarray, n_orders: int, n_terms: int) -> np.ndarray:
    """Products of both bases, shape (..., n_orders * n_terms), order by order."""
    thermal = [function(temperature) for function in list(THERMAL.values())[:n_terms]]
    powers = [x * (1 - x) * (1 - 2 * x) ** n for n in range(n_orders)]
    return np.stack([power * part for power in powers for part in thermal], axis=-1)


def solution_points(free: FreeEnergy, labels: pd.DataFrame, probability: float) -> np.ndarray:
    """Return which compositions are the solid solution, bool (n_t, n_sites + 1).

    A composition is where the solid solution has at least `probability` at both conditions whose mean compositions
    enclose it: inside a miscibility gap of two solutions it is, between a solution and an ordered phase it is not.

    Args:
        free: free energies.
        labels: label table of the same cell and method (`segalflow.thermo.order_parameters.label_phases`).
        probability: least probability of the solid solution.
    """
    solid = labels[labels["phase"] == SOLUTION]
    found = np.zeros((len(free.temperature), free.n_sites + 1), dtype=bool)
    for t, temperature in enumerate(free.temperature):
        row = solid[np.isclose(solid["temperature"], temperature)].sort_values("composition", kind="stable")
        if row.empty:
            continue
        x, last = row["composition"].to_numpy(), len(row) - 1
        right = np.searchsorted(x, free.x, side="left").clip(0, last)
        left = (np.searchsorted(x, free.x, side="right") - 1).clip(0, last)
        pure = row["probability"].to_numpy() >= probability
        found[t] = pure[left] & pure[right]
    return found


def excess_of_mixing(free: FreeEnergy) -> tuple[np.ndarray, np.ndarray]:
    """Return the excess free energy of mixing, eV/site, (n_t, n_sites + 1), and that of the replicates.

    The energies of the pure elements, one decoration each, do not depend on temperature; where they were not reached
    they are those of the temperatures where they were.

    Raises:
        UnresolvedError: if a pure element was reached nowhere.
    """
    own, draws = free.excess(), free.excess(free.replicates)
    ends, drawn_ends = [], []
    for k, species in ((0, free.attributes["species"][0]), (-1, free.attributes["species"][1])):
        known = np.isfinite(own[:, k])
        if not known.any():
            raise UnresolvedError(
                f"pure {species} was sampled at no temperature, so nothing can be measured from it: "
                "widen grid.delta_mu on its side"
            )
        ends.append(np.where(known, own[:, k], own[known, k].mean())[:, None])
        drawn_ends.append(np.where(np.isfinite(draws[..., k]), draws[..., k], ends[-1][:, 0])[..., None])
    with np.errstate(invalid="ignore"):
        return tuple(v - a * (1 - free.x) - b * free.x for v, (a, b) in ((own, ends), (draws, drawn_ends)))


def _independent(noise: np.ndarray) -> float:
    """Effective number of independent ones among correlated errors, from draws of them (n_draws, n_points).

    The participation ratio ``tr(C)^2 / tr(C^2)`` of their covariance C, by the draws' own products. All of them where
    nothing varies.
    """
    products = noise @ noise.T
    total = float((products**2).sum())
    return max(float(np.trace(products)) ** 2 / total, 2.0) if total > 0 else float(noise.shape[1])


def fit_redlich_kister(
    free: FreeEnergy,
    labels: pd.DataFrame,
    *,
    maximum_order: int = 4,
    accuracy: float = 1e-4,
    solution_probability: float = 0.9,
) -> RedlichKister:
    """Fit the solid solution's free energy of mixing.

    Every order up to `maximum_order` with one, two or three temperature functions is fitted by weighted least squares;
    the lowest Schwarz criterion ``chi^2 + k ln n`` is taken (Schwarz 1978). Errors of neighbouring compositions and
    temperatures are correlated, so chi^2 and n count effectively independent points only.

    Args:
        free: free energies of one cell and method, in eV.
        labels: phases of the same samples.
        maximum_order: highest n of L_n.
        accuracy: error of the form itself, eV/atom, added to the statistical ones: no term serves a smaller misfit.
        solution_probability: see `solution_points`.

    Returns:
        The fit; one with `refused` where the free energies do not allow it.
    """
    species = tuple(str(s) for s in free.attributes["species"])
    try:
        if "refused" in free.attributes:
            raise UnresolvedError(str(free.attributes["refused"]))
        own, draws = excess_of_mixing(free)
        used = solution_points(free, labels, solution_probability) & np.isfinite(own)
        used[:, [0, -1]] = False
        if used.sum() < 3:
            raise UnresolvedError(
                f"the solid solution holds only {used.sum()} compositions of the grid, expected at least 3: "
                "raise grid.temperature.stop"
            )
    except UnresolvedError as error:
        none = np.zeros((0, 0))
        return RedlichKister(species, none, none, (np.nan, np.nan), refused=str(error))
    rows = np.nonzero(used)[0]
    temperature, x, y = free.temperature[rows], np.broadcast_to(free.x, used.shape)[used], own[used]
    noise = draws[:, used] - y
    noise = np.where(np.isfinite(noise), noise, 0.0)
    stderr = noise.std(axis=0, ddof=1) if len(noise) > 1 else np.zeros(len(y))
    weight = 1.0 / np.hypot(stderr, accuracy)
    n = _independent((noise - noise.mean(axis=0)) * weight)
    candidates, best = [], None
    for n_terms in range(1, min(len(THERMAL), len(np.unique(rows))) + 1):
        for n_orders in range(1, maximum_order + 2):
            basis = _basis(x, temperature, n_orders, n_terms) * weight[:, None]
            scale = np.linalg.norm(basis, axis=0)
            if n_orders * n_terms >= len(y) or np.linalg.matrix_rank(basis / scale, 1e-10) < n_orders * n_terms:
                continue
            solve = np.linalg.pinv(basis / scale, 1e-12) / scale[:, None] * weight
            misfit = y - basis @ (solve @ y) / weight
            chi2 = float(np.mean((misfit * weight) ** 2)) * n
            criterion = chi2 + n_orders * n_terms * float(np.log(n))
            candidates.append(
                {"order": n_orders - 1, "temperature_functions": n_terms, "criterion": criterion,
                 "rms_misfit": float(np.sqrt(np.mean(misfit**2))), "max_misfit": float(np.abs(misfit).max())}
            )  # fmt: skip
            if best is None or criterion < best[0]:
                best = criterion, candidates[-1], solve, misfit, (n_orders, n_terms)
    _, chosen, solve, misfit, shape = best
    spread = (noise @ solve.T).std(axis=0, ddof=1) if len(noise) > 1 else np.zeros(len(solve))
    by_temperature = [
        {"temperature": free.temperature[t], "points": int((rows == t).sum()),
         "rms_misfit": float(np.sqrt(np.mean(misfit[rows == t] ** 2))),
         "max_misfit": float(np.abs(misfit[rows == t]).max())}
        for t in np.unique(rows)
    ]  # fmt: skip
    statistics = {
        "points": len(y), "left_out": int(used[:, 1:-1].size - len(y)), "independent_points": n,
        "rms_stderr": float(np.sqrt(np.mean(stderr**2))), "rms_misfit": chosen["rms_misfit"],
        "max_misfit": chosen["max_misfit"], "x": [float(x.min()), float(x.max())],
        "by_temperature": by_temperature, "candidates": candidates,
    }  # fmt: skip
    limits = float(temperature.min()), float(temperature.max())
    return RedlichKister(species, (solve @ y).reshape(shape), spread.reshape(shape), limits, statistics)


def describe_fit(fit: RedlichKister, source: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of the JSON file beside the TDB; energies in eV/atom, coefficients those of (1 - 2x)^n."""
    return {
        **source,
        "species": list(fit.species),
        "reference": "pure elements on this lattice, zero at every temperature",
        "refused": fit.refused,
        "temperature": list(fit.temperature),
        "temperature_functions": list(THERMAL)[: fit.coefficients.shape[1]],
        "coefficients_J_per_mol": fit.coefficients * JOULE_PER_MOL,
        "coefficients_stderr_J_per_mol": fit.stderr * JOULE_PER_MOL,
        **fit.statistics,
    }


def _remarks(fit: RedlichKister, lattice: str, source: Mapping[str, str]) -> list[str]:
    """The comments of a TDB file, a paragraph each."""
    origin = ", ".join(f"{key} '{value}'" for key, value in source.items())
    head = f"Solid solution {'-'.join(fit.species)} on the {lattice} lattice, made by segalflow from {origin}."
    if fit.refused:
        return [head, f"There is no fit: {fit.refused}."]
    numbers, (low, high), (order, terms) = fit.statistics, fit.temperature, fit.coefficients.shape
    return [
        head,
        "Free energy of mixing in J per mol of atoms: ideal mixing and a Redlich-Kister polynomial of order "
        f"{order - 1} with {terms} temperature function(s), as the Schwarz criterion chose.",
        "Reference: the pure elements on this lattice, zero at every temperature. Configurational part only, without "
        "vibrations and electronic excitations.",
        f"Fitted to {numbers['points']} points from {low:g} to {high:g} K and x({fit.species[1]}) from "
        f"{numbers['x'][0]:.3f} to {numbers['x'][1]:.3f}; beyond that it is an extrapolation. {numbers['left_out']} "
        "points that are ordered or were not sampled are left out: ordered phases are not in this file.",
        f"Misfit: max {1000 * numbers['max_misfit']:.3f} meV/atom, rms {1000 * numbers['rms_misfit']:.3f} meV/atom.",
        f"Standard error of the points: rms {1000 * numbers['rms_stderr']:.3f} meV/atom.",
    ]


def tdb_text(fit: RedlichKister, lattice: str, source: Mapping[str, str]) -> str:
    """Return the fit as a TDB file.

    Species are in alphabetical order, in which CALPHAD codes read ``(x_A - x_B)^n``.

    Args:
        fit: the fit; one that was refused gives a file of elements without a phase, which says why.
        lattice: name of the lattice.
        source: what the fit is of (cell, method), for the comments.
    """
    phase = PHASE_NAMES.get(lattice, lattice.upper())
    names = sorted(s.upper() for s in fit.species)
    masses = {s.upper(): atomic_masses[atomic_numbers[s]] for s in fit.species}
    # x_A - x_B is 1 - 2x for species in the given order, else its negative.
    sign = 1 if fit.species[0].upper() == names[0] else -1
    lines = [f"$ {line}" for text in _remarks(fit, lattice, source) for line in textwrap.wrap(text, 76)]
    lines += ["", "ELEMENT /-   ELECTRON_GAS   0.0   0.0   0.0 !", "ELEMENT VA   VACUUM   0.0   0.0   0.0 !"]
    lines += [f"ELEMENT {name:<4} {phase}   {masses[name]:.4f}   0.0   0.0 !" for name in names]
    lines += ["", "TYPE_DEFINITION % SEQ * !", "DEFINE_SYSTEM_DEFAULT ELEMENT 2 !"]
    lines += ["DEFAULT_COMMAND DEFINE_SYSTEM_ELEMENT VA !", ""]
    if fit.refused:
        return "\n".join(lines)
    lines += [f"PHASE {phase} % 1 1.0 !", f"CONSTITUENT {phase} :{','.join(names)}: !", ""]
    low, high = LIMITS
    lines += [f"PARAMETER G({phase},{name};0) {low} 0.0; {high} N !" for name in names]
    for n, row in enumerate(fit.coefficients * JOULE_PER_MOL):
        terms = "".join(f"{sign**n * c:+.10E}{text}" for c, text in zip(row, THERMAL, strict=False))
        lines += [f"PARAMETER L({phase},{','.join(names)};{n}) {low}", f"  {terms}; {high} N !"]
    return "\n".join(lines) + "\n"


def write_tdb(path: str | Path, fit: RedlichKister, lattice: str, source: Mapping[str, str]) -> None:
    """Write the fit as a TDB file (`tdb_text`)."""
    with atomic_path(path) as temporary:
        temporary.write_text(tdb_text(fit, lattice, source), encoding="utf-8")
