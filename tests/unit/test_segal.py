from __future__ import annotations

import numpy as np
import pytest
import torch

from segalflow.energy.polynomial import ising_polynomial, polynomial_from_terms
from segalflow.errors import ArtefactError, SamplingError, TrainingError
from segalflow.lattice import Supercell, parent_lattice
from segalflow.segal.checkpoint import read_sampler, write_sampler
from segalflow.segal.features import ConditionRange, evaluate_past_fields, past_fields, with_colder
from segalflow.segal.gradients import GRADIENTS, autograd_step, likelihood_step
from segalflow.segal.network import PhysicsNetwork, build_network, seen_sites
from segalflow.segal.objectives import LikelihoodObjective
from segalflow.segal.sampler import TrainedSampler, log_prob_from_logits, torch_logits
from segalflow.segal.training import train

SQUARE = parent_lattice("square", 1.0, ["down", "up"])
CELL = Supercell(SQUARE, [3, 4, 1])
TRAINING = {
    "objective": "likelihood",
    "steps": 24,
    "batch": 6,
    "learning_rate": 0.006,
    "conditions": "grid",
    "reverse_share": 0.3,
    "colder": 0,
    "pool_sweeps": 3,
    "sweeps_per_round": 1,
    "refresh_every": 2,
    "adaptive": True,
    "ness_target": None,
    "checkpoint_every": 4,
}
NETWORKS = {
    "physics": {"kind": "physics", "sizes": {"hidden": 8}},
    "windowed": {"kind": "physics", "sizes": {"hidden": 8, "window": 1.5}},
    "by features": {"kind": "physics", "sizes": {"hidden": 8, "window": 1.5, "site_features": 3}},
    "made": {"kind": "made", "sizes": {"layers": 2, "width": 2}},
}
T, MU = np.array([1.5, 2.5, 4.0]), np.array([-0.5, 0.0, 0.5, 1.0])


def many_body_model(n: int = 12):
    """Random monomials of one to five spins: every branch of the kernels."""
    rng = np.random.default_rng(0)
    terms = {}
    for order in (1, 2, 3, 4, 5):
        for _ in range(12):
            terms[tuple(sorted(rng.choice(n, order, replace=False).tolist()))] = float(rng.normal(scale=0.3))
    return polynomial_from_terms(n, 0.7, terms, boltzmann=1.0, energy_unit="J")


