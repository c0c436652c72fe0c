"""The categorical network: conditionals over any number of species, given the sites before, T and every delta_mu.

`segalflow.segal.network.PhysicsNetwork` for n components and several sublattices: the exact conditional of the placed
part plus a correction by two small layers with shared weights. It works on any device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segalflow.energy.potentials import ExchangePotentials
from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell
from segalflow.segal.network import gate, relative_sites, seen_sites, squash

EnergiesAt = Callable[[int], Tensor]
"""``e_i^(k)`` of a site, (batch, max_species, n_classes), once the sites before it are placed."""


class CategoricalNetwork(nn.Module):
    """Shared-weight network over species.

    ``logit_i(x) = beta (mu_x - e_i^(0)(x)) + correction_i(x)``; species that a site does not allow have -inf.

    Args:
        cell: the cell.
        n_classes: classes of the past energies (`PastTerms.n_classes`); 0 for models of total energies alone.
        n_conditions: length of a condition vector.
        hidden: units of the two layers.
        window: how far a site sees placed species, Angstrom (`seen_sites`); None: the whole cell.
    """

    kind = "categorical"

    def __init__(
        self, cell: Supercell, n_classes: int, n_conditions: int, hidden: int = 32, window: float | None = None
    ) -> None:
        super().__init__()
        n, potentials = cell.n_sites, ExchangePotentials.of(cell)
        starts, seen = seen_sites(cell, window)
        site = np.repeat(np.arange(n), np.diff(starts))
        used, displacement = np.unique(relative_sites(cell)[site, seen], return_inverse=True)
        self.n_sites, self.n_classes, self.hidden = n, n_classes, hidden
        self.n_species, self.n_elements = potentials.element.shape[1], len(potentials.elements)
        self.first_seen = starts.tolist()
        element = torch.from_numpy(potentials.element)
        for name, value in (("seen", seen), ("displacement", displacement.ravel()), ("site", site)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, np.int64)), persistent=False)
        self.register_buffer("allowed", element >= 0, persistent=False)
        self.register_buffer("element", element.clamp(min=0), persistent=False)
        self.register_buffer("counts", torch.arange(n).clamp(min=1).float()[:, None], persistent=False)
        s, self.n_features = self.n_species, self.n_species * n_classes + self.n_elements
        scale, f = hidden**-0.5, self.n_features
        self.w1 = nn.Parameter(0.02 * torch.randn(max(len(used), 1), self.n_elements, hidden))
        self.v = nn.Parameter(0.1 * torch.randn(f, hidden))
        self.b1 = nn.Parameter(torch.zeros(n, hidden))
        self.w2 = nn.Parameter(scale * torch.randn(hidden, hidden))
        self.b2 = nn.Parameter(torch.zeros(n, hidden))
        self.u = nn.Parameter(0.01 * torch.randn(hidden, s))
        self.u_site = nn.Parameter(torch.zeros(n, hidden, s))
        self.c_site = nn.Parameter(torch.zeros(n, f, s))
        self.bias = nn.Parameter(torch.zeros(n, s))
        self.condition_layers = nn.Sequential(nn.Linear(n_conditions, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.film = nn.Linear(32, 4 * hidden + f * s + s)
        self.site_bias = nn.Linear(32, n * s)
        for layer in (self.film, self.site_bias):
            nn.init.zeros_(layer.bias)
            nn.init.normal_(layer.weight, std=0.01)

    @property
    def bytes_per_decoration(self) -> int:
        """Estimated memory of one decoration in a pass with gradients, bytes."""
        return 4 * self.n_sites * (8 * self.hidden + 6 * self.n_features + 8 * self.n_species)

    def one_hot(self, occupations: Tensor) -> Tensor:
        """Return which element holds each site, float (batch, n_sites, n_elements), of integers (batch, n_sites)."""
        number = self.element.expand(len(occupations), -1, -1).gather(2, occupations[:, :, None])[:, :, 0]
        return nn.functional.one_hot(number, self.n_elements).float()

    def logits(
        self, occupations: Tensor, energies: Tensor, beta: Tensor, potentials: Tensor, condition: Tensor
    ) -> Tensor:
        """Return all logits at once, (batch, n_sites, max_species).

        Args:
            occupations: int64 (batch, n_sites).
            energies: ``e_i^(k)(x)``, (batch, n_sites, max_species, n_classes).
            beta: (batch,).
            potentials: `ExchangePotentials.on_sites`, (batch, n_sites, max_species).
            condition: `ConditionBox.encode`, (batch, n_conditions).
        """
        n, hidden, elements = self.n_sites, self.hidden, self.n_elements
        held = self.one_hot(occupations)
        running = torch.cumsum(held, dim=1)
        mean = torch.cat([torch.zeros_like(running[:, :1]), running[:, :-1]], dim=1) / self.counts
        dense = held.new_zeros(n, n, elements, hidden).index_put((self.seen, self.site), self.w1[self.displacement])
        weights = dense.permute(0, 2, 1, 3).reshape(n * elements, n * hidden)
        seen = (held.reshape(-1, n * elements) @ weights).view(-1, n, hidden)
        return self._conditionals(slice(0, n), seen, energies, mean, beta, potentials, self._modulation(condition))

    def draw(
        self, uniform: Tensor, energies_at: EnergiesAt, place: Callable[[int, Tensor], None], beta: Tensor,
        potentials: Tensor, condition: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return occupations, int64 (batch, n_sites), for uniform numbers of that shape: one pass over the sites.

        `energies_at` gives a site's past energies, `place` is told what each site got.
        """
        modulation = self._modulation(condition)
        held = uniform.new_zeros(*uniform.shape, self.n_elements)
        occupations = torch.zeros(uniform.shape, dtype=torch.long, device=uniform.device)
        for i, (first, last) in enumerate(itertools.pairwise(self.first_seen)):
            weights = self.w1[self.displacement[first:last]]
            seen = torch.einsum("bke,keh->bh", held[:, self.seen[first:last]], weights)[:, None]
            mean = held[:, :i].sum(dim=1, keepdim=True) / max(i, 1)
            here, energies = slice(i, i + 1), energies_at(i)[:, None]
            logits = self._conditionals(here, seen, energies, mean, beta, potentials[:, here], modulation)[:, 0]
            below = torch.cumsum(torch.softmax(logits.double(), dim=1), dim=1)
            chosen = (uniform[:, i : i + 1].double() * below[:, -1:] >= below).sum(dim=1)
            # Rounding must not choose a species beyond the last one allowed here.
            occupations[:, i] = torch.minimum(chosen, self.allowed[i].sum() - 1)
            held[:, i] = nn.functional.one_hot(self.element[i][occupations[:, i]], self.n_elements).float()
            place(i, occupations[:, i])
        return occupations

    def _modulation(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        z = self.condition_layers(condition)
        return self.film(z), self.site_bias(z).view(-1, self.n_sites, self.n_species)

    def _conditionals(
        self, sites: slice, seen: Tensor, energies: Tensor, mean: Tensor, beta: Tensor, potentials: Tensor,
        modulation: tuple[Tensor, Tensor],
    ) -> Tensor:  # fmt: skip
        """Logits of some sites, (batch, len, max_species), from what they see, (batch, len, hidden)."""
        hidden, s, (film, site) = self.hidden, self.n_species, modulation
        g1, d1, g2, d2 = (film[:, None, k * hidden : (k + 1) * hidden] for k in range(4))
        weights = film[:, 4 * hidden : -s].view(-1, self.n_features, s)
        allowed = self.allowed[sites]
        # Only differences between the species of a site mean something.
        number = allowed.sum(dim=1)[:, None, None]
        centred = (energies - energies.sum(dim=2, keepdim=True) / number) * allowed[:, :, None]
        reduced = squash(beta[:, None, None, None] * centred).flatten(start_dim=2)
        x = torch.cat([reduced, mean], dim=2)
        z1 = gate((seen + x @ self.v + self.b1[sites]) * (1 + g1) + d1)
        z2 = gate((z1 @ self.w2 + self.b2[sites]) * (1 + g2) + d2) + z1
        correction = torch.einsum("bih,ihs->bis", z2, self.u + self.u_site[sites])
        correction = correction + torch.einsum("bif,ifs->bis", x, self.c_site[sites]) + x @ weights
        exact = beta[:, None, None] * (potentials - (centred[..., 0] if self.n_classes else 0.0))
        logits = exact + correction + self.bias[sites] + site[:, sites] + film[:, None, -s:]
        return logits.masked_fill(~allowed, -torch.inf)


SPECIES_NETWORKS: dict[str, Callable[..., nn.Module]] = {"categorical": CategoricalNetwork}
"""Networks for any number of species."""


def build_species_network(
    settings: Mapping[str, Any], cell: Supercell, n_classes: int, n_conditions: int, seed: int
) -> nn.Module:
    """Return a freshly initialised network: ``kind`` (a key of `SPECIES_NETWORKS`) and ``sizes``.

    Raises:
        TrainingError: for an unknown kind or size.
    """
    kind = settings["kind"]
    if kind not in SPECIES_NETWORKS:
        raise TrainingError(
            f"segal.network.kind: '{kind}' is no network for any number of species, expected one of "
            f"{', '.join(SPECIES_NETWORKS)}{suggest(kind, SPECIES_NETWORKS)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        try:
            return SPECIES_NETWORKS[kind](cell, n_classes, n_conditions, **settings.get("sizes", {}))
        except TypeError as error:
            raise TrainingError(f"segal.network.sizes: {error}") from None


def log_conditionals(logits: Tensor, occupations: Tensor) -> Tensor:
    """Return the log probability of what every site holds, float64 (batch, n_sites)."""
    return torch.log_softmax(logits.double(), dim=2).gather(2, occupations[:, :, None])[:, :, 0]
