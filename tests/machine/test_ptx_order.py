"""Litmus tests between programs, with what PTX's memory model allows and forbids, and what the machine says of races.

In `weak` memory it shows outcomes that are allowed, and never one that is forbidden; with and without, it reports what
has no order.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from ptx import ORDERS, launch, words

from ptx_machine import Report

X, Y, FLAG = "[%rd0]", "[%rd0+64]", "[%rd0+128]"  # too far apart to come together
Outcome = tuple[int, ...]


def litmus(
    programs: Iterable[str], registers: Iterable[tuple[int, int]], seeds: int = 40, **options: Any
) -> tuple[set[Outcome], set[str]]:
    """What the first thread of each program, a text each, has in `registers`, pairs of a program and 10 or 11, or, for
    program -1, what X is in the end; and the kinds of races. Over seeds, and over orders where none is given."""
    texts = list(programs)
    body = "mov.b32 %r10, -1; mov.b32 %r11, -1; setp.ne.u32 %p9, %r0, 0; @%p9 ret; mad.wide.u32 %rd9, %r1, 16, %rd1;\n"
    for i, text in enumerate(texts):
        body += f"setp.ne.u32 %p8, %r1, {i}; @%p8 bra $not_{i}; {text.replace('$on', f'$on_{i}')} bra $end; $not_{i}:\n"
    body += "$end: st.global.v2.b32 [%rd9], {%r10, %r11};"
    outcomes, kinds = set(), set()
    orders = [options.pop("order")] if "order" in options else ORDERS
    for seed in range(seeds):
        memory, seen = words(n=64), words(n=4 * len(texts))
        order = orders[seed % len(orders)]
        report = launch(body, [memory, seen], grid=len(texts), seed=seed, order=order, **options)
        values = seen.view(-1, 4)
        outcomes.add(tuple(int(memory[0]) if p < 0 else int(values[p, r - 10]) for p, r in registers))
        kinds |= report.kinds()
    return outcomes, kinds


def store(where: str, value: int, how: str = "relaxed.gpu") -> str:
    return f"st.{how}.global.b32 {where}, {value};"


def load(register: int, where: str, how: str = "relaxed.gpu") -> str:
    return f"ld.{how}.global.b32 %r{register}, {where};"


def poll(register: int, where: str, value: int, how: str = "relaxed.gpu") -> str:
    return f"$on: {load(register, where, how)} setp.ne.b32 %p1, %r{register}, {value}; @%p1 bra $on;"


SC, ACQ_REL = "fence.sc.gpu;", "fence.acq_rel.gpu;"

# Message passing: data that is plain, and a flag. How it is set and polled, and what is between.
PUBLISH = {
    "release": store(FLAG, 1, "release.gpu"),
    "release.sys": store(FLAG, 1, "release.sys"),
    "fence": ACQ_REL + store(FLAG, 1),
    "fence.sc": SC + store(FLAG, 1),
    "fence.acq_rel.sys": "fence.acq_rel.sys;" + store(FLAG, 1),
    "membar": "membar.gl;" + store(FLAG, 1, "volatile"),
    "atom": f"atom.release.gpu.global.exch.b32 %r3, {FLAG}, 1;",
    "red": f"red.release.gpu.global.add.u32 {FLAG}, 1;",
    "fence, red": f"{ACQ_REL} red.relaxed.gpu.global.add.u32 {FLAG}, 1;",
    "acq_rel": f"atom.acq_rel.gpu.global.add.u32 %r3, {FLAG}, 1;",
}
RECEIVE = {
    "acquire": poll(10, FLAG, 1, "acquire.gpu"),
    "acquire.sys": poll(10, FLAG, 1, "acquire.sys"),
    "fence": poll(10, FLAG, 1) + ACQ_REL,
    "fence.sc": poll(10, FLAG, 1) + SC,
    "membar": poll(10, FLAG, 1, "volatile") + "membar.sys;",
    "atom": f"$on: atom.acquire.gpu.global.or.b32 %r10, {FLAG}, 0; setp.ne.b32 %p1, %r10, 1; @%p1 bra $on;",
    "acq_rel": f"$on: atom.acq_rel.gpu.global.cas.b32 %r10, {FLAG}, 5, 5; setp.ne.b32 %p1, %r10, 1; @%p1 bra $on;",
}
# Not enough: no release, a fence on the wrong side of the store, a scope that ends before the other program.
PUBLISH_BADLY = {
    "plain": "st.global.b32 [%rd0+128], 1;",
    "relaxed": store(FLAG, 1),
    "volatile": store(FLAG, 1, "volatile"),
    "fence too late": store(FLAG, 1) + ACQ_REL,
    "red": f"red.relaxed.gpu.global.add.u32 {FLAG}, 1;",
    "cta": store(FLAG, 1, "release.cta"),
}
RECEIVE_BADLY = {
    "relaxed": poll(10, FLAG, 1),
    "volatile": poll(10, FLAG, 1, "volatile"),
    "cta": poll(10, FLAG, 1, "acquire.cta"),
    "atom": RECEIVE["atom"].replace("acquire", "relaxed"),
}


def passed(
    publish: str, receive: str, weak: bool, seeds: int = 12, read: str = "ld.global.b32 %r11, [%rd0];"
) -> tuple[set[int], set[str]]:
    sender = f"st.global.b32 {X}, 42; {publish}"
    outcomes, kinds = litmus([sender, receive + read], [(1, 11)], seeds, weak=weak)
    return {value for (value,) in outcomes}, kinds


@pytest.mark.parametrize("receive", RECEIVE)
@pytest.mark.parametrize("publish", PUBLISH)
def test_message_passing(publish: str, receive: str) -> None:
    """Forbidden: to see the flag, and not the data."""
    assert passed(PUBLISH[publish], RECEIVE[receive], True, 6) == ({42}, set())
    assert passed(PUBLISH[publish], RECEIVE[receive], False, 3) == ({42}, set())


@pytest.mark.parametrize("receive", ["acquire", "atom"])
@pytest.mark.parametrize("publish", ["fence", "fence, red", "release"])
def test_message_passing_often(publish: str, receive: str) -> None:
    """An atomic is there for everybody at once: not so what comes before it, nor what it must not be seen without."""
    assert passed(PUBLISH[publish], RECEIVE[receive], True, 40) == ({42}, set())


@pytest.mark.parametrize("publish", PUBLISH_BADLY)
def test_message_passing_with_nothing_released(publish: str) -> None:
    """Allowed: anything. It is a race in any memory; in weak memory, where stores change places, stale data is seen."""
    values, kinds = passed(PUBLISH_BADLY[publish], RECEIVE["acquire"], False)
    assert values == {42}
    assert "race" in kinds
    values, kinds = passed(PUBLISH_BADLY[publish], RECEIVE["acquire"], True, 40)
    assert "race" in kinds
    assert values == ({42} if publish == "cta" else {0, 42})  # which the machine delivers as if it reached further


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("receive", RECEIVE_BADLY)
def test_message_passing_with_nothing_acquired(receive: str, weak: bool) -> None:
    """Allowed: anything; the machine loads in order, so that it comes right, and is reported."""
    assert passed(PUBLISH["release"], RECEIVE_BADLY[receive], weak) == ({42}, {"race"})


def test_data_that_is_loaded_strongly_is_mixed() -> None:
    """What an exchange by flagged data lives on: no two plain accesses, and no order either."""
    for read in (load(11, X), load(11, X, "volatile"), load(11, X, "acquire.gpu")):
        assert passed(PUBLISH["release"], RECEIVE_BADLY["relaxed"], False, 6, read)[1] == {"mixed"}


def test_the_scope_of_a_program_is_enough_in_it() -> None:
    """Between two warps: .cta, or a barrier. With neither it is a race."""

    def kinds(publish: str, receive: str, barrier: str = "") -> set[str]:
        body = f"""setp.ge.u32 %p2, %r0, 32; @%p2 bra $other; st.global.b32 {X}, 42; {publish} {barrier} ret;
            $other: {receive} {barrier} ld.global.b32 %r3, {X};"""
        found: set[str] = set()
        for order in ORDERS:
            found |= launch(body, [words(n=64)], warps=2, order=order).kinds()
        return found - {"same value"}  # 32 lanes store 42

    flag = poll(10, FLAG, 1, "acquire.cta")
    assert kinds(store(FLAG, 1, "release.cta"), flag) == set()
    assert "race" in kinds(store(FLAG, 1), flag)
    body = f"setp.lt.u32 %p2, %r0, 32; @%p2 st.global.b32 {X}, 42; {{}} ld.global.b32 %r3, {X};"
    for order in ORDERS:
        assert launch(body.format("bar.sync 0;"), [words(n=64)], warps=2, order=order).kinds() <= {"same value"}
        assert "race" in launch(body.format(""), [words(n=64)], warps=2, order=order).kinds()


@pytest.mark.parametrize("weak", [False, True])
def test_a_release_publishes_what_a_barrier_made_known(weak: bool) -> None:
    """Cumulativity: what other warps stored before a barrier; and who acquires makes it known by a barrier in turn."""
    body = f"""
        mad.wide.u32 %rd9, %r0, 4, %rd0; setp.eq.u32 %p2, %r0, 0; setp.ne.u32 %p3, %r1, 0; @%p3 bra $reader;
        st.global.b32 [%rd9+256], %r0; {{first}} @!%p2 bra $end; {store(FLAG, 1, "release.gpu")} bra $end;
        $reader: @!%p2 bra $on; $on: {load(3, FLAG, "acquire.gpu")} setp.ne.b32 %p1, %r3, 1; @%p1 bra $on;
        {{second}} ld.global.b32 %r4, [%rd9+256]; mad.wide.u32 %rd8, %r0, 4, %rd1; st.global.b32 [%rd8], %r4; $end:"""
    alone = body.replace("@!%p2 bra $on; $on:", "@!%p2 bra $known; $on:").replace("{second}", "$known: {second}")
    for text, first, second, racy in (
        (alone, "bar.sync 0;", "bar.sync 0;", False),
        (body, "bar.sync 0;", "", False),
        (alone, "", "bar.sync 0;", True),
        (alone, "bar.sync 0;", "", True),
    ):
        for seed in range(3):
            out = words(n=64)
            kinds = launch(
                text.format(first=first, second=second), [words(n=192), out], 2, 2, seed=seed, weak=weak
            ).kinds()
            assert kinds == ({"race"} if racy else set())
            assert racy or out.tolist() == list(range(64))


# Outcomes of strong accesses: what is between the two of each program.


def store_buffering(
    between: str, first: str = "relaxed.gpu", second: str = "relaxed.gpu", weak: bool = True
) -> set[Outcome]:
    outcomes, kinds = litmus(
        [store(X, 1, first) + between + load(10, Y, second), store(Y, 1, first) + between + load(10, X, second)],
        [(0, 10), (1, 10)],
        24,
        weak=weak,
    )
    assert kinds == set()
    return outcomes


def test_store_buffering() -> None:
    """Allowed: that neither sees the other's store, unless fence.sc is between."""
    for between, first, second in (
        ("", "relaxed.gpu", "relaxed.gpu"),
        ("", "release.gpu", "acquire.gpu"),
        ("", "volatile", "volatile"),
        (ACQ_REL, "relaxed.gpu", "relaxed.gpu"),
    ):
        assert (0, 0) in store_buffering(between, first, second)
        assert (0, 0) not in store_buffering(between, first, second, weak=False)
    for fence in (SC, "fence.sc.sys;", "membar.gl;"):
        outcomes = store_buffering(fence)
        assert (0, 0) not in outcomes
        assert {(0, 1), (1, 0)} <= outcomes


