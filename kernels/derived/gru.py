"""Derived of `fastrnn.cells.gru` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def gru_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = sigmoid(v0, FAST)
    v2 = v1 * r[2]
    v3 = x[2] + v2
    v4 = tanh(v3, FAST)
    v5 = x[1] + r[1]
    v6 = sigmoid(v5, FAST)
    v7 = state[0] - v4
    v8 = v6 * v7
    v9 = v4 + v8
    return (v9,), (v1, r[2], v4, v6)


@triton.jit
def gru_start(zero):
    return (zero,)


@triton.jit
def gru_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[3]
    v1 = dstate[0] - v0
    v2 = saved[2] * saved[2]
    v3 = 1.0 - v2
    v4 = v1 * v3
    v5 = v4 * saved[1]
    v6 = v5 * saved[0]
    v7 = 1.0 - saved[0]
    v8 = v6 * v7
    v9 = state_prev[0] - saved[2]
    v10 = dstate[0] * v9
    v11 = v10 * saved[3]
    v12 = 1.0 - saved[3]
    v13 = v11 * v12
    v14 = v4 * saved[0]
    return (v8, v13, v4), (v8, v13, v14), (v0,), ()
