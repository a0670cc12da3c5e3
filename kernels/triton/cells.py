"""One forward and one backward step of each cell, pointwise over tuples of tiles.

Forward:  `fwd(x, r, state) -> state, saved`
Backward: `bwd(dstate, saved, state_prev, state) -> dx, dr, dstate_prev`

A cell whose last gate multiplies something else than h (`Counts.inner`) says what, in two more functions:

Forward:  `inner_fwd(x, r, state) -> operand`, from the r of the outer gates; `fwd` then has the r of all of them
Backward: `inner_bwd(dstate, saved, state_prev, state) -> dr of that gate`; `bwd` then has one more argument, `through`,
          the gradient of the operand. What the two of a pass both compute, the compiler computes once.

`x` is the input part of the gates, `W_ih x_t` and whichever biases were folded into it; `r` is the recurrent part,
`W_hh h_{t-1}` plus the recurrent bias where that was not folded. They stay apart because the GRU's candidate needs
`r_n` alone. `state[0]` is h. `dx` and `dr` are the gradients of `x` and `r`; `dstate_prev` is only what reaches the
previous state directly: what goes through the recurrent matmul is the scan's business.

The equations are torch.nn's (torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN documentation); gate order is torch's.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from triton.runtime.jit import KernelInterface

from fastrnn.kernels.triton.tiles import sigmoid, tanh


@triton.jit
def lstm_fwd(x, r, state):
    # c_t = f c_{t-1} + i g;  h_t = o tanh(c_t)
    i = sigmoid(x[0] + r[0])
    f = sigmoid(x[1] + r[1])
    g = tanh(x[2] + r[2])
    o = sigmoid(x[3] + r[3])
    c = f * state[1] + i * g
    h = o * tanh(c)
    return (h, c), (i, f, g, o)


@triton.jit
def lstm_bwd(dstate, saved, state_prev, state):
    i, f, g, o = saved
    tanh_c = tanh(state[1])
    dh = dstate[0]
    dc = dstate[1] + dh * o * (1.0 - tanh_c * tanh_c)
    di = dc * g * i * (1.0 - i)
    df = dc * state_prev[1] * f * (1.0 - f)
    dg = dc * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    d = (di, df, dg, do)
    return d, d, (tl.zeros_like(dh), dc * f)


@triton.jit
def gru_fwd(x, r, state):
    # n_t = tanh(x_n + r r_n);  h_t = (1 - z) n + z h_{t-1}
    reset = sigmoid(x[0] + r[0])
    z = sigmoid(x[1] + r[1])
    n = tanh(x[2] + reset * r[2])
    h = n + z * (state[0] - n)
    return (h,), (reset, z, n, r[2])


@triton.jit
def gru_bwd(dstate, saved, state_prev, state):
    reset, z, n, r_n = saved
    dh = dstate[0]
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dz = dh * (state_prev[0] - n) * z * (1.0 - z)
    dreset = dn * r_n * reset * (1.0 - reset)
    return (dreset, dz, dn), (dreset, dz, dn * reset), (dh * z,)


@triton.jit
def gru_textbook_inner_fwd(x, r, state):
    # What W_hn multiplies: r h_{t-1}
    return sigmoid(x[0] + r[0]) * state[0]


@triton.jit
def gru_textbook_fwd(x, r, state):
    # n_t = tanh(x_n + W_hn (r h_{t-1}) + b);  h_t = (1 - z) n + z h_{t-1}
    reset = sigmoid(x[0] + r[0])
    z = sigmoid(x[1] + r[1])
    n = tanh(x[2] + r[2])
    h = n + z * (state[0] - n)
    return (h,), (reset, z, n)


@triton.jit
def gru_textbook_inner_bwd(dstate, saved, state_prev, state):
    _, z, n = saved
    return dstate[0] * (1.0 - z) * (1.0 - n * n)


@triton.jit
def gru_textbook_bwd(dstate, saved, state_prev, state, through):
    reset, z, n = saved
    dh = dstate[0]
    dn = gru_textbook_inner_bwd(dstate, saved, state_prev, state)
    dz = dh * (state_prev[0] - n) * z * (1.0 - z)
    dreset = through * state_prev[0] * reset * (1.0 - reset)
    d = (dreset, dz, dn)
    return d, d, (dh * z + through * reset,)


@triton.jit
def rnn_tanh_fwd(x, r, state):
    return (tanh(x[0] + r[0]),), ()


@triton.jit
def rnn_tanh_bwd(dstate, saved, state_prev, state):
    d = dstate[0] * (1.0 - state[0] * state[0])
    return (d,), (d,), (tl.zeros_like(d),)


@triton.jit
def rnn_relu_fwd(x, r, state):
    a = x[0] + r[0]
    # Not tl.maximum, which drops NaN.
    return (tl.where(a < 0.0, 0.0, a),), ()


@triton.jit
def rnn_relu_bwd(dstate, saved, state_prev, state):
    d = tl.where(state[0] > 0.0, dstate[0], 0.0)
    return (d,), (d,), (tl.zeros_like(d),)


class Steps(NamedTuple):
    """The jit functions of a cell; its counts are in `fastrnn.kernels.counts`."""

    fwd: KernelInterface
    bwd: KernelInterface
    inner_fwd: KernelInterface | None = None
    inner_bwd: KernelInterface | None = None


STEPS: dict[str, Steps] = {
    "lstm": Steps(lstm_fwd, lstm_bwd),
    "gru": Steps(gru_fwd, gru_bwd),
    "gru_textbook": Steps(gru_textbook_fwd, gru_textbook_bwd, gru_textbook_inner_fwd, gru_textbook_inner_bwd),
    "rnn_tanh": Steps(rnn_tanh_fwd, rnn_tanh_bwd),
    "rnn_relu": Steps(rnn_relu_fwd, rnn_relu_bwd),
}
