"""Two cells with more gates, states and saved tensors than the shipped ones have, for tests of the kernels alone.

`demo_paired` is an LSTM whose every gate is the mean of two: 8 gates, 2 states, 8 saved. `demo_slstm` is the sLSTM of
Beck et al. 2024 (arXiv:2405.04517), equations 8 to 17, its forget gate exponential: 4 gates, 4 states, 6 saved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrnn.cells import CELLS, Cell, Inner, State, Upstream
from fastrnn.kernels.counts import COUNTS, Counts
from fastrnn.kernels.triton.cells import STEPS, Steps
from fastrnn.kernels.triton.tiles import sigmoid, tanh


@triton.jit
def paired_fwd(x, r, state):
    # c_t = f c_{t-1} + i g;  h_t = o tanh(c_t);  i, f, g, o each the mean of two
    i0 = sigmoid(x[0] + r[0])
    i1 = sigmoid(x[1] + r[1])
    f0 = sigmoid(x[2] + r[2])
    f1 = sigmoid(x[3] + r[3])
    g0 = tanh(x[4] + r[4])
    g1 = tanh(x[5] + r[5])
    o0 = sigmoid(x[6] + r[6])
    o1 = sigmoid(x[7] + r[7])
    c = 0.5 * (f0 + f1) * state[1] + 0.25 * (i0 + i1) * (g0 + g1)
    return (0.5 * (o0 + o1) * tanh(c), c), (i0, i1, f0, f1, g0, g1, o0, o1)


@triton.jit
def paired_bwd(dstate, saved, state_prev, state):
    i0, i1, f0, f1, g0, g1, o0, o1 = saved
    tanh_c = tanh(state[1])
    dh = dstate[0]
    dc = dstate[1] + dh * 0.5 * (o0 + o1) * (1.0 - tanh_c * tanh_c)
    di = 0.25 * dc * (g0 + g1)
    df = 0.5 * dc * state_prev[1]
    dg = 0.25 * dc * (i0 + i1)
    do = 0.5 * dh * tanh_c
    d = (
        di * i0 * (1.0 - i0), di * i1 * (1.0 - i1), df * f0 * (1.0 - f0), df * f1 * (1.0 - f1),
        dg * (1.0 - g0 * g0), dg * (1.0 - g1 * g1), do * o0 * (1.0 - o0), do * o1 * (1.0 - o1),
    )  # fmt: skip
    return d, d, (tl.zeros_like(dh), 0.5 * dc * (f0 + f1))


@triton.jit
def slstm_fwd(x, r, state):
    # m_t = max(f + m_{t-1}, i);  i' = exp(i - m_t);  f' = exp(f + m_{t-1} - m_t)
    # c_t = f' c_{t-1} + i' z;  n_t = f' n_{t-1} + i';  h_t = o c_t / n_t
    i = x[0] + r[0]
    decayed = x[1] + r[1] + state[3]
    z = tanh(x[2] + r[2])
    o = sigmoid(x[3] + r[3])
    m = tl.maximum(decayed, i)
    i_scaled = tl.exp(i - m)
    f_scaled = tl.exp(decayed - m)
    c = f_scaled * state[1] + i_scaled * z
    n = f_scaled * state[2] + i_scaled
    ratio = c / n
    return (o * ratio, c, n, m), (i_scaled, f_scaled, z, o, ratio, tl.where(decayed > i, 1.0, 0.0))


@triton.jit
def slstm_bwd(dstate, saved, state_prev, state):
    i_scaled, f_scaled, z, o, ratio, kept = saved
    dh = dstate[0]
    through_n = dh * o / state[2]
    dc = dstate[1] + through_n
    dn = dstate[2] - through_n * ratio
    through_i = (dc * z + dn) * i_scaled
    through_f = (dc * state_prev[1] + dn * state_prev[2]) * f_scaled
    dm = dstate[3] - through_i - through_f
    decayed = through_f + kept * dm
    d = (
        through_i + (1.0 - kept) * dm, decayed, dc * i_scaled * (1.0 - z * z), dh * ratio * o * (1.0 - o),
    )  # fmt: skip
    return d, d, (tl.zeros_like(dh), dc * f_scaled, dn * f_scaled, decayed)


def _sum(x: State | None, r: State) -> State:
    return r if x is None else tuple(a + b for a, b in zip(x, r, strict=True))


def _plus(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b


def paired_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    gates = _sum(x, r)
    saved = tuple(torch.tanh(gate) if k in (4, 5) else torch.sigmoid(gate) for k, gate in enumerate(gates))
    i, f, g, o = ((a + b) / 2 for a, b in zip(saved[::2], saved[1::2], strict=True))
    c = f * state[1] + i * g
    return (o * torch.tanh(c), c), saved


def paired_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    i, f, g, o = ((a + b) / 2 for a, b in zip(saved[::2], saved[1::2], strict=True))
    tanh_c = torch.tanh(state[1])
    dc = dstate[1] + dstate[0] * o * (1 - tanh_c**2)
    means = dc * g, dc * state_prev[1], dc * i, dstate[0] * tanh_c
    d = tuple(
        _plus(means[k // 2] / 2, dsaved[k]) * (1 - s**2 if k in (4, 5) else s * (1 - s)) for k, s in enumerate(saved)
    )
    return d, d, (torch.zeros_like(dc), dc * f)


def slstm_step(x: State | None, r: State, state: State, inner: Inner) -> tuple[State, State]:
    i, f, z, o = _sum(x, r)
    decayed = f + state[3]
    z, o = torch.tanh(z), torch.sigmoid(o)
    m = torch.where(decayed > i, decayed, i)
    i_scaled, f_scaled = torch.exp(i - m), torch.exp(decayed - m)
    c = f_scaled * state[1] + i_scaled * z
    n = f_scaled * state[2] + i_scaled
    return (o * c / n, c, n, m), (i_scaled, f_scaled, z, o, c / n, (decayed > i).to(i.dtype))


def slstm_step_backward(
    dstate: State, dsaved: Upstream, saved: State, state_prev: State, state: State, inner: Inner
) -> tuple[State, State, State]:
    i_scaled, f_scaled, z, o, ratio, kept = saved
    through = _plus(dstate[0] * o, dsaved[4]) / state[2]
    dc = dstate[1] + through
    dn = dstate[2] - through * ratio
    through_i = _plus(dc * z + dn, dsaved[0]) * i_scaled
    through_f = _plus(dc * state_prev[1] + dn * state_prev[2], dsaved[1]) * f_scaled
    dm = dstate[3] - through_i - through_f
    decayed = through_f + kept * dm
    d = (
        through_i + (1 - kept) * dm,
        decayed,
        _plus(dc * i_scaled, dsaved[2]) * (1 - z**2),
        _plus(dstate[0] * ratio, dsaved[3]) * o * (1 - o),
    )
    return d, d, (torch.zeros_like(dc), dc * f_scaled, dn * f_scaled, decayed)


WIDE: dict[str, tuple[Cell, Steps]] = {
    cell.name: (cell, steps)
    for cell, steps in (
        (Cell("demo_paired", 8, 2, 8, False, 0, "DEMO_PAIRED", paired_step, paired_step_backward),
         Steps(paired_fwd, paired_bwd)),
        (Cell("demo_slstm", 4, 4, 6, False, 0, "DEMO_SLSTM", slstm_step, slstm_step_backward),
         Steps(slstm_fwd, slstm_bwd)),
    )
}  # fmt: skip


def register() -> None:
    """Add the cells to those that there are, for the whole process."""
    for name, (cell, steps) in WIDE.items():
        fields = Counts.__dataclass_fields__
        CELLS[name], STEPS[name] = cell, steps
        COUNTS[name] = Counts(**{field: getattr(cell, field) for field in fields})


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """`register`, and take them away again."""
    register()
    try:
        yield
    finally:
        for name in WIDE:
            del CELLS[name], STEPS[name], COUNTS[name]
