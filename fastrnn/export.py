"""Taking a traced layer elsewhere: back into torch's own operators, or into ONNX.

torch.export traces a layer that torch's own kernels run as `fastrnn::aten_layer`, one node whatever T and B. A program
that is to run where fastrnn is not, in AOTInductor or in an ONNX runtime, needs that node in other terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn.cells import CELLS

_ATEN = {
    "lstm": (torch.ops.aten.lstm.input, torch.ops.aten.lstm.data),
    "gru": (torch.ops.aten.gru.input, torch.ops.aten.gru.data),
    "rnn_tanh": (torch.ops.aten.rnn_tanh.input, torch.ops.aten.rnn_tanh.data),
    "rnn_relu": (torch.ops.aten.rnn_relu.input, torch.ops.aten.rnn_relu.data),
}


def _as_aten(
    input: Tensor, batch_sizes: Tensor | None, hx: Sequence[Tensor], weights: Sequence[Tensor], cell: str
) -> tuple[Tensor, ...]:
    directions = hx[0].shape[0]
    states = list(hx) if CELLS[cell].states > 1 else hx[0]
    options = (list(weights), len(weights) // directions >= 4, 1, 0.0, False, directions == 2)
    padded, packed = _ATEN[cell]
    if batch_sizes is None:
        results = padded(input, states, *options, False)
    else:
        results = packed(input, batch_sizes, states, *options)
    return (*results, input.new_empty(0)) if len(results) == 2 else tuple(results)


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """What `ExportedProgram.run_decompositions` needs to be rid of fastrnn's operators.

    Example:
        program = torch.export.export(model, (x,)).run_decompositions(fastrnn.export.decompositions())

    The result holds `aten.lstm` and its like, and loads and runs without fastrnn. torch's own layers fix the number of
    time steps when they are traced, so that it fits sequences as long as the example's only.
    """
    return {torch.ops.fastrnn.aten_layer.default: _as_aten}


def _onnx_layer(
    input: Any, batch_sizes: Any, hx: Sequence[Any], weights: Sequence[Any], cell: str
) -> tuple[Any, Any, Any]:
    """The ONNX standard's LSTM, GRU and RNN (opset 18), whose gates come in another order than torch's."""
    import onnxscript

    op: Any = onnxscript.opset18

    if batch_sizes is not None:
        raise NotImplementedError("ONNX export of a PackedSequence: pad it, and mask the output by its lengths")
    directions = int(hx[0].shape[0])
    per_direction = len(weights) // directions
    if per_direction in (3, 5):
        raise NotImplementedError(
            "ONNX's LSTM has no projection: export with proj_size=0, or project outside the layer"
        )
    counts = CELLS[cell]
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}.get(cell, (0,))  # i f g o -> i o f c;  r z n -> z r h

    hidden = int(hx[0].shape[-1])

    def gates(tensor: Any) -> Any:
        """One direction's tensor with its gates in ONNX's order, behind a leading axis."""
        if counts.gates > 1:
            rows = [(op.Constant(value_ints=[i * hidden]), op.Constant(value_ints=[(i + 1) * hidden])) for i in order]
            zero = op.Constant(value_ints=[0])
            tensor = op.Concat(*(op.Slice(tensor, start, end, zero) for start, end in rows), axis=0)
        return op.Unsqueeze(tensor, op.Constant(value_ints=[0]))

    def both(position: int) -> Any:
        found = [gates(weights[d * per_direction + position]) for d in range(directions)]
        return found[0] if directions == 1 else op.Concat(*found, axis=0)

    bias = op.Concat(both(2), both(3), axis=1) if per_direction == 4 else None
    common = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"}
    if cell == "lstm":
        y, h, c = op.LSTM(input, both(0), both(1), bias, None, hx[0], hx[1], **common)
    elif cell == "gru":
        y, h = op.GRU(input, both(0), both(1), bias, None, hx[0], linear_before_reset=1, **common)
    else:
        kind = "Tanh" if cell == "rnn_tanh" else "Relu"
        y, h = op.RNN(input, both(0), both(1), bias, None, hx[0], activations=[kind] * directions, **common)
    # (T, D, B, H) -> (T, B, D * H)
    output = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
    return output, h, c if cell == "lstm" else op.Identity(h)


def onnx_translation_table() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export` needs to translate a layer into ONNX's own LSTM, GRU or RNN operator; needs onnxscript.

    Example:
        torch.onnx.export(model, (x,), "model.onnx", dynamo=True, opset_version=18,
                          custom_translation_table=fastrnn.export.onnx_translation_table())

    Raises, while exporting:
        NotImplementedError: a projected LSTM or a PackedSequence, which ONNX's operators do not have.
    """
    return {torch.ops.fastrnn.aten_layer.default: _onnx_layer}
