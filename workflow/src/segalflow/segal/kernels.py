"""One pass of the physics network over all sites, many samples side by side: draws decorations or scores given ones.

A block of `LANES` samples moves through the sites together: layers are matrix products over the block, every other
inner loop runs over its lanes. The energy comes free: it is the sum of the exact past fields.
`segalflow.segal.network` is its twin.
"""

from __future__ import annotations

import numba
import numpy as np

LANES = 128


@numba.njit(inline="always")
def _uniform(state):  # pragma: no cover - compiled
    """SplitMix64 step: return the new state and a float in (0, 1) with 24 random bits."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, (np.float64(z >> np.uint64(40)) + 0.5) * 5.9604644775390625e-08


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def run_pass(
    draw,
    spins,
    states,
    beta,
    delta_mu,
    row,
    film,
    site_bias,
    starts,
    seen,
    displacement,
    n_classes,
    start,
    coefficient,
    n_placed,
    placed,
    constant,
    w1,
    v,
    b1,
    w2,
    b2,
    u_site,
    c_site,
    bias,
    log_p,
    energy,
):  # pragma: no cover - compiled
    """Draw (`draw` true) or score `spins`, int8 (batch, n_sites); fill `log_p` and `energy`, float64 (batch,).

    `row` is each sample's row of `film` and `site_bias`; `states` its random generator. `u_site` includes the shared u.
    """
    batch, n_sites = spins.shape
    hidden = w2.shape[0]
    n_features = n_classes + 1
    f32 = np.float32
    s = np.zeros((n_sites, LANES), dtype=np.float32)
    z1 = np.zeros((hidden, LANES), dtype=np.float32)
    z2 = np.zeros((hidden, LANES), dtype=np.float32)
    x = np.zeros((n_features, LANES), dtype=np.float32)
    gathered = np.zeros((n_sites, hidden), dtype=np.float32)
    near = np.zeros((n_sites, LANES), dtype=np.float32)
    fm = np.zeros((film.shape[1], LANES), dtype=np.float32)
    out = np.zeros(LANES, dtype=np.float32)
    total = np.zeros(LANES, dtype=np.float32)
    exact = np.zeros(LANES, dtype=np.float64)
    running = np.zeros(LANES, dtype=np.float32)
    b32 = np.zeros(LANES, dtype=np.float32)
    lp = np.zeros(LANES, dtype=np.float64)
    en = np.zeros(LANES, dtype=np.float64)
    for first in range(0, batch, LANES):
        width = min(LANES, batch - first)
        for lane in range(LANES):
            source = first + min(lane, width - 1)
            b32[lane] = beta[source]
            running[lane] = 0.0
            lp[lane] = 0.0
            en[lane] = constant
            for k in range(film.shape[1]):
                fm[k, lane] = film[row[source], k]
        for i in range(n_sites):
            # Fields of the placed part.
            for k in range(n_classes):
                low, high = start[i * n_classes + k], start[i * n_classes + k + 1]
                if k == 0:
                    exact[:] = 0.0
                    for t in range(low, high):
                        c = coefficient[t]
                        if n_placed[t] == 0:
                            for lane in range(LANES):
                                exact[lane] += c
                        elif n_placed[t] == 1:
                            a = placed[t, 0]
                            for lane in range(LANES):
                                exact[lane] += c * s[a, lane]
                        elif n_placed[t] == 2:
                            a, b = placed[t, 0], placed[t, 1]
                            for lane in range(LANES):
                                exact[lane] += c * (s[a, lane] * s[b, lane])
                        elif n_placed[t] == 3:
                            a, b, d = placed[t, 0], placed[t, 1], placed[t, 2]
                            for lane in range(LANES):
                                exact[lane] += c * (s[a, lane] * s[b, lane] * s[d, lane])
                        else:
                            for lane in range(LANES):
                                product = f32(1.0)
                                for m in range(n_placed[t]):
                                    product *= s[placed[t, m], lane]
                                exact[lane] += c * product
                    for lane in range(LANES):
                        total[lane] = exact[lane]
                else:
                    total[:] = 0.0
                    for t in range(low, high):
                        c = f32(coefficient[t])
                        if n_placed[t] == 0:
                            for lane in range(LANES):
                                total[lane] += c
                        elif n_placed[t] == 1:
                            a = placed[t, 0]
                            for lane in range(LANES):
                                total[lane] += c * s[a, lane]
                        elif n_placed[t] == 2:
                            a, b = placed[t, 0], placed[t, 1]
                            for lane in range(LANES):
                                total[lane] += c * s[a, lane] * s[b, lane]
                        else:
                            for lane in range(LANES):
                                product = c
                                for m in range(n_placed[t]):
                                    product *= s[placed[t, m], lane]
                                total[lane] += product
                for lane in range(LANES):
                    y = b32[lane] * total[lane]
                    x[k, lane] = y / (f32(1.0) + f32(0.2) * abs(y))
            scale = f32(1.0 / max(i, 1))
            for lane in range(LANES):
                x[n_classes, lane] = running[lane] * scale
            # First layer: placed spins by displacement, as one matrix product over the block.
            first_seen, n_seen = starts[i], starts[i + 1] - starts[i]
            for m in range(n_seen):
                source = seen[first_seen + m]
                for h in range(hidden):
                    gathered[m, h] = w1[displacement[first_seen + m], h]
                for lane in range(LANES):
                    near[m, lane] = s[source, lane]
            if n_seen > 0:
                np.dot(gathered[:n_seen].T, near[:n_seen], z1)
            else:
                z1[:] = 0.0
            for h in range(hidden):
                for lane in range(LANES):
                    z1[h, lane] += b1[i, h]
            for k in range(n_features):
                for h in range(hidden):
                    a0 = v[k, h]
                    for lane in range(LANES):
                        z1[h, lane] += a0 * x[k, lane]
            for h in range(hidden):
                for lane in range(LANES):
                    y = z1[h, lane] * (f32(1.0) + fm[h, lane]) + fm[hidden + h, lane]
                    z1[h, lane] = f32(0.5) * y * (f32(1.0) + y / np.sqrt(f32(1.0) + y * y))
            # Second layer with its residual.
            np.dot(w2.T, z1, z2)
            for h in range(hidden):
                for lane in range(LANES):
                    z2[h, lane] += b2[i, h]
            out[:] = bias[i]
            for h in range(hidden):
                a0 = u_site[i, h]
                for lane in range(LANES):
                    y = z2[h, lane] * (f32(1.0) + fm[2 * hidden + h, lane]) + fm[3 * hidden + h, lane]
                    out[lane] += a0 * (f32(0.5) * y * (f32(1.0) + y / np.sqrt(f32(1.0) + y * y)) + z1[h, lane])
            for k in range(n_features):
                a0 = c_site[i, k]
                for lane in range(LANES):
                    out[lane] += x[k, lane] * (a0 + fm[4 * hidden + k, lane])
            for lane in range(LANES):
                source = first + min(lane, width - 1)
                logit = (
                    out[lane]
                    + site_bias[row[source], i]
                    + fm[4 * hidden + n_features, lane]
                    + beta[source] * (delta_mu[source] - 2.0 * exact[lane])
                )
                if draw:
                    value = f32(-1.0)
                    if lane < width:
                        states[source], u = _uniform(states[source])
                        # u < sigmoid(logit) without overflow
                        if np.log(u / (1.0 - u)) < logit:
                            value = f32(1.0)
                        spins[source, i] = np.int8(value)
                else:
                    value = f32(spins[source, i])
                signed = -value * logit
                # -log sigmoid(value * logit), stable on both sides
                lp[lane] -= max(signed, 0.0) + np.log1p(np.exp(-abs(signed)))
                en[lane] += value * exact[lane]
                s[i, lane] = value
                running[lane] += value
        for lane in range(width):
            log_p[first + lane] = lp[lane]
            energy[first + lane] = en[lane]
