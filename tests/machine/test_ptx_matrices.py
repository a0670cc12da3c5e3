"""Matrix instructions, with every element where the manual's formulas say, and what must be fenced and waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ptx import ORDERS, launch, words

from ptx_machine import FaultError, Report
from ptx_machine.types import Array

SIZE = {"f16": 2, "bf16": 2, "tf32": 4}


def encoded(x: Array, kind: str) -> Array:
    """Small integers as bits of a type; of tf32, with something in the bits that it does not have."""
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16)
    bits = x.astype(np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16) if kind == "bf16" else np.where(bits == 0, bits, bits | 0x1FFF)


def draw(*shape: int) -> Array:
    return np.random.default_rng(shape[0] + shape[-1]).integers(-8, 9, shape)


def as_tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(np.ascontiguousarray(x).tobytes(), np.int32).copy())


def registers(first: int, count: int) -> str:
    return "{" + ", ".join(f"%r{first + i}" for i in range(count)) + "}"


# mma: by the manual, for lane `l` and the i-th element of a fragment, with group = l >> 2 and inside = l % 4.
FRAGMENTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "m16n8k16": (
        lambda g, t, i: (g if i < 2 or 4 <= i < 6 else g + 8, t * 2 + (i & 1) + (8 if i >= 4 else 0)),
        lambda g, t, i: (t * 2 + (i & 1) + (8 if i >= 2 else 0), g),
    ),
    "m16n8k8": (
        lambda g, t, i: (g if i < 2 else g + 8, t * 2 + (i & 1)),
        lambda g, t, i: (t * 2 + i, g),
    ),
    "m16n8k8 tf32": (
        lambda g, t, i: (g if i in (0, 2) else g + 8, t if i < 2 else t + 4),
        lambda g, t, i: (t if i == 0 else t + 4, g),
    ),
    "m16n8k4 tf32": (
        lambda g, t, i: (g if i == 0 else g + 8, t),
        lambda g, t, i: (t, g),
    ),
}


def c_place(g: int, t: int, i: int) -> tuple[int, int]:
    return (g if i < 2 else g + 8, t * 2 + (i & 1))


def fragment(matrix: Array, place: Callable[..., Any], count: int) -> Array:
    """`[lane, element]`."""
    return np.array([[matrix[place(lane >> 2, lane % 4, i)] for i in range(count)] for lane in range(32)])


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("m16n8k16", "f16"), ("m16n8k16", "bf16"), ("m16n8k8", "f16"), ("m16n8k8", "bf16"), ("m16n8k8", "tf32"),
     ("m16n8k4", "tf32")],
)  # fmt: skip
def test_mma_has_elements_where_the_manual_says(shape: str, kind: str) -> None:
    """Two warps with matrices of their own, and a third that stays away."""
    k, per = int(shape.partition("k")[2]), 4 // SIZE[kind]
    place_a, place_b = FRAGMENTS[f"{shape} tf32" if kind == "tf32" else shape]
    n_a, n_b = 16 * k // 32, 8 * k // 32
    a, b, c = draw(3, 16, k), draw(3, k, 8), draw(3, 16, 8)
    held_a = np.stack([fragment(encoded(x, kind), place_a, n_a) for x in a])
    held_b = np.stack([fragment(encoded(x, kind), place_b, n_b) for x in b])
    held_c = np.stack([fragment(x.astype(np.float32), c_place, 4) for x in c])
    out, regs_a, regs_b = torch.zeros(3, 32, 4), n_a // per, n_b // per
    load = "".join(
        f"mad.wide.u32 %rd9, %r0, {count * 4}, %rd{which};\n"
        + "".join(f"ld.global.b32 %r{first + i}, [%rd9+{4 * i}];\n" for i in range(count))
        for which, first, count in ((0, 10, regs_a), (1, 20, regs_b), (2, 30, 4))
    )
    body = f"""{load} setp.gt.u32 %p1, %r0, 63; @%p1 bra $away;
        mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {registers(40, 4)}, {registers(10, regs_a)},
            {registers(20, regs_b)}, {registers(30, 4)};
        mad.wide.u32 %rd9, %r0, 16, %rd3; st.global.v4.b32 [%rd9], {registers(40, 4)};
        $away: bar.sync 0;"""
    launch(body, [as_tensor(held_a), as_tensor(held_b), as_tensor(held_c), out], warps=3)
    expected = [fragment((x @ y + z).astype(np.float32), c_place, 4) for x, y, z in zip(a, b, c, strict=True)]
    assert out[:2].tolist() == np.array(expected[:2]).tolist()
    assert not out[2].any()


def test_mma_of_part_of_a_warp_is_a_fault() -> None:
    body = f"""setp.eq.u32 %p1, %r0, 7; @%p1 bra $end;
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {registers(0, 4)}, {{%r0, %r0}}, {{%r0}}, {registers(0, 4)};
        $end: ret;"""
    with pytest.raises(FaultError, match="part of a warp"):
        launch(body, [words(n=1)])


MATRIX = """
    shl.b32 %r2, %r0, 4; mov.b32 %r3, global_smem; add.u32 %r4, %r3, %r2; mad.wide.u32 %rd9, %r0, 16, %rd0;
    ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%rd9]; st.shared.v4.b32 [%r4], {%r5, %r6, %r7, %r8}; bar.warp.sync -1;
    mad.wide.u32 %rd9, %r0, 4, %rd1; ld.global.b32 %r9, [%rd9]; add.u32 %r9, %r3, %r9;
