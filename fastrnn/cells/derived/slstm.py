"""Derived of `fastrnn.cells.slstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def slstm_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    a3 = r[3] if x is None else x[3] + r[3]
    v4 = torch.sigmoid(a3)
    v5 = a1 > 0.0
    v6 = torch.where(v5, 0.0, a1)
    v7 = torch.abs(a1)
    v8 = -v7
    v9 = torch.exp(v8)
    v10 = torch.log1p(v9)
    v11 = v6 - v10
    v12 = v11 + state[3]
    v13 = state[2] == 0.0
    v14 = torch.maximum(v12, a0)
    v15 = torch.where(v13, a0, v14)
    v16 = v12 - v15
    v17 = v16 > 0.0
    v18 = torch.where(v17, 0.0, v16)
    v19 = torch.exp(v18)
    v20 = v19 * state[1]
    v21 = a0 - v15
    v22 = torch.exp(v21)
    v23 = torch.tanh(a2)
    v24 = v22 * v23
    v25 = v20 + v24
    v26 = v4 * v25
    v27 = v19 * state[2]
    v28 = v27 + v22
    v29 = v26 / v28
    return (v29, v25, v28, v15), (v4, a1, a0, v23)


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
    v12 = dstate[3] - v10
    v13 = saved[1] > 0.0
    v14 = torch.where(v13, 0.0, saved[1])
    v15 = torch.abs(saved[1])
    v16 = -v15
    v17 = torch.exp(v16)
    v18 = torch.log1p(v17)
    v19 = v14 - v18
    v20 = v19 + state_prev[3]
    v21 = v20 - state[3]
    v22 = v21 <= 0.0
    v23 = v2 * state_prev[2]
    v24 = v5 * state_prev[1]
    v25 = v23 + v24
    v26 = v21 > 0.0
    v27 = torch.where(v26, 0.0, v21)
    v28 = torch.exp(v27)
    v29 = v25 * v28
    v30 = torch.where(v22, v29, 0.0)
    v31 = v12 - v30
    v32 = torch.where(v11, v31, 0.0)
    v33 = v10 + v32
    v34 = v20 > saved[2]
    v35 = v20 == saved[2]
    v36 = torch.where(v11, 0.0, v31)
    v37 = v36 / 2.0
    v38 = torch.where(v35, v37, v36)
    v39 = torch.where(v34, 0.0, v38)
    v40 = v33 + v39
    v41 = v20 < saved[2]
    v42 = torch.where(v41, 0.0, v38)
    v43 = v30 + v42
    v44 = saved[1] < 0.0
    v45 = torch.where(v44, torch.full_like(dstate[0], 1.0), 0.0)
    v46 = torch.where(v44, torch.full_like(dstate[0], 1.0), -1.0)
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
    return (v40, v51, v55, v59), (v40, v51, v55, v59), (torch.full_like(dstate[0], 0.0), v60, v61, v43), ()


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
    v9 = -v7
    v10 = saved[1] > 0.0
    v11 = torch.where(v10, 0.0, saved[1])
    v12 = torch.abs(saved[1])
    v13 = -v12
    v14 = torch.exp(v13)
    v15 = torch.log1p(v14)
    v16 = v11 - v15
    v17 = v16 + state_prev[3]
    v18 = v17 - state[3]
    v19 = v18 <= 0.0
    v20 = v1 * state_prev[1]
    v21 = v3 * state_prev[2]
    v22 = v20 - v21
    v23 = v18 > 0.0
    v24 = torch.where(v23, 0.0, v18)
    v25 = torch.exp(v24)
    v26 = v22 * v25
    v27 = torch.where(v19, v26, 0.0)
    v28 = v9 - v27
    v29 = torch.where(v8, v28, 0.0)
    v30 = v7 + v29
    v31 = v17 > saved[2]
    v32 = v17 == saved[2]
    v33 = torch.where(v8, 0.0, v28)
    v34 = v33 / 2.0
    v35 = torch.where(v32, v34, v33)
    v36 = torch.where(v31, 0.0, v35)
    v37 = v30 + v36
    v38 = saved[3] * v6
    v39 = -v38
    v40 = state_prev[1] * v25
    v41 = torch.where(v19, v40, 0.0)
    v42 = v39 - v41
    v43 = torch.where(v8, v42, 0.0)
    v44 = v38 + v43
    v45 = torch.where(v8, 0.0, v42)
    v46 = v45 / 2.0
    v47 = torch.where(v32, v46, v45)
    v48 = torch.where(v31, 0.0, v47)
    v49 = v44 + v48
    v50 = -v6
    v51 = state_prev[2] * v25
    v52 = torch.where(v19, v51, 0.0)
    v53 = v50 - v52
    v54 = torch.where(v8, v53, 0.0)
    v55 = v6 + v54
    v56 = torch.where(v8, 0.0, v53)
    v57 = v56 / 2.0
    v58 = torch.where(v32, v57, v56)
    v59 = torch.where(v31, 0.0, v58)
    v60 = v55 + v59
    v61 = torch.where(v8, torch.full_like(state[0], 1.0), 0.0)
    v62 = torch.where(v8, torch.full_like(state[0], 0.0), 1.0)
    v63 = v62 / 2.0
    v64 = torch.where(v32, v63, v62)
    v65 = torch.where(v31, 0.0, v64)
    v66 = v61 + v65
    v67 = v17 < saved[2]
    v68 = torch.where(v67, 0.0, v35)
    v69 = v27 + v68
    v70 = saved[1] < 0.0
    v71 = torch.where(v70, torch.full_like(state[0], 1.0), 0.0)
    v72 = torch.where(v70, torch.full_like(state[0], 1.0), -1.0)
    v73 = v14 + 1.0
    v74 = v14 / v73
    v75 = v72 * v74
    v76 = v71 - v75
    v77 = v69 * v76
    v78 = torch.where(v67, 0.0, v47)
    v79 = v41 + v78
    v80 = v79 * v76
    v81 = torch.where(v67, 0.0, v58)
    v82 = v52 + v81
    v83 = v82 * v76
    v84 = torch.where(v67, 0.0, v64)
    v85 = v84 * v76
    v86 = v1 * v6
    v87 = saved[3] * saved[3]
    v88 = 1.0 - v87
    v89 = v86 * v88
    v90 = v6 * v88
    v91 = v0 * state[1]
    v92 = v91 * saved[0]
    v93 = 1.0 - saved[0]
    v94 = v92 * v93
    v95 = v1 * v25
    v96 = v3 * v25
    v97 = -v96
    return ((v37, v49, v60, v66), (v77, v80, v83, v85), (v89, v90, None, None), (v94, None, None, None)), ((v37, v49, v60, v66), (v77, v80, v83, v85), (v89, v90, None, None), (v94, None, None, None)), ((None, None, None, None), (v95, v25, None, None), (v97, None, v25, None), (v69, v79, v82, v84)), ()


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
    v13 = dstate[3] - v10
    v14 = saved[1] > 0.0
    v15 = torch.where(v14, 0.0, saved[1])
    v16 = torch.abs(saved[1])
    v17 = -v16
    v18 = torch.exp(v17)
    v19 = torch.log1p(v18)
    v20 = v15 - v19
    v21 = v20 + state_prev[3]
    v22 = v21 - state[3]
    v23 = v22 > 0.0
    v24 = v2 * state_prev[2]
    v25 = v5 * state_prev[1]
    v26 = v24 + v25
    v27 = torch.where(v23, 0.0, v22)
    v28 = torch.exp(v27)
    v29 = v26 * v28
    v30 = torch.where(v23, 0.0, v29)
    v31 = v13 - v30
    v32 = torch.where(v12, v31, 0.0)
    v33 = v11 + v32
    v34 = v21 > saved[2]
    v35 = v21 == saved[2]
    v36 = torch.where(v12, 0.0, v31)
    v37 = v36 / 2.0
    v38 = torch.where(v35, v37, v36)
    v39 = torch.where(v34, 0.0, v38)
    v40 = v33 + v39
    v41 = v21 < saved[2]
    v42 = torch.where(v41, 0.0, v38)
    v43 = v30 + v42
    v44 = -v43
    v45 = v18 + 1.0
    v46 = v44 / v45
    v47 = v46 * v18
    v48 = torch.sign(saved[1])
    v49 = v47 * v48
    v50 = dsaved[1] - v49
    v51 = torch.where(v14, 0.0, v43)
    v52 = v50 + v51
    v53 = v5 * v9
    v54 = dsaved[3] + v53
    v55 = saved[3] * saved[3]
    v56 = 1.0 - v55
    v57 = v54 * v56
    v58 = v3 * state[1]
    v59 = dsaved[0] + v58
    v60 = v59 * saved[0]
    v61 = 1.0 - saved[0]
    v62 = v60 * v61
    v63 = v5 * v28
    v64 = v2 * v28
    return (v40, v52, v57, v62), (v40, v52, v57, v62), (torch.full_like(dstate[0], 0.0), v63, v64, v43), ()
