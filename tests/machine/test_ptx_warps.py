"""What goes across the lanes of a warp, and what no chapter of the table has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import ptx
import pytest
from ptx import THREADS, apply, run

from ptx_machine import RefusedError

# Across a warp.


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that is read, and the predicate, by the manual's pseudocode."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    last, first = (lane & mask) | (cval & ~mask), lane & mask
    j = {"up": lane - bval, "down": lane + bval, "bfly": lane ^ bval, "idx": first | (bval & ~mask)}[mode]
    inside = j >= last if mode == "up" else j <= last
    return (j if inside else lane), inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode: str) -> None:
    rng = np.random.default_rng(0)
    a = ptx.draw("b32", 64, rng)
    for c in (0, 31, 0x181F, 0x1C03, 0x0F):
        for b in (0, 1, 5, 16, 35):
            where = [shuffled(mode, i % 32, b, c) for i in range(64)]
            values = apply(f"shfl.sync.{mode}.b32 %o, %a, {b}, {c}, -1", "b32 b32", [a])
            assert values.tolist() == [int(a[i // 32 * 32 + j]) for i, (j, _) in enumerate(where)]
            inside = apply(f"shfl.sync.{mode}.b32 %r9|%o, %a, {b}, {c}, 0xffffffff", "pred b32", [a])
            assert inside.tolist() == [p for _, p in where]
    # Each lane may ask for another one.
    b = rng.integers(0, 32, 64).astype(np.uint32)
    values = apply(f"shfl.sync.{mode}.b32 %o, %a, %b, 31, -1", "b32 b32 b32", [a, b])
    assert values.tolist() == [int(a[i // 32 * 32 + shuffled(mode, i % 32, int(b[i]), 31)[0]]) for i in range(64)]


REDUCE: dict[str, Callable[[Any], Any]] = {
    "add": sum, "min": min, "max": max, "and": lambda x: int(np.bitwise_and.reduce(x)),
    "or": lambda x: int(np.bitwise_or.reduce(x)), "xor": lambda x: int(np.bitwise_xor.reduce(x)),
}  # fmt: skip


@pytest.mark.parametrize("how", ["add.s32", "add.u32", "min.s32", "min.u32", "max.s32", "max.u32", "and.b32", "or.b32",
                                 "xor.b32"])  # fmt: skip
def test_reductions(how: str) -> None:
    kind = how[-3:]
    operands, ours, constant = run(f"redux.sync.{how} %o, %a, -1", f"{kind} {kind}")
    for warp in range(0, THREADS, 32):
        total = REDUCE[how[:-4]](operands[0][warp : warp + 32].tolist())
        assert {int(x) & 0xFFFFFFFF for x in ours[warp : warp + 32]} == {total & 0xFFFFFFFF}
    alike = REDUCE[how[:-4]](operands[0][:1].tolist() * 32)
    assert {int(x) & 0xFFFFFFFF for x in constant} == {alike & 0xFFFFFFFF}


VOTE: dict[str, Callable[[list[bool]], Any]] = {
    "all.pred": all, "any.pred": any, "uni.pred": lambda x: len(set(x)) == 1,
    "ballot.b32": lambda x: sum(p << i for i, p in enumerate(x)),
}  # fmt: skip


@pytest.mark.parametrize("negate", ["", "!"])
@pytest.mark.parametrize("how", VOTE)
def test_votes(how: str, negate: str) -> None:
    a = np.random.default_rng(0).integers(0, 2, 128).astype(bool)
    a[32:64], a[64:96] = True, False
    ours = apply(f"vote.sync.{how} %o, {negate}%a, -1", f"{how.partition('.')[2]} pred", [a])
    for warp in range(0, 128, 32):
        lanes = [bool(x) != bool(negate) for x in a[warp : warp + 32]]
        assert set(ours[warp : warp + 32].tolist()) == {VOTE[how](lanes)}


def test_elections_and_who_is_active() -> None:
    lanes = np.arange(64, dtype=np.uint32) % 32
    elected = apply("elect.sync _|%o, -1", "pred u32", [lanes])
    assert elected.reshape(2, 32).sum(1).tolist() == [1, 1]
    leader = apply("elect.sync %o|%p1, -1", "u32 u32", [lanes])
    assert leader.tolist() == np.repeat(lanes[elected], 32).tolist()
    body = (
        "activemask.b32 %o; setp.lt.u32 %p1, %a, 5; @%p1 bra $few; bra $end; $few: activemask.b32 %o; "
        "$end: not.b32 %o, %o"
    )
    active = apply(body, "b32 u32", [lanes])
    assert active.tolist() == [(~31 if i % 32 < 5 else ~0xFFFFFFFF) & 0xFFFFFFFF for i in range(64)]


@pytest.mark.parametrize(
    "body",
    [
        "add.sat.s32 %r2, %r0, %r0;",
        "add.ftz.f32 %f0, %f1, %f1;",
        "mul.hi.s64 %rd1, %rd0, %rd0;",
        "mad.rn.f32 %f0, %f1, %f1, %f1;",
        "fma.rz.f32 %f0, %f1, %f1, %f1;",
        "popc.b64 %r2, %rd0;",
        "bfe.u64 %rd1, %rd0, 1, 1;",
        "prmt.b32.f4e %r2, %r0, %r0, 1;",
        "cvt.rn.satfinite.e4m3x2.f32 %h0, %f0, %f0;",
        "cvt.rz.f32.f64 %f0, %rd0;",
        "cvt.sat.f32.f32 %f0, %f1;",
        "tanh.approx.f16 %h0, %h1;",
        "ex2.approx.ftz.bf16 %h0, %h1;",
        "testp.normal.f32 %p0, %f0;",
        "rsqrt.approx.f64 %rd1, %rd0;",
        "setp.lt.ftz.f32 %p1, %f0, %f0;",
        "shfl.sync.bfly.b32 %r2, %r0, 1, 31, 3;",
        "vote.sync.any.pred %p1, %p2, 1;",
        "bar.sync 1;",
        "bar.sync 0, 16;",
        "bar.arrive 0, 32;",
        "fence.acq_rel.cta;",
        "ld.relaxed.cluster.global.b32 %r2, [%rd0];",
        "ld.global.b128 %rd1, [%rd0];",
        "ld.global.v8.b32 {%r2}, [%rd0];",
        "atom.shared.add.u32 %r2, [%r0], 1;",
        "atom.global.inc.u32 %r2, [%rd0], 1;",
        "cp.async.bulk.wait_group 0;",
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd1}, {%rd1}, {%rd1}, {%rd1};",
        "mbarrier.init.shared.b64 [%r0], 1;",
        "cvta.shared.u64 %rd1, %rd0;",
        "bra $nowhere;",
        "mov.b32 %r2, %envreg1;",
        "ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r2}, [%r0];",
        "wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {%r2}, %rd0, %rd0, 1, 1, 1, 0, 0;",
    ],
)
def test_what_is_not_modelled_is_refused_by_name(body: str) -> None:
    opcode = body.split()[0].rstrip(";")
    with pytest.raises(RefusedError, match=re.escape(opcode)):
        ptx.launch(body, [ptx.words(n=32)], shared=64)
