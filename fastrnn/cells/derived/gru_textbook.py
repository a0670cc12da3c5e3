"""Derived of `fastrnn.cells.gru_textbook` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def gru_textbook_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    a1 = r[1] if x is None else x[1] + r[1]
    v2 = torch.sigmoid(a0)
    v3 = v2 * state[0]
    q = inner(v3)
    a2 = q if x is None else x[2] + q
    v6 = torch.tanh(a2)
    v7 = torch.sigmoid(a1)
    v8 = state[0] - v6
    v9 = v7 * v8
    v10 = v6 + v9
    return (v10,), (v6, v7, v2)


def gru_textbook_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[1]
    v1 = dstate[0] - v0
    v2 = saved[0] * saved[0]
    v3 = 1.0 - v2
    v4 = v1 * v3
    through = inner(v4)
    v6 = through * state_prev[0]
    v7 = v6 * saved[2]
    v8 = 1.0 - saved[2]
    v9 = v7 * v8
    v10 = state_prev[0] - saved[0]
    v11 = dstate[0] * v10
    v12 = v11 * saved[1]
    v13 = 1.0 - saved[1]
    v14 = v12 * v13
    v15 = through * saved[2]
    v16 = v0 + v15
    return (v9, v14, v4), (v9, v14, v4), (v16,), ()


def gru_textbook_coefficients(saved, state_prev, state, given):
    v0 = state_prev[0] * saved[2]
    v1 = 1.0 - saved[2]
    v2 = v0 * v1
    v3 = state_prev[0] - saved[0]
    v4 = v3 * saved[1]
    v5 = 1.0 - saved[1]
    v6 = v4 * v5
    v7 = saved[0] * saved[0]
    v8 = 1.0 - v7
    v9 = v5 * v8
    return ((None, v2), (v6, None), (v9, None)), ((None, v2), (v6, None), (v9, None)), ((saved[1], saved[2]),), ()


def gru_textbook_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dsaved[0] + dstate[0]
    v1 = dstate[0] * saved[1]
    v2 = v0 - v1
    v3 = saved[0] * saved[0]
    v4 = 1.0 - v3
    v5 = v2 * v4
    through = inner(v5)
    v7 = through * state_prev[0]
    v8 = dsaved[2] + v7
    v9 = v8 * saved[2]
    v10 = 1.0 - saved[2]
    v11 = v9 * v10
    v12 = state_prev[0] - saved[0]
    v13 = dstate[0] * v12
    v14 = dsaved[1] + v13
    v15 = v14 * saved[1]
    v16 = 1.0 - saved[1]
    v17 = v15 * v16
    v18 = through * saved[2]
    v19 = v18 + v1
    return (v11, v17, v5), (v11, v17, v5), (v19,), ()


def gru_textbook_operand(saved, state_prev, state, given):
    v0 = saved[2] * state_prev[0]
    return v0
