"""Semi-grand-canonical Markov chains over a whole (temperature, delta_mu) grid at once.

Half of the chains of every condition start from the lowest decoration for their delta_mu that a search has met, half
from the pure species farther from it, so metastability shows as their disagreement (hysteresis): also that of an
ordered phase that neither pure species would nucleate in time. log Z is absolute: a ladder of further temperatures
leads to beta = 0, where log Z = n_sites ln 2, and neighbouring temperatures are joined by Bennett's acceptance ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.base import EnergyModel
from segalflow.energy.batch_chains import make_chains
from segalflow.energy.replica_pool import lowest_decorations
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.samples import sample_set
from segalflow.sampling.chains import ChainRun
from segalflow.sampling.grid_estimates import grid_estimates
from segalflow.sampling.inputs import check_grid
from segalflow.sampling.replica_exchange import ReplicaExchange


def temperature_ladder(temperature: np.ndarray, boltzmann: float, n_ladder: int) -> np.ndarray:
    """Return beta of all rungs, decreasing to 0: the grid's, then `n_ladder` evenly spaced ones, then beta = 0."""
    grid = np.sort(1.0 / (boltzmann * np.asarray(temperature, float)))[::-1]
    return np.concatenate([grid, np.linspace(grid[-1], 0.0, n_ladder + 2)[1:]])


