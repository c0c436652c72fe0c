"""Compiled kernels of lock-step chains: one byte a chain, eight chains a 64-bit word, many words in a row.

Byte 1 means spin -1, so a product of spins is an exclusive or of bytes, and the number of negative products of up to
255 monomials that share one coefficient is a sum of bytes that cannot carry into its neighbour. Every loop over words
or lanes is a plain loop over contiguous memory that LLVM turns into vector instructions; words (not bytes) are used
for counting because numba widens small integers. Nothing here allocates inside a step.

Where there are enough chains, the rows are kept a second time with one bit a chain, and `segalflow.energy.bitslice`
counts on those; its counts are the same bytes.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from segalflow.compilation import numba
from segalflow.energy.bitslice import count_products, pack_row

# Decorations of one block or of all: `words` uint64 (..., n_rows, lanes / 8), eight chains a word; `row_bytes` the same
# memory as uint8 (..., n_rows, lanes); `bits` uint64 (..., n_rows, lanes / 64), or no columns where bytes are counted.
Rows = namedtuple("Rows", "words row_bytes bits")

# Groups of monomials (`segalflow.energy.groups.GroupTable`) with their coefficients ready for use.
Groups = namedtuple("Groups", "start n_others n_packs position factor base index")

# Work arrays of the sweeps, one entry a lane: made by `work_space`, so that no allocation has to be compiled.
Space = namedtuple(
    "Space", "counts count_bytes words random field argument mantissa exponent scale hits other up down flags"
)

MAX_COUNT = 252
"""Most monomials in a counting group: fits a byte."""
PACK = 4
"""Monomials counted together; groups are padded with an all-zero row, which never counts."""

_LOW = np.float32(-120.0)
_HIGH = np.float32(120.0)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_HALF_STEP, _STEP = np.float32(2.0**-25), np.float32(2.0**-24)
# 2^f on [0, 1): Chebyshev interpolation of degree 6, relative error 3e-9 before rounding to single precision.
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (
    np.float32(c)
    for c in (
        1.0000000025307454,
        0.6931469327588494,
        0.24023045441248367,
        0.05548063019600287,
        0.009684186311643219,
        0.0012391331823096154,
        0.00021865784823863317,
    )
)


def work_space(lanes: int) -> Space:
    """Return the work arrays of sweeps over blocks of `lanes` chains: parts of one array, at fixed distances."""
    memory = np.zeros(38 * lanes // 8, np.uint64)
    quads = memory.view(np.uint8)[: 36 * lanes].reshape(9, 4 * lanes)
    field, argument, mantissa, other, up, down, exponent, hits, random = quads
    counts, flags = memory.view(np.uint8)[36 * lanes : 38 * lanes].reshape(2, lanes)
    field, argument, mantissa, other, up, down, scale = (
        row.view(np.float32) for row in (field, argument, mantissa, other, up, down, exponent)
    )
    return Space(
        counts.view(np.uint64), counts, random.view(np.uint64), random.view(np.uint32), field, argument, mantissa,
        exponent.view(np.int32), scale, hits.view(np.uint32), other, up, down, flags,
    )  # fmt: skip


@numba.njit(cache=True, fastmath=False, inline="always")
def _count_group(rows, width, index, position, n_others, n_packs, counts):  # pragma: no cover - compiled
    """Count, per byte, the negative products of one group of monomials of `n_others` other sites."""
    words = counts.shape[0]
    for w in range(words):
        counts[w] = np.uint64(0)
    if n_others == 1:
        for p in range(n_packs):
            at = position + p * 4
            a, b, c, d = rows[index[at]], rows[index[at + 1]], rows[index[at + 2]], rows[index[at + 3]]
            for w in range(words):
                counts[w] += (a[w] + b[w]) + (c[w] + d[w])
    elif n_others == 2:
        for p in range(n_packs):
            at = position + p * 8
            a0, b0, c0, d0 = rows[index[at]], rows[index[at + 1]], rows[index[at + 2]], rows[index[at + 3]]
            a1, b1, c1, d1 = rows[index[at + 4]], rows[index[at + 5]], rows[index[at + 6]], rows[index[at + 7]]
            for w in range(words):
                counts[w] += ((a0[w] ^ a1[w]) + (b0[w] ^ b1[w])) + ((c0[w] ^ c1[w]) + (d0[w] ^ d1[w]))
    elif n_others == 3:
        for p in range(n_packs):
            at = position + p * 12
            a0, b0, c0, d0 = rows[index[at]], rows[index[at + 1]], rows[index[at + 2]], rows[index[at + 3]]
            a1, b1, c1, d1 = rows[index[at + 4]], rows[index[at + 5]], rows[index[at + 6]], rows[index[at + 7]]
            a2, b2, c2, d2 = rows[index[at + 8]], rows[index[at + 9]], rows[index[at + 10]], rows[index[at + 11]]
            for w in range(words):
                counts[w] += ((a0[w] ^ a1[w] ^ a2[w]) + (b0[w] ^ b1[w] ^ b2[w])) + (
                    (c0[w] ^ c1[w] ^ c2[w]) + (d0[w] ^ d1[w] ^ d2[w])
                )
    elif n_others == 4:
        for p in range(n_packs):
            at = position + p * 16
            a0, b0, c0, d0 = rows[index[at]], rows[index[at + 1]], rows[index[at + 2]], rows[index[at + 3]]
            a1, b1, c1, d1 = rows[index[at + 4]], rows[index[at + 5]], rows[index[at + 6]], rows[index[at + 7]]
            a2, b2, c2, d2 = rows[index[at + 8]], rows[index[at + 9]], rows[index[at + 10]], rows[index[at + 11]]
            a3, b3, c3, d3 = rows[index[at + 12]], rows[index[at + 13]], rows[index[at + 14]], rows[index[at + 15]]
            for w in range(words):
                counts[w] += ((a0[w] ^ a1[w] ^ a2[w] ^ a3[w]) + (b0[w] ^ b1[w] ^ b2[w] ^ b3[w])) + (
                    (c0[w] ^ c1[w] ^ c2[w] ^ c3[w]) + (d0[w] ^ d1[w] ^ d2[w] ^ d3[w])
                )
    else:
        for p in range(n_packs):
            at = position + p * 4 * n_others
            for m in range(4):
                for w in range(words):
                    product = np.uint64(0)
                    for k in range(n_others):
                        product ^= rows[index[at + k * 4 + m], w]
                    counts[w] += product


@numba.njit(cache=True, fastmath=False)
def doubled_field(words, bits, site, groups, counts, count_bytes, field):  # pragma: no cover - compiled
    """Write 2 h of one site for the lanes of one block: ``base - 2 sum_groups factor * count``, float32."""
    lanes = field.shape[0]
    constant = groups.base[site]
    sliced = bits.shape[1] > 0
    for lane in range(lanes):
        field[lane] = constant
    for g in range(groups.start[site], groups.start[site + 1]):
        if sliced:
            count_products(bits, groups.index, groups.position[g], groups.n_others[g], groups.n_packs[g], counts)
        else:
            _count_group(words, lanes, groups.index, groups.position[g], groups.n_others[g], groups.n_packs[g], counts)
        coefficient = groups.factor[g]
        for lane in range(lanes):
            field[lane] += coefficient * np.float32(count_bytes[lane])


@numba.njit(cache=True, fastmath=False)
def draw_words(state, words):  # pragma: no cover - compiled
    """Advance one xoshiro256++ generator per word (``state`` (4, n)) and write its outputs to `words` (n,)."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    for g in range(words.shape[0]):
        a, b, c, d = s0[g], s1[g], s2[g], s3[g]
        total = a + d
        words[g] = ((total << np.uint64(23)) | (total >> np.uint64(41))) + a
        shifted = b << np.uint64(17)
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = (d << np.uint64(45)) | (d >> np.uint64(19))
        s0[g], s1[g], s2[g], s3[g] = a, b, c, d


