"""Derived of `fastrnn.cells.janet` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def janet_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = sigmoid(v0, FAST)
    v2 = v1 * state[0]
    v3 = 1.0 - v0
    v4 = sigmoid(v3, FAST)
    v5 = x[1] + r[1]
    v6 = tanh(v5, FAST)
    v7 = v4 * v6
    v8 = v2 + v7
    return (v8,), (v0, v6)


@triton.jit
def janet_start(zero):
    return (zero,)


@triton.jit
def janet_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * state_prev[0]
    v1 = sigmoid(saved[0], FAST)
    v2 = v0 * v1
    v3 = 1.0 - v1
    v4 = v2 * v3
    v5 = dstate[0] * saved[1]
    v6 = 1.0 - saved[0]
    v7 = sigmoid(v6, FAST)
    v8 = v5 * v7
    v9 = 1.0 - v7
    v10 = v8 * v9
    v11 = v4 - v10
    v12 = dstate[0] * v7
    v13 = saved[1] * saved[1]
    v14 = 1.0 - v13
    v15 = v12 * v14
    v16 = dstate[0] * v1
    return (v11, v15), (v11, v15), (v16,), ()