def untrained(kind: str, model=None) -> TrainedSampler:
    model = model or many_body_model()
    tables = past_fields(model)
    network = build_network(NETWORKS[kind], CELL, tables.n_classes, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    domain = ConditionRange((1.0, 5.0), (-1.0, 2.0), 1.0)
    return TrainedSampler(
        model, CELL, network, tables, domain, (T, MU), {"network": NETWORKS[kind], "training": {}, "seed": 1}
    )


def all_states(n: int) -> np.ndarray:
    return (2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1).astype(np.int8)


@pytest.mark.parametrize("kind", NETWORKS)
def test_probabilities_of_all_states_sum_to_one(kind) -> None:
    sampler = untrained(kind)
    states = all_states(12)
    for temperature, mu in ((1.3, 0.4), (4.0, -0.9)):
        log_p = sampler.log_prob(states, np.full(len(states), temperature), np.full(len(states), mu))
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_draws_carry_their_own_probability_and_energy(kind) -> None:
    sampler = untrained(kind)
    rng = np.random.default_rng(3)
    t, m = rng.uniform(1, 5, 300), rng.uniform(-1, 2, 300)
    spins, log_p, energy = sampler.sample(t, m, seed=4)
    assert np.allclose(log_p, sampler.log_prob(spins, t, m), atol=1e-6)
    assert np.allclose(energy, sampler.model.energy_of_spins(spins), atol=1e-10)
    again, _, _ = sampler.sample(t, m, seed=4)
    assert np.array_equal(spins, again)
    other, _, _ = sampler.sample(t, m, seed=5)
    assert not np.array_equal(spins, other)


def test_frequencies_are_the_stated_probabilities() -> None:
    sampler = untrained("physics", many_body_model(12))
    n = 40000
    spins, _, _ = sampler.sample(np.full(n, 2.0), np.full(n, 0.3), seed=1)
    states = all_states(12)
    p = np.exp(sampler.log_prob(states, np.full(len(states), 2.0), np.full(len(states), 0.3)))
    observed = np.bincount(((spins > 0) @ (1 << np.arange(12))).astype(int), minlength=len(states))
    common = p * n > 20
    z = (observed[common] - n * p[common]) / np.sqrt(n * p[common] * (1 - p[common]))
    assert np.abs(z).max() < 4.5
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.15


def test_the_fast_kernel_is_the_network() -> None:
    sampler = untrained("physics")
    rng = np.random.default_rng(6)
    t, m = rng.uniform(1, 5, 200), rng.uniform(-1, 2, 200)
    spins, log_p, _ = sampler.sample(t, m, seed=7)
    with torch.no_grad():
        twin = log_prob_from_logits(torch_logits(sampler, spins, t, m), spins)
    assert np.allclose(log_p, twin, atol=1e-4)


def test_the_paper_network_draws_as_its_conditionals_say() -> None:
    sampler = untrained("made")
    t, m = np.full(200, 2.0), np.linspace(-0.5, 1.0, 200)
    uniform = np.random.default_rng(5).random((200, 12)).astype(np.float32)
    condition = torch.from_numpy(sampler.domain.encode(t, m))
    with torch.no_grad():
        drawn, logits = sampler.network.draw(torch.from_numpy(uniform), None, None, None, condition)
        spins = drawn.numpy().astype(np.int8)
        scored = torch_logits(sampler, spins, t, m)
        chance = torch.sigmoid(scored).numpy()
    assert torch.allclose(logits, scored, atol=1e-4)
    clear = np.abs(chance - uniform) > 1e-5
    assert clear.mean() > 0.99
    assert ((spins > 0) == (uniform < chance))[clear].all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_conditional_sees_only_placed_sites(kind) -> None:
    sampler = untrained(kind)
    spins = all_states(12)[:: 4096 // 7]
    t, m = np.full(len(spins), 2.0), np.full(len(spins), 0.1)
    with torch.no_grad():
        before = torch_logits(sampler, spins, t, m).numpy()
        for site in range(12):
            flipped = spins.copy()
            flipped[:, site] *= -1
            after = torch_logits(sampler, flipped, t, m).numpy()
            assert np.array_equal(before[:, : site + 1], after[:, : site + 1])


def test_past_fields_add_up_to_the_energy_and_to_the_local_field() -> None:
    model = many_body_model()
    spins = all_states(12)[::97]
    fields = evaluate_past_fields(past_fields(model), spins)
    assert np.allclose(model.constant + (spins * fields[:, :, 0]).sum(1), model.energy_of_spins(spins), atol=1e-4)
    # The last site has nothing open: its exact field is the full local field.
    assert np.allclose(fields[:, -1, 0], model.local_fields(spins)[:, -1], atol=1e-4)


@pytest.mark.parametrize("objective", ["likelihood", "reverse_kl", "mixed"])
def test_interrupted_training_resumes_to_the_same_bytes(objective, tmp_path, monkeypatch) -> None:
    model = ising_polynomial(CELL)
    settings = {**TRAINING, "objective": objective}

    def run(work):
        return train(model, CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=9, work=work)

    whole = run(tmp_path / "whole")
    from segalflow.segal import optimisation as module

    original = module.TrainingRun.descend

    def breaking(self, *shown):
        if self.step == 17:
            raise KeyboardInterrupt
        original(self, *shown)

    monkeypatch.setattr(module.TrainingRun, "descend", breaking)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(module.TrainingRun, "descend", original)
    assert list((tmp_path / "cut").glob("checkpoint-*.safetensors"))
    resumed = run(tmp_path / "cut")
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.history.equals(resumed.history)
    assert not list((tmp_path / "cut").glob("checkpoint-*"))


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path, monkeypatch) -> None:
    from segalflow.segal import optimisation as module

    original = module.TrainingRun.descend
    monkeypatch.setattr(
        module.TrainingRun, "descend", lambda s, x, *c: original(s, float("nan") if s.step == 15 else x, *c)
    )
    with pytest.raises(TrainingError, match=r"training diverged: the loss is nan at step 15.*checkpoint-.*safetensors"):
        train(
            ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=TRAINING, seed=9, work=tmp_path
        )


def test_samplers_survive_their_files_and_refuse_strangers(tmp_path) -> None:
    model = ising_polynomial(CELL)
    sampler = train(model, CELL, T, MU, network=NETWORKS["physics"], training=TRAINING, seed=9)
    paths = [tmp_path / n for n in ("model.json", "weights.safetensors", "history.parquet")]
    write_sampler(sampler, *paths)
    first = [p.read_bytes() for p in paths]
    write_sampler(sampler, *paths)
    assert [p.read_bytes() for p in paths] == first
    again = read_sampler(paths[0], paths[1], model, CELL)
    t, m = np.full(50, 2.0), np.full(50, 0.2)
    assert np.array_equal(sampler.sample(t, m, 1)[0], again.sample(t, m, 1)[0])
    with pytest.raises(TrainingError, match="another Hamiltonian on this cell"):
        read_sampler(paths[0], paths[1], ising_polynomial(CELL, coupling=1.1), CELL)
    paths[1].write_bytes(first[1][:100])
    with pytest.raises(ArtefactError, match=r"weights\.safetensors"):
        read_sampler(paths[0], paths[1], model, CELL)


def test_colder_temperatures_are_trained_on_as_well() -> None:
    assert with_colder(np.array([200.0, 250.0, 300.0]), 2).tolist() == [150.0, 175.0, 200.0, 250.0, 300.0]
    assert with_colder(np.array([1.0, 9.0]), 3).tolist() == [0.625, 0.75, 0.875, 1.0, 9.0]
    assert with_colder(T, 0).tolist() == T.tolist()
    settings = {**TRAINING, "steps": 2, "colder": 1}
    sampler = train(many_body_model(), CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=1)
    assert sampler.domain.temperature == (1.125, 4.0)
    sampler.sample(np.array([1.2]), np.array([0.0]), 1)


def test_conditions_outside_the_domain_are_refused_unless_asked_for() -> None:
    sampler = untrained("physics")
    with pytest.raises(SamplingError, match="outside the trained domain"):
        sampler.sample(np.array([0.5]), np.array([0.0]), seed=1)
    assert sampler.sample(np.array([0.5]), np.array([0.0]), seed=1, extrapolate=True)[0].shape == (1, 12)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"kind": "phisics"}, "did you mean 'physics'"),
        ({"kind": "physics", "sizes": {"hiden": 3}}, "segal.network.sizes"),
    ],
)
def test_bad_networks_are_refused(network, words) -> None:
    with pytest.raises(TrainingError, match=words):
        build_network(network, CELL, 2, 1)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(TrainingError, match="did you mean 'likelihood'"):
        train(
            ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"],
            training={**TRAINING, "objective": "likelyhood"}, seed=1,
        )  # fmt: skip


