"""Selection from a stream of structures under a cap, without ever holding all of them.

A structure's rank is its id, the hash of its decoration: a fixed random order that depends on nothing but the structure
itself, so that a larger cap keeps what a smaller one chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from itertools import zip_longest

from ase import Atoms

from segalflow.errors import SettingsError, suggest


def _composition(atoms: Atoms) -> Hashable:
    counts = Counter(atoms.get_chemical_symbols())
    return tuple(sorted((symbol, round(n / len(atoms), 9)) for symbol, n in counts.items()))


def _rank(atoms: Atoms) -> tuple:
    return (atoms.info["structure"],)


def _size_and_rank(atoms: Atoms) -> tuple:
    return (len(atoms), atoms.info["structure"])


# name: (what is chosen from in turn, one of each; which come first in it)
SELECTIONS: dict[str, tuple[Callable[[Atoms], Hashable], Callable[[Atoms], tuple]]] = {
    "spread": (_composition, _rank),
    "smallest": (lambda atoms: None, _size_and_rank),
    "random": (lambda atoms: None, _rank),
}
"""Ways to select: evenly over the compositions, the smallest cells first, or at random."""


def select_structures(stream: Iterable[Atoms], number: int | None, selection: str = "spread") -> list[Atoms]:
    """Return at most `number` structures of a stream; the pure ones, which energies refer to, always belong to them.

    Memory grows with `number` (times the number of compositions for ``spread``) and not with the stream.

    Args:
        stream: structures with ``info["structure"]``.
        number: how many, or None for all.
        selection: name in `SELECTIONS`.

    Raises:
        SettingsError: if the selection is unknown, or `number` is smaller than the number of pure structures.
    """
    if selection not in SELECTIONS:
        raise SettingsError(
            f"structures.selection: expected one of {', '.join(SELECTIONS)}, found '{selection}'"
            f"{suggest(selection, SELECTIONS)}"
        )
    if number is None:
        return list(stream)
    group_of, order = SELECTIONS[selection]
    pure: list[Atoms] = []
    groups: dict[Hashable, list[Atoms]] = {}
    for atoms in stream:
        if len(set(atoms.numbers)) == 1:
            pure.append(atoms)
            continue
        kept = groups.setdefault(group_of(atoms), [])
        kept.append(atoms)
        if len(kept) >= 2 * number + 16:
            kept.sort(key=order)
            del kept[number:]
    if number < len(pure):
        raise SettingsError(
            f"structures.max_structures: expected at least {len(pure)} for the pure elements, found {number}"
        )
    turns = zip_longest(*(sorted(kept, key=order) for kept in groups.values()))
    chosen = [atoms for turn in turns for atoms in sorted(filter(None, turn), key=order)]
    return pure + chosen[: number - len(pure)]
