"""Trained samplers and training states on disk: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from segalflow.artefacts import atomic_path, read_json, read_table, to_builtin, write_json, write_table
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.errors import ArtefactError, TrainingError
from segalflow.lattice import Supercell
from segalflow.provenance import content_hash, package_versions
from segalflow.segal.features import ConditionRange, past_fields
from segalflow.segal.network import build_network
from segalflow.segal.sampler import TrainedSampler

SCHEMA = "segalflow.segal/1"


def model_fingerprint(model: SpinPolynomial) -> str:
    """Return a hash of a polynomial's terms: equal for the same Hamiltonian on the same cell only."""
    return content_hash(
        [
            model.n_sites,
            float(model.constant),
            [m.tolist() for m in model.members],
            [[float(f"{v:.12e}") for v in c] for c in model.coefficients],
        ]
    )


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
    model_path: str | Path, weights_path: str | Path, model: SpinPolynomial, cell: Supercell
) -> TrainedSampler:
    """Read a trained sampler for a Hamiltonian on a cell.

    Raises:
        ArtefactError: if a file is missing, cut short or of another schema.
        TrainingError: if the sampler was trained for another Hamiltonian or cell.
    """
    content = read_json(model_path, SCHEMA)
    if content["hamiltonian"] != model_fingerprint(model) or content["cell"]["matrix"] != cell.matrix.tolist():
        raise TrainingError(
            f"{model_path}: this sampler was trained for another Hamiltonian or cell "
            f"({content['cell']['matrix']}, found {cell.matrix.tolist()}); train again"
        )
    domain = ConditionRange(
        tuple(content["domain"]["temperature"]), tuple(content["domain"]["delta_mu"]), content["domain"]["boltzmann"]
    )
    tables = past_fields(model)
    network = build_network(content["network"], cell, tables.n_classes, content["seed"])
    try:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(weights_path).items()})
    except Exception as error:  # safetensors and torch raise many kinds on a damaged file
        raise ArtefactError(f"{weights_path}: not the weights that {model_path} describes ({error})") from None
    grid = (np.array(content["grid"]["temperature"]), np.array(content["grid"]["delta_mu"]))
    settings = {k: content[k] for k in ("network", "training", "seed")}
    history = Path(model_path).with_name("history.parquet")
    table = read_table(history) if history.exists() else None
    sampler = TrainedSampler(model, cell, network, tables, domain, grid, settings)
    if table is not None:
        sampler.history = table
    return sampler


def write_state(path: Path, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
    """Write a training state atomically: arrays as safetensors, everything else as JSON in its header."""
    text = json.dumps(to_builtin(extra))
    with atomic_path(path) as temporary:
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, temporary, metadata={"extra": text})


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a training state.

    Raises:
        ArtefactError: if the file is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(opened.metadata()["extra"])  # noqa: SIM118
    except Exception as error:
        raise ArtefactError(f"{path}: damaged checkpoint ({error}); delete it to train from the beginning") from None
