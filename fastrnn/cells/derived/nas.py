"""Derived of `fastrnn.cells.nas` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


nas_reach = ([True, True], [[False, False], [True, True]])


def nas_forward(x, r, state, given, inner):
    v0 = x[0] + r[0]
    v1 = torch.sigmoid(v0)
    v2 = x[1] + r[1]
    v3 = torch.relu(v2)
    v4 = v1 * v3
    v5 = torch.tanh(v4)
    v6 = v5 + state[1]
    v7 = torch.tanh(v6)
    v8 = x[2] + r[2]
    v9 = torch.sigmoid(v8)
    v10 = x[3] * r[3]
    v11 = torch.relu(v10)
    v12 = v9 + v11
    v13 = torch.tanh(v12)
    v14 = v7 * v13
    v15 = x[4] + r[4]
    v16 = torch.tanh(v15)
    v17 = x[5] + r[5]
    v18 = torch.sigmoid(v17)
    v19 = v16 * v18
    v20 = torch.tanh(v19)
    v21 = x[6] + r[6]
    v22 = torch.tanh(v21)
    v23 = x[7] + r[7]
    v24 = torch.sigmoid(v23)
    v25 = v22 + v24
    v26 = torch.sigmoid(v25)
    v27 = v20 + v26
    v28 = torch.tanh(v27)
    v29 = v14 * v28
    v30 = torch.tanh(v29)
    return (v30, v14), (v1, v3, v9, x[3], r[3], v16, v18, v22, v24)


def nas_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state[0] * state[0]
    v1 = 1.0 - v0
    v2 = dstate[0] * v1
    v3 = saved[5] * saved[6]
    v4 = torch.tanh(v3)
    v5 = saved[7] + saved[8]
    v6 = torch.sigmoid(v5)
    v7 = v4 + v6
    v8 = torch.tanh(v7)
    v9 = v2 * v8
    v10 = dstate[1] + v9
    v11 = saved[3] * saved[4]
    v12 = torch.relu(v11)
    v13 = saved[2] + v12
    v14 = torch.tanh(v13)
    v15 = v10 * v14
    v16 = saved[0] * saved[1]
    v17 = torch.tanh(v16)
    v18 = v17 + state_prev[1]
    v19 = torch.tanh(v18)
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
    v32 = torch.where(v30, 0.0, v31)
    v33 = v10 * v19
    v34 = v14 * v14
    v35 = 1.0 - v34
    v36 = v33 * v35
    v37 = v36 * saved[2]
    v38 = 1.0 - saved[2]
    v39 = v37 * v38
    v40 = v12 <= 0.0
    v41 = torch.where(v40, 0.0, v36)
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
    return (v29, v32, v39, v42, v53, v57, v63, v66), (v29, v32, v39, v67, v53, v57, v63, v66), (torch.full_like(dstate[0], 0.0), v22), ()


def nas_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state[0] * state[0]
    v1 = 1.0 - v0
    v2 = dstate[0] * v1
    v3 = saved[5] * saved[6]
    v4 = torch.tanh(v3)
    v5 = saved[7] + saved[8]
    v6 = torch.sigmoid(v5)
    v7 = v4 + v6
    v8 = torch.tanh(v7)
    v9 = v2 * v8
    v10 = dstate[1] + v9
    v11 = saved[3] * saved[4]
    v12 = torch.relu(v11)
    v13 = saved[2] + v12
    v14 = torch.tanh(v13)
    v15 = v10 * v14
    v16 = saved[0] * saved[1]
    v17 = torch.tanh(v16)
    v18 = v17 + state_prev[1]
    v19 = torch.tanh(v18)
    v20 = v19 * v19
    v21 = 1.0 - v20
    v22 = v15 * v21
    v23 = v17 * v17
    v24 = 1.0 - v23
    v25 = v22 * v24
    v26 = v25 * saved[1]
    v27 = dsaved[0] + v26
    v28 = v27 * saved[0]
    v29 = 1.0 - saved[0]
    v30 = v28 * v29
    v31 = saved[1] <= 0.0
    v32 = v25 * saved[0]
    v33 = dsaved[1] + v32
    v34 = torch.where(v31, 0.0, v33)
    v35 = v10 * v19
    v36 = v14 * v14
    v37 = 1.0 - v36
    v38 = v35 * v37
    v39 = dsaved[2] + v38
    v40 = v39 * saved[2]
    v41 = 1.0 - saved[2]
    v42 = v40 * v41
    v43 = v12 <= 0.0
    v44 = torch.where(v43, 0.0, v38)
    v45 = v44 * saved[4]
    v46 = dsaved[3] + v45
    v47 = v2 * state[1]
    v48 = v8 * v8
    v49 = 1.0 - v48
    v50 = v47 * v49
    v51 = v4 * v4
    v52 = 1.0 - v51
    v53 = v50 * v52
    v54 = v53 * saved[6]
    v55 = dsaved[5] + v54
    v56 = saved[5] * saved[5]
    v57 = 1.0 - v56
    v58 = v55 * v57
    v59 = v53 * saved[5]
    v60 = dsaved[6] + v59
    v61 = v60 * saved[6]
    v62 = 1.0 - saved[6]
    v63 = v61 * v62
    v64 = v50 * v6
    v65 = 1.0 - v6
    v66 = v64 * v65
    v67 = dsaved[7] + v66
    v68 = saved[7] * saved[7]
    v69 = 1.0 - v68
    v70 = v67 * v69
    v71 = dsaved[8] + v66
    v72 = v71 * saved[8]
    v73 = 1.0 - saved[8]
    v74 = v72 * v73
    v75 = v44 * saved[3]
    v76 = dsaved[4] + v75
    return (v30, v34, v42, v46, v58, v63, v70, v74), (v30, v34, v42, v76, v58, v63, v70, v74), (torch.full_like(dstate[0], 0.0), v22), ()
