"""The past fields in PyTorch, for devices that the compiled counting kernels do not run on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from segalflow.segal.features import PastFields, past_monomials


class TorchFields(nn.Module):
    """``h_i^(k)`` of +-1 spins on any device; `segalflow.segal.features.evaluate_past_fields` is the fast twin."""

    def __init__(self, tables: PastFields) -> None:
        super().__init__()
        self.n_sites, self.n_classes = tables.n_sites, tables.n_classes
        self.groups: list[list[tuple[str, str]]] = [[] for _ in range(self.n_sites)]
        for terms in past_monomials(tables.model, self.n_classes):
            site, k = np.divmod(terms.owner, self.n_classes)
            for i in np.unique(site).tolist():
                here = site == i
                # A row for every term, its coefficient in the column of its class.
                weights = np.zeros((here.sum(), self.n_classes), dtype=np.float32)
                weights[np.arange(len(weights)), k[here]] = terms.coefficients[terms.kind[here]]
                names = tuple(f"{name}_{i}_{terms.others.shape[1]}" for name in ("placed", "weights"))
                for name, value in zip(names, (terms.others[here].astype(np.int64), weights), strict=True):
                    self.register_buffer(name, torch.from_numpy(value), persistent=False)
                self.groups[i].append(names)

    def at(self, site: int, spins: Tensor) -> Tensor:
        """Return the fields of one site, (batch, n_classes), from spins (batch, n_sites); only placed ones count."""
        found = spins.new_zeros(len(spins), self.n_classes)
        for placed, weights in self.groups[site]:
            found = found + spins[:, getattr(self, placed)].prod(dim=-1) @ getattr(self, weights)
        return found

    def forward(self, spins: Tensor) -> Tensor:
        """Return the fields of all sites, (batch, n_sites, n_classes)."""
        return torch.stack([self.at(site, spins) for site in range(self.n_sites)], dim=1)
