"""Derived of `fastrnn.cells.peephole_lstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def peephole_lstm_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    a3 = r[3] if x is None else x[3] + r[3]
    v4 = given[1] * state[1]
    v5 = a1 + v4
    v6 = torch.sigmoid(v5)
    v7 = v6 * state[1]
    v8 = given[0] * state[1]
    v9 = a0 + v8
    v10 = torch.sigmoid(v9)
    v11 = torch.tanh(a2)
    v12 = v10 * v11
    v13 = v7 + v12
    v14 = given[2] * v13
    v15 = a3 + v14
    v16 = torch.sigmoid(v15)
    v17 = torch.tanh(v13)
    v18 = v16 * v17
    return (v18, v13), (v6, v10, v11, v16)


def peephole_lstm_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[3]
    v1 = torch.tanh(state[1])
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = dstate[0] * v1
    v7 = v6 * saved[3]
    v8 = 1.0 - saved[3]
    v9 = v7 * v8
    v10 = v9 * given[2]
    v11 = v5 + v10
    v12 = v11 * saved[2]
    v13 = v12 * saved[1]
    v14 = 1.0 - saved[1]
    v15 = v13 * v14
    v16 = v11 * state_prev[1]
    v17 = v16 * saved[0]
    v18 = 1.0 - saved[0]
    v19 = v17 * v18
    v20 = v11 * saved[1]
    v21 = saved[2] * saved[2]
    v22 = 1.0 - v21
    v23 = v20 * v22
    v24 = v15 * given[0]
    v25 = v11 * saved[0]
    v26 = v24 + v25
    v27 = v19 * given[1]
    v28 = v26 + v27
    v29 = v15 * state_prev[1]
    v30 = v19 * state_prev[1]
    v31 = v9 * state[1]
    return (v15, v19, v23, v9), (v15, v19, v23, v9), (torch.full_like(dstate[0], 0.0), v28), (v29, v30, v31)


def peephole_lstm_coefficients(saved, state_prev, state, given):
    v0 = torch.tanh(state[1])
    v1 = v0 * v0
    v2 = 1.0 - v1
    v3 = saved[3] * v2
    v4 = v0 * saved[3]
    v5 = 1.0 - saved[3]
    v6 = v4 * v5
    v7 = v6 * given[2]
    v8 = v3 + v7
    v9 = v8 * saved[2]
    v10 = v9 * saved[1]
    v11 = 1.0 - saved[1]
    v12 = v10 * v11
    v13 = saved[2] * saved[1]
    v14 = v13 * v11
    v15 = v8 * state_prev[1]
    v16 = v15 * saved[0]
    v17 = 1.0 - saved[0]
    v18 = v16 * v17
    v19 = state_prev[1] * saved[0]
    v20 = v19 * v17
    v21 = v8 * saved[1]
    v22 = saved[2] * saved[2]
    v23 = 1.0 - v22
    v24 = v21 * v23
    v25 = saved[1] * v23
    v26 = v12 * given[0]
    v27 = v8 * saved[0]
    v28 = v26 + v27
    v29 = v18 * given[1]
    v30 = v28 + v29
    v31 = v14 * given[0]
    v32 = v31 + saved[0]
    v33 = v20 * given[1]
    v34 = v32 + v33
    v35 = v12 * state_prev[1]
    v36 = v14 * state_prev[1]
    v37 = v18 * state_prev[1]
    v38 = v20 * state_prev[1]
    v39 = v6 * state[1]
    return ((v12, v14), (v18, v20), (v24, v25), (v6, None)), ((v12, v14), (v18, v20), (v24, v25), (v6, None)), ((None, None), (v30, v34)), ((v35, v36), (v37, v38), (v39, None))


def peephole_lstm_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[3]
    v1 = torch.tanh(state[1])
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = dstate[0] * v1
    v7 = dsaved[3] + v6
    v8 = v7 * saved[3]
    v9 = 1.0 - saved[3]
    v10 = v8 * v9
    v11 = v10 * given[2]
    v12 = v5 + v11
    v13 = v12 * saved[2]
    v14 = dsaved[1] + v13
    v15 = v14 * saved[1]
    v16 = 1.0 - saved[1]
    v17 = v15 * v16
    v18 = v12 * state_prev[1]
    v19 = dsaved[0] + v18
    v20 = v19 * saved[0]
    v21 = 1.0 - saved[0]
    v22 = v20 * v21
    v23 = v12 * saved[1]
    v24 = dsaved[2] + v23
    v25 = saved[2] * saved[2]
    v26 = 1.0 - v25
    v27 = v24 * v26
    v28 = v17 * given[0]
    v29 = v12 * saved[0]
    v30 = v28 + v29
    v31 = v22 * given[1]
    v32 = v30 + v31
    v33 = v17 * state_prev[1]
    v34 = v22 * state_prev[1]
    v35 = v10 * state[1]
    return (v17, v22, v27, v10), (v17, v22, v27, v10), (torch.full_like(dstate[0], 0.0), v32), (v33, v34, v35)
