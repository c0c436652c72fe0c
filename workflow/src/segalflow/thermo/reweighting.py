"""All conditions of a sweep pooled by multistate reweighting: one density of states in energy and composition.

MBAR (Shirts & Chodera 2008) for weighted samples. A condition k = (T, delta_mu) brings samples s with weights that sum
to its effective number n_k of independent samples, and log Z_k = z_k follows from

    Z_k = sum_s w_s p_k(s) / D(s),    D(s) = sum_l n_l p_l(s) / Z_l,    p_k(s) = exp(-(U_s - delta_mu_k N_s) / kT_k),

the minimum of a convex function of z. Importance weights also tell every Z_k for itself; that enters as a normal prior
on z_k with the variance of the mean weight, so that a grid with gaps that nothing bridges is no obstacle. With p_k a
function of (U, N), the sum over delta_mu in D is one table g_T(N), and a pass over the samples costs one exponential
for each temperature.

Errors: blocks of samples (of all conditions at once: replica exchange makes them correlated) are drawn with
replacement; the weighted sums are taken anew and z answers by one Newton step. Chains that exist in several copies
also show what their blocks do not (`thermo.copies`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp

from segalflow.compilation import numba
from segalflow.thermo.copies import widen_by_copies
from segalflow.thermo.pooling import SamplePool, UnresolvedError

MAX_NEWTON = 60
TOLERANCE = 1e-9
"""Largest |sum_s w_s R_k(s) - n_k| / n of a solution."""
NUDGE = 1e-3
"""Relative change of the weight of one copy of the chains by which its influence is measured."""


@dataclass(frozen=True, eq=False)
class Reweighted:
    """Sums by composition at some temperatures, with bootstrap replicates.

    Attributes:
        beta: 1/kT, shape (n_t,).
        log_weight: ``log sum_{states with N} exp(-U/kT)``, (n_t, n_sites + 1); -inf where no sample has N atoms.
        replicates: the same of every bootstrap draw, (n_replicates, n_t, n_sites + 1).
        energy: mean U at each composition, eV, (n_t, n_sites + 1); NaN where no sample has N atoms.
        energy_variance: variance of U at each composition, eV^2, alike.
        samples: effective number of samples behind each, (n_t, n_sites + 1).
    """

    beta: np.ndarray
    log_weight: np.ndarray
    replicates: np.ndarray
    energy: np.ndarray
    energy_variance: np.ndarray
    samples: np.ndarray


@numba.njit(cache=True, fastmath=False)
def _respond(energy, n_atoms, weight, beta, log_g, log_d, total, pairs):  # pragma: no cover - compiled
    """log D of every sample, and sums over samples of c_t and c_t c_t' by composition; c_t is row t's share of D."""
    n_t = len(beta)
    c = np.empty(n_t)
    for s in range(len(energy)):
        n = n_atoms[s]
        top = -np.inf
        for t in range(n_t):
            c[t] = log_g[t, n] - beta[t] * energy[s]
            top = max(top, c[t])
        z = 0.0
        for t in range(n_t):
            c[t] = np.exp(c[t] - top)
            z += c[t]
        log_d[s] = top + np.log(z)
        for t in range(n_t):
            c[t] /= z
            share = weight[s] * c[t]
            total[t, n] += share
            for other in range(t + 1):
                pairs[n, t, other] += share * c[other]


@numba.njit(cache=True, fastmath=False)
def _sum_rows(
    energy, n_atoms, weight, block, condition, log_d, beta, log_g, by_block, by_condition
):  # pragma: no cover - compiled
    """Sums of w c_t of the pool's own rows by block and by condition."""
    for s in range(len(energy)):
        n = n_atoms[s]
        for t in range(len(beta)):
            share = weight[s] * np.exp(log_g[t, n] - beta[t] * energy[s] - log_d[s])
            by_block[block[s], t, n] += share
            by_condition[condition[s], t, n] += share


