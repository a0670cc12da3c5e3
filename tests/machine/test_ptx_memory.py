"""Control flow, races in shared memory, faults, and what nobody wrote."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from ptx import ORDERS, launch, words

from ptx_machine import FaultError, Machine, RefusedError, Report

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
def test_a_barrier_of_those_that_are_left(order: str) -> None:
    """A whole warp ends, and half of another one; the others meet at barriers, twice."""
    body = f"""
        mov.b32 %r4, global_smem; shl.b32 %r5, %r0, 2; add.u32 %r5, %r4, %r5;
        setp.ge.u32 %p1, %r0, 80; @%p1 ret;
        st.shared.b32 [%r5], %r0; barrier.cta.sync.aligned 0; xor.b32 %r6, %r5, 128; ld.shared.b32 %r9, [%r6];
        bar.sync 0; st.shared.b32 [%r5], %r9; bar.sync 0; ld.shared.b32 %r7, [%r6]; add.u32 %r9, %r9, %r7;
        setp.ge.u32 %p2, %r0, 64; @%p2 ret; {STORE}"""
    out = words(n=128)
    report = launch(body, [out], warps=4, shared=512, order=order)
    assert out.tolist() == [(i ^ 32) + i if i < 64 else 0 for i in range(128)]
    assert not report.found()
    assert report.barriers == 3


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


@every_order
def test_uniform_branches_and_predicated_ones(order: str) -> None:
    body = f"""mov.b32 %r9, 5; setp.eq.u32 %p1, %r1, 1; @%p1 bra $one; mov.b32 %r9, 6; bra.uni $end;
        $one: setp.lt.u32 %p2, %r0, 3; @!%p2 add.u32 %r9, %r9, %r0;
        $end: mad.lo.u32 %r0, %r1, 32, %r0; {STORE}"""
    out = words(n=96)
    launch(body, [out], grid=3, order=order)
    assert out.tolist() == [6] * 32 + [5 + i * (i >= 3) for i in range(32)] + [6] * 32


def test_names_of_inline_assembly_are_its_own() -> None:
    """The same label and the same register in two pairs of braces, on a line and on several, and outside."""
    body = f"""
        .reg .b32 t; mov.b32 t, 7; mov.b32 %r8, 0;
        {{ .reg .b32 t; .reg .pred p; mov.b32 t, 3; $loop: add.u32 %r8, %r8, 1; sub.u32 t, t, 1; setp.ne.u32 p, t, 0; @p bra $loop; }}
        {{
            .reg .b64 t; .reg .pred p;
            cvt.u64.u32 t, %r0;
            $loop:
            add.u32 %r8, %r8, 100; sub.u64 t, t, 1;
            setp.gt.s64 p, t, 0; @p bra $loop;
        }}
        add.u32 %r9, %r8, t; {STORE}"""  # noqa: E501
    out = words(n=32)
    launch(body, [out])
    assert out.tolist() == [3 + 100 * max(1, i) + 7 for i in range(32)]


# Races in shared memory.

EXCHANGE = """
    mov.b32 %r9, global_smem; shl.b32 %r2, %r0, 2; add.u32 %r2, %r9, %r2; {store} [%r2], {value}; {sync}
    xor.b32 %r3, %r2, {other}; {load} %r4, [%r3]; {after} {store} [%r2], %r4;"""


def exchange(sync: str, other: int, after: str = "bar.sync 0;", value: str = "%r0", **options: Any) -> set[str]:
    """Of two warps that store, load what the thread `other` bytes away stored, and store that."""
    given = {"store": "st.shared.b32", "load": "ld.shared.b32"}
    body = EXCHANGE.format(sync=sync, other=other, after=after, value=value, **given)
    return launch(body, [words(0)], warps=2, shared=256, **options).kinds()


@every_order
def test_races_in_shared_memory(order: str) -> None:
    assert exchange("bar.sync 0;", 128, order=order) == set()
    assert exchange("bar.sync 0;", 4, order=order) == set()
    assert exchange("bar.warp.sync -1;", 4, "bar.warp.sync -1;", order=order) == set()
    # Between warps, which bar.warp.sync says nothing of; who comes first may find what nobody wrote.
    assert "race" in exchange("", 128, order=order)
    assert "race" in exchange("bar.warp.sync -1;", 128, order=order)
    assert "race" in exchange("bar.sync 0;", 128, "", order=order)
    assert "race" in exchange("bar.sync 0;", 128, "bar.warp.sync -1;", order=order)
    # Between lanes of a warp.
    assert exchange("", 4, order=order) == {"lanes"}
    assert exchange("bar.sync 0;", 4, "", order=order) == {"lanes"}
    # What a thread stored itself, it may load and store at any time.
    assert exchange("", 0, "", order=order) == set()
    # The same value again.
    assert exchange("bar.sync 0;", 128, "", "7") == {"same value"}
    assert exchange("bar.sync 0;", 128, "", "7", order=order) <= {"same value", "race"}  # of a load one cannot know
    assert exchange("bar.sync 0;", 4, "", "7", order=order) == set()


def shared_by(accesses: dict[int, str], warps: int = 3, **options: Any) -> Report:
    """Accesses of warps' first lanes to the first word; in lock-step one after the other."""
    body = "mov.b32 %r9, global_smem; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.b32 [%r9], 0; bar.sync 0;\n"
    for warp, access in accesses.items():
        body += f"setp.eq.u32 %p1, %r0, {32 * warp}; @%p1 {access}\n"
    return launch(body, [words(0)], warps=warps, shared=16, **options)


