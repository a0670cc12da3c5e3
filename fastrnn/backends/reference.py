"""The equations in plain PyTorch: any dtype, any device, differentiable to any order. It defines what is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastrnn.cells import Cell
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream
from fastrnn.scan.problem import Backend, Problem


def cuts(resets: Tensor | None, lengths: Tensor | None, direction: int) -> Tensor | None:
    """Where a row starts a step from zero state: `(T, B)` bool, or None for nowhere.

    Args:
        resets: `(T, B)` bool or None: true where a sequence starts, in time order. Past a row's length it says nothing.
        lengths: `(B,)` integers or None.
        direction: 0, or 1 for the reverse direction. That one comes from step t + 1, and is cut where t + 1 starts a
            sequence; a row's own end is no such boundary.
    """
    if resets is None:
        return None
    cut = resets if direction == 0 else torch.cat((resets[1:], torch.zeros_like(resets[:1])))
    if lengths is None:
        return cut
    return cut & (torch.arange(direction, len(resets) + direction, device=resets.device).unsqueeze(1) < lengths)


def _product(h: Tensor, weight: Tensor) -> Tensor:
    """Each head's `(heads, B, H)` by its matrices, `(heads, n, H, H)`, or by their diagonals: `(heads, B, n, H)`."""
    heads, n, H, K = weight.shape
    if K < H:
        return h.unsqueeze(2) * weight.reshape(heads, 1, n, H)
    return (h @ weight.reshape(heads, n * H, H).transpose(1, 2)).reshape(heads, -1, n, H)


def _product_backward(dr: Tensor, weight: Tensor) -> Tensor:
    """What a product's gradient, `(heads, B, n, H)`, is to its h."""
    # Not einsum, flatten or a slice of all, for which vmap, taking batched gradients, has no rule here.
    heads, n, H, K = weight.shape
    if K < H:
        return (dr * weight.reshape(heads, 1, n, H)).sum(2)
    return dr.reshape(heads, -1, n * H) @ weight.reshape(heads, n * H, H)


