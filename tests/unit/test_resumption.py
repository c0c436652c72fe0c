"""State files of all samplers: interrupted runs end in the same bytes, longer ones go on, others are refused."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.polynomial import SpinPolynomial, polynomial_from_terms
from segalflow.errors import ArtefactError, SamplingError
from segalflow.sampling.canonical import sample_canonical
from segalflow.sampling.metadynamics import sample_metadynamics
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.sampling.scan import sample_scan
from segalflow.sampling.state_file import Doubling, StateFile
from segalflow.sampling.tempering import sample_tempering
from segalflow.sampling.vcsgc import sample_vcsgc
from segalflow.sampling.wang_landau import sample_wang_landau

GRID = {"temperature": np.array([500.0, 900.0]), "delta_mu": np.array([-0.05, 0.0, 0.05])}
CHAINS = {"sweeps": 200, "equilibration": 20, "n_ladder": 2, "n_blocks": 5}
BIAS = {"walkers": 4, "last_deposit": 0.1, "stage_sweeps": 40, "check_every": 10, "production_sweeps": 60}
SAMPLERS = {
    "metropolis": (sample_metropolis, CHAINS),
    "tempering": (sample_tempering, CHAINS),
    "canonical": (sample_canonical, {"walkers": 2, "equilibration": 8, "measurements": 20}),
    "vcsgc": (sample_vcsgc, {"walkers": 2, "windows": 4, "equilibration": 10, "sweeps": 60}),
    "scan": (sample_scan, {"walkers": 4, "equilibration": 5, "sweeps": 10}),
    "metadynamics": (sample_metadynamics, BIAS),
    "one_over_t": (sample_metadynamics, {**BIAS, "schedule": "one_over_t", "last_deposit": 0.005}),
    "well_tempered": (sample_metadynamics, {**BIAS, "schedule": "well_tempered"}),
    "wang_landau": (
        sample_wang_landau,
        {"walkers": 4, "bin_width": 0.02, "final_log_f": 0.01, "max_sweeps": 2000, "production_sweeps": 200},
    ),
}


def model(coupling: float = -0.02) -> SpinPolynomial:
    return polynomial_from_terms(8, 0.0, {tuple(sorted((k, (k + 1) % 8))): coupling for k in range(8)})


@pytest.fixture
def ticks(monkeypatch):
    """Saves at every opportunity; ends the run by an interruption at the tick whose number is put into ``stop``."""
    seen = {"stop": None, "count": 0}
    tick = StateFile.tick

    def counted(self, arrays=None):
        tick(self, arrays)
        seen["count"] += 1
        if seen["count"] == seen["stop"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(StateFile, "tick", counted)
    monkeypatch.setattr("segalflow.sampling.state_file.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("segalflow.sampling.wang_landau._CHUNK", 600)
    return seen


@pytest.mark.parametrize("name", SAMPLERS)
def test_interrupted_and_extended_runs_give_the_bytes_of_one_run(name, tmp_path, ticks) -> None:
    sample, settings = SAMPLERS[name]

    def run(stop=None, **more):
        ticks.update(stop=stop, count=0)
        return sample(model(), ("A", "B"), **GRID, seed=5, **settings, **more)

    whole = run()
    n_ticks = ticks["count"]
    assert n_ticks >= 3
    for stop in (n_ticks // 3, n_ticks // 3):
        with pytest.raises(KeyboardInterrupt):
            run(stop, work=tmp_path)
    assert run(work=tmp_path).identical(whole)
    assert ticks["count"] <= n_ticks - 2 * (n_ticks // 3)
    # More precision: on from the state, with an interruption on the way, and the bytes of a run that had no state.
    target = 0.8 * float(whole["composition_stderr"].max())
    with pytest.raises(KeyboardInterrupt):
        run(2, work=tmp_path, target_error=target)
    finer = run(work=tmp_path, target_error=target)
    assert finer.identical(run(target_error=target))
    assert float(finer["composition_stderr"].max()) <= target
    assert float(finer["n_samples"].max()) > float(whole["n_samples"].max())
    # Less again: not what the longer state holds, and the state stays as it is.
    (state,) = tmp_path.glob("*.safetensors")
    before = state.read_bytes()
    assert run(work=tmp_path).identical(whole)
    assert state.read_bytes() == before


@pytest.mark.parametrize("name", ["canonical", "metadynamics"])
def test_a_state_of_another_model_is_refused(name, tmp_path, ticks) -> None:
    sample, settings = SAMPLERS[name]
    for folder, coupling in (("a", -0.02), ("b", -0.03)):
        sample(model(coupling), ("A", "B"), **GRID, seed=5, **settings, work=tmp_path / folder)
    (state,), (other,) = (list((tmp_path / folder).iterdir()) for folder in "ab")
    assert state.name != other.name
    state.write_bytes(other.read_bytes())
    with pytest.raises(SamplingError, match="belongs to another model"):
        sample(model(), ("A", "B"), **GRID, seed=5, **settings, work=tmp_path / "a")
    state.write_bytes(other.read_bytes()[:-30])
    with pytest.raises(ArtefactError, match="damaged state file"):
        sample(model(), ("A", "B"), **GRID, seed=5, **settings, work=tmp_path / "a")


def test_lengths_double_until_the_error_is_small_or_the_most_is_done() -> None:
    budget = Doubling(0.1, 100, 450)
    assert [budget.length([1.0] * n) for n in range(3)] == [100, 200, 400]
    assert not budget.enough([0.5])
    assert budget.enough([0.5, 0.09])
    assert budget.enough([0.5, 0.4, 0.3])  # 800 would be more than 450
    assert budget.would_have_stopped([0.05])
    assert not budget.would_have_stopped([0.5, 0.4])
    assert Doubling(None, 100, 450).enough([9.9])
