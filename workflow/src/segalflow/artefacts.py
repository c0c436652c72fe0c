"""Reading and writing the files that stages hand to each other.

Every writer is atomic (a temporary file beside the target, then a rename) and deterministic (sorted keys, no time
stamps, no host names), so the same work gives the same bytes. Every reader says in one sentence what is wrong with a
file that is missing, cut short or of another schema.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import ase
    import pandas as pd
    import xarray as xr

from segalflow.errors import ArtefactError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path with the suffix of `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_builtin(value: Any) -> Any:
    """Return `value` with NumPy arrays and scalars, tuples and paths turned into plain JSON types."""
    if isinstance(value, Mapping):
        return {str(k): to_builtin(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return to_builtin(value.tolist())
    if isinstance(value, np.generic):
        return to_builtin(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Sequence | set | frozenset):
        return [to_builtin(v) for v in value]
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def _inline(value: Any) -> bool:
    if isinstance(value, dict):
        return not value
    if isinstance(value, list):
        flat = all(not isinstance(v, dict | list) for v in value)
        return flat or (all(not isinstance(v, dict) for v in value) and len(json.dumps(value)) < 100)
    return True


def _dump(value: Any, indent: int = 0) -> str:
    """JSON with short lists kept on one line, so that a person can read a model file."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(k)}: {_dump(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    if isinstance(value, list) and not _inline(value):
        return "[\n" + ",\n".join(pad + _dump(v, indent + 1) for v in value) + "\n" + " " * indent + "]"
    return json.dumps(value, allow_nan=False)


def write_json(path: str | Path, content: Mapping[str, Any], schema: str) -> None:
    """Write `content` as readable JSON headed by its schema name.

    Args:
        path: target file.
        content: anything `to_builtin` can turn into plain types; NaN becomes null.
        schema: name and version of the format, e.g. ``"segalflow.expansion/1"``.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(_dump({"schema": schema, **to_builtin(content)}) + "\n", encoding="utf-8")


def read_json(path: str | Path, schema: str | None = None) -> dict[str, Any]:
    """Read a JSON artefact and check its schema name.

    Raises:
        ArtefactError: if the file is missing, is not whole JSON, or has another schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path}: the file does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(
            f"{path}: not a whole JSON file ({error}); delete it and run again to have it remade"
        ) from None
    if schema is not None and (not isinstance(content, dict) or content.get("schema") != schema):
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ArtefactError(f"{path}: expected schema '{schema}', found {found!r}")
    return content


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a CSV (or parquet, by suffix) table without its index; floats keep all their digits."""
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV or parquet table and check that it has `columns`.

    Raises:
        ArtefactError: if the file is missing, unreadable or lacks a column.
    """
    import pandas as pd  # late: calculation jobs start by the hundred and need no tables

    try:
        # Ids of structures may consist of digits, or of digits and an e: they are texts all the same.
        is_parquet = Path(path).suffix == ".parquet"
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, dtype={"structure": str})
    except FileNotFoundError:
        raise ArtefactError(f"{path}: the file does not exist") from None
    except pd.errors.EmptyDataError:
        raise ArtefactError(f"{path}: the table is empty; delete it and run again to have it remade") from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise ArtefactError(
            f"{path}: not a readable table ({error}); delete it and run again to have it remade"
        ) from None
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ArtefactError(f"{path}: expected column '{missing[0]}', found {', '.join(map(str, table.columns))}")
    return table


def write_dataset(path: str | Path, dataset: xr.Dataset, packed: Sequence[str] = ()) -> None:
    """Write a dataset as netCDF-4; nested attributes become JSON text.

    Args:
        path: the file.
        dataset: what to write; its attribute ``schema`` says what it is.
        packed: names of the variables to compress.
    """
    flat = dataset.copy()
    flat.attrs = {
        k: v
        if isinstance(v, str | int | float) and not isinstance(v, bool)
        else json.dumps(to_builtin(v), sort_keys=True)
        for k, v in dataset.attrs.items()
    }
    encoding = {name: {"zlib": True, "complevel": 4} for name in packed if name in flat}
    with atomic_path(path) as temporary:
        flat.to_netcdf(temporary, format="NETCDF4", engine="netcdf4", encoding=encoding)


def read_dataset(path: str | Path, schema: str, variables: Sequence[str] = ()) -> xr.Dataset:
    """Read a dataset into memory and check that it is of a schema and has `variables`.

    Raises:
        ArtefactError: if the file is missing, damaged, of another schema, or lacks a variable.
    """
    import xarray as xr  # late: most readers of artefacts have no grids

    try:
        with xr.open_dataset(path, engine="netcdf4") as opened:
            dataset = opened.load()
    except FileNotFoundError:
        raise ArtefactError(f"{path}: the file does not exist") from None
    except Exception as error:  # the HDF5 layer raises many kinds on a damaged file
        raise ArtefactError(
            f"{path}: not a readable netCDF file ({error}); delete it and run again to have it remade"
        ) from None
    if dataset.attrs.get("schema") != schema:
        raise ArtefactError(f"{path}: expected schema '{schema}', found {dataset.attrs.get('schema')!r}")
    missing = [name for name in variables if name not in dataset]
    if missing:
        raise ArtefactError(f"{path}: there is no variable '{missing[0]}' ({schema})")
    return dataset


def write_structures(path: str | Path, structures: Sequence[ase.Atoms]) -> None:
    """Write structures as extended XYZ with their ``info`` (ids, ideal occupation, energies)."""
    import ase.io  # slow to import, and most readers of artefacts have no structures

    with atomic_path(path) as temporary:
        ase.io.write(temporary, [_with_texts(atoms) for atoms in structures], format="extxyz")


def _with_texts(atoms: ase.Atoms) -> ase.Atoms:
    """Return the structure with texts that look like numbers (an id of digits alone) marked as texts for the reader."""
    marked = {key: f"_JSON {json.dumps(v)}" for key, v in atoms.info.items() if isinstance(v, str) and _is_number(v)}
    if not marked:
        return atoms
    copied = atoms.copy()
    copied.calc = atoms.calc
    copied.info.update(marked)
    return copied


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_structures(path: str | Path) -> list[ase.Atoms]:
    """Read all structures of an extended XYZ file.

    Raises:
        ArtefactError: if the file is missing or cut short.
    """
    import ase.io

    try:
        return ase.io.read(path, index=":", format="extxyz")
    except FileNotFoundError:
        raise ArtefactError(f"{path}: the file does not exist") from None
    except Exception as error:  # ASE's reader raises many kinds on a cut file
        raise ArtefactError(
            f"{path}: not a readable extended XYZ file ({error}); delete it and run again to have it remade"
        ) from None


def write_state(path: str | Path, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]) -> None:
    """Write the state of an unfinished run atomically: arrays as safetensors, everything else as JSON in its header."""
    from safetensors.numpy import save_file

    text = json.dumps(to_builtin(extra))
    with atomic_path(path) as temporary:
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, temporary, metadata={"extra": text})


def read_state(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the state of an unfinished run.

    Raises:
        ArtefactError: if the file is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(opened.metadata()["extra"])  # noqa: SIM118
    except Exception as error:  # safetensors raises many kinds on a damaged file
        raise ArtefactError(f"{path}: damaged state file ({error}); delete it to start from the beginning") from None