LOADS, STORES = "ld.shared.b32 %r3, [%r9];", "st.shared.b32 [%r9], 9;"


def test_a_store_races_with_each_of_two_readers() -> None:
    """In lock-step the third comes last: both that loaded before are found. Whoever comes first, somebody is."""
    races = shared_by({0: LOADS, 1: LOADS, 2: STORES}).found("race")
    assert len(races) == 2
    assert all("ld.shared" in str(race.first) and "st.shared" in str(race.second) for race in races)
    for order in ORDERS:
        for seed in range(6):
            assert shared_by({0: LOADS, 1: LOADS, 2: STORES}, order=order, seed=seed).kinds() == {"race"}
            assert shared_by({0: STORES, 1: LOADS, 2: LOADS}, order=order, seed=seed).kinds() == {"race"}
            assert shared_by({0: LOADS, 2: STORES}, order=order, seed=seed).kinds() == {"race"}
            assert shared_by({0: LOADS, 1: LOADS, 2: LOADS}, order=order, seed=seed).kinds() == set()


def test_one_of_two_readers_that_stores_races_with_the_other() -> None:
    for who in (0, 1):
        body = f"""mov.b32 %r9, global_smem; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.b32 [%r9], 0; bar.sync 0;
            {LOADS} setp.eq.u32 %p1, %r0, {32 * who}; @%p1 {STORES}"""
        for order in ORDERS:
            races = launch(body, [words(0)], warps=2, shared=16, order=order).found("race")
            assert any("ld.shared" in str(race.first) or "ld.shared" in str(race.second) for race in races)


@every_order
@pytest.mark.parametrize(("kind", "size"), [("b8", 1), ("b16", 2)])
def test_stores_beside_each_other_do_not_race(kind: str, size: int, order: str) -> None:
    """Each thread its own bytes of the same words; read together after the barrier."""
    threads = 64
    body = f"""mov.b32 %r9, global_smem; mad.lo.u32 %r2, %r0, {size}, %r9; cvt.u16.u32 %h1, %r0;
        st.shared.{kind} [%r2], %h1; ld.shared.{kind} %h2, [%r2]; mad.wide.u32 %rd9, %r0, {size}, %rd0;
        st.global.{kind} [%rd9], %h2; bar.sync 0; and.b32 %r3, %r0, {threads * size // 4 - 1}; shl.b32 %r3, %r3, 2;
        add.u32 %r4, %r9, %r3; ld.shared.b32 %r5, [%r4]; cvt.u64.u32 %rd8, %r3; add.s64 %rd8, %rd1, %rd8;
        setp.lt.u32 %p1, %r0, {threads * size // 4}; @%p1 st.global.b32 [%rd8], %r5;"""
    first, second = (torch.zeros(threads * size, dtype=torch.uint8) for _ in range(2))
    assert launch(body, [first, second], warps=2, shared=threads * size, order=order).kinds() == set()
    expected = np.arange(threads, dtype=f"u{size}").tobytes()
    assert bytes(first.tolist()) == bytes(second.tolist()) == expected


