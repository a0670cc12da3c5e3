"""Each cell's equations, once, in plain torch.

    x_t = W_ih input_t (+ b_ih),  r_t = W_hh h_{t-1} (+ b_hh),  state_t = step(x_t, r_t, state_{t-1})

These are the equations of torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN (their documentation pages; Hochreiter &
Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014 with the reset gate applied after the
matmul; Elman 1990). The kernels' versions are in `fastrnn.kernels.cells`, tested against these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrnn.kernels.counts import COUNTS, Counts

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Cell(Counts):
    """A recurrent cell as data: its counts, and

    Attributes:
        mode: what torch.nn calls it (`RNNBase.mode`).
        step: `(x, r, state) -> state`, over tensors `[..., H]`, one per gate.
    """

    mode: str
    step: Callable[[State, State, State], State]


def lstm_step(x: State, r: State, state: State) -> State:
    """i, f, o = sigmoid(x + r), g = tanh(x + r); c' = f c + i g; h' = o tanh(c')."""
    i, f, g, o = (a + b for a, b in zip(x, r, strict=True))
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(x: State, r: State, state: State) -> State:
    """reset, z = sigmoid(x + r); n = tanh(x_n + reset r_n); h' = (1 - z) n + z h."""
    reset = torch.sigmoid(x[0] + r[0])
    z = torch.sigmoid(x[1] + r[1])
    n = torch.tanh(x[2] + reset * r[2])
    return (n + z * (state[0] - n),)


def rnn_tanh_step(x: State, r: State, state: State) -> State:
    """h' = tanh(x + r)."""
    return (torch.tanh(x[0] + r[0]),)


def rnn_relu_step(x: State, r: State, state: State) -> State:
    """h' = relu(x + r)."""
    return (torch.relu(x[0] + r[0]),)


CELLS: dict[str, Cell] = {
    name: Cell(**vars(COUNTS[name]), mode=mode, step=step)
    for name, mode, step in (
        ("lstm", "LSTM", lstm_step),
        ("gru", "GRU", gru_step),
        ("rnn_tanh", "RNN_TANH", rnn_tanh_step),
        ("rnn_relu", "RNN_RELU", rnn_relu_step),
    )
}
BY_MODE: dict[str, Cell] = {cell.mode: cell for cell in CELLS.values()}
