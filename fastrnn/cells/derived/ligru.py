"""Derived of `fastrnn.cells.ligru` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def ligru_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    v2 = torch.relu(a1)
    v3 = torch.sigmoid(a0)
    v4 = state[0] - v2
    v5 = v3 * v4
    v6 = v2 + v5
    return (v6,), (v2, v3)


def ligru_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state_prev[0] - saved[0]
    v1 = dstate[0] * v0
    v2 = v1 * saved[1]
    v3 = 1.0 - saved[1]
    v4 = v2 * v3
    v5 = saved[0] <= 0.0
    v6 = dstate[0] * saved[1]
    v7 = dstate[0] - v6
    v8 = torch.where(v5, 0.0, v7)
    return (v4, v8), (v4, v8), (v6,), ()


def ligru_coefficients(saved, state_prev, state, given):
    v0 = state_prev[0] - saved[0]
    v1 = v0 * saved[1]
    v2 = 1.0 - saved[1]
    v3 = v1 * v2
    v4 = saved[0] <= 0.0
    v5 = torch.where(v4, 0.0, v2)
    return ((v3,), (v5,)), ((v3,), (v5,)), ((saved[1],),), ()


def ligru_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state_prev[0] - saved[0]
    v1 = dstate[0] * v0
    v2 = dsaved[1] + v1
    v3 = v2 * saved[1]
    v4 = 1.0 - saved[1]
    v5 = v3 * v4
    v6 = saved[0] <= 0.0
    v7 = dsaved[0] + dstate[0]
    v8 = dstate[0] * saved[1]
    v9 = v7 - v8
    v10 = torch.where(v6, 0.0, v9)
    return (v5, v10), (v5, v10), (v8,), ()