@numba.njit(cache=True, fastmath=False)
def power_of_two(argument, mantissa, exponent):  # pragma: no cover - compiled
    """Write 2^argument as mantissa (float32) times the float32 whose bits are `exponent` (int32)."""
    for lane in range(argument.shape[0]):
        y = argument[lane]
        whole = np.floor(y)
        f = y - whole
        mantissa[lane] = _P0 + f * (_P1 + f * (_P2 + f * (_P3 + f * (_P4 + f * (_P5 + f * _P6)))))
        exponent[lane] = (np.int32(whole) + np.int32(127)) << np.int32(23)


@numba.njit(cache=True, fastmath=False)
def shuffle(order, state):  # pragma: no cover - compiled
    """Shuffle `order` in place (Fisher-Yates) with one xoshiro256++ generator, ``state`` (4, 1)."""
    word = np.empty(1, np.uint64)
    for i in range(order.shape[0] - 1, 0, -1):
        draw_words(state, word)
        j = np.int64((word[0] >> np.uint64(32)) * np.uint64(i + 1) >> np.uint64(32))
        order[i], order[j] = order[j], order[i]


@numba.njit(cache=True, fastmath=False)
def sweep_blocks(rows, orders, groups, beta, dmu, heat_bath, state, accepted, space):  # pragma: no cover - compiled
    """Visit the sites of `orders` (n_sweeps, n_sites) in every block; count accepted flips per lane.

    `beta` is log2(e)/kT and `dmu` the chemical-potential difference, float32 (blocks, lanes).
    """
    n_blocks, _, lanes = rows.row_bytes.shape
    sliced = rows.bits.shape[2] > 0
    counts, count_bytes, words, random, field, argument, mantissa, exponent, scale = (
        space.counts, space.count_bytes, space.words, space.random, space.field, space.argument, space.mantissa,
        space.exponent, space.scale,
    )  # fmt: skip
    hits = space.hits
    for block in range(n_blocks):
        block_words, block_bytes, block_bits = rows.words[block], rows.row_bytes[block], rows.bits[block]
        block_beta, block_dmu, block_state = beta[block], dmu[block], state[block]
        for lane in range(lanes):
            hits[lane] = 0
        for n in range(orders.shape[0]):
            for visit in range(orders.shape[1]):
                site = orders[n, visit]
                doubled_field(block_words, block_bits, site, groups, counts, count_bytes, field)
                draw_words(block_state, words)
                here = block_bytes[site]
                # log2 of exp(-change/kT); change of U - dmu N on flipping is -s (2h - dmu)
                for lane in range(lanes):
                    sign = _ONE - np.float32(here[lane]) - np.float32(here[lane])
                    argument[lane] = sign * (field[lane] - block_dmu[lane]) * block_beta[lane]
                if heat_bath:
                    for lane in range(lanes):
                        argument[lane] = min(max(-argument[lane], _LOW), _HIGH)
                    power_of_two(argument, mantissa, exponent)
                    for lane in range(lanes):
                        uniform = np.float32(np.int32(random[lane] >> np.uint32(8))) * _STEP + _HALF_STEP
                        flip = np.uint8(uniform * (_ONE + mantissa[lane] * scale[lane]) < _ONE)
                        here[lane] ^= flip
                        hits[lane] += flip
                else:
                    for lane in range(lanes):
                        argument[lane] = min(max(argument[lane], _LOW), _ZERO)
                    power_of_two(argument, mantissa, exponent)
                    for lane in range(lanes):
                        uniform = np.float32(np.int32(random[lane] >> np.uint32(8))) * _STEP + _HALF_STEP
                        flip = np.uint8(uniform < mantissa[lane] * scale[lane])
                        here[lane] ^= flip
                        hits[lane] += flip
                if sliced:
                    pack_row(block_words[site], block_bits[site])
        for lane in range(lanes):
            accepted[block, lane] += hits[lane]


