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
        step_backward: `(dstate, dsaved, saved, state_prev, state) -> dx, dr, dstate_prev`, its gradient from what the
            forward kernel saves. `dsaved` is the gradient of the saved tensors themselves: zero in a first derivative,
            where nothing else reads them. `dstate_prev` leaves out what goes through the recurrent matmul.
    """

    mode: str
    step: Callable[[State, State, State], State]
    step_backward: Callable[[State, State, State, State, State], tuple[State, State, State]]


def lstm_step(x: State, r: State, state: State) -> State:
    """i, f, o = sigmoid(x + r), g = tanh(x + r); c' = f c + i g; h' = o tanh(c')."""
    i, f, g, o = (a + b for a, b in zip(x, r, strict=True))
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_step_backward(
    dstate: State, dsaved: State, saved: State, state_prev: State, state: State
) -> tuple[State, State, State]:
    """The gradient of `lstm_step`; saved are i, f, g, o."""
    i, f, g, o = saved
    dh, tanh_c = dstate[0], torch.tanh(state[1])
    dc = dstate[1] + dh * o * (1 - tanh_c**2)
    di = (dc * g + dsaved[0]) * i * (1 - i)
    df = (dc * state_prev[1] + dsaved[1]) * f * (1 - f)
    dg = (dc * i + dsaved[2]) * (1 - g**2)
    do = (dh * tanh_c + dsaved[3]) * o * (1 - o)
    return (di, df, dg, do), (di, df, dg, do), (torch.zeros_like(dh), dc * f)


def gru_step(x: State, r: State, state: State) -> State:
    """reset, z = sigmoid(x + r); n = tanh(x_n + reset r_n); h' = (1 - z) n + z h."""
    reset = torch.sigmoid(x[0] + r[0])
    z = torch.sigmoid(x[1] + r[1])
    n = torch.tanh(x[2] + reset * r[2])
    return (n + z * (state[0] - n),)


def gru_step_backward(
    dstate: State, dsaved: State, saved: State, state_prev: State, state: State
) -> tuple[State, State, State]:
    """The gradient of `gru_step`; saved are reset, z, n, r_n."""
    reset, z, n, r_n = saved
    dh = dstate[0]
    dn = (dh * (1 - z) + dsaved[2]) * (1 - n**2)
    dz = (dh * (state_prev[0] - n) + dsaved[1]) * z * (1 - z)
    dreset = (dn * r_n + dsaved[0]) * reset * (1 - reset)
    return (dreset, dz, dn), (dreset, dz, dn * reset + dsaved[3]), (dh * z,)


def rnn_tanh_step(x: State, r: State, state: State) -> State:
    """h' = tanh(x + r)."""
    return (torch.tanh(x[0] + r[0]),)


def rnn_tanh_step_backward(
    dstate: State, dsaved: State, saved: State, state_prev: State, state: State
) -> tuple[State, State, State]:
    """The gradient of `rnn_tanh_step`; nothing is saved but h."""
    d = dstate[0] * (1 - state[0] ** 2)
    return (d,), (d,), (torch.zeros_like(d),)


def rnn_relu_step(x: State, r: State, state: State) -> State:
    """h' = relu(x + r)."""
    return (torch.relu(x[0] + r[0]),)


def rnn_relu_step_backward(
    dstate: State, dsaved: State, saved: State, state_prev: State, state: State
) -> tuple[State, State, State]:
    """The gradient of `rnn_relu_step`, zero at zero as torch's; nothing is saved but h."""
    d = dstate[0] * (state[0] > 0)
    return (d,), (d,), (torch.zeros_like(d),)


CELLS: dict[str, Cell] = {
    name: Cell(**vars(COUNTS[name]), mode=name.upper(), step=step, step_backward=step_backward)
    for name, step, step_backward in (
        ("lstm", lstm_step, lstm_step_backward),
        ("gru", gru_step, gru_step_backward),
        ("rnn_tanh", rnn_tanh_step, rnn_tanh_step_backward),
        ("rnn_relu", rnn_relu_step, rnn_relu_step_backward),
    )
}
BY_MODE: dict[str, Cell] = {cell.mode: cell for cell in CELLS.values()}