@numba.njit(cache=True, fastmath=False)
def _sum_targets(
    energy, wanted, factor, n_atoms, weight, block, condition, log_d, beta, log_g, targets, same, shift, top, moments,
    by_block, by_condition, mixed,
):  # fmt: skip  # pragma: no cover - compiled
    """Sums over samples of w exp(-beta U)/D at the target temperatures; `mixed` holds the shares of the pool's rows.

    `wanted` are the energies of the targets, and `factor` multiplies what a sample adds. Without blocks only `top` and
    `moments` are filled. `same` is the pool's row that a target is, -1 for none: its exponential is there already.
    """
    n_t, n_rows = len(targets), len(beta) if len(by_block) else 0
    c = np.empty(n_rows)
    for s in range(len(energy)):
        n = n_atoms[s]
        for t in range(n_t):
            if factor[s] > 0:
                top[t, n] = max(top[t, n], -targets[t] * wanted[s] - log_d[s])
    lift = np.zeros(top.shape)
    for t in range(n_t if n_rows else 0):
        for n in range(top.shape[1]):
            # The largest of the row's shares must be a number with room below it.
            if same[t] >= 0 and -500.0 < log_g[same[t], n] + top[t, n] < 500.0:
                lift[t, n] = np.exp(-log_g[same[t], n] - top[t, n])
    for s in range(len(energy)):
        if factor[s] <= 0:
            continue
        n = n_atoms[s]
        for r in range(n_rows):
            c[r] = np.exp(log_g[r, n] - beta[r] * energy[s] - log_d[s])
        distance = wanted[s] - shift[n]
        for t in range(n_t):
            if lift[t, n] > 0:
                a = factor[s] * c[same[t]] * lift[t, n]
            else:
                a = factor[s] * np.exp(-targets[t] * wanted[s] - log_d[s] - top[t, n])
            square = weight[s] * a * a
            a *= weight[s]
            moments[0, t, n] += a
            moments[1, t, n] += a * distance
            moments[2, t, n] += a * distance * distance
            moments[3, t, n] += square
            if n_rows == 0:
                continue
            by_block[block[s], t, n] += a
            by_condition[condition[s], t, n] += a
            for r in range(n_rows):
                mixed[n, t, r] += a * c[r]


