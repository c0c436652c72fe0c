"""Which structures of the pool an active-learning run begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segalflow.errors import SettingsError
from segalflow.provenance import content_hash

if TYPE_CHECKING:
    import pandas as pd


def initial_structures(manifest: pd.DataFrame, number: int | None, seed: int) -> list[str]:
    """Return the ids of the first structures to calculate, sorted.

    The pure elements, which every energy refers to, then those whose hash of seed and id is smallest: a random draw in
    which each structure's rank depends on nothing but itself, so that a larger number, or a larger pool, keeps the
    choice (of a larger pool, as far as new structures do not rank before).

    Args:
        manifest: one row a structure: structure (id) and the composition, in the column ``x_<species>``.
        number: how many, or None for all.
        seed: of the study.

    Raises:
        SettingsError: if there are not so many.
    """
    ids = [str(name) for name in manifest["structure"]]
    if number is None:
        return sorted(ids)
    if number > len(ids):
        raise SettingsError(
            f"structures.initial: expected at most {len(ids)}, the structures of up to "
            f"{int(manifest['n_atoms'].max())} atoms, found {number}; raise structures.max_atoms, or give null for all"
        )
    composition = next(column for column in manifest.columns if column.startswith("x_"))
    pure = {name for name, x in zip(ids, manifest[composition], strict=True) if x in (0.0, 1.0)}
    return sorted(sorted(ids, key=lambda name: (name not in pure, content_hash([seed, name])))[:number])
