"""Between padded batches and packed rows: a PackedSequence for the kernels, and lengths for torch's own layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrnn.backends import aten
from fastrnn.cells import Cell
from fastrnn.checks import jit_tracing


class Padding(NamedTuple):
    """Where the rows of a PackedSequence's data go in a padded (T, B) tensor.

    Attributes:
        time, batch: the padded sizes.
        positions: `(rows of data,)`, in the flattened (T, B).
        lengths: `(B,)` int32.
    """

    time: int
    batch: int
    positions: Tensor
    lengths: Tensor

    def reordered(self, order: Tensor) -> Padding:
        """The same rows of data, from a padded tensor whose batch row `order[b]` is this one's b; for `pad`, `pack`."""
        times, rows = self.positions // self.batch, self.positions % self.batch
        return self._replace(positions=times * self.batch + order[rows])

    def pad(self, data: Tensor) -> Tensor:
        """`(rows of data, N)` to `(T, B, N)`, zero where there are no rows."""
        padded: Tensor = data.new_zeros(self.time * self.batch, data.shape[1]).index_copy(0, self.positions, data)
        shape = (self.time, self.batch, data.shape[1])
        if jit_tracing():
            return padded.view(shape)  # sizes are tensors here, of which torch.ops would make constants
        # Without a copy and yet no view, which users could not detach in place; nothing else has the tensor inside.
        return torch.ops.aten._unsafe_view(padded, shape)  # type: ignore[no-any-return]  # torch.ops is untyped

    def pack(self, padded: Tensor) -> Tensor:
        """`(T, B, N)` to `(rows of data, N)`."""
        return padded.flatten(0, 1).index_select(0, self.positions)


def padding_of(time: int, lengths: Tensor, device: torch.device) -> Padding:
    """For rows of these lengths, a CPU tensor, so that nothing waits for the device."""
    present = torch.arange(time, device=lengths.device).unsqueeze(1) < lengths
    index = present.flatten().nonzero().squeeze(1)
    # Nobody waits for the copies, and no caller can write into what they read: neither tensor was given by one.
    return Padding(
        time,
        lengths.shape[0],  # not len(), of which torch.jit.trace would make a constant
        index.to(device, non_blocking=True),
        lengths.to(device, torch.int32, non_blocking=True),
    )


def batch_of(batch_sizes: Tensor) -> Any:
    """How many rows a PackedSequence has; while torch.jit.trace records a tensor, so that the trace holds for any."""
    return batch_sizes[0] if torch._C._is_tracing() else int(batch_sizes[0])


def lengths_of(batch_sizes: Tensor) -> Tensor:
    """`(B,)`: of the rows of a PackedSequence, longest first."""
    rows = torch.arange(batch_of(batch_sizes), device=batch_sizes.device)
    return (rows.unsqueeze(0) < batch_sizes.unsqueeze(1)).sum(0)


def by_torchs_packed_layer(
    cell: Cell, input: Tensor, hx: tuple[Tensor, ...], options: tuple[Any, ...], lengths: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`run` on a CPU for rows of unequal length; torch's layer takes none of length 0."""
    T, B, _ = input.shape
    values = lengths.tolist()
    count = B - values.count(0)
    if count == 0:
        width = hx[0].shape[2] * (2 if options[-1] else 1)
        return input.new_zeros(T, B, width), tuple(h.clone() for h in hx)
    rows, states = None, hx
    if values != sorted(values, reverse=True):
        lengths, rows = lengths.sort(descending=True)
    if count < B:
        lengths, rows = lengths[:count], torch.arange(count) if rows is None else rows[:count]
    if rows is not None:
        input = input.index_select(1, rows)
        # Both of an LSTM's default states are one tensor.
        states = (
            (hx[0].index_select(1, rows),) * len(hx) if hx[0] is hx[-1] else tuple(h.index_select(1, rows) for h in hx)
        )
    data, sizes = torch._VF._pack_padded_sequence(input, lengths.long(), False)
    found, final = aten.layers(cell, data, sizes, states, *options)
    output, _ = torch._VF._pad_packed_sequence(found, sizes, False, 0.0, T)
    if rows is None:
        return output, final
    if count == B:
        back = torch.empty_like(rows).scatter_(0, rows, torch.arange(B))
        return output.index_select(1, back), tuple(f.index_select(1, back) for f in final)
    padded = output.new_zeros(T, B, output.shape[2]).index_copy(1, rows, output)
    return padded, tuple(h.index_copy(1, rows, f) for h, f in zip(hx, final, strict=True))
