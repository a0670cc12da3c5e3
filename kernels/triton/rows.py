"""Where a program's rows lie in memory and in time: pointers, when each row is active, where it is cut, what it reads.

`offs_b` are the rows `[BLOCK_B]` of one batch tile, `own` the units `[1, BLOCK_H]` of one program, `mask` both.
"""

import triton
import triton.language as tl

from fastrnn.kernels.triton.tiles import convert, load, load_packed, unpack, zeros


@triton.jit
def row_pointers(ptr, t, offs_b, p, B, P: tl.constexpr, WIDTH: tl.constexpr):
    """[BLOCK_B] pointers to time step t of each row of group p in a (T, B, P, WIDTH) tensor."""
    return ptr + ((tl.cast(t, tl.int64) * B + offs_b) * P + p) * WIDTH


@triton.jit
def tile_pointer(ptr, t, row0, p, B, P: tl.constexpr, WIDTH: tl.constexpr):
    """To time step t of row `row0` of group p in a (T, B, P, WIDTH) tensor; rows lie P * WIDTH elements apart."""
    return ptr + ((tl.cast(t, tl.int64) * B + row0) * P + p) * WIDTH


@triton.jit
def state_pointers(ptr, offs_b, p, B, H: tl.constexpr):
    """[BLOCK_B] pointers to each row of group p of the first entry of a (STATES, P, B, H) tensor."""
    return ptr + (tl.cast(p, tl.int64) * B + offs_b) * H


@triton.jit
def either_row(condition, yes, no, H: tl.constexpr):
    """`yes` where `condition`, else `no`: pointers to rows that lie whole multiples of H elements behind their tensor's
    start, which is aligned to 16 bytes (launch/scan.py sees to it).

    From Triton 3.8 on the compiler forgets at a selection how pointers are aligned, and would load the rows element by
    element: eight times the instructions, and registers past what there are. So it is told again.
    """
    rows = tl.where(condition, yes, no)
    if H * rows.dtype.element_ty.primitive_bitwidth % 128 == 0:
        rows = tl.multiple_of(rows, 16)
    return rows


@triton.jit
def first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS: tl.constexpr):
    """The time step at which each row starts from its initial state, and its length."""
    if HAS_LENGTHS:
        length = tl.load(lengths_ptr + offs_b, mask=mask_b, other=0)
    else:
        length = offs_b * 0 + T
    return tl.where(d == 0, 0, length - 1), length


@triton.jit
def active_steps(length, d, T, step0, step1, HAS_LENGTHS: tl.constexpr):
    """The steps of `step0 <= step < step1` at which a row of the tile is active: `begin <= step < end`.

    A function of the tile's rows alone, so all the programs that exchange with each other agree on it.
    """
    if HAS_LENGTHS:
        longest = tl.max(length)
        begin = tl.where(d == 0, step0, tl.minimum(tl.maximum(T - longest, step0), step1))
        end = tl.where(d == 0, tl.maximum(tl.minimum(longest, step1), step0), step1)
        return begin, end
    else:
        return step0, step1


@triton.jit
def idle_steps(begin, end, d, step0, step1):
    """The steps that `active_steps` leaves out: they follow the active ones in time, so precede them in direction 1."""
    return tl.where(d == 0, end, step0), tl.where(d == 0, step1, begin)


