"""The backward scan over time, for every cell, dtype, tier and schedule; programs and layout are those of `forward.py`.

For t in the order opposite to forward's, with R the recurrent weights:

    dh_t = dy_t + direct path from t+1 + R^T dr_{t+1}
    dx_t, dr_t, dstate_{t-1}, dvectors_t = BWD(dstate_t, saved_t, ...)

What goes through the matmul of each row's first step is left to the launcher: in here it would take one more exchange.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.matmul import contract, load_resident, multiply
from fastrnn.kernels.triton.rows import (
    active_steps,
    fill_idle,
    first_time,
    load_cut,
    load_state,
    load_step,
    row_pointers,
    state_pointers,
    unpack_step,
)
from fastrnn.kernels.triton.sync import COUNTER_STRIDE, arrive, wait
from fastrnn.kernels.triton.tiles import (
    add_tiles,
    convert,
    keep,
    load_tiles,
    only_if,
    select,
    step_given,
    store_exchanged,
    store_packed,
    store_tiles,
    within,
    zeros,
)


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def scan_bwd_kernel(
    dout_ptr,  # (T, B, P, H): gradient of the output, or unused
    dcells_ptr,  # (T, B, P, STATES - 1, H): gradient of the cells, or unused
    weight_ptr,  # (P, GATES, H, H); DIAGONAL: (P, GATES, H)
    h0_ptr,  # (P, B, H): the initial h, where the states' dtype is wider; or unused
    state_ptr,  # (STATES, P, B, H): the initial state
    lengths_ptr,  # (B,) int32, or unused
    resets_ptr,  # (T, B) int8: 1 where a sequence starts; or unused
    vectors_ptr,  # (P, VECTORS, H), or unused
    constants_ptr,  # (T, B, CONSTANTS), or unused
    h_ptr,  # (T, B, P, H)
    cells_ptr,  # (T, B, P, STATES - 1, H), or unused
    saved_ptr,  # (T, B, P, SAVED, H), or unused
    carry_in_ptr,  # (STATES, P, B, H): gradient of the state after step1 - 1, less what dr[step1] adds
    carry_out_ptr,  # (STATES, P, B, H): gradient of the state before step0, less what dr[step0] adds
    dvectors_ptr,  # (VECTORS, P, B, H): gradient of the vectors from each row, added to; or unused
    dx_ptr,  # (T, B, P, GATES, H): gradient of the gates' input part; unused where it equals dr
    dr_ptr,  # (T, B, P, GATES, H): gradient of the gates' recurrent part, and what the programs exchange
    counter_ptr,  # (batch tiles * P * COUNTER_STRIDE,) int32 zeros for the barrier, or unused
    T,
    B,
    step0,
    step1,
    batch0,
    H: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BWD: tl.constexpr,
    INNER_BWD: tl.constexpr,
    START: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    INNER: tl.constexpr,
    RESTS: tl.constexpr,
    VECTORS: tl.constexpr,
    CONSTANTS: tl.constexpr,
    HAS_DOUT: tl.constexpr,
    HAS_DCELLS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    STORE_DX: tl.constexpr,
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

    # The transpose of forward's operand: gate g's row k, for unit n, is at weight_ptr + g * H * H + k * H + n.
    weight_ptr += tl.cast(p, tl.int64) * (GATES * H * (1 if DIAGONAL else H))
    weights = load_resident(weight_ptr, offs_h, H, 1, H, GATES, RESIDENT, BLOCK_K, NUM_K, SPLIT, DIAGONAL)
    vectors = load_tiles(vectors_ptr + p * (VECTORS * H) + offs_h, H, mask_h, VECTORS, ACC)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)
    # Of the rows, those to load ahead of the loop for: none where it has no step, and t no place.
    ahead_b = mask_b
    if HAS_LENGTHS:
        ahead_b = only_if(begin < end, mask_b)
    ahead_mask = ahead_b[:, None] & mask_h[None, :]

    own = offs_h[None, :]
    dstate = load_tiles(state_pointers(carry_in_ptr, offs_b, p, B, H)[:, None] + own, state_stride, mask, STATES, ACC)
    dvectors_rows = state_pointers(dvectors_ptr, offs_b, p, B, H)
    dvectors = load_tiles(dvectors_rows[:, None] + own, state_stride, mask, VECTORS, ACC)
    t = tl.where(d == 0, end - 1, T - end)
    state = load_state(
        h_ptr, cells_ptr, h0_ptr, state_ptr, t, offs_b < 0, offs_b, own, ahead_mask, p, B, state_stride, H, P, STATES,
    )  # fmt: skip
    state = convert(state, STATES, ACC)
    ahead = load_step(
        dout_ptr, dcells_ptr, h_ptr, cells_ptr, saved_ptr, h0_ptr, state_ptr, resets_ptr, t, first, length, offs_b, own,
        ahead_b, ahead_mask, d, p, T, B, state_stride,
        H, P, STATES, SAVED, HAS_DOUT, HAS_DCELLS, HAS_RESETS,
    )  # fmt: skip
    if HAS_RESETS:
        cut_next = load_cut(resets_ptr, t + 1 - 2 * d, offs_b, ahead_b, length, d, B)
    if SOLO:
        dr_rows = row_pointers(dr_ptr, t + 1 - 2 * d, offs_b, p, B, P, GATES * H)
        dr = load_tiles(dr_rows[:, None] + own, H, only_if(step1 < T, ahead_mask), GATES, ACC)
    for i in range(end - begin):
        step = end - 1 - i
        t = tl.where(d == 0, step, T - 1 - step)
        dout, dcells, saved, state_prev, cut = unpack_step(ahead, STATES, SAVED, HAS_DOUT, HAS_DCELLS, mask, ACC)
        ahead = load_step(
            dout_ptr, dcells_ptr, h_ptr, cells_ptr, saved_ptr, h0_ptr, state_ptr, resets_ptr, t - 1 + 2 * d, first,
            length, offs_b, own, only_if(step > begin, mask_b), only_if(step > begin, mask), d, p, T, B, state_stride,
            H, P, STATES, SAVED, HAS_DOUT, HAS_DCELLS, HAS_RESETS,
        )  # fmt: skip
        arrivals = i * (1 + INNER) * tl.num_programs(0)
        # Rows to which dr of the step that followed this one in forward comes back: it was taken, from this state.
        # Nothing follows the last step: its mask is empty, and an empty mask waits for nobody.
        followed = only_if(step + 1 < T, mask_b)
        if HAS_LENGTHS:
            active = (t < length)[:, None]
            followed = followed & (t + 1 - d < length)
        if HAS_RESETS:
            followed = followed & ~cut_next
            cut_next = cut[0]
            before = select(cut[0][:, None], START(tl.zeros([BLOCK_B, BLOCK_H], dtype=ACC)), state_prev, STATES)
        else:
            before = state_prev
        given = step_given(vectors, constants_ptr, t, offs_b, mask_b & (t < length), B, VECTORS, CONSTANTS, ACC)

        if PHASE != "inner":
            if SOLO:
                left = ()
                for g in tl.static_range(OUTER):
                    left = left + (within(dr[g], mask_h, H, RESTS).to(weight_ptr.dtype.element_ty),)
                dh = multiply(
                    left, weights[:OUTER], zeros([BLOCK_B, BLOCK_H], 1, ACC), OUTER, OUTER, 1, PRECISION, OPERAND,
                    DIAGONAL,
                )  # fmt: skip
                if HAS_LENGTHS or HAS_RESETS:
                    dh = (tl.where(followed[:, None], dh[0], 0.0),)
            else:
                rows = row_pointers(dr_ptr, t + 1 - 2 * d, offs_b, p, B, P, GATES * H)
                wait(counter_ptr, arrivals, EXCHANGE)
                dh = contract(
                    rows, H, followed, offs_b < 0, weights, weight_ptr, offs_h, H, 1,
                    H, GATES, 0, OUTER, OUTER, 1, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP, SPLIT,
                    PRECISION, OPERAND, ACC,
                )  # fmt: skip
            if HAS_LENGTHS:
                dout = keep(active, dout, 1)
            dstate = (dstate[0] + dh[0] + dout[0],) + dstate[1:]
            if HAS_DCELLS:
                if HAS_LENGTHS:
                    dcells = keep(active, dcells, STATES - 1)
                for s in tl.static_range(1, STATES):
                    dstate = dstate[:s] + (dstate[s] + dcells[s - 1],) + dstate[s + 1 :]

        if INNER:
            dr_rows = row_pointers(dr_ptr, t, offs_b, p, B, P, GATES * H)
            dinner = INNER_BWD(dstate, saved, before, state, given, FAST)
            if HAS_LENGTHS:
                dinner = tl.where(active, dinner, 0.0)
            if PHASE != "inner":
                store_exchanged(dr_rows[:, None] + own + OUTER * H, H, (dinner,), mask, INNER)
                arrive(counter_ptr, EXCHANGE)
            if PHASE != "outer":
                if SOLO:
                    left = (within(dinner, mask_h, H, RESTS).to(weight_ptr.dtype.element_ty),)
                    through = multiply(
                        left, weights[OUTER:], zeros([BLOCK_B, BLOCK_H], 1, ACC), INNER, INNER, 1, PRECISION, OPERAND,
                        DIAGONAL,
                    )  # fmt: skip
                else:
                    wait(counter_ptr, arrivals + tl.num_programs(0), EXCHANGE)
                    through = contract(
                        dr_rows + OUTER * H, H, mask_b & (t < length), offs_b < 0, weights, weight_ptr, offs_h, H, 1,
                        H, GATES, OUTER, INNER, INNER, 1, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP,
                        SPLIT, PRECISION, OPERAND, ACC,
                    )  # fmt: skip

        if PHASE != "outer":
            if INNER:
                dx, dr, dprev, dgiven = BWD(dstate, saved, before, state, given, through[0], FAST)
            else:
                dx, dr, dprev, dgiven = BWD(dstate, saved, before, state, given, FAST)
            if HAS_RESETS:
                dprev = keep(~cut[0][:, None], dprev, STATES)
            if HAS_LENGTHS:
                dx = keep(active, dx, GATES)
                dr = keep(active, dr, GATES)
                dprev = select(active, dprev, dstate, STATES)
                dgiven = keep(active, dgiven, VECTORS)
            dstate = dprev
            dvectors = add_tiles(dvectors, dgiven, VECTORS)
            dr_rows = row_pointers(dr_ptr, t, offs_b, p, B, P, GATES * H)
            store_packed(dr_rows[:, None] + own, H, dr, mask, OUTER, True)
            if step > begin:
                arrive(counter_ptr, EXCHANGE)
            if STORE_DX:
                dx_rows = row_pointers(dx_ptr, t, offs_b, p, B, P, GATES * H)
                store_packed(dx_rows[:, None] + own, H, dx, mask, GATES, False)
        state = state_prev
    store_tiles(state_pointers(carry_out_ptr, offs_b, p, B, H)[:, None] + own, state_stride, dstate, mask, STATES)
    if PHASE != "outer":
        store_tiles(dvectors_rows[:, None] + own, state_stride, dvectors, mask, VECTORS)
    if HAS_LENGTHS and PHASE != "outer":
        fill_idle(dr_ptr, GATES, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
        if STORE_DX:
            fill_idle(dx_ptr, GATES, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