@pytest.mark.parametrize("weak", [False, True])
def test_load_buffering(weak: bool) -> None:
    """Allowed: that each sees what the other stores afterwards. The machine loads in order, and never shows it."""
    for how, racy in (("relaxed.gpu", set()), ("weak", {"race"})):
        outcomes, kinds = litmus(
            [load(10, X, how) + store(Y, 1, how), load(10, Y, how) + store(X, 1, how)], [(0, 10), (1, 10)], weak=weak
        )
        assert (1, 1) not in outcomes
        assert {(0, 0), (0, 1), (1, 0)} >= outcomes
        assert len(outcomes) > 1
        assert kinds == racy


@pytest.mark.parametrize("weak", [False, True])
def test_coherence_of_reads(weak: bool) -> None:
    """Forbidden: that two reads of one location, one after the other, go back."""
    writer, reader = store(X, 1) + store(X, 2), load(10, X) + load(11, X)
    outcomes, _ = litmus([writer, reader], [(1, 10), (1, 11)], 80, weak=weak)
    assert outcomes <= {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)}
    assert len(outcomes) > 2


@pytest.mark.parametrize("weak", [False, True])
def test_coherence_has_one_order_for_all(weak: bool) -> None:
    """Two programs store, and read, as do two more. Forbidden: that one sees the stores in another order than another
    does, or its own after it had been stored over, or that the last one that somebody saw is not there in the end."""
    reader = load(10, X) + load(11, X)
    programs = [store(X, 1) + reader, store(X, 2) + reader, reader, reader]
    registers = [(p, r) for p in range(4) for r in (10, 11)]
    outcomes, kinds = litmus(programs, [*registers, (-1, 0)], 100, weak=weak)
    assert kinds == set()
    for *seen, last in outcomes:
        pairs = {(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True) if a != b and a and b}
        assert len(pairs) <= 1, f"seen in two orders: {seen}"
        assert all(b == last for _, b in pairs), f"{seen}, and in the end {last}"
        assert 0 not in seen[:4], "one's own store is there"
        first = [1, 2].index(last)
        assert seen[2 * first : 2 * first + 2] == [last] * 2 or seen[2 * first] != last, f"{seen}, in the end {last}"


