"""The operators, as torch.library sees them: one pair for all cells.

    fastrnn::scan           the forward scan of one layer, both directions
    fastrnn::scan_backward  its gradient, without what single matrix products over all steps compute

Fake kernels give their shapes; autograd is registered on the first of each pair, in terms of the second. Tensors are
laid out as in `fastrnn.kernels.scan`. Cells and backends go by name, since an operator's arguments are data.
`fastrnn.layer_op` has the operators for torch's own layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import aten, aten_scan, fused, reference
from fastrnn.cells import CELLS, Cell
from fastrnn.checks import jit_tracing
from fastrnn.packing import padding_of

_LIBRARY = torch.library.Library("fastrnn", "DEF")
_LIBRARY.define(
    "scan(Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? lengths, Tensor? resets, str cell, str backend,"
    " bool save, bool keep_cells) -> (Tensor output, Tensor final, Tensor cells, Tensor saved)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "scan_backward(Tensor? dout, Tensor? dfinal, Tensor? dcells, Tensor weight, Tensor state, Tensor? lengths,"
    " Tensor? resets, Tensor output, Tensor cells, Tensor saved, str cell, str backend)"
    " -> (Tensor dx, Tensor dr, Tensor dstate)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    backend: str,
    save: bool,
    keep_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if backend == aten.NAME:
        return aten_scan.scan(x, weight, bias, state, lengths, resets, CELLS[cell], save, keep_cells)
    return fused.scan(x, weight, bias, state, lengths, resets, CELLS[cell], backend, save, keep_cells)


def _scan_backward(
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
    cell: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    given = (dout, dfinal, dcells, weight, state, lengths, resets, output, cells, saved, CELLS[cell])
    dx, dr, dstate = aten_scan.scan_backward(*given) if backend == aten.NAME else fused.scan_backward(*given, backend)
    # An operator's outputs may not be one tensor: where dr is dx, it comes back empty.
    return dx, dr if CELLS[cell].splits_bias else dr.new_empty(0), dstate


_LIBRARY.impl("scan", _scan, "CompositeExplicitAutograd")
_LIBRARY.impl("scan_backward", _scan_backward, "CompositeExplicitAutograd")


def _scan_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    backend: str,
    save: bool,
    keep_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    T, B, D, _, H = x.shape
    counts = CELLS[cell]
    return (
        x.new_empty((T, B, D, H)),
        torch.empty_like(state, memory_format=torch.contiguous_format),
        x.new_empty((T, B, D, counts.states - 1, H) if save or keep_cells else (0,)),
        x.new_empty((T, B, D, counts.saved, H) if save else (0,)),
    )


def _scan_backward_fake(
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
    cell: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    T, B, D, H = output.shape
    counts = CELLS[cell]
    dx = output.new_empty((T, B, D, counts.gates, H))
    dr = torch.empty_like(dx) if counts.splits_bias else output.new_empty(0)
    return dx, dr, torch.empty_like(state, memory_format=torch.contiguous_format)


torch.library.register_fake("fastrnn::scan", _scan_fake)
torch.library.register_fake("fastrnn::scan_backward", _scan_backward_fake)


def _previous(output: Tensor, h0: Tensor, lengths: Tensor | None, resets: Tensor | None, d: int) -> Tensor:
    """h_{t-1} of every step of direction d, `(T, B, H)`: what the recurrent matrix multiplied.

    Args:
        output: `(T, B, D, H)`; h0: `(D, B, H)`; lengths: `(B,)` or None; resets: `(T, B)` or None.
    """
    h, first = output[:, :, d], h0[d].unsqueeze(0)
    before = torch.cat((first, h[:-1])) if d == 0 else torch.cat((h[1:], first))
    if d == 1 and lengths is not None:
        starts = torch.arange(1, len(h) + 1, device=h.device).unsqueeze(1) == lengths
        before = torch.where(starts.unsqueeze(-1), first, before)
    cut = reference.cuts(resets, lengths, d)
    return before if cut is None else before.masked_fill(cut.unsqueeze(-1), 0)


def _weight_gradient(
    dr: Tensor, output: Tensor, h0: Tensor, saved: Tensor, lengths: Tensor | None, resets: Tensor | None, cell: Cell
) -> Tensor:
    """Sum over t and rows of dr_t h_{t-1}^T, per direction.

    Args:
        dr: `(T, B, D, GATES, H)`, zero past each row's length.
        output: `(T, B, D, H)`, zero past each row's length.
        h0: `(D, B, H)`.
        saved: `(T, B, D, SAVED, H)`.
        lengths: `(B,)` or None.
        resets: `(T, B)` or None.
        cell: the cell.

    Returns:
        `(D, GATES, H, H)`.
    """
    T, B, D, gates, H = dr.shape
    outer = (gates - cell.inner) * H
    rows = None
    if lengths is not None and dr.device.type == "cpu" and type(dr) is Tensor is type(lengths):
        # On a CPU, where the lengths can be looked at (a tracer's tensors have none), over the steps that there are.
        rows = padding_of(T, lengths, dr.device).positions

    def picked(steps: Tensor, width: int) -> Tensor:
        """`(T, B, ...)` as a matrix with one row for each step. Not flatten, for which vmap, taking batched gradients,
        has no rule."""
        matrix = steps.reshape(T * B, width)
        return matrix if rows is None else matrix.index_select(0, rows)

    grads = []
    for d in range(D):
        if rows is not None or cell.inner or resets is not None or (d == 1 and lengths is not None):
            g = picked(dr[:, :, d], gates * H)
            previous = picked(_previous(output, h0, lengths, resets, d), H)
            # Nor a slice, which may be of all and then is an alias.
            total = g.narrow(1, 0, outer).t() @ previous
            if cell.inner:
                operand = picked(saved[:, :, d, 0], H) * previous
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
            total = torch.addmm(torch.mm(start.t(), h0[d]), later.t(), before.reshape(last, H))
        grads.append(total.view(gates, H, H))
    return torch.stack(grads)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, weight, bias, state, lengths, resets, ctx.cell, ctx.backend, ctx.save, _ = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    out, _, cells, saved = output
    ctx.save_for_backward(weight, state, lengths, resets, out, cells, saved)


def _backward(
    ctx: Any, dout: Tensor | None, dfinal: Tensor | None, dcells: Tensor | None, dsaved: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("fastrnn::scan was called with save=False and cannot be differentiated; pass save=True")
    cell = CELLS[ctx.cell]
    weight, state, lengths, resets, output, cells, saved = ctx.saved_tensors
    kept = (weight, state, lengths, resets, output, cells, saved)
    if dsaved is None:
        dx, dr, dstate = torch.ops.fastrnn.scan_backward(dout, dfinal, dcells, *kept, ctx.cell, ctx.backend)
    else:
        # Only a second derivative reaches what was saved.
        dx, dr, dstate = reference.scan_backward(dout, dfinal, dcells, dsaved, *kept, cell)
    if not cell.splits_bias:
        dr = dx
    dweight = None
    if ctx.needs_input_grad[1]:
        dweight = _weight_gradient(dr, output, state[0], saved, lengths, resets, cell)
    dbias = dr.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return dx, dweight, dbias, dstate, *(None,) * 6


torch.library.register_autograd("fastrnn::scan", _backward, setup_context=_setup_context)


def _setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _double_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of `scan_backward`, through the same equations in plain torch."""
    cell = CELLS[ctx.cell]
    again = torch.is_grad_enabled()
    given = ctx.saved_tensors
    needed = [i for i, needs in enumerate(ctx.needs_input_grad[: len(given)]) if needs]
    # Aliases, so that the gradient of the weights, say, is not also taken through the output that came of them.
    tensors = list(given)
    for i in needed:
        tensors[i] = given[i].view_as(given[i]) if again else given[i].detach().requires_grad_()
    dout, dfinal, dcells, weight, state, lengths, resets, output, cells, saved = tensors
    with torch.enable_grad():
        results = reference.scan_backward(
            dout, dfinal, dcells, None, weight, state, lengths, resets, output, cells, saved, cell
        )
    pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if u is not None and u.numel()]
    gradients: list[Tensor | None] = [None] * (len(given) + 2)
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


