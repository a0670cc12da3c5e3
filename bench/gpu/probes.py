"""Kernels that measure one constant of kernels/plan/devices.py each; `machine` launches and times them.

Every loop has an end that is given, and every wait gives up (`sync.SPIN_LIMIT`): an error, never a hung GPU.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.sync import arrive, load_exchanged, wait
from fastrnn.kernels.triton.tiles import store_exchanged


@triton.jit
def exchange_kernel(
    rows_ptr,  # (steps + 1, PROGRAMS * WIDTH), row 0 given, the others all ones
    counter_ptr,  # (1,) int32, zero
    steps,
    PROGRAMS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EXCHANGE: tl.constexpr,
):
    """A scan of nothing but its exchange: row t + 1 is one more than the mean of row t, of which all programs write."""
    offs = tl.arange(0, BLOCK)
    mask = offs < PROGRAMS * WIDTH
    nowhere = offs < 0
    own = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    everywhere = own >= 0
    for step in range(steps):
        row = rows_ptr + tl.cast(step, tl.int64) * (PROGRAMS * WIDTH)
        wait(counter_ptr, step * PROGRAMS, EXCHANGE)
        tiles = load_exchanged((row + offs,), (mask,), nowhere, 1, EXCHANGE)
        mean = tl.sum(tiles[0]) / (PROGRAMS * WIDTH)
        value = tl.zeros([WIDTH], dtype=tl.float32) + mean + 1.0
        store_exchanged(row + PROGRAMS * WIDTH + own, 0, (value,), everywhere, 1)
        arrive(counter_ptr, EXCHANGE)


@triton.jit
def read_kernel(
    source_ptr,  # (size,), or with OWN (programs, size)
    sums_ptr,  # (programs,)
    rounds,
    size,
    OWN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Read `size` elements `rounds` times, past L1: all programs the same ones, or each its own."""
    offs = tl.arange(0, BLOCK)
    program = tl.cast(tl.program_id(0), tl.int64)
    source_ptr += program * size * OWN
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for _ in range(rounds):
        for start in range(0, size, BLOCK):
            total += tl.load(source_ptr + start + offs, mask=start + offs < size, other=0.0, cache_modifier=".cg")
    tl.store(sums_ptr + program, tl.sum(total))


@triton.jit
def product_kernel(
    left_ptr,  # (SPLIT, ROWS, DEPTH)
    right_ptr,  # (SPLIT, DEPTH, COLUMNS)
    out_ptr,  # (programs, SPLIT, ROWS, COLUMNS)
    steps,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT: tl.constexpr,
    HALVE: tl.constexpr,
):
    """The sum of `steps` products by mma.sync, both operands from shared memory and one part of the depth for each of
    SPLIT warps, as in a scan. With HALVE each takes half the left matrix of before, which is stored anew for it."""
    part = tl.arange(0, SPLIT)[:, None, None]
    rows, depth = tl.arange(0, ROWS)[None, :, None], tl.arange(0, DEPTH)
    columns = tl.arange(0, COLUMNS)[None, None, :]
    left = tl.load(left_ptr + (part * ROWS + rows) * DEPTH + depth[None, None, :])
    right = tl.load(right_ptr + (part * DEPTH + depth[None, :, None]) * COLUMNS + columns)
    total = tl.zeros([SPLIT, ROWS, COLUMNS], dtype=tl.float32)
    for _ in range(steps):
        total = tl.dot(left, right, total)
        if HALVE:
            left = left * 0.5
    out = out_ptr + tl.cast(tl.program_id(0), tl.int64) * SPLIT * ROWS * COLUMNS
    tl.store(out + (part * ROWS + rows) * COLUMNS + columns, total)


@triton.jit
def empty_kernel(value_ptr):
    """As little as a launch can do."""
    tl.store(value_ptr, 1)
