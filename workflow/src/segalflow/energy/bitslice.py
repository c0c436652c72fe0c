"""Counting negative products with one bit a chain: full adders on machine words instead of one addition a chain.

Rows hold one bit a chain (1: spin -1), 256 chains a vector. Products of spins are exclusive ors of rows; full adders
(Harley-Seal counters, Warren, Hacker's Delight, section 5.1) add eight rows of products at a time into binary planes,
so one instruction works on 256 chains; only the finished planes are turned into one byte a chain. The functions write
LLVM vector code directly: loops over tens of row pointers are beyond the automatic vectoriser.

Bit ``64 w + 8 p + r`` of a row of four words is the chain whose byte is number ``32 r + 8 w + p``, so that the bytes
that come out of the transposition of the planes lie in the order of the chains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from segalflow.compilation import numba

CHUNK = 256
"""Chains of a vector."""
PACK = 8
"""Monomials added together; groups are padded with the all-zero row."""
MAX_OTHERS = 5
"""Most other sites in a monomial."""
_WORDS = CHUNK // 64
_PLANES = 8
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_I64, _WORDS)


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * _WORDS)


def _full_adder(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Return sum and carry of three planes."""
    half = b.xor(x, y)
    return b.xor(half, z), b.or_(b.and_(x, y), b.and_(half, z))


def _swap_bits(b: ir.IRBuilder, low: Any, high: Any, shift: int, mask: int) -> tuple[Any, Any]:
    """Exchange the bits of `low` above with those of `high` below (one delta swap of a bit-matrix transposition)."""
    moved = b.and_(b.xor(b.lshr(low, _splat(shift)), high), _splat(mask))
    return b.xor(low, b.shl(moved, _splat(shift))), b.xor(high, moved)


def _transpose(b: ir.IRBuilder, planes: list[Any]) -> list[Any]:
    """Turn eight planes into eight rows of bytes: bit k of byte (w, p) of row r is bit 64 w + 8 p + r of plane k."""
    rows = list(planes)
    for shift, mask in ((4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333), (1, 0x5555555555555555)):
        for k in range(8):
            if k & shift == 0:
                rows[k], rows[k + shift] = _swap_bits(b, rows[k], rows[k + shift], shift, mask)
    return rows


def _counter(n_others: int) -> Any:
    """Return the intrinsic ``count(rows, index, position, n_packs, chunk, counts)`` for `n_others` other sites."""

    @intrinsic
    def count(typing_context, rows, index, position, n_packs, chunk, counts):
        signature = types.void(rows, index, types.int64, types.int64, types.int64, counts)

        def generate(context, b, sig, arguments):
            rows_v, index_v, position_v, packs_v, chunk_v, counts_v = arguments
            rows_a = context.make_array(sig.args[0])(context, b, value=rows_v)
            index_a = context.make_array(sig.args[1])(context, b, value=index_v)
            counts_a = context.make_array(sig.args[5])(context, b, value=counts_v)
            words = b.bitcast(rows_a.data, _I64.as_pointer())
            stride = b.extract_value(rows_a.strides, 0)
            stride = b.udiv(stride, ir.Constant(_I64, 8))
            offset = b.mul(chunk_v, ir.Constant(_I64, _WORDS))
            numbers = b.bitcast(index_a.data, ir.IntType(sig.args[1].dtype.bitwidth).as_pointer())
            planes = [cgutils.alloca_once(b, _VECTOR) for _ in range(_PLANES)]
            for plane in planes:
                b.store(_splat(0), plane)

            def product(start: Any, m: int) -> Any:
                value = None
                for k in range(n_others):
                    place = b.add(start, ir.Constant(_I64, k * PACK + m))
                    row = b.zext(b.load(b.gep(numbers, [place])), _I64)
                    pointer = b.gep(words, [b.add(b.mul(row, stride), offset)])
                    loaded = b.load(b.bitcast(pointer, _VECTOR.as_pointer()), align=8)
                    value = loaded if value is None else b.xor(value, loaded)
                return value

            with cgutils.for_range(b, packs_v) as loop:
                start = b.add(position_v, b.mul(loop.index, ir.Constant(_I64, PACK * n_others)))
                ones, twos, fours = (b.load(plane) for plane in planes[:3])
                to_four = []
                for half in (0, 4):
                    ones, first = _full_adder(b, ones, product(start, half), product(start, half + 1))
                    ones, second = _full_adder(b, ones, product(start, half + 2), product(start, half + 3))
                    twos, carry = _full_adder(b, twos, first, second)
                    to_four.append(carry)
                fours, carry = _full_adder(b, fours, *to_four)
                for plane, value in zip(planes[:3], (ones, twos, fours), strict=True):
                    b.store(value, plane)
                for plane in planes[3:]:
                    value = b.load(plane)
                    b.store(b.xor(value, carry), plane)
                    carry = b.and_(value, carry)
            out = b.bitcast(counts_a.data, _I64.as_pointer())
            base = b.mul(chunk_v, ir.Constant(_I64, CHUNK // 8))
            for r, value in enumerate(_transpose(b, [b.load(plane) for plane in planes])):
                pointer = b.gep(out, [b.add(base, ir.Constant(_I64, r * _WORDS))])
                b.store(value, b.bitcast(pointer, _VECTOR.as_pointer()), align=8)
            return context.get_dummy_value()

        return signature, generate

    return count


_count_1, _count_2, _count_3, _count_4, _count_5 = (_counter(k) for k in range(1, MAX_OTHERS + 1))


@numba.njit(cache=True, fastmath=False)
def count_products(rows, index, position, n_others, n_packs, counts):  # pragma: no cover - compiled
    """Write the number of negative products of one group, a byte a chain: uint64 `counts` (lanes / 8,).

    `rows` is uint64 (n_rows, lanes / 64), `index` uint16 or uint32: pack by pack the first sites of its `PACK`
    monomials, then the second sites, ... A group holds at most 255 monomials.
    """
    for chunk in range(rows.shape[1] // 4):
        if n_others == 1:
            _count_1(rows, index, position, n_packs, chunk, counts)
        elif n_others == 2:
            _count_2(rows, index, position, n_packs, chunk, counts)
        elif n_others == 3:
            _count_3(rows, index, position, n_packs, chunk, counts)
        elif n_others == 4:
            _count_4(rows, index, position, n_packs, chunk, counts)
        else:
            _count_5(rows, index, position, n_packs, chunk, counts)


@numba.njit(cache=True, fastmath=False)
def pack_row(byte_words, bits):  # pragma: no cover - compiled
    """Write the bits, uint64 (lanes / 64,), of a row of bytes 0 or 1, seen as uint64 (lanes / 8,)."""
    for chunk in range(bits.shape[0] // 4):
        for w in range(4):
            word = np.uint64(0)
            for r in range(8):
                word |= byte_words[chunk * 32 + r * 4 + w] << np.uint64(r)
            bits[chunk * 4 + w] = word


@numba.njit(cache=True, fastmath=False)
def pack_rows(byte_words, bits):  # pragma: no cover - compiled
    """Pack every row of every block: uint64 (blocks, n_rows, lanes / 8) to (blocks, n_rows, lanes / 64)."""
    for block in range(bits.shape[0]):
        for row in range(bits.shape[1]):
            pack_row(byte_words[block, row], bits[block, row])
