"""Instructions of floating point, against exact fractions that are rounded once."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import ptx
import pytest
from ptx import THREADS, Case, apply, exactly, half_of, nearest, numbers, run, signed

from ptx_machine.types import Array

# Floating point. What is computed is exact, and is rounded once.


def zeros_apart(f: Callable[[list[float]], float]) -> Callable[[float, float], float]:
    """Of two zeros +0 is the greater; of a NaN and a number, the number."""

    def extreme(a: float, b: float) -> float:
        known = [x for x in (a, b) if x == x]
        return f(known) if known else math.nan

    return extreme


def least(x: list[float]) -> float:
    return min(x, key=lambda v: (v, math.copysign(1, v)))


def greatest(x: list[float]) -> float:
    return max(x, key=lambda v: (v, math.copysign(1, v)))


def with_nan(f: Callable[[list[float]], float]) -> Callable[[float, float], float]:
    return lambda a, b: math.nan if a != a or b != b else f([a, b])


def fused(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


def floating_cases() -> Iterator[Case]:
    for kind in ("f16", "bf16", "f32", "f64"):
        two, three = f"{kind} {kind}", f"{kind} {kind} {kind}"
        for rounding in ("", "rn."):
            yield f"add.{rounding}{kind} %o, %a, %b", three, operator.add
            yield f"sub.{rounding}{kind} %o, %a, %b", three, operator.sub
            yield f"mul.{rounding}{kind} %o, %a, %b", three, operator.mul
        yield f"neg.{kind} %o, %a", two, operator.neg
        yield f"abs.{kind} %o, %a", two, abs
        yield f"min.{kind} %o, %a, %b", three, zeros_apart(least)
        yield f"max.{kind} %o, %a, %b", three, zeros_apart(greatest)
        if kind != "f64":
            yield f"min.NaN.{kind} %o, %a, %b", three, with_nan(least)
            yield f"max.NaN.{kind} %o, %a, %b", three, with_nan(greatest)
        yield f"fma.rn.{kind} %o, %a, %b, %c", f"{three} {kind}", fused
    for kind in ("f32", "f64"):
        yield f"div.rn.{kind} %o, %a, %b", f"{kind} {kind} {kind}", operator.truediv
        yield f"rcp.rn.{kind} %o, %a", f"{kind} {kind}", lambda a: 1 / a
        yield f"sqrt.rn.{kind} %o, %a", f"{kind} {kind}", ptx.root
        yield f"copysign.{kind} %o, %a, %b", f"{kind} {kind} {kind}", lambda a, b: math.copysign(b, a)
    # At best, with no noise.
    yield "div.full.f32 %o, %a, %b", "f32 f32 f32", operator.truediv
    yield "div.approx.f32 %o, %a, %b", "f32 f32 f32", operator.truediv
    yield "rcp.approx.f32 %o, %a", "f32 f32", lambda a: 1 / a
    yield "sqrt.approx.f32 %o, %a", "f32 f32", ptx.root
    # Conversions of type.
    for o, a in (("f16", "f32"), ("bf16", "f32"), ("f16", "f64"), ("f32", "f64")):
        yield f"cvt.rn.{o}.{a} %o, %a", f"{o} {a}", lambda a: a
    for o, a in (("f32", "f16"), ("f32", "bf16"), ("f64", "f32"), ("f64", "f16")):
        yield f"cvt.{o}.{a} %o, %a", f"{o} {a}", lambda a: a
    for o in ("f32", "f64", "f16"):
        for a in ("s16", "u16", "s32", "u32", "s64", "u64"):
            yield f"cvt.rn.{o}.{a} %o, %a", f"{o} {a}", Fraction
    for kind in ("f16", "f32", "f64"):
        for how, f in {"rzi": math.trunc, "rni": round, "rmi": math.floor, "rpi": math.ceil}.items():
            yield f"cvt.{how}.{kind}.{kind} %o, %a", f"{kind} {kind}", whole(f)


def whole(f: Callable[[float], int]) -> Callable[[float], float]:
    return lambda a: math.copysign(float(f(a)), a) if math.isfinite(a) else a


# These need to see a zero's sign, or have no fractions.
OF_FLOATS = ("min", "max", "neg", "abs", "copysign", "cvt", "sqrt")
FLOATING = list(floating_cases())


@pytest.mark.parametrize(("instruction", "kinds", "f"), FLOATING, ids=[case[0] for case in FLOATING])
def test_rounded_once(instruction: str, kinds: str, f: Callable[..., Any]) -> None:
    out = kinds.split()[0]
    operands, ours, constant = run(instruction, kinds)
    by_hand = instruction.startswith(OF_FLOATS)
    expected = [nearest(f(*x) if by_hand else exactly(f, *x), out) for x in numbers(operands, kinds)]
    same_floats(ptx.to_floats(ours, out), expected)
    same_floats(ptx.to_floats(constant, out), expected[:1] * 32)


def same_floats(ours: list[float], expected: list[float]) -> None:
    """The same numbers, signs of zeros included, and NaN where there is to be one."""
    assert [x.hex() for x in ours] == [x.hex() for x in expected]


PAIRS: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (2, operator.add), "sub": (2, operator.sub), "mul": (2, operator.mul), "neg": (1, operator.neg),
    "abs": (1, abs), "min": (2, zeros_apart(least)), "max": (2, zeros_apart(greatest)),
    "min.NaN": (2, with_nan(least)), "fma.rn": (3, fused),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_half_by_half(name: str, kind: str) -> None:
    count, f = PAIRS[name]
    instruction, kinds = f"{name}.{kind} %o, {', '.join(['%a', '%b', '%c'][:count])}", " ".join(["b32"] * (count + 1))
    rng = np.random.default_rng(0)
    operands = [ptx.draw(kind, THREADS, rng) for _ in range(count)]
    ours, inner = apply(instruction, kinds, operands), kind.removesuffix("x2")
    for shift in (0, 16):
        halves_of = [[half_of(int(x), kind, shift) for x in values] for values in (*operands, ours)]
        by_hand = name.startswith(OF_FLOATS)
        expected = [nearest(f(*x) if by_hand else exactly(f, *x), inner) for x in zip(*halves_of[:-1], strict=True)]
        same_floats(halves_of[-1], expected)


def test_fma_where_rounding_twice_goes_wrong() -> None:
    """a b is halfway between two float32, and c is too small for float64 to show it beside a b."""
    pairs = [(1 + 2.0**-12, 1 + 2.0**-12, s * 2.0**-e) for s in (1, -1) for e in (60, 80, 100, 120)]
    pairs += [(1 + 2.0**-23, 1.5, s * 2.0**-e) for s in (1, -1) for e in (60, 90, 126)]
    pairs += [(-a, b, c) for a, b, c in pairs]
    a, b, c = (np.array(x * 32, np.float32)[:THREADS] for x in zip(*pairs, strict=True))
    once = [nearest(exactly(fused, *map(float, x)), "f32") for x in zip(a, b, c, strict=True)]
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != np.array(once)).sum() > 100, "these cases show nothing"
    assert apply("fma.rn.f32 %o, %a, %b, %c", "f32 f32 f32 f32", [a, b, c]).tolist() == once


def test_fma_gives_the_error_of_a_product() -> None:
    """As compensated sums use it: a b less a b rounded."""
    rng = np.random.default_rng(0)
    for kind in ("f32", "f64"):
        a, b = (rng.standard_normal(THREADS).astype(ptx.numpy_type(kind)) for _ in range(2))
        product = a * b
        ours = apply(f"fma.rn.{kind} %o, %a, %b, %c", f"{kind} {kind} {kind} {kind}", [a, b, -product])
        exact = [Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True)]
        assert [Fraction(float(x)) for x in ours] == [
            e - Fraction(float(p)) for e, p in zip(exact, product, strict=True)
        ]


def test_ties_go_to_even() -> None:
    """Halfway between two bfloat16, and between two float16; a bit beyond, and one before."""
    for kind, unit in (("bf16", 2.0**-7), ("f16", 2.0**-10)):
        ties = [sign * (1 + unit * (i + 0.5) + unit * off) for i in range(8) for sign in (1, -1) for off in (0, 1e-3)]
        ours = apply(f"cvt.rn.{kind}.f32 %o, %a", f"{kind} f32", [np.array(ties, np.float32)])
        steps = [round((abs(x) - 1) / unit) for x in ptx.to_floats(ours, kind)]
        assert steps == [i + (i % 2 if off == 0 else 1) for i in range(8) for _ in "+-" for off in (0, 1e-3)]


NANS = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF] * 32, np.uint32)[:128].view(np.float32)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_conversions_make_every_nan_the_canonical_one(kind: str) -> None:
    assert set(apply(f"cvt.rn.{kind}.f32 %o, %a", "b16 f32", [NANS]).tolist()) == {0x7FFF}
    assert set(apply(f"cvt.rn.{kind}x2.f32 %o, %a, %a", "b32 f32", [NANS]).tolist()) == {0x7FFF7FFF}


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_two_conversions_at_once_put_the_first_operand_up(kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b = ptx.draw("f32", THREADS, rng), ptx.draw("f32", THREADS, rng)
    ours = apply(f"cvt.rn.{kind}x2.f32 %o, %a, %b", "b32 f32 f32", [a, b])
    for x, shift in ((b, 0), (a, 16)):
        same_floats([half_of(int(o), f"{kind}x2", shift) for o in ours], [nearest(v, kind) for v in map(float, x)])


def test_tf32_rounds_ties_away() -> None:
    """Ten digits behind the point are left; a NaN stays one."""
    rng = np.random.default_rng(0)
    a = np.concatenate([ptx.draw("f32", THREADS - 128, rng), NANS])
    a[:4] = [1 + 2.0**-11, -1 - 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 - 2.0**-23]
    ours = apply("cvt.rna.tf32.f32 %o, %a", "b32 f32", [a])
    assert not (ours & 0x1FFF)[np.isfinite(a)].any()
    values = ours.view(np.float32)
    assert np.array_equal(np.isnan(values), np.isnan(a))
    for x, y in zip(map(float, a), map(float, values), strict=True):
        if math.isfinite(x) and x:
            unit = Fraction(2) ** (max(math.frexp(x)[1] - 1, -126) - 10)
            away = math.floor(abs(Fraction(x)) / unit + Fraction(1, 2)) * unit
            assert abs(y) == (math.inf if away >= 2**128 else away)
            assert math.copysign(1, y) == math.copysign(1, x)


@pytest.mark.parametrize("how", ["rzi", "rni", "rmi", "rpi"])
@pytest.mark.parametrize("a", ["f16", "f32", "f64"])
@pytest.mark.parametrize("o", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
def test_to_integers_clamps(o: str, a: str, how: str) -> None:
    """What is outside becomes the nearest inside. A NaN is 0, but of or to 64 bits the highest bit alone."""
    bits, wide = ptx.width(o), o if o[1:] != "8" else f"{o[0]}32"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if o[0] == "s" else (0, (1 << bits) - 1)
    f: Callable[[float], int] = {"rzi": math.trunc, "rni": round, "rmi": math.floor, "rpi": math.ceil}[how]
    rng = np.random.default_rng(0)
    edges = [x + d for x in (low, high, 2.0**31, 2.0**32, 2.0**63, 2.0**64) for d in (-1, -0.5, 0, 0.5, 1, 1.5)]
    with np.errstate(over="ignore"):
        values = np.array([*edges, *(-x for x in edges), *rng.normal(0, 300, 56)]).astype(ptx.numpy_type(a))
    values = np.concatenate([values, ptx.draw(a, THREADS - len(values), rng)])
    nan = 1 << bits - 1 if a == "f64" or bits == 64 else 0

    def expected(x: float) -> int:
        if math.isinf(x):
            return high if x > 0 else low
        return signed(nan, bits) if x != x and o[0] == "s" else nan if x != x else min(max(f(x), low), high)

    ours = apply(f"cvt.{how}.{o}.{a} %o, %a", f"{wide} {a}", [values])
    assert [int(x) for x in ours] == [expected(float(x)) for x in values]


TESTS = {
    "finite": math.isfinite,
    "infinite": math.isinf,
    "notanumber": math.isnan,
    "number": lambda x: not math.isnan(x),
}


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("how", TESTS)
def test_testp(how: str, kind: str) -> None:
    operands, ours, _ = run(f"testp.{how}.{kind} %o, %a", f"pred {kind}")
    assert ours.tolist() == [TESTS[how](float(x)) for x in operands[0]]


# Approximate, with what the manual says that the error is at most.
APPROXIMATE: dict[str, tuple[float, Callable[..., Any]]] = {
    "rcp.approx": (2.0**-23, lambda a: 1 / a),
    "sqrt.approx": (2.0**-23, np.sqrt),
    "rsqrt.approx": (2.0**-22.9, lambda a: 1 / np.sqrt(a)),
    "ex2.approx": (2.0**-22, np.exp2),
    "lg2.approx": (2.0**-22, np.log2),
    "tanh.approx": (2.0**-11, np.tanh),
    "div.approx": (2.0**-22, np.divide),
    "div.full": (2.0**-22, np.divide),
}


def flushed(a: Array) -> Array:
    return np.where(np.abs(a) < 2.0**-126, np.copysign(a.dtype.type(0), a), a)


@pytest.mark.parametrize("ftz", ["", ".ftz"])
@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate(name: str, ftz: str) -> None:
    """At best it is the exact result rounded; with noise, further off by that much of what is documented."""
    error, f = APPROXIMATE[name]
    count = 2 if "div" in name else 1
    instruction, kinds = f"{name}{ftz}.f32 %o, {', '.join(['%a', '%b'][:count])}", " ".join(["f32"] * (count + 1))
    for noise in (0.0, 1.0, -1.0, 0.25):
        operands, ours, constant = run(instruction, kinds, noise=noise)
        with np.errstate(all="ignore"):
            exact = f(*((flushed(x) if ftz else x).astype(np.float64) for x in operands)) * (1 + noise * error)
            expected = exact.astype(np.float32)
            expected = flushed(expected) if ftz else expected
        assert np.array_equal(np.isnan(ours), np.isnan(expected))
        # One unit in the last place: NumPy's float64 may be off by one of its own, and end on a tie's other side.
        np.testing.assert_array_max_ulp(np.nan_to_num(ours), np.nan_to_num(expected), 1)
        assert np.array_equal(ours == 0, expected == 0), "what is flushed, and what is not"
        np.testing.assert_array_equal(constant, np.repeat(ours[:1], 32))


def test_fma_flushes_what_is_subnormal() -> None:
    operands, ours, _ = run("fma.rn.ftz.f32 %o, %a, %b, %c", "f32 f32 f32 f32")
    plain = apply("fma.rn.f32 %o, %a, %b, %c", "f32 f32 f32 f32", [flushed(x) for x in operands])
    np.testing.assert_array_equal(ours, flushed(plain))
    low = np.full(32, 2.0**-130, np.float32)
    assert not apply("fma.rn.ftz.f32 %o, %a, %b, %c", "f32 f32 f32 f32", [low, np.full_like(low, 64), low]).any()


@pytest.mark.parametrize("ftz", ["div.rn.ftz.f32", "rcp.rn.ftz.f32", "sqrt.rn.ftz.f32"])
def test_flushes_what_is_subnormal(ftz: str) -> None:
    count = 2 if "div" in ftz else 1
    kinds = " ".join(["f32"] * (count + 1))
    operands, ours, _ = run(f"{ftz} %o, {', '.join(['%a', '%b'][:count])}", kinds)
    with np.errstate(all="ignore"):
        given = [flushed(x).astype(np.float64) for x in operands]
        exact = {"div": np.divide, "rcp": np.reciprocal, "sqr": np.sqrt}[ftz[:3]](*given)
        np.testing.assert_array_equal(ours, flushed(exact.astype(np.float32)))