def test_reverse_kl_takes_its_conditions_where_it_is_told(monkeypatch) -> None:
    from segalflow.segal import objectives

    seen: dict[str, list[np.ndarray]] = {}
    for name, choose in objectives.CONDITIONS.items():
        seen[name] = []

        def noting(run, n, choose=choose, name=name):
            found = choose(run, n)
            seen[name].append(np.stack(found))
            return found

        monkeypatch.setitem(objectives.CONDITIONS, name, noting)
        settings = {**TRAINING, "objective": "reverse_kl", "conditions": name, "batch": 64, "steps": 20}
        train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=1)
    on_grid = {name: [np.isin(t, T).all() and np.isin(m, MU).all() for t, m in found] for name, found in seen.items()}
    assert all(on_grid["grid"])
    assert all(on_grid["annealed"])
    assert not any(on_grid["random"])
    assert all((t >= 1.5).all() and (t <= 4.0).all() for t, _ in seen["random"])
    assert (seen["annealed"][0][0] == 4.0).all()
    assert 1.5 in np.concatenate([t for t, _ in seen["annealed"][-6:]])
    settings = {**TRAINING, "objective": "reverse_kl", "conditions": "ordered"}
    with pytest.raises(
        TrainingError, match=r"segal\.training\.conditions: unknown choice 'ordered', expected one of grid"
    ):
        train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=1)


def test_flipped_decorations_stand_for_the_opposite_chemical_potential(monkeypatch) -> None:
    seen = []

    def watched(objective) -> None:
        new_round(objective)
        seen.append((objective.mirror, objective.spins.copy(), objective.fields.copy(), objective.chains.spins.copy()))

    new_round = LikelihoodObjective._new_round
    monkeypatch.setattr(LikelihoodObjective, "_new_round", watched)
    mu = np.array([-60.0, 0.0, 60.0, 90.0])
    train(ising_polynomial(CELL), CELL, T[:2], mu, network=NETWORKS["physics"], training=TRAINING, seed=1)
    mirror, spins, fields, chains = zip(*seen, strict=True)
    assert mirror[0].tolist() == [2, 1, 0, -1, 6, 5, 4, -1]
    # Where the field decides, a decoration that came from the other side has been flipped.
    assert all((np.sign(s.mean(1))[[0, 2, 3, 4, 6, 7]] == [-1, 1, 1, -1, 1, 1]).all() for s in spins)
    model = ising_polynomial(CELL)
    assert all(np.allclose(model.local_fields(s), f, atol=1e-6) for s, f in zip(spins, fields, strict=True))
    at_zero = [s[1].sum() * c[1].sum() for s, c in zip(spins, chains, strict=True)]
    assert min(at_zero) < 0 < max(at_zero)
    train(many_body_model(), CELL, T[:2], mu, network=NETWORKS["physics"], training=TRAINING, seed=1)
    assert seen[-1][0] is None


