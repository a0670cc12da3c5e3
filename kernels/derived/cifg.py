"""Derived of `fastrnn.cells.cifg` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def cifg_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[2] + r[2]
    v1 = sigmoid(v0, FAST)
    v2 = x[0] + r[0]
    v3 = sigmoid(v2, FAST)
    v4 = v3 * state[1]
    v5 = 1.0 - v3
    v6 = x[1] + r[1]
    v7 = tanh(v6, FAST)
    v8 = v5 * v7
    v9 = v4 + v8
    v10 = tanh(v9, FAST)
    v11 = v1 * v10
    return (v11, v9), (v1, v3, v7)


@triton.jit
def cifg_start(zero):
    return (zero, zero)


@triton.jit
def cifg_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[0]
    v1 = tanh(state[1], FAST)
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = v5 * state_prev[1]
    v7 = v5 * saved[2]
    v8 = v6 - v7
    v9 = v8 * saved[1]
    v10 = 1.0 - saved[1]
    v11 = v9 * v10
    v12 = v5 * v10
    v13 = saved[2] * saved[2]
    v14 = 1.0 - v13
    v15 = v12 * v14
    v16 = dstate[0] * v1
    v17 = v16 * saved[0]
    v18 = 1.0 - saved[0]
    v19 = v17 * v18
    v20 = v5 * saved[1]
    return (v11, v15, v19), (v11, v15, v19), (zeros_like(dstate[0]), v20), ()
