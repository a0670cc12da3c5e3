"""Derived of `fastrnn.cells.slstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def slstm_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    a3 = r[3] if x is None else x[3] + r[3]
    v4 = torch.sigmoid(a3)
    v5 = torch.clamp(a1, max=0.0)
    v6 = torch.abs(a1)
    v7 = -v6
    v8 = torch.exp(v7)
    v9 = torch.log1p(v8)
    v10 = v5 - v9
    v11 = v10 + state[3]
    v12 = state[2] == 0.0
    v13 = a0 > v11
    v14 = v12 | v13
    v15 = torch.where(v14, a0, v11)
    v16 = v11 - v15
    v17 = torch.clamp(v16, max=0.0)
    v18 = torch.exp(v17)
    v19 = v18 * state[1]
    v20 = a0 - v15
    v21 = torch.exp(v20)
    v22 = torch.tanh(a2)
    v23 = v21 * v22
    v24 = v19 + v23
    v25 = v4 * v24
    v26 = v18 * state[2]
    v27 = v26 + v21
    v28 = v25 / v27
    return (v28, v24, v27, v15), (v4, a1, a0, v22)


def slstm_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state[0] / state[2]
    v1 = dstate[0] * v0
    v2 = dstate[2] - v1
    v3 = dstate[0] / state[2]
    v4 = v3 * saved[0]
    v5 = dstate[1] + v4
    v6 = v5 * saved[3]
    v7 = v2 + v6
    v8 = saved[2] - state[3]
    v9 = torch.exp(v8)
    v10 = v7 * v9
    v11 = state_prev[2] == 0.0
    v12 = torch.clamp(saved[1], max=0.0)
    v13 = torch.abs(saved[1])
    v14 = -v13
    v15 = torch.exp(v14)
    v16 = torch.log1p(v15)
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
    v27 = torch.clamp(v22, max=0.0)
    v28 = torch.exp(v27)
    v29 = v26 * v28
    v30 = torch.where(v23, v29, 0.0)
    v31 = v21 - v30
    v32 = torch.where(v20, v31, 0.0)
    v33 = v10 + v32
    v34 = torch.where(v20, 0.0, v31)
    v35 = v30 + v34
    v36 = -saved[1]
    v37 = torch.sigmoid(v36)
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
    return (v33, v38, v42, v46), (v33, v38, v42, v46), (torch.full_like(dstate[0], 0.0), v47, v48, v35), ()


def slstm_coefficients(saved, state_prev, state, given):
    v0 = 1.0 / state[2]
    v1 = v0 * saved[0]
    v2 = v1 * saved[3]
    v3 = state[0] / state[2]
    v4 = v2 - v3
    v5 = saved[2] - state[3]
    v6 = torch.exp(v5)
    v7 = v4 * v6
    v8 = state_prev[2] == 0.0
    v9 = torch.clamp(saved[1], max=0.0)
    v10 = torch.abs(saved[1])
    v11 = -v10
    v12 = torch.exp(v11)
    v13 = torch.log1p(v12)
    v14 = v9 - v13
    v15 = v14 + state_prev[3]
    v16 = saved[2] > v15
    v17 = v8 | v16
    v18 = -v7
    v19 = v15 - state[3]
    v20 = v19 <= 0.0
    v21 = v1 * state_prev[1]
    v22 = v3 * state_prev[2]
    v23 = v21 - v22
    v24 = torch.clamp(v19, max=0.0)
    v25 = torch.exp(v24)
    v26 = v23 * v25
    v27 = torch.where(v20, v26, 0.0)
    v28 = v18 - v27
    v29 = torch.where(v17, v28, 0.0)
    v30 = v7 + v29
    v31 = saved[3] * v6
    v32 = -v31
    v33 = state_prev[1] * v25
    v34 = torch.where(v20, v33, 0.0)
    v35 = v32 - v34
    v36 = torch.where(v17, v35, 0.0)
    v37 = v31 + v36
    v38 = -v6
    v39 = state_prev[2] * v25
    v40 = torch.where(v20, v39, 0.0)
    v41 = v38 - v40
    v42 = torch.where(v17, v41, 0.0)
    v43 = v6 + v42
    v44 = torch.where(v17, torch.full_like(state[0], 1.0), 0.0)
    v45 = torch.where(v17, 0.0, v28)
    v46 = v27 + v45
    v47 = -saved[1]
    v48 = torch.sigmoid(v47)
    v49 = v46 * v48
    v50 = torch.where(v17, 0.0, v35)
    v51 = v34 + v50
    v52 = v51 * v48
    v53 = torch.where(v17, 0.0, v41)
    v54 = v40 + v53
    v55 = v54 * v48
    v56 = torch.where(v17, torch.full_like(state[0], 0.0), 1.0)
    v57 = v56 * v48
    v58 = v1 * v6
    v59 = saved[3] * saved[3]
    v60 = 1.0 - v59
    v61 = v58 * v60
    v62 = v6 * v60
    v63 = v0 * state[1]
    v64 = v63 * saved[0]
    v65 = 1.0 - saved[0]
    v66 = v64 * v65
    v67 = v1 * v25
    v68 = v3 * v25
    v69 = -v68
    return ((v30, v37, v43, v44), (v49, v52, v55, v57), (v61, v62, None, None), (v66, None, None, None)), ((v30, v37, v43, v44), (v49, v52, v55, v57), (v61, v62, None, None), (v66, None, None, None)), ((None, None, None, None), (v67, v25, None, None), (v69, None, v25, None), (v46, v51, v54, v56)), ()


def slstm_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state[0] / state[2]
    v1 = dstate[0] * v0
    v2 = dstate[2] - v1
    v3 = dstate[0] / state[2]
    v4 = v3 * saved[0]
    v5 = dstate[1] + v4
    v6 = v5 * saved[3]
    v7 = v2 + v6
    v8 = saved[2] - state[3]
    v9 = torch.exp(v8)
    v10 = v7 * v9
    v11 = dsaved[2] + v10
    v12 = state_prev[2] == 0.0
    v13 = torch.clamp(saved[1], max=0.0)
    v14 = torch.abs(saved[1])
    v15 = -v14
    v16 = torch.exp(v15)
    v17 = torch.log1p(v16)
    v18 = v13 - v17
    v19 = v18 + state_prev[3]
    v20 = saved[2] > v19
    v21 = v12 | v20
    v22 = dstate[3] - v10
    v23 = v19 - state[3]
    v24 = v23 <= 0.0
    v25 = v2 * state_prev[2]
    v26 = v5 * state_prev[1]
    v27 = v25 + v26
    v28 = torch.clamp(v23, max=0.0)
    v29 = torch.exp(v28)
    v30 = v27 * v29
    v31 = torch.where(v24, v30, 0.0)
    v32 = v22 - v31
    v33 = torch.where(v21, v32, 0.0)
    v34 = v11 + v33
    v35 = torch.where(v21, 0.0, v32)
    v36 = v31 + v35
    v37 = -v36
    v38 = v16 + 1.0
    v39 = v37 / v38
    v40 = v39 * v16
    v41 = torch.sign(saved[1])
    v42 = v40 * v41
    v43 = dsaved[1] - v42
    v44 = saved[1] <= 0.0
    v45 = torch.where(v44, v36, 0.0)
    v46 = v43 + v45
    v47 = v5 * v9
    v48 = dsaved[3] + v47
    v49 = saved[3] * saved[3]
    v50 = 1.0 - v49
    v51 = v48 * v50
    v52 = v3 * state[1]
    v53 = dsaved[0] + v52
    v54 = v53 * saved[0]
    v55 = 1.0 - saved[0]
    v56 = v54 * v55
    v57 = v5 * v29
    v58 = v2 * v29
    return (v34, v46, v51, v56), (v34, v46, v51, v56), (torch.full_like(dstate[0], 0.0), v57, v58, v36), ()
