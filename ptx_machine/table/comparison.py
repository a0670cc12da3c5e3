"""Comparison and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx_machine.decode import Code, Step, op
from ptx_machine.text import Instruction
from ptx_machine.types import Array, from_bf16, halves

if TYPE_CHECKING:
    from ptx_machine.grid import Grid

_Function = Callable[..., Array]
_COMPARE: dict[str, _Function] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_COMBINE: dict[str, _Function] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
}  # fmt: skip


def _of_floats(how: str, one: Instruction) -> _Function:
    """A comparison that a NaN fails; or, named with a u, passes."""

    def nan(a: Array, b: Array) -> Array:
        return np.isnan(a) | np.isnan(b)

    if how in ("num", "nan"):
        return nan if how == "nan" else lambda a, b: ~nan(a, b)
    compare = _COMPARE.get(how.removesuffix("u")) or one.refuse()
    if how.endswith("u"):
        return lambda a, b: compare(a, b) | nan(a, b)
    return lambda a, b: compare(a, b) & ~nan(a, b)


def _itself(a: Array) -> Array:
    return a


def _as_f16(a: Array) -> Array:
    return a.view(np.float16)


def _comparisons(one: Instruction, how: str, kind: str) -> list[_Function]:
    """What each of the two predicates is: that of the low half and that of the high one, or one and its complement."""
    if kind[0] != "f" and kind[:2] != "bf":
        compare = _COMPARE.get(_UNSIGNED.get(how, how)) or one.refuse()
    else:
        compare = _of_floats(how, one)
    read = {"bf16": from_bf16, "f16": _as_f16}.get(kind.removesuffix("x2"), _itself)
    if kind.endswith("x2"):
        return [
            lambda a, b: compare(read(halves(a)[0]), read(halves(b)[0])),
            lambda a, b: compare(read(halves(a)[1]), read(halves(b)[1])),
        ]
    return [lambda a, b: compare(read(a), read(b)), lambda a, b: ~compare(read(a), read(b))]


def _with(also: _Function, f: _Function) -> _Function:
    return lambda a, b, p: also(f(a, b), p)


@op("setp")
def setp(code: Code, one: Instruction) -> Step:
    """One predicate, or two; combined with another where it says so."""
    how, *combine, kind = one.modifiers
    fs = _comparisons(one, how, kind)
    raw = {"bf16": "b16", "f16": "b16", "bf16x2": "b32", "f16x2": "b32"}.get(kind, kind)
    ins, sources = [raw, raw], one.operands[1:]
    if combine:
        also = _COMBINE.get(combine[0]) or one.refuse()
        if len(combine) > 1 or kind.endswith("x2") or len(sources) != 3 or sources[2].startswith("!"):
            one.refuse()
        fs, ins = [_with(also, f) for f in fs], [*ins, "pred"]
    targets = [part.strip() for part in one.operands[0].split("|")]
    steps = [
        code.alu(one, "pred", ins, f, [name, *sources]) for name, f in zip(targets, fs, strict=False) if name != "_"
    ]
    if len(steps) == 1:
        return steps[0]
    if targets[0] in sources:  # which the other one reads as well
        steps.reverse()

    def both(g: Grid) -> None:
        for step in steps:
            step(g)

    return both


@op("selp")
def selp(code: Code, one: Instruction) -> Step:
    (kind,) = one.modifiers

    def f(a: Array, b: Array, p: Array) -> Array:
        return np.where(p, a, b)

    return code.alu(one, kind, [kind, kind, "pred"], f)


@op("slct")
def slct(code: Code, one: Instruction) -> Step:
    """a where c is at least zero, else b: also where it is no number."""
    kind, by = one.modifiers if len(one.modifiers) == 2 else one.refuse()

    def f(a: Array, b: Array, c: Array) -> Array:
        return np.where(c >= 0, a, b)

    return code.alu(one, kind, [kind, kind, by], f)
