"""Devices, memory and bad input of training and sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_segal import CELL, MU, NETWORKS, TRAINING, T, many_body_model, untrained

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import SamplingError, TrainingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.importance import sample_importance
from segalflow.segal import optimisation
from segalflow.segal.checkpoint import read_sampler, write_sampler
from segalflow.segal.features import ConditionRange, evaluate_past_fields, past_fields
from segalflow.segal.gradients import autograd_step
from segalflow.segal.network import build_network
from segalflow.segal.resources import choose_device, in_parts
from segalflow.segal.sampler import TrainedSampler, _run_torch, seed_states, torch_logits
from segalflow.segal.torch_fields import TorchFields
from segalflow.segal.training import train


def test_an_unavailable_device_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(
        TrainingError, match=r"^segal\.device: 'cuda' was asked for, but PyTorch finds no such GPU here"
    ):
        choose_device("cuda")
    with pytest.raises(TrainingError, match=r"^segal\.device: expected one of cpu, cuda, auto, found 'cud'.*'cuda'"):
        train(many_body_model(), CELL, T, MU, network=NETWORKS["made"], training=TRAINING, seed=1, device="cud")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_draw_and_score_on_a_device_that_is_not_the_cpu(kind) -> None:
    # Tensors on "meta" have shapes and no values; any that was left on the CPU would be refused beside them.
    sampler = untrained(kind)
    sampler.network.to("meta")
    spins, t, m = np.ones((5, 12), dtype=np.int8), np.full(5, 2.0), np.full(5, 0.1)
    logits = torch_logits(sampler, spins, t, m)
    assert (logits.device.type, logits.shape) == ("meta", (5, 12))
    conditions = (torch.empty(5, device="meta"), torch.empty(5, device="meta"), torch.empty(5, 4, device="meta"))
    for found in sampler.network.draw(torch.empty(5, 12, device="meta"), sampler.torch_fields.at, *conditions):
        assert (found.device.type, found.shape) == ("meta", (5, 12))


@pytest.mark.cuda
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_gpu_draws_as_the_cpu_says(kind) -> None:
    t, m = np.repeat(np.linspace(1.5, 4.5, 30), 10), np.full(300, 0.2)
    local, other = untrained(kind), untrained(kind)
    other.network.to("cuda")
    for n in (300, 40):  # a recording of one length serves shorter batches
        spins, log_p, energy = other.sample(t[:n], m[:n], seed=3)
        assert np.allclose(log_p, local.log_prob(spins, t[:n], m[:n]), atol=1e-4)
        assert np.allclose(energy, local.model.energy_of_spins(spins), rtol=0, atol=1e-9)
        with torch.no_grad():
            chance = torch.sigmoid(torch_logits(local, spins, t[:n], m[:n])).numpy()
        uniform = np.random.default_rng(seed_states(3, n)).random(spins.shape)
        clear = np.abs(chance - uniform) > 1e-4
        assert ((spins > 0) == (uniform < chance))[clear].all()
    # The recording reads the weights as they are now.
    with torch.no_grad():
        for weights in other.network.parameters():
            weights.mul_(1.2)
    spins, log_p, _ = other.sample(t, m, seed=3)
    assert np.allclose(log_p, other.log_prob(spins, t, m), atol=1e-4)


def test_the_torch_path_of_the_physics_network_is_its_kernel() -> None:
    sampler = untrained("windowed")
    rng = np.random.default_rng(6)
    spins = (2 * rng.integers(0, 2, (40, 12)) - 1).astype(np.int8)
    expected = evaluate_past_fields(sampler.fields, spins)
    with torch.no_grad():
        found = TorchFields(sampler.fields)(torch.from_numpy(spins.astype(np.float32))).numpy()
    assert np.allclose(found, expected, atol=1e-5)
    t, m = rng.uniform(1, 5, 40), rng.uniform(-1, 2, 40)
    log_p, energy = _run_torch(sampler)(True, spins, t, m, np.arange(40, dtype=np.uint64))
    assert len(np.unique(spins, axis=0)) > 30
    assert np.allclose(log_p, sampler.log_prob(spins, t, m), atol=1e-4)
    assert np.allclose(energy, sampler.model.energy_of_spins(spins), rtol=0, atol=1e-9)
    # Drawn as the conditionals say: the same uniform numbers against their probabilities.
    uniform = np.random.default_rng(np.arange(40, dtype=np.uint64)).random(spins.shape)
    with torch.no_grad():
        chance = torch.sigmoid(torch_logits(sampler, spins, t, m)).numpy()
    clear = np.abs(chance - uniform) > 1e-5
    assert ((spins > 0) == (uniform < chance))[clear].all()


def test_parts_hold_the_memory_bound_and_shrink_where_memory_runs_out() -> None:
    sizes: list[int] = []

    def work(part: slice) -> None:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert in_parts(work, 10, bytes_each=100_000, memory_mb=0.7) == 5
    assert sizes == [7, 4, 2, 2, 2, 2, 2]
    again: list[str] = []
    sizes.clear()
    in_parts(work, 4, 1, 1.0, restart=lambda: again.append("from the start"))
    assert (sizes, len(again)) == ([4, 2, 2], 1)

    def never(part: slice) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")

    with pytest.raises(SamplingError, match=r"memory: one decoration needs about 0\.1 MB and does not fit"):
        in_parts(never, 10, 100_000, 1.0)


def test_a_small_memory_bound_splits_draws_and_gradients_and_changes_nothing() -> None:
    sampler = untrained("made")
    t, m = np.full(50, 2.0), np.linspace(-0.5, 1.0, 50)
    small = replace(sampler, memory_mb=7e-6 * sampler.network.bytes_per_decoration)
    for one, other in zip(sampler.sample(t, m, 3), small.sample(t, m, 3), strict=True):
        assert np.allclose(one, other, atol=1e-5)
    spins, labels = sampler.sample(t, m, 3)[0], np.random.default_rng(0).random((50, 12)).astype(np.float32)
    condition = torch.from_numpy(sampler.domain.encode(t, m))
    found = []
    for bound in (1000.0, small.memory_mb):
        fields = np.empty((50, 12, 0), np.float32)
        loss = autograd_step(sampler.network, spins, fields, labels, 1 / t, m, condition, bound)
        found.append([torch.tensor(loss), *(p.grad.clone() for p in sampler.network.parameters())])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*found, strict=True))


def test_a_loss_that_stays_worse_than_guesses_is_divergence(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(optimisation, "DIVERGED", 8)
    settings = {**TRAINING, "steps": 40, "learning_rate": 30.0, "checkpoint_every": 1}
    words = (
        r"training diverged: the loss is .* above 16\.6 for 8 steps.*; lower segal\.training\.learning_rate.*checkpoint"
    )
    with pytest.raises(TrainingError, match=words):
        train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["made"], training=settings, seed=1, work=tmp_path)


def test_training_stops_at_its_ness_target() -> None:
    settings = {**TRAINING, "steps": 80, "ness_target": 0.05}
    sampler = train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=1)
    assert len(sampler.history) < 80
    assert sampler.history["ness"].iloc[-1] >= 0.05


def test_conditions_outside_the_domain_are_refused_or_marked() -> None:
    model = ising_polynomial(CELL)
    network = build_network(NETWORKS["physics"], CELL, past_fields(model).n_classes, 1)
    domain = ConditionRange((2.0, 4.0), (-0.5, 0.5), 1.0)
    sampler = TrainedSampler(model, CELL, network, past_fields(model), domain, (T, MU))
    options = {"seed": 1, "samples_per_condition": 8, "pool_sweeps": 0, "repair": "none", "symmetrise_below": 0.0}
    grid = (("down", "up"), np.array([1.5, 2.5]), np.array([0.0, 0.7]))
    with pytest.raises(
        SamplingError, match=r"T = 1\.5, delta_mu = 0 is outside the trained domain.*segal\.extrapolate"
    ):
        sample_importance(sampler, *grid, **options)
    table = sample_importance(replace(sampler, extrapolate=True), *grid, **options)
    assert table["extrapolated"].values.tolist() == [[1, 1], [0, 1]]
    assert "extrapolated" not in sample_importance(sampler, grid[0], T[1:2], MU[1:2], **options)


def test_a_network_of_another_cell_or_lattice_is_refused(tmp_path) -> None:
    model = ising_polynomial(CELL)
    network = build_network(NETWORKS["made"], CELL, past_fields(model).n_classes, 1)
    domain = ConditionRange((2.0, 4.0), (-0.5, 0.5), 1.0)
    told = {"network": NETWORKS["made"], "training": {}, "seed": 1}
    sampler = TrainedSampler(model, CELL, network, past_fields(model), domain, (T, MU), told, memory_mb=7.0)
    sampler.history["ness"] = []
    paths = [tmp_path / n for n in ("model.json", "weights.safetensors", "history.parquet")]
    write_sampler(sampler, *paths)
    assert read_sampler(*paths[:2], model, CELL).memory_mb == 7.0
    turned = Supercell(CELL.lattice, [4, 3, 1])
    with pytest.raises(
        TrainingError, match=r"another cell, down-up on 'square' with matrix \[\[3.*expected .*\[\[4, 0"
    ):
        read_sampler(*paths[:2], ising_polynomial(turned), turned)
    alloy = Supercell(parent_lattice("square", 2.0, ["Cu", "Au"]), [3, 4, 1])
    with pytest.raises(TrainingError, match=r"another cell, down-up .*expected Cu-Au on 'square'"):
        read_sampler(*paths[:2], model, alloy)
