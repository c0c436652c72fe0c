"""Trained samplers on disk: safetensors and JSON, no pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from segalflow.artefacts import atomic_path, read_json, read_table, write_json, write_table
from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import model_fingerprint
from segalflow.errors import ArtefactError, TrainingError
from segalflow.lattice import Supercell
from segalflow.provenance import package_versions
from segalflow.segal.features import ConditionRange, past_fields
from segalflow.segal.network import build_network
from segalflow.segal.orders import placement
from segalflow.segal.resources import MEMORY_MB, choose_device
from segalflow.segal.sampler import TrainedSampler

SCHEMA = "segalflow.segal/1"


def write_sampler(
    sampler: TrainedSampler, model_path: str | Path, weights_path: str | Path, history_path: str | Path
) -> None:
    """Write a trained sampler: description (JSON), weights (safetensors), history (parquet)."""
    arrays = {k: v.detach().cpu().contiguous().numpy() for k, v in sampler.network.state_dict().items()}
    with atomic_path(weights_path) as temporary:
        save_file(arrays, temporary)
    write_table(history_path, sampler.history)
    ness = sampler.history["ness"].dropna()
    write_json(
        model_path,
        {
            "network": sampler.settings["network"],
            "training": sampler.settings["training"],
            "seed": sampler.settings["seed"],
            "start": sampler.settings.get("start"),
            "device": sampler.settings.get("device", "cpu"),
            "memory_mb": sampler.memory_mb,
            "extrapolate": sampler.extrapolate,
            "hamiltonian": model_fingerprint(sampler.model),
            "cell": sampler.cell.to_dict(),
            "domain": {
                "temperature": sampler.domain.temperature,
                "delta_mu": sampler.domain.delta_mu,
                "boltzmann": sampler.domain.boltzmann,
                "energy_unit": sampler.model.energy_unit,
            },
            "grid": {"temperature": sampler.grid[0], "delta_mu": sampler.grid[1]},
            "n_parameters": int(sum(v.size for v in arrays.values())),
            "steps": len(sampler.history),
            "energy_evaluations": int(sampler.history["energy_evaluations"].iloc[-1]) if len(sampler.history) else 0,
            "final_ness": float(ness.iloc[-1]) if len(ness) else None,
            "versions": package_versions("torch", "numpy"),
        },
        SCHEMA,
    )


def read_sampler(
    model_path: str | Path, weights_path: str | Path, model: EnergyModel, cell: Supercell
) -> TrainedSampler:
    """Read a trained sampler for a Hamiltonian on a cell.

    Raises:
        ArtefactError: if a file is missing, cut short or of another schema.
        TrainingError: if the sampler was trained for another Hamiltonian or cell.
    """
    content = read_json(model_path, SCHEMA)
    try:
        other = Supercell.from_dict(content["cell"])
        same_cell = np.array_equal(other.matrix, cell.matrix) and other.lattice.same_as(cell.lattice)
        same_model = content["hamiltonian"] == model_fingerprint(model)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{model_path}: incomplete file, {type(error).__name__}: {error}") from None
    if not same_cell:
        raise TrainingError(
            f"{model_path}: this sampler was trained for another cell, {_describe(other)}, expected "
            f"{_describe(cell)}; train again"
        )
    if not same_model:
        raise TrainingError(f"{model_path}: this sampler was trained for another Hamiltonian on this cell; train again")
    domain = ConditionRange(
        tuple(content["domain"]["temperature"]), tuple(content["domain"]["delta_mu"]), content["domain"]["boltzmann"]
    )
    order = placement(content["network"], cell, content["seed"])
    tables = past_fields(model, order)
    network = build_network(content["network"], cell, tables.n_classes, content["seed"])
    try:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(weights_path).items()})
    except Exception as error:  # safetensors and torch raise many kinds on a damaged file
        raise ArtefactError(f"{weights_path}: not the weights that {model_path} describes ({error})") from None
    grid = (np.array(content["grid"]["temperature"]), np.array(content["grid"]["delta_mu"]))
    settings = {k: content.get(k) for k in ("network", "training", "seed", "start", "device")}
    history = Path(model_path).with_name("history.parquet")
    table = read_table(history) if history.exists() else None
    network.to(choose_device(content.get("device", "cpu")))
    sampler = TrainedSampler(model, cell, network, tables, domain, grid, settings)
    sampler.memory_mb, sampler.extrapolate = content.get("memory_mb", MEMORY_MB), content.get("extrapolate", False)
    sampler.order = order
    if table is not None:
        sampler.history = table
    return sampler


def _describe(cell: Supercell) -> str:
    species = " + ".join("-".join(names) for names in cell.lattice.species)
    return f"{species} on '{cell.lattice.name}' with matrix {cell.matrix.tolist()}"
