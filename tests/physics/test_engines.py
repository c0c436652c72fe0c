"""First-principles engines that are not dependencies, on some structures and with the settings of their studies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segalflow.dft.calculation import run_calculation
from segalflow.dft.dataset import build_dataset
from segalflow.lattice import lattice_from_settings
from segalflow.structures.enumeration import enumerate_pool
from segalflow.structures.pool import structure_name
from segalflow.study import prepare_study


def formation_energies(repository: Path, study: str, calculation: str, only: list[str]) -> dict[str, float]:
    """Calculate the pure elements and `only` as a shipped study does; meV/atom by name of the structure."""
    schema = yaml.safe_load((repository / "workflow" / "schemas" / "config.schema.yaml").read_text())
    config = prepare_study(yaml.safe_load((repository / "config" / "studies" / f"{study}.yaml").read_text()), schema)
    lattice = lattice_from_settings(config["lattice"])
    settings = dict(config["calculations"][calculation])
    engine = settings.pop("engine")
    pool = enumerate_pool(lattice, 4, only=only)
    records = [run_calculation(structure, lattice, engine, settings) for structure in pool]
    assert {r["structure"]: r["reason"] for r in records if r["status"] != "converged"} == {}
    dataset = build_dataset(pool, records, lattice)
    return {structure_name(s, lattice): 1000 * s.info["formation_energy"] for s in dataset.structures}


@pytest.mark.gpaw
@pytest.mark.slow
def test_open_dft_orders_copper_gold(repository) -> None:
    found = formation_energies(repository, "cuau_gpaw", "gpaw", ["Cu3Au L1_2", "CuAu L1_0"])
    # PBE + D3, as the public DFT data, which have -32.1 and -43.2. L1_0 still fails at its strain, see the study.
    assert found["Cu3Au L1_2"] == pytest.approx(-34, abs=3)
    assert found["CuAu L1_0"] == pytest.approx(-44, abs=3)


@pytest.mark.chgnet
@pytest.mark.slow
def test_the_universal_potential_mixes_silver_palladium(repository) -> None:
    found = formation_energies(repository, "agpd_chgnet", "chgnet", ["Ag3Pd D0_22", "AgPd L1_1"])
    # CHGNet's own numbers; the public DFT data have -8 to -61 for the whole alloy.
    assert found["Ag3Pd D0_22"] == pytest.approx(-59.4, abs=1.5)
    assert found["AgPd L1_1"] == pytest.approx(-50.9, abs=1.5)
