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


def _previous(kept: Kept, d: int, cell: Cell, s: int = 0) -> Tensor:
    """State s before every step of direction d, `(T, B, H)`: of h, what the recurrent matrix multiplied."""
    now, first, lengths = _states(kept, d, s), kept.state[s, d].unsqueeze(0), kept.lengths
    before = torch.cat((first, now[:-1])) if d == 0 else torch.cat((now[1:], first))
    if d == 1 and lengths is not None:
        starts = torch.arange(1, len(now) + 1, device=now.device).unsqueeze(1) == lengths
        before = torch.where(starts.unsqueeze(-1), first, before)
    cut = reference.cuts(kept.resets, lengths, d)
    return before if cut is None else before.masked_fill(cut.unsqueeze(-1), cell.initial[s] if cell.initial else 0)


def _states(kept: Kept, d: int, s: int) -> Tensor:
    """State s after every step of direction d."""
    return kept.cells[:, :, d, s - 1] if s else kept.output[:, :, d]


def _operand(kept: Kept, d: int, cell: Cell) -> Tensor:
    """What the inner gate multiplied at every step of direction d, `(T, B, H)`."""
    vectors, constants = kept.vectors, kept.constants
    own = () if vectors is None else vectors[d].unbind(0)
    given = own if constants is None else (*own, *constants.unsqueeze(-1).unbind(2))
    before, now = zip(*((_previous(kept, d, cell, s), _states(kept, d, s)) for s in range(cell.states)), strict=True)
    return cell.operand(kept.saved[:, :, d].unbind(2) if cell.saved else (), before, now, given)


def _weight_gradient(dr: Tensor, kept: Kept, cell: Cell) -> Tensor:
    """Sum over t and rows of dr_t h_{t-1}^T, per direction, `(D, GATES, H, H)`.

    `dr` is the gradient of the gates' recurrent parts, `(T, B, D, GATES, H)`, zero past each row's length, as are the
    output and what else was kept of every step.
    """
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
            total = torch.addmm(torch.mm(start.t(), kept.state[0, d]), later.t(), before.reshape(last, H))
        grads.append(total.view(gates, H, H))
    return torch.stack(grads)


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, state, lengths, resets, ctx.cell, ctx.backend, ctx.save, _, ctx.batch_first, *besides = inputs
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
    _, D, B, H = state.shape

    def as_scanned(rows: Tensor, *sizes: int) -> Tensor:
        """What the operator laid out."""
        rows = rows.transpose(0, 1) if ctx.batch_first else rows
        return rows.reshape(rows.shape[0], B, *sizes)

    others = (D, cell.states - 1, H)
    output, cells = as_scanned(output, D, H), as_scanned(cells, *others)
    dout, dcells = (
        None if dout is None else as_scanned(dout, D, H),
        None if dcells is None else as_scanned(dcells, *others),
    )
    dfinal = None
    if dh is not None or dc is not None:
        parts = (state[:1], dh), (state[1:], dc)
        dfinal = torch.cat([torch.zeros_like(s) if d is None else d.reshape(s.shape) for s, d in parts])
    upstream = Upstream(dout, dfinal, dcells)
    if x is not None and torch.is_grad_enabled():
        return _differentiable(upstream, Inputs(x, weight, bias, state, lengths, resets, vectors, constants), cell, ctx)
    kept = Kept(weight, state, lengths, resets, output, cells, saved, vectors, constants)
    if dsaved is None:
        given = (*kept[:7], ctx.cell, ctx.backend, vectors, constants)
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
    return dx, dweight, dbias, dstate, *(None,) * 7, dvectors if cell.vectors else None, None


def _differentiable(upstream: Upstream, inputs: Inputs, cell: Cell, ctx: Any) -> tuple[Tensor | None, ...]:
    """What `backward` gives, as a function that autograd sees all of: the reference's scan, run again."""
    given = (inputs.x, inputs.weight, inputs.bias, inputs.state, inputs.vectors)
    # Aliases, so that nothing else that came of them is differentiated through.
    own: list[Any] = [None if t is None else t.view_as(t) for t in given]
    x, weight, bias, state, vectors = own
    inputs = Inputs(x, weight, bias, state, inputs.lengths, inputs.resets, vectors, inputs.constants)
    results = reference.scan(inputs, cell)[:3]
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if u is not None and u.numel()]
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 2, 3, 11)]
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
    return *gradients[:4], *(None,) * 7, gradients[4], None


def keep_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, _, vectors, constants = inputs
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
        results = reference.scan_backward(Upstream(*tensors[:3]), Kept(*tensors[3:]), cell)
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if r is not None and u is not None and u.numel()]
    gradients: list[Tensor | None] = [None] * (len(given) + 2)
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
