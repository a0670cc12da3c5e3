"""Derived of `fastrnn.cells.nas` by `python -m fastrnn.cells.generate`: change that, then run this."""

import triton
import triton.language as tl

from fastrnn.kernels.triton.pointwise import expm1, log1p, maximum, minimum, relu, sigmoid, sign, tanh, zeros_like


@triton.jit
def nas_fwd(x, r, state, given, FAST: tl.constexpr):
    v0 = x[0] + r[0]
    v1 = sigmoid(v0, FAST)
    v2 = x[1] + r[1]
    v3 = relu(v2)
    v4 = v1 * v3
    v5 = tanh(v4, FAST)
    v6 = v5 + state[1]
    v7 = tanh(v6, FAST)
    v8 = x[2] + r[2]
    v9 = sigmoid(v8, FAST)
    v10 = x[3] * r[3]
    v11 = relu(v10)
    v12 = v9 + v11
    v13 = tanh(v12, FAST)
    v14 = v7 * v13
    v15 = x[4] + r[4]
    v16 = tanh(v15, FAST)
    v17 = x[5] + r[5]
    v18 = sigmoid(v17, FAST)
    v19 = v16 * v18
    v20 = tanh(v19, FAST)
    v21 = x[6] + r[6]
    v22 = tanh(v21, FAST)
    v23 = x[7] + r[7]
    v24 = sigmoid(v23, FAST)
    v25 = v22 + v24
    v26 = sigmoid(v25, FAST)
    v27 = v20 + v26
    v28 = tanh(v27, FAST)
    v29 = v14 * v28
    v30 = tanh(v29, FAST)
    return (v30, v14), (v1, v3, v9, x[3], r[3], v16, v18, v22, v24)


@triton.jit
def nas_start(zero):
    return (zero, zero)


@triton.jit
def nas_bwd(dstate, saved, state_prev, state, given, FAST: tl.constexpr):
    v0 = state[0] * state[0]
    v1 = 1.0 - v0
    v2 = dstate[0] * v1
    v3 = saved[5] * saved[6]
    v4 = tanh(v3, FAST)
    v5 = saved[7] + saved[8]
    v6 = sigmoid(v5, FAST)
    v7 = v4 + v6
    v8 = tanh(v7, FAST)
    v9 = v2 * v8
    v10 = dstate[1] + v9
    v11 = saved[3] * saved[4]
    v12 = relu(v11)
    v13 = saved[2] + v12
    v14 = tanh(v13, FAST)
    v15 = v10 * v14
    v16 = saved[0] * saved[1]
    v17 = tanh(v16, FAST)
    v18 = v17 + state_prev[1]
    v19 = tanh(v18, FAST)
    v20 = v19 * v19
    v21 = 1.0 - v20
    v22 = v15 * v21
    v23 = v17 * v17
    v24 = 1.0 - v23
    v25 = v22 * v24
    v26 = v25 * saved[1]
    v27 = v26 * saved[0]
    v28 = 1.0 - saved[0]
    v29 = v27 * v28
    v30 = saved[1] <= 0.0
    v31 = v25 * saved[0]
    v32 = tl.where(v30, 0.0, v31)
    v33 = v10 * v19
    v34 = v14 * v14
    v35 = 1.0 - v34
    v36 = v33 * v35
    v37 = v36 * saved[2]
    v38 = 1.0 - saved[2]
    v39 = v37 * v38
    v40 = v12 <= 0.0
    v41 = tl.where(v40, 0.0, v36)
    v42 = v41 * saved[4]
    v43 = v2 * state[1]
    v44 = v8 * v8
    v45 = 1.0 - v44
    v46 = v43 * v45
    v47 = v4 * v4
    v48 = 1.0 - v47
    v49 = v46 * v48
    v50 = v49 * saved[6]
    v51 = saved[5] * saved[5]
    v52 = 1.0 - v51
    v53 = v50 * v52
    v54 = v49 * saved[5]
    v55 = v54 * saved[6]
    v56 = 1.0 - saved[6]
    v57 = v55 * v56
    v58 = v46 * v6
    v59 = 1.0 - v6
    v60 = v58 * v59
    v61 = saved[7] * saved[7]
    v62 = 1.0 - v61
    v63 = v60 * v62
    v64 = v60 * saved[8]
    v65 = 1.0 - saved[8]
    v66 = v64 * v65
    v67 = v41 * saved[3]
    return (v29, v32, v39, v42, v53, v57, v63, v66), (v29, v32, v39, v67, v53, v57, v63, v66), (zeros_like(dstate[0]), v22), ()
