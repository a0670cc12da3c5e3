"""Every cell of the catalogue a second time, from its paper: one row, one step, one gate's matrix at a time.

Nothing here is shared with the catalogue, and nothing is fast. Columns of a batch never meet: a row is a list of steps,
and what lengths, resets and the reverse direction mean is which steps are in the list, and in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, ...]


class Layer(NamedTuple):
    """One layer's parameters, gate by gate.

    Attributes:
        W: for each gate `(H, I)`.
        U: for each gate `(H, H)`, zero between units of different heads.
        b, d: for each gate `(H,)`, the biases of W and of U.
        vectors: by name, `(H,)`.
    """

    W: list[Tensor]
    U: list[Tensor]
    b: list[Tensor]
    d: list[Tensor]
    vectors: dict[str, Tensor]

    @classmethod
    def of(cls, params: Mapping[str, Tensor], H: int, heads: int) -> Layer:
        weight_ih, weight_hh = params["weight_ih"], params["weight_hh"]
        gates = len(weight_ih) // H
        nothing = weight_ih.new_zeros(gates * H)
        size = H // heads
        U = []
        for g in range(gates):
            rows = weight_hh[g * H : (g + 1) * H]
            U.append(torch.block_diag(*(rows[k * size : (k + 1) * size] for k in range(heads))))
        return cls(
            [weight_ih[g * H : (g + 1) * H] for g in range(gates)],
            U,
            [params.get("bias_ih", nothing)[g * H : (g + 1) * H] for g in range(gates)],
            [params.get("bias_hh", nothing)[g * H : (g + 1) * H] for g in range(gates)],
            {name: value for name, value in params.items() if not name.startswith(("weight_", "bias_"))},
        )

    def input_part(self, g: int, x: Tensor) -> Tensor:
        return self.W[g] @ x + self.b[g]

    def recurrent_part(self, g: int, h: Tensor) -> Tensor:
        return self.U[g] @ h + self.d[g]

    def gate(self, g: int, x: Tensor, h: Tensor) -> Tensor:
        return self.W[g] @ x + self.b[g] + self.U[g] @ h + self.d[g]


# One step of one row: the layer, the input (I,), the states (H,) and the constants, by name, to the new states.
Step = Callable[[Layer, Tensor, State, Mapping[str, Tensor]], State]


def _s(a: Tensor) -> Tensor:
    return torch.sigmoid(a)


def _max0(a: Tensor) -> Tensor:
    return a * (a > 0)


def _lstm(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    h, c = state
    input_gate = _s(layer.gate(0, x, h))
    forget_gate = _s(layer.gate(1, x, h))
    candidate = torch.tanh(layer.gate(2, x, h))
    output_gate = _s(layer.gate(3, x, h))
    new_c = forget_gate * c + input_gate * candidate
    return output_gate * torch.tanh(new_c), new_c


def _gru(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    (h,) = state
    reset = _s(layer.gate(0, x, h))
    update = _s(layer.gate(1, x, h))
    candidate = torch.tanh(layer.input_part(2, x) + reset * layer.recurrent_part(2, h))
    return ((1 - update) * candidate + update * h,)


def _gru_textbook(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    (h,) = state
    reset = _s(layer.gate(0, x, h))
    update = _s(layer.gate(1, x, h))
    candidate = torch.tanh(layer.gate(2, x, reset * h))
    return (update * h + (1 - update) * candidate,)


def _rnn_tanh(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    return (torch.tanh(layer.gate(0, x, state[0])),)


def _rnn_relu(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    return (_max0(layer.gate(0, x, state[0])),)


def _peephole_lstm(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    h, c = state
    # The peepholes as the diagonal matrices that they are.
    P_i, P_f, P_o = (torch.diag(layer.vectors[name]) for name in ("p_i", "p_f", "p_o"))
    input_gate = _s(layer.gate(0, x, h) + P_i @ c)
    forget_gate = _s(layer.gate(1, x, h) + P_f @ c)
    new_c = forget_gate * c + input_gate * torch.tanh(layer.gate(2, x, h))
    output_gate = _s(layer.gate(3, x, h) + P_o @ new_c)
    return output_gate * torch.tanh(new_c), new_c


def _cifg(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    h, c = state
    # Greff's input gate is this one with the sign of its weights changed.
    input_gate = _s(-layer.gate(0, x, h))
    forget_gate = 1 - input_gate
    new_c = input_gate * torch.tanh(layer.gate(1, x, h)) + forget_gate * c
    return torch.tanh(new_c) * _s(layer.gate(2, x, h)), new_c


def _mgu(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    (h,) = state
    forget_gate = _s(layer.gate(0, x, h))
    candidate = torch.tanh(layer.gate(1, x, forget_gate * h))
    return ((1 - forget_gate) * h + forget_gate * candidate,)


def _ligru(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    (h,) = state
    update = _s(layer.gate(0, x, h))
    candidate = _max0(layer.gate(1, x, h))
    return (update * h + (1 - update) * candidate,)


def _cfc(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    (h,) = state
    first, second = torch.tanh(layer.gate(0, x, h)), torch.tanh(layer.gate(1, x, h))
    time_a, time_b = layer.gate(2, x, h), layer.gate(3, x, h)
    # The paper's f is -time_a, and what it gates by s(-f t) is `second`.
    share = _s(time_a * constants["dt"] + time_b)
    return (share * second + (1 - share) * first,)


def _janet(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    (h,) = state
    beta = 1.0
    s = layer.gate(0, x, h)
    candidate = torch.tanh(layer.gate(1, x, h))
    return (_s(s) * h + (1 - _s(s - beta)) * candidate,)


def _slstm(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    """The paper's equations before they are stabilised, and m beside them: its c and n are exp(m) times these."""
    h, c, n, m = state
    i = torch.exp(layer.gate(0, x, h))
    f = 1 / (1 + torch.exp(-layer.gate(1, x, h)))
    z = torch.tanh(layer.gate(2, x, h))
    o = _s(layer.gate(3, x, h))
    true_c = f * c * torch.exp(m) + i * z
    true_n = f * n * torch.exp(m) + i
    candidates = torch.stack((torch.log(f) + m, torch.log(i)))
    new_m = candidates[1] * (n == 0) + candidates.amax(0) * (n != 0)
    return o * (true_c / true_n), true_c * torch.exp(-new_m), true_n * torch.exp(-new_m), new_m