def sample_metropolis(
    model: EnergyModel,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    sweeps: int = 4000,
    equilibration: int = 1000,
    chains_per_condition: int = 2,
    n_ladder: int = 10,
    measure_every: int = 2,
    exchange_every: int = 10,
    n_blocks: int = 20,
    rule: str = "heat_bath",
    target_error: float | None = None,
    max_sweeps: int = 64000,
    keep_samples: int = 256,
    collect: Callable[[xr.Dataset], None] | None = None,
    work: Path | None = None,
    attributes: Mapping[str, Any] | None = None,
    method: str = "metropolis",
    min_renewals: int = 0,
) -> xr.Dataset:
    """Return the ensemble table (method ``metropolis``) of lock-step Markov chains.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,).
        seed: seed of all random draws.
        sweeps: production sweeps per chain; a sweep visits every site once.
        equilibration: sweeps before them.
        chains_per_condition: even; half start from the decoration of lowest ``U - dmu N`` that replica exchange from
            disorder met in `equilibration` sweeps of the grid, half from the pure species farther from it.
        n_ladder: temperatures between the highest one and infinite temperature, evenly spaced in 1/T.
        measure_every: sweeps between measurements.
        exchange_every: sweeps between replica exchanges (in T, then in delta_mu, separately for each of the
            `chains_per_condition` copies of the grid); 0 turns exchange off.
        n_blocks: blocks per chain for the errors.
        rule: acceptance rule (`segalflow.energy.lockstep.RULES`).
        target_error: the sweeps are doubled until the standard error of the composition is at most this at every
            condition, or `max_sweeps` are done; None does `sweeps`.
        max_sweeps: see `target_error`.
        keep_samples: most samples of each condition that `collect` gets, evenly spaced in time, shared by its chains.
        collect: called once with the samples artefact (`segalflow.samples`); None keeps no decorations.
        work: folder of the chains' state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.
        method: name of the method in the table.
        min_renewals: decorations from infinite temperature (`ReplicaExchange`) that a condition must have met.

    Errors are jackknife errors over all blocks of all chains of a condition. Where the two starts disagree, half of
    their difference is added in quadrature and the condition is marked unreliable; so is one with fewer than
    `MIN_INDEPENDENT` independent samples or with blocks shorter than `MIN_BLOCK_LENGTH` autocorrelation times
    (both of `segalflow.sampling.grid_estimates`).

    Raises:
        SamplingError: for a grid or budgets that make no sense.
    """
    temperature, delta_mu = check_grid(temperature, delta_mu)
    n_measured = sweeps // measure_every // n_blocks * n_blocks
    if chains_per_condition < 2 or chains_per_condition % 2:
        raise SamplingError(f"chains_per_condition: expected an even number, found {chains_per_condition}")
    if n_measured < 4 * n_blocks or n_blocks < 2:
        raise SamplingError(
            f"sweeps: {sweeps} sweeps give {sweeps // max(measure_every, 1)} measurements, "
            f"expected at least 4 in each of {n_blocks} blocks"
        )
    beta = temperature_ladder(temperature, model.boltzmann, n_ladder)
    shape = (len(beta), len(delta_mu), chains_per_condition)
    n_rungs = len(temperature)
    keep = 0 if collect is None else max(1, keep_samples // chains_per_condition)
    lowest, searched = lowest_decorations(model, temperature, delta_mu, seed=seed, sweeps=equilibration)

    def made(folder: Path | None) -> tuple[ChainRun, ReplicaExchange]:
        return _chain_run(
            model, beta, delta_mu, shape, [method, seed], rule, equilibration, measure_every, exchange_every, folder,
            (keep, n_rungs * len(delta_mu) * chains_per_condition), lowest,
        )  # fmt: skip

    run, exchange = made(work)
    if target_error is not None:
        run.restore()  # a state may be in the midst of a doubling
    while True:
        run.run(n_measured)
        energy, n_plus = (series[:n_measured].reshape(n_measured, *shape) for series in (run.energy(), run.n_plus()))
        values = grid_estimates(model.n_sites, beta, delta_mu, energy, n_plus, n_blocks, measure_every)
        worst = float(values["composition_stderr"][:n_rungs].max())
        if target_error is None or worst <= target_error or 2 * n_measured * measure_every > max_sweeps:
            if run.n_measured == n_measured:
                break
            run, exchange = made(None)  # the state is that of a run asked for more
            continue
        n_measured *= 2
    chains, accepted = run.chains, run.acceptance().reshape(shape).mean(axis=2)
    spent = (chains.energy_evaluations + searched) / (n_rungs * len(delta_mu))
    # The grid was run from the lowest temperature up to beta = 0; rows 0..n_rungs-1 are the wanted ones.
    kept = {name: value[:n_rungs] for name, value in values.items()}
    grid = (n_rungs, len(delta_mu))
    kept["acceptance"] = accepted[:n_rungs]
    kept["n_samples"] = np.full(grid, float(n_measured * chains_per_condition))
    kept["energy_evaluations"] = np.full(grid, spent)
    kept["full_energy_evaluations"] = np.full(grid, n_measured * chains_per_condition * len(beta) / n_rungs)
    settings = {
        "seed": seed,
        "sweeps": n_measured * measure_every,
        "equilibration": equilibration,
        "chains_per_condition": chains_per_condition,
        "n_ladder": n_ladder,
        "measure_every": measure_every,
        "exchange_every": exchange_every,
        "n_blocks": n_blocks,
        "rule": rule,
        "target_error": target_error,
    }
    hysteresis, independent = kept.pop("hysteresis"), kept.pop("independent")
    kept["reliable"] = kept["reliable"] * (exchange.renewals[:n_rungs] >= min_renewals)
    source = {"n_sites": model.n_sites, "settings": settings, **(attributes or {})}
    if collect is not None:
        content = _kept_samples(run, n_rungs, energy, n_plus)
        content["independent_samples"] = np.minimum(independent, content["energy"].shape[-1])
        collect(sample_set(method, temperature, delta_mu, species, content, source, model.energy_unit))
    doubts = {"largest_hysteresis": float(hysteresis.max()), "hysteresis": np.round(hysteresis, 6).tolist()}
    return ensemble_table(
        method,
        temperature,
        delta_mu,
        species,
        kept,
        {**source, **doubts, **exchange.report(n_rungs)},
        model.energy_unit,
    )


def _kept_samples(run: ChainRun, n_rungs: int, energy: np.ndarray, n_plus: np.ndarray) -> dict[str, np.ndarray]:
    """Variables of the samples artefact; series have the shape (n_measured, n_beta, n_delta_mu, n_chains)."""
    packed, taken = run.decorations()
    grid = (n_rungs, *energy.shape[2:])

    def by_condition(values: np.ndarray) -> np.ndarray:  # (n_kept, T, mu, chain, ...) -> (T, mu, chain * n_kept, ...)
        moved = np.moveaxis(values, 0, 3)
        return moved.reshape(*moved.shape[:2], -1, *moved.shape[4:])

    series = by_condition(energy[taken, :n_rungs])
    return {
        "occupation": by_condition(packed.reshape(len(taken), *grid, -1)),
        "energy": series,
        "n_atoms": by_condition(n_plus[taken, :n_rungs]),
        "log_weight": np.zeros(series.shape),
        "chain": np.repeat(np.arange(grid[2]), len(taken)),
    }


def _chain_run(
    model: EnergyModel,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    shape: tuple[int, int, int],
    run_of: list[Any],
    rule: str,
    equilibration: int,
    measure_every: int,
    exchange_every: int,
    work: Path | None,
    kept: tuple[int, int],
    lowest: np.ndarray,
) -> tuple[ChainRun, ReplicaExchange]:
    """Chains on (rungs, delta_mu, copies), exchanging in T and delta_mu in turn.

    Odd copies start from the `lowest` decorations, int8 (n_delta_mu, n_sites), even ones from the pure species that is
    farther from those in composition. `run_of` holds the method and the seed.
    """
    seed = run_of[1]
    rungs, columns, copies = np.indices(shape).reshape(3, -1)
    with np.errstate(divide="ignore"):
        kelvin = 1.0 / (model.boltzmann * beta)
    chains = make_chains(model, kelvin[rungs], delta_mu[columns], seed, rule)
    far = np.where(lowest.sum(axis=1) > 0, -1, 1)[columns, None]
    chains.set_spins(np.where(copies[:, None] % 2, lowest[columns], far))
    rng = np.random.default_rng(seed)
    exchange = ReplicaExchange(chains, shape, rng, not_before=equilibration // max(exchange_every, 1))
    run = ChainRun(
        chains, chains.sweep, exchange if exchange.moves else None, rng, equilibration=equilibration,
        measure_every=measure_every, exchange_every=exchange_every, work=work, inputs=[*run_of, *shape],
        keep=kept[0], kept_chains=kept[1], further=exchange.arrays,
    )  # fmt: skip
    return run, exchange