"""


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count: int, trans: str) -> None:
    """Eight lanes have the addresses of each matrix's rows, which lie anywhere."""
    rows = np.arange(256, dtype=np.uint16).reshape(32, 8) * 7
    order = np.random.default_rng(0).permutation(32)
    out = torch.zeros(32, count, 2, dtype=torch.int16)
    body = f"""{MATRIX}
        ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {registers(10, count)}, [%r9];
        mad.wide.u32 %rd9, %r0, {4 * count}, %rd2;
        {"".join(f"st.global.b32 [%rd9+{4 * i}], %r{10 + i};" for i in range(count))}"""
    assert not launch(body, [as_tensor(rows), as_tensor(order.astype(np.int32) * 16), out], shared=512).kinds()
    for lane in range(32):
        for i in range(count):
            matrix = rows[order[8 * i : 8 * i + 8]]
            matrix = matrix.T if trans else matrix
            assert out[lane, i].tolist() == matrix[lane // 4, lane % 4 * 2 :][:2].tolist()


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix(count: int, trans: str) -> None:
    order = np.random.default_rng(0).permutation(32)
    held = np.arange(32 * 4 * 2, dtype=np.int16).reshape(32, 4, 2)
    out = torch.zeros(32, 8, dtype=torch.int16)
    body = f"""
        mad.wide.u32 %rd9, %r0, 16, %rd0; ld.global.v4.b32 {registers(10, 4)}, [%rd9];
        mad.wide.u32 %rd9, %r0, 4, %rd1; ld.global.b32 %r9, [%rd9]; mov.b32 %r3, global_smem; add.u32 %r9, %r3, %r9;
        shl.b32 %r2, %r0, 4; add.u32 %r4, %r3, %r2; mov.b32 %r5, 0;
        st.shared.v4.b32 [%r4], {{%r5, %r5, %r5, %r5}}; bar.warp.sync -1;
        stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r9], {registers(10, count)}; bar.warp.sync -1;
        ld.shared.v4.b32 {registers(20, 4)}, [%r4];
        mad.wide.u32 %rd9, %r0, 16, %rd2; st.global.v4.b32 [%rd9], {registers(20, 4)};"""
    assert not launch(body, [as_tensor(held), as_tensor(order.astype(np.int32) * 16), out], shared=512).kinds()
    expected = np.zeros((32, 8), np.int16)
    for lane in range(32):
        for i in range(count):
            for e in range(2):
                row, column = (lane // 4, lane % 4 * 2 + e)[:: -1 if trans else 1]
                expected[order[8 * i + row], column] = held[lane, i, e]
    assert out.tolist() == expected.tolist()


def test_ldmatrix_loads_for_the_whole_warp() -> None:
    """Another lane's store has to be ordered before, whichever lane has the row's address."""
    body = MATRIX.replace("bar.warp.sync -1;", "") + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%r4];"
    kinds = launch(body, [words(n=128), words(n=32)], shared=512).kinds()
    assert kinds == {"lanes"}


# wgmma. Shared memory as the manual has it: rows of so many bytes, whose 16-byte pieces are swizzled.
PITCH = {1: 128, 2: 64, 3: 32}  # by the descriptor's mode


def swizzled(byte: int, mode: int) -> int:
    """Bits 4 and up are xored with as many from bit 7 up: three, two or one."""
    return byte ^ (byte >> 7 & (1 << 4 - mode) - 1) << 4


class Operand:
    """A matrix [rows, k] of `kind` in shared memory: k after k in a row or, transposed, row after row."""

    def __init__(self, matrix: Array, kind: str, mode: int, transposed: bool = False, column: int = 0) -> None:
        pitch, size = PITCH[mode], SIZE[kind]
        rows, k = matrix.shape
        self.image = np.zeros(16384, np.uint8)
        bits = encoded(matrix, kind)
        lead, stride = (2048, 8 * pitch) if transposed else (16, 8 * pitch)
        for i in range(rows):
            for j in range(k):
                if transposed:
                    part, inside = divmod(i * size, pitch)
                    at = part * lead + j // 8 * stride + j % 8 * pitch + inside
                else:
                    at = i // 8 * stride + i % 8 * pitch + (column + j) * size
                at = swizzled(at, mode)
                self.image[at : at + size] = np.frombuffer(bits[i, j].tobytes(), np.uint8)
        self.descriptor = mode << 62 | stride >> 4 << 32 | lead >> 4 << 16
        self.offset = column * size


WAIT, FENCE, PROXY = "wgmma.wait_group.sync.aligned 0;", "wgmma.fence.sync.aligned;", "fence.proxy.async.shared::cta;"
COMMIT = "wgmma.commit_group.sync.aligned;"


def multiply(
    kind: str, n: int, c: Array, b: Operand, a: Operand | Array, keep: str = "1", proxy: str = PROXY, fence: str =
    FENCE, wait: str = WAIT, before: str = "", after: str = "", **options: Any,
) -> tuple[Array, Report]:  # fmt: skip
    """D [64, n], which is A B + C, of four warps; `a` in shared memory or, as a matrix, in registers."""
    k, per = 32 // SIZE[kind], 4 // SIZE[kind]
    held = isinstance(a, np.ndarray)
    place = FRAGMENTS["m16n8k16" if per == 2 else "m16n8k8 tf32"][0]
    images = [b.image] if isinstance(a, np.ndarray) else [b.image, a.image]
    image = np.concatenate(images)
    in_registers = np.zeros((4, 32, 4), np.uint32)
    if isinstance(a, np.ndarray):
        for warp in range(4):
            own = fragment(encoded(a[16 * warp : 16 * warp + 16], kind), place, 16 * k // 32)
            in_registers[warp] = own.view(np.uint32) if per == 2 else own
    spots = [
        [(16 * w + (lane >> 2) + 8 * (i >> 1 & 1), 8 * (i >> 2) + lane % 4 * 2 + (i & 1)) for i in range(n // 2)]
        for w in range(4)
        for lane in range(32)
    ]
    start = np.array([[c[spot] for spot in mine] for mine in spots], np.float32)
    out = torch.zeros(128, n // 2)
    copies = "".join(
        f"ld.global.v4.b32 {registers(2, 4)}, [%rd9+{at}]; st.shared.v4.b32 [%r8+{at}], {registers(2, 4)};\n"
        for at in range(0, len(image), 2048)
    )
    trans_a, trans_b = (int(x.descriptor >> 16 & 0x3FFF == 128) if isinstance(x, Operand) else 0 for x in (a, b))
    tail = "" if kind == "tf32" else f", {trans_b}" if held else f", {trans_a}, {trans_b}"
    left = registers(10, 4) if held else "%rd21"

    def described(operand: Operand, register: str, base: int) -> str:
        return f"""add.u32 %r9, %r7, {base + operand.offset}; shr.u32 %r9, %r9, 4; cvt.u64.u32 {register}, %r9;
            mov.b64 %rd22, {operand.descriptor - (1 << 64 if operand.descriptor >> 63 else 0)};
            or.b64 {register}, {register}, %rd22;"""

    loads = "".join(f"ld.global.b32 %r{20 + i}, [%rd9+{4 * i}];\n" for i in range(n // 2))
    stores = "".join(f"st.global.b32 [%rd9+{4 * i}], %r{20 + i};\n" for i in range(n // 2))
    body = f"""
        mov.b32 %r7, global_smem; shl.b32 %r8, %r0, 4; add.u32 %r8, %r7, %r8; mad.wide.u32 %rd9, %r0, 16, %rd0;
        {copies} {proxy} bar.sync 0;
        {described(b, "%rd20", 0)} {"" if isinstance(a, np.ndarray) else described(a, "%rd21", 16384)}
        mad.wide.u32 %rd9, %r0, 16, %rd1; ld.global.v4.b32 {registers(10, 4)}, [%rd9];
        mad.wide.u32 %rd9, %r0, {2 * n}, %rd2; {loads} setp.eq.u32 %p1, %r7, 0;
        {fence} wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{kind}.{kind} {registers(20, n // 2)}, {left}, %rd20,
            {keep}, 1, 1{tail};
        {before} {COMMIT} {after} {wait}
        mad.wide.u32 %rd9, %r0, {2 * n}, %rd3; {stores}"""
    tensors = [as_tensor(image), as_tensor(in_registers), as_tensor(start), out]
    report = launch(body, tensors, warps=4, shared=len(image), **options)
    found = np.zeros((64, n), np.float32)
    for thread, mine in enumerate(spots):
        for i, spot in enumerate(mine):
            found[spot] = float(out[thread, i])
    return found, report


@pytest.mark.parametrize("mode", PITCH)
@pytest.mark.parametrize("kind", SIZE)
@pytest.mark.parametrize("n", [8, 24, 32])
def test_wgmma_with_a_in_registers(n: int, kind: str, mode: int) -> None:
    k = 32 // SIZE[kind]
    a, b, c = draw(64, k), draw(n, k), draw(64, n)
    found, report = multiply(kind, n, c, Operand(b, kind, mode), a)
    assert found.tolist() == (a @ b.T + c).tolist()
    assert not report.kinds()


@pytest.mark.parametrize("mode", PITCH)
@pytest.mark.parametrize("kind", SIZE)
def test_wgmma_with_a_in_shared_memory(kind: str, mode: int) -> None:
    """Both from the second 32 bytes of their rows on, where these have more."""
    k = 32 // SIZE[kind]
    a, b, c = draw(64, k), draw(16, k), draw(64, 16)
    column = k if mode < 3 else 0
    found, report = multiply(kind, 16, c, Operand(b, kind, mode, column=column), Operand(a, kind, mode, column=column))
    assert found.tolist() == (a @ b.T + c).tolist()
    assert not report.kinds()


@pytest.mark.parametrize("mode", PITCH)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_wgmma_transposed(kind: str, mode: int) -> None:
    n = PITCH[mode]  # two rows' worth
    a, b, c = draw(64, 16), draw(n, 16), draw(64, n)
    for left in (a, Operand(a, kind, mode, True)):
        found, report = multiply(kind, n, c, Operand(b, kind, mode, True), left)
        assert found.tolist() == (a @ b.T + c).tolist()
        assert not report.kinds()


A, B, C = draw(64, 16), draw(8, 16), draw(64, 8)


def product(**options: Any) -> tuple[str, set[str]]:
    """What an m64n8k16 gives, "right" or "NaN", and the kinds of what is wrong."""
    given = {"a": A, "order": "grid"} | options
    found, report = multiply("f16", 8, C, Operand(B, "f16", 1), **given)
    right = found.tolist() == (A @ B.T + C).tolist()
    return "right" if right else "NaN" if np.isnan(found).all() else "wrong", report.kinds()


@pytest.mark.parametrize("order", ORDERS)
def test_what_wgmma_needs(order: str) -> None:
    assert product(order=order) == ("right", set())
    assert product(order=order, proxy="") == ("right", {"race"})
    assert product(order=order, fence="") == ("right", {"registers"})
    assert product(order=order, wait="")[0] == "NaN"
    assert product(order=order, wait=WAIT.replace("0;", "1;"))[0] == "NaN"
    # A proxy fence covers what others stored before a barrier, and nothing that comes after.
    assert product(order=order, proxy="bar.sync 0; " + PROXY) == ("right", set())
    assert product(order=order, proxy=PROXY + "st.shared.b32 [%r8], %r2;")[1] == {"race"}
    assert product(order=order, fence=FENCE + "or.b32 %r20, %r21, 0;")[1] == {"registers"}
    # LLVM moves accumulators after the fence; ptxas makes one register of both.
    assert product(order=order, fence=FENCE + "mov.b32 %r20, %r21;")[1] == set()
    # Until it has been waited for, it may load from shared memory, and its registers are its own.
    store, add = "st.shared.b32 [%r8], %r0;", "add.u32 %r10, %r10, 1;"
    assert "race" in product(order=order, after="bar.sync 0;" + store)[1]
    assert product(order=order, after=add)[1] == {"race"}
    assert product(order=order, after=WAIT + "bar.sync 0;" + store + add) == ("right", set())
    assert "race" in product(order=order, after=WAIT + store)[1], "other warps may still load"
    assert "race" in product(order=order, after="bar.sync 0;" + store, a=Operand(A, "f16", 1))[1]


def test_wgmma_keeps_the_sum_or_not() -> None:
    alone, _ = multiply("f16", 8, np.full((64, 8), np.nan), Operand(B, "f16", 1), A, keep="0")
    assert alone.tolist() == (A @ B.T).tolist()
    alone, _ = multiply("f16", 8, np.full((64, 8), np.nan), Operand(B, "f16", 1), A, keep="%p1")
    assert alone.tolist() == (A @ B.T).tolist()


def test_wgmma_sums_up_with_one_fence() -> None:
    """A second one on the same accumulators needs no fence of its own."""
    opcode = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16"
    again = f"{opcode} {registers(20, 4)}, {registers(10, 4)}, %rd20, 1, 1, 1, 0;"
    found, report = multiply("f16", 8, C, Operand(B, "f16", 1), A, before=again)
    assert found.tolist() == (2 * (A @ B.T) + C).tolist()
    assert not report.kinds()
    # In a group of its own: of two, one may be under way.
    found, _ = multiply("f16", 8, C, Operand(B, "f16", 1), A, after=again + COMMIT, wait=WAIT.replace("0;", "1;"))
    assert np.isnan(found).all()
    found, _ = multiply("f16", 8, C, Operand(B, "f16", 1), A, after=again + COMMIT)
    assert found.tolist() == (2 * (A @ B.T) + C).tolist()


# cp.async.
COPY = """
    mov.b32 %r9, global_smem; shl.b32 %r2, %r0, 2; add.u32 %r2, %r9, %r2;
    mad.wide.u32 %rd9, %r0, 4, %rd0; mad.wide.u32 %rd8, %r0, 4, %rd1; setp.lt.u32 %p1, %r0, 48; selp.b32 %r3, 4, 0, %p1;
    cp.async.ca.shared.global [%r2], [%rd9], 4, %r3; {first}
    cp.async.ca.shared.global [%r2+256], [%rd9], 4, %r3; {second}
    {wait} {sync} xor.b32 %r4, %r2, 128; ld.shared.b32 %r5, [%r4+{place}]; st.global.b32 [%rd8], %r5;"""
COPIED = [*range(33, 49), *[0] * 16, *range(1, 33)]  # what the thread 32 further copied: of 48 words, then zeros


def copied(
    wait: str, first: str = "cp.async.commit_group;", second: str = "cp.async.commit_group;", place: int = 0,
    sync: str = "bar.sync 0;", **options: Any,
) -> tuple[list[int], set[str]]:  # fmt: skip
    out = words(n=64)
    body = COPY.format(wait=wait, first=first, second=second, place=place, sync=sync)
    report = launch(body, [words(*range(1, 49)), out], warps=2, shared=512, **options)
    return out.tolist(), report.kinds()


@pytest.mark.parametrize("order", ORDERS)
def test_copies_and_their_groups(order: str) -> None:
    wait = "cp.async.wait_group {};".format
    assert copied(wait(0), order=order) == (COPIED, set())
    assert copied(wait(1), order=order) == (COPIED, set())
    assert copied("cp.async.wait_all;", order=order, place=256) == (COPIED, set())
    assert copied("cp.async.wait_all;", order=order, place=256, first="", second="") == (COPIED, set())
    # The last group is still under way, and so is what no group has.
    nothing = ([-1] * 64, {"unwritten"})
    assert copied(wait(1), order=order, place=256) == nothing
    assert copied(wait(2), order=order) == nothing
    assert copied(wait(0), order=order, place=256, second="") == nothing
    # Who waits, waits for his own; others need a barrier.
    assert copied(wait(0), order=order, sync="")[1] & {"race", "unwritten"}


@pytest.mark.parametrize("order", ORDERS)
def test_stores_while_a_copy_may_still_come(order: str) -> None:
    touch = "st.shared.b32 [%r2], %r0;"
    assert "race" in copied("cp.async.wait_all;", first=touch, second="", order=order)[1]
    assert copied("cp.async.wait_all;" + touch, order=order) == ([*range(32, 64), *range(32)], set())


def test_a_copy_of_sixteen_bytes() -> None:
    out = words(n=128)
    body = """
        mov.b32 %r9, global_smem; shl.b32 %r2, %r0, 4; add.u32 %r2, %r9, %r2; mad.wide.u32 %rd9, %r0, 16, %rd0;
        setp.ge.u32 %p1, %r0, 16; @%p1 cp.async.cg.shared.global.L2::128B [%r2], [%rd9], 16;
        cp.async.commit_group; cp.async.wait_group 0; mad.wide.u32 %rd9, %r0, 16, %rd1;
        @%p1 ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r2]; @%p1 st.global.v4.b32 [%rd9], {%r4, %r5, %r6, %r7};"""
    assert not launch(body, [words(*range(128)), out], shared=512).kinds()
    assert out.tolist() == [*[0] * 64, *range(64, 128)]
    with pytest.raises(FaultError, match="outside"):
        launch(body, [words(*range(127)), out], shared=512)
