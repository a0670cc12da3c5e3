"""Kernels of a few lines of PTX for the machine's tests, and numbers rounded by exact arithmetic to compare with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptx_machine import Machine, Report
from ptx_machine.types import Array

THREADS = 256  # of a test of one instruction
ORDERS = ("grid", "programs", "warps")
# An instruction on %a, %b, ... to %o; the types of %o, %a, ...; and what it computes, of Python's numbers.
Case = tuple[str, str, Callable[..., Any]]
_HEAD = """.version 8.7
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 global_smem[];
.visible .entry kernel(
{parameters}
)
.reqntid {threads}
{{
.reg .pred %p<32>; .reg .b16 %h<64>; .reg .b32 %r<128>; .reg .f32 %f<128>; .reg .b64 %rd<64>; .reg .b128 %q<9>;
"""


def kernel(body: str, parameters: int, warps: int = 1) -> str:
    """A kernel of `body`, with `parameters` pointers in %rd0, %rd1, ..., the thread in %r0 and the program in %r1."""
    names = [f"kernel_param_{i}" for i in range(parameters)]
    head = _HEAD.format(parameters=",\n".join(f"\t.param .u64 {name}" for name in names), threads=32 * warps)
    loads = "".join(f"ld.param.u64 %rd{i}, [{name}];\n" for i, name in enumerate(names))
    return f"{head}{loads}mov.u32 %r0, %tid.x;\nmov.u32 %r1, %ctaid.x;\n{body}\nret;\n}}\n"


def launch(
    body: str, tensors: Sequence[Tensor], warps: int = 1, grid: int = 1, shared: int = 0, **options: Any
) -> Report:
    """`body`, as `kernel` has it, run on pointers to `tensors`."""
    return Machine(kernel(body, len(tensors), warps), (grid,), warps, shared, tensors, **options).run()


def words(*values: int, n: int | None = None) -> Tensor:
    """32-bit words; `n` zeros."""
    if n is not None:
        return torch.zeros(n, dtype=torch.int32)
    return torch.from_numpy(np.array(values, np.uint32).view(np.int32))


def width(kind: str) -> int:
    return 1 if kind == "pred" else int(kind.strip("bfsux").removesuffix("x2")) * (1 + kind.endswith("x2"))


def numpy_type(kind: str) -> Any:
    """What holds values of a PTX type: bfloat16 and pairs as bits."""
    if kind == "pred":
        return np.bool_
    if kind in ("f16", "f32", "f64", "s16", "s32", "s64"):
        return np.dtype(kind.replace("s", "i")[0] + str(width(kind) // 8))
    return np.dtype(f"u{width(kind) // 8}")


def apply(instruction: str, kinds: str, operands: Sequence[Array], immediate: bool = False, **options: Any) -> Array:
    """What `instruction` puts into %o for %a, %b, ..., of the types `kinds`, %o's first: a thread an element.

    `immediate`: for the first element of each operand, in registers that are the same in all threads.
    """
    out, *ins = kinds.split()
    n = 32 if immediate else len(operands[0])
    lines, tensors = [], []
    for name, kind, values in zip("abcde", ins, operands, strict=False):
        predicate, register = kind == "pred", f"%{name}{'x' if kind == 'pred' else ''}"
        raw = values.astype(np.uint32) if predicate else values.view(np.dtype(f"u{values.itemsize}"))
        bits = raw.itemsize * 8
        lines.append(f".reg .b{bits} {register};")
        if immediate:
            lines.append(f"mov.b{bits} {register}, {int(raw[0])};")
        else:
            lines.append(f"mad.wide.u32 %rd60, %r0, {bits // 8}, %rd{len(tensors) + 1};")
            lines.append(f"ld.global.b{bits} {register}, [%rd60];")
            tensors.append(torch.from_numpy(raw.view(np.dtype(f"i{raw.itemsize}")).copy()))
        if predicate:
            lines.append(f".reg .pred %{name}; setp.ne.u32 %{name}, {register}, 0;")
    stored = np.zeros(n, np.uint32 if out == "pred" else f"u{width(out) // 8}")
    bits, register = stored.itemsize * 8, "%ox" if out == "pred" else "%o"
    lines.append(f".reg .b{bits} {register}; .reg .pred %o;" if out == "pred" else f".reg .b{bits} {register};")
    lines.append(f"{instruction};")
    if out == "pred":
        lines.append(f"selp.b32 {register}, 1, 0, %o;")
    lines.append(f"mad.wide.u32 %rd60, %r0, {bits // 8}, %rd0; st.global.b{bits} [%rd60], {register};")
    result = torch.from_numpy(stored.view(np.dtype(f"i{stored.itemsize}")))
    launch("\n".join(lines), [result, *tensors], n // 32, **options)
    return stored.astype(bool) if out == "pred" else stored.view(numpy_type(out))


# Rounding. A format is its digits and the exponent of its smallest normal number.
FORMATS = {"f16": (11, -14), "bf16": (8, -126), "f32": (24, -126), "f64": (53, -1022)}


@functools.cache
def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def nearest(x: Fraction | float, kind: str) -> float:
    """`x` rounded once to the format `kind`, to nearest, ties to even."""
    if isinstance(x, (float, np.floating)):
        if x == 0 or not math.isfinite(x):
            return float(x)
        x = Fraction(float(x))
    digits, low = FORMATS[kind]
    exponent = abs(x).numerator.bit_length() - x.denominator.bit_length()
    exponent -= _power(exponent) > abs(x)
    unit = _power(max(exponent, low) - digits + 1)
    rounded = round(x / unit) * unit  # Python's ties go to even
    if abs(rounded) >= _power(2 - low):
        return math.copysign(math.inf, 1 if x > 0 else -1)
    return math.copysign(float(rounded), x)


def exactly(f: Callable[..., Any], *x: float) -> Fraction | float:
    """`f` of numbers without any rounding; of infinities, of NaNs and for a zero's sign, float64's."""
    if all(map(math.isfinite, x)):
        try:
            exact = f(*map(Fraction, x))
        except ZeroDivisionError:
            exact = 0
        if exact != 0:
            return Fraction(exact)
    with np.errstate(all="ignore"):
        return float(f(*map(np.float64, x)))


def root(x: float) -> Fraction | float:
    """The square root, with more digits than any format has and a last one for what is missing."""
    if not x > 0 or math.isinf(x):
        return math.nan if x < 0 else x
    exact = Fraction(x)
    scaled = (exact.numerator << 2600) // exact.denominator
    whole = math.isqrt(scaled)
    return Fraction(2 * whole + (whole * whole * exact.denominator != exact.numerator << 2600), 1 << 1301)


def to_floats(values: Array, kind: str) -> list[float]:
    """Bits of bfloat16, or an array of floats, as Python's."""
    if kind == "bf16":
        return [float(x) for x in (values.astype(np.uint32) << 16).view(np.float32)]
    return [float(x) for x in values]


def half_of(x: int, kind: str, shift: int) -> float:
    bits = np.array([x >> shift & 0xFFFF], np.uint16)
    (value,) = to_floats(bits if kind == "bf16x2" else bits.view(np.float16), kind.removesuffix("x2"))
    return value


def signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> bits - 1 else x


# Values.


def _integers(bits: int, rng: np.random.Generator) -> Array:
    top = 1 << bits - 1
    edges = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 255, top - 1, top, top + 1, 2 * top - 2]
    drawn = [int(x) % (2 * top) for x in rng.integers(0, 1 << 63, 24, np.uint64) * np.uint64(3)]
    return np.array([x % (2 * top) for x in [*edges, 2 * top - 1, *drawn]], f"u{max(1, bits // 8)}")


def _float_bits(kind: str, rng: np.random.Generator) -> Array:
    digits, low = FORMATS[kind]
    bits = {"f32": 32, "f64": 64}.get(kind, 16)
    sign, infinity, one = 1 << bits - 1, ((1 << bits - digits) - 1) << digits - 1, (1 - low) << digits - 1
    edges = [0, 1, 2, (1 << digits - 1) - 1, 1 << digits - 1, infinity - 1, infinity, infinity + 1, sign - 1]
    edges += [one - 1, one, one + 1, one + (1 << digits - 1), one + (1 << digits - 2), one - (1 << digits - 1)]
    drawn = [int(x) % sign for x in rng.integers(0, 1 << 63, 12, np.uint64)]
    # Numbers near one, between which sums and products neither vanish nor overflow.
    drawn += [one + int(x) for x in rng.integers(-4 << digits - 1, 4 << digits - 1, 24)]
    return np.array([x ^ s for x in [*edges, *drawn] for s in (0, sign)], f"u{bits // 8}")


def draw(kind: str, n: int, rng: np.random.Generator) -> Array:
    """`n` values of a type, edges among them."""
    if kind == "pred":
        return rng.integers(0, 2, n).astype(bool)
    if kind.endswith("x2") and "f" in kind:
        bits = _float_bits(kind.removesuffix("x2"), rng)
        return (rng.choice(bits, n).astype(np.uint32) << 16) | rng.choice(bits, n)
    if kind in FORMATS:
        return rng.choice(_float_bits(kind, rng), n).view(numpy_type(kind))
    if kind.endswith("x2"):
        return rng.choice(_integers(16, rng), n).astype(np.uint32) << 16 | rng.choice(_integers(16, rng), n)
    return rng.choice(_integers(width(kind), rng), n).view(numpy_type(kind))


def plain(x: Any, kind: str) -> Any:
    """What a reference gets: Python's number."""
    if kind in FORMATS:
        return to_floats(np.array([x]), kind)[0]
    return bool(x) if kind == "pred" else int(x)


def run(instruction: str, kinds: str, **options: Any) -> tuple[list[Array], Array, Array]:
    """The operands, what it made of them, and of the first ones as immediates."""
    rng = np.random.default_rng(len(instruction))
    operands = [draw(kind, THREADS, rng) for kind in kinds.split()[1:]]
    return (
        operands,
        apply(instruction, kinds, operands, **options),
        apply(instruction, kinds, operands, True, **options),
    )


def numbers(operands: list[Array], kinds: str) -> Iterator[tuple[Any, ...]]:
    columns = [[plain(x, kind) for x in values] for values, kind in zip(operands, kinds.split()[1:], strict=True)]
    return zip(*columns, strict=True)