@triton.jit
def fill_idle(ptr, COUNT: tl.constexpr, begin, end, step0, step1, offs_b, units, mask, p, T, B,
              H: tl.constexpr, P: tl.constexpr, HEADS: tl.constexpr):  # fmt: skip
    """Zero in a (T, B, P, COUNT * H) tensor at the steps that `active_steps` leaves out."""
    d = p // HEADS
    first, last = idle_steps(begin, end, d, step0, step1)
    for step in range(first, last):
        t = tl.where(d == 0, step, T - 1 - step)
        rows = row_pointers(ptr, t, offs_b, p, B, P, COUNT * H)[:, None] + units[None, :]
        for i in tl.static_range(COUNT):
            tl.store(rows + i * H, tl.where(mask, 0.0, 0.0).to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_cut(resets_ptr, t, offs_b, mask_b, length, d, B):
    """[BLOCK_B]: whether a row starts its step at t from zero state: where a sequence starts at t, or, for the reverse
    direction, at the t + 1 that it comes from. A row's own end is no such boundary."""
    start = t + d
    rows = resets_ptr + tl.cast(start, tl.int64) * B + offs_b
    return tl.load(rows, mask=mask_b & (start < length), other=0) != 0


@triton.jit
def load_state(
    h_ptr, cells_ptr, h0_ptr, state_ptr, t, starts, offs_b, own, mask, p, B, state_stride,
    H: tl.constexpr, P: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """This program's units of the state after time step t, or of the initial state in rows where `starts`; in their
    dtypes, for `convert`."""
    initial = state_pointers(state_ptr, offs_b, p, B, H)
    h_initial = initial
    if h_ptr.dtype.element_ty.primitive_bitwidth < state_ptr.dtype.element_ty.primitive_bitwidth:
        h_initial = state_pointers(h0_ptr, offs_b, p, B, H)
    h_rows = either_row(starts, h_initial, row_pointers(h_ptr, t, offs_b, p, B, P, H), H)
    state = (tl.load(h_rows[:, None] + own, mask=mask, other=0.0),)
    cells = row_pointers(cells_ptr, t, offs_b, p, B, P, (STATES - 1) * H)
    for s in tl.static_range(1, STATES):
        rows = either_row(starts, initial + s * state_stride, cells + (s - 1) * H, H)
        state = state + (tl.load(rows[:, None] + own, mask=mask, other=0.0),)
    return state


@triton.jit
def _rows_at(
    ptr, initial_ptr, t, step, starts, row0, offs_b, at, p, B,
    H: tl.constexpr, P: tl.constexpr, WIDTH: tl.constexpr, SCATTERED: tl.constexpr,
):  # fmt: skip
    """[BLOCK_B, 1] pointers for `state_at`, to rows of WIDTH numbers."""
    if SCATTERED:
        initial = initial_ptr + (offs_b * P + p) * WIDTH
        return either_row(starts, initial, row_pointers(ptr, t, offs_b, p, B, P, WIDTH), H)[:, None]
    else:
        tile = tile_pointer(ptr, t, row0, p, B, P, WIDTH)
        if step == 0:
            tile = initial_ptr + (row0 * P + p) * WIDTH
        return tile + at * (P * WIDTH)


@triton.jit
def state_at(
    h_ptr, cells_ptr, h0_ptr, cells0_ptr, t, step, starts, row0, offs_b, at, units, mask, p, B,
    H: tl.constexpr, P: tl.constexpr, STATES: tl.constexpr, SCATTERED: tl.constexpr,
):  # fmt: skip
    """This program's units of the state after time step t, the one before `step`; or of the initial state at the first,
    or, of SCATTERED rows, where `starts`. In their dtypes, for `convert`. `row0` and `offs_b` have 64 bits."""
    rows = _rows_at(h_ptr, h0_ptr, t, step, starts, row0, offs_b, at, p, B, H, P, H, SCATTERED)
    state = (load(rows + units[None, :], mask),)
    if STATES > 1:
        width: tl.constexpr = (STATES - 1) * H
        rows = _rows_at(cells_ptr, cells0_ptr, t, step, starts, row0, offs_b, at, p, B, H, P, width, SCATTERED)
        for s in tl.static_range(1, STATES):
            state = state + (load(rows + ((s - 1) * H + units[None, :]), mask),)
    return state


@triton.jit
def load_step(
    dout_ptr, dcells_ptr, h_ptr, cells_ptr, saved_ptr, h0_ptr, state_ptr, resets_ptr, t, first, length, offs_b, own,
    mask_b, mask, d, p, T, B, state_stride,
    H: tl.constexpr, P: tl.constexpr, STATES: tl.constexpr, SAVED: tl.constexpr, HAS_DOUT: tl.constexpr,
    HAS_DCELLS: tl.constexpr, HAS_RESETS: tl.constexpr,
):  # fmt: skip
    """What the backward step at t needs and no other program computes, for `unpack_step`.

    That is dy_t; the gradient of the other states, () for none; what forward saved; the state before t as if no row
    were cut there, since step t - 1 needs it too; and the rows that are cut, () for none.
    """
    dout = ()
    if HAS_DOUT:
        dout = load_packed(row_pointers(dout_ptr, t, offs_b, p, B, P, H)[:, None] + own, 0, mask, 1)
    dcells = ()
    if HAS_DCELLS:
        dcells_rows = row_pointers(dcells_ptr, t, offs_b, p, B, P, (STATES - 1) * H)
        dcells = load_packed(dcells_rows[:, None] + own, H, mask, STATES - 1)
    saved = load_packed(row_pointers(saved_ptr, t, offs_b, p, B, P, SAVED * H)[:, None] + own, H, mask, SAVED)
    # In the reverse direction a row that is not active yet has no slot before t = T - 1; any slot will do for it.
    state_prev = load_state(
        h_ptr, cells_ptr, h0_ptr, state_ptr, tl.minimum(t - 1 + 2 * d, T - 1), first == t, offs_b, own, mask, p, B,
        state_stride, H, P, STATES,
    )  # fmt: skip
    cut = ()
    if HAS_RESETS:
        cut = (load_cut(resets_ptr, t, offs_b, mask_b, length, d, B),)
    return dout, dcells, saved, state_prev, cut


@triton.jit
def unpack_step(
    step, STATES: tl.constexpr, SAVED: tl.constexpr, HAS_DOUT: tl.constexpr, HAS_DCELLS: tl.constexpr, mask,
    ACC: tl.constexpr,
):  # fmt: skip
    """What `load_step` loaded, in the accumulation dtype; zero for a gradient of the output that there is none of."""
    dout, dcells, saved, state_prev, cut = step
    if HAS_DOUT:
        dout = unpack(dout, 1, ACC)
    else:
        dout = zeros(mask.shape, 1, ACC)
    if HAS_DCELLS:
        dcells = unpack(dcells, STATES - 1, ACC)
    return dout, dcells, unpack(saved, SAVED, ACC), convert(state_prev, STATES, ACC), cut
