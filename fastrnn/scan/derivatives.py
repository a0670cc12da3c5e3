"""The operators' derivatives: what of a scan's gradient is one product over all steps, and gradients of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import reference
from fastrnn.cells import CELLS, Cell
from fastrnn.kernels.tensors import Kept, Upstream


def present_steps(time: int, lengths: Tensor) -> Tensor:
    """Where in the flattened (T, B) there are steps, for rows of these lengths, whose values are looked at."""
    present = torch.arange(time, device=lengths.device).unsqueeze(1) < lengths
    return present.flatten().nonzero().squeeze(1)


def _previous(kept: Kept, d: int) -> Tensor:
    """h_{t-1} of every step of direction d, `(T, B, H)`, of heads `(T, B, heads, H)`: what the matrices multiplied."""
    heads, lengths = kept.heads, kept.lengths
    if heads == 1:
        h, first = kept.output[:, :, d], kept.state[0, d].unsqueeze(0)
    else:
        h = kept.output.narrow(2, d * heads, heads)
        first = kept.state[0].narrow(0, d * heads, heads).transpose(0, 1).unsqueeze(0)
    before = torch.cat((first, h[:-1])) if d == 0 else torch.cat((h[1:], first))
    rows = (*h.shape[:2], *(1,) * (h.dim() - 2))
    if d == 1 and lengths is not None:
        starts = torch.arange(1, len(h) + 1, device=h.device).unsqueeze(1) == lengths
        before = torch.where(starts.view(rows), first, before)
    cut = reference.cuts(kept.resets, lengths, d)
    return before if cut is None else before.masked_fill(cut.view(rows), 0)


def _block_gradient(dr: Tensor, kept: Kept, cell: Cell) -> Tensor:
    """`_weight_gradient` of heads, `(P, GATES, H, H)`, or of diagonals, `(P, GATES, H, 1)`."""
    T, B, P, gates, H = dr.shape
    heads, outer = kept.heads, gates - cell.inner

    def product(d: int, first: int, count: int, h: Tensor) -> Tensor:
        g = dr.narrow(2, d * heads, heads).narrow(3, first, count)
        if kept.weight.shape[-1] == H:
            g = g.reshape(T * B, heads, count * H).permute(1, 2, 0)
            return (g @ h.reshape(T * B, heads, H).transpose(0, 1)).reshape(heads, count, H, H)
        # A gate at a time, or the products would take as much room as all gates of all steps.
        h = h.reshape(T, B, heads, H)
        return torch.stack([(g.select(3, i) * h).sum((0, 1)) for i in range(count)], 1).unsqueeze(-1)

    grads = []
    for d in range(P // heads):
        previous = _previous(kept, d).reshape(T, B, heads, H)
        total = product(d, 0, outer, previous)
        if cell.inner:
            operand = kept.saved.narrow(2, d * heads, heads).select(3, 0) * previous
            if kept.lengths is not None:
                # Nothing was saved past a row's length: dr is zero there, and so must be what it meets.
                active = torch.arange(T, device=dr.device).unsqueeze(1) < kept.lengths
                operand = torch.where(active.view(T, B, 1, 1), operand, 0)
            total = torch.cat((total, product(d, outer, cell.inner, operand)), 1)
        grads.append(total)
    return torch.cat(grads)


def _weight_gradient(dr: Tensor, kept: Kept, cell: Cell) -> Tensor:
    """Sum over t and rows of dr_t h_{t-1}^T, per direction, `(D, GATES, H, H)`.

    `dr` is the gradient of the gates' recurrent parts, `(T, B, D, GATES, H)`, zero past each row's length, as are the
    output and what else was kept of every step.
    """
    if kept.heads > 1 or kept.weight.shape[-1] < dr.shape[-1]:
        return _block_gradient(dr, kept, cell)
    lengths, output = kept.lengths, kept.output
    T, B, D, gates, H = dr.shape
    outer = (gates - cell.inner) * H
    rows = None
    if lengths is not None and dr.device.type == "cpu" and type(dr) is Tensor is type(lengths):
        # On a CPU, where the lengths can be looked at (a tracer's tensors have none), over the steps that there are.
        rows = present_steps(T, lengths)

    def picked(steps: Tensor, width: int) -> Tensor:
        """`(T, B, ...)` as a matrix with one row for each step. Not flatten, for which vmap, taking batched gradients,
        has no rule."""
        matrix = steps.reshape(T * B, width)
        return matrix if rows is None else matrix.index_select(0, rows)

    grads = []
    for d in range(D):
        if rows is not None or cell.inner or kept.resets is not None or (d == 1 and lengths is not None):
            g = picked(dr[:, :, d], gates * H)
            previous = picked(_previous(kept, d), H)
            # Nor a slice, which may be of all and then is an alias.
            total = g.narrow(1, 0, outer).t() @ previous
            if cell.inner:
                operand = picked(kept.saved[:, :, d, 0], H) * previous
                if lengths is not None and rows is None:
                    # Nothing was saved past a row's length: dr is zero there, and so must be what it meets.
                    active = torch.arange(T, device=dr.device).unsqueeze(1) < lengths
                    operand = torch.where(active.reshape(T * B, 1), operand, 0)
                total = torch.cat((total, g.narrow(1, outer, gates * H - outer).t() @ operand))
        else:
            # Without a shifted copy of the output: one product over all steps but the first, one for that.
            g, last = dr[:, :, d].reshape(T * B, gates * H), (T - 1) * B
            h = output[:, :, d]
            later, before, start = (g[B:], h[:-1], g[:B]) if d == 0 else (g[:last], h[1:], g[last:])
            total = torch.addmm(torch.mm(start.t(), kept.state[0, d]), later.t(), before.reshape(last, H))
        grads.append(total.view(gates, H, H))
    return torch.stack(grads)


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, weight, bias, state, lengths, resets, ctx.cell, ctx.backend, ctx.save, _, ctx.batch_first, ctx.heads = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    out, _, _, cells, saved = output
    ctx.save_for_backward(weight, state, lengths, resets, out, cells, saved)


def backward(
    ctx: Any,
    dout: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    dcells: Tensor | None,
    dsaved: Tensor | None,
) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("the scan was recorded without gradients and cannot be differentiated: pass save=True")
    cell = CELLS[ctx.cell]
    weight, state, lengths, resets, output, cells, saved = ctx.saved_tensors
    _, P, B, H = state.shape

    def as_scanned(rows: Tensor, *sizes: int) -> Tensor:
        """What the operator laid out."""
        rows = rows.transpose(0, 1) if ctx.batch_first else rows
        return rows.reshape(rows.shape[0], B, *sizes)

    others = (P, cell.states - 1, H)
    output, cells = as_scanned(output, P, H), as_scanned(cells, *others)
    dout, dcells = (
        None if dout is None else as_scanned(dout, P, H),
        None if dcells is None else as_scanned(dcells, *others),
    )
    dfinal = None
    if dh is not None or dc is not None:
        given = (dh, dc)[: cell.states]
        dfinal = torch.stack([torch.zeros_like(state[0]) if d is None else d for d in given])
    upstream = Upstream(dout, dfinal, dcells)
    kept = Kept(weight, state, lengths, resets, output, cells, saved, ctx.heads)
    if dsaved is None:
        dx, dr, dstate = torch.ops.fastrnn.scan_backward(*upstream, *kept[:7], ctx.cell, ctx.backend, ctx.heads)
    else:
        # Only a second derivative reaches what was saved.
        dx, dr, dstate = reference.scan_backward(upstream, kept, cell, dsaved)
    if not cell.splits_bias:
        dr = dx
    dweight = None
    if ctx.needs_input_grad[1]:
        dweight = _weight_gradient(dr, kept, cell)
    dbias = dr.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return dx, dweight, dbias, dstate, *(None,) * 8


def keep_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, _, ctx.heads = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def double_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of `scan_backward`, through the same equations in plain torch."""
    cell = CELLS[ctx.cell]
    again = torch.is_grad_enabled()
    given = ctx.saved_tensors
    needed = [i for i, needs in enumerate(ctx.needs_input_grad[: len(given)]) if needs]
    # Aliases, so that the gradient of the weights, say, is not also taken through the output that came of them.
    tensors = list(given)
    for i in needed:
        tensors[i] = given[i].view_as(given[i]) if again else given[i].detach().requires_grad_()
    with torch.enable_grad():
        kept = Kept(*tensors[3:])._replace(heads=ctx.heads)
        results = reference.scan_backward(Upstream(*tensors[:3]), kept, cell)
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if u is not None and u.numel()]
    gradients: list[Tensor | None] = [None] * (len(given) + 3)
    found = torch.autograd.grad(
        [r for r, _ in pairs],
        [tensors[i] for i in needed],
        [u for _, u in pairs],
        create_graph=again,
        allow_unused=True,
    )
    for i, gradient in zip(needed, found, strict=True):
        gradients[i] = gradient
    return tuple(gradients)


def batched_backward(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
    """One call per entry: batched upstream gradients (`is_grads_batched`) are all that reaches the operator so."""
    calls = []
    for i in range(info.batch_size):
        given = [a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)]
        calls.append(torch.ops.fastrnn.scan_backward(*given))
    return tuple(torch.stack(results) for results in zip(*calls, strict=True)), (0, 0, 0)