def scan(inputs: Inputs, cell: Cell) -> Results:
    """`Backend.scan`, to be differentiated by autograd: nothing is saved."""
    if inputs.state.dtype != inputs.x.dtype:  # wider than the others, which then are for storage
        wide = scan(Inputs(*_as(inputs.state.dtype, inputs)), cell)
        return wide._replace(output=wide.output.to(inputs.x.dtype))
    x, weight, bias, state, lengths, resets, vectors, constants, heads = inputs
    T, _, P, G, _ = x.shape
    outer = G - cell.inner
    outputs, finals = [], []
    for d in range(P // heads):
        own, first = weight.narrow(0, d * heads, heads), d * heads

        def multiply(h: Tensor, start: int, count: int, own: Tensor = own, first: int = first) -> tuple[Tensor, ...]:
            r = _product(h, own.narrow(1, start, count))
            if bias is not None:
                r = r + bias.narrow(0, first, heads).narrow(1, start, count).unsqueeze(1)
            return r.unbind(2)

        current = state.narrow(1, first, heads).unbind(0)  # (heads, B, H) each
        nothing, start = (torch.zeros_like(current[0]),) * cell.states, _start(cell, current[0])
        of_units = _of_units(vectors, first, heads)
        cut = cuts(resets, lengths, d)
        steps: list[Tensor] = [x] * T
        for t in range(T) if d == 0 else reversed(range(T)):
            if cut is not None:
                current = _where(cut[t], start, current)
            r = multiply(current[0], 0, outer)
            gates = x[t].narrow(1, first, heads).transpose(0, 1).unbind(2)
            given = (*of_units, *_at(t, constants))
            new = cell.new_state(gates, r, current, given, lambda v: multiply(v, outer, cell.inner)[0])
            shown = new
            if lengths is not None:
                active = t < lengths
                shown, current = _where(active, new, nothing), _where(active, new, current)
            else:
                current = new
            steps[t] = torch.stack(shown, 2)
        outputs.append(torch.stack(steps))
        finals.append(torch.stack(current))
    every = torch.cat(outputs, 1).transpose(1, 2)
    return Results(every[:, :, :, 0], torch.cat(finals, 1), every[:, :, :, 1:], x.new_empty(0))


def _as(dtype: torch.dtype, values: Iterable[Any]) -> list[Any]:
    """The tensors of numbers among `values` in this dtype, and the others."""
    return [v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]


def _of_units(vectors: Tensor | None, first: int, heads: int) -> tuple[Tensor, ...]:
    """The vectors of a direction's heads, `(heads, 1, H)` each."""
    return () if vectors is None else vectors.narrow(0, first, heads).unsqueeze(1).unbind(2)


def _at(t: int, constants: Tensor | None) -> tuple[Tensor, ...]:
    """The constants of time step t, `(B, 1)` each."""
    return () if constants is None else constants[t].unsqueeze(-1).unbind(1)


def _start(cell: Cell, like: Tensor) -> tuple[Tensor, ...]:
    """The states where a sequence starts."""
    return tuple(torch.full_like(like, value) for value in cell.initial or (0.0,) * cell.states)


def _where(rows: Tensor, yes: tuple[Tensor, ...], no: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.where(rows.unsqueeze(1), y, n) for y, n in zip(yes, no, strict=True))


def scan_backward(upstream: Upstream, kept: Kept, cell: Cell, dsaved: Tensor | None = None) -> Gradients:
    """The gradient of a scan in plain PyTorch, from what its forward kept: every operator's second derivatives.

    `dsaved` is the gradient of what was saved, like it, or None for zero.
    """
    if kept.state.dtype != kept.output.dtype:
        dtype, narrow = kept.state.dtype, kept.output.dtype
        wide = _scan_backward(Upstream(*_as(dtype, upstream)), Kept(*_as(dtype, kept)), cell, dsaved)
        return wide._replace(
            x=wide.x.to(narrow), r=wide.r.to(narrow), vectors=None if wide.vectors is None else wide.vectors.to(narrow)
        )
    return _scan_backward(upstream, kept, cell, dsaved)


def _scan_backward(upstream: Upstream, kept: Kept, cell: Cell, dsaved: Tensor | None) -> Gradients:
    """`scan_backward` where all have one dtype."""
    dout, dfinal, dcells = upstream
    weight, state, lengths, resets, output, cells, saved, vectors, constants, heads = kept
    T, B, P, H = output.shape
    outer = cell.gates - cell.inner
    zero = output.new_zeros(heads, B, H)
    nothing, start = (zero,) * cell.states, _start(cell, zero)
    per_direction = []
    for d in range(P // heads):
        first = d * heads
        own = weight.narrow(0, first, heads)
        dstate = nothing if dfinal is None else dfinal.narrow(1, first, heads).unbind(0)
        dx, dr = [output] * T, [output] * T
        dvectors = (zero,) * cell.vectors
        cut = cuts(resets, lengths, d)
        initial, of_units = state.narrow(1, first, heads).unbind(0), _of_units(vectors, first, heads)

        def at(steps: Tensor, t: int, first: int = first) -> Tensor:
            """`(heads, B, ...)`: what there is of step t."""
            return steps[t].narrow(1, first, heads).transpose(0, 1)

        def inner(v: Tensor, own: Tensor = own) -> Tensor:
            return _product_backward(v.unsqueeze(2), own.narrow(1, outer, cell.inner))

        for t in reversed(range(T)) if d == 0 else range(T):
            previous = t - 1 if d == 0 else min(t + 1, T - 1)
            before = (at(output, previous), *at(cells, previous).unbind(2))
            if t == 0 if d == 0 else lengths is None and t == T - 1:
                before = initial
            elif d == 1 and lengths is not None:
                before = _where(lengths == t + 1, initial, before)
            if cut is not None:
                before = _where(cut[t], start, before)
            outside = (
                zero if dout is None else at(dout, t),
                *(nothing[1:] if dcells is None else at(dcells, t).unbind(2)),
            )
            dnow = tuple(a + b for a, b in zip(dstate, outside, strict=True))
            gates = at(saved, t).unbind(2) if cell.saved else ()
            dgates = (None,) * cell.saved if dsaved is None else at(dsaved, t).unbind(2)
            now, given = (at(output, t), *at(cells, t).unbind(2)), (*of_units, *_at(t, constants))
            dx_t, dr_t, dprevious, dgiven = cell.step_backward(dnow, dgates, gates, before, now, given, inner)
            if lengths is not None:
                dgiven = _where(t < lengths, dgiven, (zero,) * len(dgiven))
            dvectors = tuple(a + b for a, b in zip(dvectors, dgiven, strict=True))
            dx[t], dr[t] = torch.stack(dx_t, 2), torch.stack(dr_t, 2)
            if lengths is not None:
                active = (t < lengths).view(B, 1, 1)
                dx[t], dr[t] = (torch.where(active, g, torch.zeros_like(g)) for g in (dx[t], dr[t]))
            through = _product_backward(dr[t].narrow(2, 0, outer), own.narrow(1, 0, outer))
            dprevious = (dprevious[0] + through, *dprevious[1:])
            if cut is not None:
                dprevious = _where(cut[t], nothing, dprevious)
            dstate = dprevious if lengths is None else _where(t < lengths, dprevious, dstate)
        summed = torch.stack(dvectors, 1).sum(2) if dvectors else zero
        per_direction.append((torch.stack(dx), torch.stack(dr), torch.stack(dstate), summed))
    *parts, all_dvectors = zip(*per_direction, strict=True)
    dx_all, dr_all, dstate_all = (torch.cat(part, 1) for part in parts)
    of_vectors = torch.cat(all_dvectors) if cell.vectors else None
    return Gradients(dx_all.transpose(1, 2), dr_all.transpose(1, 2), dstate_all, of_vectors)


class _Reference(Backend):
    name = "reference"
    differentiable = True

    def describe(self, problem: Problem) -> str:
        return "a Python loop over time steps in plain torch"

    def scan(self, inputs: Inputs, cell: Cell, save: bool, cells: bool) -> Results:
        return scan(inputs, cell)


BACKEND = _Reference()
