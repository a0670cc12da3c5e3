"""Operations whose operands and result are of one type, and what that type is to NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_machine.decode import Build, Code, Step
from ptx_machine.text import Instruction
from ptx_machine.types import Array, from_bf16, halves, packed, to_bf16


def same(count: int, f: Callable[..., Array], *allowed: str) -> Build:
    """An operation whose operands and result are of one type; of two halves, half by half."""

    def build(code: Code, one: Instruction) -> Step:
        kind = one.modifiers[-1]
        one.only(kind, *allowed)
        return code.alu(one, kind, [kind] * count, of(kind, f))

    return build


def of(kind: str, f: Callable[..., Array]) -> Callable[..., Array]:
    """`f`, which takes what NumPy has, on registers of type `kind`: bfloat16 through float32, and halves one by one."""
    if kind == "bf16":
        return lambda *x: to_bf16(f(*(from_bf16(a) for a in x)))
    if kind.endswith("x2"):
        # u16x2 and s16x2; f16x2; bf16x2
        inner = of("bf16", f) if kind == "bf16x2" else f
        view = {"s16x2": np.int16, "f16x2": np.float16}.get(kind, np.uint16)

        def each(*x: Array) -> Array:
            low, high = zip(*(halves(a) for a in x), strict=True)
            return packed(*(inner(*(a.view(view) for a in half)).view(np.uint16) for half in (low, high)))

        return each
    return f
