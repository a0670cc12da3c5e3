"""The scan in torch's own operators: what the aten backend runs where torch has no layer for it.

Same contract as the kernels (`fastrnn.backends.fused`): forward keeps what backward needs, backward gives the gates'
gradients, and everything that is not recurrent is left to single products over all steps. One step costs one matrix
product and the cell's own operators, without autograd's bookkeeping; on a CPU, rows that have ended cost nothing if
they come last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastrnn.backends.reference import cuts

if TYPE_CHECKING:
    from fastrnn.cells import Cell, State


class _Step(NamedTuple):
    """One step of one direction.

    Attributes:
        t: the time step.
        rows: how many of the first rows it computes; the others have ended, or not begun.
        active: `(rows, 1)` bool, the rows among them that it concerns, or None for all.
        starts: `(rows, 1)` bool, those that come from the initial state, or None for none.
        cut: `(rows, 1)` bool, those that come from zero state, or None for none.
    """

    t: int
    rows: int
    active: Tensor | None
    starts: Tensor | None
    cut: Tensor | None


def _steps(x: Tensor, lengths: Tensor | None, resets: Tensor | None, direction: int) -> list[_Step]:
    """The steps of one direction, in processing order. Only on a CPU are the masks' values looked at."""
    T, B = x.shape[:2]
    times = range(T) if direction == 0 else range(T - 1, -1, -1)
    on_host = x.device.type == "cpu"
    cut = cuts(resets, lengths, direction)
    cut_at = list(cut.unsqueeze(-1)) if cut is not None else None
    some_cut = cut.any(1).tolist() if cut is not None and on_host else [True] * T
    if lengths is None:
        return [_Step(t, B, None, None, cut_at[t] if cut_at is not None and some_cut[t] else None) for t in times]
    active = torch.arange(T, device=x.device).unsqueeze(1) < lengths
    starts = torch.arange(1, T + 1, device=x.device).unsqueeze(1) == lengths
    active_at, starts_at = list(active.unsqueeze(-1)), list(starts.unsqueeze(-1))
    rows, all_active, some_start = [B] * T, [False] * T, [True] * T
    if on_host:
        rows = (active * torch.arange(1, B + 1, device=x.device)).amax(1).tolist() if B else [0] * T
        all_active = (active.sum(1) == torch.tensor(rows, device=x.device)).tolist()
        some_start = starts.any(1).tolist()
    steps = []
    for t in times:
        n = rows[t]
        steps.append(
            _Step(
                t,
                n,
                None if all_active[t] else active_at[t][:n],
                starts_at[t][:n] if direction == 1 and some_start[t] else None,
                cut_at[t][:n] if cut_at is not None and some_cut[t] else None,
            )
        )
    return steps


def _where(rows: Tensor | None, yes: State, no: State) -> State:
    """`yes` in `rows`, None for all of them, and `no` in the others."""
    return yes if rows is None else tuple(torch.where(rows, y, n) for y, n in zip(yes, no, strict=True))


def _zeroed(rows: Tensor | None, tensors: State) -> State:
    """Zero in `rows`, None for none of them."""
    return tensors if rows is None else tuple(t.masked_fill(rows, 0) for t in tensors)


