"""Each cell's equations, once, in plain torch.

    x_t = W_ih input_t (+ b_ih),  r_t = W_hh h_{t-1} (+ b_hh),  state_t = step(x_t, r_t, state_{t-1})

These are the equations of torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN (their documentation pages; Hochreiter &
Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014 with the reset gate applied after the
matmul; Elman 1990), and of the GRU as Cho et al. 2014 (arXiv:1406.1078) print it, with the reset gate applied before
the matmul, which is Keras's `GRU(reset_after=False)`. The kernels' versions are in `kernels/triton/cells.py`, tested
against these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrnn.kernels.counts import COUNTS, Counts

State = tuple[Tensor, ...]
Upstream = tuple[Tensor | None, ...]
Inner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cell(Counts):
    """A recurrent cell as data: its counts, and

    Attributes:
        mode: what torch.nn calls it (`RNNBase.mode`), where torch.nn has it.
        step: `(x, r, state, inner) -> state, saved`, over tensors `[..., H]`, one per gate. `x` may be None, where the
            input part was added to `r` already. `saved` is what `step_backward` needs beyond the states. Of a cell with
            an inner gate (`Counts.inner`), `r` lacks that gate, and `inner` multiplies a tensor by its weights, and
            adds its recurrent bias, and its input part where `x` is None.
        step_backward: `(dstate, dsaved, saved, state_prev, state, inner) -> dx, dr, dstate_prev`, its gradient.
            `dsaved` is the gradient of the saved tensors themselves: None in a first derivative, where nothing else
            reads them. `dstate_prev` leaves out what goes through the recurrent matmul of the outer gates; `inner`
            multiplies the inner gate's gradient by its weights, transposed.
    """

    mode: str
    step: Callable[[State | None, State, State, Inner], tuple[State, State]]
    step_backward: Callable[[State, Upstream, State, State, State, Inner], tuple[State, State, State]]


def _plus(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b


def _sum(x: State | None, r: State) -> State:
    return r if x is None else tuple(a + b for a, b in zip(x, r, strict=True))


def lstm_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    """i, f, o = sigmoid(x + r), g = tanh(x + r); c' = f c + i g; h' = o tanh(c')."""
    i, f, g, o = _sum(x, r)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * state[1] + i * g
    return (o * torch.tanh(c), c), (i, f, g, o)


def lstm_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    """The gradient of `lstm_step`; saved are i, f, g, o."""
    i, f, g, o = saved
    dh, tanh_c = dstate[0], torch.tanh(state[1])
    dc = dstate[1] + dh * o * (1 - tanh_c**2)
    di = _plus(dc * g, dsaved[0]) * i * (1 - i)
    df = _plus(dc * state_prev[1], dsaved[1]) * f * (1 - f)
    dg = _plus(dc * i, dsaved[2]) * (1 - g**2)
    do = _plus(dh * tanh_c, dsaved[3]) * o * (1 - o)
    return (di, df, dg, do), (di, df, dg, do), (torch.zeros_like(dh), dc * f)


def gru_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    """reset, z = sigmoid(x + r); n = tanh(x_n + reset r_n); h' = (1 - z) n + z h."""
    if x is None:
        raise ValueError("the GRU's candidate needs its input part and its recurrent part apart")
    reset = torch.sigmoid(x[0] + r[0])
    z = torch.sigmoid(x[1] + r[1])
    n = torch.tanh(x[2] + reset * r[2])
    return (n + z * (state[0] - n),), (reset, z, n, r[2])


def gru_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    """The gradient of `gru_step`; saved are reset, z, n, r_n."""
    reset, z, n, r_n = saved
    dh = dstate[0]
    dn = _plus(dh * (1 - z), dsaved[2]) * (1 - n**2)
    dz = _plus(dh * (state_prev[0] - n), dsaved[1]) * z * (1 - z)
    dreset = _plus(dn * r_n, dsaved[0]) * reset * (1 - reset)
    return (dreset, dz, dn), (dreset, dz, _plus(dn * reset, dsaved[3])), (dh * z,)


def gru_textbook_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    """reset, z = sigmoid(x + r); n = tanh(x_n + W_hn (reset h) + b_hn); h' = (1 - z) n + z h."""
    reset, z = _sum(None if x is None else x[:2], r)
    reset, z = torch.sigmoid(reset), torch.sigmoid(z)
    r_n = inner(reset * state[0])
    n = torch.tanh(r_n if x is None else x[2] + r_n)
    return (n + z * (state[0] - n),), (reset, z, n)


def gru_textbook_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    """The gradient of `gru_textbook_step`; saved are reset, z, n."""
    reset, z, n = saved
    dh = dstate[0]
    dn = _plus(dh * (1 - z), dsaved[2]) * (1 - n**2)
    dz = _plus(dh * (state_prev[0] - n), dsaved[1]) * z * (1 - z)
    through = inner(dn)
    dreset = _plus(through * state_prev[0], dsaved[0]) * reset * (1 - reset)
    d = (dreset, dz, dn)
    return d, d, (dh * z + through * reset,)


def rnn_tanh_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    """h' = tanh(x + r)."""
    return (torch.tanh(_sum(x, r)[0]),), ()


def rnn_tanh_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    """The gradient of `rnn_tanh_step`; nothing is saved but h."""
    d = dstate[0] * (1 - state[0] ** 2)
    return (d,), (d,), (torch.zeros_like(d),)


def rnn_relu_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    """h' = relu(x + r)."""
    return (torch.relu(_sum(x, r)[0]),), ()


def rnn_relu_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    """The gradient of `rnn_relu_step`, zero at zero as torch's; nothing is saved but h."""
    d = dstate[0] * (state[0] > 0)
    return (d,), (d,), (torch.zeros_like(d),)


CELLS: dict[str, Cell] = {
    name: Cell(**vars(COUNTS[name]), mode=name.upper(), step=step, step_backward=step_backward)
    for name, step, step_backward in (
        ("lstm", lstm_step, lstm_step_backward),
        ("gru", gru_step, gru_step_backward),
        ("gru_textbook", gru_textbook_step, gru_textbook_step_backward),
        ("rnn_tanh", rnn_tanh_step, rnn_tanh_step_backward),
        ("rnn_relu", rnn_relu_step, rnn_relu_step_backward),
    )
}
BY_MODE: dict[str, Cell] = {cell.mode: cell for cell in CELLS.values()}
