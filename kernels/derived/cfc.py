"""Derived of `fastrnn.cells.cfc` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def cfc_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = tanh(v0, FAST)
    v2 = x[2] + r[2]
    v3 = v2 * given[0]
    v4 = x[3] + r[3]
    v5 = v3 + v4
    v6 = sigmoid(v5, FAST)
    v7 = x[1] + r[1]
    v8 = tanh(v7, FAST)
    v9 = v8 - v1
    v10 = v6 * v9
    v11 = v1 + v10
    return (v11,), (v1, v6, v8)


@triton.jit
def cfc_start(zero):
    return (zero,)


@triton.jit
def cfc_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = dstate[0] * saved[1]
    v1 = dstate[0] - v0
    v2 = saved[0] * saved[0]
    v3 = 1.0 - v2
    v4 = v1 * v3
    v5 = saved[2] * saved[2]
    v6 = 1.0 - v5
    v7 = v0 * v6
    v8 = saved[2] - saved[0]
    v9 = dstate[0] * v8
    v10 = v9 * saved[1]
    v11 = 1.0 - saved[1]
    v12 = v10 * v11
    v13 = v12 * given[0]
    return (v4, v7, v13, v12), (v4, v7, v13, v12), (zeros_like(dstate[0]),), ()
