"""The launchers: `scan_fwd` and `scan_bwd` allocate what a kernel writes, `launch_fwd` and `launch_bwd` launch it.

Plain functions of tensors: nothing here records gradients, chooses a configuration or knows a layer.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from fastrnn.kernels.cells import STEPS
from fastrnn.kernels.configs import LaunchConfig
from fastrnn.kernels.counts import Counts
from fastrnn.kernels.scan import launch_options, scan_bwd_kernel, scan_constants, scan_fwd_kernel
from fastrnn.kernels.sync import COUNTER_STRIDE

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def exchange_buffer(config: LaunchConfig, *shape: int, like: Tensor) -> Tensor:
    """What the programs exchange; under "flag" every element starts as the all-ones pattern (sync.py)."""
    buffer = like.new_empty(shape)
    if config.exchange == "flag":
        buffer.view(_BITS[buffer.element_size()]).fill_(-1)
    return buffer


def counters(config: LaunchConfig, batch: int, directions: int, like: Tensor) -> Tensor:
    """The barrier's counters, `(waves, ...)`, one per batch tile and direction; any tensor where there is none."""
    if config.exchange != "barrier":
        return like
    tiles = -(-batch // config.block_b)
    waves = -(-tiles // config.batch_tiles)
    size = min(tiles, config.batch_tiles) * directions * COUNTER_STRIDE.value
    return torch.zeros(waves, size, dtype=torch.int32, device=like.device)


def _launch(
    kernel: Any,
    config: LaunchConfig,
    pointers: tuple[Tensor, ...],
    counter: Tensor,
    shape: tuple[int, int, int, int],
    backward: bool,
    consts: dict[str, Any],
) -> None:
    """Launch `kernel` over all steps and all batch rows, in processing order.

    Under the persistent schedule each wave of batch tiles is one launch; a launch whose programs wait for each other is
    cooperative, so a grid that does not fit is refused by the driver rather than left hanging.
    """
    T, B, D, H = shape
    units = -(-H // config.block_h)
    tiles = -(-B // config.block_b)
    if config.schedule == "persistent":
        spans = [(0, T)]
    else:
        spans = [(step, step + 1) for step in (reversed(range(T)) if backward else range(T))]
    options = launch_options(config)
    device = pointers[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        for step0, step1 in spans:
            for wave, tile0 in enumerate(range(0, tiles, config.batch_tiles)):
                grid = (units, min(config.batch_tiles, tiles - tile0), D)
                arrivals = counter[wave] if config.exchange == "barrier" else counter
                kernel[grid](*pointers, arrivals, T, B, step0, step1, tile0 * config.block_b, **consts, **options)


def launch_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    carry_in: Tensor,
    carry_out: Tensor,
    output: Tensor,
    cells: Tensor | None,
    saved: Tensor | None,
    counter: Tensor,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
) -> None:
    """Launch the forward scan on given tensors; shapes as in `scan_fwd_kernel`. Without `saved` nothing is saved."""
    T, B, D, _, H = x.shape
    # A pointer that the kernel's flags leave unused still has to be one: x stands in.
    pointers = (
        x, weight, x if bias is None else bias, state, x if lengths is None else lengths, carry_in, carry_out, output,
        x if cells is None else cells, x if saved is None else saved,
    )  # fmt: skip
    consts = scan_constants(counts, config, H, D, precision, _name(x.dtype)) | {
        "FWD": STEPS[counts.name].fwd,
        "HAS_BIAS": bias is not None,
        "HAS_LENGTHS": lengths is not None,
        "STORE": saved is not None,
    }
    _launch(scan_fwd_kernel, config, pointers, counter, (T, B, D, H), False, consts)


def launch_bwd(
    dout: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    carry_in: Tensor,
    carry_out: Tensor,
    dx: Tensor,
    dr: Tensor,
    counter: Tensor,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
) -> None:
    """Launch the backward scan on given tensors; shapes as in `scan_bwd_kernel`."""
    T, B, D, H = output.shape
    pointers = (
        output if dout is None else dout, weight, state, output if lengths is None else lengths, output, cells, saved,
        carry_in, carry_out, dx, dr,
    )  # fmt: skip
    consts = scan_constants(counts, config, H, D, precision, _name(output.dtype)) | {
        "BWD": STEPS[counts.name].bwd,
        "HAS_DOUT": dout is not None,
        "HAS_LENGTHS": lengths is not None,
        "STORE_DX": counts.splits_bias,
    }
    _launch(scan_bwd_kernel, config, pointers, counter, (T, B, D, H), True, consts)


def scan_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the forward scan.

    Args:
        x: `(T, B, D, GATES, H)`, contiguous, as are all the others.
        weight: `(D, GATES, H, H)`.
        bias: `(D, GATES, H)` or None.
        state: `(STATES, D, B, H)`.
        lengths: `(B,)` int32 or None.
        counts, config, precision: the cell, how to launch it, and the `input_precision` of float32 products.
        save: whether to keep what backward needs.

    Returns:
        output `(T, B, D, H)`; the final state, like `state`; cells `(T, B, D, STATES - 1, H)`; saved
        `(T, B, D, SAVED, H)`. Without `save`, cells and saved are empty.
    """
    T, B, D, _, H = x.shape
    output = exchange_buffer(config, T, B, D, H, like=x)
    cells = x.new_empty((T, B, D, counts.states - 1, H)) if save else None
    saved = x.new_empty((T, B, D, counts.saved, H)) if save else None
    persistent = config.schedule == "persistent"
    carry_in = state if persistent else state.to(_accumulator(x.dtype), copy=True)
    carry_out = torch.empty_like(state) if persistent else carry_in
    launch_fwd(
        x, weight, bias, state, lengths, carry_in, carry_out, output, cells, saved, counters(config, B, D, x), counts,
        config, precision,
    )  # fmt: skip
    nothing = x.new_empty(0)
    return (
        output,
        carry_out.to(state.dtype),
        nothing if cells is None else cells,
        torch.empty_like(nothing) if saved is None else saved,
    )


def scan_bwd(
    dout: Tensor | None,
    dfinal: Tensor,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward scan.

    Args:
        dout: gradient of the output, `(T, B, D, H)`, or None for zero.
        dfinal: gradient of the final state, `(STATES, D, B, H)`.
        weight, state, lengths: as given to `scan_fwd`.
        output, cells, saved: as `scan_fwd` returned them.
        counts, config, precision: as for `scan_fwd`.

    Returns:
        dx and dr, the gradients of the gates' input and recurrent parts, `(T, B, D, GATES, H)`, one and the same
        tensor where `counts.splits_bias` is false; and the part of the initial state's gradient, in the accumulation
        dtype, that did not go through the first step's matmul.
    """
    T, B, D, H = output.shape
    dr = exchange_buffer(config, T, B, D, counts.gates, H, like=output)
    dx = torch.empty_like(dr) if counts.splits_bias else dr
    persistent = config.schedule == "persistent"
    carry_in = dfinal.to(_accumulator(output.dtype), copy=not persistent)
    carry_out = torch.empty_like(carry_in) if persistent else carry_in
    launch_bwd(
        dout, weight, state, lengths, output, cells, saved, carry_in, carry_out, dx, dr,
        counters(config, B, D, output), counts, config, precision,
    )  # fmt: skip
    return dx, dr, carry_out
