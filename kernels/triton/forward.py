"""The forward scan over time, for every cell, dtype, tier and schedule.

For t in processing order (time order for direction 0, reversed for direction 1), with R the recurrent weights:

    r_t = R h_{t-1} + b;    state_t, saved_t = FWD(x_t, r_t, state_{t-1}, ...)

One program owns BLOCK_H hidden units, all gates of them, of BLOCK_B batch rows of one of P groups, the heads of the D
directions: grid (ceil(H / BLOCK_H), batch tiles, P). `step0 <= step < step1` are positions in processing order, so the
same body serves one launch for the whole sequence (persistent) and one launch per step (stepwise). Other flags are in
`constants.py`.

Memory layout: time first, then batch, group, gate or state, unit. Addresses are 64-bit: T * B * P * GATES * H
passes 2^31 in real use.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.matmul import contract, load_resident, multiply
from fastrnn.kernels.triton.rows import (
    active_steps,
    either_row,
    fill_idle,
    first_time,
    load_cut,
    row_pointers,
    state_pointers,
)
from fastrnn.kernels.triton.sync import COUNTER_STRIDE, arrive, wait
from fastrnn.kernels.triton.tiles import (
    add_bias,
    keep,
    load_packed,
    load_tiles,
    only_if,
    select,
    step_given,
    store_exchanged,
    store_packed,
    store_tiles,
    unpack,
    within,
    zeros,
)


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def scan_fwd_kernel(
    x_ptr,  # (T, B, P, GATES, H)
    weight_ptr,  # (P, GATES, H, H); DIAGONAL: (P, GATES, H)
    bias_ptr,  # (P, GATES, H), or unused
    h0_ptr,  # (P, B, H): the initial h
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
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    INNER: tl.constexpr,
    RESTS: tl.constexpr,
    VECTORS: tl.constexpr,
    CONSTANTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    HAS_START: tl.constexpr,
    STORE_CELLS: tl.constexpr,
    STORE_SAVED: tl.constexpr,
    PHASE: tl.constexpr,
    SOLO: tl.constexpr,
    DIAGONAL: tl.constexpr,
    RESIDENT: tl.constexpr,
    EXCHANGE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_K: tl.constexpr,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    FAST: tl.constexpr,
):
    OUTER: tl.constexpr = GATES - INNER
    P: tl.constexpr = D * HEADS
    p = tl.program_id(2)
    d = p // HEADS
    offs_b = batch0 + tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_h = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_b = offs_b < B
    mask_h = offs_h < H
    mask = mask_b[:, None] & mask_h[None, :]
    counter_ptr += (tl.program_id(1) * P + p) * COUNTER_STRIDE
    state_stride = tl.cast(B, tl.int64) * (P * H)

    # Gate g of unit n, for input k, is at weight_ptr + g * H * H + n * H + k.
    weight_ptr += tl.cast(p, tl.int64) * (GATES * H * (1 if DIAGONAL else H))
    weights = load_resident(weight_ptr, offs_h, 1, H, H, GATES, RESIDENT, BLOCK_K, NUM_K, SPLIT, DIAGONAL)
    bias = ()
    if HAS_BIAS:
        bias = load_tiles(bias_ptr + p * (GATES * H) + offs_h, H, mask_h, GATES, ACC)
    vectors = load_tiles(vectors_ptr + p * (VECTORS * H) + offs_h, H, mask_h, VECTORS, ACC)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)
    # Of the rows, those to load ahead of the loop for: none where it has no step, and t no place.
    ahead_b = mask_b
    if HAS_LENGTHS:
        ahead_b = only_if(begin < end, mask_b)

    own = offs_h[None, :]
    state = load_tiles(state_pointers(carry_in_ptr, offs_b, p, B, H)[:, None] + own, state_stride, mask, STATES, ACC)
    t = tl.where(d == 0, begin, T - 1 - begin)
    if HAS_RESETS:
        cut_next = load_cut(resets_ptr, t, offs_b, ahead_b, length, d, B)
    x_rows = row_pointers(x_ptr, t, offs_b, p, B, P, GATES * H)
    x_next = load_packed(x_rows[:, None] + own, H, ahead_b[:, None] & mask_h[None, :], GATES)
    for step in range(begin, end):
        t = tl.where(d == 0, step, T - 1 - step)
        t_prev = t - 1 + 2 * d
        t_next = t + 1 - 2 * d
        # The next step's input is on its way while this step waits for h.
        x = unpack(x_next, GATES, ACC)
        x_rows = row_pointers(x_ptr, t_next, offs_b, p, B, P, GATES * H)
        x_next = load_packed(x_rows[:, None] + own, H, only_if(step + 1 < end, mask), GATES)
        if HAS_RESETS:
            cut = cut_next
            cut_next = load_cut(resets_ptr, t_next, offs_b, only_if(step + 1 < end, mask_b), length, d, B)
            state = select(cut[:, None], START(tl.zeros([BLOCK_B, BLOCK_H], dtype=ACC)), state, STATES)
        given = step_given(vectors, constants_ptr, t, offs_b, mask_b & (t < length), B, VECTORS, CONSTANTS, ACC)
        arrivals = (step - begin) * (1 + INNER) * tl.num_programs(0)

        if PHASE == "inner":
            outer_rows = state_pointers(outer_ptr, offs_b, p, B, H)
            r = load_tiles(outer_rows[:, None] + own, state_stride, mask, OUTER, ACC)
        elif SOLO:
            h = within(state[0], mask_h, H, RESTS).to(weight_ptr.dtype.element_ty)
            r = multiply(
                (h,), weights[:OUTER], zeros([BLOCK_B, BLOCK_H], OUTER, ACC), OUTER, 1, OUTER, PRECISION, OPERAND,
                DIAGONAL,
            )  # fmt: skip
        else:
            starts = first == t
            # Rows that are not active are masked: where lengths differ, theirs may lie past the last slot.
            initial = state_pointers(h0_ptr, offs_b, p, B, H)
            rows = either_row(starts, initial, row_pointers(h_ptr, t_prev, offs_b, p, B, P, H), H)
            needed = mask_b & (t < length)
            if HAS_RESETS and HAS_START:
                rows = either_row(cut, start_ptr + 0 * offs_b, rows, H)
                starts = starts | cut
            elif HAS_RESETS:
                needed = needed & ~cut
            wait(counter_ptr, arrivals, EXCHANGE)
            r = contract(
                rows, 0, needed, starts, weights, weight_ptr, offs_h, 1, H,
                H, GATES, 0, OUTER, 1, OUTER, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP, SPLIT,
                PRECISION, OPERAND, ACC,
            )  # fmt: skip
        if HAS_BIAS and PHASE != "inner":
            r = add_bias(r, bias, OUTER)
        if INNER:
            operand = INNER_FWD(x, r, state, given, FAST)
            if SOLO:
                left = (within(operand, mask_h, H, RESTS).to(weight_ptr.dtype.element_ty),)
                product = multiply(
                    left, weights[OUTER:], zeros([BLOCK_B, BLOCK_H], INNER, ACC), INNER, 1, INNER, PRECISION, OPERAND,
                    DIAGONAL,
                )  # fmt: skip
            else:
                rows = row_pointers(inner_ptr, t, offs_b, p, B, P, H)
                if PHASE != "inner":
                    store_exchanged(rows[:, None] + own, 0, (operand,), mask, 1)
                    arrive(counter_ptr, EXCHANGE)
                if PHASE != "outer":
                    wait(counter_ptr, arrivals + tl.num_programs(0), EXCHANGE)
                    product = contract(
                        rows, 0, mask_b & (t < length), offs_b < 0, weights, weight_ptr, offs_h, 1, H,
                        H, GATES, OUTER, INNER, 1, INNER, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP,
                        SPLIT, PRECISION, OPERAND, ACC,
                    )  # fmt: skip
            if PHASE != "outer":
                if HAS_BIAS:
                    product = add_bias(product, bias[OUTER:], INNER)
                r = r + product

        if PHASE == "outer":
            outer_rows = state_pointers(outer_ptr, offs_b, p, B, H)
            store_tiles(outer_rows[:, None] + own, state_stride, r, mask, OUTER)
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
            store_exchanged(row_pointers(h_ptr, t, offs_b, p, B, P, H)[:, None] + own, 0, shown[:1], mask, 1)
            if step + 1 < end:
                arrive(counter_ptr, EXCHANGE)
            if STORE_CELLS:
                cells_rows = row_pointers(cells_ptr, t, offs_b, p, B, P, (STATES - 1) * H)
                store_tiles(cells_rows[:, None] + own, H, shown[1:], mask, STATES - 1)
            if STORE_SAVED:
                saved_rows = row_pointers(saved_ptr, t, offs_b, p, B, P, SAVED * H)
                store_packed(saved_rows[:, None] + own, H, saved, mask, SAVED, False)
    if PHASE != "outer":
        store_tiles(state_pointers(carry_out_ptr, offs_b, p, B, H)[:, None] + own, state_stride, state, mask, STATES)
        if HAS_LENGTHS:
            fill_idle(h_ptr, 1, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
            if STORE_CELLS:
                fill_idle(cells_ptr, STATES - 1, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
            if STORE_SAVED:
                fill_idle(saved_ptr, SAVED, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
