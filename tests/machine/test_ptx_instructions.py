"""Every instruction that computes, against Python's integers and exact fractions, on edges and on what is drawn."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ptx
import pytest
from ptx import Case, half_of, numbers, run, signed

from ptx_machine import Machine, table
from ptx_machine.decode import OPS


def quotient(a: int, b: int) -> int:
    """Toward zero; by zero all ones, where the manual promises nothing."""
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def halves(f: Callable[..., int], is_signed: bool = False) -> Callable[..., int]:
    """`f` on the two halves of registers."""

    def both(*x: int) -> int:
        parts = []
        for shift in (0, 16):
            given = [y >> shift & 0xFFFF for y in x]
            parts.append(f(*(signed(y, 16) if is_signed else y for y in given)) & 0xFFFF)
        return parts[0] | parts[1] << 16

    return both


def integer_cases() -> Iterator[Case]:
    for kind in ("s16", "u16", "s32", "u32", "s64", "u64"):
        three, bits = f"{kind} {kind} {kind}", ptx.width(kind)
        yield f"add.{kind} %o, %a, %b", three, operator.add
        yield f"sub.{kind} %o, %a, %b", three, operator.sub
        yield f"mul.lo.{kind} %o, %a, %b", three, operator.mul
        yield f"mad.lo.{kind} %o, %a, %b, %c", f"{three} {kind}", lambda a, b, c: a * b + c
        yield f"min.{kind} %o, %a, %b", three, min
        yield f"max.{kind} %o, %a, %b", three, max
        yield f"div.{kind} %o, %a, %b", three, quotient
        yield f"rem.{kind} %o, %a, %b", three, lambda a, b: a - quotient(a, b) * b if b else a
        if kind[0] == "s":
            yield f"neg.{kind} %o, %a", f"{kind} {kind}", operator.neg
            yield f"abs.{kind} %o, %a", f"{kind} {kind}", abs
        if bits < 64:
            wide = kind[0] + str(2 * bits)
            yield f"mul.hi.{kind} %o, %a, %b", three, lambda a, b, n=bits: a * b >> n
            yield f"mad.hi.{kind} %o, %a, %b, %c", f"{three} {kind}", lambda a, b, c, n=bits: (a * b >> n) + c
            yield f"mul.wide.{kind} %o, %a, %b", f"{wide} {kind} {kind}", operator.mul
            yield f"mad.wide.{kind} %o, %a, %b, %c", f"{wide} {kind} {kind} {wide}", lambda a, b, c: a * b + c
    for name, f in {"min": min, "max": max}.items():
        yield f"{name}.relu.s32 %o, %a, %b", "s32 s32 s32", lambda a, b, f=f: max(f(a, b), 0)
    for kind in ("s16x2", "u16x2"):
        for name, f in {"add": operator.add, "min": min, "max": max}.items():
            yield f"{name}.{kind} %o, %a, %b", "b32 b32 b32", halves(f, is_signed=kind[0] == "s")


def bitwise_cases() -> Iterator[Case]:
    for kind in ("b16", "b32", "b64"):
        three, bits = f"{kind} {kind} {kind}", ptx.width(kind)
        shift = f"{kind} {kind} u32"
        yield f"and.{kind} %o, %a, %b", three, operator.and_
        yield f"or.{kind} %o, %a, %b", three, operator.or_
        yield f"xor.{kind} %o, %a, %b", three, operator.xor
        yield f"not.{kind} %o, %a", f"{kind} {kind}", operator.invert
        yield f"shl.{kind} %o, %a, %b", shift, lambda a, b, n=bits: a << min(b, n)
        yield f"shr.{kind} %o, %a, %b", shift, lambda a, b, n=bits: a >> min(b, n)
        yield f"shr.s{bits} %o, %a, %b", f"s{bits} s{bits} u32", lambda a, b, n=bits: a >> min(b, n)
        yield f"shr.u{bits} %o, %a, %b", f"u{bits} u{bits} u32", lambda a, b, n=bits: a >> min(b, n)
    for name, f in {"and": operator.and_, "or": operator.or_, "xor": operator.xor}.items():
        yield f"{name}.pred %o, %a, %b", "pred pred pred", f
    yield "not.pred %o, %a", "pred pred", operator.not_
    three = "b32 b32 b32 u32"
    yield "shf.l.wrap.b32 %o, %a, %b, %c", three, lambda a, b, c: (a | b << 32) << (c & 31) >> 32
    yield "shf.r.wrap.b32 %o, %a, %b, %c", three, lambda a, b, c: (a | b << 32) >> (c & 31)
    yield "shf.l.clamp.b32 %o, %a, %b, %c", three, lambda a, b, c: (a | b << 32) << min(c, 32) >> 32
    yield "shf.r.clamp.b32 %o, %a, %b, %c", three, lambda a, b, c: (a | b << 32) >> min(c, 32)
    for row in (0x00, 0x01, 0x1B, 0x96, 0xCA, 0xE8, 0xFF):
        yield f"lop3.b32 %o, %a, %b, %c, {row:#x}", three, lambda a, b, c, row=row: lop3(a, b, c, row)
    yield "bfe.u32 %o, %a, %b, %c", "u32 u32 u32 u32", lambda a, b, c: field(a, b & 255, c & 255, False)
    yield "bfe.s32 %o, %a, %b, %c", "s32 u32 u32 u32", lambda a, b, c: field(a, b & 255, c & 255, True)
    yield "bfi.b32 %o, %a, %b, %c, %d", "b32 b32 b32 u32 u32", insert
    yield "prmt.b32 %o, %a, %b, %c", "b32 b32 b32 b32", permute
    yield "popc.b32 %o, %a", "u32 b32", lambda a: a.bit_count()
    yield "clz.b32 %o, %a", "u32 b32", lambda a: 32 - a.bit_length()
    yield "brev.b32 %o, %a", "b32 b32", lambda a: int(f"{a:032b}"[::-1], 2)
    yield "bfind.u32 %o, %a", "u32 u32", lambda a: a.bit_length() - 1


def lop3(a: int, b: int, c: int, row: int) -> int:
    return sum((row >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))


def field(a: int, start: int, length: int, is_signed: bool) -> int:
    sign = a >> min(start + length - 1, 31) & 1 if is_signed and length else 0
    return sum((a >> start + i & 1 if i < length and start + i < 32 else sign) << i for i in range(32))


def insert(a: int, b: int, start: int, length: int) -> int:
    for i in range(length & 255):
        if (start & 255) + i < 32:
            b = b & ~(1 << (start & 255) + i) | (a >> i & 1) << (start & 255) + i
    return b


def permute(a: int, b: int, picks: int) -> int:
    source = [(a | b << 32) >> 8 * i & 255 for i in range(8)]
    out = 0
    for i in range(4):
        pick = picks >> 4 * i & 15
        byte = source[pick & 7]
        out |= (255 * (byte >> 7) if pick & 8 else byte) << 8 * i
    return out


COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
UNSIGNED = {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}


def comparison_cases() -> Iterator[Case]:
    for kind in ("s16", "u16", "s32", "u32", "s64", "u64"):
        for how, f in (COMPARE | (UNSIGNED if kind[0] == "u" else {})).items():
            yield f"setp.{how}.{kind} %o, %a, %b", f"pred {kind} {kind}", f
    for kind in ("b16", "b32", "b64"):
        yield f"setp.eq.{kind} %o, %a, %b", f"pred {kind} {kind}", operator.eq
        yield f"setp.ne.{kind} %o, %a, %b", f"pred {kind} {kind}", operator.ne
    three = "pred s32 s32 pred"
    for how, f in {"and": operator.and_, "or": operator.or_, "xor": operator.xor}.items():
        first, second = f"setp.lt.{how}.s32 %o, %a, %b, %c", f"setp.lt.{how}.s32 %p1|%o, %a, %b, %c"
        yield first, three, lambda a, b, c, f=f: f(a < b, c)
        yield second, three, lambda a, b, c, f=f: f(a >= b, c)
        # Both read the third before either is written.
        yield f"setp.lt.{how}.s32 %c|%o, %a, %b, %c", three, lambda a, b, c, f=f: f(a >= b, c)
        yield f"setp.lt.{how}.s32 %o|%c, %a, %b, %c", three, lambda a, b, c, f=f: f(a < b, c)
    yield "setp.lt.s32 _|%o, %a, %b", "pred s32 s32", operator.ge
    for kind in ("f16", "bf16", "f32", "f64"):
        for how, f in COMPARE.items():
            yield f"setp.{how}.{kind} %o, %a, %b", f"pred {kind} {kind}", ordered(f)
            yield f"setp.{how}u.{kind} %o, %a, %b", f"pred {kind} {kind}", unordered(f)
        yield f"setp.num.{kind} %o, %a, %b", f"pred {kind} {kind}", ordered(lambda a, b: True)
        yield f"setp.nan.{kind} %o, %a, %b", f"pred {kind} {kind}", unordered(lambda a, b: False)
    for kind in ("f16x2", "bf16x2"):
        for how, f in {"lt": ordered(operator.lt), "geu": unordered(operator.ge)}.items():
            for targets, shift in (("%o|%p1", 0), ("%p1|%o", 16), ("_|%o", 16)):
                half = f"setp.{how}.{kind} {targets}, %a, %b"
                yield half, "pred b32 b32", lambda a, b, f=f, k=kind, s=shift: f(half_of(a, k, s), half_of(b, k, s))
    for kind in ("b16", "b32", "b64", "s16", "u32", "s64"):
        yield f"selp.{kind} %o, %a, %b, %c", f"{kind} {kind} {kind} pred", lambda a, b, c: a if c else b
    yield "slct.b32.s32 %o, %a, %b, %c", "b32 b32 b32 s32", lambda a, b, c: a if c >= 0 else b
    yield "slct.u64.f32 %o, %a, %b, %c", "u64 u64 u64 f32", lambda a, b, c: a if c >= 0 else b


def ordered(f: Callable[[float, float], bool]) -> Callable[[float, float], bool]:
    return lambda a, b: a == a and b == b and f(a, b)


def unordered(f: Callable[[float, float], bool]) -> Callable[[float, float], bool]:
    return lambda a, b: a != a or b != b or f(a, b)


def movement_cases() -> Iterator[Case]:
    for kind in ("b16", "b32", "b64", "u32", "s64", "pred"):
        yield f"mov.{kind} %o, %a", f"{kind} {kind}", lambda a: a
    yield "mov.b32 %o, {%a, %b}", "b32 b16 b16", lambda a, b: a | b << 16
    yield "mov.b64 %o, {%a, %b}", "b64 b32 b32", lambda a, b: a | b << 32
    yield "mov.b64 %o, {%a, %b, %c, %d}", "b64 b16 b16 b16 b16", lambda a, b, c, d: a | b << 16 | c << 32 | d << 48
    yield "mov.b32 {%o, %h1}, %a", "b16 b32", lambda a: a
    yield "mov.b32 {%h1, %o}, %a", "b16 b32", lambda a: a >> 16
    yield "mov.b64 {_, %o}, %a", "b32 b64", lambda a: a >> 32
    yield "mov.b64 {%h1, %h2, %o, %h3}, %a", "b16 b64", lambda a: a >> 32
    yield "mov.b32 {%o, %h1}, %a; mov.b32 {%h2, %o}, %a", "b16 b32", lambda a: a >> 16
    yield "cvta.to.global.u64 %o, %a", "u64 u64", lambda a: a
    yield "cvta.global.u64 %o, %a", "u64 u64", lambda a: a
    # A guard keeps what was there.
    yield "mov.b32 %o, 7; setp.lt.u32 %p1, %a, %b; @%p1 mov.b32 %o, %a", "u32 u32 u32", lambda a, b: a if a < b else 7
    yield (
        "mov.b32 %o, 7; setp.lt.u32 %p1, %a, %b; @!%p1 add.u32 %o, %a, 1",
        "u32 u32 u32",
        (lambda a, b: 7 if a < b else a + 1),
    )
    for a in ("s16", "u16", "s32", "u32", "s64", "u64"):
        for o in ("s16", "u16", "s32", "u32", "s64", "u64"):
            if a != o:
                yield f"cvt.{o}.{a} %o, %a", f"{o} {a}", lambda a: a
    # Eight bits are a part of a register.
    yield "cvt.s32.s8 %o, %a", "s32 u32", lambda a: signed(a, 8)
    yield "cvt.u32.u8 %o, %a", "u32 u16", lambda a: a & 255
    yield "cvt.s64.s8 %o, %a", "s64 u16", lambda a: signed(a, 8)
    yield "cvt.u8.u32 %o, %a", "u16 u32", lambda a: a & 255
    yield "cvt.s8.s32 %o, %a", "s16 s32", lambda a: signed(a, 8)
    yield "cvt.u16.u8 %o, %a", "u16 u16", lambda a: a & 255


EXACT = [*integer_cases(), *bitwise_cases(), *comparison_cases(), *movement_cases()]


@pytest.mark.parametrize(("instruction", "kinds", "f"), EXACT, ids=[case[0] for case in EXACT])
def test_exact(instruction: str, kinds: str, f: Callable[..., int]) -> None:
    out = kinds.split()[0]
    operands, ours, constant = run(instruction, kinds)
    mask = (1 << ptx.width(out)) - 1
    expected = [f(*x) & mask for x in numbers(operands, kinds)]
    assert [int(x) & mask for x in ours] == expected
    assert [int(x) & mask for x in constant] == expected[:1] * 32


def test_special_registers() -> None:
    names = ["tid.x", "tid.y", "ntid.x", "ctaid.x", "ctaid.y", "ctaid.z", "nctaid.x", "nctaid.y", "nctaid.z"]
    names += ["laneid", "warpid", "nwarpid", "smid"]
    names += [f"lanemask_{how}" for how in ("eq", "lt", "le", "gt", "ge")]
    per = 64 * len(names)
    out = ptx.words(n=2 * 3 * 2 * per)
    stores = "".join(f"mov.u32 %r9, %{name}; st.global.u32 [%rd9], %r9; add.s64 %rd9, %rd9, 4;\n" for name in names)
    body = f"""
        mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z; mad.lo.u32 %r4, %r3, 3, %r2; mad.lo.u32 %r4, %r4, 2, %r1;
        mad.lo.u32 %r4, %r4, 64, %r0; mad.wide.u32 %rd9, %r4, {4 * len(names)}, %rd0;
        {stores}"""
    Machine(ptx.kernel(body, 1, 2), (2, 3, 2), 2, 0, [out]).run()
    found = out.numpy().view(np.uint32).reshape(2, 3, 2, 64, -1)
    full = (1 << 32) - 1
    for z, y, x, thread in np.ndindex(2, 3, 2, 64):
        lane, warp = thread % 32, thread // 32
        eq, lt = 1 << lane, (1 << lane) - 1
        masks = [eq, lt, lt | eq, full & ~(lt | eq), full & ~lt]
        expected = [thread, 0, 64, x, y, z, 2, 3, 2, lane, warp, 2, (z * 3 + y) * 2 + x, *masks]
        assert found[z, y, x, thread].tolist() == expected


def test_every_opcode_is_in_some_test() -> None:
    """What this folder's strings have as an instruction."""
    texts = []
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):  # whose parts, one by one, may end within an opcode
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
                )
    text = "\n".join(texts)
    assert table.CHAPTERS, "which fill OPS"
    missing = [name for name in OPS if not re.search(rf"(?<![\w.%$]){name}(\.[a-z]|;|\s+[{{\[%$_!\d-])", text)]
    assert missing == []
