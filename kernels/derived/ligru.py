"""Derived of `fastrnn.cells.ligru` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def ligru_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[1] + r[1]
    v1 = relu(v0)
    v2 = x[0] + r[0]
    v3 = sigmoid(v2, FAST)
    v4 = state[0] - v1
    v5 = v3 * v4
    v6 = v1 + v5
    return (v6,), (v1, v3)


@triton.jit
def ligru_start(zero):
    return (zero,)


@triton.jit
def ligru_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = state_prev[0] - saved[0]
    v1 = dstate[0] * v0
    v2 = v1 * saved[1]
    v3 = 1.0 - saved[1]
    v4 = v2 * v3
    v5 = saved[0] <= 0.0
    v6 = dstate[0] * saved[1]
    v7 = dstate[0] - v6
    v8 = tl.where(v5, 0.0, v7)
    return (v4, v8), (v4, v8), (v6,), ()
