"""Trained samplers on disk: safetensors and JSON, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from segalflow.artefacts import atomic_path, read_json, read_table, write_json, write_table
from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import model_fingerprint
from segalflow.errors import ArtefactError, TrainingError
from segalflow.lattice import Supercell
from segalflow.provenance import package_versions
from segalflow.segal.categorical import SPECIES_NETWORKS, build_species_network
from segalflow.segal.features import ConditionRange, past_fields
from segalflow.segal.network import build_network
from segalflow.segal.orders import placement
from segalflow.segal.resources import MEMORY_MB, choose_device
from segalflow.segal.sampler import TrainedSampler
from segalflow.segal.species_features import ConditionBox, number_of_classes
from segalflow.segal.species_sampler import SpeciesSampler

SCHEMA = "segalflow.segal/1"


def write_sampler(
    sampler: TrainedSampler | SpeciesSampler, model_path: str | Path, weights_path: str | Path, history_path: str | Path
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
            "grid": {
                "temperature": sampler.grid[0],
                "delta_mu": sampler.grid[1] if isinstance(sampler, TrainedSampler) else list(sampler.grid[1:]),
            },
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
) -> TrainedSampler | SpeciesSampler:
    """Read a trained sampler for a Hamiltonian on a cell, of two species or of any number.

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
    build = _species_sampler if content["network"]["kind"] in SPECIES_NETWORKS else _binary_sampler
    sampler = build(content, model, cell)
    try:
        sampler.network.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(weights_path).items()})
    except Exception as error:  # safetensors and torch raise many kinds on a damaged file
        raise ArtefactError(f"{weights_path}: not the weights that {model_path} describes ({error})") from None
    sampler.settings = {k: content.get(k) for k in ("network", "training", "seed", "start", "device")}
    sampler.network.to(choose_device(content.get("device", "cpu")))
    sampler.memory_mb, sampler.extrapolate = content.get("memory_mb", MEMORY_MB), content.get("extrapolate", False)
    history = Path(model_path).with_name("history.parquet")
    if history.exists():
        sampler.history = read_table(history)
    return sampler


def _binary_sampler(content: Mapping[str, Any], model: EnergyModel, cell: Supercell) -> TrainedSampler:
    domain, grid = content["domain"], content["grid"]
    order = placement(content["network"], cell, content["seed"])
    tables = past_fields(model, order)
    return TrainedSampler(
        model,
        cell,
        build_network(content["network"], cell, tables.n_classes, content["seed"]),
        tables,
        ConditionRange(tuple(domain["temperature"]), tuple(domain["delta_mu"]), domain["boltzmann"]),
        (np.array(grid["temperature"]), np.array(grid["delta_mu"])),
        order=order,
    )


def _species_sampler(content: Mapping[str, Any], model: EnergyModel, cell: Supercell) -> SpeciesSampler:
    domain, grid = content["domain"], content["grid"]
    box = ConditionBox(
        tuple(domain["temperature"]), tuple(tuple(axis) for axis in domain["delta_mu"]), domain["boltzmann"]
    )
    network = build_species_network(
        content["network"], cell, number_of_classes(model), box.size, content["seed"]
    )  # fmt: skip
    axes = (np.array(axis) for axis in (grid["temperature"], *grid["delta_mu"]))
    return SpeciesSampler(model, cell, network, box, tuple(axes))


def _describe(cell: Supercell) -> str:
    species = " + ".join("-".join(names) for names in cell.lattice.species)
    return f"{species} on '{cell.lattice.name}' with matrix {cell.matrix.tolist()}"
