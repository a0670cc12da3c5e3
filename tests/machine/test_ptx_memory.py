"""Control flow, races in shared memory, faults, and what nobody wrote."""

from __future__ import annotations

import pytest
from ptx import ORDERS, launch, words

every_order = pytest.mark.parametrize("order", ORDERS)
STORE = "mad.wide.u32 %rd9, %r0, 4, %rd0; st.global.b32 [%rd9], %r9;"


# Threads part and meet.


@every_order
def test_loops_by_lane_and_nested_branches(order: str) -> None:
    """Turns as many as the lane has; in them two branches, one in the other; and a shuffle where all are together."""
    body = f"""
        mov.b32 %r9, 0; mov.b32 %r8, 0;
        $again: setp.ge.u32 %p1, %r8, %r0; @%p1 bra $out;
            and.b32 %r7, %r8, 1; setp.eq.b32 %p2, %r7, 0; @%p2 bra $even;
                setp.lt.u32 %p3, %r0, 20; @%p3 bra $small; add.u32 %r9, %r9, 100;
                $small: add.u32 %r9, %r9, 10; bra.uni $next;
            $even: add.u32 %r9, %r9, 1;
            $next: add.u32 %r8, %r8, 1; bra $again;
        $out: shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1; bar.sync 0;
        setp.gt.u32 %p4, %r0, 60; @%p4 exit; {STORE}"""
    out = words(n=64)
    launch(body, [out], warps=2, order=order)

    def counted(n: int) -> int:
        return sum((10 if n < 20 else 110) if i % 2 else 1 for i in range(n))

    assert out.tolist() == [counted(i ^ 1) if i <= 60 else 0 for i in range(64)]


@every_order
@pytest.mark.parametrize("barrier", ["bar.sync 0;", "bar.warp.sync -1;", "shfl.sync.idx.b32 %r9, %r9, 0, 31, -1;"])
def test_lanes_wait_for_one_that_polls(barrier: str, order: str) -> None:
    """A flag polled by one thread of each program, as a barrier of the grid has it; the others are further already."""
    for seed in range(4):
        body = f"""
            mov.b32 %r9, 0; setp.ne.u32 %p1, %r0, 0; @%p1 bra $all;
            atom.acq_rel.gpu.global.add.u32 %r3, [%rd1], 1;
            $on: ld.acquire.gpu.global.b32 %r9, [%rd1]; setp.ne.b32 %p2, %r9, 3; @%p2 bra $on;
            $all: {barrier} mad.lo.u32 %r0, %r1, 64, %r0; {STORE}"""
        out = words(n=192)
        report = launch(body, [out, words(0)], warps=2, grid=3, order=order, seed=seed)
        assert out.view(3, 64)[:, 0].tolist() == [3] * 3
        assert out.view(3, 64)[:, 1].tolist() == [3 * barrier.startswith("shfl")] * 3
        assert report.opcodes["st.global.b32"] == 6
        assert report.opcodes[barrier.split()[0]] == 6
