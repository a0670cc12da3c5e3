"""The forward scan of `fastrnn.kernels.triton.forward` for few rows, with its layouts said.

Equations, memory layout and flags are those of the Triton kernel, which does everything else too and is what this one
is checked against. What is different: R's slice stays in registers; each thread owns units of rows over the whole loop
and keeps their state; what other programs need is handed over in wire order (`wire.py`), already cut where a sequence
starts, and h is stored for the caller once the others have been told.
"""

from fastrnn.kernels.gluon.flags import SLOTS, after, firsts, settle, tell
from fastrnn.kernels.gluon.language import barrier, gl, gluon
from fastrnn.kernels.gluon.products import (
    allocate,
    allocate_partial,
    contract_own,
    contract_wire,
    load_weights,
    load_whole,
    operand,
    wire_offsets,
)
from fastrnn.kernels.gluon.rows import tile_of
from fastrnn.kernels.gluon.wire import place, wait
from fastrnn.kernels.triton.rows import active_steps, fill_idle, first_time, load_cut, state_pointers, tile_pointer
from fastrnn.kernels.triton.sync import COUNTER_STRIDE
from fastrnn.kernels.triton.tiles import (
    add_bias,
    convert,
    keep,
    load_raw,
    load_tiles,
    only_if,
    select,
    step_given,
    store_tiles,
    within,
)


