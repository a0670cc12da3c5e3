"""The backward scan of `fastrnn.kernels.triton.backward`, for few rows, layouts said; see `forward.py`.

Programs gather: what is handed over is dr, of all gates, of which R^T makes each program's dh. Or they SCATTER
(`parts.py`): each sends the others what its own dr adds to theirs.
"""

from fastrnn.kernels.gluon.flags import SLOTS, after, firsts, hand_over, settle, tell
from fastrnn.kernels.gluon.language import barrier, gl, gluon
from fastrnn.kernels.gluon.parts import SIZE, load_sent, part_offsets, send_parts, sum_parts
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
from fastrnn.kernels.gluon.wire import arrive, place, wait
from fastrnn.kernels.triton.rows import (
    active_steps,
    fill_idle,
    first_time,
    load_cut,
    state_at,
    state_pointers,
    tile_pointer,
)
from fastrnn.kernels.triton.sync import COUNTER_STRIDE
from fastrnn.kernels.triton.tiles import (
    add_tiles,
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


@gluon.jit
def _load_step(
    dout_at, dcells_at, saved_at, H: gl.constexpr, STATES: gl.constexpr, SAVED: gl.constexpr, HAS_DOUT: gl.constexpr,
    HAS_DCELLS: gl.constexpr,
):  # fmt: skip
    """What a step needs of memory besides states: each tile for itself, as who owns a pair has it from there."""
    dout = ()
    if HAS_DOUT:
        dout = load_raw(dout_at, H, None, 1)
    dcells = ()
    if HAS_DCELLS:
        dcells = load_raw(dcells_at, H, None, STATES - 1)
    return dout, dcells, load_raw(saved_at, H, None, SAVED)


@gluon.jit
def _load_before(
    h_at, cells_at, h0_at, cells0_at, h_ptr, cells_ptr, h0_ptr, cells0_ptr, t, step, first, row0, offs_b, at, units, p,
    B, T, d, H: gl.constexpr, P: gl.constexpr, STATES: gl.constexpr, SCATTERED: gl.constexpr,
):  # fmt: skip
    """This program's units of the state before `step`, which is at t, in their dtypes."""
    if SCATTERED:
        # A row that is not active yet has no slot before t = T - 1; any slot will do for it.
        before = gl.maximum(gl.minimum(t - 1 + 2 * d, T - 1), 0)
        return state_at(
            h_ptr, cells_ptr, h0_ptr, cells0_ptr, before, step, first == t, row0.to(gl.int64), offs_b.to(gl.int64), at,
            units, None, p, B,
            H, P, STATES, SCATTERED,
        )  # fmt: skip
    else:
        state = load_raw(gl.where(step == 0, h0_at, h_at), H, None, 1)
        if STATES > 1:
            state = state + load_raw(gl.where(step == 0, cells0_at, cells_at), H, None, STATES - 1)
        return state


@gluon.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def gluon_bwd_kernel(
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
    carry_in_ptr,  # (STATES, P, B, H): gradient of the state after step1 - 1
    carry_out_ptr,  # (STATES, P, B, H): gradient of the state before step0, less what dr[step0] adds
    dvectors_ptr,  # (VECTORS, P, B, H): gradient of the vectors from each row, added to; or unused
    dx_ptr,  # (T, B, P, GATES, H): gradient of the gates' input part; unused where it equals dr
    dr_ptr,  # (T, B, P, GATES, H): gradient of the gates' recurrent part
    wire_ptr,  # (batch tiles, P, 2, GATES, rows / 16, K / 16, 256) zeros; FLAG: SLOTS for 2, ones; SCATTER: (batch
    # tiles, P, 2, READERS, writers, 256); SOLO: unused
    counter_ptr,  # (batch tiles * P * COUNTER_STRIDE,) int32 zeros; SOLO: unused
    T,
    B,
    step0,
    step1,
    batch0,
    H: gl.constexpr,
    D: gl.constexpr,
    HEADS: gl.constexpr,
    BWD: gl.constexpr,
    INNER_BWD: gl.constexpr,
    START: gl.constexpr,
    GATES: gl.constexpr,
    STATES: gl.constexpr,
    SAVED: gl.constexpr,
    INNER: gl.constexpr,
    RESTS: gl.constexpr,
    VECTORS: gl.constexpr,
    CONSTANTS: gl.constexpr,
    HAS_DOUT: gl.constexpr,
    HAS_DCELLS: gl.constexpr,
    HAS_LENGTHS: gl.constexpr,
    HAS_RESETS: gl.constexpr,
    STORE_DX: gl.constexpr,
    PHASE: gl.constexpr,
    SOLO: gl.constexpr,
    BLOCK_B: gl.constexpr,
    BLOCK_H: gl.constexpr,
    NUM_K: gl.constexpr,
    WARPS: gl.constexpr,
    SCATTER: gl.constexpr,
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
    SEND: gl.constexpr = None,
    PART: gl.constexpr = None,
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
        held, kept = load_whole(weight_ptr, H, 1, H, GATES, BLOCK_H, WARPS, HELD, MMA, KEPT)
    elif SCATTER:
        READERS: gl.constexpr = NUM_K * WARPS
        held, kept = load_sent(weight_ptr, first_unit, H, GATES, READERS, WARPS, HELD, SEND, PART)
    else:
        held, kept = load_weights(weight_ptr, first_unit, H, 1, H, GATES, BLOCK_H, NUM_K, WARPS, HELD, MMA, KEPT)
    SCATTERED: gl.constexpr = HAS_LENGTHS and D == 2  # rows that start at different steps
    vectors = load_tiles(vectors_ptr + p * (VECTORS * H) + units, H, None, VECTORS, gl.float32)
    there = offs_b >= 0  # all of them
    first, length = first_time(lengths_ptr, offs_b, there, d, T, HAS_LENGTHS)
    begin, end = active_steps(length, d, T, step0, step1, HAS_LENGTHS)
    nothing = gl.zeros([BLOCK_B, BLOCK_H], gl.float32, OWN)

    if SOLO:
        shared = allocate(GATES, DTYPE, [BLOCK_B, BLOCK_H], SHARED)
        followed = ()
        for _ in gl.static_range(OUTER):
            followed = followed + (nothing.to(DTYPE),)
    else:
        counter_ptr += (tile * P + p) * COUNTER_STRIDE
        if SCATTER:
            SLOT: gl.constexpr = READERS * READERS * SIZE
            wire_ptr += gl.cast(tile * P + p, gl.int64) * (2 * SLOT)
            me = gl.program_id(0)
            wire_in = wire_ptr + me * (READERS * SIZE)
            thread = part_offsets(WARPS, SIZE, PART, DTYPE)
            wire_out = wire_ptr + me * SIZE + part_offsets(WARPS, READERS * SIZE, PART, DTYPE)
            shared = allocate(GATES, DTYPE, [BLOCK_B, BLOCK_H], SHARED)
        else:
            WIDTH: gl.constexpr = 16 * NUM_K * WARPS
            OPERAND: gl.constexpr = BLOCK_B * WIDTH  # from one gate's to the next's
            SLOT: gl.constexpr = GATES * OPERAND
            wire_ptr += gl.cast(tile * P + p, gl.int64) * ((SLOTS if FLAG else 2) * SLOT)
            wire_in = wire_ptr + wire_offsets(WARPS, BLOCK_B, NUM_K, WIRE, DTYPE, FLAG)
            wire_out = wire_ptr + place(in_tile[:, None], offs_h[None, :], WIDTH, DTYPE)
            stores = firsts(BLOCK_B, BLOCK_H, DTYPE, WARPS, OWN) if FLAG else None
            if FLAG:
                for g in gl.static_range(OUTER):
                    hand_over(wire_out + g * OPERAND, nothing.to(DTYPE), stores)
        partial = allocate_partial(1, WARPS, BLOCK_B, BLOCK_H, PARTIAL, FLAG)

    dstate = load_tiles(
        state_pointers(carry_in_ptr, offs_b, p, B, H)[:, None] + own, state_stride, None, STATES, gl.float32
    )
    dvectors_rows = state_pointers(dvectors_ptr, offs_b, p, B, H)
    dvectors = load_tiles(dvectors_rows[:, None] + own, state_stride, None, VECTORS, gl.float32)
    # Pointers of each tensor, that go from step to step, as in `forward.py`; the states' are a step behind.
    t = gl.maximum(gl.minimum(gl.where(d == 0, end - 1, T - end), T - 1), 0)
    back = gl.where(d == 0, -1, 1) * state_stride
    h0_at = h0_ptr + (row0.to(gl.int64) * P + p) * H + (at * (P * H) + own)
    cells0_at = cells0_ptr + (row0.to(gl.int64) * P + p) * ((STATES - 1) * H) + (at * (P * (STATES - 1) * H) + own)
    h_at = tile_pointer(h_ptr, t, row0, p, B, P, H) + (at * (P * H) + own)
    cells_at = tile_pointer(cells_ptr, t, row0, p, B, P, (STATES - 1) * H) + (at * (P * (STATES - 1) * H) + own)
    dout_at = tile_pointer(dout_ptr, t, row0, p, B, P, H) + (at * (P * H) + own)
    dcells_at = tile_pointer(dcells_ptr, t, row0, p, B, P, (STATES - 1) * H) + (at * (P * (STATES - 1) * H) + own)
    saved_at = tile_pointer(saved_ptr, t, row0, p, B, P, SAVED * H) + (at * (P * SAVED * H) + own)
    dr_at = tile_pointer(dr_ptr, t, row0, p, B, P, GATES * H) + (at * (P * GATES * H) + own)
    dx_at = tile_pointer(dx_ptr, t, row0, p, B, P, GATES * H) + (at * (P * GATES * H) + own)
    state = load_raw(h_at, H, None, 1) + load_raw(cells_at, H, None, STATES - 1)
    state = convert(state, STATES, gl.float32)
    move = gl.where(end - 1 > 0, back, 0)
    h_at += move
    cells_at += move * (STATES - 1)
    ahead = _load_step(dout_at, dcells_at, saved_at, H, STATES, SAVED, HAS_DOUT, HAS_DCELLS)
    state_ahead = _load_before(
        h_at, cells_at, h0_at, cells0_at, h_ptr, cells_ptr, h0_ptr, cells0_ptr, t, end - 1, first, row0, offs_b, at,
        units, p, B, T, d, H, P, STATES, SCATTERED,
    )  # fmt: skip
    if HAS_RESETS:
        cut_ahead = load_cut(resets_ptr, t, offs_b, only_if(begin < end, there), length, d, B)
    slot = 0
    for i in range(end - begin):
        step = end - 1 - i
        t = gl.where(d == 0, step, T - 1 - step)
        dout, dcells, saved = ahead
        saved = convert(saved, SAVED, gl.float32)
        state_prev = convert(state_ahead, STATES, gl.float32)
        earlier = gl.maximum(step - 1, begin)
        t_next = gl.where(d == 0, earlier, T - 1 - earlier)
        move = gl.where(step > begin, back, 0)
        dout_at += move
        dcells_at += move * (STATES - 1)
        saved_at += move * SAVED
        ahead = _load_step(dout_at, dcells_at, saved_at, H, STATES, SAVED, HAS_DOUT, HAS_DCELLS)
        move = gl.where(earlier > 0, move, 0)
        h_at += move
        cells_at += move * (STATES - 1)
        state_ahead = _load_before(
            h_at, cells_at, h0_at, cells0_at, h_ptr, cells_ptr, h0_ptr, cells0_ptr, t_next, earlier, first, row0,
            offs_b, at, units, p, B, T, d, H, P, STATES, SCATTERED,
        )  # fmt: skip
        if HAS_RESETS:
            cut = cut_ahead
            cut_ahead = load_cut(resets_ptr, t_next, offs_b, there, length, d, B)
        arrivals = i * (1 + INNER) * gl.num_programs(0)
        active = (t < length)[:, None]
        if HAS_RESETS:
            before = select(cut[:, None], START(nothing), state_prev, STATES)
        else:
            before = state_prev
        given = step_given(vectors, constants_ptr, t, offs_b, t < length, B, VECTORS, CONSTANTS, gl.float32)
        if HAS_DOUT:
            dout = convert(dout, 1, gl.float32)
            if HAS_LENGTHS:
                dout = keep(active, dout, 1)
            dstate = (dstate[0] + dout[0],) + dstate[1:]
        if HAS_DCELLS:
            dcells = convert(dcells, STATES - 1, gl.float32)
            if HAS_LENGTHS:
                dcells = keep(active, dcells, STATES - 1)
            dstate = dstate[:1] + add_tiles(dstate[1:], dcells, STATES - 1)

        if SOLO:
            dh = contract_own(
                shared[:OUTER], followed, held, kept, 0, OUTER, OUTER, 1,
                BLOCK_B, BLOCK_H, WARPS, HELD, MMA, KEPT, OWN,
            )  # fmt: skip
        else:
            if not FLAG:
                wait(counter_ptr, arrivals)
            if SCATTER:
                dh = sum_parts(
                    wire_in + slot,
                    thread,
                    in_tile[:, None],
                    offs_h[None, :] & 15,
                    partial,
                    READERS,
                    WARPS,
                    MMA,
                    SUM,
                    OWN,
                    PART,
                )
            else:
                dh = contract_wire(
                    wire_in + slot, partial, held, kept, GATES, 0, OUTER, OUTER, 1, 2, BLOCK_B, BLOCK_H, NUM_K, WARPS,
                    HELD, IN_FLIGHT, MMA, KEPT, SUM, OWN, FLAG, WIRE,
                )  # fmt: skip
        dstate = (dstate[0] + dh[0],) + dstate[1:]

        if INNER:
            dinner = INNER_BWD(dstate, saved, before, state, given, FAST)
            if HAS_LENGTHS:
                dinner = gl.where(active, dinner, 0.0)
            inner = operand(within(dinner, mask_h, H, RESTS), DTYPE)
            if SOLO:
                through = contract_own(
                    shared[OUTER:], (inner,), held, kept, OUTER, INNER, INNER, 1,
                    BLOCK_B, BLOCK_H, WARPS, HELD, MMA, KEPT, OWN,
                )  # fmt: skip
            else:
                tell(wire_out + (slot + OUTER * OPERAND), inner, stores, counter_ptr, WARPS, FLAG)
                if FLAG:
                    barrier()
                else:
                    wait(counter_ptr, arrivals + gl.num_programs(0))
                through = contract_wire(
                    wire_in + (slot + OUTER * OPERAND), partial, held, kept, GATES, OUTER, INNER, INNER, 1, 2, BLOCK_B,
                    BLOCK_H, NUM_K, WARPS, HELD, IN_FLIGHT, MMA, KEPT, SUM, OWN, FLAG, WIRE,
                )  # fmt: skip
            dx, dr, dprev, dgiven = BWD(dstate, saved, before, state, given, through[0], FAST)
        else:
            dx, dr, dprev, dgiven = BWD(dstate, saved, before, state, given, FAST)
        if HAS_RESETS:
            uncut = (cut == 0)[:, None]
            dprev = keep(uncut, dprev, STATES)
        if HAS_LENGTHS:
            dx = keep(active, dx, GATES)
            dr = keep(active, dr, GATES)
            dprev = select(active, dprev, dstate, STATES)
            dgiven = keep(active, dgiven, VECTORS)
        dstate = dprev
        dvectors = add_tiles(dvectors, dgiven, VECTORS)
        dr = convert(dr, GATES, DTYPE)
        # What reaches the step before through R: nothing where a sequence starts, or a row (that of its first step is
        # the launcher's business).
        followed = ()
        for g in gl.static_range(OUTER):
            handed = operand(within(dr[g], mask_h, H, RESTS), DTYPE)
            if HAS_RESETS:
                handed = gl.where(uncut, handed, 0.0)
            if HAS_LENGTHS:
                handed = gl.where((first != t)[:, None], handed, 0.0)
            followed = followed + (handed,)
        if not SOLO:
            if step > begin:
                to = wire_out + (after(slot, SLOT, 1) if FLAG else SLOT - slot)
                if FLAG:
                    for g in gl.static_range(OUTER):
                        hand_over(to + g * OPERAND, followed[g], stores)
                elif SCATTER:
                    send_parts(to, followed, shared, held, kept, GATES, READERS, WARPS, HELD, SEND, PART)
                else:
                    store_tiles(to, OPERAND, followed, None, OUTER)
                if not FLAG:
                    arrive(counter_ptr, 32 * WARPS - 1)
            if FLAG:
                settle(wire_out, stores, slot, counter_ptr, i, SLOT, OPERAND, GATES, WARPS)
        store_tiles(dr_at, H, dr, mask, GATES)
        dr_at += back * GATES
        if STORE_DX:
            store_tiles(dx_at, H, dx, mask, GATES)
            dx_at += back * GATES
        state = state_prev
        if not SOLO:
            slot = after(slot, SLOT, 1) if FLAG else SLOT - slot
    # Several threads may have loaded one element that one of them overwrites: the gradient of the last state is where
    # that of the first comes.
    barrier()
    store_tiles(state_pointers(carry_out_ptr, offs_b, p, B, H)[:, None] + own, state_stride, dstate, mask, STATES)
    store_tiles(dvectors_rows[:, None] + own, state_stride, dvectors, mask, VECTORS)
    if HAS_LENGTHS:
        fill_idle(dr_ptr, GATES, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
        if STORE_DX:
            fill_idle(dx_ptr, GATES, begin, end, step0, step1, offs_b, offs_h, mask, p, T, B, H, P, HEADS)
