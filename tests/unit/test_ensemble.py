from __future__ import annotations

import numpy as np
import pytest

from segalflow.ensemble import ensemble_table, read_ensemble, read_ensembles, write_ensemble
from segalflow.errors import ArtefactError


def variables(shape=(2, 3)):
    found = {n: np.ones(shape) for n in ("n_samples", "energy_evaluations", "reliable")}
    for name in ("energy", "heat_capacity", "susceptibility"):
        found[name] = found[f"{name}_stderr"] = np.full(shape, 0.5)
    found["composition"] = found["composition_stderr"] = np.full((*shape, 2), 0.5)
    return found


def table(**changes):
    content = {**variables(), **changes}
    content = {k: v for k, v in content.items() if v is not None}
    return ensemble_table(
        "exact", np.array([1.0, 2.0]), np.arange(3.0), ("Cu", "Au"), content, {"cell": "c", "reference": {"a": 1}}
    )


def test_tables_carry_units_and_give_the_same_bytes(tmp_path) -> None:
    for name in ("a.nc", "b.nc"):
        write_ensemble(tmp_path / name, table())
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
    again = read_ensemble(tmp_path / "a.nc")
    assert again["energy"].attrs["units"] == "eV/site"
    assert again["composition"].dims == ("temperature", "delta_mu", "species")
    assert again.attrs["cell"] == "c"


def test_tables_of_several_cells_come_by_cell_and_method_in_the_order_of_their_files(tmp_path) -> None:
    of_files = {"1.nc": ("b", "snis"), "2.nc": ("a", "exact"), "3.nc": ("b", "exact")}
    for name, (cell, method) in of_files.items():
        write_ensemble(tmp_path / name, table().assign_attrs(cell=cell, method=method))
    found = read_ensembles(tmp_path / name for name in of_files)
    assert [(cell, list(methods)) for cell, methods in found.items()] == [("b", ["snis", "exact"]), ("a", ["exact"])]
    assert found["b"]["exact"].equals(read_ensemble(tmp_path / "3.nc"))
    assert found["b"]["exact"].attrs["cell"] == "b"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"energy": None}, "'energy' is missing"),
        ({"energy_stderr": None}, "'energy' has no standard error"),
        ({"energy": np.ones((3, 2))}, "expected"),
        ({"enrgy": np.ones((2, 3))}, "unknown variable 'enrgy'"),
    ],
)
def test_incomplete_tables_are_refused(change, words) -> None:
    with pytest.raises(ArtefactError, match=words):
        table(**change)


def test_a_corrupted_table_is_named(tmp_path) -> None:
    path = tmp_path / "snis.nc"
    write_ensemble(path, table())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match=r"snis\.nc: not a readable netCDF file"):
        read_ensemble(path)
    with pytest.raises(ArtefactError, match="does not exist"):
        read_ensemble(tmp_path / "none.nc")
