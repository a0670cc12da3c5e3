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


def scan(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, lengths: Tensor | None, cell: Cell
) -> tuple[Tensor, Tensor]:
    """One layer's scan: `state_t = step(x_t, W_hh h_{t-1} + b, state_{t-1})`.

    Args:
        x: input part of the gates, `(T, B, D, GATES, H)`. Direction 1 runs from the last time step to the first.
        weight: recurrent weights, `(D, GATES, H, H)`.
        bias: recurrent bias, `(D, GATES, H)`, or None.
        state: initial state, `(STATES, D, B, H)`.
        lengths: `(B,)` integers, or None. A row at or past its length keeps its state and outputs zero.
        cell: the cell.

    Returns:
        The output `(T, B, D, H)` and the final state, like `state`.
    """
    T, B, D, G, H = x.shape
    outputs, finals = [], []
    for d in range(D):
        current = tuple(state[:, d])
        steps: list[Tensor] = [x] * T
        for t in range(T) if d == 0 else reversed(range(T)):
            r = (current[0] @ weight[d].reshape(G * H, H).t()).reshape(B, G, H)
            if bias is not None:
                r = r + bias[d]
            new = cell.step(x[t, :, d].unbind(1), r.unbind(1), current)
            if lengths is None:
                steps[t], current = new[0], new
            else:
                active = (t < lengths).unsqueeze(1)
                steps[t] = torch.where(active, new[0], torch.zeros_like(new[0]))
                current = tuple(torch.where(active, n, c) for n, c in zip(new, current, strict=True))
        outputs.append(torch.stack(steps))
        finals.append(torch.stack(current))
    return torch.stack(outputs, 2), torch.stack(finals, 1)


def scan_backward(
    dout: Tensor | None,
    dfinal: Tensor | None,
    dcells: Tensor | None,
    dsaved: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    cell: Cell,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `scan`, in plain PyTorch, from what the forward kernel saved: the kernels' second derivatives.

    Args:
        dout, dfinal, dcells, dsaved: gradients of output `(T, B, D, H)`, final state `(STATES, D, B, H)`, cells and
            saved, each like its tensor; None for zero.
        weight, state, lengths: as in `scan`.
        output, cells, saved: as `fastrnn.kernels.launch.scan_fwd` returns them.
        cell: the cell.

    Returns:
        `(dx, dr, dstate)`: gradients of the gates' input and recurrent parts `(T, B, D, GATES, H)`, which are one
        tensor where `cell.splits_bias` is false, and of the initial state.
    """
    T, B, D, H = output.shape
    zero, everywhere = output.new_zeros(B, H), torch.ones((), dtype=torch.bool, device=output.device)
    per_direction = []
    for d in range(D):
        dstate = (zero,) * cell.states if dfinal is None else dfinal[:, d].unbind(0)
        dx, dr = [output] * T, [output] * T
        for t in reversed(range(T)) if d == 0 else range(T):
            previous = t - 1 if d == 0 else min(t + 1, T - 1)
            before = (output[previous, :, d], *cells[previous, :, d].unbind(1))
            if t == 0 if d == 0 else lengths is None and t == T - 1:
                before = tuple(state[:, d])
            elif d == 1 and lengths is not None:
                starts = (lengths == t + 1).unsqueeze(1)
                before = tuple(torch.where(starts, s, b) for s, b in zip(state[:, d], before, strict=True))
            upstream = [zero if dout is None else dout[t, :, d]]
            upstream += [zero] * (cell.states - 1) if dcells is None else dcells[t, :, d].unbind(1)
            active = everywhere if lengths is None else (t < lengths).unsqueeze(1)
            # Past its length a row's output is zero whatever the state, but its cells are the state's.
            upstream[0] = torch.where(active, upstream[0], zero)
            dstate = tuple(a + b for a, b in zip(dstate, upstream, strict=True))
            gates = saved[t, :, d].unbind(1) if cell.saved else ()
            dgates = (zero,) * cell.saved if dsaved is None else dsaved[t, :, d].unbind(1)
            now = (output[t, :, d], *cells[t, :, d].unbind(1))
            dx_t, dr_t, dprevious = cell.step_backward(dstate, dgates, gates, before, now)
            dx[t] = torch.where(active.unsqueeze(-1), torch.stack(dx_t, 1), zero.unsqueeze(1))
            dr[t] = torch.where(active.unsqueeze(-1), torch.stack(dr_t, 1), zero.unsqueeze(1))
            # Not einsum or flatten, for which vmap, taking batched gradients, has no rule here.
            through = dr[t].reshape(B, cell.gates * H) @ weight[d].reshape(cell.gates * H, H)
            dprevious = (dprevious[0] + through, *dprevious[1:])
            dstate = tuple(torch.where(active, p, c) for p, c in zip(dprevious, dstate, strict=True))
        per_direction.append((torch.stack(dx), torch.stack(dr), torch.stack(dstate)))
    dx_all, dr_all, dstate_all = zip(*per_direction, strict=True)
    return torch.stack(dx_all, 2), torch.stack(dr_all, 2), torch.stack(dstate_all, 1)