@gluon.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def gluon_fwd_kernel(
    x_ptr,  # (T, B, P, GATES, H)
    weight_ptr,  # (P, GATES, H, H)
    bias_ptr,  # (P, GATES, H), or unused
    lengths_ptr,  # (B,) int32, or unused
    resets_ptr,  # (T, B) int8: 1 where a sequence starts; or unused
    vectors_ptr,  # (P, VECTORS, H), or unused
    constants_ptr,  # (T, B, CONSTANTS), or unused
    carry_in_ptr,  # (STATES, P, B, H): the state before step0
    carry_out_ptr,  # (STATES, P, B, H): the state after the last step
    h_ptr,  # (T, B, P, H): the output
    cells_ptr,  # (T, B, P, STATES - 1, H): the states other than h, or unused
    saved_ptr,  # (T, B, P, SAVED, H): what backward needs, or unused
    wire_ptr,  # (batch tiles, P, 2, 1 + INNER, rows / 16, K / 16, 256) zeros; FLAG: SLOTS for 2, ones; SOLO: unused
    counter_ptr,  # (batch tiles * P * COUNTER_STRIDE,) int32 zeros; SOLO: unused
    T,
    B,
    step0,
    step1,
    batch0,  # the first row of this launch
    H: gl.constexpr,
    D: gl.constexpr,
    HEADS: gl.constexpr,
    FWD: gl.constexpr,
    INNER_FWD: gl.constexpr,
    START: gl.constexpr,
    GATES: gl.constexpr,
    STATES: gl.constexpr,
    SAVED: gl.constexpr,
    INNER: gl.constexpr,
    RESTS: gl.constexpr,
    VECTORS: gl.constexpr,
    CONSTANTS: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    HAS_LENGTHS: gl.constexpr,
    HAS_RESETS: gl.constexpr,
    STORE_CELLS: gl.constexpr,
    STORE_SAVED: gl.constexpr,
    PHASE: gl.constexpr,
    SOLO: gl.constexpr,
    BLOCK_B: gl.constexpr,
    BLOCK_H: gl.constexpr,
    NUM_K: gl.constexpr,
    WARPS: gl.constexpr,
    HELD: gl.constexpr,
    FAST: gl.constexpr,
    MMA: gl.constexpr,
    OWN: gl.constexpr,
    FLAG: gl.constexpr,
    IN_FLIGHT: gl.constexpr = None,
    WIRE: gl.constexpr = None,
    KEPT: gl.constexpr = None,
    SUM: gl.constexpr = None,
    PARTIAL: gl.constexpr = None,
    SHARED: gl.constexpr = None,
):
    OUTER: gl.constexpr = GATES - INNER
    P: gl.constexpr = D * HEADS
    DTYPE: gl.constexpr = weight_ptr.dtype.element_ty
    p = gl.program_id(2)
    d = p // HEADS
    tile = gl.program_id(1)
    first_unit = gl.program_id(0) * BLOCK_H
    in_tile, offs_h, mask_h, mask, row0, at, offs_b, units = tile_of(batch0, B, H, BLOCK_B, BLOCK_H, OWN)
    own = units[None, :]
    state_stride = gl.cast(B, gl.int64) * (P * H)

    weight_ptr += gl.cast(p, gl.int64) * (GATES * H * H)
    if SOLO:
        held, kept = load_whole(weight_ptr, 1, H, H, GATES, BLOCK_H, WARPS, HELD, MMA, KEPT)
    else:
        held, kept = load_weights(weight_ptr, first_unit, 1, H, H, GATES, BLOCK_H, NUM_K, WARPS, HELD, MMA, KEPT)
    bias = ()
    if HAS_BIAS:
        bias = load_tiles(bias_ptr + p * (GATES * H) + units, H, None, GATES, gl.float32)
    vectors = load_tiles(vectors_ptr + p * (VECTORS * H) + units, H, None, VECTORS, gl.float32)
    there = offs_b >= 0  # all of them
    _, length = first_time(lengths_ptr, offs_b, there, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)

    if SOLO:
        shared = allocate(1 + INNER, DTYPE, [BLOCK_B, BLOCK_H], SHARED)
    else:
        counter_ptr += (tile * P + p) * COUNTER_STRIDE
        WIDTH: gl.constexpr = 16 * NUM_K * WARPS
        INNER_AT: gl.constexpr = BLOCK_B * WIDTH
        SLOT: gl.constexpr = (1 + INNER) * INNER_AT
        wire_ptr += gl.cast(tile * P + p, gl.int64) * ((SLOTS if FLAG else 2) * SLOT)
        wire_in = wire_ptr + wire_offsets(WARPS, BLOCK_B, NUM_K, WIRE, DTYPE, FLAG)
        wire_out = wire_ptr + place(in_tile[:, None], offs_h[None, :], WIDTH, DTYPE)
        stores = firsts(BLOCK_B, BLOCK_H, DTYPE, WARPS, OWN) if FLAG else None
        partial = allocate_partial(OUTER, WARPS, BLOCK_B, BLOCK_H, PARTIAL, FLAG)

    state = load_tiles(
        state_pointers(carry_in_ptr, offs_b, p, B, H)[:, None] + own, state_stride, None, STATES, gl.float32
    )
    t = gl.where(d == 0, begin, T - 1 - begin)
    nothing = gl.zeros([BLOCK_B, BLOCK_H], gl.float32, OWN)
    if HAS_RESETS:
        cut = load_cut(resets_ptr, t, offs_b, only_if(begin < end, there), length, d, B)
        state = select(cut[:, None], START(nothing), state, STATES)
        cut = load_cut(resets_ptr, t + 1 - 2 * d, offs_b, only_if(begin + 1 < end, there), length, d, B)
    # Each tensor has pointers of its own that go from step to step: two additions, where an address from t takes ten
    # instructions.
    t = gl.minimum(gl.maximum(t, 0), T - 1)
    ahead = gl.where(d == 0, 1, -1) * state_stride
    x_at = tile_pointer(x_ptr, t, row0, p, B, P, GATES * H) + (at * (P * GATES * H) + own)
    h_at = tile_pointer(h_ptr, t, row0, p, B, P, H) + (at * (P * H) + own)
    cells_at = tile_pointer(cells_ptr, t, row0, p, B, P, (STATES - 1) * H) + (at * (P * (STATES - 1) * H) + own)
    saved_at = tile_pointer(saved_ptr, t, row0, p, B, P, SAVED * H) + (at * (P * SAVED * H) + own)
    x_next = load_raw(x_at, H, None, GATES)
    if not SOLO:
        tell(wire_out, operand(within(state[0], mask_h, H, RESTS), DTYPE), stores, counter_ptr, WARPS, FLAG)
    slot = 0
    for step in range(begin, end):
        t = gl.where(d == 0, step, T - 1 - step)
        t_next = t + 1 - 2 * d
        x = convert(x_next, GATES, gl.float32)
        x_at += gl.where(step + 1 < end, ahead * GATES, 0)
        x_next = load_raw(x_at, H, None, GATES)
        given = step_given(vectors, constants_ptr, t, offs_b, t < length, B, VECTORS, CONSTANTS, gl.float32)
        arrivals = ((step - begin) * (1 + INNER) + 1) * gl.num_programs(0)

        if SOLO:
            left = (operand(within(state[0], mask_h, H, RESTS), DTYPE),)
            r = contract_own(
                shared[:1], left, held, kept, 0, OUTER, 1, OUTER, BLOCK_B, BLOCK_H, WARPS, HELD, MMA, KEPT, OWN
            )
        else:
            if not FLAG:
                wait(counter_ptr, arrivals)
            r = contract_wire(
                wire_in + slot, partial, held, kept, GATES, 0, OUTER, 1, OUTER, 2,
                BLOCK_B, BLOCK_H, NUM_K, WARPS, HELD, IN_FLIGHT, MMA, KEPT, SUM, OWN, FLAG, WIRE,
            )  # fmt: skip
        if HAS_BIAS:
            r = add_bias(r, bias, OUTER)
        if INNER:
            inner = operand(within(INNER_FWD(x, r, state, given, FAST), mask_h, H, RESTS), DTYPE)
            if SOLO:
                product = contract_own(
                    shared[1:], (inner,), held, kept, OUTER, INNER, 1, INNER,
                    BLOCK_B, BLOCK_H, WARPS, HELD, MMA, KEPT, OWN,
                )  # fmt: skip
            else:
                tell(wire_out + (slot + INNER_AT), inner, stores, counter_ptr, WARPS, FLAG)
                if FLAG:
                    barrier()
                else:
                    wait(counter_ptr, arrivals + gl.num_programs(0))
                product = contract_wire(
                    wire_in + (slot + INNER_AT), partial, held, kept, GATES, OUTER, INNER, 1, INNER, 2,
                    BLOCK_B, BLOCK_H, NUM_K, WARPS, HELD, IN_FLIGHT, MMA, KEPT, SUM, OWN, FLAG, WIRE,
                )  # fmt: skip
            if HAS_BIAS:
                product = add_bias(product, bias[OUTER:], INNER)
            r = r + product

        new, saved = FWD(x, r, state, given, FAST)
        if HAS_LENGTHS:
            active = (t < length)[:, None]
            shown = keep(active, new, STATES)
            saved = keep(active, saved, SAVED)
            state = select(active, new, state, STATES)
        else:
            shown = new
            state = new
        if HAS_RESETS:
            state = select(cut[:, None], START(nothing), state, STATES)
        if not SOLO:
            if step + 1 < end:
                to = wire_out + (after(slot, SLOT, 1) if FLAG else SLOT - slot)
                tell(to, operand(within(state[0], mask_h, H, RESTS), DTYPE), stores, counter_ptr, WARPS, FLAG)
            if FLAG:
                settle(wire_out, stores, slot, counter_ptr, step - begin, SLOT, INNER_AT, 1 + INNER, WARPS)
            slot = after(slot, SLOT, 1) if FLAG else SLOT - slot
        # What follows is not on the way to the next step's h.
        if HAS_RESETS:
            cut = load_cut(resets_ptr, t_next + 1 - 2 * d, offs_b, only_if(step + 2 < end, there), length, d, B)
        store_tiles(h_at, H, shown[:1], mask, 1)
        h_at += ahead
        if STORE_CELLS:
            store_tiles(cells_at, H, shown[1:], mask, STATES - 1)
            cells_at += ahead * (STATES - 1)
        if STORE_SAVED:
            store_tiles(saved_at, H, saved, mask, SAVED)
            saved_at += ahead * SAVED
    store_tiles(state_pointers(carry_out_ptr, offs_b, p, B, H)[:, None] + own, state_stride, state, mask, STATES)
    if HAS_LENGTHS:
        fill_idle(h_ptr, 1, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
        if STORE_CELLS:
            fill_idle(cells_ptr, STATES - 1, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
        if STORE_SAVED:
            fill_idle(saved_ptr, SAVED, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