def test_coherence_of_stores_in_one_instruction() -> None:
    """In lock-step all programs store at once. Forbidden: that two see the last two in two orders."""
    body = f"""setp.ne.u32 %p9, %r0, 0; @%p9 ret; add.u32 %r2, %r1, 1; mad.wide.u32 %rd9, %r1, 16, %rd1;
        st.relaxed.gpu.global.b32 {X}, %r2; {load(10, X)} {load(11, X)} {load(12, X)}
        st.global.v4.b32 [%rd9], {{%r2, %r10, %r11, %r12}};"""
    moved = 0
    for seed in range(20):
        memory, seen = words(n=64), words(n=12)
        launch(body, [memory, seen], grid=3, seed=seed, weak=True)
        steps = [pair for row in seen.view(3, 4).tolist() for pair in itertools.pairwise(row) if pair[0] != pair[1]]
        last = {int(memory[0])}
        assert not any((b, a) in steps for a, b in steps), f"seen in two orders: {steps}"
        assert not any(a in last for a, _ in steps), f"stored over, and there in the end: {steps}"
        moved += len(steps)
    assert moved > 5


@pytest.mark.parametrize("size", ["b64", "v2.b32"])
def test_what_is_torn(size: str) -> None:
    """Allowed: halves of a vector that come apart; but not of a scalar."""
    outcomes = set()
    names = "{%r11, %r12}" if size != "b64" else "%rd5"
    value = "mov.b32 %r11, 1; mov.b32 %r12, 1; mov.b64 %rd5, {%r11, %r12};"
    body = f"""{value} setp.ne.u32 %p9, %r0, 0; @%p9 ret; setp.ne.u32 %p8, %r1, 0; @%p8 bra $read;
        st.global.{size} {X}, {names}; {store(FLAG, 1)} ret;
        $read: {poll(10, FLAG, 1)} ld.global.{size} {names}, {X}; st.global.{size} [%rd1], {names};"""
    for seed in range(40):
        out = words(n=2)
        launch(body, [words(n=64), out], grid=2, seed=seed, weak=True)
        outcomes.add(tuple(out.tolist()))
    assert (0, 0) in outcomes
    assert (1, 1) in outcomes
    assert (len(outcomes) > 2) == (size != "b64")


