"""Taking a traced layer elsewhere: into a scan of torch's own operators, or into ONNX.

torch.export traces a layer that torch's own kernels run as `fastrnn::aten_layer`, one node whatever T and B. A program
that is to run where fastrnn is not, in AOTInductor or in an ONNX runtime, needs that node in other terms. (A model that
torch.onnx.export itself traces needs nothing from here: see `fastrnn.graphs.onnx`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan_op
from torch.fx.experimental.symbolic_shapes import free_symbols

import fastrnn.ops  # noqa: F401  # defines the operators
from fastrnn.cells import CELLS, Cell
from fastrnn.graphs.onnx import GATES
from fastrnn.scan.problem import Weights, grouped


def _size_symbols(input: Tensor) -> list[Any]:
    """The symbols that the sizes T and B of `input`, `(T, B, I)`, are made of."""
    sizes: list[Any] = [n for n in input.shape[:2] if isinstance(n, torch.SymInt)]
    symbols = {s: n.node.shape_env for n in sizes for s in free_symbols(n)}
    return [shapes.create_symintnode(symbol, hint=None) for symbol, shapes in symbols.items()]


def _scan_direction(
    cell: Cell, input: Tensor, state: tuple[Tensor, ...], weights: Weights, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction as torch's scan over time.

    Args:
        cell: the cell.
        input: `(T, B, I)`.
        state: initial states, `(B, H or P)`.
        weights: this direction's.
        reverse: whether it runs from the last time step to the first.

    Returns:
        The output `(T, B, H or P)`, and the final states, like `state`.
    """

    def step(*args: Any) -> list[Tensor]:
        before, x, (w_hh, *rest) = args[: len(state)], args[len(state)], args[len(state) + 1 :]
        r = F.linear(before[0], w_hh, rest.pop(0) if weights.bias_hh is not None else None)
        # The last argument serves inner gates, which torch's own cells do not have.
        new = cell.new_state(x.chunk(cell.gates, -1), r.chunk(cell.gates, -1), before, (), lambda h: h)
        h = new[0] if weights.hr is None else F.linear(new[0], rest.pop(0))
        return [h, *new[1:], h.clone()]

    x = F.linear(input, weights.ih, weights.bias_ih)
    constants = [w for w in (weights.hh, weights.bias_hh, weights.hr) if w is not None]
    # torch 2.11's scan passes no gradient from step to step where the initial state needs none, which makes every other
    # gradient wrong: a sum of nothing ties the state to what else may be differentiated. It also makes new tensors of
    # the states, since a scan refuses those that share memory, as views of one do.
    tie = x[:0].sum() + weights.hh[:0].sum()
    # Inductor allocates the output from the symbols that it finds among the scan's arguments, and fails where a size's
    # are not there; the step has no use for them.
    results = scan_op(
        step, [s + tie for s in state], [x.flip(0) if reverse else x], (*constants, *_size_symbols(input))
    )
    output = results[-1]
    return output.flip(0) if reverse else output, tuple(results[:-1])


def _as_scan(
    input: Tensor, batch_sizes: Tensor | None, hx: Sequence[Tensor], weights: Sequence[Tensor], cell: str
) -> tuple[Tensor, Tensor, Tensor]:
    if batch_sizes is not None:
        raise NotImplementedError("decomposition of a PackedSequence: pad it, and mask the output by its lengths")
    found = [
        _scan_direction(CELLS[cell], input, tuple(h[d] for h in hx), w, d == 1)
        for d, w in enumerate(grouped(weights, 1, hx[0].shape[0])[0])
    ]
    output = torch.cat([o for o, _ in found], -1)
    h, *c = (torch.stack(states) for states in zip(*(final for _, final in found), strict=True))
    return output, h, c[0] if c else input.new_empty(0)


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """What `ExportedProgram.run_decompositions` needs to be rid of fastrnn's operators.

    Example:
        program = torch.export.export(model, (x,)).run_decompositions(fastrnn.export.decompositions())

    The result is a scan over time, torch's own, and loads and runs without fastrnn; the number of time steps stays
    dynamic where it was.

    Raises, while decomposing:
        NotImplementedError: a PackedSequence.
    """
    return {torch.ops.fastrnn.aten_layer.default: _as_scan}


