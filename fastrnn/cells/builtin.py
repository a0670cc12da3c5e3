"""The cells of torch.nn and of Keras, once, in plain torch.

These are the equations of torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN (their documentation pages; Hochreiter &
Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014 with the reset gate applied after the
matmul; Elman 1990), and of the GRU as Cho et al. 2014 (arXiv:1406.1078) print it, with the reset gate applied before
the matmul, which is Keras's `GRU(reset_after=False)`. Gate order is torch's.

What is derived of them is in `fastrnn/cells/derived/` and `kernels/derived/`, as `generate.py` writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.cells.cell import Cell, State
from fastrnn.cells.registry import register
from fastrnn.kernels.derived.table import TABLE


def committed(
    *,
    gates: int,
    states: int = 1,
    vectors: tuple[str, ...] = (),
    constants: tuple[str, ...] = (),
    inner: int = 0,
    initial: tuple[float, ...] = (),
    float32_states: bool = False,
) -> Callable[[Callable[..., Any]], Cell]:
    """`fastrnn.cell` for cells of ours: what is derived of them was, ahead of time."""

    def of(function: Callable[..., Any]) -> Cell:
        name = function.__name__
        derived = TABLE.get(name, {})  # a new one has nothing yet
        cell = Cell(
            name=name,
            gates=gates,
            states=states,
            saved=derived.get("saved", 0),
            split_gates=derived.get("split_gates", ()),
            rests=derived.get("rests", False),
            inner=inner,
            vectors=len(vectors),
            constants=len(constants),
            initial=initial,
            float32_states=float32_states,
            mode=name.upper(),
            function=function,
            vector_names=vectors,
            constant_names=constants,
        )
        return register(cell)

    return of


@committed(gates=4, states=2)
def lstm(x: State, r: State, state: State) -> State:
    """i, f, o = sigmoid(x + r), g = tanh(x + r); c' = f c + i g; h' = o tanh(c')."""
    i, f, g, o = (a + b for a, b in zip(x, r, strict=True))
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * state[1] + i * g
    return o * torch.tanh(c), c


@committed(gates=3)
def gru(x: State, r: State, state: State) -> Tensor:
    """reset, z = sigmoid(x + r); n = tanh(x_n + reset r_n); h' = (1 - z) n + z h."""
    reset = torch.sigmoid(x[0] + r[0])
    z = torch.sigmoid(x[1] + r[1])
    n = torch.tanh(x[2] + reset * r[2])
    return n + z * (state[0] - n)


@committed(gates=3, inner=1)
def gru_textbook(x: State, r: State, state: State, inner: Callable[[Tensor], Tensor]) -> Tensor:
    """reset, z = sigmoid(x + r); n = tanh(x_n + W_hn (reset h) + b_hn); h' = (1 - z) n + z h."""
    reset = torch.sigmoid(x[0] + r[0])
    z = torch.sigmoid(x[1] + r[1])
    n = torch.tanh(x[2] + inner(reset * state[0]))
    return n + z * (state[0] - n)


@committed(gates=1)
def rnn_tanh(x: State, r: State, state: State) -> Tensor:
    """h' = tanh(x + r)."""
    return torch.tanh(x[0] + r[0])


@committed(gates=1)
def rnn_relu(x: State, r: State, state: State) -> Tensor:
    """h' = relu(x + r), whose gradient at zero is zero."""
    return torch.relu(x[0] + r[0])


CELLS: dict[str, Cell] = {cell.name: cell for cell in (lstm, gru, gru_textbook, rnn_tanh, rnn_relu)}
BY_MODE: dict[str, Cell] = {cell.mode: cell for cell in CELLS.values()}
