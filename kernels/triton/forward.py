"""The scan over time: the only time loops in the project, for every cell, dtype, tier and schedule.

Forward, for t in processing order (time order for direction 0, reversed for direction 1), with R the recurrent weights:

    r_t = R h_{t-1} + b;    state_t, saved_t = FWD(x_t, r_t, state_{t-1})

Backward, in the opposite order:

    dh_t = dy_t + direct path from t+1 + R^T dr_{t+1};    dx_t, dr_t, dstate_{t-1} = BWD(dstate_t, saved_t, ...)

One program owns BLOCK_H hidden units, all gates of them, of BLOCK_B batch rows of one direction: grid (ceil(H /
BLOCK_H), batch tiles, D). `step0 <= step < step1` are positions in processing order, so the same body serves one launch
for the whole sequence (persistent) and one launch per step (stepwise).

* SOLO: the program owns all H units, and what the next step's matmul needs stays in registers. Else it reads what the
  other programs of its batch tile wrote, by `sync.load_exchanged`.
* RESIDENT, SPLIT, NUM_K, GROUP: how the matmul is done, see `matmul.py`.
* HAS_LENGTHS: a row at or past its length keeps its state, outputs zero and gets no gradient. A tile whose rows have
  all ended takes no part in a step, which then costs it a store of zeros.
* HAS_RESETS: a row that is cut at t starts step t from zero state, and passes no gradient back across.
* INNER: the last gate multiplies not h but INNER_FWD(x, r, state), which takes the outer gates' r:

      r_inner = R_inner INNER_FWD(x, r, state);    through = R_inner^T INNER_BWD(dstate, saved, ...)

  Within each step the programs hand over the operand, or its gradient, and contract again. Where they do not wait for
  each other (stepwise), a step takes two launches: PHASE is "outer", up to what is handed over, then "inner". Else it
  is "whole".

Memory layout: time first, then batch, direction, gate or state, unit. Addresses are 64-bit: T * B * D * GATES * H
passes 2^31 in real use.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.triton.cells import STEPS
from fastrnn.kernels.triton.matmul import contract, load_resident, multiply
from fastrnn.kernels.triton.rows import (
    active_steps,
    either_row,
    first_time,
    idle_steps,
    load_cut,
    load_state,
    load_step,
    row_pointers,
    state_pointers,
    unpack_state,
    unpack_step,
)
from fastrnn.kernels.triton.sync import COUNTER_STRIDE, arrive, wait
from fastrnn.kernels.triton.tiles import (
    add_bias,
    load_packed,
    load_tiles,
    only_if,
    select,
    store_exchanged,
    store_packed,
    store_tiles,
    unpack,
    zeros,
)


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def scan_fwd_kernel(
    x_ptr,  # (T, B, D, GATES, H)
    weight_ptr,  # (D, GATES, H, H)
    bias_ptr,  # (D, GATES, H), or unused
    state_ptr,  # (STATES, D, B, H): the initial state
    lengths_ptr,  # (B,) int32, or unused
    resets_ptr,  # (T, B) int8: 1 where a sequence starts; or unused
    carry_in_ptr,  # (STATES, D, B, H): the state before step0
    carry_out_ptr,  # (STATES, D, B, H): the state after the last step
    h_ptr,  # (T, B, D, H): the output, and what the programs exchange
    inner_ptr,  # (T, B, D, H): what the inner gate multiplies, exchanged too; or unused
    outer_ptr,  # (GATES - INNER, D, B, H): r of the outer gates between the two phases of a step, or unused
    cells_ptr,  # (T, B, D, STATES - 1, H): the states other than h, or unused
    saved_ptr,  # (T, B, D, SAVED, H): what backward needs, or unused
    counter_ptr,  # (batch tiles * D * COUNTER_STRIDE,) int32 zeros for the barrier, or unused
    T,
    B,
    step0,
    step1,
    batch0,  # the first row of this launch
    H: tl.constexpr,
    D: tl.constexpr,
    FWD: tl.constexpr,
    INNER_FWD: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    INNER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    STORE_CELLS: tl.constexpr,
    STORE_SAVED: tl.constexpr,
    PHASE: tl.constexpr,
    SOLO: tl.constexpr,
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
):
    OUTER: tl.constexpr = GATES - INNER
    d = tl.program_id(2)
    offs_b = batch0 + tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_h = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_b = offs_b < B
    mask_h = offs_h < H
    mask = mask_b[:, None] & mask_h[None, :]
    counter_ptr += (tl.program_id(1) * D + d) * COUNTER_STRIDE
    state_stride = tl.cast(B, tl.int64) * (D * H)

    # Gate g of unit n, for input k, is at weight_ptr + g * H * H + n * H + k.
    weight_ptr += tl.cast(d, tl.int64) * (GATES * H * H)
    weights = load_resident(weight_ptr, offs_h, 1, H, H, GATES, RESIDENT, BLOCK_K, NUM_K, SPLIT)
    bias = ()
    if HAS_BIAS:
        bias = load_tiles(bias_ptr + d * (GATES * H) + offs_h, H, mask_h, GATES, ACC)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)
    # Of the rows, those to load ahead of the loop for: none where it has no step, and t no place.
    ahead_b = mask_b
    if HAS_LENGTHS:
        ahead_b = only_if(begin < end, mask_b)

    own = offs_h[None, :]
    state = load_tiles(state_pointers(carry_in_ptr, offs_b, d, B, H)[:, None] + own, state_stride, mask, STATES, ACC)
    t = tl.where(d == 0, begin, T - 1 - begin)
    if HAS_RESETS:
        cut_next = load_cut(resets_ptr, t, offs_b, ahead_b, length, d, B)
    x_rows = row_pointers(x_ptr, t, offs_b, d, B, D, GATES * H)
    x_next = load_packed(x_rows[:, None] + own, H, ahead_b[:, None] & mask_h[None, :], GATES)
    for step in range(begin, end):
        t = tl.where(d == 0, step, T - 1 - step)
        t_prev = t - 1 + 2 * d
        t_next = t + 1 - 2 * d
        # The next step's input is on its way while this step waits for h.
        x = unpack(x_next, GATES, ACC)
        x_rows = row_pointers(x_ptr, t_next, offs_b, d, B, D, GATES * H)
        x_next = load_packed(x_rows[:, None] + own, H, only_if(step + 1 < end, mask), GATES)
        if HAS_RESETS:
            cut = cut_next
            cut_next = load_cut(resets_ptr, t_next, offs_b, only_if(step + 1 < end, mask_b), length, d, B)
            state = select(cut[:, None], zeros([BLOCK_B, BLOCK_H], STATES, ACC), state, STATES)
        arrivals = (step - begin) * (1 + INNER) * tl.num_programs(0)

        if PHASE == "inner":
            outer_rows = state_pointers(outer_ptr, offs_b, d, B, H)
            r = load_tiles(outer_rows[:, None] + own, state_stride, mask, OUTER, ACC)
        elif SOLO:
            h = state[0].to(weight_ptr.dtype.element_ty)
            r = multiply(
                (h,), weights[:OUTER], zeros([BLOCK_B, BLOCK_H], OUTER, ACC), OUTER, 1, OUTER, PRECISION, OPERAND
            )
        else:
            starts = first == t
            # Rows that are not active are masked: where lengths differ, theirs may lie past the last slot.
            initial = state_pointers(state_ptr, offs_b, d, B, H)
            rows = either_row(starts, initial, row_pointers(h_ptr, t_prev, offs_b, d, B, D, H), H)
            needed = mask_b & (t < length)
            if HAS_RESETS:
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
            operand = INNER_FWD(x, r, state)
            if SOLO:
                left = (operand.to(weight_ptr.dtype.element_ty),)
                product = multiply(
                    left, weights[OUTER:], zeros([BLOCK_B, BLOCK_H], INNER, ACC), INNER, 1, INNER, PRECISION, OPERAND
                )
            else:
                rows = row_pointers(inner_ptr, t, offs_b, d, B, D, H)
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
            outer_rows = state_pointers(outer_ptr, offs_b, d, B, H)
            store_tiles(outer_rows[:, None] + own, state_stride, r, mask, OUTER)
        else:
            new, saved = FWD(x, r, state)
            if HAS_LENGTHS:
                active = (t < length)[:, None]
                shown = select(active, new, zeros([BLOCK_B, BLOCK_H], STATES, ACC), STATES)
                saved = select(active, saved, zeros([BLOCK_B, BLOCK_H], SAVED, ACC), SAVED)
                state = select(active, new, state, STATES)
            else:
                shown = new
                state = new
            store_exchanged(row_pointers(h_ptr, t, offs_b, d, B, D, H)[:, None] + own, 0, shown[:1], mask, 1)
            if step + 1 < end:
                arrive(counter_ptr, EXCHANGE)
            if STORE_CELLS:
                cells_rows = row_pointers(cells_ptr, t, offs_b, d, B, D, (STATES - 1) * H)
                store_tiles(cells_rows[:, None] + own, H, shown[1:], mask, STATES - 1)
            if STORE_SAVED:
                saved_rows = row_pointers(saved_ptr, t, offs_b, d, B, D, SAVED * H)
                store_packed(saved_rows[:, None] + own, H, saved, mask, SAVED, False)
    if PHASE != "outer":
        store_tiles(state_pointers(carry_out_ptr, offs_b, d, B, H)[:, None] + own, state_stride, state, mask, STATES)
        if HAS_LENGTHS:
            idle0, idle1 = idle_steps(begin, end, d, step0, step1)
            for step in range(idle0, idle1):
                t = tl.where(d == 0, step, T - 1 - step)
                h_rows = row_pointers(h_ptr, t, offs_b, d, B, D, H)
                store_tiles(h_rows[:, None] + own, H, zeros([BLOCK_B, BLOCK_H], 1, ACC), mask, 1)
                if STORE_CELLS:
                    cells_rows = row_pointers(cells_ptr, t, offs_b, d, B, D, (STATES - 1) * H)
                    store_tiles(
                        cells_rows[:, None] + own, H, zeros([BLOCK_B, BLOCK_H], STATES - 1, ACC), mask, STATES - 1
                    )
                if STORE_SAVED:
                    saved_rows = row_pointers(saved_ptr, t, offs_b, d, B, D, SAVED * H)
                    store_tiles(saved_rows[:, None] + own, H, zeros([BLOCK_B, BLOCK_H], SAVED, ACC), mask, SAVED)


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def scan_bwd_kernel(
    dout_ptr,  # (T, B, D, H): gradient of the output, or unused
    dcells_ptr,  # (T, B, D, STATES - 1, H): gradient of the cells, or unused
    weight_ptr,  # (D, GATES, H, H)
    state_ptr,  # (STATES, D, B, H): the initial state
    lengths_ptr,  # (B,) int32, or unused
    resets_ptr,  # (T, B) int8: 1 where a sequence starts; or unused
    h_ptr,  # (T, B, D, H)
    cells_ptr,  # (T, B, D, STATES - 1, H), or unused
    saved_ptr,  # (T, B, D, SAVED, H), or unused
    carry_in_ptr,  # (STATES, D, B, H): gradient of the state after step1 - 1, less what dr[step1] adds
    carry_out_ptr,  # (STATES, D, B, H): gradient of the state before step0, less what dr[step0] adds
    dx_ptr,  # (T, B, D, GATES, H): gradient of the gates' input part; unused where it equals dr
    dr_ptr,  # (T, B, D, GATES, H): gradient of the gates' recurrent part, and what the programs exchange
    counter_ptr,  # (batch tiles * D * COUNTER_STRIDE,) int32 zeros for the barrier, or unused
    T,
    B,
    step0,
    step1,
    batch0,
    H: tl.constexpr,
    D: tl.constexpr,
    BWD: tl.constexpr,
    INNER_BWD: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    INNER: tl.constexpr,
    HAS_DOUT: tl.constexpr,
    HAS_DCELLS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    STORE_DX: tl.constexpr,
    PHASE: tl.constexpr,
    SOLO: tl.constexpr,
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
):
    OUTER: tl.constexpr = GATES - INNER
    d = tl.program_id(2)
    offs_b = batch0 + tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_h = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_b = offs_b < B
    mask_h = offs_h < H
    mask = mask_b[:, None] & mask_h[None, :]
    counter_ptr += (tl.program_id(1) * D + d) * COUNTER_STRIDE
    state_stride = tl.cast(B, tl.int64) * (D * H)

    # The transpose of forward's operand: gate g's row k, for unit n, is at weight_ptr + g * H * H + k * H + n.
    weight_ptr += tl.cast(d, tl.int64) * (GATES * H * H)
    weights = load_resident(weight_ptr, offs_h, H, 1, H, GATES, RESIDENT, BLOCK_K, NUM_K, SPLIT)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)
    # Of the rows, those to load ahead of the loop for: none where it has no step, and t no place.
    ahead_b = mask_b
    if HAS_LENGTHS:
        ahead_b = only_if(begin < end, mask_b)
    ahead_mask = ahead_b[:, None] & mask_h[None, :]

    own = offs_h[None, :]
    dstate = load_tiles(state_pointers(carry_in_ptr, offs_b, d, B, H)[:, None] + own, state_stride, mask, STATES, ACC)
    t = tl.where(d == 0, end - 1, T - end)
    state = load_state(
        h_ptr, cells_ptr, state_ptr, t, offs_b < 0, offs_b, own, ahead_mask, d, B, state_stride, H, D, STATES,
    )  # fmt: skip
    state = unpack_state(state, STATES, ACC)
    ahead = load_step(
        dout_ptr, dcells_ptr, h_ptr, cells_ptr, saved_ptr, state_ptr, resets_ptr, t, first, length, offs_b, own,
        ahead_b, ahead_mask, d, T, B, state_stride,
        H, D, STATES, SAVED, HAS_DOUT, HAS_DCELLS, HAS_RESETS,
    )  # fmt: skip
    if HAS_RESETS:
        cut_next = load_cut(resets_ptr, t + 1 - 2 * d, offs_b, ahead_b, length, d, B)
    if SOLO:
        dr_rows = row_pointers(dr_ptr, t + 1 - 2 * d, offs_b, d, B, D, GATES * H)
        dr = load_tiles(dr_rows[:, None] + own, H, only_if(step1 < T, ahead_mask), GATES, ACC)
    for i in range(end - begin):
        step = end - 1 - i
        t = tl.where(d == 0, step, T - 1 - step)
        dout, dcells, saved, state_prev, cut = unpack_step(ahead, STATES, SAVED, HAS_DOUT, HAS_DCELLS, mask, ACC)
        ahead = load_step(
            dout_ptr, dcells_ptr, h_ptr, cells_ptr, saved_ptr, state_ptr, resets_ptr, t - 1 + 2 * d, first, length,
            offs_b, own, only_if(step > begin, mask_b), only_if(step > begin, mask), d, T, B, state_stride,
            H, D, STATES, SAVED, HAS_DOUT, HAS_DCELLS, HAS_RESETS,
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
            before = select(cut[0][:, None], zeros([BLOCK_B, BLOCK_H], STATES, ACC), state_prev, STATES)
        else:
            before = state_prev

        if PHASE != "inner":
            if SOLO:
                left = ()
                for g in tl.static_range(OUTER):
                    left = left + (dr[g].to(weight_ptr.dtype.element_ty),)
                dh = multiply(
                    left, weights[:OUTER], zeros([BLOCK_B, BLOCK_H], 1, ACC), OUTER, OUTER, 1, PRECISION, OPERAND
                )
                if HAS_LENGTHS or HAS_RESETS:
                    dh = (tl.where(followed[:, None], dh[0], 0.0),)
            else:
                rows = row_pointers(dr_ptr, t + 1 - 2 * d, offs_b, d, B, D, GATES * H)
                wait(counter_ptr, arrivals, EXCHANGE)
                dh = contract(
                    rows, H, followed, offs_b < 0, weights, weight_ptr, offs_h, H, 1,
                    H, GATES, 0, OUTER, OUTER, 1, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP, SPLIT,
                    PRECISION, OPERAND, ACC,
                )  # fmt: skip
            if HAS_LENGTHS:
                dout = select(active, dout, zeros([BLOCK_B, BLOCK_H], 1, ACC), 1)
            dstate = (dstate[0] + dh[0] + dout[0],) + dstate[1:]
            if HAS_DCELLS:
                if HAS_LENGTHS:
                    dcells = select(active, dcells, zeros([BLOCK_B, BLOCK_H], STATES - 1, ACC), STATES - 1)
                for s in tl.static_range(1, STATES):
                    dstate = dstate[:s] + (dstate[s] + dcells[s - 1],) + dstate[s + 1 :]

        if INNER:
            dr_rows = row_pointers(dr_ptr, t, offs_b, d, B, D, GATES * H)
            dinner = INNER_BWD(dstate, saved, before, state)
            if HAS_LENGTHS:
                dinner = tl.where(active, dinner, 0.0)
            if PHASE != "inner":
                store_exchanged(dr_rows[:, None] + own + OUTER * H, H, (dinner,), mask, INNER)
                arrive(counter_ptr, EXCHANGE)
            if PHASE != "outer":
                if SOLO:
                    left = (dinner.to(weight_ptr.dtype.element_ty),)
                    through = multiply(
                        left, weights[OUTER:], zeros([BLOCK_B, BLOCK_H], 1, ACC), INNER, INNER, 1, PRECISION, OPERAND
                    )
                else:
                    wait(counter_ptr, arrivals + tl.num_programs(0), EXCHANGE)
                    through = contract(
                        dr_rows + OUTER * H, H, mask_b & (t < length), offs_b < 0, weights, weight_ptr, offs_h, H, 1,
                        H, GATES, OUTER, INNER, INNER, 1, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP,
                        SPLIT, PRECISION, OPERAND, ACC,
                    )  # fmt: skip

        if PHASE != "outer":
            if INNER:
                dx, dr, dprev = BWD(dstate, saved, before, state, through[0])
            else:
                dx, dr, dprev = BWD(dstate, saved, before, state)
            if HAS_RESETS:
                dprev = select(cut[0][:, None], zeros([BLOCK_B, BLOCK_H], STATES, ACC), dprev, STATES)
            if HAS_LENGTHS:
                nothing = zeros([BLOCK_B, BLOCK_H], GATES, ACC)
                dx = select(active, dx, nothing, GATES)
                dr = select(active, dr, nothing, GATES)
                dprev = select(active, dprev, dstate, STATES)
            dstate = dprev
            dr_rows = row_pointers(dr_ptr, t, offs_b, d, B, D, GATES * H)
            store_packed(dr_rows[:, None] + own, H, dr, mask, OUTER, True)
            if step > begin:
                arrive(counter_ptr, EXCHANGE)
            if STORE_DX:
                dx_rows = row_pointers(dx_ptr, t, offs_b, d, B, D, GATES * H)
                store_packed(dx_rows[:, None] + own, H, dx, mask, GATES, False)
        state = state_prev
    store_tiles(state_pointers(carry_out_ptr, offs_b, d, B, H)[:, None] + own, state_stride, dstate, mask, STATES)
    if HAS_LENGTHS and PHASE != "outer":
        idle0, idle1 = idle_steps(begin, end, d, step0, step1)
        for step in range(idle0, idle1):
            t = tl.where(d == 0, step, T - 1 - step)
            dr_rows = row_pointers(dr_ptr, t, offs_b, d, B, D, GATES * H)
            store_tiles(dr_rows[:, None] + own, H, zeros([BLOCK_B, BLOCK_H], GATES, ACC), mask, GATES)
            if STORE_DX:
                dx_rows = row_pointers(dx_ptr, t, offs_b, d, B, D, GATES * H)
                store_tiles(dx_rows[:, None] + own, H, zeros([BLOCK_B, BLOCK_H], GATES, ACC), mask, GATES)


def interpreted() -> bool:
    """Whether Triton runs the kernels in its interpreter, on the CPU."""
    return isinstance(scan_fwd_kernel, InterpretedFunction)


def scan_constants(
    counts: Counts, config: LaunchConfig, hidden: int, directions: int, precision: str, dtype: str
) -> dict[str, Any]:
    """The compile-time arguments that both kernels share, by name.

    `dtype` is that of the tensors, by torch's name for it, which is Triton's too.
    """
    # Triton's interpreter multiplies the bit patterns of bfloat16 operands; in float32 their products are exact.
    operand = tl.float32 if dtype == "bfloat16" and interpreted() else getattr(tl, dtype)
    return {
        "H": hidden,
        "D": directions,
        "GATES": counts.gates,
        "STATES": counts.states,
        "SAVED": counts.saved,
        "INNER": counts.inner,
        "SOLO": config.tier == "solo",
        "RESIDENT": config.tier != "streamed",
        "EXCHANGE": config.exchange,
        "BLOCK_B": config.block_b,
        "BLOCK_H": config.block_h,
        "BLOCK_K": config.block_k,
        "NUM_K": config.num_k,
        "GROUP": config.group,
        "SPLIT": config.split,
        "PRECISION": precision,
        "OPERAND": operand,
        "ACC": tl.float64 if dtype == "float64" else tl.float32,
    }


def steps(counts: Counts, backward: bool) -> dict[str, Any]:
    """The cell's jit functions, by the kernel's names for them."""
    cell = STEPS[counts.name]
    if backward:
        return {"BWD": cell.bwd, "INNER_BWD": cell.inner_bwd}
    return {"FWD": cell.fwd, "INNER_FWD": cell.inner_fwd}


def phases(counts: Counts, config: LaunchConfig) -> tuple[str, ...]:
    """The launches that one step takes, where each step is launched for itself; else one for all steps."""
    apart = counts.inner > 0 and config.schedule == "stepwise" and config.tier != "solo"
    return ("outer", "inner") if apart else ("whole",)


def launch_options(config: LaunchConfig) -> dict[str, Any]:
    """The compile and launch options that go with `config`."""
    return {
        "num_warps": config.num_warps,
        "num_stages": 1,
        # One program has an SM to itself. Without the cap ptxas stops at the register count that would let two share
        # it, and spills a few registers to get there.
        "maxnreg": 255,
        "launch_cooperative_grid": config.exchange != "none",
        # Said because Triton means to change its default: a product and its sum are one instruction, rounded once.
        "enable_fp_fusion": True,
    }
