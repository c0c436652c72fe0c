"""The networks: conditionals of every site given the sites before it, T and delta_mu.

A network is a `torch.nn.Module` with ``logits(spins, fields, beta, delta_mu, condition)``, and ``draw``, which places
one site after the other. The probability of species 1 on site i is ``sigmoid(logit_i)`` and may depend on the spins of
earlier sites only. To add one, write the module and register it in `NETWORKS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segalflow.errors import TrainingError, suggest
from segalflow.lattice import Supercell
from segalflow.segal.orders import nearest_distances, placement

FieldsAt = Callable[[int, Tensor], Tensor]
"""Fields of a site, (batch, n_classes), from the spins placed before it, (batch, n_sites)."""

SITE_PARAMETERS = ("b1", "b2", "u_site", "c_site", "bias")
"""Parameters of `PhysicsNetwork` that belong to single sites."""


def gate(x: Tensor) -> Tensor:
    """Return ``x (1 + x / sqrt(1 + x^2)) / 2``: shaped like SiLU, but without an exponential (kernels stay fast)."""
    return 0.5 * x * (1 + x * torch.rsqrt(1 + x * x))


def squash(x: Tensor) -> Tensor:
    """Return ``x / (1 + |x| / 5)``: linear for small reduced fields, at most 5 for large ones."""
    return x / (1 + 0.2 * x.abs())


def relative_sites(cell: Supercell, order: np.ndarray | None = None) -> np.ndarray:
    """Return the class of the displacement from site j to site i of an order, shape (n_sites, n_sites): [i, j].

    Two pairs share a class when a lattice translation maps one onto the other (sublattices kept apart).
    """
    n_sub = cell.lattice.n_sublattices
    sites = cell.sites if order is None else cell.sites[order]
    sub, offset = sites[:, 0], sites[:, 1:]
    displaced = cell.site_index(0, offset[None, :, :] - offset[:, None, :]) // n_sub
    return (sub[:, None] * n_sub + sub[None, :]) * cell.n_cells + displaced


def seen_sites(cell: Supercell, window: float | None, order: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return which earlier sites each site sees, compressed rows: starts (n_sites + 1,) and sites.

    Args:
        cell: the cell.
        window: largest distance to the nearest image, Angstrom; None sees all earlier sites. With a window the cost of
            a sample grows as the number of sites, and not as its square.
        order: the sites in the order of their placement (None: the cell's own), which the result counts in.
    """
    n = cell.n_sites
    rows = [np.arange(i) for i in range(n)]
    if window is not None:
        nearest = nearest_distances(cell)
        nearest = nearest if order is None else nearest[np.ix_(order, order)]
        rows = [row[nearest[i, :i] <= window + 1e-6] for i, row in enumerate(rows)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return starts.astype(np.int64), np.concatenate(rows).astype(np.int64)


def surroundings(starts: np.ndarray, displacement: np.ndarray, rank: int) -> np.ndarray:
    """Return features of which neighbours of each site are placed before it, float32 (n_sites, up to rank + 1).

    A one and the leading principal components, of unit variance, of the masks of seen displacements. Sites far from
    both ends of the order along every axis have the same mask, and so the same features.

    Args:
        starts, displacement: compressed rows of the displacements that each site sees.
        rank: most components.
    """
    n = len(starts) - 1
    mask = np.zeros((n, int(displacement.max(initial=0)) + 1))
    mask[np.repeat(np.arange(n), np.diff(starts)), displacement] = 1.0
    left, size, _ = np.linalg.svd(mask - mask.mean(axis=0), full_matrices=False)
    kept = left[:, : min(rank, int((size > 1e-9 * size.max(initial=1.0)).sum()))]
    return np.column_stack([np.ones(n), kept * np.sqrt(n)]).astype(np.float32)


class PhysicsNetwork(nn.Module):
    """Shared-weight network on physical features (the recommended architecture).

    ``logit_i = beta dmu - 2 beta h_i^(0) + u_i . z2 + C_i . x + bias``: the exact conditional of the placed part plus a
    correction by two small layers over the reduced open fields, the running mean and the placed spins, whose weights
    depend only on the displacement between sites; T and delta_mu modulate both layers. `window` (Angstrom) limits the
    placed spins a site sees (`seen_sites`), for large cells; the fields and the running mean still hold all of them.

    What belongs to single sites makes up for neighbours that are not placed yet. Free for every site it is learnt from
    that site alone, and its noise adds up over a large cell; with `site_features` it is linear in so many features of
    the placed neighbours (`surroundings`), the same for all sites that see alike.
    """

    kind = "physics"
    uses_fields = True

    def __init__(
        self,
        cell: Supercell,
        n_classes: int,
        hidden: int = 32,
        window: float | None = None,
        order: np.ndarray | None = None,
        site_features: int | None = None,
    ) -> None:
        super().__init__()
        n = cell.n_sites
        relative = relative_sites(cell, order)
        starts, seen = seen_sites(cell, window, order)
        site = np.repeat(np.arange(n), np.diff(starts))
        if window is not None:
            # Number only the displacements that occur.
            used, number = np.unique(relative[site, seen], return_inverse=True)
            numbers, n_displacements = number.ravel(), len(used)
        else:
            numbers, n_displacements = relative[site, seen], int(relative.max()) + 1
        self.n_sites, self.n_classes, self.hidden = n, n_classes, hidden
        self.first_seen = starts.tolist()
        for name, value in (("starts", starts), ("seen", seen), ("displacement", numbers), ("site", site)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, dtype=np.int64)), persistent=False)
        self.register_buffer("counts", torch.arange(n).clamp(min=1).float(), persistent=False)
        features = None if site_features is None else torch.from_numpy(surroundings(starts, numbers, site_features))
        # Kept with the weights: components of equal size may come out turned on another machine.
        self.register_buffer("features", features)
        own = n if features is None else features.shape[1]
        n_features = n_classes + 1
        scale = hidden**-0.5
        self.w1 = nn.Parameter(0.02 * torch.randn(max(n_displacements, 1), hidden))
        self.v = nn.Parameter(0.1 * torch.randn(n_features, hidden))
        self.b1 = nn.Parameter(torch.zeros(own, hidden))
        self.w2 = nn.Parameter(scale * torch.randn(hidden, hidden))
        self.b2 = nn.Parameter(torch.zeros(own, hidden))
        self.u = nn.Parameter(0.01 * torch.randn(hidden))
        self.u_site = nn.Parameter(torch.zeros(own, hidden))
        self.c_site = nn.Parameter(torch.zeros(own, n_features))
        self.bias = nn.Parameter(torch.zeros(own))
        self.condition_layers = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.film = nn.Linear(32, 4 * hidden + n_features + 1)
        self.site_bias = nn.Linear(32, own)
        for layer in (self.film, self.site_bias):
            nn.init.zeros_(layer.bias)
            nn.init.normal_(layer.weight, std=0.01)

    def modulation(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the modulation of layers, (batch, 4 hidden + n_features + 1), and of sites, (batch, n_sites)."""
        z = self.condition_layers(condition)
        site = self.site_bias(z)
        return self.film(z), site if self.features is None else site @ self.features.T

    def by_site(self) -> dict[str, Tensor]:
        """Return the parameters `SITE_PARAMETERS` of every site, the first axis the sites."""
        own = {name: getattr(self, name) for name in SITE_PARAMETERS}
        return own if self.features is None else {name: self.features @ value for name, value in own.items()}

    def logits(self, spins: Tensor, fields: Tensor, beta: Tensor, delta_mu: Tensor, condition: Tensor) -> Tensor:
        """Return all logits at once, (batch, n_sites).

        Args:
            spins: +-1, float (batch, n_sites).
            fields: ``h_i^(k)``, (batch, n_sites, n_classes).
            beta, delta_mu: (batch,).
            condition: `ConditionRange.encode`, (batch, 4).
        """
        n, hidden = self.n_sites, self.hidden
        running = torch.cumsum(spins, dim=1)
        mean = torch.cat([torch.zeros_like(running[:, :1]), running[:, :-1]], dim=1) / self.counts
        dense = spins.new_zeros(n, n, hidden).index_put((self.site, self.seen), self.w1[self.displacement])
        seen = (spins @ dense.permute(1, 0, 2).reshape(n, n * hidden)).view(-1, n, hidden)
        modulation, own = self.modulation(condition), self.by_site()
        return self._conditionals(slice(0, n), own, seen, fields, mean, beta, delta_mu, modulation)

    def _conditionals(
        self,
        sites: slice,
        own: Mapping[str, Tensor],
        seen: Tensor,
        fields: Tensor,
        mean: Tensor,
        beta: Tensor,
        delta_mu: Tensor,
        modulation: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Logits of some sites, (batch, len), from what they see of placed spins, (batch, len, hidden)."""
        hidden, (film, site) = self.hidden, modulation
        g1, d1, g2, d2 = (film[:, None, k * hidden : (k + 1) * hidden] for k in range(4))
        weights, offset = film[:, None, 4 * hidden : -1], film[:, -1:]
        reduced = squash(beta[:, None, None] * fields)
        x = torch.cat([reduced, mean[:, :, None]], dim=2)
        z1 = gate((seen + x @ self.v + own["b1"][sites]) * (1 + g1) + d1)
        z2 = gate((z1 @ self.w2 + own["b2"][sites]) * (1 + g2) + d2) + z1
        correction = (z2 * (self.u + own["u_site"][sites])).sum(-1) + (x * (own["c_site"][sites] + weights)).sum(-1)
        exact = beta[:, None] * (delta_mu[:, None] - 2 * fields[:, :, 0])
        return exact + correction + own["bias"][sites] + site[:, sites] + offset

    def draw(
        self, uniform: Tensor, fields_at: FieldsAt, beta: Tensor, delta_mu: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return +-1 draws and their logits, float (batch, n_sites), for uniform numbers of that shape, in one pass.

        `fields_at` gives the fields of one site, (batch, n_classes), from the spins placed before it. On a CPU the
        compiled kernel (`segalflow.segal.kernels`) is faster.
        """
        modulation, own = self.modulation(condition), self.by_site()
        spins, total = torch.zeros_like(uniform), uniform.new_zeros(len(uniform), 1)
        logits = torch.empty_like(uniform)
        for i, (first, last) in enumerate(itertools.pairwise(self.first_seen)):
            seen = spins[:, self.seen[first:last]] @ self.w1[self.displacement[first:last]]
            fields, mean = fields_at(i, spins)[:, None], total / max(i, 1)
            logit = self._conditionals(slice(i, i + 1), own, seen[:, None], fields, mean, beta, delta_mu, modulation)
            logits[:, i] = logit[:, 0]
            spins[:, i] = torch.where(uniform[:, i] < torch.sigmoid(logit[:, 0]), 1.0, -1.0)
            total = total + spins[:, i : i + 1]
        return spins, logits

    @property
    def bytes_per_decoration(self) -> int:
        """Estimated memory of one decoration in a pass with gradients, bytes: what the layers of all sites keep."""
        return 4 * self.n_sites * (8 * self.hidden + 6 * (self.n_classes + 1))

    @property
    def bytes_per_draw(self) -> int:
        """Estimated memory of one decoration while it is drawn, bytes: its sites, and the layers of one of them."""
        return 4 * (6 * self.n_sites + 24 * self.hidden + 2 * int(self.starts.diff().max()))


class MaskedNetwork(nn.Module):
    """The paper's masked multilayer perceptron (MADE): a reference model.

    Hidden layers of ``width * n_sites`` units in n_sites groups; group g sees groups up to g, output i groups before i.
    """

    kind = "made"
    uses_fields = False

    def __init__(
        self,
        cell: Supercell,
        n_classes: int,
        layers: int = 3,
        width: int = 2,
        activation: str = "tanh",
        order: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        n = cell.n_sites  # of sites only their place counts here, so `order` changes nothing
        if activation not in ("tanh", "sigmoid"):
            raise TrainingError(f"segal.network.activation: expected tanh or sigmoid, found '{activation}'")
        self.n_sites, self.n_classes, self.activation = n, n_classes, activation
        group = torch.arange(n)
        hidden = group.repeat_interleave(width)
        sizes = [group] + [hidden] * layers + [group]
        self.weights, self.biases, self.conditions = nn.ParameterList(), nn.ParameterList(), nn.ModuleList()
        for number, (source, target) in enumerate(itertools.pairwise(sizes)):
            last = number == layers
            mask = (source[None, :] < target[:, None]) if number == 0 else (source[None, :] <= target[:, None])
            # Hidden group g holds what lies before site g; the first layer's strict mask does all the masking.
            self.register_buffer(f"mask{number}", mask.float(), persistent=False)
            gain = 0.01 if last else 1.0
            self.weights.append(nn.Parameter(gain * torch.randn(len(target), len(source)) * len(source) ** -0.5))
            self.biases.append(nn.Parameter(torch.zeros(len(target))))
            self.conditions.append(nn.Linear(4, len(target)))

    def logits(self, spins: Tensor, fields: Tensor, beta: Tensor, delta_mu: Tensor, condition: Tensor) -> Tensor:
        """Return all logits at once, (batch, n_sites); `fields` are not used (the paper's network sees spins only)."""
        squeeze = self._squeeze
        z = spins
        for number, (weight, bias, extra) in enumerate(zip(self.weights, self.biases, self.conditions, strict=True)):
            z = z @ (weight * getattr(self, f"mask{number}")).T + bias + extra(condition)
            if number < len(self.weights) - 1:
                z = squeeze(z)
        return z

    @property
    def _squeeze(self) -> Callable[[Tensor], Tensor]:
        return torch.tanh if self.activation == "tanh" else torch.sigmoid

    @property
    def bytes_per_decoration(self) -> int:
        """Estimated memory of one decoration in a pass with gradients, bytes."""
        return 4 * 4 * sum(len(weight) for weight in self.weights)

    @property
    def bytes_per_draw(self) -> int:
        """Estimated memory of one decoration while it is drawn, bytes."""
        return self.bytes_per_decoration

    def draw(
        self, uniform: Tensor, fields_at: FieldsAt, beta: Tensor, delta_mu: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return +-1 draws and their logits, float (batch, n_sites), for uniform numbers of that shape.

        It takes the time of one `logits`: group i of every layer needs earlier groups only, so it is computed once,
        when its turn comes.
        """
        n, last = self.n_sites, len(self.weights) - 1
        layers = zip(self.weights, self.biases, self.conditions, strict=True)
        extras = [bias + extra(condition) for _, bias, extra in layers]
        spins, logits = torch.zeros_like(uniform), torch.empty_like(uniform)
        hidden = [uniform.new_zeros(len(uniform), len(weight)) for weight in self.weights[:-1]]
        for i in range(n):
            z, seen = spins, i
            for number, weight in enumerate(self.weights):
                width = len(weight) // n
                own = slice(i * width, (i + 1) * width)
                found = z[:, :seen] @ weight[own, :seen].T + extras[number][:, own]
                if number < last:
                    hidden[number][:, own] = self._squeeze(found)
                    z, seen = hidden[number], (i + 1) * width
            logits[:, i] = found[:, 0]
            spins[:, i] = torch.where(uniform[:, i] < torch.sigmoid(found[:, 0]), 1.0, -1.0)
        return spins, logits


NETWORKS = {"physics": PhysicsNetwork, "made": MaskedNetwork}


def build_network(settings: Mapping[str, Any], cell: Supercell, n_classes: int, seed: int) -> nn.Module:
    """Return a freshly initialised network.

    Args:
        settings: ``kind`` (a key of `NETWORKS`), ``sizes``, that network's own keywords, and ``order``, a key of
            `segalflow.segal.orders.ORDERS`; spins and fields are then in this order.
        cell: the cell.
        n_classes: number of field classes (`PastFields.n_classes`).
        seed: seed of the initial weights.

    Raises:
        TrainingError: for an unknown kind or size.
    """
    kind, options = settings["kind"], dict(settings.get("sizes", {}))
    if kind not in NETWORKS:
        raise TrainingError(
            f"segal.network.kind: unknown network '{kind}', expected one of {', '.join(NETWORKS)}"
            f"{suggest(kind, NETWORKS)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        try:
            return NETWORKS[kind](cell, n_classes, order=placement(settings, cell, seed), **options)
        except TypeError as error:
            raise TrainingError(f"segal.network.sizes: {error}") from None
