"""Jumps of the composition along one isotherm that its susceptibility cannot explain: first-order transitions.

Along an isotherm ``dx = chi d(delta_mu)`` in one phase. Between two phases x jumps by far more than the
susceptibilities on either side allow. At a critical point with exponent delta (``x - x_c ~ |delta_mu - delta_mu_c|^
(1/delta)``) a step that straddles it has ``jump / (chi step) = delta``: 3 in mean field, 4.8 in the three-dimensional
Ising class. Hence the default threshold of 3 on that ratio: anything above is taken as a first-order jump.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIXTURE = 3.0
"""A condition whose chi exceeds this many times the slope between its neighbours is no clean end of a jump."""
COHERENCE = 1 / 3
"""Least chi of a condition inside a jump, in units of that of a cell that flips as a whole (see `find_jumps`)."""


@dataclass(frozen=True)
class Jump:
    """One jump between the conditions `start` and `stop` (indices along delta_mu) of an isotherm.

    Attributes:
        start, stop: conditions on its two sides, each in one phase; conditions between them average over both.
        jump: difference of x between the two.
        expected: what their susceptibilities explain of it.
        stderr: standard error of `jump`.
    """

    start: int
    stop: int
    jump: float
    expected: float
    stderr: float


def find_jumps(
    delta_mu: np.ndarray,
    x: np.ndarray,
    x_stderr: np.ndarray,
    susceptibility: np.ndarray,
    usable: np.ndarray,
    ratio: float = 3.0,
    minimum: float = 0.02,
    n_sigma: float = 4.0,
    max_steps: int = 4,
    sites_per_kt: float | None = None,
) -> list[Jump]:
    """Return the first-order jumps of an isotherm, ordered by delta_mu, without overlaps.

    A jump must exceed `ratio` times what the susceptibilities at its ends explain, `n_sigma` standard errors, and
    `minimum`. One that is smeared over up to `max_steps` steps, as in small cells, is found whole: a condition in
    between must average over both phases. A cell of N sites that flips between x_a and x_b as a whole has
    ``chi = N p (1 - p) (x_b - x_a)^2 / kT`` there, with p its share of b; a third of that (what a flat distribution of
    compositions has) is asked for, so that a smooth, well-resolved isotherm is never taken for a smeared jump.
    Conditions that are not usable are passed over, so that the bracket widens around them.

    Args:
        delta_mu: shape (n,), increasing.
        x: composition, shape (n,); `x_stderr` and `susceptibility` (per unit of delta_mu) alike.
        usable: which conditions may be used, shape (n,).
        ratio: see above.
        minimum: smallest jump of x that counts.
        n_sigma: significance.
        max_steps: most steps a smeared jump spans.
        sites_per_kt: N / kT; None where the number of sites is not known: then jumps smeared over one condition are
            taken on trust and wider ones are not looked for.
    """
    keep = np.flatnonzero(usable & np.isfinite(x) & np.isfinite(susceptibility))
    error = np.nan_to_num(x_stderr)
    accepted: list[tuple[int, int]] = []  # positions in `keep`
    taken = np.zeros(max(len(keep) - 1, 0), dtype=bool)

    def measure(a: int, b: int) -> Jump:
        i, j = keep[a], keep[b]
        expected = 0.5 * (susceptibility[i] + susceptibility[j]) * (delta_mu[j] - delta_mu[i])
        return Jump(int(i), int(j), float(x[j] - x[i]), float(expected), float(np.hypot(error[i], error[j])))

    def significant(jump: Jump) -> bool:
        return jump.jump > ratio * jump.expected and jump.jump > n_sigma * jump.stderr and jump.jump >= minimum

    def mixed(position: int) -> bool:
        if not 0 < position < len(keep) - 1:
            return False
        a, m, b = keep[position - 1 : position + 2]
        slope = (x[b] - x[a]) / (delta_mu[b] - delta_mu[a])
        return bool(susceptibility[m] > MIXTURE * max(slope, 0.0))

    def coherent(a: int, b: int) -> bool:
        if sites_per_kt is None:
            return b - a <= 2
        low, high = x[keep[a]], x[keep[b]]
        inside = keep[a + 1 : b]
        p = np.clip((x[inside] - low) / (high - low), 0.0, 1.0)
        return bool(np.all(susceptibility[inside] >= COHERENCE * sites_per_kt * p * (1 - p) * (high - low) ** 2))

    # Shortest windows first: two jumps with a phase in between stay two. An end that averages over both phases is no
    # end: such a window is left to a wider one.
    for steps in range(1, max_steps + 1):
        windows = [(measure(a, a + steps), a) for a in range(len(keep) - steps)]
        for jump, a in sorted(windows, key=lambda w: (-w[0].jump, w[1])):
            if taken[a : a + steps].any() or not significant(jump) or not coherent(a, a + steps):
                continue
            if steps < max_steps and (mixed(a) or mixed(a + steps)):
                continue
            taken[a : a + steps] = True
            accepted.append((a, a + steps))
    return [measure(a, b) for a, b in sorted(accepted)]
