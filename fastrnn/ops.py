"""The operators, as torch.library sees them: one pair for all cells.

    fastrnn::scan                 the forward scan of one layer, both directions
    fastrnn::scan_backward        its gradient, without what single matrix products over all steps compute
    fastrnn::aten_layer           torch's own layer as one node, for torch.compile and torch.export to trace: torch's
    fastrnn::aten_layer_backward  own is unrolled over a fixed T. Its gradient runs the layer again.

Fake kernels give their shapes; autograd is registered on the first of each pair, in terms of the second. Tensors are
laid out as in `fastrnn.kernels.scan`. Cells and backends go by name, since an operator's arguments are data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import aten, fused, reference
from fastrnn.cells import CELLS, Cell

_LIBRARY = torch.library.Library("fastrnn", "DEF")
_LIBRARY.define(
    "scan(Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? lengths, str cell, str backend, bool save)"
    " -> (Tensor output, Tensor final, Tensor cells, Tensor saved)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "scan_backward(Tensor? dout, Tensor? dfinal, Tensor weight, Tensor state, Tensor? lengths, Tensor output,"
    " Tensor cells, Tensor saved, str cell, str backend) -> (Tensor dx, Tensor dr, Tensor dstate)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
    cell: str,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return fused.scan(x, weight, bias, state, lengths, CELLS[cell], backend, save)


def _scan_backward(
    dout: Tensor | None,
    dfinal: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    cell: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dr, dstate = fused.scan_backward(
        dout, dfinal, weight, state, lengths, output, cells, saved, CELLS[cell], backend
    )
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
    cell: str,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    T, B, D, _, H = x.shape
    counts = CELLS[cell]
    return (
        x.new_empty((T, B, D, H)),
        torch.empty_like(state, memory_format=torch.contiguous_format),
        x.new_empty((T, B, D, counts.states - 1, H) if save else (0,)),
        x.new_empty((T, B, D, counts.saved, H) if save else (0,)),
    )


def _scan_backward_fake(
    dout: Tensor | None,
    dfinal: Tensor | None,
    weight: Tensor,
    state: Tensor,
    lengths: Tensor | None,
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


def _weight_gradient(dr: Tensor, output: Tensor, h0: Tensor, lengths: Tensor | None) -> Tensor:
    """Sum over t and rows of dr_t h_{t-1}^T, per direction: one matrix product over all steps, one for the first.

    Args:
        dr: `(T, B, D, GATES, H)`, zero past each row's length.
        output: `(T, B, D, H)`, zero past each row's length.
        h0: `(D, B, H)`.
        lengths: `(B,)` or None.

    Returns:
        `(D, GATES, H, H)`.
    """
    T, B, D, gates, H = dr.shape
    grads = []
    for d in range(D):
        g = dr[:, :, d].reshape(T, B, gates * H)
        h = output[:, :, d]
        if d == 0:
            later, before, first = g[1:], h[:-1], g[0]
        elif lengths is None:
            later, before, first = g[:-1], h[1:], g[-1]
        else:
            # A reversed row starts at its own last step; a row of length 0 has none, and its dr is zero everywhere.
            later, before = g[:-1], h[1:]
            start = (lengths.long() - 1).clamp(min=0)
            first = g.gather(0, start.view(1, B, 1).expand(1, B, gates * H))[0]
        total = torch.mm(first.t(), h0[d])
        rows = (T - 1) * B
        total = torch.addmm(total, later.reshape(rows, gates * H).t(), before.reshape(rows, H))
        grads.append(total.view(gates, H, H))
    return torch.stack(grads)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, weight, bias, state, lengths, ctx.cell, ctx.backend, ctx.save = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    out, _, cells, saved = output
    ctx.save_for_backward(weight, state, lengths, out, cells, saved)


def _backward(
    ctx: Any, dout: Tensor | None, dfinal: Tensor | None, dcells: Tensor | None, dsaved: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("fastrnn::scan was called with save=False and cannot be differentiated; pass save=True")
    weight, state, lengths, output, cells, saved = ctx.saved_tensors
    kept = (weight, state, lengths, output, cells, saved)
    if dcells is None and dsaved is None:
        dx, dr, dstate = torch.ops.fastrnn.scan_backward(dout, dfinal, *kept, ctx.cell, ctx.backend)
    else:
        # Only a second derivative reaches what was saved.
        dx, dr, dstate = reference.scan_backward(dout, dfinal, dcells, dsaved, *kept, CELLS[ctx.cell])
    if not CELLS[ctx.cell].splits_bias:
        dr = dx
    dweight = _weight_gradient(dr, output, state[0], lengths) if ctx.needs_input_grad[1] else None
    dbias = dr.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return dx, dweight, dbias, dstate, None, None, None, None


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
    dout, dfinal, *kept = tensors
    with torch.enable_grad():
        weight, state, lengths, output, cells, saved = kept
        results = reference.scan_backward(dout, dfinal, None, None, weight, state, lengths, output, cells, saved, cell)
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
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, lengths: Tensor | None, cell: str, backend: str
) -> tuple[Tensor, Tensor]:
    """One layer's scan through the kernels; saves for backward only what will be differentiated.

    Arguments and results are those of `fastrnn.backends.reference.scan`, with the cell and the backend by name.
    """
    tensors = (x, weight, bias, state)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    output, final, _, _ = torch.ops.fastrnn.scan(x, weight, bias, state, lengths, cell, backend, save)
    return output, final


_LIBRARY.define(
    "aten_layer(Tensor input, Tensor? batch_sizes, Tensor[] hx, Tensor[] weights, str cell)"
    " -> (Tensor output, Tensor h, Tensor c)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "aten_layer_backward(Tensor? dout, Tensor? dh, Tensor? dc, Tensor input, Tensor? batch_sizes, Tensor[] hx,"
    " Tensor[] weights, str cell) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _run_aten_layer(
    input: Tensor, batch_sizes: Tensor | None, hx: list[Tensor], weights: list[Tensor], cell: str
) -> tuple[Tensor, ...]:
    directions = hx[0].shape[0]
    has_bias = len(weights) // directions >= 4
    output, final = aten.layers(
        CELLS[cell], input, batch_sizes, tuple(hx), weights, has_bias, 1, 0.0, False, directions == 2
    )
    return output, *final


def _aten_layer(
    input: Tensor, batch_sizes: Tensor | None, hx: list[Tensor], weights: list[Tensor], cell: str
) -> tuple[Tensor, Tensor, Tensor]:
    results = [r.contiguous() for r in _run_aten_layer(input, batch_sizes, hx, weights, cell)]
    return results[0], results[1], results[2] if len(results) == 3 else input.new_empty(0)


def _aten_layer_backward(
    dout: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: list[Tensor],
    weights: list[Tensor],
    cell: str,
) -> list[Tensor]:
    # An operator runs below autograd, which this one needs: it differentiates the layer that it runs again.
    above = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with above, torch.enable_grad():
        given = [t.detach().requires_grad_() for t in (input, *hx, *weights)]
        again = _run_aten_layer(given[0], batch_sizes, given[1 : 1 + len(hx)], given[1 + len(hx) :], cell)
        pairs = [(r, u) for r, u in zip(again, (dout, dh, dc), strict=False) if u is not None]
        gradients = torch.autograd.grad([r for r, _ in pairs], given, [u for _, u in pairs], allow_unused=True)
    return [torch.zeros_like(t) if g is None else g.contiguous() for t, g in zip(given, gradients, strict=True)]


_LIBRARY.impl("aten_layer", _aten_layer, "CompositeExplicitAutograd")
_LIBRARY.impl("aten_layer_backward", _aten_layer_backward, "CompositeExplicitAutograd")


def _aten_layer_fake(
    input: Tensor, batch_sizes: Tensor | None, hx: list[Tensor], weights: list[Tensor], cell: str
) -> tuple[Tensor, Tensor, Tensor]:
    output = input.new_empty((*input.shape[:-1], hx[0].shape[0] * hx[0].shape[2]))
    return output, torch.empty_like(hx[0]), torch.empty_like(hx[1]) if len(hx) > 1 else input.new_empty(0)


def _aten_layer_backward_fake(
    dout: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: list[Tensor],
    weights: list[Tensor],
    cell: str,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (input, *hx, *weights)]


torch.library.register_fake("fastrnn::aten_layer", _aten_layer_fake)
torch.library.register_fake("fastrnn::aten_layer_backward", _aten_layer_backward_fake)


def _setup_aten_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, batch_sizes, hx, weights, ctx.cell = inputs
    ctx.states = len(hx)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, batch_sizes, *hx, *weights)


def _aten_backward(ctx: Any, dout: Tensor | None, dh: Tensor | None, dc: Tensor | None) -> tuple[Any, ...]:
    input, batch_sizes, *rest = ctx.saved_tensors
    hx, weights = rest[: ctx.states], rest[ctx.states :]
    dinput, *others = torch.ops.fastrnn.aten_layer_backward(dout, dh, dc, input, batch_sizes, hx, weights, ctx.cell)
    return dinput, None, others[: ctx.states], others[ctx.states :], None


torch.library.register_autograd("fastrnn::aten_layer", _aten_backward, setup_context=_setup_aten_context)


def aten_layer(
    cell: Cell, input: Tensor, batch_sizes: Tensor | None, hx: tuple[Tensor, ...], weights: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer by torch's own kernels, as one node of a graph.

    Args:
        cell, input, batch_sizes: as `fastrnn.functional.run` takes them.
        hx: one tensor per state, `(D, B, H or P)`.
        weights: torch.nn's, of this layer, both directions.

    Returns:
        The output and the final states.
    """
    output, h, c = torch.ops.fastrnn.aten_layer(input, batch_sizes, list(hx), weights, cell.name)
    return output, (h, c) if len(hx) > 1 else (h,)
