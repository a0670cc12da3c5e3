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
    T, _, D, _, _ = x.shape
    outputs, finals = [], []
    for d in range(D):
        current = tuple(state[:, d])
        steps: list[Tensor] = [x] * T
        for t in range(T) if d == 0 else reversed(range(T)):
            r = torch.einsum("bk,gjk->bgj", current[0], weight[d])
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
