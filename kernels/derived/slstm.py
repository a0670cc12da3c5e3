"""Derived of `fastrnn.cells.slstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def slstm_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[3] + r[3]
    v1 = sigmoid(v0, FAST)
    v2 = x[1] + r[1]
    v3 = tl.where(v2 > 0.0, 0.0, v2)
    v4 = tl.abs(v2)
    v5 = -v4
    v6 = tl.exp(v5)
    v7 = log1p(v6)
    v8 = v3 - v7
    v9 = v8 + state[3]
    v10 = state[2] == 0.0
    v11 = x[0] + r[0]
    v12 = v11 > v9
    v13 = v10 | v12
    v14 = tl.where(v13, v11, v9)
    v15 = v9 - v14
    v16 = tl.where(v15 > 0.0, 0.0, v15)
    v17 = tl.exp(v16)
    v18 = v17 * state[1]
    v19 = v11 - v14
    v20 = tl.exp(v19)
    v21 = x[2] + r[2]
    v22 = tanh(v21, FAST)
    v23 = v20 * v22
    v24 = v18 + v23
    v25 = v1 * v24
    v26 = v17 * state[2]
    v27 = v26 + v20
    v28 = v25 / v27
    return (v28, v24, v27, v14), (v1, v2, v11, v22)


@triton.jit
def slstm_start(zero):
    return (zero, zero, zero, zero)


@triton.jit
def slstm_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = state[0] / state[2]
    v1 = dstate[0] * v0
    v2 = dstate[2] - v1
    v3 = dstate[0] / state[2]
    v4 = v3 * saved[0]
    v5 = dstate[1] + v4
    v6 = v5 * saved[3]
    v7 = v2 + v6
    v8 = saved[2] - state[3]
    v9 = tl.exp(v8)
    v10 = v7 * v9
    v11 = state_prev[2] == 0.0
    v12 = tl.where(saved[1] > 0.0, 0.0, saved[1])
    v13 = tl.abs(saved[1])
    v14 = -v13
    v15 = tl.exp(v14)
    v16 = log1p(v15)
    v17 = v12 - v16
    v18 = v17 + state_prev[3]
    v19 = saved[2] > v18
    v20 = v11 | v19
    v21 = dstate[3] - v10
    v22 = v18 - state[3]
    v23 = v22 <= 0.0
    v24 = v2 * state_prev[2]
    v25 = v5 * state_prev[1]
    v26 = v24 + v25
    v27 = tl.where(v22 > 0.0, 0.0, v22)
    v28 = tl.exp(v27)
    v29 = v26 * v28
    v30 = tl.where(v23, v29, 0.0)
    v31 = v21 - v30
    v32 = tl.where(v20, v31, 0.0)
    v33 = v10 + v32
    v34 = tl.where(v20, 0.0, v31)
    v35 = v30 + v34
    v36 = -saved[1]
    v37 = sigmoid(v36, FAST)
    v38 = v35 * v37
    v39 = v5 * v9
    v40 = saved[3] * saved[3]
    v41 = 1.0 - v40
    v42 = v39 * v41
    v43 = v3 * state[1]
    v44 = v43 * saved[0]
    v45 = 1.0 - saved[0]
    v46 = v44 * v45
    v47 = v5 * v28
    v48 = v2 * v28
    return (v33, v38, v42, v46), (v33, v38, v42, v46), (zeros_like(dstate[0]), v47, v48, v35), ()
