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
* RESIDENT: the program's slice of R is loaded before the time loop, from where the compiler keeps it in shared memory.
  Else it is read again, chunk by chunk, each step.
* SPLIT > 1: the contraction is split over the warps, as a batched dot `[SPLIT, M, K / SPLIT] @ [SPLIT, K / SPLIT, N]`
  summed over SPLIT. With the few rows and columns of one program a plain dot would make every warp repeat all of it.
* K is walked in NUM_K chunks of BLOCK_K; where RESIDENT, the left operands of GROUP chunks are fetched together.
* HAS_LENGTHS: a row at or past its length keeps its state, outputs zero and gets no gradient.

Memory layout: time first, then batch, direction, gate or state, unit. Addresses are 64-bit: T * B * D * GATES * H
passes 2^31 in real use.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from fastrnn.kernels.configs import LaunchConfig
from fastrnn.kernels.counts import Counts
from fastrnn.kernels.sync import COUNTER_STRIDE, arrive, load_exchanged, wait
from fastrnn.kernels.tiles import load_tiles, select, store_exchanged, store_tiles, zeros


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
def contract(
    rows,  # [M] pointers to the left operand's rows
    stride,  # elements between the left operands of two gates
    mask_m,
    written,  # [M]: rows that were complete before this launch
    weights,  # the resident right operands, chunk-major, or ()
    weight_ptr,
    offs_n,
    stride_k,
    stride_n,
    H: tl.constexpr,
    GATES: tl.constexpr,
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
    """The recurrent matmul of one step over all of K: OUT tiles [M, N]."""
    if SPLIT == 1:
        acc = zeros([M, N], OUT, ACC)
    else:
        acc = zeros([SPLIT, M, N], OUT, ACC)
    if RESIDENT:
        for group in tl.static_range(0, NUM_K, GROUP):
            left = load_left(rows, stride, group, mask_m, written, H, LEFT, EXCHANGE, BLOCK_K, GROUP, SPLIT)
            for c in tl.static_range(GROUP):
                right = weights[(group + c) * GATES : (group + c + 1) * GATES]
                acc = multiply(left[c * LEFT : (c + 1) * LEFT], right, acc, GATES, LEFT, OUT, PRECISION, OPERAND)
    else:
        for chunk in range(NUM_K):
            offs_k = k_offsets(chunk, BLOCK_K, SPLIT)
            right = load_weights(weight_ptr, offs_k, offs_n, stride_k, stride_n, H, GATES, SPLIT)
            left = load_left(rows, stride, chunk, mask_m, written, H, LEFT, EXCHANGE, BLOCK_K, 1, SPLIT)
            acc = multiply(left, right, acc, GATES, LEFT, OUT, PRECISION, OPERAND)
    if SPLIT == 1:
        return acc
    else:
        out = ()
        for i in tl.static_range(OUT):
            out = out + (tl.sum(acc[i], axis=0),)
        return out


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


@triton.jit
def row_pointers(ptr, t, offs_b, d, B, D: tl.constexpr, WIDTH: tl.constexpr):
    """[BLOCK_B] pointers to time step t of each row in a (T, B, D, WIDTH) tensor."""
    return ptr + ((tl.cast(t, tl.int64) * B + offs_b) * D + d) * WIDTH


@triton.jit
def state_pointers(ptr, offs_b, d, B, H: tl.constexpr):
    """[BLOCK_B] pointers to each row of the first entry of a (STATES, D, B, H) tensor."""
    return ptr + (tl.cast(d, tl.int64) * B + offs_b) * H


@triton.jit
def first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS: tl.constexpr):
    """The time step at which each row starts from its initial state, and its length."""
    if HAS_LENGTHS:
        length = tl.load(lengths_ptr + offs_b, mask=mask_b, other=0)
    else:
        length = tl.zeros_like(offs_b) + T
    return tl.where(d == 0, 0, length - 1), length


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def scan_fwd_kernel(
    x_ptr,  # (T, B, D, GATES, H)
    weight_ptr,  # (D, GATES, H, H)
    bias_ptr,  # (D, GATES, H), or unused
    state_ptr,  # (STATES, D, B, H): the initial state
    lengths_ptr,  # (B,) int32, or unused
    carry_in_ptr,  # (STATES, D, B, H): the state before step0
    carry_out_ptr,  # (STATES, D, B, H): the state after the last step
    h_ptr,  # (T, B, D, H): the output, and what the programs exchange
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
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    STORE: tl.constexpr,
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
    if HAS_BIAS:
        bias = load_tiles(bias_ptr + d * (GATES * H) + offs_h, H, mask_h, GATES, ACC)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)

    own = offs_h[None, :]
    state = load_tiles(state_pointers(carry_in_ptr, offs_b, d, B, H)[:, None] + own, state_stride, mask, STATES, ACC)
    t = tl.where(d == 0, step0, T - 1 - step0)
    x_next = load_tiles(row_pointers(x_ptr, t, offs_b, d, B, D, GATES * H)[:, None] + own, H, mask, GATES, ACC)
    for step in range(step0, step1):
        t = tl.where(d == 0, step, T - 1 - step)
        t_prev = t - 1 + 2 * d
        # The next step's input is on its way while this step waits for h.
        x = x_next
        x_rows = row_pointers(x_ptr, t + 1 - 2 * d, offs_b, d, B, D, GATES * H)
        x_next = load_tiles(x_rows[:, None] + own, H, mask & (step + 1 < step1), GATES, ACC)

        if SOLO:
            h = state[0].to(weight_ptr.dtype.element_ty)
            r = multiply((h,), weights, zeros([BLOCK_B, BLOCK_H], GATES, ACC), GATES, 1, GATES, PRECISION, OPERAND)
        else:
            starts = first == t
            # Rows that are not active are masked: where lengths differ, theirs may lie past the last slot.
            rows = tl.where(
                starts, state_pointers(state_ptr, offs_b, d, B, H), row_pointers(h_ptr, t_prev, offs_b, d, B, D, H)
            )
            wait(counter_ptr, step * tl.num_programs(0), EXCHANGE)
            r = contract(
                rows, 0, mask_b & (t < length), starts, weights, weight_ptr, offs_h, 1, H,
                H, GATES, 1, GATES, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP, SPLIT, PRECISION,
                OPERAND, ACC,
            )  # fmt: skip
        if HAS_BIAS:
            biased = ()
            for g in tl.static_range(GATES):
                biased = biased + (r[g] + bias[g][None, :],)
            r = biased
        new, saved = FWD(x, r, state)
        if HAS_LENGTHS:
            active = (t < length)[:, None]
            output = (tl.where(active, new[0], 0.0),)
            state = select(active, new, state, STATES)
        else:
            output = (new[0],)
            state = new
        store_exchanged(row_pointers(h_ptr, t, offs_b, d, B, D, H)[:, None] + own, 0, output, mask, 1)
        if step + 1 < step1:
            arrive(counter_ptr, EXCHANGE)
        if STORE:
            cells_rows = row_pointers(cells_ptr, t, offs_b, d, B, D, (STATES - 1) * H)
            store_tiles(cells_rows[:, None] + own, H, state[1:], mask, STATES - 1)
            saved_rows = row_pointers(saved_ptr, t, offs_b, d, B, D, SAVED * H)
            store_tiles(saved_rows[:, None] + own, H, saved, mask, SAVED)
    store_tiles(state_pointers(carry_out_ptr, offs_b, d, B, H)[:, None] + own, state_stride, state, mask, STATES)


