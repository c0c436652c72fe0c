"""Where PyTorch works and how much memory one pass may take: devices by name, and batches in parts that fit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segalflow.errors import SamplingError, TrainingError, suggest

DEVICES = ("cpu", "cuda", "auto")
MEMORY_MB = 1000.0
"""Default bound on the working memory of one pass, MB."""


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: ``cpu``, ``cuda``, or ``auto`` (a GPU where PyTorch finds one).

    Raises:
        TrainingError: for an unknown name, or a GPU that is not there.
    """
    if name not in DEVICES:
        raise TrainingError(
            f"segal.device: expected one of {', '.join(DEVICES)}, found '{name}'{suggest(name, DEVICES)}"
        )
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise TrainingError("segal.device: 'cuda' was asked for, but PyTorch finds no such GPU here; use cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def device_of(network: torch.nn.Module) -> torch.device:
    """Return the device that holds a network's weights."""
    return next(network.parameters()).device


def _out_of_memory(error: Exception) -> bool:
    # PyTorch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)


def in_parts(
    work: Callable[[slice], None],
    n: int,
    bytes_each: int,
    memory_mb: float,
    restart: Callable[[], None] | None = None,
) -> int:
    """Do `work` on all of `n` items in parts of at most `memory_mb`, halved where even that does not fit.

    Args:
        work: called with the slice of the items of each part, in order; called again with a shorter one if it runs out
            of memory.
        n: number of items.
        bytes_each: estimated bytes of one item.
        memory_mb: bound on a part, MB.
        restart: where parts add up to something, as gradients do: called before everything is done again from the first
            item with shorter parts. None: only the part that failed is done again.

    Returns:
        The number of parts.

    Raises:
        SamplingError: if a single item does not fit into the memory there is.
    """
    size = max(1, min(n, int(memory_mb * 1e6 / max(bytes_each, 1))))
    first = parts = 0
    while first < n:
        try:
            work(slice(first, min(first + size, n)))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if size == 1:
                raise SamplingError(
                    f"memory: one decoration needs about {bytes_each / 1e6:.3g} MB and does not fit; a smaller network "
                    "(segal.network.sizes, a window) needs less"
                ) from None
            size = (size + 1) // 2
            if restart is not None:
                restart()
                first = parts = 0
            continue
        first, parts = min(first + size, n), parts + 1
    return parts
