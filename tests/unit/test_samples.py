"""Samples artefacts: packing, thinning without bias, same bytes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from segalflow.energy.polynomial import polynomial_from_terms
from segalflow.errors import ArtefactError
from segalflow.samples import (
    pack_spins,
    read_samples,
    sample_set,
    spins_of,
    thin_samples,
    unpack_spins,
    write_samples,
)
from segalflow.sampling.metropolis import sample_metropolis

N_SITES = 11


def content(seed=0, shape=(2, 3, 5)):
    rng = np.random.default_rng(seed)
    spins = 2 * rng.integers(0, 2, (*shape, N_SITES)) - 1
    return {
        "occupation": pack_spins(spins),
        "energy": rng.normal(size=shape),
        "n_atoms": (spins > 0).sum(-1),
        "log_weight": rng.normal(size=shape),
    }


def samples(**changes):
    variables = {k: v for k, v in {**content(), **changes}.items() if v is not None}
    source = {"cell": "c", "n_sites": N_SITES, "reference": {"kind": "formation"}}
    return sample_set("snis", np.array([1.0, 2.0]), np.arange(3.0), ("A", "B"), variables, source)


def test_packing_keeps_every_site() -> None:
    spins = 2 * np.random.default_rng(1).integers(0, 2, (4, 7, N_SITES)) - 1
    packed = pack_spins(spins)
    assert packed.shape == (4, 7, 2)
    assert packed.dtype == np.uint8
    assert np.array_equal(unpack_spins(packed, N_SITES), spins)
    assert pack_spins(np.array([1, -1, -1, -1, -1, -1, -1, -1, 1]))[0] == 1  # site 0 is the lowest bit


def test_the_same_samples_give_the_same_bytes_and_come_back(tmp_path) -> None:
    for name in ("a.nc", "b.nc"):
        write_samples(tmp_path / name, samples())
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
    again = read_samples(tmp_path / "a.nc")
    assert again["occupation"].dims == ("temperature", "delta_mu", "sample", "byte")
    assert np.exp(again["log_weight"]).mean("sample").values == pytest.approx(1.0)
    assert np.array_equal((spins_of(again) > 0).sum(-1), again["n_atoms"])
    assert np.all((again["independent_samples"] >= 1) & (again["independent_samples"] <= 5))


def test_conditions_may_hold_different_numbers_of_samples() -> None:
    valid = np.ones((2, 3, 5), dtype=bool)
    valid[1, 2, 2:] = False
    energy = np.where(valid, content()["energy"], np.nan)
    found = samples(valid=valid, energy=energy, log_weight=np.where(valid, 0.3, -np.inf))
    assert not found["log_weight"].values.any()
    assert not found["energy"].values[~valid].any()
    assert found["independent_samples"].values[1, 2] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"energy": None}, "'energy' is missing"),
        ({"enrgy": np.ones(3)}, "unknown variable 'enrgy'"),
        ({"n_atoms": np.ones((2, 3, 4))}, r"'n_atoms' has shape \(2, 3, 4\), expected \(2, 3, 5\)"),
        ({"log_weight": np.full((2, 3, 5), np.nan)}, "'log_weight' holds numbers that are not finite"),
        ({"valid": np.zeros((2, 3, 5))}, "a condition has no samples"),
    ],
)
def test_incomplete_samples_are_refused(change, words) -> None:
    with pytest.raises(ArtefactError, match=words):
        samples(**change)


def test_damaged_files_are_named(tmp_path) -> None:
    path = tmp_path / "snis_samples.nc"
    with pytest.raises(ArtefactError, match="does not exist"):
        read_samples(path)
    write_samples(path, samples())
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ArtefactError, match=r"snis_samples\.nc: not a readable netCDF file"):
        read_samples(path)


def test_thinning_keeps_means_unbiased_and_heavy_samples() -> None:
    rng = np.random.default_rng(2)
    log_w = 2.0 * rng.normal(size=400)
    values = rng.normal(size=400)
    sums = []
    for seed in range(2000):
        chosen, kept = thin_samples(log_w, 50, np.random.default_rng(seed))
        assert len(chosen) == 50
        sums.append(np.exp(kept) @ values[chosen])
        assert np.exp(kept).sum() == pytest.approx(np.exp(log_w).sum(), rel=0.02)
    sums = np.array(sums)
    assert np.isin(np.argsort(log_w)[-3:], chosen).all()
    assert abs(sums.mean() - np.exp(log_w) @ values) < 4 * sums.std() / np.sqrt(len(sums))
    chosen, kept = thin_samples(log_w, 400, rng)
    assert np.array_equal(chosen, np.arange(400))
    assert np.array_equal(kept, log_w)


def test_chains_keep_decorations_that_belong_to_their_energies() -> None:
    model = polynomial_from_terms(9, 0.1, {(k, k + 1): -0.02 for k in range(8)})
    grid = {"temperature": np.array([300.0, 600.0]), "delta_mu": np.array([-0.05, 0.0, 0.05])}
    settings = {"seed": 3, "sweeps": 200, "equilibration": 20, "n_ladder": 2, "n_blocks": 5}
    kept: list = []
    table = sample_metropolis(model, ("A", "B"), **grid, **settings, keep_samples=30, collect=kept.append)
    (found,) = kept
    assert found.sizes["sample"] == 2 * 13  # 100 measurements; every eighth one of each of two chains
    spins = spins_of(found)
    assert found["energy"].values.ravel() == pytest.approx(model.energy_of_spins(spins.reshape(-1, 9)))
    assert np.array_equal((spins > 0).sum(-1), found["n_atoms"])
    assert found["chain"].values.tolist() == [0] * 13 + [1] * 13
    assert not found["log_weight"].values.any()
    plain = sample_metropolis(model, ("A", "B"), **grid, **settings)
    assert np.array_equal(plain["energy"], table["energy"])
