"""Response functions by differentiating the network (log-derivative trick), to hold against fluctuations.

With q the network's own distribution, ``d<O>/dT = <dO/dT> + <(O - <O>) d ln q/dT>`` and likewise for delta_mu. Where q
is the Boltzmann distribution these are the heat capacity and the susceptibility; a difference from the fluctuations of
the weighted samples is the network's error in how it depends on T and delta_mu.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.autograd.forward_ad as forward

from segalflow.segal.sampler import TrainedSampler, fields_in_torch, to_device

AT_ONCE = 1024
"""Decorations differentiated together: limits the memory."""


def log_prob_slopes(
    sampler: TrainedSampler, spins: np.ndarray, temperature: np.ndarray, delta_mu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return d ln q/dT and d ln q/d delta_mu, float64 (batch,), of given spins, int8 (batch, n_sites).

    Exact derivatives of the network by forward differentiation; `temperature` and `delta_mu` have shape (batch,).
    """
    beta = 1.0 / (sampler.model.boltzmann * temperature)
    along_t, along_mu = sampler.domain.encode_slopes(temperature, delta_mu)
    nothing, one = np.zeros(len(beta)), np.ones(len(beta))
    directions = ((-beta / temperature, nothing, along_t), (nothing, one, along_mu))
    values = (beta, delta_mu, sampler.domain.encode(temperature, delta_mu))
    spins = sampler.placed(spins)
    network, fields = sampler.network, fields_in_torch(sampler, spins)
    signs = to_device(network, spins)
    found = []
    for direction in directions:
        with torch.no_grad(), forward.dual_level():
            inputs = [
                forward.make_dual(to_device(network, value), to_device(network, slope))
                for value, slope in zip(values, direction, strict=True)
            ]
            logits = network.logits(signs, fields, *inputs)
            terms = torch.nn.functional.logsigmoid(logits.double() * signs.double())
            found.append(forward.unpack_dual(terms.sum(1)).tangent.cpu().numpy())
    return found[0], found[1]


def network_responses(
    sampler: TrainedSampler, temperature: float, delta_mu: np.ndarray, n: int, seed: int
) -> dict[str, np.ndarray]:
    """Return heat capacity (k_B/site) and susceptibility (1/eV/site or 1/J) of the network with standard errors.

    Args:
        sampler: the trained network.
        temperature: K (or J/k_B).
        delta_mu: shape (n_delta_mu,).
        n: draws of each condition.
        seed: seed of the draws.

    Returns:
        ``heat_capacity_network``, ``susceptibility_network`` and their ``_stderr``, each (n_delta_mu,).
    """
    t, mu = np.full(n * len(delta_mu), float(temperature)), np.repeat(delta_mu, n)
    spins, _, energy = sampler.sample(t, mu, seed)
    parts = [slice(first, first + AT_ONCE) for first in range(0, len(t), AT_ONCE)]
    slopes = [log_prob_slopes(sampler, spins[part], t[part], mu[part]) for part in parts]
    by_t, by_mu = (np.concatenate(half) for half in zip(*slopes, strict=True))
    shape = (len(delta_mu), n)
    n_plus = (spins > 0).sum(1).astype(float).reshape(shape)
    grand = energy.reshape(shape) - delta_mu[:, None] * n_plus
    found = {}
    for name, observable, slope, unit in (
        ("heat_capacity", grand, by_t, sampler.model.boltzmann),
        ("susceptibility", n_plus, by_mu, 1.0),
    ):
        # Slopes of ln q have mean zero: centring both factors only takes noise away (with n - 1 for the means).
        slope = slope.reshape(shape)
        product = (observable - observable.mean(1, keepdims=True)) * (slope - slope.mean(1, keepdims=True))
        scale = 1.0 / (unit * sampler.n_sites)
        found[f"{name}_network"] = scale * product.sum(1) / (n - 1)
        found[f"{name}_network_stderr"] = scale * product.std(1, ddof=1) / np.sqrt(n)
    return found
