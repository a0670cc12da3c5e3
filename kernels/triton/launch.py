"""The launchers: `scan_fwd` and `scan_bwd` allocate what a kernel writes, `launch_fwd` and `launch_bwd` launch it.

Plain functions of tensors: nothing here records gradients, chooses a configuration or knows a layer.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.triton.backward import scan_bwd_kernel
from fastrnn.kernels.triton.constants import launch_options, phases, scan_constants, steps
from fastrnn.kernels.triton.forward import scan_fwd_kernel
from fastrnn.kernels.triton.sync import COUNTER_STRIDE

_ALIGNMENT = 16  # bytes, the widest load there is
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


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
    """What the inner gate multiplies, `(T, B, D, H)`, for input parts like `like`; None where nobody else reads it."""
    T, B, D, _, H = like.shape
    return exchange_buffer(config, T, B, D, H, like=like) if counts.inner and config.tier != "solo" else None


def counters(config: LaunchConfig, batch: int, directions: int, like: Tensor) -> Tensor:
    """The barrier's counters, `(waves, ...)`, one per batch tile and direction; any tensor where there is none."""
    if config.exchange != "barrier":
        return like
    tiles = -(-batch // config.block_b)
    waves = -(-tiles // config.batch_tiles)
    size = min(tiles, config.batch_tiles) * directions * COUNTER_STRIDE.value
    return torch.zeros(waves, size, dtype=torch.int32, device=like.device)


class SpillsError(RuntimeError):
    """A launch that was not made, and nothing written, since its kernel keeps `words` registers' worth in memory."""

    def __init__(self, words: int) -> None:
        super().__init__(f"the kernel spills {words} registers")
        self.words = words


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
    pointers: tuple[Tensor, ...],
    counter: Tensor,
    shape: tuple[int, int, int, int],
    backward: bool,
    phases: tuple[str, ...],
    consts: dict[str, Any],
    spill_limit: int | None,
) -> None:
    """Launch `kernel` over all steps and all batch rows, in processing order, each step in `phases`.

    With a `spill_limit` it is compiled first, and SpillsError is raised instead where it spills more than that.

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
    options = consts | launch_options(config)
    device = pointers[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        if spill_limit is not None:
            given = (*pointers, counter, T, B, 0, 1, 0)
            words = sum(
                spilled_words(kernel.warmup(*given, grid=(1, 1, 1), PHASE=phase, **options)) for phase in phases
            )
            if words > spill_limit:
                raise SpillsError(words)
        for step0, step1 in spans:
            for wave, tile0 in enumerate(range(0, tiles, config.batch_tiles)):
                grid = (units, min(config.batch_tiles, tiles - tile0), D)
                arrivals = counter[wave] if config.exchange == "barrier" else counter
                first = tile0 * config.block_b
                for phase in phases:
                    kernel[grid](*pointers, arrivals, T, B, step0, step1, first, PHASE=phase, **options)


def _flags(resets: Tensor | None, unused: Tensor) -> Tensor:
    """`resets` as integers: Triton's pointers to booleans are to single bits."""
    return unused if resets is None else resets.view(torch.int8)


def launch_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    carry_in: Tensor,
    carry_out: Tensor,
    output: Tensor,
    inner: Tensor | None,
    cells: Tensor | None,
    saved: Tensor | None,
    counter: Tensor,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    spill_limit: int | None = None,
) -> None:
    """Launch the forward scan on given tensors; shapes as in `scan_fwd_kernel`. What is None is not stored."""
    T, B, D, _, H = x.shape
    state = _aligned(state)
    order = phases(counts, config)
    outer = x
    if len(order) > 1:
        outer = x.new_empty((counts.gates - counts.inner, D, B, H), dtype=_accumulator(x.dtype))
    # A pointer that the kernel's flags leave unused still has to be one: x stands in.
    pointers = (
        x, weight, x if bias is None else bias, state, x if lengths is None else lengths, _flags(resets, x), carry_in,
        carry_out, output, x if inner is None else inner, outer, x if cells is None else cells,
        x if saved is None else saved,
    )  # fmt: skip
    consts = scan_constants(counts, config, H, D, precision, _name(x.dtype)) | steps(counts, False)
    consts |= {
        "HAS_BIAS": bias is not None,
        "HAS_LENGTHS": lengths is not None,
        "HAS_RESETS": resets is not None,
        "STORE_CELLS": cells is not None,
        "STORE_SAVED": saved is not None,
    }
    _launch(scan_fwd_kernel, config, pointers, counter, (T, B, D, H), False, order, consts, spill_limit)


def launch_bwd(
    dout: Tensor | None,
    dcells: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
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
    spill_limit: int | None = None,
) -> None:
    """Launch the backward scan on given tensors; shapes as in `scan_bwd_kernel`."""
    T, B, D, H = output.shape
    state, output, cells = _aligned(state), _aligned(output), _aligned(cells)
    pointers = (
        output if dout is None else dout, output if dcells is None else dcells, weight, state,
        output if lengths is None else lengths, _flags(resets, output), output, cells, saved, carry_in, carry_out, dx,
        dr,
    )  # fmt: skip
    consts = scan_constants(counts, config, H, D, precision, _name(output.dtype)) | steps(counts, True)
    consts |= {
        "HAS_DOUT": dout is not None,
        # A cell whose only state is h has no others for a gradient to come to.
        "HAS_DCELLS": dcells is not None and counts.states > 1,
        "HAS_LENGTHS": lengths is not None,
        "HAS_RESETS": resets is not None,
        "STORE_DX": counts.splits_bias,
    }
    order = phases(counts, config)
    _launch(scan_bwd_kernel, config, pointers, counter, (T, B, D, H), True, order, consts, spill_limit)