def _lstm_decay(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    h, c = state
    exponent = layer.vectors["w_decay"] * constants["dt"] + layer.vectors["b_decay"]
    return _lstm(layer, x, (h, c / torch.exp(_max0(exponent))), constants)


def _nas(layer: Layer, x: Tensor, state: State, constants: Mapping[str, Tensor]) -> State:
    h, c = state
    # The tree's leaves, two by two.
    leaf1, leaf2 = _s(layer.gate(0, x, h)), _max0(layer.gate(1, x, h))
    leaf3, leaf4 = _s(layer.gate(2, x, h)), _max0(layer.input_part(3, x) * layer.recurrent_part(3, h))
    leaf5, leaf6 = torch.tanh(layer.gate(4, x, h)), _s(layer.gate(5, x, h))
    leaf7, leaf8 = torch.tanh(layer.gate(6, x, h)), _s(layer.gate(7, x, h))
    node1 = torch.tanh(leaf1 * leaf2)
    node2 = torch.tanh(leaf3 + leaf4)
    node3 = torch.tanh(leaf5 * leaf6)
    node4 = _s(leaf7 + leaf8)
    node1 = torch.tanh(node1 + c)
    node5 = node1 * node2
    node6 = torch.tanh(node3 + node4)
    return torch.tanh(node5 * node6), node5


STEPS: dict[str, Step] = {
    "lstm": _lstm,
    "gru": _gru,
    "gru_textbook": _gru_textbook,
    "rnn_tanh": _rnn_tanh,
    "rnn_relu": _rnn_relu,
    "peephole_lstm": _peephole_lstm,
    "cifg": _cifg,
    "mgu": _mgu,
    "ligru": _ligru,
    "cfc": _cfc,
    "janet": _janet,
    "indrnn": _rnn_relu,  # with a diagonal U
    "slstm": _slstm,
    "lstm_decay": _lstm_decay,
    "nas": _nas,
}


def _visits(length: int, resets: list[bool], reverse: bool) -> list[tuple[int, bool]]:
    """The steps of a row in the order in which it takes them, each with whether it starts from the initial values."""
    if not reverse:
        return [(t, resets[t]) for t in range(length)]
    return [(t, t + 1 < length and resets[t + 1]) for t in range(length - 1, -1, -1)]


def run(
    name: str,
    input: Tensor,
    params: Mapping[str, Tensor],
    hx: State,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    constants: Mapping[str, Tensor] | None = None,
    heads: int = 1,
    reverse: bool = False,
    initial: tuple[float, ...] | None = None,
) -> tuple[Tensor, State, list[State]]:
    """One layer, one direction.

    Args:
        name: of the cell.
        input: `(T, B, I)`.
        params: `weight_ih` `(G*H, I)`, `weight_hh` `(G*H, H/heads)`, `bias_ih` and `bias_hh` `(G*H,)` or absent, and
            the cell's vectors `(H,)` by their names. A unit u reads the units of its head, u // (H/heads), alone.
        hx: each state `(B, H)`.
        lengths: `(B,)`; all T steps where None.
        resets: `(T, B)` bool: where a sequence starts, in time order. The reverse direction is cut where the step after
            it starts one, and is not past the row's end.
        constants: by name, `(T, B)`.
        initial: what each state starts at after a reset; zero where None. The first sequence of a row starts from `hx`,
            unless it is reset.

    Returns:
        The output `(T, B, H)`; each state `(B, H)` after the row's last step; and for each step all states `(B, H)`
        after it. Past a row's length the states stay what they were, and output and per-step states are zero.
    """
    T, B, _ = input.shape
    H = hx[0].shape[1]
    layer = Layer.of(params, H, heads)
    zero = input.new_zeros(H)
    start = tuple(torch.full_like(zero, value) for value in initial or (0.0,) * len(hx))
    rows, finals = [], []
    for b in range(B):
        length = T if lengths is None else int(lengths[b])
        cut = [False] * T if resets is None else [bool(resets[t, b]) for t in range(T)]
        state = tuple(s[b] for s in hx)
        row: list[State] = [(zero,) * len(hx)] * T
        for t, afresh in _visits(length, cut, reverse):
            now = {key: value[t, b] for key, value in (constants or {}).items()}
            state = STEPS[name](layer, input[t, b], start if afresh else state, now)
            row[t] = state
        rows.append(row)
        finals.append(state)
    every = [tuple(torch.stack([rows[b][t][k] for b in range(B)]) for k in range(len(hx))) for t in range(T)]
    final = tuple(torch.stack([finals[b][k] for b in range(B)]) for k in range(len(hx)))
    return torch.stack([states[0] for states in every]), final, every