@pytest.mark.parametrize("weak", [False, True])
def test_write_to_read_causality(weak: bool) -> None:
    """Forbidden, with fences: that the third sees what the second stored, and not what that had seen."""

    def run(fence: str) -> tuple[set[Outcome], set[str]]:
        second = poll(10, X, 1) + fence + store(Y, 1)
        return litmus([store(X, 1), second, poll(10, Y, 1) + fence + load(11, X)], [(2, 11)], weak=weak)

    assert run(ACQ_REL) == ({(1,)}, set())
    assert run(SC) == ({(1,)}, set())
    assert run("") == ({(0,), (1,)} if weak else {(1,)}, set())


def test_causality_of_plain_data_over_three_programs() -> None:
    """By two releases and acquires, one after the other: the data is the first's. With one of them relaxed, a race."""
    for how, expected in (("release.gpu", set()), ("relaxed.gpu", {"race"})):
        for weak in (False, True):
            first = f"st.global.b32 {X}, 42; {store(FLAG, 1, 'release.gpu')}"
            second = poll(10, FLAG, 1, "acquire.gpu") + store(Y, 1, how)
            third = poll(10, Y, 1, "acquire.gpu") + f"ld.global.b32 %r11, {X};"
            outcomes, kinds = litmus([first, second, third], [(2, 11)], 12, weak=weak)
            assert kinds == expected
            assert outcomes == {(42,)} or (weak and expected)


