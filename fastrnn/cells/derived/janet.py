"""Derived of `fastrnn.cells.janet` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def janet_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    v2 = torch.sigmoid(a0)
    v3 = v2 * state[0]
    v4 = 1.0 - a0
    v5 = torch.sigmoid(v4)
    v6 = torch.tanh(a1)
    v7 = v5 * v6
    v8 = v3 + v7
    return (v8,), (a0, v6)


def janet_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * state_prev[0]
    v1 = torch.sigmoid(saved[0])
    v2 = v0 * v1
    v3 = 1.0 - v1
    v4 = v2 * v3
    v5 = dstate[0] * saved[1]
    v6 = 1.0 - saved[0]
    v7 = torch.sigmoid(v6)
    v8 = v5 * v7
    v9 = 1.0 - v7
    v10 = v8 * v9
    v11 = v4 - v10
    v12 = dstate[0] * v7
    v13 = saved[1] * saved[1]
    v14 = 1.0 - v13
    v15 = v12 * v14
    v16 = dstate[0] * v1
    return (v11, v15), (v11, v15), (v16,), ()


def janet_coefficients(saved, state_prev, state, given):
    v0 = torch.sigmoid(saved[0])
    v1 = state_prev[0] * v0
    v2 = 1.0 - v0
    v3 = v1 * v2
    v4 = 1.0 - saved[0]
    v5 = torch.sigmoid(v4)
    v6 = saved[1] * v5
    v7 = 1.0 - v5
    v8 = v6 * v7
    v9 = v3 - v8
    v10 = saved[1] * saved[1]
    v11 = 1.0 - v10
    v12 = v5 * v11
    return ((v9,), (v12,)), ((v9,), (v12,)), ((v0,),), ()


def janet_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[1]
    v1 = 1.0 - saved[0]
    v2 = torch.sigmoid(v1)
    v3 = v0 * v2
    v4 = 1.0 - v2
    v5 = v3 * v4
    v6 = dsaved[0] - v5
    v7 = dstate[0] * state_prev[0]
    v8 = torch.sigmoid(saved[0])
    v9 = v7 * v8
    v10 = 1.0 - v8
    v11 = v9 * v10
    v12 = v6 + v11
    v13 = dstate[0] * v2
    v14 = dsaved[1] + v13
    v15 = saved[1] * saved[1]
    v16 = 1.0 - v15
    v17 = v14 * v16
    v18 = dstate[0] * v8
    return (v12, v17), (v12, v17), (v18,), ()
