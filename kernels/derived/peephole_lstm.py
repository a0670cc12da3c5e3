"""Derived of `fastrnn.cells.peephole_lstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def peephole_lstm_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[3] + r[3]
    v1 = x[1] + r[1]
    v2 = given[1] * state[1]
    v3 = v1 + v2
    v4 = sigmoid(v3, FAST)
    v5 = v4 * state[1]
    v6 = x[0] + r[0]
    v7 = given[0] * state[1]
    v8 = v6 + v7
    v9 = sigmoid(v8, FAST)
    v10 = x[2] + r[2]
    v11 = tanh(v10, FAST)
    v12 = v9 * v11
    v13 = v5 + v12
    v14 = given[2] * v13
    v15 = v0 + v14
    v16 = sigmoid(v15, FAST)
    v17 = tanh(v13, FAST)
    v18 = v16 * v17
    return (v18, v13), (v4, v9, v11, v16)


@triton.jit
def peephole_lstm_start(zero):
    return (zero, zero)


@triton.jit
def peephole_lstm_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[3]
    v1 = tanh(state[1], FAST)
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = dstate[0] * v1
    v7 = v6 * saved[3]
    v8 = 1.0 - saved[3]
    v9 = v7 * v8
    v10 = v9 * given[2]
    v11 = v5 + v10
    v12 = v11 * saved[2]
    v13 = v12 * saved[1]
    v14 = 1.0 - saved[1]
    v15 = v13 * v14
    v16 = v11 * state_prev[1]
    v17 = v16 * saved[0]
    v18 = 1.0 - saved[0]
    v19 = v17 * v18
    v20 = v11 * saved[1]
    v21 = saved[2] * saved[2]
    v22 = 1.0 - v21
    v23 = v20 * v22
    v24 = v15 * given[0]
    v25 = v11 * saved[0]
    v26 = v24 + v25
    v27 = v19 * given[1]
    v28 = v26 + v27
    v29 = v15 * state_prev[1]
    v30 = v19 * state_prev[1]
    v31 = v9 * state[1]
    return (v15, v19, v23, v9), (v15, v19, v23, v9), (zeros_like(dstate[0]), v28), (v29, v30, v31)
