"""Integer arithmetic, of one type: `add.s32`. What floats share of it is in here, too: `add.f32`, `neg.f32`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_machine.decode import OPS, Build, Code, Step, op
from ptx_machine.text import Instruction
from ptx_machine.types import Array, bits, from_bf16, halves, packed, to_bf16


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


OPS |= {
    "add": same(2, np.add, "rn"),
    "sub": same(2, np.subtract, "rn"),
    "neg": same(1, np.negative),
    "abs": same(1, np.abs),
}


@op("min", "max")
def extreme(code: Code, one: Instruction) -> Step:
    """Of a NaN and a number the number, unless .NaN says otherwise."""
    of_numbers, of_any = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[one.name]
    is_float = one.modifiers[-1][0] == "f" or one.modifiers[-1][0] == "b"
    return same(2, of_numbers if is_float and "NaN" not in one.modifiers else of_any, "NaN")(code, one)


@op("mul", "mad")
def multiply(code: Code, one: Instruction) -> Step:
    """The low or high half of a product, or all of it (wide); mad adds to that."""
    *how, kind = one.modifiers
    one.only(kind, "rn", "lo", "hi", "wide")
    if "f" in kind:
        if one.name == "mad" or how not in ([], ["rn"]):
            one.refuse()
        return code.alu(one, kind, [kind] * 2, of(kind, np.multiply))
    if len(how) != 1 or (bits(kind) == 64 and how != ["lo"]):
        one.refuse()

    def product(a: Array, b: Array) -> Array:
        if how == ["lo"]:
            return a * b
        wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
        whole = a.astype(wide) * b.astype(wide)
        return whole if how == ["wide"] else (whole >> wide.type(8 * a.itemsize)).astype(a.dtype)

    out = kind[0] + str(2 * bits(kind)) if how == ["wide"] else kind
    if one.name == "mul":
        return code.alu(one, out, [kind, kind], product)
    return code.alu(one, out, [kind, kind, out], lambda a, b, c: product(a, b) + c)


@op("div", "rem")
def divide(code: Code, one: Instruction) -> Step:
    """Rounded toward zero, and what is left; of division by zero the manual promises nothing, here all ones and a."""
    kind = one.modifiers[-1]
    if kind[0] == "f":
        from ptx_machine.table.floating import quotient

        return quotient(code, one)
    one.only(kind)

    def f(a: Array, b: Array) -> Array:
        zero, safe = b == 0, np.where(b == 0, b.dtype.type(1), b)
        left = np.fmod(a, safe)
        if one.name == "rem":
            return np.where(zero, a, left)
        return np.where(zero, np.invert(np.zeros_like(a)), (a - left) // safe)

    return code.alu(one, kind, [kind, kind], f)
