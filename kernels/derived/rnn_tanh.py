"""Derived of `fastrnn.cells.rnn_tanh` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def rnn_tanh_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = tanh(v0, FAST)
    return (v1,), ()


@triton.jit
def rnn_tanh_start(zero):
    return (zero,)


@triton.jit
def rnn_tanh_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = state[0] * state[0]
    v1 = 1.0 - v0
    v2 = dstate[0] * v1
    return (v2,), (v2,), (zeros_like(dstate[0]),), ()
