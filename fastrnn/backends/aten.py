"""torch's own kernels: cuDNN on a CUDA device, oneDNN or ATen on a CPU. A whole stack of layers in one call.

What torch's layers lack, `aten_scan` does with torch's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrnn.backends import aten_scan, aten_scan_backward, packed_cost
from fastrnn.cells import Cell
from fastrnn.kernels.tensors import Gradients, Inputs, Kept, Results, Upstream
from fastrnn.scan.problem import Backend, Problem, Stack, Weights

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "LSTM": torch._VF.lstm,
    "GRU": torch._VF.gru,
    "RNN_TANH": torch._VF.rnn_tanh,
    "RNN_RELU": torch._VF.rnn_relu,
}
_CELL_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "LSTM": torch._VF.lstm_cell,
    "GRU": torch._VF.gru_cell,
    "RNN_TANH": torch._VF.rnn_tanh_cell,
    "RNN_RELU": torch._VF.rnn_relu_cell,
}
MODES = frozenset(_FUNCTIONS)


class Aten(Backend):
    name = "aten"

    def supports(self, problem: Problem) -> str | None:
        if problem.transformed:
            return "torch's own layers cannot serve torch.func transforms and forward-mode derivatives"
        return None

    def describe(self, problem: Problem) -> str:
        missing = self.lacks(problem)
        if missing is not None:
            return f"torch's operators, step by step, for {missing}"
        return "cuDNN through torch" if problem.device.type == "cuda" else "torch's own kernels"

    def scan(self, inputs: Inputs, cell: Cell, save: bool, cells: bool) -> Results:
        return aten_scan.scan(inputs, cell, save, cells)

    def scan_backward(self, upstream: Upstream, kept: Kept, cell: Cell) -> Gradients:
        return aten_scan_backward.scan_backward(upstream, kept, cell)

    def lacks(self, problem: Problem) -> str | None:
        if problem.heads > 1:
            return "heads"
        if problem.cell.mode not in MODES:
            return "the textbook GRU" if problem.cell.mode == "GRU_TEXTBOOK" else f"the cell {problem.cell.mode}"
        if problem.resets:
            return "resets"
        if problem.cells:
            return "all cell states"
        on_host = problem.device.type == "cpu"
        if problem.lengths and not on_host:
            return "lengths"
        # On a CPU the lengths can be looked at, so that torch's packed layer can do it.
        if (problem.lengths or problem.packed) and on_host and problem.grad:
            sizes = (problem.cell.mode, problem.time, problem.batch, problem.rows, problem.hidden, problem.directions)
            if problem.rows and packed_cost.layer_is_faster(*sizes, packed_cost.MARGIN):
                return None
            what = "packed input" if problem.packed else "lengths"
            return f"{what}, whose gradient takes torch's layer time quadratic in T"
        return None

    def layers(
        self,
        stack: Stack,
        input: Tensor,
        batch_sizes: Tensor | None,
        hx: tuple[Tensor, ...],
        flat_weights: Sequence[Tensor],
        batch_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        cell, options = stack[0], stack[1:6]  # heads are none of torch's
        function = _FUNCTIONS[cell.mode]
        states = list(hx) if cell.states > 1 else hx[0]
        if batch_sizes is None:
            output, *final = function(input, states, flat_weights, *options, batch_first)
        else:
            output, *final = function(input, batch_sizes, states, flat_weights, *options)
        return output, tuple(final)

    def step(self, cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights) -> tuple[Tensor, ...]:
        ih, hh, bias_ih, bias_hh, _ = weights
        function = _CELL_FUNCTIONS[cell.mode]
        if cell.states > 1:
            states: tuple[Tensor, ...] = function(input, hx, ih, hh, bias_ih, bias_hh)
            return states
        return (function(input, hx[0], ih, hh, bias_ih, bias_hh),)


BACKEND = Aten()
