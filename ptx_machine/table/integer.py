"""Integer arithmetic, of one type: `add.s32`. What floats share of it is in here, too: `add.f32`, `neg.f32`."""

from __future__ import annotations

import numpy as np

from ptx_machine.decode import OPS, Code, Step, op
from ptx_machine.table.typed import of, same
from ptx_machine.text import Instruction
from ptx_machine.types import Array, bits

OPS |= {
    "add": same(2, np.add, "rn"),
    "sub": same(2, np.subtract, "rn"),
    "neg": same(1, np.negative),
}


@op("min", "max")
def extreme(code: Code, one: Instruction) -> Step:
    """Of a NaN and a number the number, unless .NaN says otherwise. `.relu`, of s32: no less than 0."""
    of_numbers, of_any = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[one.name]
    if one.modifiers == ["relu", "s32"]:
        return code.alu(one, "s32", ["s32"] * 2, lambda a, b: np.maximum(of_any(a, b), 0))
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


@op("rem")
def remainder(code: Code, one: Instruction) -> Step:
    """What division toward zero leaves; of division by zero the manual promises nothing, here a."""
    kind = one.modifiers[-1]
    one.only(kind)
    return code.alu(one, kind, [kind, kind], lambda a, b: np.where(b == 0, a, np.fmod(a, _not_zero(b))))


def quotient(code: Code, one: Instruction) -> Step:
    """Rounded toward zero; by zero, all ones."""
    kind = one.modifiers[-1]
    one.only(kind)

    def f(a: Array, b: Array) -> Array:
        by = _not_zero(b)
        return np.where(b == 0, np.invert(np.zeros_like(a)), (a - np.fmod(a, by)) // by)

    return code.alu(one, kind, [kind, kind], f)


def _not_zero(b: Array) -> Array:
    return np.where(b == 0, b.dtype.type(1), b)
