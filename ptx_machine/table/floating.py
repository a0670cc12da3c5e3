"""Floating point: what is rounded once, and what is approximate.

An approximate instruction gives the exact result rounded, times 1 + `noise` times the largest relative error that the
manual documents for it: 0 is the best that there could be, 1 and -1 are the worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from ptx_machine.decode import OPS, Build, Code, Step, op
from ptx_machine.table import integer
from ptx_machine.table.typed import of, same
from ptx_machine.text import Instruction
from ptx_machine.types import Array, fma, fma_to_odd, odd, two_sum

_ULP, _TINY = 2.0**-23, 2.0**-126


def flushed(a: Array) -> Array:
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(a) < _TINY, np.copysign(np.float32(0), a), a)


def _approximate(f: Callable[..., Array], errors: dict[str, float]) -> Build:
    """`errors`: relative, by modifier; 0 where it is rounded as IEEE says."""

    def build(code: Code, one: Instruction) -> Step:
        how, *ftz, kind = one.modifiers
        if how not in errors or ftz not in ([], ["ftz"]):
            one.refuse()
        if kind == "f64" and errors[how] == 0 and not ftz:
            return code.alu(one, kind, [kind] * (len(one.operands) - 1), f)
        if kind != "f32":
            one.refuse()
        scale = 1 + code.noise * errors[how]
        flush = flushed if ftz else lambda a: a

        def rounded(*x: Array) -> Array:
            return flush((f(*(flush(a).astype(np.float64) for a in x)) * scale).astype(np.float32))

        return code.alu(one, kind, [kind] * (len(one.operands) - 1), rounded)

    return build


# float64 rounds these a second time for float32, which changes nothing: it has more than twice the digits, and 2.
_quotient = _approximate(np.divide, {"full": 2 * _ULP, "approx": 2 * _ULP, "rn": 0})
OPS |= {
    "rcp": _approximate(np.reciprocal, {"approx": _ULP, "rn": 0}),
    "sqrt": _approximate(np.sqrt, {"approx": _ULP, "rn": 0}),
    "rsqrt": _approximate(lambda x: 1 / np.sqrt(x), {"approx": 2.0**-22.9}),
    "ex2": _approximate(np.exp2, {"approx": 2.0**-22}),
    "lg2": _approximate(np.log2, {"approx": 2.0**-22}),
    "tanh": _approximate(np.tanh, {"approx": 2.0**-11}),
}


@op("div")
def divide(code: Code, one: Instruction) -> Step:
    return (_quotient if one.modifiers[-1][0] == "f" else integer.quotient)(code, one)


@op("fma")
def fused(code: Code, one: Instruction) -> Step:
    """a b + c, rounded once."""
    *how, kind = one.modifiers
    one.only("rn", "ftz", kind)
    flushes = how == ["rn", "ftz"] and kind == "f32"  # as in libdevice's logarithm
    if not flushes and (how != ["rn"] or kind not in ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64")):
        one.refuse()

    def f(a: Array, b: Array, c: Array) -> Array:
        if a.dtype == np.float32:
            return fma(a, b, c)
        if a.dtype == np.float16:
            # float64 is exact wherever the sum could be a tie between two of float16: there 34 digits hold it.
            return (a.astype(np.float64) * b + c).astype(np.float16)
        return _fma64(a, b, c)

    if flushes:
        return code.alu(one, kind, [kind] * 3, lambda a, b, c: flushed(fma(flushed(a), flushed(b), flushed(c))))
    return code.alu(one, kind, [kind] * 3, of(kind, fma_to_odd if kind.startswith("bf16") else f))


def _fma64(a: Array, b: Array, c: Array) -> Array:
    """Of float64, rounded once (S. Boldo, G. Melquiond, Emulation of FMA and correctly rounded sums)."""
    product = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    error = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    low, lowest = two_sum(c, error)
    high, lower = two_sum(product, low)
    total = high + odd(*two_sum(lower, lowest))
    # Where nothing of that overflows or vanishes; else one by one.
    sizes = [np.abs(x) for x in np.broadcast_arrays(a, b, product, c)]
    safe = (np.maximum.reduce(sizes) < 2.0**990) & (sizes[2] > 2.0**-900) & ((sizes[3] > 2.0**-900) | (sizes[3] == 0))
    if safe.all():
        return total
    return np.where(safe, total, [_fma_of(*x) for x in np.broadcast(a, b, c)])


def _split(x: Array) -> tuple[Array, Array]:
    """Two numbers of half the digits each."""
    t = x * (2.0**27 + 1)
    high = t - (t - x)
    return high, x - high


def _fma_of(a: np.float64, b: np.float64, c: np.float64) -> float:
    if not np.isfinite(a + b + c) or a == 0 or b == 0:
        return float(np.longdouble(a) * b + c)  # which has room for a product that is no infinity
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    try:
        return float(exact) if exact else float(a * b + c)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


@op("abs")
def magnitude(code: Code, one: Instruction) -> Step:
    """Of integers, too."""
    flushes = "ftz" in one.modifiers
    if flushes and one.modifiers != ["ftz", "f32"]:
        one.refuse()
    return same(1, (lambda a: flushed(np.abs(a))) if flushes else np.abs, "ftz")(code, one)


@op("copysign")
def copysign(code: Code, one: Instruction) -> Step:
    """The second's number with the first's sign."""
    kind = one.modifiers[-1]
    one.only("f32", "f64")
    return code.alu(one, kind, [kind, kind], lambda sign, x: np.copysign(x, sign))


@op("testp")
def testp(code: Code, one: Instruction) -> Step:
    how, kind = one.modifiers
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "notanumber": np.isnan,
        "number": lambda x: ~np.isnan(x),
    }
    return code.alu(one, "pred", [kind], tests.get(how) or one.refuse())