# Loads and stores.


@pytest.mark.parametrize("space", ["global", "shared"])
def test_widths_and_signs_of_loads(space: str) -> None:
    """A wider register gets a signed number's sign, and zeros else; a store has its low bits."""
    at = "[%rd0+{}]" if space == "global" else "[%r9+{}]"
    loads = {
        "u8": 0x80,
        "s8": 0xFFFFFF80,
        "b8": 0x80,
        "u16": 0x8180,
        "s16": 0xFFFF8180,
        "b16": 0x8180,
        "u32": 0x83828180,
    }
    body = "mov.b32 %r9, global_smem; ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%rd0];"
    body += "st.shared.v4.b32 [%r9], {%r10, %r11, %r12, %r13}; bar.warp.sync -1;\n" if space == "shared" else "\n"
    for i, kind in enumerate(loads):
        body += f"ld.{space}.{kind} %r2, {at.format(0)}; st.global.b32 [%rd1+{4 * i}], %r2;\n"
    body += f"ld.{space}.v2.b64 {{%rd3, %rd4}}, {at.format(0)}; st.global.b64 [%rd1+32], %rd4;"
    body += f"ld.{space}.v2.u16 {{%h1, %h2}}, {at.format(4)}; st.global.b16 [%rd1+40], %h2;"
    body += f"ld.{space}.v4.s8 {{%r3, %r4, %r5, %r6}}, {at.format(8)}; st.global.b8 [%rd1+42], %r6;"
    given = torch.arange(0x80, 0x90, dtype=torch.uint8)
    out = words(n=11)
    kinds = launch(body, [given, out], shared=16 if space == "shared" else 0).kinds()
    assert kinds <= {"same value", "lanes"}
    found = out.numpy().view(np.uint32).tolist()
    assert found[: len(loads)] == list(loads.values())
    assert found[8:] == [0x8B8A8988, 0x8F8E8D8C, 0x008B8786]


def test_parameters_of_every_kind() -> None:
    body = """.reg .b16 %x; ld.param.u64 %rd0, [a]; ld.param.u32 %r2, [b]; ld.param.f32 %f1, [c];
        ld.param.u64 %rd1, [d]; ld.param.s64 %rd2, [e]; st.global.b32 [%rd0], %r2;
        st.global.b32 [%rd0+4], %f1; st.global.b64 [%rd0+8], %rd1;
        st.global.b64 [%rd0+16], %rd2;"""
    parameters = ",\n".join(
        f".param .{t} {n}" for n, t in zip("abcde", ("u64", "u32", "f32", "u64", "s64"), strict=True)
    )
    ptx = (
        f".entry kernel(\n{parameters}\n)\n{{\n.reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>;\n{body}\nret;\n}}\n"
    )
    out = words(n=6)
    Machine(ptx, (1,), 1, 0, [out, 7, 1.5, None, -2]).run()
    assert out.numpy().view(np.uint32).tolist() == [7, 0x3FC00000, 0, 0, 0xFFFFFFFE, 0xFFFFFFFF]


def test_hints_change_nothing() -> None:
    body = f"""mad.wide.u32 %rd9, %r0, 4, %rd1; griddepcontrol.wait; prefetch.global.L2 [%rd9]; nanosleep.u32 100;
        ld.global.nc.L1::evict_last.L2::128B.b32 %r9, [%rd9]; griddepcontrol.launch_dependents; {STORE}"""
    out = words(n=32)
    assert launch(body, [out, words(*range(32))]).kinds() == set()
    assert out.tolist() == list(range(32))


