"""Derived of `fastrnn.cells.cifg` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def cifg_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    v3 = torch.sigmoid(a2)
    v4 = torch.sigmoid(a0)
    v5 = v4 * state[1]
    v6 = 1.0 - v4
    v7 = torch.tanh(a1)
    v8 = v6 * v7
    v9 = v5 + v8
    v10 = torch.tanh(v9)
    v11 = v3 * v10
    return (v11, v9), (v3, v4, v7)


def cifg_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[0]
    v1 = torch.tanh(state[1])
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = v5 * state_prev[1]
    v7 = v5 * saved[2]
    v8 = v6 - v7
    v9 = v8 * saved[1]
    v10 = 1.0 - saved[1]
    v11 = v9 * v10
    v12 = v5 * v10
    v13 = saved[2] * saved[2]
    v14 = 1.0 - v13
    v15 = v12 * v14
    v16 = dstate[0] * v1
    v17 = v16 * saved[0]
    v18 = 1.0 - saved[0]
    v19 = v17 * v18
    v20 = v5 * saved[1]
    return (v11, v15, v19), (v11, v15, v19), (torch.full_like(dstate[0], 0.0), v20), ()


def cifg_coefficients(saved, state_prev, state, given):
    v0 = torch.tanh(state[1])
    v1 = v0 * v0
    v2 = 1.0 - v1
    v3 = saved[0] * v2
    v4 = v3 * state_prev[1]
    v5 = v3 * saved[2]
    v6 = v4 - v5
    v7 = v6 * saved[1]
    v8 = 1.0 - saved[1]
    v9 = v7 * v8
    v10 = state_prev[1] - saved[2]
    v11 = v10 * saved[1]
    v12 = v11 * v8
    v13 = v3 * v8
    v14 = saved[2] * saved[2]
    v15 = 1.0 - v14
    v16 = v13 * v15
    v17 = v8 * v15
    v18 = v0 * saved[0]
    v19 = 1.0 - saved[0]
    v20 = v18 * v19
    v21 = v3 * saved[1]
    return ((v9, v12), (v16, v17), (v20, None)), ((v9, v12), (v16, v17), (v20, None)), ((None, None), (v21, saved[1])), ()


def cifg_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[0]
    v1 = torch.tanh(state[1])
    v2 = v1 * v1
    v3 = 1.0 - v2
    v4 = v0 * v3
    v5 = dstate[1] + v4
    v6 = v5 * saved[2]
    v7 = dsaved[1] - v6
    v8 = v5 * state_prev[1]
    v9 = v7 + v8
    v10 = v9 * saved[1]
    v11 = 1.0 - saved[1]
    v12 = v10 * v11
    v13 = v5 * v11
    v14 = dsaved[2] + v13
    v15 = saved[2] * saved[2]
    v16 = 1.0 - v15
    v17 = v14 * v16
    v18 = dstate[0] * v1
    v19 = dsaved[0] + v18
    v20 = v19 * saved[0]
    v21 = 1.0 - saved[0]
    v22 = v20 * v21
    v23 = v5 * saved[1]
    return (v12, v17, v22), (v12, v17, v22), (torch.full_like(dstate[0], 0.0), v23), ()
