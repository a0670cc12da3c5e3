"""The operators' derivatives: what of a scan's gradient is one product over all steps, and gradients of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import reference
from fastrnn.cells import Cell, named
from fastrnn.kernels.tensors import Inputs, Kept, Upstream


def present_steps(time: int, lengths: Tensor) -> Tensor:
    """Where in the flattened (T, B) there are steps, for rows of these lengths, whose values are looked at."""
    present = torch.arange(time, device=lengths.device).unsqueeze(1) < lengths
    return present.flatten().nonzero().squeeze(1)


def _own(steps: Tensor, d: int, heads: int) -> Tensor:
    """Direction d of `(T, B, P, ...)`: without its axis, or with one of its heads."""
    return steps[:, :, d] if heads == 1 else steps.narrow(2, d * heads, heads)


def _states(kept: Kept, d: int, s: int) -> Tensor:
    """State s after every step of direction d, `(T, B, H)`, of heads `(T, B, heads, H)`."""
    return _own(kept.cells, d, kept.heads).select(-2, s - 1) if s else _own(kept.output, d, kept.heads)


def _previous(kept: Kept, d: int, cell: Cell, s: int = 0) -> Tensor:
    """State s before every step of direction d, like that after; of h, what the matrices multiplied."""
    heads, lengths, h = kept.heads, kept.lengths, _states(kept, d, s)
    if heads == 1:
        first = kept.state[s, d].unsqueeze(0)
    else:
        first = kept.state[s].narrow(0, d * heads, heads).transpose(0, 1).unsqueeze(0)
    first = first.to(h.dtype)  # the initial h, where states are kept in float32
    before = torch.cat((first, h[:-1])) if d == 0 else torch.cat((h[1:], first))
    rows = (*h.shape[:2], *(1,) * (h.dim() - 2))
    if d == 1 and lengths is not None:
        starts = torch.arange(1, len(h) + 1, device=h.device).unsqueeze(1) == lengths
        before = torch.where(starts.view(rows), first, before)
    cut = reference.cuts(kept.resets, lengths, d)
    return before if cut is None else before.masked_fill(cut.view(rows), cell.initial[s] if cell.initial else 0)


def _operand(kept: Kept, d: int, cell: Cell) -> Tensor:
    """What the inner gate multiplied at every step of direction d, `(T, B, H)`, of heads `(T, B, heads, H)`."""
    vectors, constants, heads = kept.vectors, kept.constants, kept.heads
    given: tuple[Tensor, ...] = ()
    if vectors is not None:
        given = vectors[d].unbind(0) if heads == 1 else vectors.narrow(0, d * heads, heads).unbind(1)
    if constants is not None:
        given += tuple(c.view(*c.shape, *(1,) * (1 + (heads > 1))) for c in constants.unbind(2))
    before, now = zip(*((_previous(kept, d, cell, s), _states(kept, d, s)) for s in range(cell.states)), strict=True)
    saved = _own(kept.saved, d, heads).unbind(-2) if cell.saved else ()
    operand = cell.operand(saved, before, now, given).to(kept.output.dtype)
    if kept.lengths is None:
        return operand
    # Nothing was saved past a row's length: dr is zero there, and so must be what it meets.
    active = torch.arange(len(operand), device=operand.device).unsqueeze(1) < kept.lengths
    return torch.where(active.view(*active.shape, *(1,) * (operand.dim() - 2)), operand, 0)


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
        previous = _previous(kept, d, cell).reshape(T, B, heads, H)
        total = product(d, 0, outer, previous)
        if cell.inner:
            operand = _operand(kept, d, cell)
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
            previous = picked(_previous(kept, d, cell), H)
            # Nor a slice, which may be of all and then is an alias.
            total = g.narrow(1, 0, outer).t() @ previous
            if cell.inner:
                operand = picked(_operand(kept, d, cell), H)
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
            total = torch.addmm(torch.mm(start.t(), kept.state[0, d].to(h.dtype)), later.t(), before.reshape(last, H))
        grads.append(total.view(gates, H, H))
    return torch.stack(grads)


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, state, lengths, resets, ctx.cell, ctx.backend, ctx.save, _, ctx.batch_first, *others = inputs
    *besides, ctx.heads = others
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    out, _, _, cells, saved = output
    # The input, which is large, only for cells whose second derivatives take it.
    given = (None, None) if named(ctx.cell).keeps_enough else (x, bias)
    ctx.save_for_backward(weight, state, lengths, resets, out, cells, saved, *besides, *given)


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
    cell = named(ctx.cell)
    *of_forward, vectors, constants, x, bias = ctx.saved_tensors
    weight, state, lengths, resets, output, cells, saved = of_forward
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
        parts = (state[:1], dh), (state[1:], dc)
        dfinal = torch.cat([torch.zeros_like(s) if d is None else d.reshape(s.shape) for s, d in parts])
    upstream, besides = Upstream(dout, dfinal, dcells), (vectors, constants, ctx.heads)
    if x is not None and torch.is_grad_enabled():
        return _differentiable(upstream, Inputs(x, weight, bias, state, lengths, resets, *besides), cell, ctx)
    kept = Kept(weight, state, lengths, resets, output, cells, saved, *besides)
    if dsaved is None:
        given = (*kept[:7], ctx.cell, ctx.backend, *besides)
        dx, dr, dstate, dvectors = torch.ops.fastrnn.scan_backward(*upstream, *given)
    else:
        # Only a second derivative reaches what was saved.
        dx, dr, dstate, dvectors = reference.scan_backward(upstream, kept, cell, dsaved)
    if not cell.splits_bias:
        dr = dx
    dweight = None
    if ctx.needs_input_grad[1]:
        dweight = _weight_gradient(dr, kept, cell)
    dbias = dr.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return dx, dweight, dbias, dstate, *(None,) * 7, dvectors if cell.vectors else None, None, None


def _differentiable(upstream: Upstream, inputs: Inputs, cell: Cell, ctx: Any) -> tuple[Tensor | None, ...]:
    """What `backward` gives, as a function that autograd sees all of: the reference's scan, run again."""
    given = (inputs.x, inputs.weight, inputs.bias, inputs.state, inputs.vectors)
    # Aliases, so that nothing else that came of them is differentiated through.
    own: list[Any] = [None if t is None else t.view_as(t) for t in given]
    x, weight, bias, state, vectors = own
    inputs = inputs._replace(x=x, weight=weight, bias=bias, state=state, vectors=vectors)
    results = reference.scan(inputs, cell)[:3]
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if u is not None and u.numel()]
    wanted = (*ctx.needs_input_grad, False)  # which leaves out arguments that have their default
    needs = [wanted[i] for i in (0, 1, 2, 3, min(11, len(wanted) - 1))]
    needed = [i for i, (t, n) in enumerate(zip(own, needs, strict=True)) if t is not None and n]
    gradients: list[Tensor | None] = [None] * 5
    found = torch.autograd.grad(
        [r for r, _ in pairs],
        [own[i] for i in needed],
        [u for _, u in pairs],
        create_graph=True,
        allow_unused=True,
    )
    for i, gradient in zip(needed, found, strict=True):
        gradients[i] = gradient
    return *gradients[:4], *(None,) * 7, gradients[4], None, None


