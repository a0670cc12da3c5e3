"""PTX's types in NumPy, and how values are rounded from one to another.

A register is an array of raw bits, unsigned and as wide as its type; what an instruction's types say is a view of it.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WARP = 32  # lanes
RAW: dict[int, Any] = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED: dict[int, Any] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOAT: dict[int, Any] = {16: np.float16, 32: np.float32, 64: np.float64}
CANONICAL_NAN = 0x7FFF  # what every conversion to 16 bits makes of a NaN


@functools.cache
def bits(kind: str) -> int:
    """The width of a PTX type."""
    if kind == "pred":
        return 1
    number = re.search(r"\d+", kind)
    if number is None:
        raise ValueError(f"no PTX type: {kind}")
    return int(number[0]) * (2 if kind.endswith("x2") else 1)


@functools.cache
def dtype(kind: str) -> Any:
    """What NumPy computes a PTX type in; raw bits where it has no such type."""
    if kind == "pred" or kind.startswith(("b", "t")) or kind.endswith("x2"):
        return RAW[bits(kind)]
    return {"s": SIGNED, "f": FLOAT}.get(kind[0], RAW)[bits(kind)]


def halves(packed: Array) -> tuple[Array, Array]:
    """The low and the high 16 bits of 32."""
    return packed.astype(np.uint16), (packed >> np.uint32(16)).astype(np.uint16)


def packed(low: Array, high: Array) -> Array:
    return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)


def from_bf16(x: Array) -> Array:
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def from_f16(x: Array) -> Array:
    return x.view(np.float16).astype(np.float32)


def to_bf16(x: Array) -> Array:
    """Float32 rounded to nearest even, as bits."""
    u = x.view(np.uint32)
    rounded = ((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(CANONICAL_NAN), rounded)


def to_f16(x: Array) -> Array:
    """Float32 or float64 rounded to nearest even, as bits."""
    return np.where(np.isnan(x), np.uint16(CANONICAL_NAN), x.astype(np.float16).view(np.uint16))


def odd(x: Array, error: Array) -> Array:
    """`x + error`, float64 with |error| below half of x's last place, as a float64 that can be rounded once more.

    Its last bit is odd where `error` is not zero: then no rounding of it is a tie that x + error is not.
    """
    whole = x.view(np.int64)
    inexact = (error != 0) & np.isfinite(x)
    down = inexact & ((error < 0) != (x < 0)) & (whole & 1 == 0)  # toward zero; the bits of |x| grow with it
    return (whole - down | inexact).view(np.float64)


def two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """x + y of float64, and what rounding left of it."""
    total = x + y
    shown = total - x
    return total, (x - (total - shown)) + (y - shown)


def _product_and_sum(a: Array, b: Array, c: Array) -> Array:
    """a b + c of float32, as a float64 that can be rounded once more."""
    x, y, z = (v.astype(np.float64) for v in (a, b, c))
    return odd(*two_sum(x * y, z))  # the product is exact


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c of float32, rounded once."""
    return _product_and_sum(a, b, c).astype(np.float32)


def fma_to_odd(a: Array, b: Array, c: Array) -> Array:
    """The same as a float32 that can be rounded once more, to bfloat16: one of its two neighbours, the odd one."""
    exact = _product_and_sum(a, b, c)
    near = exact.astype(np.float32)
    inexact = np.isfinite(exact) & (near != exact)
    return (near.view(np.uint32) - (inexact & (np.abs(near) > np.abs(exact))) | inexact).view(np.float32)
