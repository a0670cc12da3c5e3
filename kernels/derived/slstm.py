"""Derived of `fastrnn.cells.slstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh


@triton.jit
def slstm_fwd(x, r, state, given):
    v0 = x[3] + r[3]
    v1 = sigmoid(v0)
    v2 = x[1] + r[1]
    v3 = v2 > 0.0
    v4 = tl.where(v3, 0.0, v2)
    v5 = tl.abs(v2)
    v6 = -v5
    v7 = tl.exp(v6)
    v8 = log1p(v7)
    v9 = v4 - v8
    v10 = v9 + state[3]
    v11 = state[2] == 0.0
    v12 = x[0] + r[0]
    v13 = maximum(v10, v12)
    v14 = tl.where(v11, v12, v13)
    v15 = v10 - v14
    v16 = v15 > 0.0
    v17 = tl.where(v16, 0.0, v15)
    v18 = tl.exp(v17)
    v19 = v18 * state[1]
    v20 = v12 - v14
    v21 = tl.exp(v20)
    v22 = x[2] + r[2]
    v23 = tanh(v22)
    v24 = v21 * v23
    v25 = v19 + v24
    v26 = v1 * v25
    v27 = v18 * state[2]
    v28 = v27 + v21
    v29 = v26 / v28
    return (v29, v25, v28, v14), (v1, v2, v12, v23)


@triton.jit
def slstm_start(zero):
    return (zero, zero, zero, zero)


@triton.jit
def slstm_bwd(dstate, saved, state_prev, state, given):
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
    v12 = dstate[3] - v10
    v13 = saved[1] > 0.0
    v14 = tl.where(v13, 0.0, saved[1])
    v15 = tl.abs(saved[1])
    v16 = -v15
    v17 = tl.exp(v16)
    v18 = log1p(v17)
    v19 = v14 - v18
    v20 = v19 + state_prev[3]
    v21 = v20 - state[3]
    v22 = v21 <= 0.0
    v23 = v2 * state_prev[2]
    v24 = v5 * state_prev[1]
    v25 = v23 + v24
    v26 = v21 > 0.0
    v27 = tl.where(v26, 0.0, v21)
    v28 = tl.exp(v27)
    v29 = v25 * v28
    v30 = tl.where(v22, v29, 0.0)
    v31 = v12 - v30
    v32 = tl.where(v11, v31, 0.0)
    v33 = v10 + v32
    v34 = v20 > saved[2]
    v35 = v20 == saved[2]
    v36 = tl.where(v11, 0.0, v31)
    v37 = v36 / 2.0
    v38 = tl.where(v35, v37, v36)
    v39 = tl.where(v34, 0.0, v38)
    v40 = v33 + v39
    v41 = v20 < saved[2]
    v42 = tl.where(v41, 0.0, v38)
    v43 = v30 + v42
    v44 = saved[1] < 0.0
    v45 = tl.where(v44, tl.zeros_like(dstate[0]) + 1.0, 0.0)
    v46 = tl.where(v44, tl.zeros_like(dstate[0]) + 1.0, -1.0)
    v47 = v17 + 1.0
    v48 = v17 / v47
    v49 = v46 * v48
    v50 = v45 - v49
    v51 = v43 * v50
    v52 = v5 * v9
    v53 = saved[3] * saved[3]
    v54 = 1.0 - v53
    v55 = v52 * v54
    v56 = v3 * state[1]
    v57 = v56 * saved[0]
    v58 = 1.0 - saved[0]
    v59 = v57 * v58
    v60 = v5 * v28
    v61 = v2 * v28
    return (v40, v51, v55, v59), (v40, v51, v55, v59), (tl.zeros_like(dstate[0]), v60, v61, v43), ()
