"""The launchers: `scan_fwd` and `scan_bwd` allocate what a kernel writes, `launch_fwd` and `launch_bwd` launch it.

Plain functions of tensors: nothing here records gradients, chooses a configuration or knows a layer.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.choice import RefusedError, SpillsError
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream
from fastrnn.kernels.triton.backward import scan_bwd_kernel
from fastrnn.kernels.triton.constants import (
    launch_options,
    phases,
    scan_constants,
    starts_elsewhere,
    steps,
    wide_constants,
)
from fastrnn.kernels.triton.forward import scan_fwd_kernel
from fastrnn.kernels.triton.sync import COUNTER_STRIDE
from fastrnn.kernels.triton.wide_backward import wide_bwd_kernel
from fastrnn.kernels.triton.wide_forward import wide_fwd_kernel

_ALIGNMENT = 16  # bytes, the widest load there is
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# What the driver says of a grid whose programs cannot all run at once, and of a program for which there is no room.
_REFUSALS = ("too many blocks in cooperative launch", "too many resources requested for launch")


class ForwardBuffers(NamedTuple):
    """What a forward launch has besides its inputs; shapes as in `scan_fwd_kernel`. What is None is not stored.

    Attributes:
        carry_in, carry_out: the states before the first step and after the last; one tensor where steps are launched.
        output, cells, saved: results.
        inner: `inner_operand`.
        counter: `counters`.
    """

    carry_in: Tensor
    carry_out: Tensor
    output: Tensor
    inner: Tensor | None
    cells: Tensor | None
    saved: Tensor | None
    counter: Tensor


class BackwardBuffers(NamedTuple):
    """The same of a backward launch; shapes as in `scan_bwd_kernel`."""

    carry_in: Tensor
    carry_out: Tensor
    dvectors: Tensor | None
    dx: Tensor
    dr: Tensor
    parts: Tensor | None
    counter: Tensor


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@functools.cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _aligned(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy where it starts at an address that `rows.either_row` does not reckon with: a view may."""
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def exchange_buffer(config: LaunchConfig, *shape: int, like: Tensor) -> Tensor:
    """What the programs exchange; under "flag" every element starts as the all-ones pattern (sync.py)."""
    buffer = like.new_empty(shape)
    if config.exchange == "flag":
        buffer.view(_BITS[buffer.element_size()]).fill_(-1)
    return buffer


def inner_operand(counts: Counts, config: LaunchConfig, like: Tensor) -> Tensor | None:
    """What the inner gate multiplies, `(T, B, P, H)`, for input parts like `like`; None where nobody else reads it."""
    T, B, P, _, H = like.shape
    return exchange_buffer(config, T, B, P, H, like=like) if counts.inner and not config.alone else None


def by_row(states: Tensor, dtype: torch.dtype) -> Tensor:
    """States `(STATES, P, B, H)` as a time step has them, `(B, P, STATES, H)`: what the kernels for many rows read."""
    return states.permute(2, 1, 0, 3).to(dtype).contiguous()


