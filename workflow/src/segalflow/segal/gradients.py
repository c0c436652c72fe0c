"""Loss and gradients of the physics network in one fused pass: what autograd does, several times faster.

For given spins every site's conditional is independent of the other sites' outputs, so a block of configurations goes
through the sites one by one, forwards and at once backwards; only the modulation by the condition stays with autograd,
which gets its gradient. `segalflow.segal.network.PhysicsNetwork.logits` is the twin.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from segalflow.compilation import numba
from segalflow.segal.kernels import carve, matrix_product
from segalflow.segal.network import PhysicsNetwork
from segalflow.segal.resources import MEMORY_MB, device_of, in_parts

LANES = 64
"""Configurations of a block."""


def likelihood_step(
    network: PhysicsNetwork,
    spins: np.ndarray,
    fields: np.ndarray,
    labels: np.ndarray,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    condition: torch.Tensor,
    memory_mb: float = MEMORY_MB,
    sites: tuple[int, int] = (0, 1),
) -> float:
    """Set the gradients of the cross-entropy with soft labels, summed over sites, averaged over configurations.

    Args:
        network: the network; its ``grad`` fields are replaced.
        spins: +-1, int8 (batch, n_sites).
        fields: ``h_i^(k)``, float32 (batch, n_sites, n_classes).
        labels: probability of species 1 given all other sites, float32 (batch, n_sites).
        beta, delta_mu: (batch,).
        condition: `ConditionRange.encode`, (batch, 4).
        memory_mb: not needed, the kernel works on small blocks.
        sites: first and step of the sites whose terms count, (0, 1) for all: given the spins, each stands for itself.

    Returns:
        The loss of these sites.
    """
    counted = slice(sites[0], None, sites[1])
    film, site = network.modulation(condition)
    own = {name: values.detach() for name, values in network.by_site().items()}
    w = {name: p.detach().numpy() for name, p in {**dict(network.named_parameters()), **own}.items()}
    # PyTorch's own memory is aligned. Matrix products round differently at other alignments, which differ between runs.
    names = ("w1", "v", "b1", "w2", "b2", "u_site", "c_site", "bias")
    found = {name: torch.zeros_like(own[name] if name in own else network.get_parameter(name)) for name in names}
    film_slope, site_slope = torch.zeros_like(film), torch.zeros_like(site)
    grads = {name: gradient.numpy() for name, gradient in found.items()}
    film_grad, site_grad = film_slope.numpy(), site_slope.numpy()
    loss = _step(
        spins, *sites, np.ascontiguousarray(fields[:, counted].transpose(1, 2, 0)),
        np.ascontiguousarray(labels[:, counted].T),
        beta.astype(np.float32), delta_mu.astype(np.float32),
        film.detach().numpy(), site.detach().numpy(), network.starts.numpy(), network.seen.numpy(),
        network.displacement.numpy(),
        w["w1"], w["v"], w["b1"], w["w2"], np.ascontiguousarray(w["w2"].T), w["b2"], w["u_site"] + w["u"], w["c_site"],
        w["bias"], grads["w1"], grads["v"], grads["b1"], grads["w2"], grads["b2"], grads["u_site"], grads["c_site"],
        grads["bias"], film_grad, site_grad,
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.grad = None
    torch.autograd.backward([film, site], [film_slope, site_slope])
    features = network.features
    for name, gradient in found.items():
        shared = features is not None and name in own
        network.get_parameter(name).grad = features.T @ gradient if shared else gradient
    network.u.grad = found["u_site"].sum(dim=0)
    return float(loss)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _step(
    spins, first_site, site_step, fields, labels, beta, delta_mu, film, site_bias, starts, seen, displacement, w1, v,
    b1, w2, w2_t, b2, u_site, c_site, bias,
    d_w1, d_v, d_b1, d_w2, d_b2, d_u, d_c, d_bias, d_film, d_site,
):  # pragma: no cover - compiled  # fmt: skip
    batch, n_sites = spins.shape
    n_classes = fields.shape[1]
    hidden, n_features = w2.shape[0], n_classes + 1
    f32 = np.float32
    one, half = f32(1.0), f32(0.5)
    share = f32(1.0 / batch)
    n_film = film.shape[1]
    # Parts of one array, and copies of what vector loops read of the input: see `carve`.
    scratch = np.zeros((2 * n_sites + 10 * hidden + n_features + 2 * n_film + 5) * LANES, dtype=np.float32)
    s, at = carve(scratch, 0, n_sites, LANES)
    near, at = carve(scratch, at, n_sites, LANES)
    x, at = carve(scratch, at, n_features, LANES)
    p1, at = carve(scratch, at, hidden, LANES)  # before modulation
    z1, at = carve(scratch, at, hidden, LANES)
    k1, at = carve(scratch, at, hidden, LANES)  # slopes of the gates
    p2, at = carve(scratch, at, hidden, LANES)
    k2, at = carve(scratch, at, hidden, LANES)
    a2, at = carve(scratch, at, hidden, LANES)
    e1, at = carve(scratch, at, hidden, LANES)
    e2, at = carve(scratch, at, hidden, LANES)
    back, at = carve(scratch, at, hidden, LANES)
    fm, at = carve(scratch, at, n_film, LANES)
    d_fm, at = carve(scratch, at, n_film, LANES)
    lane_rows, at = carve(scratch, at, 5, LANES)
    out, delta, running, b32, raw = lane_rows[0], lane_rows[1], lane_rows[2], lane_rows[3], lane_rows[4]
    gathered = np.zeros((n_sites, hidden), dtype=np.float32)
    product = np.zeros((hidden, hidden), dtype=np.float32)
    loss = 0.0
    for first in range(0, batch, LANES):
        width = min(LANES, batch - first)
        for lane in range(LANES):
            source = first + min(lane, width - 1)
            running[lane] = f32(0.0)
            b32[lane] = beta[source]
            for k in range(film.shape[1]):
                fm[k, lane] = film[source, k]
            for i in range(n_sites):
                s[i, lane] = spins[source, i]
        d_fm[:] = f32(0.0)
        for i in range(n_sites):
            if (i - first_site) % site_step != 0:
                for lane in range(LANES):
                    running[lane] += s[i, lane]
                continue
            j = (i - first_site) // site_step  # place among the sites that count
            for k in range(n_classes):
                for lane in range(width):
                    raw[lane] = fields[j, k, first + lane]
                for lane in range(LANES):
                    y = b32[lane] * raw[lane]
                    x[k, lane] = y / (one + f32(0.2) * abs(y))
            scale = f32(1.0 / max(i, 1))
            for lane in range(LANES):
                x[n_classes, lane] = running[lane] * scale
                running[lane] += s[i, lane]
            # Forwards.
            first_seen, n_seen = starts[i], starts[i + 1] - starts[i]
            for m in range(n_seen):
                source = seen[first_seen + m]
                for h in range(hidden):
                    gathered[m, h] = w1[displacement[first_seen + m], h]
                for lane in range(LANES):
                    near[m, lane] = s[source, lane]
            matrix_product(gathered[:n_seen], near[:n_seen], p1)
            for h in range(hidden):
                for lane in range(LANES):
                    p1[h, lane] += b1[i, h]
                for k in range(n_features):
                    a = v[k, h]
                    for lane in range(LANES):
                        p1[h, lane] += a * x[k, lane]
                for lane in range(LANES):
                    y = p1[h, lane] * (one + fm[h, lane]) + fm[hidden + h, lane]
                    r = one / np.sqrt(one + y * y)
                    t = y * r
                    z1[h, lane] = half * y * (one + t)
                    k1[h, lane] = half * (one + t + t * r * r)
            matrix_product(w2, z1, p2)
            out[:] = bias[i]
            for h in range(hidden):
                u = u_site[i, h]
                for lane in range(LANES):
                    p2[h, lane] += b2[i, h]
                    y = p2[h, lane] * (one + fm[2 * hidden + h, lane]) + fm[3 * hidden + h, lane]
                    r = one / np.sqrt(one + y * y)
                    t = y * r
                    a2[h, lane] = half * y * (one + t)
                    k2[h, lane] = half * (one + t + t * r * r)
                    out[lane] += u * (a2[h, lane] + z1[h, lane])
            for k in range(n_features):
                a = c_site[i, k]
                for lane in range(LANES):
                    out[lane] += x[k, lane] * (a + fm[4 * hidden + k, lane])
            # The loss and its slope.
            for lane in range(LANES):
                delta[lane] = f32(0.0)
            for lane in range(width):
                source = first + lane
                logit = (
                    out[lane]
                    + site_bias[source, i]
                    + fm[4 * hidden + n_features, lane]
                    + beta[source] * (delta_mu[source] - f32(2.0) * fields[j, 0, source])
                )
                small = np.exp(-abs(logit))
                label = labels[j, source]
                loss += max(logit, f32(0.0)) - logit * label + np.log1p(small)
                chance = one / (one + small) if logit >= f32(0.0) else small / (one + small)
                slope = (chance - label) * share
                delta[lane] = slope
                d_bias[i] += slope
                d_site[source, i] = slope
                d_fm[4 * hidden + n_features, lane] += slope
            # Backwards.
            for k in range(n_features):
                total = f32(0.0)
                for lane in range(LANES):
                    d = delta[lane] * x[k, lane]
                    d_fm[4 * hidden + k, lane] += d
                    total += d
                d_c[i, k] += total
            for h in range(hidden):
                u = u_site[i, h]
                g_u, g_b = f32(0.0), f32(0.0)
                for lane in range(LANES):
                    d = delta[lane]
                    g_u += d * (a2[h, lane] + z1[h, lane])
                    y = d * u * k2[h, lane]
                    d_fm[2 * hidden + h, lane] += y * p2[h, lane]
                    d_fm[3 * hidden + h, lane] += y
                    y *= one + fm[2 * hidden + h, lane]
                    e2[h, lane] = y
                    g_b += y
                d_u[i, h] += g_u
                d_b2[i, h] += g_b
            np.dot(z1, e2.T, product)
            d_w2 += product
            matrix_product(w2_t, e2, back)
            for h in range(hidden):
                u = u_site[i, h]
                g_b = f32(0.0)
                for lane in range(LANES):
                    y = (back[h, lane] + delta[lane] * u) * k1[h, lane]
                    d_fm[h, lane] += y * p1[h, lane]
                    d_fm[hidden + h, lane] += y
                    y *= one + fm[h, lane]
                    e1[h, lane] = y
                    g_b += y
                d_b1[i, h] += g_b
                for k in range(n_features):
                    total = f32(0.0)
                    for lane in range(LANES):
                        total += x[k, lane] * e1[h, lane]
                    d_v[k, h] += total
            if n_seen > 0:
                np.dot(near[:n_seen], e1.T, gathered[:n_seen])
                for m in range(n_seen):
                    for h in range(hidden):
                        d_w1[displacement[first_seen + m], h] += gathered[m, h]
        for lane in range(width):
            for k in range(film.shape[1]):
                d_film[first + lane, k] = d_fm[k, lane]
    return loss / batch


def autograd_step(
    network: torch.nn.Module,
    spins: np.ndarray,
    fields: np.ndarray,
    labels: np.ndarray,
    beta: np.ndarray,
    delta_mu: np.ndarray,
    condition: torch.Tensor,
    memory_mb: float = MEMORY_MB,
    sites: tuple[int, int] = (0, 1),
) -> float:
    """Set the gradients of the cross-entropy with soft labels of any network (arguments of `likelihood_step`).

    A batch that takes more than `memory_mb` goes in parts, whose gradients add up.
    """
    device = device_of(network)
    counted = slice(sites[0], None, sites[1])
    arrays = [np.asarray(values, dtype=np.float32) for values in (spins, fields, beta, delta_mu, labels[:, counted])]
    total = 0.0

    def work(part: slice) -> None:
        nonlocal total
        signs, local, *conditions, target = (torch.from_numpy(values[part]).to(device) for values in arrays)
        logits = network.logits(signs, local, *conditions, condition[part].to(device))[:, counted]
        # Its floor is the labels' own entropy, not zero.
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(spins)
        loss.backward()
        total += float(loss.detach())

    def restart() -> None:
        nonlocal total
        total = 0.0
        network.zero_grad(set_to_none=True)

    restart()
    in_parts(work, len(spins), network.bytes_per_decoration, memory_mb, restart)
    return total


def fused_or_autograd(network: torch.nn.Module) -> Callable[..., float]:
    """Return the step that serves a network where it is: fused on a CPU for those that have one."""
    return GRADIENTS.get(type(network), autograd_step) if device_of(network).type == "cpu" else autograd_step


GRADIENTS: dict[type, Callable[..., float]] = {PhysicsNetwork: likelihood_step}
"""Fused gradients by network; `autograd_step` serves the others."""