def test_independent_reads_of_independent_writes() -> None:
    """Forbidden, with fence.sc: that two readers see two stores in two orders. Allowed without, and shown."""

    def run(fence: str, weak: bool) -> set[Outcome]:
        readers = [load(10, X) + fence + load(11, Y), load(10, Y) + fence + load(11, X)]
        programs, registers = [store(X, 1), store(Y, 1), *readers], [(2, 10), (2, 11), (3, 10), (3, 11)]
        return litmus(programs, registers, 100, weak=weak)[0]

    assert (1, 0, 1, 0) not in run(SC, True)
    assert (1, 0, 1, 0) not in run("", False)
    assert (1, 0, 1, 0) in run("", True)


@pytest.mark.parametrize("weak", [False, True])
def test_a_release_goes_on_through_an_atomic(weak: bool) -> None:
    """Release sequence: another's atomic on the flag carries the release on; another's store does not."""
    first = f"st.global.b32 {X}, 42; {store(FLAG, 1, 'release.gpu')}"
    third = poll(10, FLAG, 2, "acquire.gpu") + f"ld.global.b32 %r11, {X};"
    add = poll(10, FLAG, 1) + f"atom.relaxed.gpu.global.add.u32 %r3, {FLAG}, 1;"
    assert litmus([first, add, third], [(2, 11)], 12, weak=weak) == ({(42,)}, set())
    assert "race" in litmus([first, poll(10, FLAG, 1) + store(FLAG, 2), third], [(2, 11)], 12, weak=weak)[1]


# Atomics.


