"""Progress of long work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(total: int, description: str, unit: str = "it") -> tqdm:
    """Return a `tqdm` bar on standard error; off a terminal it writes a line at most every 15 seconds.

    Use as a context manager; `set_postfix` shows what matters (NESS, loss, acceptance), the ETA comes by itself.
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        file=sys.stderr,
        mininterval=0.2 if on_terminal else 15.0,
        dynamic_ncols=on_terminal,
        leave=True,
    )


def track(items: Iterable[T], total: int, description: str, unit: str = "it") -> Iterator[T]:
    """Yield `items` while showing a bar of `total` steps."""
    with bar(total, description, unit) as shown:
        for item in items:
            yield item
            shown.update(1)
