"""The operators `fastrnn::scan` and `fastrnn::scan_backward`: one pair for all cells, as torch.library sees them.

    fastrnn::scan           the forward scan of one layer, both directions
    fastrnn::scan_backward  its gradient, without what single matrix products over all steps compute

Fake kernels give their shapes; autograd is registered on the first, in terms of the second. Tensors are laid out as in
`fastrnn.kernels.scan`. Cells and backends go by name, since an operator's arguments are data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import fused
from fastrnn.cells import CELLS

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
            later, before, first = g[:-1], h[1:], g[T - 1]
        else:
            # A reversed row starts at its own last step; a row of length 0 has none, and its dr is zero everywhere.
            later, before = g[:-1], h[1:]
            start = (lengths.long() - 1).clamp(min=0)
            first = g.gather(0, start.view(1, B, 1).expand(1, B, gates * H))[0]
        total = torch.mm(first.t(), h0[d])
        if T > 1:
            total = torch.addmm(total, later.reshape(-1, gates * H).t(), before.reshape(-1, H))
        grads.append(total.view(gates, H, H))
    return torch.stack(grads)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, weight, bias, state, lengths, ctx.cell, ctx.backend, ctx.save = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2], output[3])
    out, _, cells, saved = output
    ctx.save_for_backward(weight, state, lengths, out, cells, saved)


def _backward(ctx: Any, dout: Tensor | None, dfinal: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("fastrnn::scan was called with save=False and cannot be differentiated; pass save=True")
    weight, state, lengths, output, cells, saved = ctx.saved_tensors
    dx, dr, dstate = torch.ops.fastrnn.scan_backward(
        dout, dfinal, weight, state, lengths, output, cells, saved, ctx.cell, ctx.backend
    )
    if not CELLS[ctx.cell].splits_bias:
        dr = dx
    dweight = _weight_gradient(dr, output, state[0], lengths) if ctx.needs_input_grad[1] else None
    dbias = dr.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
    return dx, dweight, dbias, dstate, None, None, None, None


torch.library.register_autograd("fastrnn::scan", _backward, setup_context=_setup_context)


def _double_backward(ctx: Any, *_: Any) -> tuple[None, ...]:
    raise NotImplementedError(
        "the fused kernels have no second derivative; pass backend='reference' to the layer, which has all of them"
    )


torch.library.register_autograd("fastrnn::scan_backward", _double_backward)


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
