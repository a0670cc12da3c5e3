"""What a layer is inside `torch.onnx.export`: ONNX's own LSTM, GRU or RNN, one node a layer, whatever T and B.

torch.onnx.export translates fastrnn's operators only with a table that its caller passes, and a package that calls it
passes none. So layers notice that they are exported, and leave ONNX's operator in the graph (`torch.onnx.ops`). ONNX's
GRU is both of fastrnn's, and its operators take lengths. The older exporter (`dynamo=False`) knows torch's own layers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrnn.backends import aten
from fastrnn.cells import Cell
from fastrnn.scan.problem import Extras, Stack, Weights, grouped
from fastrnn.tracers import TRACED, in_onnx_export, recorder

OPERATORS = {"lstm": "LSTM", "gru": "GRU", "gru_textbook": "GRU"}  # any other: RNN
# Where ONNX's gates are among torch's: i f g o -> i o f c;  r z n -> z r h.
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "gru_textbook": (1, 0, 2)}


_REFUSED = "torch.onnx.export of a fastrnn layer cannot express"


def refuse_packed() -> None:
    """Raise RuntimeError, with a remedy, where something that traces is torch.onnx.export; before anything looks at the
    sizes."""
    if in_onnx_export():
        raise RuntimeError(
            f"{_REFUSED} a PackedSequence: pass the padded input with lengths= instead, which ONNX's operators take, "
            "or export with dynamo=False"
        )


def _check(stack: Stack, extras: Extras, older: bool) -> None:
    """Raise RuntimeError, with a remedy, for what ONNX's operators, or the older exporter's, do not have."""
    cell, lacking = stack.cell, None
    if stack.heads > 1:
        lacking = f"heads={stack.heads}: torch.export takes it, for a program that runs where fastrnn is"
    elif extras.resets is not None:
        lacking = "resets=: export a model that calls the layer without, and cut its input where episodes begin"
    elif extras.cells:
        lacking = "return_cells=True: export a model that calls a cell step by step, for a fixed number of steps"
    elif older and extras.lengths is not None:
        lacking = "lengths= by the exporter of TorchScript: leave dynamo=False out, or pass a PackedSequence"
    elif cell.mode not in {"LSTM", "GRU", "GRU_TEXTBOOK", "RNN_TANH", "RNN_RELU"}:
        lacking = f"the cell {cell.mode}: of recurrent cells ONNX has the LSTM, the GRU and the RNN"
    elif older and cell.mode not in aten.MODES:
        lacking = "a GRU with reset_after=False by the exporter of TorchScript: leave dynamo=False out"
    if lacking is not None:
        raise RuntimeError(f"{_REFUSED} {lacking}")


def _first_state(h: Tensor, input: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """`(T, B, P)`: `h` at the step at which a direction starts, and zero at every other."""
    steps = torch.arange(input.shape[0], device=input.device).view(-1, 1, 1)
    if not reverse:
        start: Any = 0
    elif lengths is None:
        start = input.shape[0] - 1
    else:
        start = (lengths.long() - 1).view(1, -1, 1)
    return torch.where(steps == start, h, 0)


def _layer(
    cell: Cell, input: Tensor, state: tuple[Tensor, ...], weights: list[Weights], lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer, both directions: `(T, B, I)` and states `(D, B, H or P)` to the output and new states.

    ONNX's LSTM has no projection, so a projected one runs over `m = o tanh(c)`, of which `h = W_hr m`: its recurrent
    weights are `W_hh W_hr`, its first m is zero, and `W_hh h_0` comes in as further input columns, which hold h_0 at
    the direction's first step and zero at every other.
    """
    T, B = input.shape[:2]
    D, H = len(weights), weights[0].ih.shape[0] // cell.gates

    def gates(tensor: Tensor) -> Tensor:
        order = GATES.get(cell.name)
        parts = tensor.chunk(cell.gates)
        return tensor if order is None else torch.cat([parts[i] for i in order])

    inputs, recurrent, before = [w.ih for w in weights], [w.hh for w in weights], list(state)
    projections = [w.hr for w in weights if w.hr is not None]
    if projections:
        columns = [_first_state(state[0][d], input, lengths, d == 1) for d in range(D)]
        input = torch.cat([input, *columns], 2)
        for d, w in enumerate(weights):
            inputs[d] = torch.cat([w.ih, *(w.hh if d == side else torch.zeros_like(w.hh) for side in range(D))], 1)
            recurrent[d] = w.hh @ projections[d]
        before[0] = torch.zeros_like(state[1])
    pairs = [(w.bias_ih, w.bias_hh) for w in weights if w.bias_ih is not None and w.bias_hh is not None]
    biases = [torch.cat((gates(ih), gates(hh))) for ih, hh in pairs]
    options: dict[str, Any] = {"hidden_size": H, "direction": "bidirectional" if D == 2 else "forward"}
    operator = OPERATORS.get(cell.name, "RNN")
    if operator == "GRU":
        options["linear_before_reset"] = int(cell.name == "gru")
    elif operator == "RNN":
        options["activations"] = ["Tanh" if cell.mode == "RNN_TANH" else "Relu"] * D
    y, *final = torch.onnx.ops.symbolic_multi_out(
        operator,
        (
            input, torch.stack([gates(w) for w in inputs]), torch.stack([gates(w) for w in recurrent]),
            torch.stack(biases) if biases else None, lengths, *before,
        ),
        options,
        dtypes=(input.dtype,) * (1 + cell.states),
        shapes=((T, D, B, H), *(((D, B, H),) * cell.states)),
    )  # fmt: skip
    if projections:
        matrices = torch.stack(projections).transpose(1, 2)
        y, final[0] = y @ matrices.unsqueeze(0), final[0] @ matrices
    if lengths is not None:  # rows of no steps keep their state, of which ONNX says nothing
        kept = (lengths > 0).view(1, -1, 1)
        final = [torch.where(kept, new, old) for new, old in zip(final, state, strict=True)]
    return y.transpose(1, 2).flatten(2), tuple(final)


def run(
    stack: Stack,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...],
    flat_weights: list[Tensor],
    extras: Extras,
    batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`fastrnn.stack.run` as ONNX's operators; the older exporter makes them of torch's own layers.

    Raises:
        RuntimeError, with a remedy: what they do not have.
    """
    older = recorder() == TRACED
    _check(stack, extras, older)
    if older:
        return aten.BACKEND.layers(stack, input, batch_sizes, hx, flat_weights, batch_first)
    D = 2 if stack.bidirectional else 1
    input = input.transpose(0, 1) if batch_first else input
    finals = []
    for i, weights in enumerate(grouped(flat_weights, stack.num_layers, D)):
        if i and stack.dropout and stack.training:
            input = F.dropout(input, stack.dropout, training=True)
        state = tuple(h[i * D : (i + 1) * D] for h in hx)
        input, final = _layer(stack.cell, input, state, weights, extras.lengths)
        finals.append(final)
    output = input.transpose(0, 1) if batch_first else input
    return output, tuple(torch.cat(same) for same in zip(*finals, strict=True))
