"""Errors of correlated samples: autocorrelation times, jackknife over blocks, Bennett acceptance ratios."""

from __future__ import annotations

import numpy as np

from segalflow.errors import SamplingError


def autocorrelation_time(series: np.ndarray, window: float = 6.0) -> np.ndarray:
    """Return the integrated autocorrelation time ``1/2 + sum_t rho(t)`` of series (..., n), in samples, shape (...).

    The sum is cut at the first lag of at least `window` times the running estimate (Madras & Sokal 1988). Constant
    series give 1/2.
    """
    series = np.asarray(series, dtype=float)
    n = series.shape[-1]
    centred = series - series.mean(axis=-1, keepdims=True)
    size = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(centred, size, axis=-1)) ** 2
    covariance = np.fft.irfft(power, size, axis=-1)[..., :n]
    zero = covariance[..., :1]
    # Rounding of the mean leaves a constant series with a tiny, fully correlated rest: it counts as constant.
    varies = zero > n * (1e-10 * np.abs(series).max(axis=-1, keepdims=True)) ** 2
    rho = np.where(varies, covariance / np.where(varies, zero, 1.0), 0.0)
    rho[..., 0] = 1.0
    running = np.cumsum(rho, axis=-1) - 0.5
    enough = np.arange(n) >= window * running
    enough[..., -1] = True
    cut = np.argmax(enough, axis=-1)
    return np.maximum(np.take_along_axis(running, cut[..., None], axis=-1)[..., 0], 0.5)


def jackknife_error(leave_one_out: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the standard error from estimates that each leave one of n equal blocks out (along `axis`)."""
    n = leave_one_out.shape[axis]
    if n < 2:
        raise SamplingError(f"jackknife: expected at least 2 blocks, found {n}")
    spread = leave_one_out - leave_one_out.mean(axis=axis, keepdims=True)
    return np.sqrt((n - 1) / n * np.sum(spread**2, axis=axis))


def time_of_error(error: np.ndarray, variance: np.ndarray, sweeps: float) -> np.ndarray:
    """Return the autocorrelation time, in sweeps, that the standard error of a mean tells of, at least 1/2.

    ``error^2 = 2 time variance / sweeps``: for methods without a series at every condition, whose samples are
    reweighted from others too. NaN where nothing fluctuates.

    Args:
        error: standard error of the mean.
        variance: variance of the quantity itself, same shape.
        sweeps: sweeps of all chains together that went into the mean.
    """
    known = variance > 1e-12
    time = np.asarray(error) ** 2 * sweeps / (2 * np.where(known, variance, 1.0))
    return np.where(known, np.maximum(time, 0.5), np.nan)


def student_factor(groups: int) -> float:
    """Return what an error from the spread of `groups` is multiplied by, so that errors over errors have variance 1.

    The error is itself uncertain: without the factor, estimate over error follows Student's t with ``groups - 1``
    degrees of freedom, whose standard deviation is ``sqrt((groups - 1) / (groups - 3))`` (4.5 % more than 1 for 24
    groups).
    """
    return float(np.sqrt((groups - 1) / max(groups - 3, 1)))


def leave_one_out_means(blocks: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return, for each block along `axis`, the mean of the others."""
    n = blocks.shape[axis]
    return (blocks.sum(axis=axis, keepdims=True) - blocks) / (n - 1)


def bennett_ratio(
    forward: np.ndarray, backward: np.ndarray, tolerance: float = 1e-10, max_iterations: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``log(Z_b / Z_a)`` by Bennett's acceptance ratio, with the influence of every sample.

    Args:
        forward: ``log[w_b(s) / w_a(s)]`` of samples s of state a, shape (..., n).
        backward: the same quantity ``log[w_b(s) / w_a(s)]`` of samples of state b, shape (..., n).

    Returns:
        estimate of shape (...), and influences of shape (2, ..., n): the change of the estimate per sample of a and
        of b to first order (they sum to zero); the error is that of the sum of correlated influences.

    The estimating equation is ``sum_a f(forward - c) = sum_b f(c - backward)`` with the Fermi function
    f(x) = 1/(1+exp(-x)) (Bennett 1976, equal numbers of samples), solved by bisection.
    """
    low = np.minimum(forward.min(axis=-1), backward.min(axis=-1)) - 1.0
    high = np.maximum(forward.max(axis=-1), backward.max(axis=-1)) + 1.0

    def logistic(x: np.ndarray) -> np.ndarray:
        return 0.5 * (1.0 + np.tanh(0.5 * x))

    for _ in range(max_iterations):
        middle = 0.5 * (low + high)
        balance = logistic(forward - middle[..., None]).sum(-1) - logistic(middle[..., None] - backward).sum(-1)
        low, high = np.where(balance > 0, middle, low), np.where(balance > 0, high, middle)
        if np.all(high - low < tolerance * np.maximum(1.0, np.abs(middle))):
            break
    centre = 0.5 * (low + high)
    from_a = logistic(forward - centre[..., None])
    from_b = logistic(centre[..., None] - backward)
    slope = (from_a * (1 - from_a)).sum(-1) + (from_b * (1 - from_b)).sum(-1)
    slope = np.maximum(slope, np.finfo(float).tiny)[..., None]
    # Means are taken out so that influences of each state sum to zero: the two sums are equal at the solution.
    influence_a = (from_a - from_a.mean(-1, keepdims=True)) / slope
    influence_b = -(from_b - from_b.mean(-1, keepdims=True)) / slope
    return centre, np.stack([influence_a, influence_b])


def unseen_excitation(independent: np.ndarray, n_sites: int, kt: np.ndarray | float) -> dict[str, np.ndarray]:
    """Return what one excitation too rare to have been drawn would change each estimate by.

    Samples that never left a perfect ground state have no spread, which is no error of zero: of n independent samples
    of N sites an excitation with a share below 1/n stays unseen. It costs about ``kT ln(nN)``; met once it would have
    changed x by 1/(nN), the energy per site by ``kT ln(nN)/(nN)``, the heat capacity by ``ln(nN)^2/(nN)``, the
    susceptibility by ``1/(kT nN)`` and log Z by 1/n. Where excitations are common it is negligible.

    Args:
        independent: number n of independent samples.
        n_sites: number N of sites.
        kt: temperature, eV (or J), broadcast with `independent`.
    """
    independent = np.maximum(np.asarray(independent, dtype=float), 1.0)
    total = independent * n_sites
    cost = np.log(total)
    return {
        "log_z": 1 / independent,
        "composition": 1 / total,
        "energy": kt * cost / total,
        "heat_capacity": cost**2 / total,
        "susceptibility": 1 / (kt * total),
    }
