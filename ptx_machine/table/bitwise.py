"""Logic and shifts, and what moves fields of bits and bytes."""

from __future__ import annotations

import functools

import numpy as np

from ptx_machine.decode import OPS, Code, Step, op
from ptx_machine.table.typed import same
from ptx_machine.text import Instruction
from ptx_machine.types import Array, bits

OPS |= {
    "and": same(2, np.bitwise_and),
    "or": same(2, np.bitwise_or),
    "xor": same(2, np.bitwise_xor),
    "not": same(1, np.invert),
}


@op("shl", "shr")
def shift(code: Code, one: Instruction) -> Step:
    """Past the width everything goes, where NumPy promises nothing."""
    (kind,) = one.modifiers
    width = bits(kind)

    def f(a: Array, b: Array) -> Array:
        n = np.minimum(b, width - 1).astype(a.dtype)
        shifted = a << n if one.name == "shl" else a >> n
        return shifted if kind[0] == "s" else np.where(b < width, shifted, 0).astype(a.dtype)

    return code.alu(one, kind, [kind, "u32"], f)


@op("shf")
def funnel(code: Code, one: Instruction) -> Step:
    """32 bits of two registers, the low one first, after a shift by at most 32 (clamp), or by five bits (wrap)."""
    side, mode, _ = one.modifiers if one.modifiers[2:] == ["b32"] else one.refuse()

    def f(low: Array, high: Array, n: Array) -> Array:
        n = (n & np.uint32(31) if mode == "wrap" else np.minimum(n, 32)).astype(np.uint64)
        both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
        return (both << n >> np.uint64(32) if side == "l" else both >> n).astype(np.uint32)

    return code.alu(one, "b32", ["b32"] * 3, f)


@op("lop3")
def lop3(code: Code, one: Instruction) -> Step:
    """Any function of three bits, by its table."""
    one.only("b32")
    table = int(one.operands[4], 0)

    def f(a: Array, b: Array, c: Array) -> Array:
        rows = [(a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c) for i in range(8) if table >> i & 1]
        return functools.reduce(np.bitwise_or, rows, np.zeros_like(a & b & c))

    return code.alu(one, "b32", ["b32"] * 3, f, one.operands[:4])


@op("bfe")
def extract(code: Code, one: Instruction) -> Step:
    """A field of bits, extended by its own sign, which is bit 31 where it reaches beyond."""
    kind = one.modifiers[0] if one.modifiers in (["u32"], ["s32"]) else one.refuse()

    def f(a: Array, start: Array, length: Array) -> Array:
        start, length = (np.minimum(x & np.uint32(255), 32).astype(np.int64) for x in (start, length))
        up = 64 - np.minimum(start + length, 32 if kind == "s32" else 64)
        if kind == "s32":
            field = a.astype(np.int64) << up >> (up + start)
        else:
            field = (a.astype(np.uint64) << up.astype(np.uint64) >> (up + start).astype(np.uint64)).astype(np.int64)
        return np.where(length == 0, 0, field).astype(a.dtype)

    return code.alu(one, kind, [kind, "u32", "u32"], f)


@op("bfi")
def insert(code: Code, one: Instruction) -> Step:
    """b with `length` of its bits from `start` on replaced by the low ones of a."""
    one.only("b32")

    def f(a: Array, b: Array, start: Array, length: Array) -> Array:
        start, length = (np.minimum(x & np.uint32(255), 32).astype(np.uint64) for x in (start, length))
        field = ((np.uint64(1) << length) - np.uint64(1)) << start & np.uint64(0xFFFFFFFF)
        return ((b.astype(np.uint64) & ~field) | (a.astype(np.uint64) << start & field)).astype(np.uint32)

    return code.alu(one, "b32", ["b32", "b32", "u32", "u32"], f)


@op("prmt")
def permute(code: Code, one: Instruction) -> Step:
    """Four bytes picked from eight; bit 3 of a pick spreads the byte's sign."""
    one.only("b32")

    def f(a: Array, b: Array, c: Array) -> Array:
        source = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        out = np.zeros(1, np.uint32)
        for i in range(0, 32, 8):
            pick = c >> np.uint32(i // 2) & np.uint32(15)
            byte = (source >> ((pick & np.uint32(7)) * np.uint32(8)).astype(np.uint64)).astype(np.uint32) & np.uint32(
                255
            )
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            out = out | np.where(pick & np.uint32(8), sign, byte) << np.uint32(i)
        return out

    return code.alu(one, "b32", ["b32"] * 3, f)


@op("popc", "clz", "brev", "bfind")
def count(code: Code, one: Instruction) -> Step:
    """Bits that are set; zeros before the first; the order reversed; where the highest is, or all ones."""
    kind = one.modifiers[-1]
    if one.modifiers not in (["b32"], ["u32"]):
        one.refuse()

    def f(a: Array) -> Array:
        table = np.unpackbits(a[:, None].view(np.uint8), axis=1, bitorder="little")
        if one.name == "popc":
            return table.sum(1).astype(np.uint32)
        if one.name == "brev":
            return np.packbits(table[:, ::-1], axis=1, bitorder="little").view(np.uint32)[:, 0]
        zeros = np.where(a == 0, 32, table[:, ::-1].argmax(1)).astype(np.uint32)
        return zeros if one.name == "clz" else np.where(a == 0, np.uint32(0xFFFFFFFF), np.uint32(31) - zeros)

    return code.alu(one, "b32" if one.name == "brev" else "u32", [kind], f)
