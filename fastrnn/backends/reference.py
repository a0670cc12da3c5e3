"""The equations in plain PyTorch: any dtype, any device, differentiable to any order. It defines what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastrnn.cells import Cell
    from fastrnn.dispatch import Problem

NAME = "reference"


def supports(problem: Problem) -> str | None:
    return None


def declines(problem: Problem) -> str | None:
    return None


def describe(problem: Problem) -> str:
    return "a Python loop over time steps in plain torch"


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


def scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: Cell,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's scan: `state_t = step(x_t, W_hh h_{t-1} + b, state_{t-1})`.

    Args:
        x: input part of the gates, `(T, B, D, GATES, H)`. Direction 1 runs from the last time step to the first.
        weight: recurrent weights, `(D, GATES, H, H)`.
        bias: recurrent bias, `(D, GATES, H)`, or None.
        state: initial state, `(STATES, D, B, H)`.
        lengths: `(B,)` integers, or None. A row at or past its length keeps its state and outputs zero.
        resets: `(T, B)` bool, or None. A row starts from zero state where it is true, see `cuts`.
        cell: the cell.

    Returns:
        The output `(T, B, D, H)`, the final state, like `state`, and the states other than h of every step,
        `(T, B, D, STATES - 1, H)`.
    """
    T, B, D, G, H = x.shape
    outer = G - cell.inner
    outputs, finals = [], []
    for d in range(D):
        through = weight[d].reshape(G * H, H).t()

        def multiply(h: Tensor, first: int, last: int, d: int = d, through: Tensor = through) -> Tensor:
            r = (h @ through[:, first * H : last * H]).reshape(B, last - first, H)
            return r if bias is None else r + bias[d, first:last]

        current = tuple(state[:, d])
        nothing = tuple(torch.zeros_like(s) for s in current)
        cut = cuts(resets, lengths, d)
        steps: list[Tensor] = [x] * T
        for t in range(T) if d == 0 else reversed(range(T)):
            if cut is not None:
                current = _where(cut[t], nothing, current)
            r = multiply(current[0], 0, outer)
            new, _ = cell.step(
                x[t, :, d].unbind(1),
                r.unbind(1),
                current,
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
    return every[:, :, :, 0], torch.stack(finals, 1), every[:, :, :, 1:]


def _where(rows: Tensor, yes: tuple[Tensor, ...], no: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.where(rows.unsqueeze(1), y, n) for y, n in zip(yes, no, strict=True))


def scan_backward(
    dout: Tensor | None,
    dfinal: Tensor | None,
    dcells: Tensor | None,
    dsaved: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    cell: Cell,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `scan`, in plain PyTorch, from what the forward kernel saved: the kernels' second derivatives.

    Args:
        dout, dfinal, dcells, dsaved: gradients of output `(T, B, D, H)`, final state `(STATES, D, B, H)`, cells and
            saved, each like its tensor; None for zero.
        weight, state, lengths, resets: as in `scan`.
        output, cells, saved: as `fastrnn.kernels.triton.launch.scan_fwd` returns them.
        cell: the cell.

    Returns:
        `(dx, dr, dstate)`: gradients of the gates' input and recurrent parts `(T, B, D, GATES, H)`, which are one
        tensor where `cell.splits_bias` is false, and of the initial state.
    """
    T, B, D, H = output.shape
    outer = cell.gates - cell.inner
    zero = output.new_zeros(B, H)
    nothing = (zero,) * cell.states
    per_direction = []
    for d in range(D):
        dstate = nothing if dfinal is None else dfinal[:, d].unbind(0)
        dx, dr = [output] * T, [output] * T
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
                before = _where(cut[t], nothing, before)
            upstream = (
                zero if dout is None else dout[t, :, d],
                *(nothing[1:] if dcells is None else dcells[t, :, d].unbind(1)),
            )
            dnow = tuple(a + b for a, b in zip(dstate, upstream, strict=True))
            gates = saved[t, :, d].unbind(1) if cell.saved else ()
            dgates = (None,) * cell.saved if dsaved is None else dsaved[t, :, d].unbind(1)
            now = (output[t, :, d], *cells[t, :, d].unbind(1))
            dx_t, dr_t, dprevious = cell.step_backward(
                dnow,
                dgates,
                gates,
                before,
                now,
                inner,
            )
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
        per_direction.append((torch.stack(dx), torch.stack(dr), torch.stack(dstate)))
    dx_all, dr_all, dstate_all = zip(*per_direction, strict=True)
    return torch.stack(dx_all, 2), torch.stack(dr_all, 2), torch.stack(dstate_all, 1)
