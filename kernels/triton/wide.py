"""What the kernels for many rows are made of: tiles of a whole tensor core's rows, all gates in one product.

A program's gates lie side by side in SLOTS columns of BLOCK_H units, the power of two from their number on, so that one
product has all of them; split afterwards, a thread has all gates of its units. Addresses are a scalar of 64 bits, to
the tile's first row, and 32 bits inside the tile: as one tensor of 64 bits they would be kept over the time loop, two
registers for every row and column of a thread.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.tiles import only_if


@triton.jit
def fetch_ahead(rows, first, COUNT: tl.constexpr, STRIDE: tl.constexpr):
    """Ask for COUNT tiles that a later step reads, so that they wait in L2 and not in memory.

    `rows`: `[M, 1]` pointers, all of which there are; `first`: this program's first unit. The cache line with that unit
    is asked for, in which most of a tile's other units are, or all.
    """
    SLOTS: tl.constexpr = triton.next_power_of_2(COUNT)
    slot = tl.minimum(tl.arange(0, SLOTS), COUNT - 1)
    # The operand only exists because an asm block must have one.
    tl.inline_asm_elementwise(
        "{ prefetch.global.L2 [$1]; mov.b32 $0, 0; }", "=r,l", [rows + (slot * STRIDE + first)[None, :]],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def columns(first, H: tl.constexpr, BLOCK_H: tl.constexpr, SLOTS: tl.constexpr, STRIDE: tl.constexpr):
    """[SLOTS * BLOCK_H]: each column's slot, where it lies if gates are STRIDE elements apart, and its unit."""
    n = tl.arange(0, SLOTS * BLOCK_H)
    unit = first + n % BLOCK_H
    return n // BLOCK_H, n // BLOCK_H * STRIDE + unit, unit


@triton.jit
def split_slots(tile, SLOTS: tl.constexpr, BLOCK_H: tl.constexpr):
    """[M, SLOTS * BLOCK_H], slot by slot, as SLOTS tiles."""
    M: tl.constexpr = tile.shape[0]
    if SLOTS == 1:
        return (tile,)
    elif SLOTS == 2:
        return tl.split(tile.reshape([M, 2, BLOCK_H]).permute(0, 2, 1))
    elif SLOTS == 4:
        even, odd = tl.split(tile.reshape([M, 2, 2, BLOCK_H]).permute(0, 3, 1, 2))
        s0, s2 = tl.split(even)
        s1, s3 = tl.split(odd)
        return s0, s1, s2, s3
    else:
        HALF: tl.constexpr = SLOTS // 2
        low, high = tl.split(tile.reshape([M, 2, HALF * BLOCK_H]).permute(0, 2, 1))
        return split_slots(low, HALF, BLOCK_H) + split_slots(high, HALF, BLOCK_H)


@triton.jit
def chunk_mask(k, mask, K: tl.constexpr, WIDTH: tl.constexpr):
    """`mask`, and of the contraction's places those within K; broadcastable to each other."""
    if WIDTH == K:
        return mask & (k >= 0)
    else:
        return mask & (k < K)


@triton.jit
def load_wide(
    ptr, right, right_mask, K: tl.constexpr, STRIDE: tl.constexpr, RESIDENT: tl.constexpr, BLOCK_K: tl.constexpr
):
    """The right operand's chunks [BLOCK_K, N], to be held over the time loop; () where they are streamed.

    `right` are the columns' places `[1, N]`, from which the K rows go on by STRIDE.
    """
    NUM_K: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    tiles = ()
    if RESIDENT:
        for j in tl.static_range(NUM_K):
            k = (j * BLOCK_K + tl.arange(0, BLOCK_K))[:, None]
            mask = chunk_mask(k, right_mask, K, NUM_K * BLOCK_K)
            tiles = tiles + (tl.load(ptr + (right + k * STRIDE), mask=mask, other=0.0),)
    return tiles


