"""The operators, as torch.library sees them: one pair for all cells.

    fastrnn::scan_layer     the forward scan of one layer, both directions, with results as layers return them
    fastrnn::scan_backward  its gradient, without what single matrix products over all steps compute
    fastrnn::scan           the forward scan with results as the kernels return them: in programs exported before

Fake kernels give their shapes; autograd is registered on the first, in terms of the second. Cells and backends go by
name, since an operator's arguments are data, and tensors one by one: here, and nowhere else, the types of
`fastrnn.kernels.tensors` are taken apart. `fastrnn.graphs.node` has the operators for torch's own layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastrnn import tracers
from fastrnn.cells import Cell, named
from fastrnn.kernels.tensors import Inputs, Kept, Upstream
from fastrnn.scan import derivatives
from fastrnn.scan.choice import BY_NAME
from fastrnn.scan.problem import Backend

_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? lengths, Tensor? resets"
_KEPT = "Tensor weight, Tensor state, Tensor? lengths, Tensor? resets, Tensor output, Tensor cells, Tensor saved"
# At the end, and with defaults, since programs exported before have the others.
_BESIDES = "Tensor? vectors=None, Tensor? constants=None, int heads=1"
_LIBRARY = torch.library.Library("fastrnn", "DEF")
for _schema in (
    f"scan({_INPUTS}, str cell, str backend, bool save, bool keep_cells)"
    " -> (Tensor output, Tensor final, Tensor cells, Tensor saved)",
    # Results that are reshaped or indexed outside are views to autograd, which users can neither detach in place nor
    # keep without all that lies beside them: hence c apart from h, and the output laid out in here.
    f"scan_layer({_INPUTS}, str cell, str backend, bool save, bool keep_cells, bool batch_first, {_BESIDES})"
    " -> (Tensor output, Tensor h, Tensor c, Tensor cells, Tensor saved)",
    f"scan_backward(Tensor? dout, Tensor? dfinal, Tensor? dcells, {_KEPT}, str cell, str backend, {_BESIDES})"
    " -> (Tensor dx, Tensor dr, Tensor dstate, Tensor dvectors)",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _taken(args: tuple[Any, ...], options: int) -> tuple[Inputs, tuple[Any, ...]]:
    """A forward operator's arguments: the inputs, and so many options. What has its default is left out."""
    return Inputs(*args[:6], *args[6 + options :]), args[6 : 6 + options]


