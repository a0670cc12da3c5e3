"""Instructions that only few kernels have: bfloat16 rounded once, float64 on the matrix units, 128 bits at once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from ptx import launch

from ptx_machine import RefusedError, Report


def run(body: str, *tensors: torch.Tensor, grid: int = 1, **options: Any) -> Report:
    """`body` with pointers to the tensors in %rd1 and %rd2, and the thread's number in %r1."""
    second = "mov.b64 %rd2, %rd1; " if len(tensors) > 1 else ""
    return launch(f"{second}mov.b64 %rd1, %rd0; mov.b32 %r1, %r0;\n{body}", tensors, grid=grid, **options)


def bfloat16_of(exact: Fraction) -> int:
    """The bits of the bfloat16 that is nearest to a positive number, of two the one that ends in 0."""
    bits = np.arange(0x7F80, dtype=np.uint32)
    values = (bits << np.uint32(16)).view(np.float32)
    low = int(np.searchsorted(values, float(exact), side="right")) - 1
    while Fraction(float(values[low])) > exact:
        low -= 1
    down = exact - Fraction(float(values[low]))
    up = Fraction(2) ** 128 - exact if low + 1 == len(bits) else Fraction(float(values[low + 1])) - exact
    return low if down < up or (down == up and low % 2 == 0) else low + 1


# Sums that are ties of bfloat16, or are not because of what float32 has no digits for.
HALFWAY = [
    (1.0, 1.0, 2.0**-8),  # a tie, to even
    (1.0, 1.0, 2.0**-8 + 2.0**-15),
    (1.0078125, 1.0, 2.0**-8),
    (2.0**-4, 2.0**-4, 1.0),
    (2.0**-4, 2.0**-4 + 2.0**-11, 1.0),
    (2.0**-30, 2.0**-30, 1.0 + 2.0**-7),  # far below float32's last place
    (-(2.0**-30), 2.0**-30, 1.0 + 2.0**-7),
    (255.0, 255.0, 2.0**-40),  # float32 drops c, and bfloat16 would then see a tie that there is not
    (1.0 + 2.0**-7, 1.0 + 2.0**-1, 2.0**-60),
    (1.0 + 2.0**-7, 1.0 + 2.0**-1, -(2.0**-60)),
    (2.0**-70, 2.0**-70, 2.0**-133),  # below the smallest normal number
    (2.0**-63, 2.0**-71, 2.0**-133),
    (2.0**64, 1.9921875 * 2.0**63, 2.0**118),
    (2.0**64, 1.9921875 * 2.0**63, 2.0**119),  # to infinity
]


def _bits(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).to(torch.bfloat16).view(torch.int16)


@pytest.mark.parametrize("kind", ["bf16", "bf16x2"])
def test_a_product_and_sum_of_bfloat16_is_rounded_once(kind: str) -> None:
    """What the exact sum rounds to, in both halves of a register."""
    torch.manual_seed(0)
    random = [torch.randn(18, dtype=torch.float64).abs().tolist() for _ in range(3)]
    rows = [*HALFWAY, *zip(*random, strict=True)]
    given = [_bits(list(column)) for column in zip(*rows, strict=True)]
    a, b, c = ([Fraction(float(v)) for v in x.view(torch.bfloat16).double()] for x in given)
    truth = [bfloat16_of(x * y + z) for x, y, z in zip(a, b, c, strict=True)]
    if kind == "bf16":
        tensors, move, registers = torch.stack(given), "b16", "%h"
    else:  # the high half has the rows the other way round
        both = [torch.stack((x, x.flip(0)), 1).contiguous().view(torch.int32)[:, 0] for x in given]
        tensors, move, registers = torch.stack(both), "b32", "%r1"
        truth = [low | high << 16 for low, high in zip(truth, truth[::-1], strict=True)]
    size = tensors.element_size()
    out = torch.zeros(32, dtype=tensors.dtype)
    loads = "".join(f"ld.global.{move} {registers}{i}, [%rd3+{32 * size * i}];\n" for i in range(3))
    run(
        f"""
        mul.wide.u32 %rd4, %r1, {size};
        add.s64 %rd3, %rd1, %rd4;
        add.s64 %rd2, %rd2, %rd4;
        {loads}
        fma.rn.{kind} {registers}3, {registers}0, {registers}1, {registers}2;
        st.global.{move} [%rd2], {registers}3;
        """,
        tensors.contiguous(),
        out,
    )
    unsigned = (1 << 8 * size) - 1
    assert [hex(x & unsigned) for x in out.tolist()] == [hex(x) for x in truth]


def test_a_product_and_sum_of_bfloat16_passes_on_what_is_no_number() -> None:
    given = _bits([float("inf"), float("nan"), 1.0, float("inf")] + 28 * [0.0])
    out = torch.zeros(32, dtype=torch.int16)
    run(
        """
        mul.wide.u32 %rd4, %r1, 2;
        add.s64 %rd1, %rd1, %rd4;
        add.s64 %rd2, %rd2, %rd4;
        ld.global.b16 %h1, [%rd1];
        fma.rn.bf16 %h2, %h1, %h1, 0xFF80;
        st.global.b16 [%rd2], %h2;
        """,
        given,
        out,
    )
    assert [hex(x & 0xFFFF) for x in out[:5].tolist()] == ["0x7fff", "0x7fff", "0xff80", "0x7fff", "0xff80"]


