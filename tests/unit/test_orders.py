"""Site orders: the same distribution whatever the order, decorations always in the cell's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_segal import CELL, MU, TRAINING, T, all_states, many_body_model

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import TrainingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.segal import optimisation
from segalflow.segal.checkpoint import read_sampler, write_sampler
from segalflow.segal.derivatives import log_prob_slopes
from segalflow.segal.features import evaluate_past_fields, past_fields
from segalflow.segal.orders import ORDERS, placement
from segalflow.segal.sampler import log_prob_from_logits, torch_logits
from segalflow.segal.training import train


def order_of(name: str, cell=CELL) -> np.ndarray:
    found = placement({"order": name}, cell, 3)
    return np.arange(cell.n_sites) if found is None else found


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_places_every_site_once(name) -> None:
    assert sorted(order_of(name)) == list(range(12))
    assert np.array_equal(order_of(name), order_of(name))


def test_orders_are_what_they_say() -> None:
    cell = Supercell(parent_lattice("square", 1.0, ["down", "up"]), [4, 4, 1])
    apart = np.abs(cell.positions - cell.positions[0])[:, :2]
    distance = np.linalg.norm(np.minimum(apart, 4 - apart), axis=1)
    assert np.all(np.diff(distance[order_of("growing", cell)]) > -1e-9)
    # The farthest site first, and half of the sites before any two of them are nearest neighbours.
    order = order_of("coarse_to_fine", cell)
    assert distance[order[1]] == distance.max()
    half = cell.sites[order[:8], 1:3].sum(axis=1) % 2
    assert len(set(half.tolist())) == 1
    with pytest.raises(TrainingError, match=r"segal\.network\.order: unknown order 'rastr', expected .*'raster'"):
        placement({"order": "rastr"}, cell, 1)


def test_fields_in_an_order_are_those_of_what_was_placed_before() -> None:
    model, order = many_body_model(), order_of("random")
    tables = past_fields(model, order)
    spins = all_states(12)[::131]
    fields = evaluate_past_fields(tables, np.take(spins, order, axis=1))
    placed = np.take(spins, order, axis=1)
    assert np.allclose(model.constant + (placed * fields[:, :, 0]).sum(1), model.energy_of_spins(spins), atol=1e-4)
    assert np.allclose(fields[:, -1, 0], model.local_fields(spins)[:, order[-1]], atol=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("physics", "coarse_to_fine"), ("physics", "random"), ("made", "growing")])
def test_a_network_of_any_order_is_trained_and_read_back(kind, name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(optimisation, "NESS_DRAWS", 16)
    sizes = {"hidden": 8, "window": 1.5} if kind == "physics" else {"layers": 1, "width": 1}
    network = {"kind": kind, "sizes": sizes, "order": name}
    model = ising_polynomial(CELL)
    training = {
        **TRAINING,
        "objective": "mixed" if kind == "made" else "likelihood",
        "steps": 20 if kind == "made" else 200,
    }
    sampler = train(model, CELL, T, MU, network=network, training=training, seed=3)
    states = all_states(12)
    t, m = np.full(len(states), 2.0), np.full(len(states), 0.2)
    log_p = sampler.log_prob(states, t, m)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-6)
    spins, own, energy = sampler.sample(t[:300], m[:300], seed=4)
    assert np.allclose(own, sampler.log_prob(spins, t[:300], m[:300]), atol=1e-6)
    assert np.allclose(energy, model.energy_of_spins(spins), atol=1e-9)
    with torch.no_grad():
        placed = sampler.placed(spins)
        twin = log_prob_from_logits(torch_logits(sampler, placed, t[:300], m[:300]), placed)
    assert np.allclose(own, twin, atol=1e-4)
    step = 1e-2
    slope = (sampler.log_prob(spins, t[:300] + step, m[:300]) - sampler.log_prob(spins, t[:300] - step, m[:300])) / step
    assert np.allclose(log_prob_slopes(sampler, spins, t[:300], m[:300])[0], slope / 2, atol=0.02)
    if kind == "physics":
        # It has learnt the right distribution, and not that of sites under other numbers.
        reduced = sampler.reduced_energy(states, model.energy_of_spins(states), t, m)
        exact = -reduced - np.logaddexp.reduce(-reduced)
        scrambled = sampler.log_prob(np.roll(sampler.placed(states), 5, axis=1), t, m)
        assert np.exp(exact) @ (exact - log_p) < 0.08 < 0.16 < np.exp(exact) @ (exact - scrambled)
    paths = [tmp_path / n for n in ("model.json", "weights.safetensors", "history.parquet")]
    write_sampler(sampler, *paths)
    assert np.array_equal(read_sampler(*paths[:2], model, CELL).log_prob(states[:50], t[:50], m[:50]), log_p[:50])


def test_transfer_needs_the_raster_order() -> None:
    model = ising_polynomial(CELL)
    network = {"kind": "physics", "sizes": {"hidden": 4, "window": 1.5}}
    training = {**TRAINING, "steps": 1}
    other = train(model, CELL, T, MU, network={**network, "order": "growing"}, training=training, seed=1)
    with pytest.raises(TrainingError, match=r"segal\.start_from: expected segal\.network\.order 'raster' for both"):
        train(model, CELL, T, MU, network=network, training=training, seed=1, start=other)
