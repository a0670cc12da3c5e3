"""torch's own kernels: cuDNN on a CUDA device, oneDNN or ATen on a CPU. A whole stack of layers in one call.

What torch's layers lack, `aten_scan` does with torch's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastrnn.backends import packed_cost

if TYPE_CHECKING:
    from fastrnn.cells import Cell
    from fastrnn.dispatch import Problem
    from fastrnn.functional import Weights

NAME = "aten"

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


def supports(problem: Problem) -> str | None:
    if problem.transformed:
        return "torch's own layers cannot serve torch.func transforms and forward-mode derivatives"
    return None


def declines(problem: Problem) -> str | None:
    return None


def lacks(problem: Problem) -> str | None:
    """What torch's own layer does not do, or not well, of a problem, so that `aten_scan` does it; or None."""
    if problem.cell.mode not in MODES:
        return "the textbook GRU"
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


def describe(problem: Problem) -> str:
    missing = lacks(problem)
    if missing is not None:
        return f"torch's operators, step by step, for {missing}"
    return "cuDNN through torch" if problem.device.type == "cuda" else "torch's own kernels"


def layers(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...],
    flat_weights: Sequence[Tensor],
    has_bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What torch.nn's layers call; arguments as `fastrnn.functional.run` takes them."""
    function = _FUNCTIONS[cell.mode]
    states = list(hx) if cell.states > 1 else hx[0]
    options = (list(flat_weights), has_bias, num_layers, dropout, training, bidirectional)
    if batch_sizes is None:
        output, *final = function(input, states, *options, batch_first)
    else:
        output, *final = function(input, batch_sizes, states, *options)
    return output, tuple(final)


def one_step(cell: Cell, input: Tensor, hx: tuple[Tensor, ...], weights: Weights) -> tuple[Tensor, ...]:
    """What torch.nn's cells call."""
    ih, hh, bias_ih, bias_hh, _ = weights
    function = _CELL_FUNCTIONS[cell.mode]
    if cell.states > 1:
        states: tuple[Tensor, ...] = function(input, hx, ih, hh, bias_ih, bias_hh)
        return states
    return (function(input, hx[0], ih, hh, bias_ih, bias_hh),)