def keep_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, _, vectors, constants, ctx.heads = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, vectors, constants)


def double_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of `scan_backward`, through the same equations in plain torch."""
    cell = named(ctx.cell)
    again = torch.is_grad_enabled()
    given = ctx.saved_tensors
    # The operator's arguments, but for the names of the cell and of the backend.
    places = [*range(len(given) - 2), len(given), len(given) + 1]
    needs = (*ctx.needs_input_grad, False, False)  # which leaves out arguments that have their default
    needed = [i for i, place in enumerate(places) if needs[place]]
    # Aliases, so that the gradient of the weights, say, is not also taken through the output that came of them.
    tensors = list(given)
    for i in needed:
        tensors[i] = given[i].view_as(given[i]) if again else given[i].detach().requires_grad_()
    with torch.enable_grad():
        kept = Kept(*tensors[3:])._replace(heads=ctx.heads)
        results = reference.scan_backward(Upstream(*tensors[:3]), kept, cell)
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if r is not None and u is not None and u.numel()]
    gradients: list[Tensor | None] = [None] * (len(given) + 3)
    found = torch.autograd.grad(
        [r for r, _ in pairs],
        [tensors[i] for i in needed],
        [u for _, u in pairs],
        create_graph=again,
        allow_unused=True,
    )
    for i, gradient in zip(needed, found, strict=True):
        gradients[places[i]] = gradient
    return tuple(gradients)


def batched_backward(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
    """One call per entry: batched upstream gradients (`is_grads_batched`) are all that reaches the operator so."""
    calls = []
    for i in range(info.batch_size):
        given = [a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)]
        calls.append(torch.ops.fastrnn.scan_backward(*given))
    return tuple(torch.stack(results) for results in zip(*calls, strict=True)), (0, 0, 0, 0)