@numba.njit(cache=True, fastmath=False)
def swap_sweeps(rows, pairs, groups, beta, state, accepted, space):  # pragma: no cover - compiled
    """Heat-bath swaps of the spins on `pairs` (n_sweeps, n_pairs, 2) in every block; count accepted swaps per lane.

    Lanes whose two spins are equal stay. The energy change is that of flipping the first site, and then the second in
    the decoration with the first one flipped.
    """
    n_blocks, _, lanes = rows.row_bytes.shape
    sliced = rows.bits.shape[2] > 0
    counts, count_bytes, words, random, field, argument, mantissa, exponent, scale = (
        space.counts, space.count_bytes, space.words, space.random, space.field, space.argument, space.mantissa,
        space.exponent, space.scale,
    )  # fmt: skip
    first_field, unequal = space.other, space.flags
    for block in range(n_blocks):
        block_words, block_bytes, block_bits = rows.words[block], rows.row_bytes[block], rows.bits[block]
        block_beta, block_state = beta[block], state[block]
        for sweep in range(pairs.shape[0]):
            for k in range(pairs.shape[1]):
                i, j = pairs[sweep, k, 0], pairs[sweep, k, 1]
                at_i, at_j = block_bytes[i], block_bytes[j]
                doubled_field(block_words, block_bits, i, groups, counts, count_bytes, first_field)
                for lane in range(lanes):
                    unequal[lane] = at_i[lane] ^ at_j[lane]
                    at_i[lane] ^= unequal[lane]
                if sliced:
                    pack_row(block_words[i], block_bits[i])
                doubled_field(block_words, block_bits, j, groups, counts, count_bytes, field)
                draw_words(block_state, words)
                for lane in range(lanes):
                    # Where the spins differ, site i now has the old spin of j: its old sign is minus that of j.
                    sign = _ONE - np.float32(at_j[lane]) - np.float32(at_j[lane])
                    change = sign * (first_field[lane] - field[lane]) * block_beta[lane]
                    argument[lane] = min(max(change, _LOW), _HIGH)
                power_of_two(argument, mantissa, exponent)
                for lane in range(lanes):
                    uniform = np.float32(np.int32(random[lane] >> np.uint32(8))) * _STEP + _HALF_STEP
                    swap = np.uint8(uniform * (_ONE + mantissa[lane] * scale[lane]) < _ONE) & unequal[lane]
                    at_j[lane] ^= swap
                    at_i[lane] ^= unequal[lane] ^ swap
                    accepted[block, lane] += swap
                if sliced:
                    pack_row(block_words[i], block_bits[i])
                    pack_row(block_words[j], block_bits[j])


