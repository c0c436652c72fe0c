"""Training of a crystal-graph convolutional network on a dataset of formation energies (PyTorch).

After Xie & Grossman, Phys. Rev. Lett. 120, 145301 (2018), on the ideal lattice: an edge knows its neighbour shell and
nothing else. Gate and activation are algebraic, shaped like the logistic function and the softplus, so that
`segalflow.energy.graph_energy` evaluates the trained network without exponentials.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from torch import Tensor, nn

from segalflow.compilation import numba
from segalflow.dft.dataset import end_members_of
from segalflow.energy.graph_energy import gated_sums, neighbour_shells, neighbour_table
from segalflow.errors import TrainingError
from segalflow.expansion.ground_states import above_hull, lower_hull
from segalflow.expansion.validation import error_metrics, rms
from segalflow.lattice import ParentLattice
from segalflow.progress import bar
from segalflow.provenance import content_hash, package_versions
from segalflow.structures.pool import space_group, structure_name

MIN_STRUCTURES = 20
"""Fewer leave nothing to validate and test on."""


def activation(x: Tensor) -> Tensor:
    """Return ``(x + sqrt(1 + x^2)) / 2``: from 0 to x."""
    return 0.5 * (x + torch.sqrt(1 + x * x))


class _GatedSums(torch.autograd.Function):
    """`graph_energy.gated_sums` with its gradient: nothing of the size of the edges is ever stored."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, theirs: Tensor, shells: Tensor, neighbours: Tensor, shell: Tensor) -> Tensor:
        total = np.empty((len(mine), mine.shape[1] // 2), dtype=np.float32)
        ctx.arrays = [t.detach().contiguous().numpy() for t in (mine, theirs, shells, neighbours, shell)]
        gated_sums(*ctx.arrays, total)
        return torch.from_numpy(total)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [np.zeros_like(a) for a in ctx.arrays[:3]]
        _gated_slopes(*ctx.arrays, slope.contiguous().numpy(), *gradients)
        return (*map(torch.from_numpy, gradients), None, None)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _gated_slopes(
    mine, theirs, shell_weights, neighbours, shells, slope, d_mine, d_theirs, d_shell
):  # pragma: no cover - compiled
    one, half = np.float32(1.0), np.float32(0.5)
    n, width = slope.shape
    for i in range(n):
        own, d_own, d_out = mine[i], d_mine[i], slope[i]
        for k in range(shells.shape[0]):
            j, s = neighbours[i, k], shells[k]
            row, edge, d_row, d_edge = theirs[j], shell_weights[s], d_theirs[j], d_shell[s]
            for h in range(width):
                f = own[h] + row[h] + edge[h]
                g = own[width + h] + row[width + h] + edge[width + h]
                rf, rg = one / np.sqrt(one + f * f), one / np.sqrt(one + g * g)
                d_f = d_out[h] * half * (g + np.sqrt(one + g * g)) * half * rf * rf * rf
                d_g = d_out[h] * half * (one + f * rf) * half * (one + g * rg)
                d_own[h] += d_f
                d_own[width + h] += d_g
                d_row[h] += d_f
                d_row[width + h] += d_g
                d_edge[h] += d_f
                d_edge[width + h] += d_g


class CrystalGraph(nn.Module):
    """Formation energy per site of a batch of graphs, in units of the data's spread.

    Args:
        n_species: number of species.
        n_shells: number of neighbour shells.
        features: features of a site.
        layers: convolutions.
    """

    def __init__(self, n_species: int, n_shells: int, features: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_species, features))
        spread = (2 * features) ** -0.5
        self.own = nn.Parameter(spread * torch.randn(layers, features, 2 * features))
        self.other = nn.Parameter(spread * torch.randn(layers, features, 2 * features))
        self.shell = nn.Parameter(torch.randn(layers, n_shells, 2 * features))
        self.norms = nn.ModuleList(nn.BatchNorm1d(features) for _ in range(layers))
        self.hidden = nn.Linear(features, features)
        self.output = nn.Linear(features, 1, bias=False)  # a constant would cancel against the pure species

    def forward(self, species: Tensor, neighbours: Tensor, shell: Tensor, graph: Tensor, n_graphs: int) -> Tensor:
        """Return energies, (n_graphs,), of graphs laid end to end.

        Args:
            species: of every site, (n_sites,).
            neighbours: numbers of the neighbours among all sites, (n_sites, n_neighbours).
            shell: shell of each neighbour, (n_neighbours,).
            graph: the graph of every site, (n_sites,).
            n_graphs: number of graphs.
        """
        v = self.embedding[species]
        for own, other, shells, norm in zip(self.own, self.other, self.shell, self.norms, strict=True):
            v = activation(v + norm(_GatedSums.apply(v @ own, v @ other, shells, neighbours, shell)))
        pooled = v.new_zeros(n_graphs, v.shape[1]).index_add(0, graph, v)
        pooled = pooled / torch.bincount(graph, minlength=n_graphs)[:, None]
        return self.output(activation(self.hidden(pooled)))[:, 0]

    def formation(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Return the energies of a batch relative to those of the pure species in it, and the latter."""
        energy = self(*batch.graphs)
        structures, pure = energy[: len(batch.fractions)], energy[len(batch.fractions) :]
        return structures - batch.fractions @ pure, pure

    def export(self, pure: Tensor, spread: float) -> dict[str, np.ndarray]:
        """Return the arrays of `graph_energy.NAMES`: norms folded in, energies in eV per site."""
        scale, shift = [], []
        for norm in self.norms:
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            scale.append(factor)
            shift.append(norm.bias - factor * norm.running_mean)
        arrays = {
            "embedding": self.embedding, "own": self.own, "other": self.other, "shell": self.shell,
            "scale": torch.stack(scale), "shift": torch.stack(shift),
            "hidden": self.hidden.weight.T, "hidden_bias": self.hidden.bias,
            "output": spread * self.output.weight[0], "pure": spread * pure,
        }  # fmt: skip
        return {name: np.ascontiguousarray(a.detach().numpy(), dtype=np.float32) for name, a in arrays.items()}


@dataclass(frozen=True, eq=False)
class TrainedGraph:
    """A trained network and what it says about itself.

    Attributes:
        weights: arrays of `graph_energy.GraphModel.weights`.
        content: what the model file holds besides (parameters, reference, notes).
        metrics: errors in eV/atom and counts; ``test_mae``, ``validation_mae`` and ``train_mae`` among them.
        hull: ground states of data and model (as of `segalflow.expansion.fit.FittedExpansion`).
        predictions: one row a structure, with the part (train, validation, test) it belonged to.
        history: one row an epoch: loss, validation_mae (eV/atom).
    """

    weights: dict[str, np.ndarray]
    content: dict[str, Any]
    metrics: dict[str, Any]
    hull: pd.DataFrame
    predictions: pd.DataFrame
    history: pd.DataFrame


class _Batch(NamedTuple):
    """Arguments of `CrystalGraph.forward`, the pure species last, and the other graphs' fractions of the species."""

    graphs: tuple[Tensor, Tensor, Tensor, Tensor, int]
    fractions: Tensor


class _Graphs:
    """Graphs of all structures, laid end to end on demand."""

    def __init__(self, structures: Sequence[Atoms], lattice: ParentLattice, cutoff: float) -> None:
        shells = neighbour_shells(lattice, cutoff)
        self.radii, self.shell = shells.radii, torch.from_numpy(shells.shell)
        self.species = [np.asarray(s.get_array("occupation"), dtype=np.int64) for s in structures]
        self.tables = [neighbour_table(s.positions, np.asarray(s.cell), shells.vectors) for s in structures]
        self.n_species = len(lattice.species[0])
        fractions = [np.bincount(s, minlength=self.n_species) / len(s) for s in self.species]
        self.fractions = torch.from_numpy(np.array(fractions, dtype=np.float32))
        # The pure species, one site each that is its own neighbour.
        self.pure = np.arange(len(structures), len(structures) + self.n_species)
        self.species += [np.array([s]) for s in range(self.n_species)]
        self.tables += [np.zeros((1, len(shells.shell)), dtype=np.int64)] * self.n_species

    def batch(self, structures: np.ndarray) -> _Batch:
        chosen = np.concatenate([structures, self.pure])
        sizes = [len(self.species[c]) for c in chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        tables = np.concatenate([self.tables[c] + start for c, start in zip(chosen, starts, strict=False)])
        graphs = (
            torch.from_numpy(np.concatenate([self.species[c] for c in chosen])),
            torch.from_numpy(tables),
            self.shell,
            torch.from_numpy(np.repeat(np.arange(len(chosen)), sizes)),
            len(chosen),
        )
        return _Batch(graphs, self.fractions[structures])


def split_structures(n: int, shares: Sequence[float], always: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the part of each structure, shape (n,): 0 train, 1 validation, 2 test.

    Args:
        n: number of structures.
        shares: of the three parts; they sum to 1.
        always: structures that are trained on in any case (the pure elements).
        rng: random numbers.
    """
    part = np.zeros(n, dtype=int)
    free = rng.permutation(np.setdiff1d(np.arange(n), always))
    n_test, n_validation = (max(1, round(share * n)) for share in (shares[2], shares[1]))
    part[free[:n_test]], part[free[n_test : n_test + n_validation]] = 2, 1
    return part


def train_crystal_graph(
    dataset: Sequence[Atoms], lattice: ParentLattice, settings: Mapping[str, Any], seed: int, key: str = "expansion"
) -> TrainedGraph:
    """Train a crystal-graph network on formation energies per atom.

    The epoch of the lowest validation error is kept; the test part is looked at once, at the end.

    Args:
        dataset: ideal structures with ``info`` formation_energy (eV/atom), x, structure, end_members.
        lattice: parent lattice.
        settings: ``cutoff`` (Angstrom), ``features``, ``layers``, ``split`` (train, validation, test), ``epochs``,
            ``patience`` (epochs without a better validation error before it stops), ``batch``, ``learning_rate``.
        seed: seed of split, first weights and batches.
        key: the config key of this model, for messages.

    Raises:
        TrainingError: if there are too few structures, the split makes no sense, or training diverges.
        ExpansionError: if the cut-off holds no neighbour.
    """
    shares = settings["split"]
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise TrainingError(f"{key}.graph.split: expected three positive shares of sum 1, found {list(shares)}")
    if len(dataset) < MIN_STRUCTURES:
        raise TrainingError(f"{key}.graph: {len(dataset)} structures, expected at least {MIN_STRUCTURES} to train on")
    torch.set_num_threads(1)  # the sums' order, and so the bytes of the result, must not depend on the machine's cores
    rng = np.random.default_rng(seed)
    energies = np.array([s.info["formation_energy"] for s in dataset], dtype=float)
    pure = np.flatnonzero([len(set(s.numbers)) == 1 for s in dataset])
    part = split_structures(len(dataset), shares, pure, rng)
    rows = [np.flatnonzero(part == p) for p in range(3)]
    spread = float(energies[rows[0]].std())
    target = torch.from_numpy((energies / spread).astype(np.float32))
    graphs = _Graphs(dataset, lattice, settings["cutoff"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = CrystalGraph(len(lattice.species[0]), len(graphs.radii), settings["features"], settings["layers"])
    best, history = _fit(network, graphs, target, rows, settings, rng)
    network.load_state_dict(best)
    network.eval()
    with torch.no_grad():
        parts = np.array_split(np.arange(len(dataset)), -(-len(dataset) // 64))
        found = [network.formation(graphs.batch(p)) for p in parts]
    predicted = np.concatenate([energy.double().numpy() for energy, _ in found]) * spread
    history["validation_mae"] *= spread
    content = {
        "parameters": {
            "cutoff": settings["cutoff"], "shells": graphs.radii, "neighbours": len(graphs.shell),
            "features": settings["features"], "layers": settings["layers"],
        },
        "reference": {"kind": "formation", "end_members": end_members_of(dataset[0]), "units": "eV/atom"},
        "notes": {
            "settings": dict(settings), "seed": seed, "versions": package_versions("torch", "numpy"),
            "dataset": content_hash([[s.info["structure"], float(s.info["formation_energy"])] for s in dataset]),
        },
    }  # fmt: skip
    n_parameters = sum(p.numel() for p in network.parameters())
    return TrainedGraph(
        network.export(found[0][1], spread), content,
        *_describe(dataset, lattice, energies, predicted, part, n_parameters, history),
    )  # fmt: skip


def _fit(
    network: CrystalGraph, graphs: _Graphs, target: Tensor, rows: list[np.ndarray], settings: Mapping[str, Any],
    rng: np.random.Generator,
) -> tuple[dict[str, Tensor], pd.DataFrame]:  # fmt: skip
    """Return the state of the lowest validation error and one row an epoch."""
    n_batches = max(1, round(len(rows[0]) / settings["batch"]))
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings["learning_rate"], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings["learning_rate"], total_steps=n_batches * settings["epochs"], pct_start=0.1
    )
    best, lowest, since, history = copy.deepcopy(network.state_dict()), np.inf, 0, []
    held_out = graphs.batch(rows[1])
    with bar(settings["epochs"], "crystal graph", "epoch") as shown:
        for _ in range(settings["epochs"]):
            network.train()
            losses = []
            for chosen in np.array_split(rng.permutation(rows[0]), n_batches):
                energy, _ = network.formation(graphs.batch(chosen))
                loss = nn.functional.smooth_l1_loss(energy, target[chosen], beta=0.1)
                if not torch.isfinite(loss):
                    raise TrainingError("crystal graph: training diverged; lower graph.learning_rate")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
            network.eval()
            with torch.no_grad():
                error = float((network.formation(held_out)[0] - target[rows[1]]).abs().mean())
            history.append({"loss": float(np.mean(losses)), "validation_mae": error})
            shown.set_postfix(loss=f"{np.mean(losses):.4f}", validation=f"{error:.4f}", refresh=False)
            shown.update(1)
            since += 1
            if error < lowest:
                best, lowest, since = copy.deepcopy(network.state_dict()), error, 0
            if since >= settings["patience"]:
                break
    return best, pd.DataFrame(history)


def _describe(
    dataset: Sequence[Atoms], lattice: ParentLattice, energies: np.ndarray, predicted: np.ndarray, part: np.ndarray,
    n_parameters: int, history: pd.DataFrame,
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    x = np.array([s.info["x"] for s in dataset], dtype=float)
    test = part == 2
    error, names = predicted - energies, [structure_name(s, lattice) for s in dataset]
    data_hull, model_hull = lower_hull(x, energies), lower_hull(x, predicted)
    distance = above_hull(x, energies, data_hull)
    mae = {f"{name}_mae": float(np.abs(error[part == p]).mean()) for p, name in enumerate(PARTS)}
    # The test part stands in the place of cross-validation: it was never trained on.
    near_test = error[test & (distance < 0.010)]
    metrics = {
        "method": "crystal_graph",
        "n_structures": len(dataset),
        "n_parameters": n_parameters,
        "epochs": len(history),
        "best_epoch": int(history["validation_mae"].argmin()) + 1,
        **error_metrics(x, energies, predicted, energies, np.ones(len(x), dtype=bool)),
        "cv": rms(error[test]),
        "cv_mae": mae["test_mae"],
        "cv_near_hull": rms(near_test) if len(near_test) else None,
        "cv_mae_near_hull": float(np.abs(near_test).mean()) if len(near_test) else None,
        "cv_kind": "held-out test",
        "n_test": int(test.sum()),
        **mae,
        "energy_spread": float(np.std(energies)),
        "units": "eV/atom",
    }
    hull = pd.DataFrame(
        [
            {
                "source": source, "structure": dataset[i].info["structure"], "name": names[i],
                "space_group": space_group(dataset[i])[0], "n_atoms": len(dataset[i]), "x": x[i],
                "formation_energy": float(values[i]),
            }
            for source, indices, values in (("data", data_hull, energies), ("model", model_hull, predicted))
            for i in indices
        ]
    )  # fmt: skip
    nan = np.full(len(dataset), np.nan)
    predictions = pd.DataFrame(
        {
            "structure": [s.info["structure"] for s in dataset], "name": names, "n_atoms": [len(s) for s in dataset],
            "x": x, "e_data": energies, "e_model": predicted, "e_model_stderr": nan,
            "e_cv": np.where(test, predicted, np.nan), "residual": error, "above_hull": distance, "weight": 1.0,
            "part": [PARTS[p] for p in part],
        }
    )  # fmt: skip
    return metrics, hull, predictions, history


PARTS = ("train", "validation", "test")
