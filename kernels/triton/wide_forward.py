"""The forward scan for many rows: `forward.py`'s, where a step is work and no wait.

One program owns BLOCK_H hidden units, all gates of them, of BLOCK_B rows, 64 or 128, of one of P groups. x is the first
value of the accumulator, so that it takes no registers of its own; only of a gate whose two parts do more than add
(SPLIT_GATES) is it kept apart. Grid, steps, flags and memory layout are those of `forward.py`, but for h0, which has
the layout of a step.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.rows import (
    active_steps,
    either_row,
    fill_idle,
    first_time,
    load_cut,
    row_pointers,
    state_pointers,
    tile_pointer,
)
from fastrnn.kernels.triton.sync import COUNTER_STRIDE, arrive, wait
from fastrnn.kernels.triton.tiles import keep, load_tiles, select, step_given, store_tiles
from fastrnn.kernels.triton.wide import columns, contract_wide, fetch_ahead, load_wide, split_slots


@triton.jit
def _input_parts(ptr, at, mask, H: tl.constexpr, GATES: tl.constexpr, SPLIT_GATES: tl.constexpr, ACC: tl.constexpr):
    """The gates' input parts as FWD takes them: of a gate whose part the accumulator has, -0, which adds nothing."""
    tiles = ()
    for g in tl.static_range(GATES):
        if SPLIT_GATES >> g & 1:
            tiles = tiles + (tl.load(ptr + (at + g * H), mask=mask, other=0.0).to(ACC),)
        else:
            tiles = tiles + (tl.full(mask.shape, -0.0, dtype=ACC),)
    return tiles


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def wide_fwd_kernel(
    x_ptr,  # (T, B, P, GATES, H)
    weight_ptr,  # (P, GATES, H, H)
    bias_ptr,  # (P, GATES, H), or unused
    h0_ptr,  # (B, P, H): the initial h
    lengths_ptr,  # (B,) int32, or unused
    resets_ptr,  # (T, B) int8: 1 where a sequence starts; or unused
    vectors_ptr,  # (P, VECTORS, H), or unused
    constants_ptr,  # (T, B, CONSTANTS), or unused
    start_ptr,  # (H,): h where a sequence starts, or unused
    carry_in_ptr,  # (STATES, P, B, H): the state before step0
    carry_out_ptr,  # (STATES, P, B, H): the state after the last step
    h_ptr,  # (T, B, P, H): the output, and what the programs exchange
    inner_ptr,  # (T, B, P, H): what the inner gate multiplies, exchanged too; or unused
    outer_ptr,  # (GATES - INNER, P, B, H): r of the outer gates between the two phases of a step, or unused
    cells_ptr,  # (T, B, P, STATES - 1, H): the states other than h, or unused
    saved_ptr,  # (T, B, P, SAVED, H): what backward needs, or unused
    counter_ptr,  # (batch tiles * P * COUNTER_STRIDE,) int32 zeros for the barrier, or unused
    T,
    B,
    step0,
    step1,
    batch0,  # the first row of this launch
    H: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    FWD: tl.constexpr,
    INNER_FWD: tl.constexpr,
    START: tl.constexpr,
    GATES: tl.constexpr,
    SPLIT_GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    INNER: tl.constexpr,
    VECTORS: tl.constexpr,
    CONSTANTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    HAS_START: tl.constexpr,
    STORE_CELLS: tl.constexpr,
    STORE_SAVED: tl.constexpr,
    PHASE: tl.constexpr,
    RESIDENT: tl.constexpr,
    EXCHANGE: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    FAST: tl.constexpr,
    AHEAD: tl.constexpr,
):
    OUTER: tl.constexpr = GATES - INNER
    P: tl.constexpr = D * HEADS
    # Rows that come from their initial state, or from a start that is not zero, lie elsewhere than their neighbours.
    SCATTERED: tl.constexpr = (HAS_LENGTHS and D == 2) or (HAS_RESETS and HAS_START)
    dtype = h_ptr.dtype.element_ty
    p = tl.program_id(2)
    d = p // HEADS
    row0 = (batch0 + tl.program_id(1) * BLOCK_B).to(tl.int64)
    line = tl.arange(0, BLOCK_B)
    offs_b = row0 + line
    at = line[:, None].to(tl.uint32)
    there = tl.minimum(line, B - 1 - row0.to(tl.int32))[:, None].to(tl.uint32)  # rows that there are
    first_unit = tl.program_id(0) * BLOCK_H
    units = first_unit + tl.arange(0, BLOCK_H)
    mask_b = offs_b < B
    mask_h = units < H
    mask = mask_b[:, None] & mask_h[None, :]
    counter_ptr += (tl.program_id(1) * P + p) * COUNTER_STRIDE
    state_stride = tl.cast(B, tl.int64) * (P * H)
    own = at * (P * H) + units[None, :]

    weight_ptr += tl.cast(p, tl.int64) * (GATES * H * H)
    slot, place, unit = columns(first_unit, H, BLOCK_H, SLOTS, H)
    wide_mask = ((slot < OUTER) & (unit < H))[None, :]
    added = (SPLIT_GATES >> slot & 1) == 0
    right = (slot * (H * H) + unit * H)[None, :]
    weights = load_wide(weight_ptr, right, wide_mask, H, 1, RESIDENT, BLOCK_K)
    inner_right = (OUTER * (H * H) + units * H)[None, :]
    inner_weights = ()
    if INNER:
        inner_weights = load_wide(weight_ptr, inner_right, mask_h[None, :], H, 1, RESIDENT, BLOCK_K)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + p * (GATES * H) + place, mask=(slot < OUTER) & (unit < H), other=0.0).to(ACC)
        inner_bias = load_tiles(bias_ptr + p * (GATES * H) + OUTER * H + units, H, mask_h, INNER, ACC)
    vectors = load_tiles(vectors_ptr + p * (VECTORS * H) + units, H, mask_h, VECTORS, ACC)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)

    carry = state_pointers(carry_in_ptr, offs_b, p, B, H)[:, None] + units[None, :]
    state = load_tiles(carry, state_stride, mask, STATES, ACC)
    for step in range(begin, end):
        t = tl.where(d == 0, step, T - 1 - step)
        t_prev = t - 1 + 2 * d
        x_tile = tile_pointer(x_ptr, t, row0, p, B, P, GATES * H)
        x_at = at * (P * GATES * H)
        x = _input_parts(x_tile, x_at + units[None, :], mask, H, GATES, SPLIT_GATES, ACC)
        if AHEAD:
            t_next = tl.minimum(tl.maximum(t + 1 - 2 * d, 0), T - 1)
            next_tile = tile_pointer(x_ptr, t_next, row0, p, B, P, GATES * H)
            fetch_ahead(next_tile + there * (P * GATES * H), first_unit, GATES, H)
        needed = mask_b & (t < length)
        if HAS_RESETS:
            cut = load_cut(resets_ptr, t, offs_b, mask_b, length, d, B)
            state = select(cut[:, None], START(tl.zeros([BLOCK_B, BLOCK_H], dtype=ACC)), state, STATES)
            if not HAS_START:
                needed = needed & ~cut
        given = step_given(vectors, constants_ptr, t, offs_b, mask_b & (t < length), B, VECTORS, CONSTANTS, ACC)
        arrivals = (step - begin) * (1 + INNER) * tl.num_programs(0)

        if PHASE == "inner":
            outer_rows = state_pointers(outer_ptr, offs_b, p, B, H)[:, None] + units[None, :]
            r = load_tiles(outer_rows, state_stride, mask, OUTER, ACC)
        else:
            acc = tl.load(
                x_tile + (x_at + place[None, :]), mask=mask_b[:, None] & wide_mask & added[None, :], other=0.0
            ).to(ACC)
            if HAS_BIAS:
                acc += bias[None, :]
            if SCATTERED:
                rows = either_row(
                    first == t, h0_ptr + (offs_b * P + p) * H, row_pointers(h_ptr, t_prev, offs_b, p, B, P, H), H
                )
                if HAS_RESETS and HAS_START:
                    rows = either_row(cut, start_ptr + 0 * offs_b, rows, H)
                rows = rows[:, None]
            else:
                tile = tile_pointer(h_ptr, t_prev, row0, p, B, P, H)
                if step == 0:
                    tile = h0_ptr + (row0 * P + p) * H
                rows = tile + at * (P * H)
            wait(counter_ptr, arrivals, EXCHANGE)
            acc = contract_wide(
                rows, needed[:, None], weights, weight_ptr, right, wide_mask, acc,
                H, 1, RESIDENT, BLOCK_K, STAGES, PRECISION, OPERAND,
            )  # fmt: skip
            r = split_slots(acc, SLOTS, BLOCK_H)[:OUTER]
        if INNER:
            operand = INNER_FWD(x, r, state, given, FAST)
            inner_tile = tile_pointer(inner_ptr, t, row0, p, B, P, H)
            if PHASE != "inner":
                tl.store(inner_tile + own, operand.to(dtype), mask=mask)
                arrive(counter_ptr, EXCHANGE)
            if PHASE != "outer":
                inner_acc = tl.zeros([BLOCK_B, BLOCK_H], dtype=ACC)
                if not SPLIT_GATES >> OUTER & 1:
                    inner_acc = tl.load(x_tile + (x_at + OUTER * H + units[None, :]), mask=mask, other=0.0).to(ACC)
                if HAS_BIAS:
                    inner_acc += inner_bias[0][None, :]
                wait(counter_ptr, arrivals + tl.num_programs(0), EXCHANGE)
                inner_acc = contract_wide(
                    inner_tile + at * (P * H), (mask_b & (t < length))[:, None], inner_weights, weight_ptr, inner_right,
                    mask_h[None, :], inner_acc, H, 1, RESIDENT, BLOCK_K, STAGES, PRECISION, OPERAND,
                )  # fmt: skip
                r = r + (inner_acc,)

        if PHASE == "outer":
            outer_rows = state_pointers(outer_ptr, offs_b, p, B, H)[:, None] + units[None, :]
            store_tiles(outer_rows, state_stride, r, mask, OUTER)
        else:
            new, saved = FWD(x, r, state, given, FAST)
            if HAS_LENGTHS:
                active = (t < length)[:, None]
                shown = keep(active, new, STATES)
                saved = keep(active, saved, SAVED)
                state = select(active, new, state, STATES)
            else:
                shown = new
                state = new
            tl.store(tile_pointer(h_ptr, t, row0, p, B, P, H) + own, shown[0].to(dtype), mask=mask)
            if step + 1 < end:
                arrive(counter_ptr, EXCHANGE)
            if STORE_CELLS:
                tile = tile_pointer(cells_ptr, t, row0, p, B, P, (STATES - 1) * H)
                store_tiles(tile + (at * (P * (STATES - 1) * H) + units[None, :]), H, shown[1:], mask, STATES - 1)
            if STORE_SAVED:
                tile = tile_pointer(saved_ptr, t, row0, p, B, P, SAVED * H)
                store_tiles(tile + (at * (P * SAVED * H) + units[None, :]), H, saved, mask, SAVED)
    if PHASE != "outer":
        carry = state_pointers(carry_out_ptr, offs_b, p, B, H)[:, None] + units[None, :]
        store_tiles(carry, state_stride, state, mask, STATES)
        if HAS_LENGTHS:
            fill_idle(h_ptr, 1, begin, end, step0, step1, offs_b, units, mask, p, T, B, H, P, HEADS)
            if STORE_CELLS:
                fill_idle(cells_ptr, STATES - 1, begin, end, step0, step1, offs_b, units, mask, p, T, B, H, P, HEADS)
            if STORE_SAVED:
                fill_idle(saved_ptr, SAVED, begin, end, step0, step1, offs_b, units, mask, p, T, B, H, P, HEADS)
