"""The launchers: `scan_fwd` and `scan_bwd` allocate what a kernel writes, `launch_fwd` and `launch_bwd` launch it.

Plain functions of tensors: nothing here records gradients, chooses a configuration or knows a layer.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.launch import kernel as which
from fastrnn.kernels.launch.buffers import (
    BackwardBuffers,
    ForwardBuffers,
    accumulator,
    by_row,
    counters,
    exchange_buffer,
    inner_operand,
    parts_buffer,
    reset_wire,
    wires,
)
from fastrnn.kernels.launch.kernel import constants_of
from fastrnn.kernels.plan.choice import RefusedError, SpillsError, UncompiledError
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream
from fastrnn.kernels.triton.constants import launch_options, phases, starts_elsewhere

_ALIGNMENT = 16  # bytes, the widest load there is
# What the driver says of a grid whose programs cannot all run at once, and of a program for which there is no room.
_REFUSALS = ("too many blocks in cooperative launch", "too many resources requested for launch")


@functools.cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _aligned(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy where it starts at an address that `rows.either_row` does not reckon with: a view may."""
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def spilled_words(kernel: Any) -> int:
    """How many registers a kernel that Triton compiled spills to memory; 0 for what its interpreter compiled: None."""
    if kernel is None:
        return 0
    kernel = kernel.result() if hasattr(kernel, "result") else kernel  # compiled in another thread
    kernel.run  # noqa: B018  # loads it, whereupon the driver says
    return int(kernel.n_spills)


def _compiled(kernel: Any, config: LaunchConfig, given: dict[str, Any]) -> Any:
    """What Triton makes of a kernel; UncompiledError where it is Gluon's, and this Triton takes it for wrong."""
    try:
        return kernel.warmup(**given)
    except Exception as error:  # a compiler's: of a type that depends on the version, and on what it was that failed
        if not config.gluon:
            raise
        raise UncompiledError(f"{type(error).__name__}: {error}") from error


def _launch(
    kernel: Any,
    config: LaunchConfig,
    pointers: dict[str, Tensor],
    counter: Tensor,
    wire: Tensor | None,
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
    given = {**pointers, "counter_ptr": counter, "T": T, "B": B, **constants, **launch_options(config)}
    device = counter.device
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            if spill_limit is not None:
                start = {"step0": 0, "step1": 1, "batch0": 0, "grid": (1, 1, 1)}
                words = sum(spilled_words(_compiled(kernel, config, {**given, **start, "PHASE": p})) for p in order)
                if words > spill_limit:
                    raise SpillsError(words)
            for step0, step1 in spans:
                for wave, tile0 in enumerate(range(0, tiles, config.batch_tiles)):
                    grid = (units, min(config.batch_tiles, tiles - tile0), P)
                    if config.counted:
                        given["counter_ptr"] = counter[wave]
                    if wire is not None and wave:
                        reset_wire(wire, config, H)
                    first = tile0 * config.block_b
                    for phase in order:
                        kernel[grid](**given, step0=step0, step1=step1, batch0=first, PHASE=phase)
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
        outer = x.new_empty((counts.gates - counts.inner, P, B, H), dtype=accumulator(x.dtype))
    carry_in, carry_out, output, inner, cells, saved, counter, wire = buffers
    # A pointer that the kernel's flags leave unused still has to be one: x stands in.
    pointers = {
        "x_ptr": x,
        "weight_ptr": weight,
        "bias_ptr": x if bias is None else bias,
        "lengths_ptr": x if lengths is None else lengths,
        "resets_ptr": _flags(resets, x),
        "vectors_ptr": x if vectors is None else vectors,
        "constants_ptr": x if constants is None else constants,
        "carry_in_ptr": carry_in,
        "carry_out_ptr": carry_out,
        "h_ptr": output,
        "cells_ptr": x if cells is None else cells,
        "saved_ptr": x if saved is None else saved,
    }
    if config.gluon:
        pointers["wire_ptr"] = x if wire is None else wire
    else:
        start = x.new_full((H,), counts.initial[0]) if resets is not None and starts_elsewhere(counts) else None
        pointers |= {
            "h0_ptr": _aligned(by_row(state[:1], x.dtype) if config.wide else state[0].to(x.dtype)),
            "start_ptr": x if start is None else start,
            "inner_ptr": x if inner is None else inner,
            "outer_ptr": outer,
        }
    compiled = {
        **constants_of(counts, config, H, P // heads, precision, _name(x.dtype), heads, False),
        "HAS_BIAS": bias is not None,
        "HAS_LENGTHS": lengths is not None,
        "HAS_RESETS": resets is not None,
        "STORE_CELLS": cells is not None,
        "STORE_SAVED": saved is not None,
    }
    sizes = (T, B, P, H)
    _launch(which.kernel_of(config, False), config, pointers, counter, wire, sizes, False, order, compiled, spill_limit)


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
    carry_in, carry_out, dvectors, dx, dr, parts, counter, wire = buffers
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
    if config.wide or config.gluon:
        pointers["h0_ptr"] = _aligned(by_row(state[:1], output.dtype))
        pointers["cells0_ptr"] = _aligned(by_row(state[1:], state.dtype))
    if config.wide:
        pointers["parts_ptr"] = dr if parts is None else parts
    elif not config.gluon:
        pointers["h0_ptr"] = output if state.dtype == output.dtype else state[0].to(output.dtype)
        pointers["state_ptr"] = _aligned(state)
    if config.gluon:
        pointers["wire_ptr"] = output if wire is None else wire
    compiled = {
        **constants_of(counts, config, H, P // heads, precision, _name(output.dtype), heads, True),
        "HAS_DOUT": dout is not None,
        # A cell whose only state is h has no others for a gradient to come to.
        "HAS_DCELLS": dcells is not None and counts.states > 1,
        "HAS_LENGTHS": lengths is not None,
        "HAS_RESETS": resets is not None,
        "STORE_DX": counts.splits_bias,
    }
    order, sizes = phases(counts, config), (T, B, P, H)
    _launch(which.kernel_of(config, True), config, pointers, counter, wire, sizes, True, order, compiled, spill_limit)


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
    carry_in = state if persistent else state.to(accumulator(x.dtype), copy=True)
    buffers = ForwardBuffers(
        carry_in,
        torch.empty_like(state) if persistent else carry_in,
        exchange_buffer(config, T, B, P, H, like=x),
        inner_operand(counts, config, x),
        state.new_empty((T, B, P, counts.states - 1, H)) if save or cells else None,
        state.new_empty((T, B, P, counts.saved, H)) if save else None,
        counters(config, B, P, x),
        wires(counts, config, False, B, P, x),
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
    wide = accumulator(output.dtype)
    persistent = config.schedule == "persistent"
    if upstream.final is None:
        carry_in = state.new_zeros(state.shape, dtype=wide)
    else:
        carry_in = upstream.final.to(wide, copy=not persistent)
    dr = exchange_buffer(config, T, B, P, counts.gates, H, like=output)
    buffers = BackwardBuffers(
        carry_in,
        torch.empty_like(carry_in) if persistent else carry_in,
        state.new_zeros((counts.vectors, *state.shape[1:]), dtype=wide) if counts.vectors else None,
        torch.empty_like(dr) if counts.splits_bias else dr,
        dr,
        parts_buffer(config, output),
        counters(config, B, P, output),
        wires(counts, config, True, B, P, output),
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
