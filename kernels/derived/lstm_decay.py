"""Derived of `fastrnn.cells.lstm_decay` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def lstm_decay_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[3] + r[3]
    v1 = sigmoid(v0, FAST)
    v2 = x[1] + r[1]
    v3 = sigmoid(v2, FAST)
    v4 = given[0] * given[2]
    v5 = v4 + given[1]
    v6 = relu(v5)
    v7 = -v6
    v8 = tl.exp(v7)
    v9 = v8 * state[1]
    v10 = v3 * v9
    v11 = x[0] + r[0]
    v12 = sigmoid(v11, FAST)
    v13 = x[2] + r[2]
    v14 = tanh(v13, FAST)
    v15 = v12 * v14
    v16 = v10 + v15
    v17 = tanh(v16, FAST)
    v18 = v1 * v17
    return (v18, v16), (v1, v3, v12, v14)


@triton.jit
def lstm_decay_start(zero):
    return (zero, zero)


@triton.jit
def lstm_decay_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
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
    v10 = given[0] * given[2]
    v11 = v10 + given[1]
    v12 = relu(v11)
    v13 = -v12
    v14 = tl.exp(v13)
    v15 = v14 * state_prev[1]
    v16 = v5 * v15
    v17 = v16 * saved[1]
    v18 = 1.0 - saved[1]
    v19 = v17 * v18
    v20 = v5 * saved[2]
    v21 = saved[3] * saved[3]
    v22 = 1.0 - v21
    v23 = v20 * v22
    v24 = dstate[0] * v1
    v25 = v24 * saved[0]
    v26 = 1.0 - saved[0]
    v27 = v25 * v26
    v28 = v5 * saved[1]
    v29 = v28 * v14
    v30 = v12 <= 0.0
    v31 = v28 * state_prev[1]
    v32 = v31 * v14
    v33 = -v32
    v34 = tl.where(v30, 0.0, v33)
    v35 = v34 * given[2]
    return (v9, v19, v23, v27), (v9, v19, v23, v27), (zeros_like(dstate[0]), v29), (v35, v34)
