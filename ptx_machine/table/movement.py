"""From register to register: copies, parts, and conversions of type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_machine.decode import Code, Step, op
from ptx_machine.text import Instruction
from ptx_machine.types import RAW, Array, bits, dtype, from_bf16, from_f16, packed, to_bf16, to_f16

if TYPE_CHECKING:
    from ptx_machine.grid import Grid


@op("mov")
def mov(code: Code, one: Instruction) -> Step:
    """A copy; or a register made of parts, the low one first; or taken apart."""
    (kind,) = one.modifiers
    target, source = one.operands
    if kind == "b128":
        return _of_pairs(code, one)
    if source.startswith("{"):
        return _joined(code, one, kind)
    if target.startswith("{"):
        return _taken_apart(code, one, kind)
    copy = code.alu(one, kind, [kind], lambda a: a)
    if not code.wgmma:
        return copy
    d, active = code.register(target, one), code.active(one)

    def step(g: Grid) -> None:
        copy(g)
        if d in code.fenced:
            g.accumulators.copied(g, d, active(g))

    return step


def _joined(code: Code, one: Instruction, kind: str) -> Step:
    target, source = one.operands
    parts = [part.strip() for part in source.strip("{}").split(",")]
    width, whole = bits(kind) // len(parts), RAW[bits(kind)]
    d, active = code.register(target, one), code.active(one)
    sources = [(i * width, code.operand(part, width, one)) for i, part in enumerate(parts)]

    def step(g: Grid) -> None:
        # A part that nobody wrote may be: LLVM pads with such registers and drops them again.
        value = np.zeros(1, whole)
        for shift, s in sources:
            value = value | g.old(s).astype(whole) << whole(shift)
        g.put(d, active(g), value)

    return step


def _taken_apart(code: Code, one: Instruction, kind: str) -> Step:
    target, source = one.operands
    names = [name.strip() for name in target.strip("{}").split(",")]
    width = bits(kind) // len(names)
    targets = [(i * width, code.register(name, one)) for i, name in enumerate(names) if name != "_"]
    a, whole, part, active = code.operand(source, bits(kind), one), RAW[bits(kind)], RAW[width], code.active(one)

    def step(g: Grid) -> None:
        value, m = g.R[a], active(g)
        for shift, d in targets:
            g.put(d, m, (value >> whole(shift)).astype(part))

    return step


def _of_pairs(code: Code, one: Instruction) -> Step:
    """128 bits, which are kept in two registers: one is put together, taken apart, or copied."""
    names = [[part.strip() for part in text.strip("{}").split(",")] for text in one.operands]
    if [len(part) for part in names] not in ([1, 1], [1, 2], [2, 1]) or "_" in names[1]:
        one.refuse("operands")
    targets, sources = (
        code.pair(part[0], one) if len(part) == 1 else [-1 if x == "_" else code.operand(x, 64, one) for x in part]
        for part in names
    )
    active = code.active(one)

    def step(g: Grid) -> None:
        m, values = active(g), [g.R[s].view(np.uint64) for s in sources]
        for d, value in zip(targets, values, strict=True):
            if d >= 0:
                g.put(d, m, value)

    return step


@op("cvta")
def cvta(code: Code, one: Instruction) -> Step:
    """Generic addresses are those of global memory; nothing else is mapped there."""
    if one.modifiers not in (["to", "global", "u64"], ["global", "u64"]):
        one.refuse()
    return code.alu(one, "u64", ["u64"], lambda a: a)


_TO_16: dict[str, Callable[[Array], Array]] = {"f16": to_f16, "bf16": to_bf16}
_FROM_16: dict[str, Callable[[Array], Array]] = {"f16": from_f16, "bf16": from_bf16}


def _to_tf32(a: Array) -> Array:
    rounded = (a + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(a.view(np.float32)), np.uint32(0x7FFFE000), rounded)


_ROUND: dict[str, Callable[[Array], Array]] = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


@op("cvt")
def cvt(code: Code, one: Instruction) -> Step:
    *how, to, kind = one.modifiers
    if to in _TO_16 and kind == "f32" and how == ["rn"]:
        return code.alu(one, "b16", ["f32"], _TO_16[to])
    if to in ("f16x2", "bf16x2") and kind == "f32" and how == ["rn"]:  # the first operand goes up
        f = _TO_16[to[:-2]]
        return code.alu(one, "b32", ["f32", "f32"], lambda high, low: packed(f(low), f(high)))
    if to == "f16" and kind == "f64" and how == ["rn"]:
        return code.alu(one, "b16", ["f64"], to_f16)
    if to == "f32" and kind in _FROM_16 and not how:
        return code.alu(one, to, ["b16"], _FROM_16[kind])
    if (to, kind) == ("tf32", "f32") and how == ["rna"]:  # ties away from zero
        return code.alu(one, "b32", ["b32"], _to_tf32)
    if "b" in (to[0], kind[0]) or "t" in (to[0], kind[0]):
        one.refuse()
    if to[0] in "us" and kind[0] in "us" and not how:
        return code.alu(one, to, [kind], lambda a: a.astype(dtype(to)))
    if to[0] == "f" and (how == ["rn"] if kind[0] != "f" or bits(to) < bits(kind) else not how):
        return code.alu(one, to, [kind], lambda a: a.astype(dtype(to)))
    if to[0] in "us" and kind[0] == "f" and len(how) == 1 and how[0] in _ROUND:
        return code.alu(one, to, [kind], _to_integer(_ROUND[how[0]], to, kind))
    if to == kind and to[0] == "f" and len(how) == 1 and how[0] in _ROUND:
        return code.alu(one, to, [kind], _ROUND[how[0]])
    return one.refuse()


def _to_integer(rounding: Callable[[Array], Array], to: str, kind: str) -> Callable[[Array], Array]:
    """What is out of range becomes the nearest that is in it. A NaN becomes 0, but of or to 64 bits the highest bit."""
    limits = np.iinfo(dtype(to))
    # float64 has no largest int64: one step below it is the last that there is.
    low, high = float(limits.min), float(limits.max if bits(to) < 64 else np.nextafter(np.float64(limits.max), 0))
    nan = dtype(to)(limits.min or limits.max // 2 + 1) if "64" in to + kind else dtype(to)(0)

    def f(a: Array) -> Array:
        x = rounding(a.astype(np.float64))
        found = np.where(x > high, dtype(to)(limits.max), np.clip(x, low, high).astype(dtype(to)))
        return np.where(np.isnan(x), nan, found)

    return f