@triton.jit
def load_left(rows, mask_m, j, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """The left operand's chunk j, [M, BLOCK_K]."""
    k = (j * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    mask = chunk_mask(k, mask_m, K, (K + BLOCK_K - 1) // BLOCK_K * BLOCK_K)
    return tl.load(rows + k, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def contract_wide(
    rows,  # [M, 1] pointers to the left operand's rows
    mask_m,  # [M, 1]
    weights,  # `load_wide`
    ptr,
    right,
    right_mask,
    acc,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """`acc` plus the product over all of K."""
    NUM_K: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    if RESIDENT:
        ahead = load_left(rows, mask_m, 0, K, BLOCK_K)
        for j in tl.static_range(NUM_K):
            left = ahead
            if j + 1 < NUM_K:  # it comes while this one is multiplied
                ahead = load_left(rows, mask_m, j + 1, K, BLOCK_K)
            acc = tl.dot(left.to(OPERAND), weights[j].to(OPERAND), acc, input_precision=PRECISION, out_dtype=acc.dtype)
    else:
        for j in tl.range(NUM_K, num_stages=STAGES):
            k = j * BLOCK_K + tl.arange(0, BLOCK_K)
            left = load_left(rows, mask_m, j, K, BLOCK_K).to(OPERAND)
            mask = chunk_mask(k[:, None], right_mask, K, NUM_K * BLOCK_K)
            part = tl.load(ptr + (right + k[:, None] * STRIDE), mask=mask, other=0.0).to(OPERAND)
            acc = tl.dot(left, part, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc


@triton.jit
def load_sent(
    ptr, units, mask_h, H: tl.constexpr, GATES: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The right operands [BLOCK_H, BLOCK_K] of what a program sends, its rows of R, chunk by chunk and gate by gate."""
    tiles = ()
    if RESIDENT:
        for j in tl.static_range((H + BLOCK_K - 1) // BLOCK_K):
            k = j * BLOCK_K + tl.arange(0, BLOCK_K)
            for g in tl.static_range(GATES):
                place = g * (H * H) + units[:, None] * H + k[None, :]
                tiles = tiles + (tl.load(ptr + place, mask=mask_h[:, None] & (k < H)[None, :], other=0.0),)
    return tiles


@triton.jit
def send_parts(
    to,  # [M, 1] pointers to the rows of this program's part, NUM_K * BLOCK_K wide
    tiles,  # the gates' gradients
    weights,  # `load_sent`
    ptr,
    units,
    mask_h,
    H: tl.constexpr,
    GATES: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
):
    """This program's part of dh, of all units: its gates' gradients by its rows of R. Zero past H."""
    NUM_K: tl.constexpr = (H + BLOCK_K - 1) // BLOCK_K
    if RESIDENT:
        for j in tl.static_range(NUM_K):
            total = tl.zeros([tiles[0].shape[0], BLOCK_K], dtype=ACC)
            for g in tl.static_range(GATES):
                right = weights[j * GATES + g].to(OPERAND)
                total = tl.dot(tiles[g].to(OPERAND), right, total, input_precision=PRECISION, out_dtype=ACC)
            tl.store(to + (j * BLOCK_K + tl.arange(0, BLOCK_K))[None, :], total.to(to.dtype.element_ty))
    else:
        for j in tl.range(NUM_K, num_stages=STAGES):
            k = j * BLOCK_K + tl.arange(0, BLOCK_K)
            total = tl.zeros([tiles[0].shape[0], BLOCK_K], dtype=ACC)
            for g in tl.static_range(GATES):
                place = g * (H * H) + units[:, None] * H + k[None, :]
                right = tl.load(ptr + place, mask=mask_h[:, None] & (k < H)[None, :], other=0.0).to(OPERAND)
                total = tl.dot(tiles[g].to(OPERAND), right, total, input_precision=PRECISION, out_dtype=ACC)
            tl.store(to + k[None, :], total.to(to.dtype.element_ty))


@triton.jit
def sum_parts(rows, mask, acc, PROGRAMS: tl.constexpr, PART: tl.constexpr):
    """`acc` plus the parts of all programs, `PART` elements apart, in their order: the same bits every time.

    As many are on their way at a time as there are registers for.
    """
    UNITS: tl.constexpr = acc.shape[1]
    AT_ONCE: tl.constexpr = 4096 // (UNITS * rows.dtype.element_ty.primitive_bitwidth)
    if PROGRAMS <= AT_ONCE:
        for q in tl.static_range(PROGRAMS):
            acc += tl.load(rows + q * PART, mask=mask, other=0.0, cache_modifier=".cg").to(acc.dtype)
    else:
        for q in range(0, PROGRAMS, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                there = only_if(q + i < PROGRAMS, mask)
                acc += tl.load(rows + (q + i) * PART, mask=there, other=0.0, cache_modifier=".cg").to(acc.dtype)
    return acc