@triton.jit
def load_state(
    h_ptr, cells_ptr, state_ptr, t, starts, offs_b, own, mask, d, B, state_stride,
    H: tl.constexpr, D: tl.constexpr, STATES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """This program's units of the state after time step t, or of the initial state in rows where `starts`."""
    initial = state_pointers(state_ptr, offs_b, d, B, H)
    h_rows = tl.where(starts, initial, row_pointers(h_ptr, t, offs_b, d, B, D, H))
    state = load_tiles(h_rows[:, None] + own, 0, mask, 1, ACC)
    cells = row_pointers(cells_ptr, t, offs_b, d, B, D, (STATES - 1) * H)
    for s in tl.static_range(1, STATES):
        rows = tl.where(starts, initial + s * state_stride, cells + (s - 1) * H)
        state = state + load_tiles(rows[:, None] + own, 0, mask, 1, ACC)
    return state


@triton.jit
def load_step(
    dout_ptr, h_ptr, cells_ptr, saved_ptr, state_ptr, t, first, offs_b, own, mask, d, T, B, state_stride,
    H: tl.constexpr, D: tl.constexpr, STATES: tl.constexpr, SAVED: tl.constexpr, HAS_DOUT: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """What the backward step at t needs and no other program computes: dy_t, what forward saved, the state before t."""
    if HAS_DOUT:
        dout = load_tiles(row_pointers(dout_ptr, t, offs_b, d, B, D, H)[:, None] + own, 0, mask, 1, ACC)
    else:
        dout = zeros(mask.shape, 1, ACC)
    saved = load_tiles(row_pointers(saved_ptr, t, offs_b, d, B, D, SAVED * H)[:, None] + own, H, mask, SAVED, ACC)
    # In the reverse direction a row that is not active yet has no slot before t = T - 1; any slot will do for it.
    state_prev = load_state(
        h_ptr, cells_ptr, state_ptr, tl.minimum(t - 1 + 2 * d, T - 1), first == t, offs_b, own, mask, d, B,
        state_stride, H, D, STATES, ACC,
    )  # fmt: skip
    return dout, saved, state_prev


@triton.jit(do_not_specialize=["T", "B", "step0", "step1", "batch0"])
def scan_bwd_kernel(
    dout_ptr,  # (T, B, D, H): gradient of the output, or unused
    weight_ptr,  # (D, GATES, H, H)
    state_ptr,  # (STATES, D, B, H): the initial state
    lengths_ptr,  # (B,) int32, or unused
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
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    HAS_DOUT: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    STORE_DX: tl.constexpr,
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
    d = tl.program_id(2)
    offs_b = batch0 + tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_h = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_b = offs_b < B
    mask = mask_b[:, None] & (offs_h < H)[None, :]
    counter_ptr += (tl.program_id(1) * D + d) * COUNTER_STRIDE
    state_stride = tl.cast(B, tl.int64) * (D * H)

    # The transpose of forward's operand: gate g's row k, for unit n, is at weight_ptr + g * H * H + k * H + n.
    weight_ptr += tl.cast(d, tl.int64) * (GATES * H * H)
    weights = load_resident(weight_ptr, offs_h, H, 1, H, GATES, RESIDENT, BLOCK_K, NUM_K, SPLIT)
    first, length = first_time(lengths_ptr, offs_b, mask_b, d, T, HAS_LENGTHS)

    own = offs_h[None, :]
    dstate = load_tiles(state_pointers(carry_in_ptr, offs_b, d, B, H)[:, None] + own, state_stride, mask, STATES, ACC)
    t = tl.where(d == 0, step1 - 1, T - step1)
    state = load_state(
        h_ptr, cells_ptr, state_ptr, t, offs_b < 0, offs_b, own, mask, d, B, state_stride, H, D, STATES, ACC
    )
    ahead = load_step(
        dout_ptr, h_ptr, cells_ptr, saved_ptr, state_ptr, t, first, offs_b, own, mask, d, T, B, state_stride,
        H, D, STATES, SAVED, HAS_DOUT, ACC,
    )  # fmt: skip
    if SOLO:
        dr_rows = row_pointers(dr_ptr, t + 1 - 2 * d, offs_b, d, B, D, GATES * H)
        dr = load_tiles(dr_rows[:, None] + own, H, mask & (step1 < T), GATES, ACC)
    for i in range(step1 - step0):
        step = step1 - 1 - i
        t = tl.where(d == 0, step, T - 1 - step)
        dout, saved, state_prev = ahead
        ahead = load_step(
            dout_ptr, h_ptr, cells_ptr, saved_ptr, state_ptr, t - 1 + 2 * d, first, offs_b, own,
            mask & (step > step0), d, T, B, state_stride, H, D, STATES, SAVED, HAS_DOUT, ACC,
        )  # fmt: skip

        if SOLO:
            left = ()
            for g in tl.static_range(GATES):
                left = left + (dr[g].to(weight_ptr.dtype.element_ty),)
            dh = multiply(left, weights, zeros([BLOCK_B, BLOCK_H], 1, ACC), GATES, GATES, 1, PRECISION, OPERAND)
        else:
            rows = row_pointers(dr_ptr, t + 1 - 2 * d, offs_b, d, B, D, GATES * H)
            wait(counter_ptr, i * tl.num_programs(0), EXCHANGE)
            # Nothing follows the last step: its mask is empty, and an empty mask waits for nobody.
            dh = contract(
                rows, H, mask_b & (step + 1 < T), offs_b < 0, weights, weight_ptr, offs_h, H, 1,
                H, GATES, GATES, 1, RESIDENT, EXCHANGE, BLOCK_B, BLOCK_H, BLOCK_K, NUM_K, GROUP, SPLIT, PRECISION,
                OPERAND, ACC,
            )  # fmt: skip
        if HAS_LENGTHS:
            active = (t < length)[:, None]
            dout = (tl.where(active, dout[0], 0.0),)
        dstate = (dstate[0] + dh[0] + dout[0],) + dstate[1:]
        dx, dr, dprev = BWD(dstate, saved, state_prev, state)
        if HAS_LENGTHS:
            nothing = zeros([BLOCK_B, BLOCK_H], GATES, ACC)
            dx = select(active, dx, nothing, GATES)
            dr = select(active, dr, nothing, GATES)
            dprev = select(active, dprev, dstate, STATES)
        dstate = dprev
        state = state_prev
        store_exchanged(row_pointers(dr_ptr, t, offs_b, d, B, D, GATES * H)[:, None] + own, H, dr, mask, GATES)
        if step > step0:
            arrive(counter_ptr, EXCHANGE)
        if STORE_DX:
            dx_rows = row_pointers(dx_ptr, t, offs_b, d, B, D, GATES * H)
            store_tiles(dx_rows[:, None] + own, H, dx, mask, GATES)
    store_tiles(state_pointers(carry_out_ptr, offs_b, d, B, H)[:, None] + own, state_stride, dstate, mask, STATES)


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


def launch_options(config: LaunchConfig) -> dict[str, Any]:
    """The compile and launch options that go with `config`."""
    return {
        "num_warps": config.num_warps,
        "num_stages": 1,
        # One program has an SM to itself. Without the cap ptxas stops at the register count that would let two share
        # it, and spills a few registers to get there.
        "maxnreg": 255,
        "launch_cooperative_grid": config.exchange != "none",
    }