def parts_buffer(config: LaunchConfig, like: Tensor) -> Tensor | None:
    """What the programs of a wide backward send each other, for an output like `like`; None where they gather."""
    if not config.scatter:
        return None
    _, B, P, H = like.shape
    tiles = min(-(-B // config.block_b), config.batch_tiles)
    return like.new_empty((2, tiles, P, -(-H // config.block_h), config.block_b, config.num_k * config.block_k))


def counters(config: LaunchConfig, batch: int, groups: int, like: Tensor) -> Tensor:
    """The barrier's counters, `(waves, ...)`, one per batch tile and group; any tensor where there is none."""
    if config.exchange != "barrier":
        return like
    tiles = -(-batch // config.block_b)
    waves = -(-tiles // config.batch_tiles)
    size = min(tiles, config.batch_tiles) * groups * COUNTER_STRIDE.value
    return torch.zeros(waves, size, dtype=torch.int32, device=like.device)


def spilled_words(kernel: Any) -> int:
    """How many registers a kernel that Triton compiled spills to memory; 0 for what its interpreter compiled: None."""
    if kernel is None:
        return 0
    kernel = kernel.result() if hasattr(kernel, "result") else kernel  # compiled in another thread
    kernel.run  # noqa: B018  # loads it, whereupon the driver says
    return int(kernel.n_spills)


def _launch(
    kernel: Any,
    config: LaunchConfig,
    pointers: dict[str, Tensor],
    counter: Tensor,
    sizes: tuple[int, int, int, int],
    backward: bool,
    order: tuple[str, ...],
    constants: dict[str, Any],
    spill_limit: int | None,
) -> None:
    """Launch `kernel` over all T steps and all B rows of `sizes` (T, B, P, H), in processing order, each step in the
    phases of `order`.

    With a `spill_limit` it is compiled first, and SpillsError is raised instead where it spills more than that.

    Under the persistent schedule each wave of batch tiles is one launch; a launch whose programs wait for each other is
    cooperative, so a grid that does not fit is refused by the driver rather than left hanging.
    """
    T, B, P, H = sizes
    units = -(-H // config.block_h)
    tiles = -(-B // config.block_b)
    if config.schedule == "persistent":
        spans = [(0, T)]
    else:
        spans = [(step, step + 1) for step in (reversed(range(T)) if backward else range(T))]
    given = {**pointers, "T": T, "B": B, **constants, **launch_options(config)}
    device = counter.device
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            if spill_limit is not None:
                start = {"counter_ptr": counter, "step0": 0, "step1": 1, "batch0": 0, "grid": (1, 1, 1)}
                words = sum(spilled_words(kernel.warmup(**given, **start, PHASE=phase)) for phase in order)
                if words > spill_limit:
                    raise SpillsError(words)
            for step0, step1 in spans:
                for wave, tile0 in enumerate(range(0, tiles, config.batch_tiles)):
                    grid = (units, min(config.batch_tiles, tiles - tile0), P)
                    arrivals = counter[wave] if config.exchange == "barrier" else counter
                    first = tile0 * config.block_b
                    for phase in order:
                        kernel[grid](**given, counter_ptr=arrivals, step0=step0, step1=step1, batch0=first, PHASE=phase)
    except OutOfResources as error:
        raise RefusedError(str(error)) from error
    except RuntimeError as error:
        if any(words in str(error) for words in _REFUSALS):
            raise RefusedError(str(error)) from error
        raise


def _flags(resets: Tensor | None, unused: Tensor) -> Tensor:
    """`resets` as integers: Triton's pointers to booleans are to single bits."""
    return unused if resets is None else resets.view(torch.int8)


def launch_fwd(
    inputs: Inputs,
    buffers: ForwardBuffers,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    spill_limit: int | None = None,
) -> None:
    """Launch the forward scan on given tensors."""
    x, weight, bias, state, lengths, resets, vectors, constants, heads = inputs
    T, B, P, _, H = x.shape
    order = phases(counts, config)
    outer = x
    if len(order) > 1:
        outer = x.new_empty((counts.gates - counts.inner, P, B, H), dtype=_accumulator(x.dtype))
    carry_in, carry_out, output, inner, cells, saved, counter = buffers
    start = x.new_full((H,), counts.initial[0]) if resets is not None and starts_elsewhere(counts) else None
    # A pointer that the kernel's flags leave unused still has to be one: x stands in.
    pointers = {
        "x_ptr": x,
        "weight_ptr": weight,
        "bias_ptr": x if bias is None else bias,
        "h0_ptr": _aligned(by_row(state[:1], x.dtype) if config.wide else state[0].to(x.dtype)),
        "lengths_ptr": x if lengths is None else lengths,
        "resets_ptr": _flags(resets, x),
        "vectors_ptr": x if vectors is None else vectors,
        "constants_ptr": x if constants is None else constants,
        "start_ptr": x if start is None else start,
        "carry_in_ptr": carry_in,
        "carry_out_ptr": carry_out,
        "h_ptr": output,
        "inner_ptr": x if inner is None else inner,
        "outer_ptr": outer,
        "cells_ptr": x if cells is None else cells,
        "saved_ptr": x if saved is None else saved,
    }
    compiled = {
        **scan_constants(counts, config, H, P // heads, precision, _name(x.dtype), heads),
        **steps(counts, False),
        "HAS_BIAS": bias is not None,
        "HAS_LENGTHS": lengths is not None,
        "HAS_RESETS": resets is not None,
        "HAS_START": starts_elsewhere(counts),
        "STORE_CELLS": cells is not None,
        "STORE_SAVED": saved is not None,
    }
    sizes = (T, B, P, H)
    kernel = scan_fwd_kernel
    if config.wide:
        kernel, compiled = wide_fwd_kernel, compiled | wide_constants(counts, config, False)
    _launch(kernel, config, pointers, counter, sizes, False, order, compiled, spill_limit)


def launch_bwd(
    upstream: Upstream,
    kept: Kept,
    buffers: BackwardBuffers,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    spill_limit: int | None = None,
) -> None:
    """Launch the backward scan on given tensors."""
    dout, _, dcells = upstream
    weight, state, lengths, resets, output, cells, saved, vectors, constants, heads = kept
    carry_in, carry_out, dvectors, dx, dr, parts, counter = buffers
    T, B, P, H = output.shape
    output = _aligned(output)
    pointers = {
        "dout_ptr": output if dout is None else dout,
        "dcells_ptr": output if dcells is None else dcells,
        "weight_ptr": weight,
        "lengths_ptr": output if lengths is None else lengths,
        "resets_ptr": _flags(resets, output),
        "vectors_ptr": output if vectors is None else vectors,
        "constants_ptr": output if constants is None else constants,
        "dvectors_ptr": carry_in if dvectors is None else dvectors,
        "h_ptr": output,
        "cells_ptr": _aligned(cells),
        "saved_ptr": saved,
        "carry_in_ptr": carry_in,
        "carry_out_ptr": carry_out,
        "dx_ptr": dx,
        "dr_ptr": dr,
    }
    if config.wide:
        pointers["h0_ptr"] = _aligned(by_row(state[:1], output.dtype))
        pointers["cells0_ptr"] = _aligned(by_row(state[1:], state.dtype))
        pointers["parts_ptr"] = dr if parts is None else parts
    else:
        pointers["h0_ptr"] = output if state.dtype == output.dtype else state[0].to(output.dtype)
        pointers["state_ptr"] = _aligned(state)
    compiled = {
        **scan_constants(counts, config, H, P // heads, precision, _name(output.dtype), heads),
        **steps(counts, True),
        "HAS_DOUT": dout is not None,
        # A cell whose only state is h has no others for a gradient to come to.
        "HAS_DCELLS": dcells is not None and counts.states > 1,
        "HAS_LENGTHS": lengths is not None,
        "HAS_RESETS": resets is not None,
        "STORE_DX": counts.splits_bias,
    }
    order, sizes = phases(counts, config), (T, B, P, H)
    kernel = scan_bwd_kernel
    if config.wide:
        kernel, compiled = wide_bwd_kernel, compiled | wide_constants(counts, config, True)
    _launch(kernel, config, pointers, counter, sizes, True, order, compiled, spill_limit)


def scan_fwd(
    inputs: Inputs,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    save: bool,
    cells: bool,
    spill_limit: int | None = None,
) -> Results:
    """Run the forward scan.

    Args:
        inputs: all of them contiguous.
        counts, config, precision: the cell, how to launch it, and the `input_precision` of float32 products.
        save: whether to keep what backward needs.
        cells: whether to keep the cells without that.
        spill_limit: how many registers the kernel may spill; None for any number.

    Raises:
        SpillsError: the kernel spills more than `spill_limit`.
        RefusedError: there is no room for the launch.
    """
    x, state = inputs.x, inputs.state
    T, B, P, _, H = x.shape
    persistent = config.schedule == "persistent"
    carry_in = state if persistent else state.to(_accumulator(x.dtype), copy=True)
    buffers = ForwardBuffers(
        carry_in,
        torch.empty_like(state) if persistent else carry_in,
        exchange_buffer(config, T, B, P, H, like=x),
        inner_operand(counts, config, x),
        state.new_empty((T, B, P, counts.states - 1, H)) if save or cells else None,
        state.new_empty((T, B, P, counts.saved, H)) if save else None,
        counters(config, B, P, x),
    )
    launch_fwd(inputs, buffers, counts, config, precision, spill_limit)
    return Results(
        buffers.output,
        buffers.carry_out.to(state.dtype),
        state.new_empty(0) if buffers.cells is None else buffers.cells,
        state.new_empty(0) if buffers.saved is None else buffers.saved,
    )


def scan_bwd(
    upstream: Upstream,
    kept: Kept,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    spill_limit: int | None = None,
) -> Gradients:
    """Run the backward scan; arguments, and what is raised, as of `scan_fwd`, which is to have saved."""
    output, state = kept.output, kept.state
    T, B, P, H = output.shape
    accumulator = _accumulator(output.dtype)
    persistent = config.schedule == "persistent"
    if upstream.final is None:
        carry_in = state.new_zeros(state.shape, dtype=accumulator)
    else:
        carry_in = upstream.final.to(accumulator, copy=not persistent)
    dr = exchange_buffer(config, T, B, P, counts.gates, H, like=output)
    buffers = BackwardBuffers(
        carry_in,
        torch.empty_like(carry_in) if persistent else carry_in,
        state.new_zeros((counts.vectors, *state.shape[1:]), dtype=accumulator) if counts.vectors else None,
        torch.empty_like(dr) if counts.splits_bias else dr,
        dr,
        parts_buffer(config, output),
        counters(config, B, P, output),
    )
    launch_bwd(upstream, kept, buffers, counts, config, precision, spill_limit)
    dstate = buffers.carry_out
    dstate[0] += first_step(dr, kept, counts)
    dvectors = None
    if kept.vectors is not None and buffers.dvectors is not None:
        dvectors = buffers.dvectors.sum(2).transpose(0, 1).to(kept.vectors.dtype)
    return Gradients(buffers.dx, dr, dstate.to(state.dtype), dvectors)


def first_step(dr: Tensor, kept: Kept, counts: Counts) -> Tensor:
    """What reaches h0 through the matmul of each row's first step, `(P, B, H)`: the backward kernel leaves it out.

    In the kernel it would take one more exchange; here it is one matrix product.
    """
    (B, P), outer, heads = dr.shape[1:3], counts.gates - counts.inner, kept.heads
    rows = []
    for p in range(P):
        d = p // heads
        if d == 1 and kept.lengths is not None:
            # A row of length 0 has no first step, and no dr anywhere.
            first = dr[(kept.lengths.long() - 1).clamp(min=0), torch.arange(B, device=dr.device), p]
        else:
            first = dr[-d, :, p]  # direction 0 starts at t = 0, direction 1 at T - 1
        if d == 0 and kept.resets is not None:
            first = first.masked_fill(kept.resets[0].view(B, 1, 1), 0)
        rows.append(first[:, :outer])
    starts, weight = torch.stack(rows), kept.weight[:, :outer]
    if weight.shape[-1] < dr.shape[-1]:
        return (starts * weight.squeeze(-1).unsqueeze(1)).sum(2)
    return starts.flatten(2) @ weight.flatten(1, 2)
