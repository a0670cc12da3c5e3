"""A batch of sequences on its way through a stack of layers: what came in, as the layers take it, and back again.

`Batch.of` takes what a layer was called with, once; `restore` gives its results the shape that the caller expects, and
nothing else sorts, pads or packs. Layers see rows: `(T, B, N)`, or, where the steps that there are can be picked out,
`(steps, N)`, of which `pad` makes `(T, B, N)` for the scan, and `pack` rows again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrnn.scan.derivatives import present_steps
from fastrnn.scan.problem import Backend, Extras, Stack
from fastrnn.tracers import jit_tracing

States = tuple[Tensor, ...]
Restored = tuple[Tensor, States, Tensor | None]


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


def _padding_of(time: int, lengths: Tensor, device: torch.device) -> Padding:
    """For rows of these lengths, a CPU tensor, so that nothing waits for the device."""
    # Nobody waits for the copies, and no caller can write into what they read: neither tensor was given by one.
    return Padding(
        time,
        lengths.shape[0],  # not len(), of which torch.jit.trace would make a constant
        present_steps(time, lengths).to(device, non_blocking=True),
        lengths.to(device, torch.int32, non_blocking=True),
    )


def batch_of(batch_sizes: Tensor) -> Any:
    """How many rows a PackedSequence has; while torch.jit.trace records a tensor, so that the trace holds for any."""
    return batch_sizes[0] if torch._C._is_tracing() else int(batch_sizes[0])


def _lengths_of(batch_sizes: Tensor) -> Tensor:
    """`(B,)`: of the rows of a PackedSequence, longest first."""
    rows = torch.arange(batch_of(batch_sizes), device=batch_sizes.device)
    return (rows.unsqueeze(0) < batch_sizes.unsqueeze(1)).sum(0)


class Batch:
    """Padded sequences, time first; lengths may be on a GPU, or unknown to a tracer.

    Attributes:
        input: what the first layer takes.
        sizes: the batch sizes of a PackedSequence, where nodes of a graph are to run over one; else None.
        lengths, resets: as the scan takes them.
        batch_first: whether the last scan is to lay out its results so, since the caller wants that.
        constants: what the cell takes for each row and step, `(T, B, CONSTANTS)`, or None.
        time, batch: T and B.
    """

    sizes: Tensor | None = None
    batch_first = False
    constants: Tensor | None = None

    def __init__(self, input: Tensor, lengths: Tensor | None, resets: Tensor | None, time: int, batch: int) -> None:
        self.input, self.lengths, self.resets, self.time, self.batch = input, lengths, resets, time, batch

    @staticmethod
    def of(
        input: Tensor,
        batch_sizes: Tensor | None,
        extras: Extras,
        batch_first: bool,
        node: bool,
        on_host: bool,
        recorded: bool,
    ) -> Batch:
        """The batch of a call.

        Args:
            input, batch_sizes, extras, batch_first: as `fastrnn.stack.run` takes them.
            node: whether torch's layers are to be nodes of a graph.
            on_host: whether lengths can be looked at, and products be taken over the steps that there are. A GPU
                multiplies all of them in the time in which it would pick some out.
            recorded: whether something records, which would keep what was looked at.
        """
        batch = Batch._of(input, batch_sizes, extras, batch_first, node, on_host, recorded)
        if extras.constants is not None:
            batch.constants = _without_past(batch.in_order(extras.constants), batch.lengths)
        return batch

    @staticmethod
    def _of(
        input: Tensor,
        batch_sizes: Tensor | None,
        extras: Extras,
        batch_first: bool,
        node: bool,
        on_host: bool,
        recorded: bool,
    ) -> Batch:
        lengths, resets = extras.lengths, extras.resets
        if batch_first:
            input = input.transpose(0, 1)
        if node:
            return _OfNodes(input, batch_sizes, batch_first)
        if batch_sizes is not None:
            padding = _padding_of(batch_sizes.numel(), _lengths_of(batch_sizes), input.device)
            return _PackedRows(input, padding) if on_host and not recorded else _Packed(input, padding)
        if lengths is not None and on_host:
            return (_Sorted if recorded else _SortedRows)(input, lengths, resets, batch_first)
        batch = Batch(_without_past(input, lengths), lengths, resets, *input.shape[:2])
        batch.batch_first = batch_first
        return batch

    def in_order(self, rows: Tensor) -> Tensor:
        """A `(COUNT, B, N)` tensor in the order of this batch's rows."""
        return rows

    def states(self, hx: States) -> States:
        """The initial states of this batch's rows."""
        return tuple(map(self.in_order, hx))

    def pad(self, data: Tensor) -> Tensor:
        """A layer's rows as `(T, B, N)`."""
        return data

    def pack(self, padded: Tensor) -> Tensor:
        """`pad` undone."""
        return padded

    def dropped(self, rows: Tensor, probability: float) -> Tensor:
        """Dropout between layers; of packed input on the steps there are, as torch drops for the same seed."""
        return F.dropout(rows, probability, training=True)

    def restore(self, output: Tensor, states: States, cells: Tensor | None) -> Restored:
        """The last layer's rows, all layers' final states, and the last one's cells, `(T, B, N)`, as they go out."""
        return output, states, cells


def _without_past(input: Tensor, lengths: Tensor | None) -> Tensor:
    """What lies past a row's length may be anything: a NaN there must not reach the gradient of the weights."""
    if lengths is None:
        return input
    past = (torch.arange(input.shape[0], device=input.device).unsqueeze(1) >= lengths).unsqueeze(-1)
    return torch.where(past, 0, input)


