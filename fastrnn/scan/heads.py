"""Block-diagonal recurrent weights: between a layer's units, H in a row, and the scan's groups, a head of them each.

A layer's rows come as torch.nn has them, gate by gate, and within a gate head by head. A scan wants head by head, so
that one product gives it x as `(T, B, P, GATES, H / heads)`. The weights are reordered, which are few beside x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastrnn.scan.problem import Weights


def _rows(rows: Tensor, gates: int, heads: int) -> Tensor:
    """`(GATES * H, ...)`: rows of gates of heads as rows of heads of gates."""
    blocks: Tensor = rows.unflatten(0, (gates, heads, -1))
    return blocks.transpose(0, 1).flatten(0, 2)


def reordered(weights: Weights, gates: int, heads: int) -> Weights:
    """One direction's weights with their rows head by head; there is no projection."""
    given = (weights.ih, weights.hh, weights.bias_ih, weights.bias_hh)
    ih, hh, bias_ih, bias_hh = (None if w is None else _rows(w, gates, heads) for w in given)
    assert ih is not None
    assert hh is not None
    return Weights(ih, hh, bias_ih, bias_hh, None)


def split(state: Tensor, heads: int) -> Tensor:
    """States `(STATES, D, B, H)` by groups, `(STATES, P, B, H / heads)`."""
    parts: Tensor = state.unflatten(-1, (heads, -1))
    return parts.transpose(2, 3).flatten(1, 2)


def vectors(own: Tensor, heads: int) -> Tensor:
    """Vectors `(D, VECTORS, H)` by groups, `(P, VECTORS, H / heads)`."""
    parts: Tensor = own.unflatten(-1, (heads, -1))
    return parts.transpose(1, 2).flatten(0, 1)


def joined(state: Tensor, heads: int) -> Tensor:
    """A state of the groups, `(P, B, H / heads)`, as the layer has it, `(D, B, H)`; never a view."""
    return torch.cat(state.unflatten(0, (-1, heads)).unbind(1), -1)


def joined_cells(cells: Tensor, others: int, heads: int, units: int) -> Tensor:
    """The `others` states of every step, `(T, B, P * others * units)`, as `(T, B, D * others * H)`; never a view."""
    if others < 2:
        return cells  # the same memory
    parts = cells.unflatten(-1, (-1, heads, others, units)).unbind(-2)
    merged = torch.stack([part.flatten(-2) for part in parts], -2)  # (T, B, D, others, H)
    return torch.cat([direction.flatten(-2) for direction in merged.unbind(2)], -1)