@numba.njit(cache=True, fastmath=False)
def counted_energies(words, bits, groups, constant, counts, count_bytes, total):  # pragma: no cover - compiled
    """Write exact total energies (lanes,) of one block: integer counts of every group times float64 factors."""
    sliced = bits.shape[1] > 0
    total[:] = constant
    for g in range(groups.n_others.shape[0]):
        position, n_others, n_packs = groups.position[g], groups.n_others[g], groups.n_packs[g]
        if sliced:
            count_products(bits, groups.index, position, n_others, n_packs, counts)
        else:
            _count_group(words, total.shape[0], groups.index, position, n_others, n_packs, counts)
        value = groups.factor[g]
        for lane in range(total.shape[0]):
            total[lane] += value * np.float64(count_bytes[lane])


@numba.njit(cache=True, fastmath=False)
def block_energies(rows, groups, constant, energies):  # pragma: no cover - compiled
    """Write exact total energies (blocks, lanes)."""
    counts = np.zeros(energies.shape[1] // 8, np.uint64)
    count_bytes = counts.view(np.uint8)
    for block in range(energies.shape[0]):
        counted_energies(rows.words[block], rows.bits[block], groups, constant, counts, count_bytes, energies[block])


@numba.njit(cache=True, fastmath=False)
def block_fields(rows, groups, fields):  # pragma: no cover - compiled
    """Write h of every site, float32 (blocks, n_sites, lanes)."""
    lanes = fields.shape[2]
    counts = np.zeros(lanes // 8, np.uint64)
    count_bytes = counts.view(np.uint8)
    for block in range(fields.shape[0]):
        words, bits = rows.words[block], rows.bits[block]
        for site in range(fields.shape[1]):
            field = fields[block, site]
            doubled_field(words, bits, site, groups, counts, count_bytes, field)
            for lane in range(lanes):
                field[lane] *= np.float32(0.5)


@numba.njit(cache=True, fastmath=False)
def negative_counts(row_bytes, n_sites, counts):  # pragma: no cover - compiled
    """Write the number of -1 spins (blocks, lanes)."""
    for block in range(row_bytes.shape[0]):
        total = counts[block]
        total[:] = 0
        for site in range(n_sites):
            row = row_bytes[block, site]
            for lane in range(total.shape[0]):
                total[lane] += row[lane]


@numba.njit(cache=True, fastmath=False)
def swap_lanes(row_bytes, n_sites, first, second):  # pragma: no cover - compiled
    """Swap the decorations of chains ``first[k]`` and ``second[k]``."""
    lanes = row_bytes.shape[2]
    for k in range(first.shape[0]):
        block_a, lane_a = first[k] // lanes, first[k] % lanes
        block_b, lane_b = second[k] // lanes, second[k] % lanes
        for site in range(n_sites):
            kept = row_bytes[block_a, site, lane_a]
            row_bytes[block_a, site, lane_a] = row_bytes[block_b, site, lane_b]
            row_bytes[block_b, site, lane_b] = kept


@numba.njit(cache=True, fastmath=False)
def biased_sweeps(
    rows, orders, groups, beta, state, n_plus, bias_row, bias, visits, deposit, tempering, accepted, space
):  # pragma: no cover - compiled
    """Heat-bath sweeps of exp(-U/kT - bias[n_plus]); every step adds to the bias and 1 to the visits.

    It adds ``deposit exp(-tempering bias)``: well-tempered metadynamics where `tempering` is not zero.

    `n_plus` and `bias_row` are int64 (blocks, lanes): the composition and the row of `bias` (float64
    (n_bias, n_sites + 1)) a lane uses; lanes with ``bias_row < 0`` are padding. `visits` is int64
    (blocks, lanes, n_sites + 1).
    """
    n_blocks, _, lanes = rows.row_bytes.shape
    sliced = rows.bits.shape[2] > 0
    highest = bias.shape[1] - 1
    counts, count_bytes, words, random, field, argument, mantissa, exponent, scale = (
        space.counts, space.count_bytes, space.words, space.random, space.field, space.argument, space.mantissa,
        space.exponent, space.scale,
    )  # fmt: skip
    flips, step_up, step_down = space.flags, space.up, space.down
    log2e = np.float32(1.4426950408889634)
    for block in range(n_blocks):
        block_words, block_bytes, block_bits = rows.words[block], rows.row_bytes[block], rows.bits[block]
        block_beta, block_state = beta[block], state[block]
        plus, row_of = n_plus[block], bias_row[block]
        for lane in range(lanes):
            if row_of[lane] >= 0:
                n, r = plus[lane], row_of[lane]
                step_up[lane] = (bias[r, min(n + 1, highest)] - bias[r, n]) * log2e
                step_down[lane] = (bias[r, max(n - 1, 0)] - bias[r, n]) * log2e
        for sweep in range(orders.shape[0]):
            for visit in range(orders.shape[1]):
                site = orders[sweep, visit]
                doubled_field(block_words, block_bits, site, groups, counts, count_bytes, field)
                draw_words(block_state, words)
                here = block_bytes[site]
                for lane in range(lanes):
                    down = np.float32(here[lane])  # 1 where the spin is -1: flipping raises n_plus
                    cost = down * step_up[lane] + (_ONE - down) * step_down[lane]
                    change = (_ONE - down - down) * field[lane] * block_beta[lane] - cost
                    argument[lane] = min(max(-change, _LOW), _HIGH)
                power_of_two(argument, mantissa, exponent)
                for lane in range(lanes):
                    uniform = np.float32(np.int32(random[lane] >> np.uint32(8))) * _STEP + _HALF_STEP
                    flip = np.uint8(uniform * (_ONE + mantissa[lane] * scale[lane]) < _ONE)
                    flips[lane] = flip
                    here[lane] ^= flip
                if sliced:
                    pack_row(block_words[site], block_bits[site])
                for lane in range(lanes):
                    r = row_of[lane]
                    if r < 0:
                        continue
                    if flips[lane]:
                        plus[lane] += 1 - 2 * np.int64(here[lane])
                        accepted[block, lane] += 1
                    n = plus[lane]
                    if tempering > 0.0:
                        bias[r, n] += deposit * np.exp(-tempering * bias[r, n])
                    else:
                        bias[r, n] += deposit
                    visits[block, lane, n] += 1
                    step_up[lane] = (bias[r, min(n + 1, highest)] - bias[r, n]) * log2e
                    step_down[lane] = (bias[r, max(n - 1, 0)] - bias[r, n]) * log2e
