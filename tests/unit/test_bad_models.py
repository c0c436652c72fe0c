"""Model files that do not fit, and conditions that make no sense, are refused in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segalflow.cli import main
from segalflow.energy.polynomial import place_expansion, polynomial_from_terms
from segalflow.energy.site_functions import place_general
from segalflow.errors import ExpansionError, SamplingError
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.lattice import Supercell, parent_lattice
from segalflow.sampling.canonical import sample_canonical
from segalflow.sampling.metadynamics import sample_metadynamics
from segalflow.sampling.metropolis import sample_metropolis
from segalflow.sampling.scan import sample_scan
from segalflow.sampling.tempering import sample_tempering
from segalflow.sampling.vcsgc import sample_vcsgc
from segalflow.sampling.wang_landau import sample_wang_landau

PUBLISHED = {
    "lattice": "fcc",
    "lattice_constant_A": 3.9,
    "spin_convention": {"Ag": -1, "Pd": 1},
    "clusters": [
        {"name": "c0", "order": 0, "eci_eV_per_atom": 0.1},
        {
            "name": "c2",
            "order": 2,
            "eci_eV_per_atom": -0.01,
            "pair_distances_A": [2.76],
            "all_figures_through_origin_in_units_of_a_over_2": [[[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 0, 1]]],
        },
    ],
}
SAMPLERS = (
    sample_metropolis, sample_tempering, sample_canonical, sample_vcsgc, sample_scan, sample_metadynamics,
    sample_wang_landau,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "constant", "species"),
    [("fcc", 3.9, ("Cu", "Au")), ("bcc", 3.9, ("Ag", "Pd")), ("fcc", 3.6, ("Ag", "Pd"))],
)
@pytest.mark.parametrize("place", [place_expansion, place_general])
def test_a_model_of_another_lattice_or_other_species_is_refused(place, name, constant, species, tmp_path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(PUBLISHED))
    expansion = read_expansion(tmp_path / "list.json")
    place(expansion, Supercell(expansion.lattice, [2, 2, 2]))
    with pytest.raises(ExpansionError, match="lattice") as refused:
        place(expansion, Supercell(parent_lattice(name, constant, species), [2, 2, 2]))
    assert species[0] in str(refused.value)
    assert "Ag" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_expansion_with_a_missing_figure_is_refused(tmp_path, capsys) -> None:
    content = json.loads(json.dumps(PUBLISHED))
    content["clusters"][1]["all_figures_through_origin_in_units_of_a_over_2"] = []
    (tmp_path / "list.json").write_text(json.dumps(content))
    (tmp_path / "decorations.json").write_text("{}")
    arguments = ["--model", str(tmp_path / "list.json"), "--configurations", str(tmp_path / "decorations.json")]
    assert main(["energies", *arguments]) == 1
    assert capsys.readouterr().err == "error: cluster 'c2': it has an ECI but no figures\n"


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("temperature", [[-300.0, 600.0], [0.0, 600.0], [600.0, 300.0]])
def test_a_negative_temperature_or_an_unordered_grid_is_refused(sample, temperature) -> None:
    model = polynomial_from_terms(4, 0.0, {(0, 1): -0.02, (2, 3): -0.02})
    with pytest.raises(SamplingError, match="temperatures must be positive and increasing, found"):
        sample(model, ("A", "B"), np.array(temperature), np.array([0.0, 0.1]), seed=0)
