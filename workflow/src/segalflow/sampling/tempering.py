"""Replica exchange in temperature and delta_mu over the whole grid, up to infinite temperature.

The chains of `segalflow.sampling.metropolis` with exchanges in the foreground: every condition exchanges with its
neighbours in T and in delta_mu after every few sweeps, and counts only as reliable if decorations made anew at infinite
temperature have reached it. Heat bath, errors over blocks, autocorrelation times and log Z are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from segalflow.energy.base import EnergyModel
from segalflow.errors import SamplingError
from segalflow.sampling.metropolis import sample_metropolis

MIN_RENEWALS = 10
"""Decorations from infinite temperature that must have reached a condition, else it is marked unreliable."""


def sample_tempering(
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
    exchange_every: int = 2,
    n_blocks: int = 20,
    target_error: float | None = None,
    max_sweeps: int = 64000,
    keep_samples: int = 256,
    collect: Callable[[xr.Dataset], None] | None = None,
    work: Path | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``tempering``) of replica exchange.

    Arguments are those of `segalflow.sampling.metropolis.sample_metropolis`. Attributes of the table:
    ``exchange_acceptance_temperature`` and ``exchange_acceptance_delta_mu`` (accepted shares between neighbours),
    ``renewals`` (`segalflow.sampling.replica_exchange`).

    Raises:
        SamplingError: for a grid or budgets that make no sense, among them no exchanges.
    """
    if exchange_every < 1 or exchange_every > max(sweeps, 1):
        raise SamplingError(
            f"tempering.exchange_every: expected 1 to {sweeps} sweeps between exchanges, found {exchange_every}"
        )
    return sample_metropolis(
        model, species, temperature, delta_mu, seed=seed, sweeps=sweeps, equilibration=equilibration,
        chains_per_condition=chains_per_condition, n_ladder=n_ladder, measure_every=measure_every,
        exchange_every=exchange_every, n_blocks=n_blocks, target_error=target_error, max_sweeps=max_sweeps,
        keep_samples=keep_samples, collect=collect, work=work, attributes=attributes, method="tempering",
        min_renewals=MIN_RENEWALS,
    )  # fmt: skip
