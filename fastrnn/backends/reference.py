"""The equations in plain PyTorch: any dtype, any device, differentiable to any order. It defines what is right."""

from __future__ import annotations

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


def scan(inputs: Inputs, cell: Cell) -> Results:
    """`Backend.scan`, to be differentiated by autograd: nothing is saved."""
    x, weight, bias, state, lengths, resets, vectors, constants = inputs
    T, B, D, G, H = x.shape
    outer = G - cell.inner
    outputs, finals = [], []
    for d in range(D):
        through = weight[d].reshape(G * H, H).t()

        def multiply(h: Tensor, first: int, last: int, d: int = d, through: Tensor = through) -> Tensor:
            r = (h @ through[:, first * H : last * H]).reshape(B, last - first, H)
            return r if bias is None else r + bias[d, first:last]

        current = tuple(state[:, d])
        nothing, start = (torch.zeros_like(current[0]),) * cell.states, _start(cell, current[0])
        cut = cuts(resets, lengths, d)
        steps: list[Tensor] = [x] * T
        for t in range(T) if d == 0 else reversed(range(T)):
            if cut is not None:
                current = _where(cut[t], start, current)
            r = multiply(current[0], 0, outer)
            new = cell.new_state(
                x[t, :, d].unbind(1),
                r.unbind(1),
                current,
                given_at(t, d, vectors, constants),
                lambda v: multiply(v, outer, G).squeeze(1),
            )
            shown = new
            if lengths is not None:
                active = t < lengths
                shown, current = _where(active, new, nothing), _where(active, new, current)
            else:
                current = new
            steps[t] = torch.stack(shown, 1)
        outputs.append(torch.stack(steps))
        finals.append(torch.stack(current))
    every = torch.stack(outputs, 2)
    return Results(every[:, :, :, 0], torch.stack(finals, 1), every[:, :, :, 1:], x.new_empty(0))


def given_at(t: int, d: int, vectors: Tensor | None, constants: Tensor | None) -> tuple[Tensor, ...]:
    """What a step at t takes besides its parts and states: vectors `(H,)`, constants `(B, 1)`."""
    own = () if vectors is None else vectors[d].unbind(0)
    return own if constants is None else (*own, *constants[t].unsqueeze(-1).unbind(1))


def _start(cell: Cell, like: Tensor) -> tuple[Tensor, ...]:
    """The states where a sequence starts."""
    return tuple(torch.full_like(like, value) for value in cell.initial or (0.0,) * cell.states)


def _where(rows: Tensor, yes: tuple[Tensor, ...], no: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.where(rows.unsqueeze(1), y, n) for y, n in zip(yes, no, strict=True))


def scan_backward(upstream: Upstream, kept: Kept, cell: Cell, dsaved: Tensor | None = None) -> Gradients:
    """The gradient of a scan in plain PyTorch, from what its forward kept: every operator's second derivatives.

    `dsaved` is the gradient of what was saved, like it, or None for zero.
    """
    dout, dfinal, dcells = upstream
    weight, state, lengths, resets, output, cells, saved, vectors, constants = kept
    T, B, D, H = output.shape
    outer = cell.gates - cell.inner
    zero = output.new_zeros(B, H)
    nothing, start = (zero,) * cell.states, _start(cell, zero)
    per_direction = []
    for d in range(D):
        dstate = nothing if dfinal is None else dfinal[:, d].unbind(0)
        dx, dr = [output] * T, [output] * T
        dvectors = (zero,) * cell.vectors
        cut = cuts(resets, lengths, d)

        def inner(v: Tensor, d: int = d) -> Tensor:
            return v @ weight[d, outer]

        for t in reversed(range(T)) if d == 0 else range(T):
            previous = t - 1 if d == 0 else min(t + 1, T - 1)
            before = (output[previous, :, d], *cells[previous, :, d].unbind(1))
            if t == 0 if d == 0 else lengths is None and t == T - 1:
                before = tuple(state[:, d])
            elif d == 1 and lengths is not None:
                before = _where(lengths == t + 1, tuple(state[:, d]), before)
            if cut is not None:
                before = _where(cut[t], start, before)
            outside = (
                zero if dout is None else dout[t, :, d],
                *(nothing[1:] if dcells is None else dcells[t, :, d].unbind(1)),
            )
            dnow = tuple(a + b for a, b in zip(dstate, outside, strict=True))
            gates = saved[t, :, d].unbind(1) if cell.saved else ()
            dgates = (None,) * cell.saved if dsaved is None else dsaved[t, :, d].unbind(1)
            now = (output[t, :, d], *cells[t, :, d].unbind(1))
            given = given_at(t, d, vectors, constants)
            dx_t, dr_t, dprevious, dgiven = cell.step_backward(dnow, dgates, gates, before, now, given, inner)
            if lengths is not None:
                dgiven = _where(t < lengths, dgiven, (zero,) * len(dgiven))
            dvectors = tuple(a + b for a, b in zip(dvectors, dgiven, strict=True))
            dx[t], dr[t] = torch.stack(dx_t, 1), torch.stack(dr_t, 1)
            if lengths is not None:
                active = (t < lengths).view(B, 1, 1)
                dx[t], dr[t] = (torch.where(active, g, torch.zeros_like(g)) for g in (dx[t], dr[t]))
            # Not einsum, flatten or a slice of all, for which vmap, taking batched gradients, has no rule here.
            through = dr[t].narrow(1, 0, outer).reshape(B, outer * H) @ weight[d, :outer].reshape(outer * H, H)
            dprevious = (dprevious[0] + through, *dprevious[1:])
            if cut is not None:
                dprevious = _where(cut[t], nothing, dprevious)
            dstate = dprevious if lengths is None else _where(t < lengths, dprevious, dstate)
        summed = torch.stack(dvectors).sum(1) if dvectors else zero
        per_direction.append((torch.stack(dx), torch.stack(dr), torch.stack(dstate), summed))
    dx_all, dr_all, dstate_all, dvectors_all = zip(*per_direction, strict=True)
    own = torch.stack(dvectors_all) if cell.vectors else None
    return Gradients(torch.stack(dx_all, 2), torch.stack(dr_all, 2), torch.stack(dstate_all, 1), own)


class _Reference(Backend):
    name = "reference"
    differentiable = True

    def describe(self, problem: Problem) -> str:
        return "a Python loop over time steps in plain torch"

    def scan(self, inputs: Inputs, cell: Cell, save: bool, cells: bool) -> Results:
        return scan(inputs, cell)


BACKEND = _Reference()