def scan_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    save: bool,
    cells: bool,
    spill_limit: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the forward scan.

    Args:
        x: `(T, B, D, GATES, H)`, contiguous, as are all the others.
        weight: `(D, GATES, H, H)`.
        bias: `(D, GATES, H)` or None.
        state: `(STATES, D, B, H)`.
        lengths: `(B,)` int32 or None: a row at or past its length keeps its state.
        resets: `(T, B)` bool or None: a row starts from zero state where it is cut, see `rows.load_cut`.
        counts, config, precision: the cell, how to launch it, and the `input_precision` of float32 products.
        save: whether to keep what backward needs.
        cells: whether to keep the cells without that.
        spill_limit: how many registers the kernel may spill; None for any number.

    Returns:
        output `(T, B, D, H)`; the final state, like `state`; cells, the states other than h after every step,
        `(T, B, D, STATES - 1, H)`; saved `(T, B, D, SAVED, H)`. Without `save` saved is empty, and so is cells without
        either. All are zero where a row is at or past its length, but for the final state.

    Raises:
        SpillsError: the kernel spills more than `spill_limit`.
    """
    T, B, D, _, H = x.shape
    output = exchange_buffer(config, T, B, D, H, like=x)
    kept = x.new_empty((T, B, D, counts.states - 1, H)) if save or cells else None
    saved = x.new_empty((T, B, D, counts.saved, H)) if save else None
    persistent = config.schedule == "persistent"
    carry_in = state if persistent else state.to(_accumulator(x.dtype), copy=True)
    carry_out = torch.empty_like(state) if persistent else carry_in
    launch_fwd(
        x, weight, bias, state, lengths, resets, carry_in, carry_out, output, inner_operand(counts, config, x), kept,
        saved, counters(config, B, D, x), counts, config, precision, spill_limit,
    )  # fmt: skip
    nothing = x.new_empty(0)
    return (
        output,
        carry_out.to(state.dtype),
        nothing if kept is None else kept,
        torch.empty_like(nothing) if saved is None else saved,
    )


def scan_bwd(
    dout: Tensor | None,
    dfinal: Tensor,
    dcells: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    counts: Counts,
    config: LaunchConfig,
    precision: str,
    spill_limit: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward scan.

    Args:
        dout: gradient of the output, `(T, B, D, H)`, or None for zero.
        dfinal: gradient of the final state, `(STATES, D, B, H)`.
        dcells: gradient of the cells, `(T, B, D, STATES - 1, H)`, or None for zero.
        weight, state, lengths, resets: as given to `scan_fwd`.
        output, cells, saved: as `scan_fwd` returned them.
        counts, config, precision, spill_limit: as for `scan_fwd`, which also says what is raised.

    Returns:
        dx and dr, the gradients of the gates' input and recurrent parts, `(T, B, D, GATES, H)`, one and the same
        tensor where `counts.splits_bias` is false, zero at or past a row's length; and the part of the initial state's
        gradient, in the accumulation dtype, that did not go through the matmul of each row's first step: `first_step`
        has the rest.
    """
    T, B, D, H = output.shape
    dr = exchange_buffer(config, T, B, D, counts.gates, H, like=output)
    dx = torch.empty_like(dr) if counts.splits_bias else dr
    persistent = config.schedule == "persistent"
    carry_in = dfinal.to(_accumulator(output.dtype), copy=not persistent)
    carry_out = torch.empty_like(carry_in) if persistent else carry_in
    launch_bwd(
        dout, dcells, weight, state, lengths, resets, output, cells, saved, carry_in, carry_out, dx, dr,
        counters(config, B, D, output), counts, config, precision, spill_limit,
    )  # fmt: skip
    return dx, dr, carry_out


def first_step(dr: Tensor, weight: Tensor, lengths: Tensor | None, resets: Tensor | None, counts: Counts) -> Tensor:
    """What reaches h0 through the matmul of each row's first step, `(D, B, H)`: `scan_bwd` leaves it out.

    In the kernel it would take one more exchange; here it is one matrix product. Arguments as there.
    """
    B, outer = dr.shape[1], counts.gates - counts.inner
    rows = []
    for d in range(dr.shape[2]):
        if d == 1 and lengths is not None:
            # A row of length 0 has no first step, and no dr anywhere.
            first = dr[(lengths.long() - 1).clamp(min=0), torch.arange(B, device=dr.device), d]
        else:
            first = dr[-d, :, d]  # direction 0 starts at t = 0, direction 1 at T - 1
        if d == 0 and resets is not None:
            first = first.masked_fill(resets[0].view(B, 1, 1), 0)
        rows.append(first[:, :outer].flatten(1))
    return torch.stack(rows) @ weight[:, :outer].flatten(1, 2)
