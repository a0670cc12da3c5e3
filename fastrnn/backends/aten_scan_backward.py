"""The gradient of `aten_scan.scan`, likewise in torch's own operators.

A cell's backward step is linear in the gradients that come to it. So its coefficients are computed for many steps at
once, and what is left of a step is a product, and a multiplication or two for each state.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fastrnn.backends import products
from fastrnn.backends.aten_scan import BLOCK_ELEMENTS, Plan, begun, computed, given, plans, zero_past, zeroed
from fastrnn.cells import Cell, Coefficients, State
from fastrnn.kernels.tensors import Gradients, Kept, Upstream


class _Linear(NamedTuple):
    """The coefficients of some steps: `Cell.coefficients`, by gradient that comes, as the steps take them.

    Attributes:
        dx, dr: of all gates' gradients, `(steps, n, GATES, H)`, None where none of them is reached.
        dstate: of each previous state's gradient, by that state and by gradient: `(steps, n, H)`, or None.
        dvectors: of each vector's, likewise.
    """

    dx: list[Tensor | None]
    dr: list[Tensor | None]
    dstate: list[list[Tensor | None]]
    dvectors: list[list[Tensor | None]]


def _linear(
    cell: Cell, saved: State, previous: State, now: State, besides: State, absent: Tensor | None, hand_on: bool
) -> _Linear:
    """The coefficients of some steps, from tensors `(steps, n, H)` and the absent rows, `(steps, n, 1)` or None.

    Those give nothing; but if `hand_on`, a gradient that comes to their state goes on as it is, and what the gates get
    is left to be masked.
    """
    dx, dr, dstate, dvectors = cell.coefficients(saved, previous, now, besides)
    like = now[0]
    nothing = like.new_zeros(()).expand(like.shape)

    def joined(gates: Coefficients) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for of_one in zip(*gates, strict=True):
            if all(c is None for c in of_one):
                found.append(None)
                continue
            found.append(torch.stack([nothing if c is None else c.expand(like.shape) for c in of_one], -2))
            if absent is not None and not hand_on:
                found[-1].masked_fill_(absent.unsqueeze(2), 0)  # type: ignore[union-attr]  # just made
        return found

    handed_on: list[list[Tensor | None]] = []
    for s, row in enumerate(dstate):
        own: list[Tensor | None] = []
        for u, c in enumerate(row):
            same = hand_on and s == u
            if absent is not None and (same or c is not None):
                c = (nothing if c is None else c).masked_fill(absent, 1 if same else 0)
            own.append(c)
        handed_on.append(own)
    of_vectors = [[c if c is None or absent is None else c.masked_fill(absent, 0) for c in row] for row in dvectors]
    return _Linear(joined(dx) if cell.splits_bias else [None] * len(dr[0]), joined(dr), handed_on, of_vectors)


class _Direction(NamedTuple):
    """One direction's tensors in backward, `(T, B, ...)` but for the first and the states' ends; of heads, each has
    their axis before those of gates and units.

    Attributes:
        back: the recurrent weights.
        initial: the initial states, `(B, H)` each.
        now: every step's states, h first.
        saved: what `step_backward` needs beyond them.
        dfinal, dinitial: the gradients of the final and of the initial states, `(B, H)` each.
        upstream: the gradients of every step's states that come from outside the scan, or None.
        dx, dr: where the gates' gradients go, `(T, B, GATES, H)`.
        besides: `aten_scan.given`.
        dvectors: what the vectors' gradients are added to, `(VECTORS, H)`.
    """

    back: products.Full
    initial: State
    now: State
    saved: State
    dfinal: State
    dinitial: State
    upstream: tuple[Tensor | None, ...]
    dx: Tensor
    dr: Tensor
    besides: tuple[State, State]
    dvectors: Tensor


def scan_backward(upstream: Upstream, kept: Kept, cell: Cell) -> Gradients:
    """`Backend.scan_backward`."""
    dout, dfinal, dcells = upstream
    weight, state, lengths, resets, output, cells, saved, vectors, constants, heads = kept
    dtype, kept_dtype = output.dtype, state.dtype
    weight, state, output, cells, saved = (t.to(computed(dtype)) for t in (weight, state, output, cells, saved))
    T, B, P, H = output.shape
    dr = output.new_empty((T, B, P, cell.gates, H))
    dx = torch.empty_like(dr) if cell.splits_bias else dr
    dfinal = torch.zeros_like(state) if dfinal is None else dfinal.to(output.dtype)
    directions = plans(output, lengths, resets, heads)
    dstate = torch.zeros_like(state)
    dvectors = output.new_zeros((P, cell.vectors, H))
    if lengths is not None and directions[0].sorted:
        # A row without steps hands its gradient over as it is; where rows are in no order, it does so step by step.
        dstate = torch.where((lengths == 0).unsqueeze(1), dfinal, dstate)
    for plan in directions:
        steps = functools.partial(products.own, d=plan.direction, heads=heads)
        states = functools.partial(products.own_states, d=plan.direction, heads=heads)
        of = _Direction(
            products.of(weight, plan.direction, heads, cell.inner),
            states(state),
            (steps(output), *steps(cells).unbind(-2)) if cell.states > 1 else (steps(output),),
            steps(saved).unbind(-2) if cell.saved else (),
            states(dfinal),
            states(dstate),
            (
                None if dout is None else steps(dout),
                *(None if dcells is None else steps(dcells).select(-2, s) for s in range(cell.states - 1)),
            ),
            steps(dx),
            steps(dr),
            given(vectors, constants, plan.direction, heads, output.dtype),
            dvectors[plan.direction] if heads == 1 else dvectors[plan.direction * heads : (plan.direction + 1) * heads],
        )
        blocks = plan.blocks(BLOCK_ELEMENTS // (heads * H))
        carried: State = ()
        for start, stop in reversed(blocks):
            carried = _backward(cell, plan, of, start, stop, carried)
        for gradient in (of.dr, of.dx)[: 1 + cell.splits_bias]:
            zero_past(gradient, plan, blocks)
    return Gradients(dx.to(dtype), dr.to(dtype), dstate.to(kept_dtype), dvectors.to(dtype) if cell.vectors else None)


def _previous(cell: Cell, plan: Plan, of: _Direction, start: int, stop: int) -> State:
    """The states that the steps `start <= t < stop` come from, `(steps, n, H)` each for the n rows of the first."""
    n, shift = plan.rows[start], 2 * plan.direction - 1
    first, last = max(start + shift, 0), min(stop + shift, len(plan.rows))
    result = []
    for now, initial in zip(of.now, of.initial, strict=True):
        states, begin = now[first:last, :n], initial[:n].unsqueeze(0)
        if last - first < stop - start:  # one of the steps is the first
            states = torch.cat((states, begin) if plan.direction else (begin, states))
        if plan.starts is not None:
            states = torch.where(plan.starts[start:stop, :n], begin, states)
        result.append(states)
    return begun(None if plan.cut is None else plan.cut[start:stop, :n], tuple(result), cell)


def _by_step(tensors: Iterable[Tensor | None], steps: int) -> list[tuple[Tensor | None, ...]]:
    """`(steps, ...)` each: what there is of them at each step."""
    return list(zip(*([None] * steps if t is None else t.unbind(0) for t in tensors), strict=True))


def _rows(tensors: State, rows: slice) -> State:
    return tuple(t[rows] for t in tensors)


def _accumulate(place: Tensor, gradients: State, coefficients: tuple[Tensor | None, ...], begun: bool) -> None:
    """Add the products to `place`, or, if that has not begun, write their sum."""
    for g, c in zip(gradients, coefficients, strict=False):
        if c is None:
            continue
        if begun:
            place.addcmul_(g, c)
        else:
            torch.mul(g, c, out=place)
        begun = True
    if not begun:
        place.zero_()


def _to_add_to(given: Tensor | None, absent: Tensor | None, carried: Tensor, at: int, sizes: tuple[int, ...]) -> Tensor:
    """The gradients of one state at the steps of a block, and, as zero, at the step before it or, with `at` 0, after.

    Args:
        given: what comes from outside the scan, `(steps, n, H)`, or None.
        absent: the rows for which that is nothing, `(steps, n, 1)`, or None.
        carried: what comes from the block that follows, `(ROWS, H)` of any number of rows.
        at: the place of the step that this comes to, the first or the last.
        sizes: `(steps + 1, n, H)`.
    """
    own = carried.new_zeros(sizes)
    if given is not None:
        steps = own[:-1] if at == 0 else own[1:]
        steps.copy_(given)
        if absent is not None:
            steps.masked_fill_(absent, 0)
    rows = carried[: sizes[1]]
    own[at, : len(rows)].add_(rows)
    return own


def _backward(cell: Cell, plan: Plan, of: _Direction, start: int, stop: int, carried: State) -> State:
    """Backward through the steps `start <= t < stop`, given the gradients of their last step's states from the block
    that follows, if one does; returns those for the block before, `(n, H)` each."""
    width, steps, d = plan.rows[start], stop - start, plan.direction
    here = (slice(start, stop), slice(width))
    absent, hand_on = plan.absent(start, stop), not plan.sorted
    saved, now = (tuple(s[here] for s in tensors) for tensors in (of.saved, of.now))
    besides = (*of.besides[0], *(c[here] for c in of.besides[1]))
    linear = _linear(cell, saved, _previous(cell, plan, of, start, stop), now, besides, absent, hand_on)
    # Where a zero coefficient may meet an infinite gradient.
    masks = absent.unsqueeze(-1).unbind(0) if absent is not None and hand_on else None
    # The gradients of this block's steps, and of one more; and all views at once, as in forward.
    at, sizes = 0 if d else steps, (steps + 1, width, *of.now[0].shape[2:])
    carried = carried or tuple(g[:0] for g in of.dinitial)
    gradients = [
        _to_add_to(None if given is None else given[here], absent, c, at, sizes)
        for given, c in zip(of.upstream, carried, strict=True)
    ]
    dstate = list(zip(*(g.unbind(0) for g in gradients), strict=True))
    gradients = [g[1 - d : steps + 1 - d].unsqueeze(-2) for g in gradients]
    wanted = cell.inner and (cell.splits_bias or linear.dvectors)
    throughs = torch.empty_like(gradients[0]) if wanted else None
    spread = list(zip(*(g.unbind(0) for g in gradients), strict=True))
    dr_at, rows_at = of.dr[here].unbind(0), of.back.rows(of.dr[here])
    gates_at = _by_step(linear.dr, steps)
    states_at = list(zip(*(_by_step(row, steps) for row in linear.dstate), strict=True))
    for t in reversed(plan.times(start, stop)):
        i, n, on, come = t - start, plan.rows[t], plan.go_on(t), plan.come(t)
        upstream: State = dstate[i + 1 - d]
        rows, coefficients = rows_at[i], states_at[i]
        if on < n:
            for g, f in zip(upstream, of.dfinal, strict=True):
                g[on:n].add_(f[on:n])
        _accumulate(dr_at[i], spread[i], gates_at[i], False)
        if masks is not None:
            dr_at[i].masked_fill_(masks[i], 0)
        if cell.inner:
            through = of.back.inner_back(dr_at[i].select(-2, of.back.outer))
            if throughs is not None:
                throughs[i].copy_(through.unsqueeze(-2))
            upstream = (*upstream, through)
            _accumulate(dr_at[i], (through.unsqueeze(-2),), gates_at[i][-1:], True)
        if plan.cut is not None and plan.some_cut[t]:
            cut = plan.cut[t, :width]
            rows, upstream = rows.masked_fill(cut, 0), zeroed(cut, upstream)
        before = dstate[i + d] if come else of.dinitial
        if come == n:
            _hand_on(before, upstream, coefficients, rows, of.back)
            continue
        for own, places in ((slice(0, come), before), (slice(come, n), of.dinitial)):
            if own.start < own.stop:
                part = tuple(tuple(None if c is None else c[own] for c in row) for row in coefficients)
                _hand_on(_rows(places, own), _rows(upstream, own), part, rows[own], of.back)
    come_to = (*gradients, *([] if throughs is None else [throughs]))
    for v, row in enumerate(linear.dvectors):
        for g, c in zip(come_to, row, strict=True):
            if c is not None:
                of.dvectors.select(-2, v).add_((g.squeeze(-2) * c).sum((0, 1)))
    if cell.splits_bias:
        _accumulate(of.dx[here], come_to, tuple(linear.dx), False)
        if absent is not None and hand_on:
            of.dx[here].masked_fill_(absent.unsqueeze(-1), 0)
    return dstate[steps * d]


def _hand_on(
    places: State,
    upstream: State,
    coefficients: tuple[tuple[Tensor | None, ...], ...],
    rows: Tensor,
    back: products.Full,
) -> None:
    """Add to the gradients of the states that a step comes from what it has for them."""
    for place, row in zip(places, coefficients, strict=True):
        _accumulate(place, upstream, row, True)
    back.add_back(places[0], rows)
