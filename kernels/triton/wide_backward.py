"""The backward scan for many rows: `backward.py`'s, where a step is work and no wait; programs are those of
`wide_forward.py`.

What comes back through the recurrent weights, dh_t = R^T dr_{t+1}, is had in one of two ways. The same slice of R does
for both, a program's own rows of it.

* gather: a program reads all gates' dr of its rows, GATES * H numbers each, and multiplies them by its units' columns.
* SCATTER: it multiplies its own dr by its own rows of R, which gives a part of dh of every unit, and sends that; the
  others add up what was sent to them, in the order of programs. H numbers a row come and go. There are two slots for
  each program, by the parity of the step: whoever writes one has waited for all who read it.

An inner gate's operand is always gathered.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.rows import (
    active_steps,
    fill_idle,
    first_time,
    load_cut,
    state_at,
    state_pointers,
    tile_pointer,
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
    store_tiles,
    within,
)
from fastrnn.kernels.triton.wide import (
    contract_wide,
    fetch_ahead,
    load_sent,
    load_wide,
    send_parts,
    sum_parts,
)


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def wide_bwd_kernel(
    dout_ptr,  # (T, B, P, H): gradient of the output, or unused
    dcells_ptr,  # (T, B, P, STATES - 1, H): gradient of the cells, or unused
    weight_ptr,  # (P, GATES, H, H)
    h0_ptr,  # (B, P, H): the initial h
    cells0_ptr,  # (B, P, STATES - 1, H): the other initial states, or unused
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
    dr_ptr,  # (T, B, P, GATES, H): gradient of the gates' recurrent part, and what is gathered
    parts_ptr,  # (2, batch tiles, P, programs, BLOCK_B, chunks * BLOCK_K): what is sent, or unused
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
    SCATTER: tl.constexpr,
    RESIDENT: tl.constexpr,
    EXCHANGE: tl.constexpr,
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
    SCATTERED: tl.constexpr = HAS_LENGTHS and D == 2  # rows that start at different steps
    PROGRAMS: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    WIDTH: tl.constexpr = (H + BLOCK_K - 1) // BLOCK_K * BLOCK_K
    PART: tl.constexpr = BLOCK_B * WIDTH
    dtype = dr_ptr.dtype.element_ty
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
    gates_at = at * (P * GATES * H) + units[None, :]

    weight_ptr += tl.cast(p, tl.int64) * (GATES * H * H)
    inner_ptr = weight_ptr + OUTER * (H * H)
    right = units[None, :]
    weights = ()
    inner_weights = ()
    if SCATTER:
        weights = load_sent(weight_ptr, units, mask_h, H, OUTER, RESIDENT, BLOCK_K)
    else:  # the outer gates' gradients are one row of OUTER * H numbers
        weights = load_wide(weight_ptr, right, mask_h[None, :], OUTER * H, H, RESIDENT, BLOCK_K)
    if INNER:
        inner_weights = load_wide(inner_ptr, right, mask_h[None, :], H, H, RESIDENT, BLOCK_K)
    tile_parts = (tl.program_id(1).to(tl.int64) * P + p) * (PROGRAMS * PART)
    slot_size = tl.num_programs(1).to(tl.int64) * (P * PROGRAMS * PART)
    vectors = load_tiles(vectors_ptr + p * (VECTORS * H) + units, H, mask_h, VECTORS, ACC)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)

    carry = state_pointers(carry_in_ptr, offs_b, p, B, H)[:, None] + units[None, :]
    dstate = load_tiles(carry, state_stride, mask, STATES, ACC)
    dvectors_rows = state_pointers(dvectors_ptr, offs_b, p, B, H)[:, None] + units[None, :]
    dvectors = load_tiles(dvectors_rows, state_stride, mask, VECTORS, ACC)
    t = tl.where(d == 0, end - 1, T - end)
    state = state_at(
        h_ptr, cells_ptr, h0_ptr, cells0_ptr, t, 1, offs_b < 0, row0, offs_b, at, units, only_if(begin < end, mask),
        p, B, H, P, STATES, SCATTERED,
    )  # fmt: skip
    if HAS_RESETS:
        cut_next = load_cut(resets_ptr, t + 1 - 2 * d, offs_b, only_if(begin < end, mask_b), length, d, B)
    for i in range(end - begin):
        step = end - 1 - i
        t = tl.where(d == 0, step, T - 1 - step)
        saved_tile = tile_pointer(saved_ptr, t, row0, p, B, P, SAVED * H)
        saved = load_tiles(saved_tile + (at * (P * SAVED * H) + units[None, :]), H, mask, SAVED, ACC)
        # In the reverse direction a row that is not active yet has no slot before t = T - 1; any slot will do for it.
        state_prev = state_at(
            h_ptr, cells_ptr, h0_ptr, cells0_ptr, tl.minimum(t - 1 + 2 * d, T - 1), step, first == t, row0, offs_b, at,
            units, mask, p, B, H, P, STATES, SCATTERED,
        )  # fmt: skip
        if AHEAD:
            t_next = tl.minimum(tl.maximum(t - 1 + 2 * d, 0), T - 1)
            if SAVED:
                next_tile = tile_pointer(saved_ptr, t_next, row0, p, B, P, SAVED * H)
                fetch_ahead(next_tile + there * (P * SAVED * H), first_unit, SAVED, H)
            if HAS_DOUT:
                fetch_ahead(tile_pointer(dout_ptr, t_next, row0, p, B, P, H) + there * (P * H), first_unit, 1, H)
            t_state = tl.minimum(tl.maximum(t - 2 + 4 * d, 0), T - 1)  # of the state before that step
            if STATES > 1:
                next_tile = tile_pointer(cells_ptr, t_state, row0, p, B, P, (STATES - 1) * H)
                fetch_ahead(next_tile + there * (P * (STATES - 1) * H), first_unit, STATES - 1, H)
            else:
                fetch_ahead(tile_pointer(h_ptr, t_state, row0, p, B, P, H) + there * (P * H), first_unit, 1, H)
        arrivals = i * (1 + INNER) * tl.num_programs(0)
        # Nothing follows the last step: its mask is empty.
        followed = only_if(step + 1 < T, mask_b)
        before = convert(state_prev, STATES, ACC)
        if HAS_LENGTHS:
            active = (t < length)[:, None]
            followed = followed & (t + 1 - d < length)
        if HAS_RESETS:
            cut = load_cut(resets_ptr, t, offs_b, mask_b, length, d, B)
            followed = followed & ~cut_next
            cut_next = cut
            before = select(cut[:, None], START(tl.zeros([BLOCK_B, BLOCK_H], dtype=ACC)), before, STATES)
        given = step_given(vectors, constants_ptr, t, offs_b, mask_b & (t < length), B, VECTORS, CONSTANTS, ACC)
        now = convert(state, STATES, ACC)
        dr_tile = tile_pointer(dr_ptr, t, row0, p, B, P, GATES * H)

        if PHASE != "inner":
            dh = dstate[0]
            if HAS_DOUT:
                dout_mask = mask
                if HAS_LENGTHS:
                    dout_mask = mask & active
                dout_tile = tile_pointer(dout_ptr, t, row0, p, B, P, H)
                dh += tl.load(dout_tile + (at * (P * H) + units[None, :]), mask=dout_mask, other=0.0).to(ACC)
            if HAS_DCELLS:
                dcells_tile = tile_pointer(dcells_ptr, t, row0, p, B, P, (STATES - 1) * H)
                dcells_mask = mask
                if HAS_LENGTHS:
                    dcells_mask = mask & active
                dcells_at = at * (P * (STATES - 1) * H) + units[None, :]
                dcells = load_tiles(dcells_tile + dcells_at, H, dcells_mask, STATES - 1, ACC)
                for s in tl.static_range(1, STATES):
                    dstate = dstate[:s] + (dstate[s] + dcells[s - 1],) + dstate[s + 1 :]
            wait(counter_ptr, arrivals, EXCHANGE)
            if SCATTER:
                slot = parts_ptr + (step + 1) % 2 * slot_size + tile_parts
                dh = sum_parts(
                    slot + (at * WIDTH + units[None, :]), followed[:, None] & mask_h[None, :], dh, PROGRAMS, PART
                )
            else:
                rows = tile_pointer(dr_ptr, t + 1 - 2 * d, row0, p, B, P, GATES * H) + at * (P * GATES * H)
                dh = contract_wide(
                    rows, followed[:, None], weights, weight_ptr, right, mask_h[None, :], dh,
                    OUTER * H, H, RESIDENT, BLOCK_K, STAGES, PRECISION, OPERAND,
                )  # fmt: skip
            dstate = (dh,) + dstate[1:]

        if INNER:
            dinner = INNER_BWD(dstate, saved, before, now, given, FAST)
            if HAS_LENGTHS:
                dinner = tl.where(active, dinner, 0.0)
            if PHASE != "inner":
                tl.store(dr_tile + (OUTER * H + gates_at), dinner.to(dtype), mask=mask)
                arrive(counter_ptr, EXCHANGE)
            if PHASE != "outer":
                wait(counter_ptr, arrivals + tl.num_programs(0), EXCHANGE)
                through = contract_wide(
                    dr_tile + (OUTER * H + at * (P * GATES * H)), (mask_b & (t < length))[:, None], inner_weights,
                    inner_ptr, right, mask_h[None, :], tl.zeros([BLOCK_B, BLOCK_H], dtype=ACC),
                    H, H, RESIDENT, BLOCK_K, STAGES, PRECISION, OPERAND,
                )  # fmt: skip

        if PHASE != "outer":
            if INNER:
                dx, dr, dprev, dgiven = BWD(dstate, saved, before, now, given, through, FAST)
            else:
                dx, dr, dprev, dgiven = BWD(dstate, saved, before, now, given, FAST)
            if HAS_RESETS:
                dprev = keep(~cut[:, None], dprev, STATES)
            if HAS_LENGTHS:
                dx = keep(active, dx, GATES)
                dr = keep(active, dr, GATES)
                dprev = select(active, dprev, dstate, STATES)
                dgiven = keep(active, dgiven, VECTORS)
            dstate = dprev
            dvectors = add_tiles(dvectors, dgiven, VECTORS)
            # SCATTER: before what others wait for, since its registers are then free for the products.
            store_tiles(dr_tile + gates_at, H, dr, mask, OUTER)
            if SCATTER:
                narrow = ()
                for g in tl.static_range(OUTER):
                    narrow = narrow + (within(dr[g], mask_h, H, RESTS).to(dtype),)
                sent = parts_ptr + step % 2 * slot_size + tile_parts + tl.program_id(0) * PART
                send_parts(
                    sent + at * WIDTH, narrow, weights, weight_ptr, units, mask_h,
                    H, OUTER, RESIDENT, BLOCK_K, STAGES, PRECISION, OPERAND, ACC,
                )  # fmt: skip
            if step > begin:
                arrive(counter_ptr, EXCHANGE)
            if STORE_DX:
                store_tiles(tile_pointer(dx_ptr, t, row0, p, B, P, GATES * H) + gates_at, H, dx, mask, GATES)
        state = state_prev
    carry = state_pointers(carry_out_ptr, offs_b, p, B, H)[:, None] + units[None, :]
    store_tiles(carry, state_stride, dstate, mask, STATES)
    if PHASE != "outer":
        store_tiles(dvectors_rows, state_stride, dvectors, mask, VECTORS)
    if HAS_LENGTHS and PHASE != "outer":
        fill_idle(dr_ptr, GATES, begin, end, step0, step1, offs_b, units, mask, p, T, B, H, P, HEADS)
        if STORE_DX:
            fill_idle(dx_ptr, GATES, begin, end, step0, step1, offs_b, units, mask, p, T, B, H, P, HEADS)
