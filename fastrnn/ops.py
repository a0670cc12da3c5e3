"""The operators, as torch.library sees them: one pair for all cells.

    fastrnn::scan_layer     the forward scan of one layer, both directions, with results as layers return them
    fastrnn::scan_backward  its gradient, without what single matrix products over all steps compute
    fastrnn::scan           the forward scan with results as the kernels return them: in programs exported before

Fake kernels give their shapes; autograd is registered on the first, in terms of the second. Tensors are laid out as in
`fastrnn.kernels.tensors`, where nothing else is said. Cells and backends go by name, since an operator's arguments are
data. `fastrnn.layer_op` has the operators for torch's own layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import aten, aten_scan, aten_scan_backward, fused, reference
from fastrnn.cells import CELLS, Cell
from fastrnn.checks import jit_tracing
from fastrnn.kernels.tensors import Inputs, Kept, Upstream
from fastrnn.packing import padding_of

_LIBRARY = torch.library.Library("fastrnn", "DEF")
_LIBRARY.define(
    "scan(Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? lengths, Tensor? resets, str cell, str backend,"
    " bool save, bool keep_cells) -> (Tensor output, Tensor final, Tensor cells, Tensor saved)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# Results that are reshaped or indexed outside are views to autograd, which users can neither detach in place nor keep
# without all that lies beside them: hence c apart from h, and the output laid out in here.
_LIBRARY.define(
    "scan_layer(Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? lengths, Tensor? resets, str cell,"
    " str backend, bool save, bool keep_cells, bool batch_first)"
    " -> (Tensor output, Tensor h, Tensor c, Tensor cells, Tensor saved)",
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
    given = (x, weight, bias, state, lengths, resets, cell, backend, save, keep_cells, False)
    output, h, c, cells, saved = torch.ops.fastrnn.scan_layer(*given)
    T, B, D, _, H = x.shape
    final = torch.stack((h, c) if CELLS[cell].states > 1 else (h,))
    cells = cells.view(T, B, D, CELLS[cell].states - 1, H) if save or keep_cells else cells
    return output.view(T, B, D, H), final, cells, saved


def _laid_out(rows: Tensor, batch_first: bool) -> Tensor:
    """A fresh `(T, B, D, ..., H)` tensor as layers return it, `(T, B, D * ... * H)` or with `batch_first`
    `(B, T, D * ... * H)`; changed in place, since autograd would take a new one for a view."""
    T, B, *sizes = rows.shape
    rows.resize_(T, B, math.prod(sizes))
    return rows.transpose_(0, 1) if batch_first else rows


def _scan_layer(
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
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (x, weight, bias, state, lengths, resets, CELLS[cell])
    if backend == aten.NAME:
        output, final, cells, saved = aten_scan.scan(*given, save, keep_cells)
    else:
        output, final, cells, saved = fused.scan(Inputs(*given[:6]), CELLS[cell], backend, save, keep_cells)
    if CELLS[cell].states > 1:
        h, c = final[0].clone(), final[1].clone()
    else:
        h, c = final.resize_(final.shape[1:]), final.new_empty(0)
    if save or keep_cells:
        cells = _laid_out(cells, batch_first)
    return _laid_out(output, batch_first), h, c, cells, saved


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
    given = (dout, dfinal, dcells, weight, state, lengths, resets, output, cells, saved)
    if backend == aten.NAME:
        dx, dr, dstate = aten_scan_backward.scan_backward(*given, CELLS[cell])
    else:
        dx, dr, dstate = fused.scan_backward(Upstream(*given[:3]), Kept(*given[3:]), CELLS[cell], backend)
    # An operator's outputs may not be one tensor: where dr is dx, it comes back empty.
    return dx, dr if CELLS[cell].splits_bias else dr.new_empty(0), dstate


_LIBRARY.impl("scan", _scan, "CompositeImplicitAutograd")
_LIBRARY.impl("scan_layer", _scan_layer, "CompositeExplicitAutograd")
_LIBRARY.impl("scan_backward", _scan_backward, "CompositeExplicitAutograd")


def _scan_layer_fake(
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
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, B, D, _, H = x.shape
    counts = CELLS[cell]
    output, cells = x.new_empty((T, B, D * H)), x.new_empty((0,))
    if save or keep_cells:
        cells = x.new_empty((T, B, D * (counts.states - 1) * H))
    if batch_first:
        output, cells = output.transpose(0, 1), cells.transpose(0, 1) if save or keep_cells else cells
    return (
        output,
        state.new_empty((D, B, H)),
        state.new_empty((D, B, H) if counts.states > 1 else (0,)),
        cells,
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


torch.library.register_fake("fastrnn::scan_layer", _scan_layer_fake)
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
    _, weight, bias, state, lengths, resets, ctx.cell, ctx.backend, ctx.save, _, ctx.batch_first = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    out, _, _, cells, saved = output
    ctx.save_for_backward(weight, state, lengths, resets, out, cells, saved)


def _backward(
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
    _, D, B, H = state.shape

    def as_scanned(rows: Tensor, *sizes: int) -> Tensor:
        """What `_laid_out` was given."""
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
        upstream = (dh, dc)[: cell.states]
        dfinal = torch.stack([torch.zeros_like(state[0]) if d is None else d for d in upstream])
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
    return dx, dweight, dbias, dstate, *(None,) * 7


torch.library.register_autograd("fastrnn::scan_layer", _backward, setup_context=_setup_context)


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
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """One layer's scan; saves for backward only what will be differentiated.

    Arguments are those of `fastrnn.backends.reference.scan`, with the cell and the backend by name.

    Returns:
        The output `(T, B, D * H)`, one final state `(D, B, H)` for each that the cell has, and, with `keep_cells`, the
        states other than h of every step, `(T, B, D * (STATES - 1) * H)`; with `batch_first`, B comes before T. They
        are tensors of their own: none is a view, none keeps another's memory.
    """
    tensors = (x, weight, bias, state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    tracing = torch.compiler.is_compiling()
    if jit_tracing():
        # What is recorded here may be differentiated later, and torch.jit.trace, which checks what it recorded under
        # no_grad, must find the same again.
        tracing, save = True, not torch.is_inference_mode_enabled()
    # In inference the operator's own bookkeeping, a third of a short call's time, would be for nobody: no tracer, no
    # mode that watches operators (fake tensors, say), no gradient.
    watched = save or tracing or torch._C._len_torch_dispatch_stack() > 0
    call = torch.ops.fastrnn.scan_layer if watched else _scan_layer
    given = (x, weight, bias, state, lengths, resets, cell, backend, save, keep_cells, batch_first)
    output, h, c, cells, _ = call(*given)
    return output, (h, c) if CELLS[cell].states > 1 else (h,), cells