torch.library.register_autograd("fastrnn::scan_backward", _double_backward, setup_context=_setup_backward_context)


def _scan_backward_vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
    """One call per entry: batched upstream gradients (`is_grads_batched`) are all that reaches the operator so."""
    calls = []
    for i in range(info.batch_size):
        given = [a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)]
        calls.append(torch.ops.fastrnn.scan_backward(*given))
    return tuple(torch.stack(results) for results in zip(*calls, strict=True)), (0, 0, 0)


torch.library.register_vmap("fastrnn::scan_backward", _scan_backward_vmap)


def scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    backend: str,
    keep_cells: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's scan; saves for backward only what will be differentiated.

    Arguments and results are those of `fastrnn.backends.reference.scan`, with the cell and the backend by name, and the
    cells empty without `keep_cells`.
    """
    tensors = (x, weight, bias, state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    # In inference the operator's own bookkeeping, a third of a short call's time, would be for nobody: no tracer, no
    # mode that watches operators (fake tensors, say), no gradient.
    tracing = torch.compiler.is_compiling() or jit_tracing()
    watched = save or tracing or torch._C._len_torch_dispatch_stack() > 0
    call = torch.ops.fastrnn.scan if watched else _scan
    output, final, cells, _ = call(x, weight, bias, state, lengths, resets, cell, backend, save, keep_cells)
    return output, final, cells
