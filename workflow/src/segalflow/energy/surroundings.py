"""Local fields of one decoration from the surroundings of a site: its neighbours as bits, one short table for all.

The other sites of all monomials through a site are its neighbours; in a periodic cell they lie alike around every site,
so the table of monomials, which then counts neighbours and not sites, is the same for all and stays in the first-level
cache. A step gathers the neighbours' spins into a few bytes; sixteen monomials at a time look their bits up there with
one byte shuffle for each of their sites (written as LLVM vectors: a table look-up on x86 and plain loads elsewhere).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from segalflow.compilation import numba
from segalflow.energy.groups import distinct_coefficients, monomials_through
from segalflow.energy.polynomial import SpinPolynomial

LANES = 16
"""Monomials of a block: bytes of a vector."""
WINDOW = 8 * LANES
"""Neighbours that one vector of look-up bytes holds."""
MAX_BLOCKS = 255
"""Most blocks of a group: a lane counts in a byte."""
MAX_VECTOR = 4
"""Most other sites in a monomial that is counted in vectors; larger ones are counted one by one."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I8, LANES)


class Surroundings(NamedTuple):
    """Tables of `doubled_field` (a named tuple: compiled code takes it as it is).

    Attributes:
        kind: the class of every site, shape (n_sites,): sites of one class share their groups.
        neighbours: of every site, shape (n_sites, multiple of 8), padded with n_sites.
        start: groups of class c are ``start[c]:start[c+1]``.
        n_others: of each group's monomials.
        first: of each group, its first block among all; shape (n_groups + 1,).
        position: of each group, its first byte in `look_up`.
        factor: of each group, what one negative product adds to the doubled field: -4 J, eV.
        base: of each class, the doubled field with all spins +1, eV.
        masks: of every group, which neighbours are its monomials if these have one other site, uint64, shape
            (n_groups, words of 64 neighbours).
        windows: of every block and other site, the first byte of the neighbours' bits it looks into, shape
            (n_blocks, largest number of other sites).
        look_up: of every block and other site, 16 byte numbers, then 16 bytes with one bit set (none in idle lanes).
    """

    kind: np.ndarray
    neighbours: np.ndarray
    start: np.ndarray
    n_others: np.ndarray
    first: np.ndarray
    position: np.ndarray
    factor: np.ndarray
    base: np.ndarray
    masks: np.ndarray
    windows: np.ndarray
    look_up: np.ndarray

    def work_space(self) -> np.ndarray:
        """Return the array a kernel needs for the bits of the neighbours: whole windows, uint64."""
        return np.zeros(-(-self.neighbours.shape[1] // WINDOW) * WINDOW // 64, np.uint64)


def surroundings(model: SpinPolynomial) -> Surroundings:
    """Return the tables of a polynomial."""
    classes = np.zeros(1, np.int64) if model.cell is not None else np.arange(model.n_sites)
    orders = []  # per order: owner, others (as sites), number of the coefficient, distinct coefficients
    for members, values in zip(model.members, model.coefficients, strict=True):
        if len(values):
            coefficients, number = distinct_coefficients(values)
            parts = list(monomials_through(members, classes, model.n_sites))
            owner, others, row = (np.concatenate(x) for x in zip(*parts, strict=True))
            orders.append((owner, others, number[row], coefficients))
    near = [_neighbours(orders, c) for c in range(len(classes))]
    width = max(8, -(-max(map(len, near), default=0) // 8) * 8)
    most = max(model.max_order - 1, 1)
    start, n_others, first, position, factor, masks, windows, look_up = [0], [], [0], [], [], [], [], []
    base, size = np.zeros(len(classes)), 0
    for c, sites in enumerate(near):
        number_of = np.zeros(model.n_sites, np.int64)
        number_of[sites] = np.arange(len(sites))
        for owner, others, number, coefficients in orders:
            mine = owner == c
            base[c] += 2.0 * coefficients[number[mine]].sum()
            n = others.shape[1]
            if not n:
                continue
            numbered = np.sort(number_of[others[mine]], axis=1)
            for value in np.unique(number[mine]):
                rows = numbered[number[mine] == value]
                mask = np.zeros(-(-width // 64) * 64, np.uint8)
                if n == 1:
                    mask[rows[:, 0]] = 1
                for blocks in _blocks(rows) if n > 1 else [np.zeros((0, LANES, 1), int)]:
                    starts, table = _look_up(blocks, most)
                    n_others.append(n)
                    first.append(first[-1] + len(starts))
                    position.append(size)
                    factor.append(-4.0 * coefficients[value])
                    masks.append(np.packbits(mask, bitorder="little").view(np.uint64))
                    windows.append(starts)
                    look_up.append(table)
                    size += len(table)
        start.append(len(n_others))
    none = np.zeros((0, most), np.int64)
    if model.cell is None:
        kind, around = np.arange(model.n_sites), np.full((model.n_sites, width), model.n_sites)
        for c, sites in enumerate(near):
            around[c, : len(sites)] = sites
    else:
        kind, around = np.zeros(model.n_sites, np.int64), np.full((model.n_sites, width), model.n_sites)
        around[:, : len(near[0])] = model.translated(near[0])
    return Surroundings(
        kind.astype(np.int64),
        around.astype(np.uint16 if model.n_sites < 2**16 else np.uint32),
        np.array(start, np.int64),
        np.array(n_others, np.int64),
        np.array(first, np.int64),
        np.array(position, np.int64),
        np.array(factor, float),
        base,
        np.array(masks, np.uint64).reshape(-1, -(-width // 64)),
        np.concatenate([none, *windows]).astype(np.int64),
        np.concatenate([np.zeros(0, np.uint8), *look_up]),
    )


def _neighbours(orders: list[tuple[np.ndarray, ...]], c: int) -> np.ndarray:
    """Return the other sites in the monomials of a class, those in many of them first: they share a window."""
    mine = [others[owner == c].ravel() for owner, others, _, _ in orders]
    sites, count = np.unique(np.concatenate([np.zeros(0, np.int64), *mine]), return_counts=True)
    return sites[np.lexsort((sites, -count))].astype(np.int64)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Cut monomials (numbers of neighbours, sorted rows) into groups of blocks, shape (n_blocks, LANES, n).

    The monomials of a block look into the same windows; idle lanes hold -1.
    """
    combined = rows // WINDOW
    _, which = np.unique(combined, axis=0, return_inverse=True)
    pieces = []
    for number in range(int(which.max()) + 1):
        part = rows[which.ravel() == number]
        filled = np.full((-(-len(part) // LANES) * LANES, rows.shape[1]), -1)
        filled[: len(part)] = part
        pieces.append(filled.reshape(-1, LANES, rows.shape[1]))
    blocks = np.concatenate(pieces)
    return [blocks[low : low + MAX_BLOCKS] for low in range(0, len(blocks), MAX_BLOCKS)]


def _look_up(blocks: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows (n_blocks, most) and look-up bytes of blocks (n_blocks, LANES, n)."""
    n_blocks, _, n = blocks.shape
    windows = np.zeros((n_blocks, most), np.int64)
    windows[:, :n] = blocks[:, 0] // WINDOW * LANES
    table = np.zeros((n_blocks, n, 2, LANES), np.uint8)
    inside = blocks.transpose(0, 2, 1) % WINDOW
    used = blocks.transpose(0, 2, 1) >= 0
    table[:, :, 0] = np.where(used, inside >> 3, 0)
    table[:, :, 1] = np.where(used, 1 << (inside & 7), 0)
    return windows, table.ravel()


def _counter(n_others: int) -> Any:
    """Return ``count(words, windows, look_up, block, position, n_blocks)``: negative products of a group."""

    @intrinsic
    def count(typing_context, words, windows, look_up, block, position, n_blocks):
        signature = types.int64(words, windows, look_up, types.int64, types.int64, types.int64)

        def generate(context, b, sig, arguments):
            words_v, windows_v, look_up_v, block_v, position_v, n_v = arguments
            pointers = [
                context.make_array(kind)(context, b, value=value).data
                for kind, value in zip(sig.args[:3], (words_v, windows_v, look_up_v), strict=True)
            ]
            pointers[0] = b.bitcast(pointers[0], _I8.as_pointer())
            windows_a = context.make_array(sig.args[1])(context, b, value=windows_v)
            width = b.extract_value(windows_a.shape, 1)
            counted = cgutils.alloca_once(b, _VECTOR)
            zero = ir.Constant(_VECTOR, [0] * LANES)
            b.store(zero, counted)

            def vector(base: Any, offset: Any) -> Any:
                return b.load(b.bitcast(b.gep(base, [offset]), _VECTOR.as_pointer()), align=1)

            with cgutils.for_range(b, n_v) as loop:
                window = b.mul(b.add(block_v, loop.index), width)
                at = b.add(position_v, b.mul(loop.index, ir.Constant(_I64, 2 * LANES * n_others)))
                product = None
                for j in range(n_others):
                    near = vector(pointers[0], b.load(b.gep(pointers[1], [b.add(window, ir.Constant(_I64, j))])))
                    number = vector(pointers[2], b.add(at, ir.Constant(_I64, 2 * LANES * j)))
                    bit = vector(pointers[2], b.add(at, ir.Constant(_I64, 2 * LANES * j + LANES)))
                    found = ir.Constant(_VECTOR, ir.Undefined)
                    for lane in range(LANES):  # LLVM makes one shuffle of these
                        place = ir.Constant(_I32, lane)
                        chosen = b.zext(b.extract_element(number, place), _I64)
                        found = b.insert_element(found, b.extract_element(near, chosen), place)
                    positive = b.sext(b.icmp_signed("==", b.and_(found, bit), zero), _VECTOR)
                    product = positive if product is None else b.xor(product, positive)
                b.store(b.sub(b.load(counted), product), counted)
            # Sum of sixteen bytes, four 16-bit lanes of two words at a time.
            halves = b.bitcast(b.load(counted), ir.VectorType(_I64, 2))
            low = ir.Constant(_I64, 0x00FF00FF00FF00FF)
            total = ir.Constant(_I64, 0)
            for half in range(2):
                word = b.extract_element(halves, ir.Constant(_I32, half))
                pairs = b.add(b.and_(word, low), b.and_(b.lshr(word, ir.Constant(_I64, 8)), low))
                total = b.add(total, b.lshr(b.mul(pairs, ir.Constant(_I64, 0x0001000100010001)), ir.Constant(_I64, 48)))
            if n_others % 2:  # an odd number of "positive" multiplies to positive; idle lanes are all positive
                total = b.sub(b.mul(n_v, ir.Constant(_I64, LANES)), total)
            return total

        return signature, generate

    return count


_count_2, _count_3, _count_4 = (_counter(n) for n in range(2, MAX_VECTOR + 1))


@intrinsic
def _ones(typing_context, word):
    """Return the number of ones in a word."""

    def generate(context, b, sig, arguments):
        return b.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@numba.njit(cache=True, fastmath=False)
def count_plainly(words, windows, look_up, block, position, n_blocks, n_others):  # pragma: no cover - compiled
    """Return the number of negative products of a group of any order, monomial by monomial."""
    bits = words.view(np.uint8)
    negative = 0
    for i in range(n_blocks):
        at = position + i * 2 * LANES * n_others
        for lane in range(LANES):
            product = 0
            for j in range(n_others):
                number = at + 2 * LANES * j + lane
                here = bits[windows[block + i, j] + look_up[number]] & look_up[number + LANES]
                product ^= 1 if here else 0
            negative += product
    return negative


@numba.njit(cache=True, fastmath=False, inline="always")
def doubled_field(
    negative, site, words, kind, neighbours, start, n_others, first, position, factor, base, masks, windows, look_up
):  # pragma: no cover - compiled
    """Return 2 h of a site, float64: exact integer counts times the factors of the groups.

    `negative` is uint8 (n_sites + 1,), 1 for spin -1 and 0 in the last entry; `words` is work space; the others are the
    fields of `Surroundings` (a tuple's arrays would be counted in and out at every step).
    """
    for word in range(masks.shape[1]):
        gathered = np.uint64(0)
        for bit in range(min(64, neighbours.shape[1] - 64 * word)):
            gathered |= np.uint64(negative[neighbours[site, 64 * word + bit]]) << np.uint64(bit)
        words[word] = gathered
    c = kind[site]
    total = base[c]
    for g in range(start[c], start[c + 1]):
        block, n = first[g], first[g + 1] - first[g]
        if n_others[g] == 1:
            ones = 0
            for word in range(masks.shape[1]):
                ones += _ones(words[word] & masks[g, word])
        elif n_others[g] == 2:
            ones = _count_2(words, windows, look_up, block, position[g], n)
        elif n_others[g] == 3:
            ones = _count_3(words, windows, look_up, block, position[g], n)
        elif n_others[g] == 4:
            ones = _count_4(words, windows, look_up, block, position[g], n)
        else:
            ones = count_plainly(words, windows, look_up, block, position[g], n, n_others[g])
        total += factor[g] * ones
    return total