def _onnx_layer(
    input: Any, batch_sizes: Any, hx: Sequence[Any], weights: Sequence[Any], cell: str
) -> tuple[Any, Any, Any]:
    """The ONNX standard's LSTM, GRU and RNN (opset 18), whose gates come in another order than torch's.

    ONNX's LSTM has no projection, so a projected one runs over `m = o tanh(c)`, of which `h = W_hr m`: its recurrent
    weights are `W_hh W_hr`, its first m is zero, and `W_hh h_0` comes in as further input columns, which hold h_0 at
    the direction's first step and zero at every other.
    """
    import onnxscript

    op: Any = onnxscript.opset18

    if batch_sizes is not None:
        raise NotImplementedError("ONNX export of a PackedSequence: pad it, and mask the output by its lengths")
    sides = grouped(weights, 1, int(hx[0].shape[0]))[0]
    projected, has_bias = sides[0].hr is not None, sides[0].bias_ih is not None
    counts = CELLS[cell]
    order = GATES.get(cell, (0,))

    hidden = int(hx[-1].shape[-1])

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def gates(tensor: Any) -> Any:
        """One direction's tensor with its gates in ONNX's order, behind a leading axis."""
        if counts.gates > 1:
            rows = [(ints(i * hidden), ints((i + 1) * hidden)) for i in order]
            tensor = op.Concat(*(op.Slice(tensor, start, end, ints(0)) for start, end in rows), axis=0)
        return op.Unsqueeze(tensor, ints(0))

    def both(tensors: Sequence[Any]) -> Any:
        return tensors[0] if len(tensors) == 1 else op.Concat(*tensors, axis=0)

    def pad(tensor: Any, axis: int, before: Any, after: Any) -> Any:
        return op.Pad(tensor, op.Concat(before, after, axis=0), None, ints(axis))

    inputs, recurrent, h0 = [w.ih for w in sides], [w.hh for w in sides], hx[0]
    if projected:
        projection, h0 = int(hx[0].shape[-1]), None
        last = op.Sub(op.Shape(input, start=0, end=1), ints(1))
        for d, w in enumerate(sides):
            first = op.Slice(hx[0], ints(d), ints(d + 1), ints(0))
            ends = (ints(0), last) if d == 0 else (last, ints(0))
            input = op.Concat(input, pad(first, 0, *ends), axis=2)
            others = ints(d * projection), ints((len(sides) - 1 - d) * projection)
            inputs[d] = op.Concat(w.ih, pad(w.hh, 1, *others), axis=1)
            recurrent[d] = op.MatMul(w.hh, w.hr)

    weight_ih, weight_hh = both([gates(w) for w in inputs]), both([gates(w) for w in recurrent])
    bias = None
    if has_bias:
        bias = both([op.Concat(gates(w.bias_ih), gates(w.bias_hh), axis=1) for w in sides])
    common = {"hidden_size": hidden, "direction": "bidirectional" if len(sides) == 2 else "forward"}
    if cell == "lstm":
        y, h, c = op.LSTM(input, weight_ih, weight_hh, bias, None, h0, hx[1], **common)
    elif cell == "gru":
        y, h = op.GRU(input, weight_ih, weight_hh, bias, None, h0, linear_before_reset=1, **common)
    else:
        kind = "Tanh" if cell == "rnn_tanh" else "Relu"
        y, h = op.RNN(input, weight_ih, weight_hh, bias, None, h0, activations=[kind] * len(sides), **common)
    if projected:
        weight_hr = both([op.Unsqueeze(op.Transpose(w.hr, perm=[1, 0]), ints(0)) for w in sides])
        y, h = op.MatMul(y, weight_hr), op.MatMul(h, weight_hr)
    # (T, D, B, H) -> (T, B, D * H)
    output = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), ints(0, 0, -1))
    return output, h, c if cell == "lstm" else op.Identity(h)


def onnx_translation_table() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export` needs to translate a program of torch.export that holds layers; needs onnxscript.

    A model, as against a program, is exported without it: there layers leave ONNX's operators themselves.

    Example:
        program = torch.export.export(model, (x,))
        torch.onnx.export(program, (), "model.onnx", dynamo=True, opset_version=18,
                          custom_translation_table=fastrnn.export.onnx_translation_table())

    Raises, while exporting:
        NotImplementedError: a PackedSequence, which ONNX's operators do not have.
    """
    return {torch.ops.fastrnn.aten_layer.default: _onnx_layer}
