"""Derived of `fastrnn.cells.lstm` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def lstm_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    a3 = r[3] if x is None else x[3] + r[3]
    v4 = torch.sigmoid(a3)
    v5 = torch.sigmoid(a1)
    v6 = v5 * state[1]
    v7 = torch.sigmoid(a0)
    v8 = torch.tanh(a2)
    v9 = v7 * v8
    v10 = v6 + v9
    v11 = torch.tanh(v10)
    v12 = v4 * v11
    return (v12, v10), (v4, v5, v7, v8)


def lstm_backward(dstate, dsaved, saved, state_prev, state, given, inner):
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
    v10 = v5 * state_prev[1]
    v11 = v10 * saved[1]
    v12 = 1.0 - saved[1]
    v13 = v11 * v12
    v14 = v5 * saved[2]
    v15 = saved[3] * saved[3]
    v16 = 1.0 - v15
    v17 = v14 * v16
    v18 = dstate[0] * v1
    v19 = v18 * saved[0]
    v20 = 1.0 - saved[0]
    v21 = v19 * v20
    v22 = v5 * saved[1]
    return (v9, v13, v17, v21), (v9, v13, v17, v21), (torch.full_like(dstate[0], 0.0), v22), ()


def lstm_coefficients(saved, state_prev, state, given):
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
    v10 = v3 * state_prev[1]
    v11 = v10 * saved[1]
    v12 = 1.0 - saved[1]
    v13 = v11 * v12
    v14 = state_prev[1] * saved[1]
    v15 = v14 * v12
    v16 = v3 * saved[2]
    v17 = saved[3] * saved[3]
    v18 = 1.0 - v17
    v19 = v16 * v18
    v20 = saved[2] * v18
    v21 = v0 * saved[0]
    v22 = 1.0 - saved[0]
    v23 = v21 * v22
    v24 = v3 * saved[1]
    return ((v7, v9), (v13, v15), (v19, v20), (v23, None)), ((v7, v9), (v13, v15), (v19, v20), (v23, None)), ((None, None), (v24, saved[1])), ()


def lstm_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
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
    v11 = v5 * state_prev[1]
    v12 = dsaved[1] + v11
    v13 = v12 * saved[1]
    v14 = 1.0 - saved[1]
    v15 = v13 * v14
    v16 = v5 * saved[2]
    v17 = dsaved[3] + v16
    v18 = saved[3] * saved[3]
    v19 = 1.0 - v18
    v20 = v17 * v19
    v21 = dstate[0] * v1
    v22 = dsaved[0] + v21
    v23 = v22 * saved[0]
    v24 = 1.0 - saved[0]
    v25 = v23 * v24
    v26 = v5 * saved[1]
    return (v10, v15, v20, v25), (v10, v15, v20, v25), (torch.full_like(dstate[0], 0.0), v26), ()
