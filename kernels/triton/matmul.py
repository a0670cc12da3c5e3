"""The recurrent matmul of one program: its slice of R, held or streamed, against what the programs of its tile wrote.

* RESIDENT: the program's slice of R is loaded before the time loop, from where the compiler keeps it in shared memory.
  Else it is read again, chunk by chunk, each step.
* SPLIT > 1: the contraction is split over the warps, as a batched dot `[SPLIT, M, K / SPLIT] @ [SPLIT, K / SPLIT, N]`
  summed over SPLIT. With the few rows and columns of one program a plain dot would make every warp repeat all of it.
* K is walked in NUM_K chunks of BLOCK_K; where RESIDENT, the left operands of GROUP chunks are fetched together.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.sync import load_exchanged
from fastrnn.kernels.triton.tiles import PACK, zeros


@triton.jit
def k_offsets(chunk, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr):
    """Positions of one chunk along K: [BLOCK_K], or [SPLIT, BLOCK_K / SPLIT], one run per warp."""
    if SPLIT == 1:
        return chunk * BLOCK_K + tl.arange(0, BLOCK_K)
    else:
        part: tl.constexpr = BLOCK_K // SPLIT
        return chunk * BLOCK_K + tl.arange(0, SPLIT)[:, None] * part + tl.arange(0, part)[None, :]


@triton.jit
def along_m(v, SPLIT: tl.constexpr):
    """A vector over M, shaped to broadcast against the left operand [(SPLIT,) M, K]."""
    if SPLIT == 1:
        return v[:, None]
    else:
        return v[None, :, None]


@triton.jit
def load_weights(ptr, offs_k, offs_n, stride_k, stride_n, H: tl.constexpr, GATES: tl.constexpr, SPLIT: tl.constexpr):
    """One chunk's right operands, one [(SPLIT,) K, N] per gate; zero past H."""
    if SPLIT == 1:
        k = offs_k[:, None]
        n = offs_n[None, :]
    else:
        k = offs_k[:, :, None]
        n = offs_n[None, None, :]
    tiles = ()
    for g in tl.static_range(GATES):
        tiles = tiles + (tl.load(ptr + g * H * H + k * stride_k + n * stride_n, mask=(k < H) & (n < H), other=0.0),)
    return tiles


@triton.jit
def load_left(
    rows, stride, chunk, mask_m, written, H: tl.constexpr, LEFT: tl.constexpr, EXCHANGE: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """The left operands [(SPLIT,) M, K] of GROUP chunks from `chunk` on, LEFT to a chunk, `stride` elements apart, once
    the other programs have written them."""
    ptrs = ()
    masks = ()
    for c in tl.static_range(GROUP):
        offs_k = k_offsets(chunk + c, BLOCK_K, SPLIT)
        if SPLIT == 1:
            k = offs_k[None, :]
        else:
            k = offs_k[:, None, :]
        for i in tl.static_range(LEFT):
            ptrs = ptrs + (along_m(rows, SPLIT) + i * stride + k,)
            masks = masks + (along_m(mask_m, SPLIT) & (k < H),)
    return load_exchanged(ptrs, masks, along_m(written, SPLIT), GROUP * LEFT, EXCHANGE)


@triton.jit
def multiply(
    left,
    weights,
    acc,
    GATES: tl.constexpr,
    LEFT: tl.constexpr,
    OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """`acc[g] += left[g] @ weights[g]` for every gate; a single `left` or `acc` serves all of them."""
    for g in tl.static_range(GATES):
        total = acc[g % OUT]
        a = left[g % LEFT].to(OPERAND)
        b = weights[g].to(OPERAND)
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)
        acc = acc[: g % OUT] + (total,) + acc[g % OUT + 1 :]
    return acc


@triton.jit
def add_1(a0, b0):
    return a0 + b0


@triton.jit
def add_2(a0, a1, b0, b1):
    return a0 + b0, a1 + b1


@triton.jit
def add_3(a0, a1, a2, b0, b1, b2):
    return a0 + b0, a1 + b1, a2 + b2


@triton.jit
def add_4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def _sum_group(acc, COUNT: tl.constexpr):
    if COUNT == 1:
        return (tl.sum(acc[0], axis=0),)
    elif COUNT == 2:
        return tl.reduce((acc[0], acc[1]), 0, add_2)
    elif COUNT == 3:
        return tl.reduce((acc[0], acc[1], acc[2]), 0, add_3)
    else:
        return tl.reduce((acc[0], acc[1], acc[2], acc[3]), 0, add_4)


@triton.jit
def sum_splits(acc, COUNT: tl.constexpr):
    """Four at a time, and a rest: those of a group share their trips through shared memory."""
    sums = ()
    for first in tl.static_range(0, COUNT, PACK):
        sums = sums + _sum_group(acc[first:], COUNT - first)
    return sums


@triton.jit
def contract(
    rows,  # [M] pointers to the left operand's rows
    stride,  # elements between the left operands of two gates
    mask_m,
    written,  # [M]: rows that were complete before this launch
    weights,  # the resident right operands of all GATES, chunk-major, or ()
    weight_ptr,  # to the first of them
    offs_n,
    stride_k,
    stride_n,
    H: tl.constexpr,
    GATES: tl.constexpr,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    LEFT: tl.constexpr,
    OUT: tl.constexpr,
    RESIDENT: tl.constexpr,
    EXCHANGE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_K: tl.constexpr,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
):
    """COUNT gates' products, from FIRST on, over all of K: OUT tiles [M, N], one for each gate or one for their sum."""
    if SPLIT == 1:
        acc = zeros([M, N], OUT, ACC)
    else:
        acc = zeros([SPLIT, M, N], OUT, ACC)
    if RESIDENT:
        for group in tl.static_range(0, NUM_K, GROUP):
            left = load_left(rows, stride, group, mask_m, written, H, LEFT, EXCHANGE, BLOCK_K, GROUP, SPLIT)
            for c in tl.static_range(GROUP):
                right = weights[(group + c) * GATES + FIRST : (group + c) * GATES + FIRST + COUNT]
                acc = multiply(left[c * LEFT : (c + 1) * LEFT], right, acc, COUNT, LEFT, OUT, PRECISION, OPERAND)
    else:
        for chunk in range(NUM_K):
            offs_k = k_offsets(chunk, BLOCK_K, SPLIT)
            right = load_weights(weight_ptr + FIRST * H * H, offs_k, offs_n, stride_k, stride_n, H, COUNT, SPLIT)
            left = load_left(rows, stride, chunk, mask_m, written, H, LEFT, EXCHANGE, BLOCK_K, 1, SPLIT)
            acc = multiply(left, right, acc, COUNT, LEFT, OUT, PRECISION, OPERAND)
    if SPLIT == 1:
        return acc
    else:
        return sum_splits(acc, OUT)


@triton.jit
def load_resident(
    ptr,
    offs_n,
    stride_k,
    stride_n,
    H: tl.constexpr,
    GATES: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_K: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The right operands of all chunks, to be held over the whole time loop; () where they are streamed."""
    tiles = ()
    if RESIDENT:
        for chunk in tl.static_range(NUM_K):
            offs_k = k_offsets(chunk, BLOCK_K, SPLIT)
            tiles = tiles + load_weights(ptr, offs_k, offs_n, stride_k, stride_n, H, GATES, SPLIT)
    return tiles
