"""Derived of `fastrnn.cells.lstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def lstm_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[3] + r[3]
    v1 = sigmoid(v0, FAST)
    v2 = x[1] + r[1]
    v3 = sigmoid(v2, FAST)
    v4 = v3 * state[1]
    v5 = x[0] + r[0]
    v6 = sigmoid(v5, FAST)
    v7 = x[2] + r[2]
    v8 = tanh(v7, FAST)
    v9 = v6 * v8
    v10 = v4 + v9
    v11 = tanh(v10, FAST)
    v12 = v1 * v11
    return (v12, v10), (v1, v3, v6, v8)


@triton.jit
def lstm_start(zero):
    return (zero, zero)


@triton.jit
def lstm_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[0]
    v1 = tanh(state[1], FAST)
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = v5 * saved[3]
    v7 = v6 * saved[2]
    v8 = 1.0 - saved[2]
    v9 = v7 * v8
    v10 = v5 * state_prev[1]
    v11 = v10 * saved[1]
    v12 = 1.0 - saved[1]
    v13 = v11 * v12
    v14 = v5 * saved[2]
    v15 = saved[3] * saved[3]
    v16 = 1.0 - v15
    v17 = v14 * v16
    v18 = dstate[0] * v1
    v19 = v18 * saved[0]
    v20 = 1.0 - saved[0]
    v21 = v19 * v20
    v22 = v5 * saved[1]
    return (v9, v13, v17, v21), (v9, v13, v17, v21), (zeros_like(dstate[0]), v22), ()