class _OfNodes(Batch):
    """Padded or packed, as it came: nodes of torch's own layers take both, and have no lengths."""

    def __init__(self, input: Tensor, batch_sizes: Tensor | None, batch_first: bool) -> None:
        super().__init__(input, None, None, 0, 0)
        self.sizes, self._batch_first = batch_sizes, batch_first

    def restore(self, output: Tensor, states: States, cells: Tensor | None) -> Restored:
        return output.transpose_(0, 1) if self._batch_first else output, states, cells


class _Packed(Batch):
    """A PackedSequence, padded."""

    def __init__(self, data: Tensor, padding: Padding) -> None:
        super().__init__(padding.pad(data), padding.lengths, None, padding.time, padding.batch)
        self._padding = padding

    def dropped(self, rows: Tensor, probability: float) -> Tensor:
        return self._padding.pad(super().dropped(self._padding.pack(rows), probability))

    def restore(self, output: Tensor, states: States, cells: Tensor | None) -> Restored:
        return self._padding.pack(output), states, None if cells is None else self._padding.pack(cells)


class _PackedRows(Batch):
    """A PackedSequence, left so."""

    def __init__(self, data: Tensor, padding: Padding, resets: Tensor | None = None) -> None:
        super().__init__(data, padding.lengths, resets, padding.time, padding.batch)
        self.pad, self.pack = padding.pad, padding.pack  # type: ignore[method-assign]  # theirs

    def restore(self, output: Tensor, states: States, cells: Tensor | None) -> Restored:
        return output, states, None if cells is None else self.pack(cells)


class _InOrder(Batch):
    """Rows that were sorted, longest first, as in a PackedSequence: those that have ended then cost nothing."""

    order: Tensor
    _to_batch_first: bool

    def in_order(self, rows: Tensor) -> Tensor:
        return rows.index_select(1, self.order)

    def _unsorted(self, output: Tensor, states: States, cells: Tensor | None, back: Tensor) -> Restored:
        cells = None if cells is None else cells.index_select(1, back)
        states = tuple(s.index_select(1, back) for s in states)
        if self._to_batch_first:  # in place, as torch does it: a view could not be detached in place
            return output.transpose_(0, 1), states, None if cells is None else cells.transpose_(0, 1)
        return output, states, cells


class _Sorted(_InOrder):
    """Rows of unequal length that something records."""

    def __init__(self, input: Tensor, lengths: Tensor, resets: Tensor | None, batch_first: bool) -> None:
        lengths, self.order = lengths.sort(descending=True)
        resets = None if resets is None else resets.index_select(1, self.order)
        self._to_batch_first = batch_first
        input = _without_past(input.index_select(1, self.order), lengths)
        super().__init__(input, lengths, resets, *input.shape[:2])

    def restore(self, output: Tensor, states: States, cells: Tensor | None) -> Restored:
        back = self.order.argsort()
        return self._unsorted(output.index_select(1, back), states, cells, back)


class _SortedRows(_InOrder, _PackedRows):
    """Rows of unequal length on a host: the steps that there are."""

    def __init__(self, input: Tensor, lengths: Tensor, resets: Tensor | None, batch_first: bool) -> None:
        lengths, self.order = lengths.sort(descending=True)
        resets = None if resets is None else resets.index_select(1, self.order)
        self._to_batch_first = batch_first
        padding = _padding_of(input.shape[0], lengths, input.device)
        self._given = padding.reordered(self.order)
        super().__init__(self._given.pack(input), padding, resets)

    def restore(self, output: Tensor, states: States, cells: Tensor | None) -> Restored:
        return self._unsorted(self._given.pad(output), states, cells, self.order.argsort())


def by_packed_layers(
    backend: Backend,
    stack: Stack,
    input: Tensor,
    hx: States,
    flat_weights: list[Tensor],
    lengths: Tensor,
    batch_first: bool,
) -> Restored | None:
    """Rows of unequal length on a host through a backend's own layers, as a PackedSequence; None if all are of length
    0, which those do not take. In one function, since a call with short sequences takes little longer than this."""
    values = lengths.tolist()
    B = len(values)
    count = B - values.count(0)
    if count == 0:
        return None
    if batch_first:
        input = input.transpose(0, 1)
    rows, states = None, hx
    if values != sorted(values, reverse=True):
        lengths, rows = lengths.sort(descending=True)
    if count < B:
        lengths, rows = lengths[:count], torch.arange(count) if rows is None else rows[:count]
    T = input.shape[0]
    if rows is not None:
        input = input.index_select(1, rows)
        # Both of an LSTM's default states are one tensor.
        first = hx[0].index_select(1, rows)
        states = (first, *(first if h is hx[0] else h.index_select(1, rows) for h in hx[1:]))
    data, sizes = torch._VF._pack_padded_sequence(input, lengths.long(), False)
    found, final = backend.layers(stack, data, sizes, states, flat_weights)
    output, _ = torch._VF._pad_packed_sequence(found, sizes, False, 0.0, T)
    if rows is not None and count == B:
        back = torch.empty_like(rows).scatter_(0, rows, torch.arange(B))
        output, final = output.index_select(1, back), tuple(f.index_select(1, back) for f in final)
    elif rows is not None:
        output = output.new_zeros(T, B, output.shape[2]).index_copy(1, rows, output)
        final = tuple(h.index_copy(1, rows, f) for h, f in zip(hx, final, strict=True))
    return output.transpose_(0, 1) if batch_first else output, final, None
