"""Derived of `fastrnn.cells.lstm_decay` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def lstm_decay_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    a3 = r[3] if x is None else x[3] + r[3]
    v4 = torch.sigmoid(a3)
    v5 = torch.sigmoid(a1)
    v6 = given[0] * given[2]
    v7 = v6 + given[1]
    v8 = torch.relu(v7)
    v9 = -v8
    v10 = torch.exp(v9)
    v11 = v10 * state[1]
    v12 = v5 * v11
    v13 = torch.sigmoid(a0)
    v14 = torch.tanh(a2)
    v15 = v13 * v14
    v16 = v12 + v15
    v17 = torch.tanh(v16)
    v18 = v4 * v17
    return (v18, v16), (v4, v5, v13, v14)


def lstm_decay_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[0]
    v1 = torch.tanh(state[1])
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = v5 * saved[3]
    v7 = v6 * saved[2]
    v8 = 1.0 - saved[2]
    v9 = v7 * v8
    v10 = given[0] * given[2]
    v11 = v10 + given[1]
    v12 = torch.relu(v11)
    v13 = -v12
    v14 = torch.exp(v13)
    v15 = v14 * state_prev[1]
    v16 = v5 * v15
    v17 = v16 * saved[1]
    v18 = 1.0 - saved[1]
    v19 = v17 * v18
    v20 = v5 * saved[2]
    v21 = saved[3] * saved[3]
    v22 = 1.0 - v21
    v23 = v20 * v22
    v24 = dstate[0] * v1
    v25 = v24 * saved[0]
    v26 = 1.0 - saved[0]
    v27 = v25 * v26
    v28 = v5 * saved[1]
    v29 = v28 * v14
    v30 = v12 <= 0.0
    v31 = v28 * state_prev[1]
    v32 = v31 * v14
    v33 = -v32
    v34 = torch.where(v30, 0.0, v33)
    v35 = v34 * given[2]
    return (v9, v19, v23, v27), (v9, v19, v23, v27), (torch.full_like(dstate[0], 0.0), v29), (v35, v34)


def lstm_decay_coefficients(saved, state_prev, state, given):
    v0 = torch.tanh(state[1])
    v1 = v0 * v0
    v2 = 1.0 - v1
    v3 = saved[0] * v2
    v4 = v3 * saved[3]
    v5 = v4 * saved[2]
    v6 = 1.0 - saved[2]
    v7 = v5 * v6
    v8 = saved[3] * saved[2]
    v9 = v8 * v6
    v10 = given[0] * given[2]
    v11 = v10 + given[1]
    v12 = torch.relu(v11)
    v13 = -v12
    v14 = torch.exp(v13)
    v15 = v14 * state_prev[1]
    v16 = v3 * v15
    v17 = v16 * saved[1]
    v18 = 1.0 - saved[1]
    v19 = v17 * v18
    v20 = v15 * saved[1]
    v21 = v20 * v18
    v22 = v3 * saved[2]
    v23 = saved[3] * saved[3]
    v24 = 1.0 - v23
    v25 = v22 * v24
    v26 = saved[2] * v24
    v27 = v0 * saved[0]
    v28 = 1.0 - saved[0]
    v29 = v27 * v28
    v30 = v3 * saved[1]
    v31 = v30 * v14
    v32 = saved[1] * v14
    v33 = v12 <= 0.0
    v34 = v30 * state_prev[1]
    v35 = v34 * v14
    v36 = -v35
    v37 = torch.where(v33, 0.0, v36)
    v38 = v37 * given[2]
    v39 = saved[1] * state_prev[1]
    v40 = v39 * v14
    v41 = -v40
    v42 = torch.where(v33, 0.0, v41)
    v43 = v42 * given[2]
    return ((v7, v9), (v19, v21), (v25, v26), (v29, None)), ((v7, v9), (v19, v21), (v25, v26), (v29, None)), ((None, None), (v31, v32)), ((v38, v43), (v37, v42))


def lstm_decay_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[0]
    v1 = torch.tanh(state[1])
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = v5 * saved[3]
    v7 = dsaved[2] + v6
    v8 = v7 * saved[2]
    v9 = 1.0 - saved[2]
    v10 = v8 * v9
    v11 = given[0] * given[2]
    v12 = v11 + given[1]
    v13 = torch.relu(v12)
    v14 = -v13
    v15 = torch.exp(v14)
    v16 = v15 * state_prev[1]
    v17 = v5 * v16
    v18 = dsaved[1] + v17
    v19 = v18 * saved[1]
    v20 = 1.0 - saved[1]
    v21 = v19 * v20
    v22 = v5 * saved[2]
    v23 = dsaved[3] + v22
    v24 = saved[3] * saved[3]
    v25 = 1.0 - v24
    v26 = v23 * v25
    v27 = dstate[0] * v1
    v28 = dsaved[0] + v27
    v29 = v28 * saved[0]
    v30 = 1.0 - saved[0]
    v31 = v29 * v30
    v32 = v5 * saved[1]
    v33 = v32 * v15
    v34 = v13 <= 0.0
    v35 = v32 * state_prev[1]
    v36 = v35 * v15
    v37 = -v36
    v38 = torch.where(v34, 0.0, v37)
    v39 = v38 * given[2]
    return (v10, v21, v26, v31), (v10, v21, v26, v31), (torch.full_like(dstate[0], 0.0), v33), (v39, v38)
