"""Derived of `fastrnn.cells.gru` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def gru_forward(x, r, state, given, inner):
    v0 = x[0] + r[0]
    v1 = torch.sigmoid(v0)
    v2 = v1 * r[2]
    v3 = x[2] + v2
    v4 = torch.tanh(v3)
    v5 = x[1] + r[1]
    v6 = torch.sigmoid(v5)
    v7 = state[0] - v4
    v8 = v6 * v7
    v9 = v4 + v8
    return (v9,), (v1, r[2], v4, v6)


def gru_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[3]
    v1 = dstate[0] - v0
    v2 = saved[2] * saved[2]
    v3 = 1.0 - v2
    v4 = v1 * v3
    v5 = v4 * saved[1]
    v6 = v5 * saved[0]
    v7 = 1.0 - saved[0]
    v8 = v6 * v7
    v9 = state_prev[0] - saved[2]
    v10 = dstate[0] * v9
    v11 = v10 * saved[3]
    v12 = 1.0 - saved[3]
    v13 = v11 * v12
    v14 = v4 * saved[0]
    return (v8, v13, v4), (v8, v13, v14), (v0,), ()


def gru_coefficients(saved, state_prev, state, given):
    v0 = 1.0 - saved[3]
    v1 = saved[2] * saved[2]
    v2 = 1.0 - v1
    v3 = v0 * v2
    v4 = v3 * saved[1]
    v5 = v4 * saved[0]
    v6 = 1.0 - saved[0]
    v7 = v5 * v6
    v8 = state_prev[0] - saved[2]
    v9 = v8 * saved[3]
    v10 = v9 * v0
    v11 = v3 * saved[0]
    return ((v7,), (v10,), (v3,)), ((v7,), (v10,), (v11,)), ((saved[3],),), ()


def gru_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dsaved[2] + dstate[0]
    v1 = dstate[0] * saved[3]
    v2 = v0 - v1
    v3 = saved[2] * saved[2]
    v4 = 1.0 - v3
    v5 = v2 * v4
    v6 = v5 * saved[1]
    v7 = dsaved[0] + v6
    v8 = v7 * saved[0]
    v9 = 1.0 - saved[0]
    v10 = v8 * v9
    v11 = state_prev[0] - saved[2]
    v12 = dstate[0] * v11
    v13 = dsaved[3] + v12
    v14 = v13 * saved[3]
    v15 = 1.0 - saved[3]
    v16 = v14 * v15
    v17 = v5 * saved[0]
    v18 = dsaved[1] + v17
    return (v10, v16, v5), (v10, v16, v18), (v1,), ()
