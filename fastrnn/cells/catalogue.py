"""A catalogue of recurrent cells, each one function of pointwise operators from which its kernels are derived.

    layer = fastrnn.Recurrent(fastrnn.cells.cifg, input_size, hidden_size)

A gate is called by its letter: i, f, g, o of an LSTM, z, n of a GRU; below, `s` is the sigmoid, and a gate's `x + r` is
left out: `f = s(.)`. The order of the gates is that of the rows of W_ih and W_hh. All states start at zero.
tests/cells/literal.py writes every cell a second time, from its paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastrnn.cells.builtin import committed
from fastrnn.cells.cell import Cell, Inner, State


@committed(gates=4, states=2, vectors=("p_i", "p_f", "p_o"))
def peephole_lstm(x: State, r: State, state: State, p_i: Tensor, p_f: Tensor, p_o: Tensor) -> State:
    """i = s(. + p_i c), f = s(. + p_f c), g = tanh(.); c' = f c + i g; o = s(. + p_o c'); h' = o tanh(c').

    Gers & Schmidhuber 2000 (doi:10.1109/IJCNN.2000.861302), with tanh for both squashing functions, as in the "vanilla"
    LSTM of Greff et al. 2017 (arXiv:1503.04069).
    """
    i, f, g, o = (a + b for a, b in zip(x, r, strict=True))
    c = torch.sigmoid(f + p_f * state[1]) * state[1] + torch.sigmoid(i + p_i * state[1]) * torch.tanh(g)
    return torch.sigmoid(o + p_o * c) * torch.tanh(c), c


@committed(gates=3, states=2)
def cifg(x: State, r: State, state: State) -> State:
    """An LSTM of which what is forgotten is written: f, o = s(.), g = tanh(.); c' = f c + (1 - f) g; h' = o tanh(c').

    "CIFG" in Greff et al. 2017 (arXiv:1503.04069), who keep the input gate and write f = 1 - i: the same cell, the sign
    of that gate's weights changed.
    """
    f, g, o = (a + b for a, b in zip(x, r, strict=True))
    f = torch.sigmoid(f)
    c = f * state[1] + (1 - f) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@committed(gates=2, inner=1)
def mgu(x: State, r: State, state: State, inner: Inner) -> Tensor:
    """The minimal gated unit: f = s(.); n = tanh(x_n + W_hn (f h) + b_hn); h' = (1 - f) h + f n.

    Zhou et al. 2016 (arXiv:1603.09420).
    """
    f = torch.sigmoid(x[0] + r[0])
    n = torch.tanh(x[1] + inner(f * state[0]))
    return state[0] + f * (n - state[0])


@committed(gates=2)
def ligru(x: State, r: State, state: State) -> Tensor:
    """The light GRU, which has no reset gate: z = s(.), n = max(., 0); h' = z h + (1 - z) n.

    Ravanelli et al. 2018 (arXiv:1803.10225). Their batch norm is of the input part alone, and stays outside: normalise
    W_ih input over time and batch, and give that as the input of a layer whose W_ih is the identity.
    """
    z, n = (a + b for a, b in zip(x, r, strict=True))
    z, n = torch.sigmoid(z), torch.relu(n)
    return n + z * (state[0] - n)


@committed(gates=4, constants=("dt",))
def cfc(x: State, r: State, state: State, dt: Tensor) -> Tensor:
    """The closed-form continuous-time cell: t = s(a dt + b); h' = (1 - t) tanh(p) + t tanh(q); gates p, q, a, b.

    Hasani et al. 2022 (arXiv:2106.13898), whose g, h and f are q, p and -a here; their published code adds b, and calls
    this mode "default". `dt` is the time since the step before. Without a backbone: all four are linear in input and h.
    """
    p, q, a, b = (a + b for a, b in zip(x, r, strict=True))
    p, q = torch.tanh(p), torch.tanh(q)
    return p + torch.sigmoid(a * dt + b) * (q - p)


@committed(gates=2)
def janet(x: State, r: State, state: State) -> Tensor:
    """The LSTM with nothing but a forget gate: g = tanh(.); h' = s(f) h + (1 - s(f - 1)) g.

    Van der Westhuizen & Lasenby 2018 (arXiv:1804.04849), with their beta = 1; their c is h.
    """
    f, g = (a + b for a, b in zip(x, r, strict=True))
    return torch.sigmoid(f) * state[0] + torch.sigmoid(1 - f) * torch.tanh(g)


@committed(gates=1)
def indrnn(x: State, r: State, state: State) -> Tensor:
    """The independently recurrent network: h' = max(W x + u h + b, 0), one recurrent weight per unit.

    Li et al. 2018 (arXiv:1803.04831). `rnn_relu`'s equations: it is the layer's `heads=hidden_size` that makes the
    recurrent matrix a diagonal.
    """
    return torch.relu(x[0] + r[0])


@committed(gates=4, states=4, float32_states=True)
def slstm(x: State, r: State, state: State) -> State:
    """m' = max(log s(f) + m, i); i' = exp(i - m'), f' = exp(log s(f) + m - m'); c' = f' c + i' tanh(z), n' = f' n + i'.

    h' = s(o) c' / n'. The sLSTM of Beck et al. 2024 (arXiv:2405.04517), its forget gate a sigmoid; gates i, f, z, o,
    states h, c, n, m. The stabiliser m scales c and n alike, so h does not depend on it.

    Where n is zero nothing is remembered, and m' = i, as in their published code: n' is then 1, whatever i is. So all
    states can start at zero, m among them, and n' is never below min(1, n): one of i', f' is always 1.
    """
    i, f, z, o = (a + b for a, b in zip(x, r, strict=True))
    _, c, n, m = state
    kept = F.logsigmoid(f) + m
    m = torch.where((n == 0) | (i > kept), i, kept)
    # Only where n is zero can this exponent be positive: exp() could overflow there, and make NaN of what it scales.
    f = torch.exp(torch.clamp(kept - m, max=0.0))
    i = torch.exp(i - m)
    c = f * c + i * torch.tanh(z)
    n = f * n + i
    return torch.sigmoid(o) * c / n, c, n, m


@committed(gates=4, states=2, vectors=("w_decay", "b_decay"), constants=("dt",))
def lstm_decay(x: State, r: State, state: State, w_decay: Tensor, b_decay: Tensor, dt: Tensor) -> State:
    """An LSTM that forgets with time: k = exp(-max(w_decay dt + b_decay, 0)); c' = f k c + i g; h' = o tanh(c').

    `dt` is the time since the step before. The decay is that of the hidden state in GRU-D, Che et al. 2018
    (arXiv:1606.01865), for one gap per step; there it scales h ahead of the matmuls, here the memory that no matmul
    reads. Start w_decay or b_decay above zero: where both are zero, so is their gradient.
    """
    i, f, g, o = (a + b for a, b in zip(x, r, strict=True))
    c = torch.exp(-torch.relu(w_decay * dt + b_decay)) * state[1]
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@committed(gates=8, states=2)
def nas(x: State, r: State, state: State) -> State:
    """The cell that an architecture search found: pairs of gates, joined pair by pair in a tree, into h and c.

    c' = tanh(tanh(s(1) max(2, 0)) + c) tanh(s(3) + max(x_4 r_4, 0)), where 1 is x_1 + r_1, and so on;
    h' = tanh(c' tanh(tanh(tanh(5) s(6)) + s(tanh(7) + s(8)))).

    Zoph & Le 2017 (arXiv:1611.01578); the gates are in the order of TensorFlow's NASCell.
    """
    a, b, d, _, e, f, g, k = (a + b for a, b in zip(x, r, strict=True))
    left = torch.tanh(torch.sigmoid(a) * torch.relu(b)) + state[1]
    c = torch.tanh(left) * torch.tanh(torch.sigmoid(d) + torch.relu(x[3] * r[3]))
    right = torch.tanh(torch.tanh(e) * torch.sigmoid(f)) + torch.sigmoid(torch.tanh(g) + torch.sigmoid(k))
    return torch.tanh(c * torch.tanh(right)), c


CATALOGUE: dict[str, Cell] = {
    cell.name: cell for cell in (peephole_lstm, cifg, mgu, ligru, cfc, janet, indrnn, slstm, lstm_decay, nas)
}