# Rows of A, and its columns.
F64_SHAPES = [(8, 4), (16, 4), (16, 8), (16, 16)]


@pytest.mark.parametrize(("rows", "k"), F64_SHAPES, ids=[f"m{m}n8k{k}" for m, k in F64_SHAPES])
def test_products_of_float64_matrices(rows: int, k: int) -> None:
    """Each lane's elements are those that the manual's formulas name; every one differs from every other."""
    torch.manual_seed(0)
    a, b, c = (torch.randint(-99, 99, shape).double() for shape in ((rows, k), (k, 8), (rows, 8)))
    halves = rows // 8
    held = torch.zeros(3, 32, 8, dtype=torch.float64)
    for lane in range(32):
        group, inside = divmod(lane, 4)
        for i in range(halves * k // 4):
            held[0, lane, i] = a[group + 8 * (i % halves), inside + 4 * (i // halves)]
        for i in range(k // 4):
            held[1, lane, i] = b[inside + 4 * i, group]
        for i in range(2 * halves):
            held[2, lane, i] = c[group + 8 * (i // 2), 2 * inside + i % 2]

    def loads(part: int, count: int) -> str:
        at = 32 * 8 * 8 * part
        return "".join(f"ld.global.b64 %rd{10 * part + 10 + i}, [%rd1+{at + 8 * i}];\n" for i in range(count))

    def names(part: int, count: int) -> str:
        return "{" + ", ".join(f"%rd{10 * part + 10 + i}" for i in range(count)) + "}"

    in_a, in_b, in_d = halves * k // 4, k // 4, 2 * halves
    out = torch.zeros(32, 8, dtype=torch.float64)
    run(
        f"""
        .reg .b64 %rd<50>;
        mul.wide.u32 %rd4, %r1, 64;
        add.s64 %rd1, %rd1, %rd4;
        add.s64 %rd2, %rd2, %rd4;
        {loads(0, in_a)}{loads(1, in_b)}{loads(2, in_d)}
        mma.sync.aligned.m{rows}n8k{k}.row.col.f64.f64.f64.f64
            {names(3, in_d)}, {names(0, in_a)}, {names(1, in_b)}, {names(2, in_d)};
        """
        + "".join(f"st.global.b64 [%rd2+{8 * i}], %rd{40 + i};\n" for i in range(in_d)),
        held,
        out,
    )
    expected = a @ b + c
    for lane in range(32):
        group, inside = divmod(lane, 4)
        for i in range(in_d):
            assert out[lane, i] == expected[group + 8 * (i // 2), 2 * inside + i % 2]


def test_the_magnitude_of_a_subnormal_number_may_be_flushed() -> None:
    given = torch.tensor([-1.5, -(2.0**-130), 2.0**-126, float("-inf"), -0.0, float("nan")] + 26 * [0.0])
    out = torch.zeros(2, 32)
    run(
        """
        mul.wide.u32 %rd4, %r1, 4;
        add.s64 %rd1, %rd1, %rd4;
        add.s64 %rd2, %rd2, %rd4;
        ld.global.b32 %r2, [%rd1];
        abs.ftz.f32 %r3, %r2;
        abs.f32 %r4, %r2;
        st.global.b32 [%rd2], %r3;
        st.global.b32 [%rd2+128], %r4;
        """,
        given,
        out,
    )
    assert out[0, :5].tolist() == [1.5, 0.0, 2.0**-126, float("inf"), 0.0]
    assert out[1, :5].tolist() == [1.5, 2.0**-130, 2.0**-126, float("inf"), 0.0]
    assert out[:, 5].isnan().all()
    assert not out.signbit()[:, :5].any()


MOVES = {
    "a copy": "mov.b128 %q2, %q1;",
    "halves changed over": "mov.b128 {%rd5, %rd6}, %q1; mov.b128 %q2, {%rd6, %rd5};",
    "one half alone": "mov.b128 %q2, %q1; mov.b128 {_, %rd6}, %q1; mov.b128 %q2, {%rd6, 7};",
}


@pytest.mark.parametrize("moves", MOVES, ids=list(MOVES))
@pytest.mark.parametrize("order", ["", "relaxed.gpu."])
def test_128_bits_are_loaded_moved_and_stored(moves: str, order: str) -> None:
    given = torch.randint(-(2**62), 2**62, (32, 2))
    out = torch.zeros(32, 2, dtype=torch.int64)
    report = run(
        f"""
        mul.wide.u32 %rd4, %r1, 16;
        add.s64 %rd1, %rd1, %rd4;
        add.s64 %rd2, %rd2, %rd4;
        ld.{order}global.b128 %q1, [%rd1];
        {MOVES[moves]}
        setp.lt.u32 %p1, %r1, 20;
        @%p1 st.{order}global.b128 [%rd2], %q2;
        """,
        given,
        out,
    )
    expected = {
        "a copy": given,
        "halves changed over": given.flip(1),
        "one half alone": torch.stack((given[:, 1], torch.full((32,), 7)), 1),
    }[moves]
    assert torch.equal(out[:20], expected[:20])
    assert not out[20:].any()
    assert not report.races


_HANDED_OVER = """
mov.u32 %r2, %ctaid.x;
mul.wide.u32 %rd4, %r1, 16;
add.s64 %rd1, %rd1, %rd4;
add.s64 %rd2, %rd2, %rd4;
setp.eq.u32 %p1, %r2, 0;
@%p1 bra STORE;
AGAIN:
{load}
or.b64 %rd7, %rd5, %rd6;
setp.eq.b64 %p2, %rd7, 0;
@%p2 bra AGAIN;
st.global.b64 [%rd2], %rd5;
st.global.b64 [%rd2+8], %rd6;
bra END;
STORE:
mov.b64 %rd5, 1;
mov.b64 %rd6, 2;
{store}
END:
"""
_WHOLE = {
    "load": "ld.relaxed.gpu.global.b128 %q1, [%rd1]; mov.b128 {%rd5, %rd6}, %q1;",
    "store": "mov.b128 %q1, {%rd5, %rd6}; st.relaxed.gpu.global.b128 [%rd1], %q1;",
}
_VECTOR = {
    "load": "ld.relaxed.gpu.global.v2.b64 {%rd5, %rd6}, [%rd1];",
    "store": "st.relaxed.gpu.global.v2.b64 [%rd1], {%rd5, %rd6};",
}


def _torn(load: str, store: str) -> int:
    """In how many of some launches a program sees one half of what another stores, and not the other."""
    torn = 0
    for seed in range(12):
        out = torch.zeros(32, 2, dtype=torch.int64)
        body = _HANDED_OVER.format(load=load, store=store)
        run(body, torch.zeros(32, 2, dtype=torch.int64), out, grid=2, weak=True, order="programs", seed=seed)
        torn += not torch.equal(out, torch.tensor([[1, 2]] * 32))
    return torn


def test_128_bits_come_as_one_and_a_vector_of_as_many_does_not() -> None:
    assert _torn(**_WHOLE) == 0
    assert _torn(**_VECTOR) > 0


@pytest.mark.parametrize(
    "text",
    [
        "ld.global.v2.b128 {%q1, %q2}, [%rd1];",
        "ld.global.b128 %rd3, [%rd1];",
        "mov.b64 %rd3, %q1;",
        "mov.b128 {%rd3, %rd4}, {%rd5, %rd6};",
        "mov.b128 %q1, {_, %rd6};",
        "fma.rn.relu.bf16 %h1, %h1, %h1, %h1;",
        "bar.sync 1, 32;",
        "mbarrier.init.shared.b64 [%r1], 1;",
        "fence.mbarrier_init.release.cluster;",
        "cp.async.bulk.commit_group;",
        "tcgen05.wait.ld.sync.aligned;",
        "mapa.u64 %rd3, %rd1, 0;",
    ],
)
def test_what_no_kernel_has_is_refused_by_name(text: str) -> None:
    with pytest.raises(RefusedError, match=text.split()[0].rstrip(";").split(".")[0]):
        run(text + "\n", torch.zeros(32), torch.zeros(32))


def test_a_register_of_128_bits_that_nobody_wrote_is_named() -> None:
    from ptx_machine import FaultError

    for text in ("st.global.b128 [%rd1], %q3;", "mov.b128 {%rd5, %rd6}, %q3;", "mov.b128 %q4, %q3;"):
        with pytest.raises(FaultError, match="%q3"):
            run(text + "\n", torch.zeros(32), torch.zeros(32))


_A_LANE_POLLS = """
mov.u32 %r2, %ctaid.x;
setp.eq.u32 %p1, %r2, 0;
setp.eq.u32 %p2, %r1, 0;
and.pred %p3, %p1, %p2;
@!%p3 bra ARRIVED;
AGAIN:
ld.acquire.gpu.global.u32 %r3, [%rd1];
setp.eq.u32 %p4, %r3, 0;
@%p4 bra AGAIN;
ARRIVED:
bar.sync 0;
setp.eq.u32 %p5, %r2, 1;
and.pred %p6, %p5, %p2;
@%p6 st.release.gpu.global.u32 [%rd1], 1;
"""


@pytest.mark.parametrize("order", ["grid", "programs", "warps"])
def test_whole_warps_do_not_wait_for_a_lane_that_polls_for_them(order: str) -> None:
    """They come to the barrier in one group with lanes that do: those of the program whose first lane polls."""
    for seed in range(4):
        report = run(_A_LANE_POLLS, torch.zeros(32, dtype=torch.int32), torch.zeros(4), grid=2, order=order, seed=seed)
        assert not report.races
