"""Derived of `fastrnn.cells.rnn_relu` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def rnn_relu_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = relu(v0)
    return (v1,), ()


@triton.jit
def rnn_relu_start(zero):
    return (zero,)


@triton.jit
def rnn_relu_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = state[0] <= 0.0
    v1 = tl.where(v0, 0.0, dstate[0])
    return (v1,), (v1,), (zeros_like(dstate[0]),), ()
