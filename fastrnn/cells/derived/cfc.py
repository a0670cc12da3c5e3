"""Derived of `fastrnn.cells.cfc` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def cfc_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    a2 = r[2] if x is None else x[2] + r[2]
    a3 = r[3] if x is None else x[3] + r[3]
    v4 = torch.tanh(a0)
    v5 = a2 * given[0]
    v6 = v5 + a3
    v7 = torch.sigmoid(v6)
    v8 = torch.tanh(a1)
    v9 = v8 - v4
    v10 = v7 * v9
    v11 = v4 + v10
    return (v11,), (v4, v7, v8)


def cfc_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[1]
    v1 = dstate[0] - v0
    v2 = saved[0] * saved[0]
    v3 = 1.0 - v2
    v4 = v1 * v3
    v5 = saved[2] * saved[2]
    v6 = 1.0 - v5
    v7 = v0 * v6
    v8 = saved[2] - saved[0]
    v9 = dstate[0] * v8
    v10 = v9 * saved[1]
    v11 = 1.0 - saved[1]
    v12 = v10 * v11
    v13 = v12 * given[0]
    return (v4, v7, v13, v12), (v4, v7, v13, v12), (torch.full_like(dstate[0], 0.0),), ()


def cfc_coefficients(saved, state_prev, state, given):
    v0 = 1.0 - saved[1]
    v1 = saved[0] * saved[0]
    v2 = 1.0 - v1
    v3 = v0 * v2
    v4 = saved[2] * saved[2]
    v5 = 1.0 - v4
    v6 = saved[1] * v5
    v7 = saved[2] - saved[0]
    v8 = v7 * saved[1]
    v9 = v8 * v0
    v10 = v9 * given[0]
    return ((v3,), (v6,), (v10,), (v9,)), ((v3,), (v6,), (v10,), (v9,)), ((None,),), ()


def cfc_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dsaved[0] + dstate[0]
    v1 = dstate[0] * saved[1]
    v2 = v0 - v1
    v3 = saved[0] * saved[0]
    v4 = 1.0 - v3
    v5 = v2 * v4
    v6 = dsaved[2] + v1
    v7 = saved[2] * saved[2]
    v8 = 1.0 - v7
    v9 = v6 * v8
    v10 = saved[2] - saved[0]
    v11 = dstate[0] * v10
    v12 = dsaved[1] + v11
    v13 = v12 * saved[1]
    v14 = 1.0 - saved[1]
    v15 = v13 * v14
    v16 = v15 * given[0]
    return (v5, v9, v16, v15), (v5, v9, v16, v15), (torch.full_like(dstate[0], 0.0),), ()
