"""The operators for torch's own layer as one node of a graph, for torch.compile and torch.export to trace.

    fastrnn::aten_layer           one layer, both directions; torch's own is unrolled over a fixed T there
    fastrnn::aten_layer_backward  its gradient, which runs the layer again

The tensors are laid out as torch's layers take and return them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrnn.backends import aten
from fastrnn.cells import CELLS, Cell
from fastrnn.scan.problem import Stack, Weights

_LIBRARY = torch.library.Library("fastrnn", "FRAGMENT")
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


class _Given(NamedTuple):
    """The operator's arguments, which its gradient takes too."""

    input: Tensor
    batch_sizes: Tensor | None
    hx: list[Tensor]
    weights: list[Tensor]
    cell: str

    def run(self, training: bool) -> tuple[Tensor, ...]:
        directions = self.hx[0].shape[0]
        stack = Stack(CELLS[self.cell], len(self.weights) // directions >= 4, 1, 0.0, training, directions == 2)
        output, final = aten.BACKEND.layers(stack, self.input, self.batch_sizes, tuple(self.hx), self.weights)
        return output, *final


def _aten_layer(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    given = _Given(*args)
    results = [r.contiguous() for r in given.run(False)]
    return results[0], results[1], results[2] if len(results) == 3 else given.input.new_empty(0)


def _aten_layer_backward(dout: Tensor | None, dh: Tensor | None, dc: Tensor | None, *args: Any) -> list[Tensor]:
    input, batch_sizes, hx, weights, cell = _Given(*args)
    # An operator runs below autograd, which this one needs: it differentiates the layer that it runs again.
    above = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with above, torch.enable_grad():
        given = [t.detach().requires_grad_() for t in (input, *hx, *weights)]
        states = 1 + len(hx)
        # cuDNN differentiates no layer that it did not run in training.
        again = _Given(given[0], batch_sizes, given[1:states], given[states:], cell).run(True)
        pairs = [(r, u) for r, u in zip(again, (dout, dh, dc), strict=False) if u is not None]
        gradients = torch.autograd.grad([r for r, _ in pairs], given, [u for _, u in pairs], allow_unused=True)
    return [torch.zeros_like(t) if g is None else g.contiguous() for t, g in zip(given, gradients, strict=True)]


def _aten_layer_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    input, _, hx, _, _ = _Given(*args)
    output = input.new_empty((*input.shape[:-1], hx[0].shape[0] * hx[0].shape[2]))
    return output, torch.empty_like(hx[0]), torch.empty_like(hx[1]) if len(hx) > 1 else input.new_empty(0)


def _aten_layer_backward_fake(dout: Any, dh: Any, dc: Any, *args: Any) -> list[Tensor]:
    input, _, hx, weights, _ = _Given(*args)
    return [t.new_empty(t.shape) for t in (input, *hx, *weights)]


_LIBRARY.impl("aten_layer", _aten_layer, "CompositeExplicitAutograd")
_LIBRARY.impl("aten_layer_backward", _aten_layer_backward, "CompositeExplicitAutograd")
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
    cell: Cell, input: Tensor, batch_sizes: Tensor | None, hx: tuple[Tensor, ...], weights: list[Weights]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer by torch's own kernels, as one node of a graph.

    Args:
        cell, input, batch_sizes: as `fastrnn.stack.run` takes them.
        hx: one tensor per state, `(D, B, H or P)`.
        weights: this layer's, by direction.

    Returns:
        The output and the final states.
    """
    flat = [t for w in weights for t in w if t is not None]
    output, h, c = torch.ops.fastrnn.aten_layer(input, batch_sizes, list(hx), flat, cell.name)
    return output, (h, c) if len(hx) > 1 else (h,)