def test_turns_of_both_objectives_have_their_share() -> None:
    settings = {**TRAINING, "objective": "mixed", "reverse_share": 0.25}
    sampler = train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=1)
    assert sampler.history["reverse_loss"].notna().sum() == TRAINING["steps"] // 4
    assert (sampler.history["loss"].notna() ^ sampler.history["reverse_loss"].notna()).all()


@pytest.mark.parametrize(
    ("batch", "kind", "sites"),
    [
        (1, "physics", (0, 1)),
        (64, "physics", (0, 1)),
        (100, "windowed", (0, 1)),
        (70, "windowed", (1, 5)),
        (70, "by features", (1, 2)),
    ],
)
def test_fused_gradients_equal_autograd(batch, kind, sites) -> None:
    sampler = untrained(kind)
    rng = np.random.default_rng(batch)
    with torch.no_grad():
        for parameter in sampler.network.parameters():
            parameter.add_(torch.from_numpy(0.1 * rng.standard_normal(parameter.shape).astype(np.float32)))
    spins = (2 * rng.integers(0, 2, (batch, 12)) - 1).astype(np.int8)
    fields = evaluate_past_fields(sampler.fields, spins)
    labels = rng.random((batch, 12)).astype(np.float32)
    temperature, mu = rng.uniform(1.5, 4.0, batch), rng.uniform(-0.5, 1.0, batch)
    condition = torch.from_numpy(sampler.domain.encode(temperature, mu))
    found = []
    for step in (autograd_step, likelihood_step):
        loss = step(sampler.network, spins, fields, labels, 1 / temperature, mu, condition, sites=sites)
        found.append((loss, {n: p.grad.clone() for n, p in sampler.network.named_parameters()}))
    (loss, exact), (fused_loss, fused) = found
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in exact.items():
        assert torch.allclose(fused[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-9), name


def test_groups_of_sites_add_up_to_the_whole_gradient() -> None:
    sampler, rng = untrained("windowed"), np.random.default_rng(4)
    spins = (2 * rng.integers(0, 2, (40, 12)) - 1).astype(np.int8)
    inputs = spins, evaluate_past_fields(sampler.fields, spins), rng.random((40, 12)).astype(np.float32)
    temperature, mu = rng.uniform(1.5, 4.0, 40), rng.uniform(-0.5, 1.0, 40)
    condition = torch.from_numpy(sampler.domain.encode(temperature, mu))
    found = []
    for step, groups in ((likelihood_step, 1), (likelihood_step, 5), (autograd_step, 3)):
        total, loss = 0.0, 0.0
        for group in range(groups):
            loss += step(sampler.network, *inputs, 1 / temperature, mu, condition, sites=(group, groups))
            total = total + torch.cat([p.grad.flatten() for p in sampler.network.parameters()])
        found.append((loss, total))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        assert torch.allclose(gradient, found[0][1], rtol=1e-3, atol=1e-6 * float(gradient.abs().max()))


def test_training_by_groups_of_sites_learns() -> None:
    settings = {**TRAINING, "steps": 48, "site_groups": 3}
    sampler = train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=settings, seed=1)
    assert sampler.history["ness"].dropna().iloc[-1] > 0.5


def test_training_stops_at_a_gradient_that_is_not_finite(monkeypatch) -> None:
    def broken(network, *_, **__):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, float("nan"))
        return 1.0

    monkeypatch.setitem(GRADIENTS, PhysicsNetwork, broken)
    with pytest.raises(TrainingError, match="the gradient is nan at step 0"):
        train(ising_polynomial(CELL), CELL, T, MU, network=NETWORKS["physics"], training=TRAINING, seed=1)


def test_a_window_sees_only_near_sites() -> None:
    cell = Supercell(SQUARE, [6, 6, 1])
    starts, seen = seen_sites(cell, 1.5)
    near = seen[starts[20] : starts[21]]
    apart = np.abs(cell.positions[near] - cell.positions[20])[:, :2]
    apart = np.minimum(apart, 6 - apart)
    assert len(near) == 4
    assert np.linalg.norm(apart, axis=1).max() < 1.5
    everything, _ = seen_sites(cell, None)
    assert np.array_equal(np.diff(everything), np.arange(36))
