"""A network of a small cell on a larger one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segalflow.energy.polynomial import ising_polynomial
from segalflow.errors import SettingsError, TrainingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.segal.network import build_network
from segalflow.segal.training import train
from segalflow.segal.transfer import transfer_weights

LATTICE = parent_lattice("square", 1.0, ["down", "up"])
SMALL, LARGE = Supercell(LATTICE, [6, 6, 1]), Supercell(LATTICE, [9, 8, 1])
NETWORK = {"kind": "physics", "sizes": {"window": 2.1, "hidden": 4}}
TRAINING = {
    "objective": "likelihood", "steps": 150, "batch": 16, "learning_rate": 0.006, "colder": 0, "pool_sweeps": 20,
    "sweeps_per_round": 1, "refresh_every": 5, "adaptive": True, "ness_target": None, "checkpoint_every": 10**9,
}  # fmt: skip
T, H = np.array([2.0, 3.0]), np.array([-0.3, 0.0, 0.3])


def _random_network(cell: Supercell, settings=NETWORK, seed: int = 0):
    network = build_network(settings, cell, 3, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def _weight_of(network, cell: Supercell, site: int, vector: tuple[int, int]) -> np.ndarray | None:
    """The weight with which a site sees the spin displaced by `vector`, or None where it is not placed yet."""
    other = int(cell.site_index(0, cell.sites[site, 1:] + np.array([*vector, 0])))
    starts, seen = network.starts.numpy(), network.seen.numpy()
    found = starts[site] + np.flatnonzero(seen[starts[site] : starts[site + 1]] == other)
    return network.w1[network.displacement[found[0]]].detach().numpy() if len(found) else None


def test_the_same_cell_gets_the_same_network() -> None:
    source, target = _random_network(SMALL), _random_network(SMALL, seed=1)
    transfer_weights(source, SMALL, target, SMALL)
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


def test_neighbours_keep_their_weights_and_sites_their_kind() -> None:
    source, target = _random_network(SMALL), _random_network(LARGE, seed=1)
    transfer_weights(source, SMALL, target, LARGE)
    # Corners, edges and the middle of the large cell, and the sites of the small cell that stand for them.
    alike = {(0, 0): [(0, 0)], (8, 7): [(5, 5)], (1, 6): [(1, 4)], (4, 3): [(i, j) for i in (2, 3) for j in (2, 3)]}
    for (i, j), likes in alike.items():
        site = LARGE.sites.tolist().index([0, i, j, 0])
        sites = [SMALL.sites.tolist().index([0, *like, 0]) for like in likes]
        for name in ("b1", "u_site", "site_bias.weight", "bias"):
            expected = source.state_dict()[name][sites].mean(dim=0)
            assert torch.allclose(target.state_dict()[name][site], expected), name
        for vector in ((-1, 0), (0, -1), (-1, 1), (0, 2), (1, 1), (-2, 0)):
            here, there = _weight_of(target, LARGE, site, vector), _weight_of(source, SMALL, sites[0], vector)
            assert (here is None) == (there is None), vector
            if here is not None:
                assert np.array_equal(here, there), vector


def test_features_of_the_larger_cell_fit_the_values_of_the_smaller() -> None:
    by_features = {"kind": "physics", "sizes": {**NETWORK["sizes"], "site_features": 100}}
    source = _random_network(SMALL)
    free, fitted = _random_network(LARGE, seed=1), _random_network(LARGE, by_features, seed=1)
    for target in (free, fitted):
        transfer_weights(source, SMALL, target, LARGE)
    for name in ("b1", "c_site", "bias"):
        wanted, near = (network.by_site()[name].detach().reshape(72, -1) for network in (free, fitted))
        # What is left of a least-squares fit has nothing in common with the features.
        assert (fitted.features.T @ (near - wanted)).abs().max() < 1e-3
        assert (near - wanted).norm() < 0.8 * wanted.norm()
    again = _random_network(LARGE, by_features, seed=2)
    transfer_weights(fitted, LARGE, again, LARGE)
    assert torch.allclose(again.by_site()["b1"], fitted.by_site()["b1"], atol=1e-3)


def test_a_transferred_network_serves_and_is_tuned() -> None:
    small = train(ising_polynomial(SMALL), SMALL, T, H, network=NETWORK, training=TRAINING, seed=1)
    model = ising_polynomial(LARGE)
    common = {"network": NETWORK, "seed": 2}
    served = train(model, LARGE, T, H, training={**TRAINING, "steps": 0}, start=small, **common)
    tuned = train(model, LARGE, T, H, training={**TRAINING, "steps": 30}, start=small, **common)
    fresh = train(model, LARGE, T, H, training={**TRAINING, "steps": 30}, **common)
    assert len(served.history) == 1
    assert served.settings["start"] == tuned.settings["start"] != fresh.settings.get("start")
    # Exact probabilities as of any network: log w averages to the same log Z from either.
    estimates = []
    for sampler in (served, tuned):
        spins, log_p, energy = sampler.sample(np.full(4000, 3.0), np.full(4000, 0.3), 5)
        assert np.allclose(sampler.log_prob(spins, np.full(4000, 3.0), np.full(4000, 0.3)), log_p, atol=1e-4)
        w = np.exp(-(energy - 0.3 * (spins > 0).sum(1)) / 3.0 - log_p - 72 * np.log(2))
        estimates.append((w.mean(), w.std() / np.sqrt(len(w)), w.mean() ** 2 / (w**2).mean()))
    (a, a_error, ness), (b, b_error, _) = estimates
    assert abs(a - b) < 4 * np.hypot(a_error, b_error)
    assert ness > 0.2
    # On the same decorations: the networks' own draws are proposed to the pool later only.
    assert (tuned.history["loss"].head(4) < fresh.history["loss"].head(4) - 1).all()


@pytest.mark.parametrize(
    ("source", "settings", "cell", "message"),
    [
        (Supercell(LATTICE, [4, 4, 1]), NETWORK, LARGE, "expected at least 5, so that some site is clear of both ends"),
        (SMALL, {"kind": "physics", "sizes": {"hidden": 4}}, LARGE, "set segal.network.sizes.window"),
        (LARGE, NETWORK, SMALL, "expected a source no larger than the cell"),
        (SMALL, {"kind": "made", "sizes": {}}, LARGE, "expected networks of kind 'physics', found 'made'"),
        (Supercell(LATTICE, [[6, 1, 0], [0, 6, 0], [0, 0, 1]]), NETWORK, LARGE, "along its vectors"),
    ],
)
def test_cells_that_do_not_fit_are_refused(source, settings, cell, message) -> None:
    with pytest.raises(TrainingError, match=message):
        transfer_weights(build_network(settings, source, 3, 0), source, build_network(settings, cell, 3, 0), cell)


def test_other_sizes_are_refused() -> None:
    other = build_network({"kind": "physics", "sizes": {"window": 2.1, "hidden": 5}}, SMALL, 3, 0)
    with pytest.raises(TrainingError, match="5 hidden units"):
        transfer_weights(other, SMALL, _random_network(LARGE), LARGE)


def test_a_grid_outside_the_domain_is_refused() -> None:
    small = train(ising_polynomial(SMALL), SMALL, T, H, network=NETWORK, training={**TRAINING, "steps": 2}, seed=1)
    with pytest.raises(TrainingError, match="not inside the domain of the other cell"):
        train(
            ising_polynomial(LARGE), LARGE, np.array([1.0, 2.0]), H, network=NETWORK, training=TRAINING, seed=1,
            start=small,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ({"big": "smal"}, "cells.big.segal.start_from: 'smal' is not defined.*did you mean 'small'"),
        ({"big": "small", "small": "big"}, "starts from itself"),
    ],
)
def test_a_chain_of_cells_is_checked(repository, starts, message) -> None:
    import yaml

    from segalflow.study import prepare_study

    config = yaml.safe_load((repository / "config" / "test" / "tiny.yaml").read_text())
    config["cells"]["big"] = {"repeat": [4, 4, 4], "expansion": "main", "methods": ["snis"]}
    for name, start in starts.items():
        config["cells"][name]["segal"] = {"start_from": start}
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    with pytest.raises(SettingsError, match=message):
        prepare_study(config, schema)
