"""Chain runs: resumed to the same bytes, extended, refused for another model, stopped at a precision."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.lockstep import LockstepChains, exchange_grid
from segalflow.energy.polynomial import polynomial_from_terms
from segalflow.errors import ArtefactError, SamplingError
from segalflow.sampling.chains import ChainRun
from segalflow.sampling.metropolis import sample_metropolis

SHAPE = (3, 5)


def model(coupling: float = -0.02):
    return polynomial_from_terms(8, 0.0, {tuple(sorted((k, (k + 1) % 8))): coupling for k in range(8)})


def chain_run(work, coupling: float = -0.02, seed: int = 4) -> ChainRun:
    t, m = np.meshgrid(np.linspace(300, 900, 3), np.linspace(-0.1, 0.1, 5), indexing="ij")
    chains = LockstepChains(model(coupling), t.ravel(), m.ravel(), seed)
    rng = np.random.default_rng(seed)

    def exchange(number: int) -> None:
        exchange_grid(chains, SHAPE, number % 2, (number // 2) % 2, rng)

    return ChainRun(
        chains,
        chains.sweep,
        exchange,
        rng,
        equilibration=10,
        measure_every=3,
        exchange_every=4,
        work=work,
        inputs=["test"],
    )


def assert_same(a: ChainRun, b: ChainRun) -> None:
    assert np.array_equal(a.energy(), b.energy())
    assert np.array_equal(a.n_plus(), b.n_plus())
    assert np.array_equal(a.acceptance(), b.acceptance())
    assert np.array_equal(a.chains.spins, b.chains.spins)


def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, monkeypatch) -> None:
    whole = chain_run(None)
    whole.run(40)
    monkeypatch.setattr("segalflow.sampling.state_file.SAVE_SECONDS", 0.0)
    broken = chain_run(tmp_path)
    move, calls = broken.move, []

    def fail_late(n: int) -> np.ndarray:
        calls.append(n)
        if len(calls) > 33:
            raise KeyboardInterrupt
        return move(n)

    broken.move = fail_late
    with pytest.raises(KeyboardInterrupt):
        broken.run(40)
    resumed = chain_run(tmp_path)
    resumed.run(40)
    assert resumed.path.exists()
    assert_same(resumed, whole)


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path) -> None:
    chain_run(tmp_path).run(12)
    longer, whole = chain_run(tmp_path), chain_run(None)
    moves = []
    longer.move = lambda n, move=longer.move: moves.append(n) or move(n)
    longer.run(30)
    whole.run(30)
    assert sum(moves) == 18 * 3
    assert_same(longer, whole)
    before = longer.path.read_bytes()
    shorter = chain_run(tmp_path)
    shorter.run(12)  # not from the longer state, and without touching it
    assert shorter.n_measured == 12
    assert longer.path.read_bytes() == before


def test_a_state_of_another_model_is_refused(tmp_path) -> None:
    run = chain_run(tmp_path)
    run.run(5)
    with pytest.raises(SamplingError, match="belongs to another model"):
        chain_run(tmp_path, coupling=-0.03).restore(run.path)
    run.path.write_bytes(run.path.read_bytes()[:-40])
    with pytest.raises(ArtefactError, match="damaged state file"):
        chain_run(tmp_path).run(5)


def test_chains_run_until_the_error_is_small(tmp_path) -> None:
    grid = {"temperature": np.array([600.0, 900.0]), "delta_mu": np.array([-0.05, 0.0, 0.05])}
    settings = {"seed": 2, "sweeps": 400, "equilibration": 50, "n_ladder": 2, "n_blocks": 5}
    rough = sample_metropolis(model(), ("A", "B"), **grid, **settings)
    target = float(rough["composition_stderr"].max()) / 2.5
    fine = sample_metropolis(model(), ("A", "B"), **grid, **settings, target_error=target, work=tmp_path)
    assert float(fine["composition_stderr"].max()) <= target
    assert float(fine["n_samples"].max()) >= 4 * float(rough["n_samples"].max())
    capped = sample_metropolis(model(), ("A", "B"), **grid, **settings, target_error=1e-9, max_sweeps=900)
    assert float(capped["n_samples"].max()) == 2 * float(rough["n_samples"].max())


def test_kept_decorations_do_not_depend_on_interruptions(tmp_path) -> None:
    def run(work):
        t, m = np.repeat([300.0, 600.0, 900.0], 5), np.tile(np.linspace(-0.1, 0.1, 5), 3)
        chains = LockstepChains(model(), t, m, 4)
        settings = {"equilibration": 10, "measure_every": 3, "exchange_every": 0, "work": work, "keep": 6}
        return ChainRun(chains, chains.sweep, None, np.random.default_rng(1), **settings, kept_chains=4)

    whole = run(None)
    whole.run(40)
    run(tmp_path).run(13)
    again = run(tmp_path)
    again.run(40)
    assert again.chains.energy_evaluations == whole.chains.energy_evaluations
    kept, taken = whole.decorations()
    assert kept.shape == (5, 4, 1)  # every eighth of 40 measurements
    assert taken.tolist() == [0, 8, 16, 24, 32]
    assert np.array_equal(again.decorations()[0], kept)
    assert np.array_equal(np.unpackbits(kept, axis=2).sum(axis=2), whole.n_plus()[taken, :4])