class Mbar:
    """The solution of the multistate equations of a pool.

    Args:
        pool: the samples.

    Attributes:
        log_z: log Z of every condition, (n_conditions,); of those without samples by reweighting.

    Raises:
        UnresolvedError: if the conditions do not hang together, so that the equations have no unique solution.
    """

    def __init__(self, pool: SamplePool) -> None:
        self.pool = pool
        used = self._used = np.flatnonzero(pool.effective > 0)
        self._rows, self._row = np.unique(pool.beta[used], return_inverse=True)
        number = np.full(len(pool.beta), -1)
        number[used] = np.arange(len(used))
        self._condition = number[pool.condition]
        n = np.arange(pool.n_sites + 1)
        self._tilt = (pool.beta * pool.delta_mu)[used, None] * n
        self._effective = pool.effective[used]
        self._precision = 1.0 / pool.log_z_stderr[used] ** 2
        self._prior = np.where(self._precision > 0, pool.log_z[used], 0.0)
        self._group()
        self._z = self._solve(np.where(np.isfinite(pool.log_z[used]), pool.log_z[used], 0.0).astype(float))
        self._prepare_replicates()
        rows, where = np.unique(pool.beta, return_inverse=True)
        log_weight = self.reweight(rows, replicates=0).log_weight
        self.log_z = logsumexp(log_weight[where] + (pool.beta * pool.delta_mu)[:, None] * n, axis=1)

    def _group(self) -> None:
        """Join samples of equal energy and composition: exact, and the cold conditions have many."""
        pool = self.pool
        scale = max(float(np.abs(pool.energy).max()), 1e-300) * 1e-13
        order = np.lexsort((pool.energy, pool.n_atoms))
        energy, n_atoms = pool.energy[order], pool.n_atoms[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(energy) > scale) | (np.diff(n_atoms) > 0)
        number = np.cumsum(new) - 1
        self._energy, self._n_atoms = energy[new], n_atoms[new]
        self._weight = np.bincount(number, weights=pool.weight[order])
        self._member = np.empty(len(order), dtype=np.int64)
        self._member[order] = number

    def _tables(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log g of every row, (n_rows, n_sites + 1), and every condition's share of it, (n_used, n_sites + 1)."""
        terms = np.log(self._effective)[:, None] + self._tilt - z[:, None]
        log_g = np.array([logsumexp(terms[self._row == r], axis=0) for r in range(len(self._rows))])
        return log_g, np.exp(terms - log_g[self._row])

    def _gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Gradient, sums of shares by condition, shares, and pair sums (N, rows, rows) at `z`; sets log D."""
        log_g, share = self._tables(z)
        size, n_rows = self.pool.n_sites + 1, len(self._rows)
        total, pairs = np.zeros((n_rows, size)), np.zeros((size, n_rows, n_rows))
        self._log_g, self._log_d = log_g, np.empty(len(self._energy))
        _respond(self._energy, self._n_atoms, self._weight, self._rows, log_g, self._log_d, total, pairs)
        taken = (share * total[self._row]).sum(axis=1)
        return self._effective - taken + self._precision * (z - self._prior), taken, share, pairs

    def _hessian(self, taken: np.ndarray, share: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        # In the order of rows the blocks of the matrix are slices.
        order = np.argsort(self._row, kind="stable")
        ends = np.searchsorted(self._row[order], np.arange(len(self._rows) + 1))
        blocks = [slice(first, last) for first, last in itertools.pairwise(ends)]
        matrix, share = np.empty((len(order), len(order))), share[order]
        for a, rows in enumerate(blocks):
            for b, columns in enumerate(blocks[: a + 1]):
                part = (share[rows] * pairs[:, a, b]) @ share[columns].T
                matrix[rows, columns] = -part
                matrix[columns, rows] = -part.T
        back = np.argsort(order)
        matrix = matrix[np.ix_(back, back)]
        matrix[np.diag_indices(len(matrix))] += taken + self._precision
        return matrix

    def _factor(self, taken: np.ndarray, share: np.ndarray, pairs: np.ndarray):
        matrix = self._hessian(taken, share, pairs)
        try:
            return cho_factor(matrix + 1e-11 * self._effective.max() * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            raise UnresolvedError(
                "reweighting: some conditions share no samples with the others, so that their free energies "
                "cannot be joined; use smaller steps of temperature or delta_mu"
            ) from None

    def _solve(self, z: np.ndarray) -> np.ndarray:
        n = self._effective
        for _ in range(3):  # self-consistent steps from wherever the start is, shortened where a prior is known
            _, taken, _, _ = self._gradient(z)
            z = z + np.log(np.maximum(taken, 1e-300) / n) * n / (n + self._precision)
        found = self._gradient(z)
        for _ in range(MAX_NEWTON):
            worst = np.abs(found[0]).max()
            if worst <= TOLERANCE * n.max():
                break
            step, size = cho_solve(self._factor(*found[1:]), found[0]), 1.0
            while True:
                tried = z - size * step
                found = self._gradient(tried)
                if np.abs(found[0]).max() < worst or size < 1e-3:
                    break
                size /= 2
            z = tried
        self._at_solution = found
        return z

    def _prepare_replicates(self) -> None:
        """Sums of every condition's share by block, (n_blocks, n_used), and by condition, (n_used, n_used)."""
        pool, n_used = self.pool, len(self._used)
        shape = (len(self._rows), pool.n_sites + 1)
        by_block, by_condition = np.zeros((pool.n_blocks, *shape)), np.zeros((n_used, *shape))
        _sum_rows(
            pool.energy, pool.n_atoms, pool.weight, pool.block, self._condition, self._log_d[self._member], self._rows,
            self._log_g, by_block, by_condition,
        )  # fmt: skip
        share = self._at_solution[2]
        self._by_block = np.einsum("bkn,kn->bk", by_block[:, self._row], share)
        self._by_condition = np.empty((n_used, n_used))
        for r in range(len(self._rows)):
            here = np.flatnonzero(self._row == r)
            self._by_condition[:, here] = by_condition[:, r] @ share[here].T
        self._copy = np.full(pool.n_blocks, -1)
        self._copy[pool.block] = pool.copy
        held = np.zeros((n_used, pool.n_blocks))
        np.add.at(held, (self._condition, pool.block), pool.weight)
        self._held = held / self._effective[:, None]

    def reweight(
        self,
        beta: np.ndarray,
        replicates: int = 100,
        seed: int = 0,
        energy: np.ndarray | None = None,
        factor: np.ndarray | None = None,
    ) -> Reweighted:
        """Return the sums by composition at any temperatures.

        Args:
            beta: 1/kT of the temperatures, shape (n_t,); far from the pool's the errors grow without bounds.
            replicates: bootstrap draws of the blocks.
            seed: seed of these draws; the same seed draws the same blocks.
            energy: energies of the samples under another Hamiltonian, eV, (n_samples,), to which they are reweighted;
                None for their own.
            factor: what each sample's share is multiplied by, not negative, (n_samples,): 0 and 1 sum over the states
                of one phase alone, an observable gives the numerator of its mean. None for 1.
        """
        pool = self.pool
        wanted = pool.energy if energy is None else np.asarray(energy, dtype=float)
        factor = np.ones(len(wanted)) if factor is None else np.asarray(factor, dtype=float)
        beta = np.asarray(beta, dtype=float)
        size, shape = pool.n_sites + 1, (len(beta), pool.n_sites + 1)
        lowest = np.full(size, np.inf)
        np.minimum.at(lowest, pool.n_atoms[factor > 0], wanted[factor > 0])
        shift = np.where(np.isfinite(lowest), lowest, 0.0)
        top, moments = np.full(shape, -np.inf), np.zeros((4, *shape))
        parts = (pool.n_blocks, len(self._used)) if replicates else (0, 0)
        by_block, by_condition = (np.zeros((k, *shape)) for k in parts)
        same = np.full(len(beta), -1)
        if energy is None:
            where = np.searchsorted(self._rows, beta).clip(max=len(self._rows) - 1)
            same = np.where(self._rows[where] == beta, where, -1)
        mixed = np.zeros((size, len(beta), len(self._rows)))
        _sum_targets(
            pool.energy, wanted, factor, pool.n_atoms, pool.weight, pool.block, self._condition,
            self._log_d[self._member], self._rows, self._log_g, beta, same, shift, top, moments, by_block, by_condition,
            mixed,
        )  # fmt: skip
        total, first, second, square = moments
        scale = np.where(total > 0, top, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_weight = np.log(total) + scale
            mean = first / total
            variance = np.maximum(second / total - mean**2, 0.0)
            effective = np.where(total > 0, total**2 / square, 0.0)
            mixed = np.nan_to_num(mixed / total.T[:, :, None])
        draws = np.zeros((0, *shape))
        if replicates:
            counts, norm, delta_z = self._resample(replicates, seed)
            sums = np.tensordot(counts, by_block, 1) - np.tensordot(norm, by_condition, 1)
            # g_T(N) moves with z: d log g = -sum_m share dz; log D and with it the weights follow.
            share = self._at_solution[2]
            rows = range(len(self._rows))
            delta_g = -np.stack([delta_z[:, self._row == r] @ share[self._row == r] for r in rows], axis=1)
            answer = np.einsum("ntr,brn->btn", mixed, delta_g, optimize=True)
            with np.errstate(divide="ignore"):
                draws = np.log(np.maximum(sums, 0.0)) + scale - answer
            draws = self._widen(draws, log_weight, replicates, seed)
        return Reweighted(beta, log_weight, draws, mean + shift, variance, effective)

    def _widen(self, draws: np.ndarray, log_weight: np.ndarray, replicates: int, seed: int) -> np.ndarray:
        """Draws of the blocks with what the copies add to them, which are read off the two draws of each at the end."""
        n_copies = self.pool.n_copies
        if n_copies < 2:
            return draws[:replicates]
        with np.errstate(invalid="ignore"):
            up, down = draws[replicates : replicates + n_copies], draws[replicates + n_copies :]
            offsets, influences = draws[:replicates] - log_weight, (up - down) / (2 * NUDGE)
        wide = widen_by_copies(offsets, influences, self.pool.n_blocks, np.random.default_rng([seed, n_copies]))
        return np.where(np.isfinite(wide), log_weight + wide, -np.inf)

    def _resample(self, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts of the blocks, relative changes of the conditions' sums of weights, and changes of z.

        Behind the draws come those with the weight of one copy of the chains a little larger, then a little smaller.
        """
        n_blocks, n_copies = self.pool.n_blocks, self.pool.n_copies
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), replicates).astype(float)
        # A bootstrap of n blocks has the variance of n - 1 in n.
        counts = 1 + (counts - 1) * np.sqrt(n_blocks / max(n_blocks - 1, 1))
        spread = np.where(np.isfinite(self.pool.log_z_stderr[self._used]), self.pool.log_z_stderr[self._used], 0.0)
        drawn = spread * rng.standard_normal((replicates, len(spread)))
        if n_copies > 1:
            own = (self._copy == np.arange(n_copies)[:, None]) - (self._copy >= 0) / n_copies
            counts = np.concatenate([counts, 1 + NUDGE * own, 1 - NUDGE * own])
            drawn = np.concatenate([drawn, np.zeros((2 * n_copies, len(spread)))])
        norm = counts @ self._held.T - 1.0
        taken = counts @ self._by_block - norm @ self._by_condition
        resampled = self.pool.resampled[self._used]
        known = np.where(resampled, np.log(np.maximum(1 + norm, 1e-3)), drawn)
        gradient, at_solution, share, pairs = self._at_solution
        change = self._effective - taken + self._precision * (self._z - self._prior - known)
        delta_z = -cho_solve(self._factor(at_solution, share, pairs), (change - gradient).T).T
        return counts, norm, delta_z