def _computed(dtype: torch.dtype) -> torch.dtype:
    """What a dtype is computed in: as in the kernels, 16 bits are for storage."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def _first_rows(tensor: Tensor, t: int, rows: int, d: int) -> State:
    """Step t of a `(T, B, D, COUNT, H)` tensor: its COUNT entries, `(rows, H)` each."""
    return tensor[t, :rows, d].unbind(1)


def scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: Cell,
    save: bool,
    keep_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`fastrnn.backends.fused.scan`, without a schedule; `lengths` of rows that come longest first cost least."""
    dtype = x.dtype
    x, weight, state = (tensor.to(_computed(dtype)) for tensor in (x, weight, state))
    T, B, D, G, H = x.shape
    outer = G - cell.inner
    # Past its length a row is zero and nothing else is written there.
    new = torch.empty if lengths is None else torch.zeros
    output = new((T, B, D, H), dtype=x.dtype, device=x.device)
    cells = new((T, B, D, cell.states - 1, H) if save or keep_cells else (0,), dtype=x.dtype, device=x.device)
    saved = new((T, B, D, cell.saved, H) if save else (0,), dtype=x.dtype, device=x.device)
    final = state.clone(memory_format=torch.contiguous_format)
    for d in range(D):
        # Contiguous, since the product would otherwise pack them anew at every step.
        weights = weight[d, :outer].reshape(outer * H, H).t().contiguous()
        inner_weights = weight[d, outer:].reshape(-1, H).t().contiguous()
        added = None if bias is None else bias[d].to(x.dtype).reshape(G * H)
        current = final[:, d].unbind(0)
        for t, n, active, _, cut in _steps(x, lengths, resets, d):
            if n == 0:
                continue
            kept = tuple(s[:n] for s in current)
            previous = _zeroed(cut, kept)
            parts = x[t, :n, d]

            def inner(v: Tensor, own: Tensor = parts, through: Tensor = inner_weights) -> Tensor:
                return torch.addmm(own[:, -1], v, through)

            if cell.splits_bias:
                r = previous[0] @ weights if added is None else torch.addmm(added, previous[0], weights)
                now, gates = cell.step(parts.unbind(1), r.view(n, outer, H).unbind(1), previous, inner)
            else:
                r = torch.addmm(parts[:, :outer].reshape(n, outer * H), previous[0], weights)
                now, gates = cell.step(None, r.view(n, outer, H).unbind(1), previous, inner)
            (shown,) = _zeroed(None if active is None else ~active, now[:1])
            output[t, :n, d].copy_(shown)
            if save or keep_cells:
                others = _zeroed(None if active is None else ~active, now[1:])
                for place, value in zip(_first_rows(cells, t, n, d), others, strict=True):
                    place.copy_(value)
            if save:
                for place, value in zip(_first_rows(saved, t, n, d), gates, strict=True):
                    place.copy_(value)
            for place, value in zip(kept, _where(active, now, kept), strict=True):
                place.copy_(value)
    return output.to(dtype), final.to(dtype), cells.to(dtype), saved.to(dtype)


def scan_backward(
    dout: Tensor | None,
    dfinal: Tensor | None,
    dcells: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    cell: Cell,
) -> tuple[Tensor, Tensor, Tensor]:
    """`fastrnn.backends.fused.scan_backward`, without a schedule."""
    dtype = output.dtype
    weight, state, output, cells, saved = (t.to(_computed(dtype)) for t in (weight, state, output, cells, saved))
    T, B, D, H = output.shape
    G, outer = cell.gates, cell.gates - cell.inner
    new = torch.empty if lengths is None else torch.zeros
    dr = new((T, B, D, G, H), dtype=output.dtype, device=output.device)
    dx = torch.zeros_like(dr) if cell.splits_bias else dr
    dstate = torch.zeros_like(state) if dfinal is None else dfinal.to(output.dtype, copy=True)
    nothing = (None,) * cell.saved
    for d in range(D):
        weights = weight[d, :outer].reshape(outer * H, H)
        current = dstate[:, d].unbind(0)
        for t, n, active, starts, cut in reversed(_steps(output, lengths, resets, d)):
            if n == 0:
                continue
            initial = tuple(s[:n] for s in state[:, d].unbind(0))
            before = t - 1 + 2 * d
            if 0 <= before < T:
                previous = (output[before, :n, d], *_first_rows(cells, before, n, d))
                if starts is not None:
                    previous = _where(starts, initial, previous)
            else:
                previous = initial
            previous = _zeroed(cut, previous)
            kept = tuple(s[:n] for s in current)
            dnow = kept
            if dout is not None:
                dnow = (kept[0] + dout[t, :n, d], *dnow[1:])
            if dcells is not None:
                dnow = (dnow[0], *(s + u for s, u in zip(dnow[1:], _first_rows(dcells, t, n, d), strict=True)))
            now = (output[t, :n, d], *_first_rows(cells, t, n, d))

            def inner(v: Tensor, through: Tensor = weight[d, -1]) -> Tensor:
                return v @ through

            gates = _first_rows(saved, t, n, d) if cell.saved else ()
            dx_t, dr_t, dprevious = cell.step_backward(dnow, nothing, gates, previous, now, inner)
            ended = None if active is None else ~active
            for place, value in zip(_first_rows(dr, t, n, d), _zeroed(ended, dr_t), strict=True):
                place.copy_(value)
            if cell.splits_bias:
                for place, value in zip(_first_rows(dx, t, n, d), _zeroed(ended, dx_t), strict=True):
                    place.copy_(value)
            through = dr[t, :n, d, :outer].reshape(n, outer * H) @ weights
            dprevious = _zeroed(cut, (dprevious[0] + through, *dprevious[1:]))
            for place, value in zip(kept, _where(active, dprevious, kept), strict=True):
                place.copy_(value)
    return dx.to(dtype), dr.to(dtype), dstate.to(dtype)