# Faults.

ON = "$on: {poll} %r2, [%rd0]; setp.eq.b32 %p1, %r2, 0; @%p1 bra $on;"
FAULTS = {
    "outside": ("ld.global.b32 %r2, [%rd0+128];", "byte 128 of tensor 0, which has 128"),
    "before": ("ld.global.b32 %r2, [%rd0+-4];", "byte -4 of tensor 0|no tensor"),  # where a page begins
    "partly outside": ("st.global.v2.b64 [%rd0+120], {%rd0, %rd0};", "outside"),
    "misaligned": ("ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd0+8];", "misaligned"),
    "asked for": ("prefetch.global.L2 [%rd0+128];", "outside"),
    "null": ("mov.b64 %rd1, 0; st.global.b32 [%rd1], %r0;", "no tensor"),
    "an integer": ("mov.b64 %rd1, 123456; ld.global.b32 %r2, [%rd1];", "no tensor"),
    "atomic": ("atom.global.add.u32 %r2, [%rd0+128], 1;", "outside"),
    "below shared memory": ("mov.b32 %r2, 1000; ld.shared.b32 %r3, [%r2];", "shared memory of 64 bytes"),
    "beyond shared memory": ("mov.b32 %r2, global_smem; st.shared.b32 [%r2+64], %r2;", "shared memory of 64 bytes"),
    "misaligned in it": ("mov.b32 %r2, global_smem; st.shared.b32 [%r2+2], %r2;", "misaligned"),
    "register": ("add.u32 %r2, %r3, 1;", "'%r3'.*nobody wrote"),
    "predicate": ("@%p5 mov.b32 %r2, 1;", "'%p5'.*nobody wrote"),
    "trap": ("setp.eq.b32 %p1, %r0, 3; @%p1 trap;", "trap of thread 3"),
    "part of a warp at a barrier": ("setp.eq.b32 %p1, %r0, 3; @%p1 bra $s; bar.sync 0; $s: nanosleep.u32 1;", "part"),
    "at a warp's": ("setp.eq.b32 %p1, %r0, 3; @%p1 bra $s; bar.warp.sync -1; $s: nanosleep.u32 1;", "part of a warp"),
    "at a shuffle": (
        "setp.lt.u32 %p1, %r0, 3; @%p1 bra $s; shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1; $s: nanosleep.u32 1;",
        "part of a warp",
    ),
    "a poll in vain": (ON.format(poll="ld.acquire.gpu.global.b32"), "deadlock"),
    "a volatile one": (ON.format(poll="ld.volatile.global.b32"), "deadlock"),
    "an atomic one": ("$on: atom.global.or.b32 %r2, [%rd0], 0; setp.eq.b32 %p1, %r2, 0; @%p1 bra $on;", "deadlock"),
    "a lane that its warp waits for": (
        "setp.ne.u32 %p1, %r0, 0; @%p1 bra $all; " + ON.format(poll="ld.acquire.gpu.global.b32") + " $all: bar.sync 0;",
        "part of a warp",
    ),
    "one warp at a barrier": (
        "setp.ge.u32 %p1, %r0, 32; @%p1 bra $on; bar.sync 0; ret; " + ON.format(poll="ld.relaxed.gpu.global.b32"),
        "deadlock",
    ),
}


@pytest.mark.parametrize("weak", [False, True])
@every_order
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str, order: str, weak: bool) -> None:
    body, message = FAULTS[fault]
    with pytest.raises(FaultError, match=message):
        launch(body, [words(n=32)], warps=2, grid=2, shared=64, order=order, weak=weak, patience=20)


