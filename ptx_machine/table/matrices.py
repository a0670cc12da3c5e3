"""Matrix instructions of a warp: products, and matrices between registers and shared memory.

Products are exact; the sum over one instruction's k, and then the accumulator's, are float32 in NumPy's order. tf32
operands lose their low 13 bits. Of float64, products are rounded, too.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ptx_machine.decode import Code, Step, op
from ptx_machine.text import Instruction
from ptx_machine.types import FLOAT, RAW, WARP, Array, bits, from_bf16, from_f16

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_LANE = np.arange(WARP)
_SHAPES = {
    "f16": ("m16n8k8", "m16n8k16"),
    "bf16": ("m16n8k8", "m16n8k16"),
    "tf32": ("m16n8k4", "m16n8k8"),
    "f64": ("m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"),
}


@functools.cache
def fragments(k: int, per: int, rows: int = 16) -> tuple[Array, Array, Array]:
    """Where the elements of A [rows, k] and B [k, 8] are among a warp's (lane, register, element of `per` in a
    register), and those of D [rows, 8] in memory order for each (lane, register)."""
    row, column = (_LANE // 4)[:, None, None], (_LANE % 4 * per)[:, None, None] + np.arange(per)
    a, b, r = np.empty((rows, k), int), np.empty((k, 8), int), np.arange(rows * k // (WARP * per))[:, None]
    a[row + 8 * (r % 2), column + 4 * per * (r // 2)] = np.arange(a.size).reshape(WARP, -1, per)
    r = np.arange(k // (4 * per))[:, None]
    b[column + 4 * per * r, row + 0 * column * r] = np.arange(b.size).reshape(WARP, -1, per)
    r = np.arange(rows // 4)
    d = (row[:, :, 0] + 8 * (r // 2)) * 8 + (_LANE % 4 * 2)[:, None] + r % 2
    return a.ravel(), b.ravel(), d


def floats(registers: list[Array], kind: str) -> Array:
    """The values in registers, as float32 or float64 `[warps, (lane, register, element)]`."""
    packed = np.stack(registers, 1)
    if kind == "f64":
        values = packed.view(np.float64)
    elif kind == "tf32":
        values = (packed & np.uint32(0xFFFFE000)).view(np.float32)
    else:
        values = (from_f16 if kind == "f16" else from_bf16)(packed.view(np.uint16))
    return values.reshape(-1, values.size // len(packed) * WARP)


@op("mma")
def mma(code: Code, one: Instruction) -> Step:
    """D = A B + C, 16 x 8 or, of float64 alone, 8 x 8."""
    _, _, shape, *types = one.modifiers if len(one.modifiers) > 6 else one.refuse()
    kind, out = types[3], "f64" if types[3] == "f64" else "f32"
    if shape not in _SHAPES.get(kind, ()) or types != ["row", "col", out, kind, kind, out]:
        one.refuse()
    rows, k, per = int(shape[1:].partition("n")[0]), int(shape.partition("k")[2]), 2 if kind in ("f16", "bf16") else 1
    d, a, b, c = (code.vector(o, bits(out), one) for o in one.operands)
    if [32 * per * len(a), 32 * per * len(b), 4 * len(d), 4 * len(c)] != [rows * k, 8 * k, rows, rows]:
        one.refuse("operands")
    at_a, at_b, at_d = fragments(k, per, rows)
    from_d, active = np.argsort(at_d.ravel()), code.active(one)

    def step(g: Grid) -> None:
        m = active(g)
        g.whole_warps(m, one)
        left = floats([g.full(x) for x in a], kind)[:, at_a].reshape(-1, rows, k)
        right = floats([g.full(x) for x in b], kind)[:, at_b].reshape(-1, k, 8)
        total = np.stack([g.full(x) for x in c], 1).view(FLOAT[bits(out)]).reshape(-1, rows * 8)[:, from_d]
        result = left @ right + total.reshape(-1, rows, 8)
        result = result.reshape(-1, rows * 8)[:, at_d].reshape(-1, len(d)).view(RAW[bits(out)])
        for i, x in enumerate(d):
            g.put(x, m, np.ascontiguousarray(result[:, i]))

    return step


@op("ldmatrix", "stmatrix")
def matrix(code: Code, one: Instruction) -> Step:
    """8 x 8 matrices of 16 bits, whose rows' addresses eight lanes each hold."""
    one.only("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16")
    loads = one.name == "ldmatrix"
    registers_text, where = one.operands if loads else one.operands[::-1]
    registers, (a, offset) = code.vector(registers_text, 32, one), code.address(where, 32, one)
    count, active = len(registers), code.active(one)
    # Lane l has elements 2 * (l % 4) and the next one of row l // 4; of column l // 4 where transposed.
    row, column = np.repeat(_LANE // 4, 2), (_LANE[:, None] % 4 * 2 + np.arange(2)).ravel()
    if "trans" in one.modifiers:
        row, column = column, row

    def step(g: Grid) -> None:
        m = active(g)
        warps = g.whole_warps(m, one)
        threads = (warps[:, None] * WARP + np.arange(8 * count)).ravel()
        at = g.shared.locate(one, g.full(a)[threads].astype(np.int64) + offset, 16, threads)
        if loads:
            rows = g.shared.load(one, at, 16, threads, np.uint16, whole=True).reshape(len(warps), count, 8, 8)
            found = np.ascontiguousarray(rows[:, :, row, column]).view(np.uint32)
            for i, x in enumerate(registers):
                if m is None:
                    g.put(x, m, np.ascontiguousarray(found[:, i]).ravel())
                else:
                    g.scatter(x, m, (warps[:, None] * WARP + _LANE).ravel(), found[:, i].ravel())
        else:
            rows = np.empty((len(warps), count, 8, 8), np.uint16)
            given = [g.full(x).reshape(-1, WARP)[warps] for x in registers]
            rows[:, :, row, column] = np.ascontiguousarray(np.stack(given, 1)).view(np.uint16)
            g.shared.store(one, at, 16, threads, rows.reshape(-1, 8))

    return step
