"""The scan in torch's own operators: what the aten backend runs where torch has no layer for it, or a slower one.

Same contract as the kernels: forward keeps what backward needs, backward gives the gates'
gradients, and everything that is not recurrent is left to single products over all steps. What a step costs is mostly
the calls of its operators, so there are few: forward one product and the cell's own; backward one product and a
multiplication or two for each state, since a cell's backward step is linear in the gradients that come to it, and the
coefficients are computed for many steps at once. On a CPU, rows that have ended cost nothing if the longest come first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastrnn.backends import products
from fastrnn.backends.reference import cuts
from fastrnn.cells import Cell, State
from fastrnn.kernels.tensors import Inputs, Results

# Coefficients are computed for steps of about so many elements: enough that calling an operator costs little beside its
# work, few enough that the next one finds them in the cache.
BLOCK_ELEMENTS = 1 << 15


class Plan(NamedTuple):
    """Which rows the steps of one direction concern; masks are `(T, B, 1)` bool, of heads `(T, B, 1, 1)`.

    Attributes:
        direction: 0, or 1 for the reverse one.
        rows: by time, how many of the first rows a step concerns, the others having ended or not begun; never more than
            at the time step before. Where that is not known, all.
        present: the rows that a step concerns; None where each concerns all.
        sorted: whether `rows` says it all.
        starts: rows that come from the initial state, as well as those of the first step; None for no others.
        cut: rows that start a sequence, None for none anywhere; `some_cut` has the steps at which there are any.
    """

    direction: int
    rows: list[int]
    present: Tensor | None
    sorted: bool
    starts: Tensor | None
    cut: Tensor | None
    some_cut: list[bool]

    def blocks(self, most: int) -> list[tuple[int, int]]:
        """The steps that have rows, `start <= t < stop` together, in processing order: as many as have `most` rows in
        all, or one. All steps of a block are computed for the rows of its first; what comes of rows that have ended, or
        not begun, counts for nothing."""
        blocks, start = [], 0
        end = sum(n > 0 for n in self.rows)
        while start < end:
            stop = min(start + max(1, most // self.rows[start]), end)
            blocks.append((start, stop))
            start = stop
        return blocks if self.direction == 0 else blocks[::-1]

    def times(self, start: int, stop: int) -> range:
        """The steps of a block in processing order."""
        return range(start, stop) if self.direction == 0 else range(stop - 1, start - 1, -1)

    def absent(self, start: int, stop: int) -> Tensor | None:
        """The rows that the steps of a block are computed for and do not concern, `(steps, n, 1)`; None for none."""
        if self.present is None or (self.sorted and self.rows[stop - 1] == self.rows[start]):
            return None
        return ~self.present[start:stop, : self.rows[start]]

    def come(self, t: int) -> int:
        """How many of the rows of step t come from another step, and not from the initial state."""
        return self._next(t) if self.direction else self.rows[t] if t else 0

    def cut_at(self, t: int, n: int) -> Tensor | None:
        """Of the first n rows, those that come to step t from where a sequence starts, `(n, 1)`; None for none."""
        return None if self.cut is None or not self.some_cut[t] else self.cut[t, :n]

    def go_on(self, t: int) -> int:
        """How many of the rows of step t another step follows."""
        return self._next(t) if not self.direction else self.rows[t] if t else 0

    def _next(self, t: int) -> int:
        return self.rows[t + 1] if t + 1 < len(self.rows) else 0


def plans(like: Tensor, lengths: Tensor | None, resets: Tensor | None, heads: int = 1) -> list[Plan]:
    """One for each direction of a `(T, B, P, ...)` tensor. Only on a CPU are the masks' values looked at."""
    T, B, P = like.shape[:3]
    units = (1,) if heads == 1 else (1, 1)
    on_host = like.device.type == "cpu"
    rows, present, starts, in_order = [B] * T, None, None, True
    if lengths is not None:
        present = torch.arange(T, device=like.device).unsqueeze(1) < lengths
        starts = (torch.arange(1, T + 1, device=like.device).unsqueeze(1) == lengths).view(T, B, *units)
        in_order = on_host and bool((lengths[1:] <= lengths[:-1]).all())
        if in_order:
            rows = present.sum(1).tolist()
        present = present.view(T, B, *units)
    found = []
    for d in range(P // heads):
        cut = cuts(resets, lengths, d)
        some = [cut is not None] * T if cut is None or not on_host else cut.any(1).tolist()
        cut = cut.reshape(T, B, *units) if cut is not None and any(some) else None
        found.append(Plan(d, rows, present, in_order, starts if d == 1 else None, cut, some))
    return found


def zeroed(rows: Tensor | None, tensors: State) -> State:
    """Zero in `rows`, None for none of them."""
    return tensors if rows is None else tuple(t.masked_fill(rows, 0) for t in tensors)


def begun(rows: Tensor | None, states: State, cell: Cell) -> State:
    """The cell's initial values in `rows`, None for none of them."""
    if rows is None or not cell.initial:
        return zeroed(rows, states)
    return tuple(s.masked_fill(rows, value) for s, value in zip(states, cell.initial, strict=True))


def given(
    vectors: Tensor | None, constants: Tensor | None, d: int, heads: int, dtype: torch.dtype
) -> tuple[State, State]:
    """What the steps of direction d take besides: vectors, `(H,)` or `(heads, H)` each, and constants for all of them,
    `(T, B, 1)` or `(T, B, 1, 1)` each."""
    own: State = ()
    if vectors is not None:
        vectors = vectors.to(dtype)
        own = vectors[d].unbind(0) if heads == 1 else vectors[d * heads : (d + 1) * heads].unbind(1)
    if constants is None:
        return own, ()
    constants = constants.to(dtype).unsqueeze(-1)
    return own, (constants if heads == 1 else constants.unsqueeze(-1)).unbind(2)


def computed(dtype: torch.dtype) -> torch.dtype:
    """What a dtype is computed in: as in the kernels, 16 bits are for storage."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def scan(inputs: Inputs, cell: Cell, save: bool, keep_cells: bool) -> Results:
    """`Backend.scan`; `lengths` of rows that come longest first cost least."""
    x, weight, bias, state, lengths, resets, vectors, constants, heads = inputs
    dtype, kept_dtype = x.dtype, state.dtype
    x, weight, state = (tensor.to(computed(dtype)) for tensor in (x, weight, state))
    T, B, P, _, H = x.shape
    output = x.new_empty((T, B, P, H))
    cells = x.new_empty((T, B, P, cell.states - 1, H) if save or keep_cells else (0,))
    saved = x.new_empty((T, B, P, cell.saved, H) if save else (0,))
    final = state.clone(memory_format=torch.contiguous_format)
    for plan in plans(x, lengths, resets, heads):
        d = plan.direction
        others, gates = (products.own(kept, d, heads) if kept.numel() else None for kept in (cells, saved))
        places = (products.own(output, d, heads).unsqueeze(-2), others, gates)
        ends = products.own_states(state, d, heads), products.own_states(final, d, heads)
        own_bias = None if bias is None else (bias[d] if heads == 1 else bias[d * heads : (d + 1) * heads]).to(x.dtype)
        besides = given(vectors, constants, d, heads, x.dtype)
        through = products.of(weight, d, heads, cell.inner).forward()
        _forward(cell, plan, products.own(x, d, heads), through, own_bias, *ends, besides, places)
    return Results(output.to(dtype), final.to(kept_dtype), cells.to(kept_dtype), saved.to(kept_dtype))


def _forward(
    cell: Cell,
    plan: Plan,
    x: Tensor,
    through: products.Full,
    bias: Tensor | None,
    initial: State,
    final: State,
    given_all: tuple[State, State],
    kept: tuple[Tensor, Tensor | None, Tensor | None],
) -> None:
    """One direction; of heads, each shape has their axis before those of gates and units.

    Args:
        cell, plan: the cell, and the rows of each step.
        x: the gates' input part, `(T, B, GATES, H)`.
        through: the recurrent weights.
        bias: `(GATES, H)`, or None.
        initial, final: the states, `(B, H)` each; final ones are written, where they differ from the initial ones.
        given_all: `given`.
        kept: where h, the other states and what backward needs go, `(T, B, COUNT, H)` each, or None.
    """
    vectors, constants = given_all
    G, outer, H = cell.gates, through.outer, initial[0].shape[1:].numel()
    empty = tuple(i[:0] for i in initial)
    present_at = None if plan.present is None or plan.sorted else plan.present.unbind(0)
    current: State = ()
    blocks = plan.blocks(BLOCK_ELEMENTS // H)
    for place in kept:
        if place is not None:
            zero_past(place, plan, blocks)
    for start, stop in blocks:
        width = plan.rows[start]
        # All of a block's views at once, and a copy of what the products are added to: both cost more step by step.
        own = x[start:stop, :width]
        if cell.splits_bias:
            r = own.new_zeros(own.shape) if bias is None else bias.expand(own.shape).clone()
            x_gates = list(zip(*(own.select(-2, g).unbind(0) for g in range(G)), strict=True))
        else:
            r, x_gates = own.clone(memory_format=torch.contiguous_format), None
        r_gates = list(zip(*(r.select(-2, g).unbind(0) for g in range(outer)), strict=True))
        r_rows, inner_parts = through.sums(r), through.parts(r)
        before = current[0].shape[0] if current else 0
        if width > before:
            current = tuple(torch.cat((s, s0[before:width])) for s, s0 in zip(current or empty, initial, strict=True))
        elif width < before:
            current = tuple(s[:width] for s in current)
        steps: list[tuple[State, State]] = []
        for t in plan.times(start, stop):
            i, n, come, on = t - start, plan.rows[t], plan.come(t), plan.go_on(t)
            if 0 < come < n and steps:
                # What was computed for rows that had not begun gives way to their initial state.
                pairs = zip(current, initial, strict=True)
                current = tuple(torch.cat((s[:come], s0[come:n], s[n:])) for s, s0 in pairs)
            previous = begun(plan.cut_at(t, width), current, cell)

            def inner(v: Tensor, part: Tensor = inner_parts[i]) -> Tensor:
                return through.inner(part, v)

            through.add(r_rows[i], previous[0])
            besides = (*vectors, *(c[t, :width] for c in constants))
            now, saved = cell.step(None if x_gates is None else x_gates[i], r_gates[i], previous, besides, inner)
            steps.append((now, saved))
            if present_at is not None:
                now = tuple(torch.where(present_at[t], y, s) for y, s in zip(now, current, strict=True))
            if on < n:
                for place, value in zip(final, now, strict=True):
                    place[on:n].copy_(value[on:n])
            current = now
        if plan.direction:
            steps.reverse()
        absent = plan.absent(start, stop)
        output, others, gates = kept
        _keep(output, start, [now[:1] for now, _ in steps], absent)
        if others is not None:
            _keep(others, start, [now[1:] for now, _ in steps], absent)
        if gates is not None:
            _keep(gates, start, [saved for _, saved in steps], absent)


def zero_past(place: Tensor, plan: Plan, blocks: list[tuple[int, int]]) -> None:
    """Zero in a `(T, B, ...)` tensor where no block writes."""
    for start, stop in blocks:
        place[start:stop, plan.rows[start] :].zero_()
    place[max((stop for _, stop in blocks), default=0) :].zero_()


def _keep(place: Tensor, start: int, values: list[State], absent: Tensor | None) -> None:
    """Write the values of some steps, COUNT of `(n, H)` each, into `(T, B, COUNT, H)` from step `start` on; zero where
    absent."""
    steps, count, (n, *units) = len(values), len(values[0]), values[0][0].shape
    joined = torch.stack([v for step in values for v in step]).view(steps, count, n, *units).movedim(1, -2)
    place[start : start + steps, :n].copy_(joined if absent is None else joined.masked_fill(absent.unsqueeze(2), 0))