ADDS = {"u32": (np.uint32, 3), "s32": (np.int32, -3), "u64": (np.uint64, 1 << 40), "f32": (np.float32, 0.5)}


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("kind", ADDS)
def test_atomics_of_all_threads_add_up(kind: str, weak: bool) -> None:
    """Each thread gets another one's sum, as if one came after the other."""
    dtype, addend = ADDS[kind]
    bits = 8 * np.dtype(dtype).itemsize
    raw = int(np.array([addend], dtype).view(f"u{bits // 8}")[0])
    total, seen = torch.zeros(2, dtype=torch.int32), torch.zeros(192 * bits // 32, dtype=torch.int32)
    register = "%r5" if bits == 32 else "%rd5"
    body = f"""mov.b{bits} {register}, {raw}; mad.lo.u32 %r2, %r1, 64, %r0; mad.wide.u32 %rd9, %r2, {bits // 8}, %rd1;
        atom.global.gpu.relaxed.add.{kind} {register}, [%rd0], {register}; st.global.b{bits} [%rd9], {register};"""
    assert launch(body, [total, seen], 2, 3, weak=weak, order="warps").kinds() == set()
    olds = np.sort(seen.numpy().view(dtype).astype(np.float64) / addend)
    assert olds.tolist() == list(range(192))
    assert total.numpy().view(dtype)[0] == 192 * addend


@pytest.mark.parametrize(
    ("how", "start", "expected"),
    [("min.s32", 5, -31), ("min.u32", 5, 0), ("max.s32", -5, 0), ("max.u32", 5, 0xFFFFFFFF), ("and.b32", 0xFF, 0),
     ("or.b32", 0, 0xFFFFFFFF), ("exch.b32", 0, -31), ("xor.b32", 1, functools.reduce(operator.xor, range(-31, 1), 1))],
)  # fmt: skip
def test_other_atomics(how: str, start: int, expected: int) -> None:
    """Of 0, -1, -2, ... -31, by 32 threads in the order of their numbers."""
    for name in ("atom", "red"):
        if name == "red" and how.startswith("exch"):
            continue
        cell, target = words(start & 0xFFFFFFFF), "%r5, " if name == "atom" else ""
        launch(f"neg.s32 %r4, %r0; {name}.global.{how} {target}[%rd0], %r4;", [cell])
        assert int(cell[0]) & 0xFFFFFFFF == expected & 0xFFFFFFFF


def test_compare_and_swap() -> None:
    """Only the thread whose number is there puts the next one: each sees its own."""
    cell, seen = words(0), words(n=32)
    body = """add.u32 %r4, %r0, 1; atom.global.cas.b32 %r5, [%rd0], %r0, %r4; mad.wide.u32 %rd9, %r0, 4, %rd1;
        st.global.b32 [%rd9], %r5; setp.eq.u32 %p1, %r0, 7; @%p1 atom.global.cas.b64 %rd5, [%rd2], 0, 9;"""
    wide = words(0, 0)
    launch(body, [cell, seen, wide])
    assert cell.tolist() == [32]
    assert seen.tolist() == list(range(32))
    assert wide.tolist() == [9, 0]


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_a_lock(order: str, weak: bool) -> None:
    """A plain counter under a lock that is taken with acquire and given back with release; relaxed, a race."""
    body = """setp.ne.u32 %p9, %r0, 0; @%p9 ret;
        $on: atom.acquire.gpu.global.cas.b32 %r3, [%rd0], 0, 1; setp.ne.b32 %p1, %r3, 0; @%p1 bra $on;
        ld.global.b32 %r4, [%rd0+64]; add.u32 %r4, %r4, 1; st.global.b32 [%rd0+64], %r4;
        atom.release.gpu.global.exch.b32 %r3, [%rd0], 0;"""
    for seed in range(3):
        memory = words(n=32)
        assert launch(body, [memory], grid=4, order=order, weak=weak, seed=seed).kinds() == set()
        assert int(memory[16]) == 4
        relaxed = body.replace("acquire", "relaxed")
        assert "race" in launch(relaxed, [words(n=32)], grid=4, order=order, weak=weak, seed=seed).kinds()


# What is not racy comes out the same, whoever goes first.

TREE = """
    mov.b32 %r9, global_smem; shl.b32 %r2, %r0, 2; add.u32 %r2, %r9, %r2; mad.lo.u32 %r3, %r1, 128, %r0;
    mad.wide.u32 %rd9, %r3, 4, %rd0; ld.global.b32 %r4, [%rd9]; st.shared.b32 [%r2], %r4; mov.b32 %r5, 64;
    $turn: bar.sync 0; setp.ge.u32 %p1, %r0, %r5; @%p1 bra $skip;
        shl.b32 %r6, %r5, 2; add.u32 %r6, %r2, %r6; ld.shared.f32 %f1, [%r6]; ld.shared.f32 %f2, [%r2];
        add.f32 %f1, %f1, %f2; st.shared.f32 [%r2], %f1;
    $skip: shr.u32 %r5, %r5, 1; setp.ne.u32 %p2, %r5, 0; @%p2 bra $turn;
    setp.ne.u32 %p3, %r0, 0; @%p3 ret; mad.wide.u32 %rd9, %r1, 4, %rd1; st.global.b32 [%rd9], %f1;"""
HISTOGRAM = """
    mad.lo.u32 %r3, %r1, 128, %r0; mad.wide.u32 %rd9, %r3, 4, %rd0; ld.global.b32 %r4, [%rd9]; shr.u32 %r4, %r4, 28;
    mad.wide.u32 %rd9, %r4, 4, %rd1; red.global.add.u32 [%rd9], 1;"""
# Program after program adds to what the one before it hands over, all of its threads.
CHAIN = """
    mad.lo.u32 %r3, %r1, 128, %r0; mad.wide.u32 %rd9, %r3, 4, %rd0; ld.global.b32 %f1, [%rd9];
    mad.wide.u32 %rd8, %r0, 4, %rd1; setp.eq.u32 %p1, %r1, 0; @%p1 bra $first;
    $on: ld.acquire.gpu.global.b32 %r4, [%rd2]; setp.lt.u32 %p2, %r4, %r1; @%p2 bra $on; bar.sync 0;
    ld.global.b32 %f2, [%rd8]; add.f32 %f1, %f1, %f2;
    $first: st.global.b32 [%rd8], %f1; bar.sync 0; setp.ne.u32 %p3, %r0, 0; @%p3 ret;
    add.u32 %r5, %r1, 1; st.release.gpu.global.b32 [%rd2], %r5;"""


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("body", [TREE, HISTOGRAM, CHAIN], ids=["tree", "histogram", "chain"])
def test_what_is_not_racy_comes_out_the_same(body: str, weak: bool) -> None:
    given = torch.randn(384, generator=torch.Generator().manual_seed(0))
    results, reports = [], []
    for seed, order in itertools.product(range(2), ORDERS):
        out = torch.zeros(128)
        report: Report = launch(body, [given, out, words(0)], 4, 3, 512, seed=seed, order=order, weak=weak)
        results.append(out)
        reports.append(report)
        assert report.kinds() == set()
    assert all(torch.equal(out, results[0]) for out in results)
    assert results[0].any()
    if body is not CHAIN:  # where nobody polls, everybody loads the same
        assert all(report.bytes == reports[0].bytes for report in reports)


def test_seeds_and_orders_differ_where_it_is_racy() -> None:
    """Else the tests above would show nothing: the last of several programs that store wins."""
    outcomes = set()
    for seed in range(12):
        out = words(0)
        kinds = launch("st.global.b32 [%rd0], %r1;", [out], grid=4, seed=seed, order="programs").kinds()
        assert "race" in kinds
        outcomes.add(int(out[0]))
    assert len(outcomes) > 1
    again = [litmus([store(X, 1), store(X, 2)], [(-1, 0)], 9, weak=True) for _ in range(2)]
    assert again[0] == again[1], "a seed says all"