def test_a_fault_names_where_it_is() -> None:
    """The thread and the program, and the line of the PTX and of the source; what was stored before is there."""
    body = """
        mov.b32 %r2, 5; st.global.b32 [%rd0], %r2;
        .loc 1 42 7 // kernel.py:42:7
        setp.eq.u32 %p1, %r1, 2;
        setp.eq.and.u32 %p2, %r0, 33, %p1;
        @%p2 st.global.b32 [%rd0+4], %r2;"""
    out = words(0)
    with pytest.raises(FaultError) as found:
        launch(body, [out], warps=2, grid=3)
    line = len(ptx_lines(body)) - 2
    assert f"thread 33 of program (2, 0, 0): PTX line {line}: @%p2 st.global.b32 [%rd0+4], %r2" in str(found.value)
    assert "kernel.py:42:7" in str(found.value)
    assert out.tolist() == [5]


def ptx_lines(body: str) -> list[str]:
    from ptx import kernel

    return kernel(body, 1, 2).rstrip().split("\n")


def test_a_refusal_names_the_opcode_and_where_it_is() -> None:
    body = "\n.loc 1 7 3 // kernel.py:7:3\nmul24.lo.u32 %r2, %r0, %r0;"
    with pytest.raises(RefusedError, match=re.escape("mul24.lo.u32 %r2")) as found:
        launch(body, [words(0)])
    line = next(i for i, text in enumerate(ptx_lines(body), 1) if "mul24" in text)
    assert f"PTX line {line}" in str(found.value)
    assert "kernel.py:7:3" in str(found.value)


def test_arrays_of_a_size_are_refused() -> None:
    with pytest.raises(RefusedError, match="mine"):
        launch(".shared .align 4 .b8 mine[64];", [words(0)])


@pytest.mark.parametrize("options", [{"order": "lanes"}, {"unwritten": "ask"}, {"grid": 1 << 16}])
def test_what_the_machine_does_not_know_or_have_room_for(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"order=|threads"):
        launch("", [words(0)], **options)


# Who waits for whom in a program.


@every_order
@pytest.mark.parametrize("weak", [False, True])
def test_a_warp_that_polls_does_not_starve_its_siblings(order: str, weak: bool) -> None:
    """The first warp polls from the start what the second one sets after a long loop."""
    body = f"""
        setp.ge.u32 %p1, %r0, 32; @%p1 bra $works;
        $on: ld.acquire.gpu.global.b32 %r2, [%rd1]; setp.eq.b32 %p2, %r2, 0; @%p2 bra $on; mov.b32 %r9, %r2;
        {STORE} ret;
        $works: mov.b32 %r3, 0; $turn: add.u32 %r3, %r3, 1; setp.lt.u32 %p3, %r3, 200; @%p3 bra $turn;
        setp.eq.u32 %p4, %r0, 32; @%p4 st.release.gpu.global.b32 [%rd1], %r3;"""
    out = words(n=32)
    assert launch(body, [out, words(0)], warps=2, order=order, weak=weak, patience=5).kinds() == set()
    assert out.tolist() == [200] * 32


@every_order
def test_lanes_of_a_warp_that_wait_for_each_other(order: str) -> None:
    """The first lane sets what all others poll: they do not keep it from it."""
    body = f"""
        setp.eq.u32 %p1, %r0, 0; @%p1 bra $set;
        $on: ld.relaxed.gpu.global.b32 %r9, [%rd1]; setp.eq.b32 %p2, %r9, 0; @%p2 bra $on; {STORE} ret;
        $set: mov.b32 %r9, 8; st.relaxed.gpu.global.b32 [%rd1], %r9; {STORE}"""
    out = words(n=32)
    launch(body, [out, words(0)], order=order)
    assert out.tolist() == [8] * 32


# What nobody wrote.


