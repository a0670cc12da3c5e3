"""Derived of `fastrnn.cells.gru_textbook` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def gru_textbook_inner_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = sigmoid(v0, FAST)
    v2 = v1 * state[0]
    return v2


@triton.jit
def gru_textbook_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[2] + r[2]
    v1 = tanh(v0, FAST)
    v2 = x[1] + r[1]
    v3 = sigmoid(v2, FAST)
    v4 = state[0] - v1
    v5 = v3 * v4
    v6 = v1 + v5
    v7 = x[0] + r[0]
    v8 = sigmoid(v7, FAST)
    return (v6,), (v1, v3, v8)


@triton.jit
def gru_textbook_start(zero):
    return (zero,)


@triton.jit
def gru_textbook_inner_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[1]
    v1 = dstate[0] - v0
    v2 = saved[0] * saved[0]
    v3 = 1.0 - v2
    v4 = v1 * v3
    return v4


@triton.jit
def gru_textbook_bwd(dstate, saved, state_prev, state, given, through, FAST: tl.constexpr):
    v0 = through * state_prev[0]
    v1 = v0 * saved[2]
    v2 = 1.0 - saved[2]
    v3 = v1 * v2
    v4 = state_prev[0] - saved[0]
    v5 = dstate[0] * v4
    v6 = v5 * saved[1]
    v7 = 1.0 - saved[1]
    v8 = v6 * v7
    v9 = dstate[0] * saved[1]
    v10 = dstate[0] - v9
    v11 = saved[0] * saved[0]
    v12 = 1.0 - v11
    v13 = v10 * v12
    v14 = through * saved[2]
    v15 = v9 + v14
    return (v3, v8, v13), (v3, v8, v13), (v15,), ()
