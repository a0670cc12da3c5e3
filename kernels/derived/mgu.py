"""Derived of `fastrnn.cells.mgu` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def mgu_inner_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = sigmoid(v0, FAST)
    v2 = v1 * state[0]
    return v2


@triton.jit
def mgu_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = sigmoid(v0, FAST)
    v2 = x[1] + r[1]
    v3 = tanh(v2, FAST)
    v4 = v3 - state[0]
    v5 = v1 * v4
    v6 = state[0] + v5
    return (v6,), (v1, v3)


@triton.jit
def mgu_start(zero):
    return (zero,)


@triton.jit
def mgu_inner_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[0]
    v1 = saved[1] * saved[1]
    v2 = 1.0 - v1
    v3 = v0 * v2
    return v3


@triton.jit
def mgu_bwd(dstate, saved, state_prev, state, given, through, FAST: tl.constexpr):
    v0 = saved[1] - state_prev[0]
    v1 = dstate[0] * v0
    v2 = through * state_prev[0]
    v3 = v1 + v2
    v4 = v3 * saved[0]
    v5 = 1.0 - saved[0]
    v6 = v4 * v5
    v7 = dstate[0] * saved[0]
    v8 = saved[1] * saved[1]
    v9 = 1.0 - v8
    v10 = v7 * v9
    v11 = dstate[0] - v7
    v12 = through * saved[0]
    v13 = v11 + v12
    return (v6, v10), (v6, v10), (v13,), ()