def _scan(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, (cell, backend, save, keep_cells) = _taken(args, 4)
    output, h, c, cells, saved = torch.ops.fastrnn.scan_layer(*inputs[:6], cell, backend, save, keep_cells, False)
    T, B, P, _, H = inputs.x.shape
    final = torch.stack((h, c) if named(cell).states > 1 else (h,))
    cells = cells.view(T, B, P, named(cell).states - 1, H) if save or keep_cells else cells
    return output.view(T, B, P, H), final, cells, saved


def _laid_out(rows: Tensor, batch_first: bool) -> Tensor:
    """A fresh `(T, B, P, ..., H)` tensor as layers return it, `(T, B, P * ... * H)` or with `batch_first`
    `(B, T, P * ... * H)`; changed in place, since autograd would take a new one for a view."""
    T, B, *sizes = rows.shape
    rows.resize_(T, B, math.prod(sizes))
    return rows.transpose_(0, 1) if batch_first else rows


def _taken_backward(args: tuple[Any, ...]) -> tuple[Upstream, Kept, tuple[Any, ...]]:
    """`_taken` of the backward operator."""
    return Upstream(*args[:3]), Kept(*args[3:10], *args[12:]), args[10:12]


def _scan_layer(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs, (cell, backend, save, keep_cells, batch_first) = _taken(args, 5)
    output, final, cells, saved = BY_NAME[backend].scan(inputs, named(cell), save, keep_cells)
    states = named(cell).states
    if states > 1:
        h, c = final[0].clone(), (final[1] if states == 2 else final[1:]).clone()
    else:
        h, c = final.resize_(final.shape[1:]), final.new_empty(0)
    if save or keep_cells:
        cells = _laid_out(cells, batch_first)
    return _laid_out(output, batch_first), h, c, cells, saved


def _scan_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    upstream, kept, (name, backend) = _taken_backward(args)
    cell = named(name)
    dx, dr, dstate, dvectors = BY_NAME[backend].scan_backward(upstream, kept, cell)
    # An operator's outputs may not be one tensor: where dr is dx, it comes back empty.
    return (
        dx,
        dr if cell.splits_bias else dr.new_empty(0),
        dstate,
        dr.new_empty(0) if dvectors is None else dvectors,
    )


def _scan_layer_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs, (cell, _, save, keep_cells, batch_first) = _taken(args, 5)
    x, state = inputs.x, inputs.state
    T, B, P, _, H = x.shape
    counts = named(cell)
    output, cells = x.new_empty((T, B, P * H)), state.new_empty((0,))
    if save or keep_cells:
        cells = state.new_empty((T, B, P * (counts.states - 1) * H))
    if batch_first:
        output, cells = output.transpose(0, 1), cells.transpose(0, 1) if save or keep_cells else cells
    return (
        output,
        state.new_empty((P, B, H)),
        state.new_empty([(0,), (P, B, H), (counts.states - 1, P, B, H)][min(counts.states, 3) - 1]),
        cells,
        state.new_empty((T, B, P, counts.saved, H) if save else (0,)),
    )


def _scan_backward_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, kept, (cell, _) = _taken_backward(args)
    output, state = kept.output, kept.state
    T, B, P, H = output.shape
    counts = named(cell)
    dx = output.new_empty((T, B, P, counts.gates, H))
    dr = torch.empty_like(dx) if counts.splits_bias else output.new_empty(0)
    dvectors = output.new_empty((P, counts.vectors, H) if counts.vectors else (0,))
    return dx, dr, torch.empty_like(state, memory_format=torch.contiguous_format), dvectors


_LIBRARY.impl("scan", _scan, "CompositeImplicitAutograd")
_LIBRARY.impl("scan_layer", _scan_layer, "CompositeExplicitAutograd")
_LIBRARY.impl("scan_backward", _scan_backward, "CompositeExplicitAutograd")
torch.library.register_fake("fastrnn::scan_layer", _scan_layer_fake)
torch.library.register_fake("fastrnn::scan_backward", _scan_backward_fake)
torch.library.register_autograd(
    "fastrnn::scan_layer", derivatives.backward, setup_context=derivatives.keep_for_backward
)
torch.library.register_autograd(
    "fastrnn::scan_backward", derivatives.double_backward, setup_context=derivatives.keep_for_double_backward
)
torch.library.register_vmap("fastrnn::scan_backward", derivatives.batched_backward)


def scan(
    inputs: Inputs, cell: Cell, backend: Backend, keep_cells: bool, batch_first: bool = False
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """One layer's scan by any backend; saves for backward only what will be differentiated.

    Returns:
        The output `(T, B, P * H)`, one final state `(P, B, H)` for each that the cell has, and, with `keep_cells`, the
        states other than h of every step, `(T, B, P * (STATES - 1) * H)`; with `batch_first`, B comes before T. They
        are tensors of their own: none is a view, none keeps another's memory.
    """
    if backend.differentiable:
        output, final, cells, _ = backend.scan(inputs, cell, False, keep_cells)
        if batch_first:
            output, cells = output.transpose(0, 1), cells.transpose(0, 1)
        states = tuple(final[i].clone() for i in range(cell.states))
        cells = torch.cat(cells.flatten(3).unbind(2), -1) if keep_cells else cells
        return torch.cat(output.unbind(2), -1), states, cells
    differentiated = (*inputs[:4], inputs.vectors)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiated)
    recorder = tracers.recorder()
    if recorder == tracers.TRACED:
        # What is recorded here may be differentiated later, and torch.jit.trace, which checks what it recorded under
        # no_grad, must find the same again.
        save = not torch.is_inference_mode_enabled()
    # In inference the operator's own bookkeeping, a third of a short call's time, would be for nobody: no tracer, no
    # mode that watches operators (fake tensors, say), no gradient.
    watched = save or recorder is not None or torch._C._len_torch_dispatch_stack() > 0
    call = torch.ops.fastrnn.scan_layer if watched else _scan_layer
    options = (cell.name, backend.name, save, keep_cells, batch_first)
    output, h, c, cells, _ = call(*inputs[:6], *options, *inputs[6:])
    if cell.states > 2:
        return output, (h, *(state.clone() for state in c.unbind(0))), cells
    return output, (h, c) if cell.states > 1 else (h,), cells