def test_loads_of_what_nobody_wrote() -> None:
    """Shared memory at the start, and of a tensor what `fresh` says, where the kernel's own stores are noted."""
    load = "ld.global.b32 %r2, [%rd0+8];"
    tensor = words(n=4)
    key = tensor.data_ptr()

    def fresh(*written: int) -> dict[int, Any]:
        return {key: np.repeat(np.array([i in written for i in range(4)]), 4)}

    assert launch(load, [tensor]).kinds() == set()
    assert launch(load, [tensor], fresh=fresh(2)).kinds() == set()
    report = launch(load, [tensor], fresh=fresh(0, 1, 3))
    assert report.kinds() == {"unwritten"}
    assert sum(report.unwritten.values()) == 32
    assert "ld.global.b32 %r2" in next(iter(report.unwritten))
    assert launch(load, [tensor], fresh=fresh(), unwritten="ignore").kinds() == set()
    with pytest.raises(FaultError, match=r"thread 0 of program.*what nobody wrote"):
        launch(load, [tensor], fresh=fresh(), unwritten="fault")
    report = launch("ld.global.v2.b32 {%r2, %r3}, [%rd0+8];", [tensor], fresh=fresh(2))
    assert sum(report.unwritten.values()) == 32, "half of what is loaded"
    flags = fresh(0)
    assert launch("st.global.b32 [%rd0+8], %r1;" + load, [tensor], fresh=flags).kinds() <= {"lanes", "same value"}
    assert flags[key].reshape(4, 4).all(1).tolist() == [True, False, True, False]
    report = launch("mov.b32 %r9, global_smem; ld.shared.b32 %r2, [%r9];", [tensor], shared=16)
    assert report.kinds() == {"unwritten"}
    assert launch("mov.b32 %r9, global_smem; st.shared.b32 [%r9], %r1; ld.shared.b32 %r2, [%r9];", [tensor],
                  shared=16).kinds() <= {"lanes", "same value"}  # fmt: skip


def test_noted_in_bytes_where_bytes_are_stored() -> None:
    tensor = torch.zeros(8, dtype=torch.uint8)
    flags = {tensor.data_ptr(): np.zeros(8, bool)}
    launch("setp.lt.u32 %p1, %r0, 3; cvt.s64.s32 %rd9, %r0; add.s64 %rd9, %rd9, %rd0; @%p1 st.global.b8 [%rd9+1], %r0;",
           [tensor], fresh=flags)  # fmt: skip
    assert flags[tensor.data_ptr()].tolist() == [False, True, True, True, False, False, False, False]


# What is counted.


@every_order
def test_the_report_counts(order: str) -> None:
    """Warp-instructions, whoever of the warp is active; and bytes of those who are."""
    body = f"""setp.lt.u32 %p1, %r0, 8; @%p1 bra $few; bra.uni $end; $few: mov.b32 %r9, 1; {STORE}
        $end: bar.sync 0; bar.sync 0;"""
    report = launch(body, [words(n=64)], warps=2, grid=3, order=order)
    assert report.opcodes["setp.lt.u32"] == 6
    assert report.opcodes["mov.b32"] == 3
    assert report.opcodes["st.global.b32"] == 3
    assert report.opcodes["bar.sync"] == 12
    assert report.bytes["global store"] == 3 * 8 * 4
    assert report.barriers == 6
    assert report.instructions == 32 * sum(report.opcodes.values())
    assert sum(report.lines.values()) == sum(report.opcodes.values())


@pytest.mark.parametrize(("stride", "size", "conflicts"), [(4, 4, 0), (8, 4, 1), (128, 4, 31), (0, 4, 0), (16, 16, 0)])
def test_conflicts_of_banks(stride: int, size: int, conflicts: int) -> None:
    """32 banks of four bytes: a stride of two words takes two passes, of 32 words 32; one word for all takes one."""
    registers = "{%r4, %r5, %r6, %r7}" if size == 16 else "%r4"
    vector = ".v4" if size == 16 else ""
    body = f"mov.b32 %r9, global_smem; mad.lo.u32 %r2, %r0, {stride}, %r9; ld.shared{vector}.b32 {registers}, [%r2];"
    assert launch(body, [words(0)], shared=4096, unwritten="ignore", banks=True).conflicts == conflicts
    assert launch(body, [words(0)], shared=4096, unwritten="ignore").conflicts == 0
