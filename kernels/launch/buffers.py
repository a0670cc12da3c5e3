"""What a launch writes besides results that its caller names: shapes as in the kernels' arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastrnn.kernels.counts import Counts
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.plan.gluon import slots
from fastrnn.kernels.triton.sync import COUNTER_STRIDE

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class ForwardBuffers(NamedTuple):
    """What a forward launch has besides its inputs; shapes as in `scan_fwd_kernel`. What is None is not stored.

    Attributes:
        carry_in, carry_out: the states before the first step and after the last; one tensor where steps are launched.
        output, cells, saved: results.
        inner: `inner_operand`.
        counter, wire: `counters` and `wires`.
    """

    carry_in: Tensor
    carry_out: Tensor
    output: Tensor
    inner: Tensor | None
    cells: Tensor | None
    saved: Tensor | None
    counter: Tensor
    wire: Tensor | None = None


class BackwardBuffers(NamedTuple):
    """The same of a backward launch; shapes as in `scan_bwd_kernel`."""

    carry_in: Tensor
    carry_out: Tensor
    dvectors: Tensor | None
    dx: Tensor
    dr: Tensor
    parts: Tensor | None
    counter: Tensor
    wire: Tensor | None = None


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def exchange_buffer(config: LaunchConfig, *shape: int, like: Tensor) -> Tensor:
    """What the programs exchange; under "flag" every element starts as the all-ones pattern (sync.py). Gluon's have a
    wire for that."""
    buffer = like.new_empty(shape)
    if config.exchange == "flag" and not config.gluon:
        buffer.view(_BITS[buffer.element_size()]).fill_(-1)
    return buffer


def inner_operand(counts: Counts, config: LaunchConfig, like: Tensor) -> Tensor | None:
    """What the inner gate multiplies, `(T, B, P, H)`, for input parts like `like`; None where nobody else reads it."""
    T, B, P, _, H = like.shape
    exchanged = counts.inner and not config.alone and not config.gluon  # Gluon's is on the wire
    return exchange_buffer(config, T, B, P, H, like=like) if exchanged else None


def by_row(states: Tensor, dtype: torch.dtype) -> Tensor:
    """States `(STATES, P, B, H)` as a time step has them, `(B, P, STATES, H)`: what the kernels for many rows read."""
    return states.permute(2, 1, 0, 3).to(dtype).contiguous()


def parts_buffer(config: LaunchConfig, like: Tensor) -> Tensor | None:
    """What the programs of a wide backward send each other, for an output like `like`; None where they gather."""
    if not (config.wide and config.scatter):
        return None
    _, B, P, H = like.shape
    tiles = min(-(-B // config.block_b), config.batch_tiles)
    return like.new_empty((2, tiles, P, -(-H // config.block_h), config.block_b, config.num_k * config.block_k))


def counters(config: LaunchConfig, batch: int, groups: int, like: Tensor) -> Tensor:
    """Counters, `(waves, ...)`, one per batch tile and group; any tensor where nobody counts."""
    if not config.counted:
        return like
    tiles = -(-batch // config.block_b)
    waves = -(-tiles // config.batch_tiles)
    size = min(tiles, config.batch_tiles) * groups * COUNTER_STRIDE.value
    return torch.zeros(waves, size, dtype=torch.int32, device=like.device)


def wires(counts: Counts, config: LaunchConfig, backward: bool, batch: int, groups: int, like: Tensor) -> Tensor | None:
    """What Gluon's programs hand over in one launch, for each batch tile and group: zeros, or where the data are their
    own flag ones; None where nothing is. `like`: x or the output, whose last dimension is H."""
    if not config.gluon or config.alone:
        return None
    tiles = min(-(-batch // config.block_b), config.batch_tiles)
    width = config.num_k * config.block_k
    if config.scatter:
        each = width * width  # a part of each reader for each writer, of 16 units both
    else:
        each = (counts.gates if backward else 1 + counts.inner) * config.block_b * width
    size = tiles * groups * slots(config) * each
    if config.exchange != "flag":
        return like.new_zeros(size)
    ones = torch.full((size * like.element_size() // 4,), -1, dtype=torch.int32, device=like.device)
    _leave_out(ones, config, like.shape[-1], like.element_size())
    return ones.view(like.dtype)


def _leave_out(words: Tensor, config: LaunchConfig, hidden: int, element_bytes: int) -> None:
    """Zeros past the last program's units, which nobody writes: 4 words have a quarter of 16 units of two rows, or of 8
    in float32 (`gluon.wire`)."""
    load = 32 // element_bytes
    quarters = words.view(-1, config.num_k * config.block_k // load, 8, 4, 4)
    block, rest = divmod(-(-hidden // config.block_h) * config.block_h, load)
    quarters[:, block : block + 1, :, rest * 4 // load :] = 0
    quarters[:, block + 1 :] = 0


def reset_wire(wire: Tensor, config: LaunchConfig, hidden: int) -> None:
    """As `wires` made it, for another launch."""
    if config.exchange != "flag":
        wire.zero_()
    else:
        words = wire.view(torch.int32).fill_(-1)
        _leave_out(words, config, hidden, wire.element_size())
