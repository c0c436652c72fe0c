"""Draws on a GPU with one launch: the kernels of a pass over all sites, recorded once as a CUDA graph.

A site takes some sixty small kernels, and starting them from Python takes longer than running them (128 sites, ten
thousand draws on an H100: 0.14 s, most of it starts). A recording starts all of them at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segalflow.segal.network import FieldsAt

LEAST = 256
"""Draws of the shortest recording; others are the next power of two, so that a few recordings serve all batches."""
KEPT = 4
"""Recordings kept of one network, the latest ones."""


class RecordedDraw:
    """``network.draw`` for `n` draws, recorded at the first call of each length and replayed from then on.

    A recording reads the weights where they are: it stays right while they are trained in place.

    Args:
        network: a network on a CUDA device.
        fields_at: the fields of one site from the placed spins (`FieldsAt`), or None.
    """

    def __init__(self, network: torch.nn.Module, fields_at: FieldsAt | None) -> None:
        self.network, self.fields_at = network, fields_at
        self._kept: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]] = {}

    def __call__(self, uniform: Tensor, *conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return +-1 draws and their logits, float (batch, n_sites), for uniform numbers of that shape."""
        n = len(uniform)
        length = max(LEAST, 1 << (n - 1).bit_length())
        if length not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[length] = self._record(length, uniform, *conditions)
        graph, inputs, outputs = self._kept[length]
        for held, given in zip(inputs, (uniform, *conditions), strict=True):
            held[:n].copy_(given)
        graph.replay()
        return tuple(found[:n].clone() for found in outputs)

    def _record(self, length: int, *like: Tensor) -> tuple:
        # Padding draws are made at condition zero: finite, and thrown away.
        inputs = tuple(torch.zeros(length, *given.shape[1:], device=given.device) for given in like)
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.no_grad():
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries set themselves up in a first pass, which must not be recorded
                self.network.draw(inputs[0], self.fields_at, *inputs[1:])
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                outputs = self.network.draw(inputs[0], self.fields_at, *inputs[1:])
        return graph, inputs, outputs
