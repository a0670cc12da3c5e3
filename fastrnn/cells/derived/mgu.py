"""Derived of `fastrnn.cells.mgu` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def mgu_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    v1 = torch.sigmoid(a0)
    v2 = v1 * state[0]
    q = inner(v2)
    a1 = q if x is None else x[1] + q
    v5 = torch.tanh(a1)
    v6 = v5 - state[0]
    v7 = v1 * v6
    v8 = state[0] + v7
    return (v8,), (v1, v5)


def mgu_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[0]
    v1 = saved[1] * saved[1]
    v2 = 1.0 - v1
    v3 = v0 * v2
    through = inner(v3)
    v5 = saved[1] - state_prev[0]
    v6 = dstate[0] * v5
    v7 = through * state_prev[0]
    v8 = v6 + v7
    v9 = v8 * saved[0]
    v10 = 1.0 - saved[0]
    v11 = v9 * v10
    v12 = dstate[0] - v0
    v13 = through * saved[0]
    v14 = v12 + v13
    return (v11, v3), (v11, v3), (v14,), ()


def mgu_coefficients(saved, state_prev, state, given):
    v0 = saved[1] - state_prev[0]
    v1 = v0 * saved[0]
    v2 = 1.0 - saved[0]
    v3 = v1 * v2
    v4 = state_prev[0] * saved[0]
    v5 = v4 * v2
    v6 = saved[1] * saved[1]
    v7 = 1.0 - v6
    v8 = saved[0] * v7
    return ((v3, v5), (v8, None)), ((v3, v5), (v8, None)), ((v2, saved[0]),), ()


def mgu_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = dstate[0] * saved[0]
    v1 = dsaved[1] + v0
    v2 = saved[1] * saved[1]
    v3 = 1.0 - v2
    v4 = v1 * v3
    through = inner(v4)
    v6 = through * state_prev[0]
    v7 = dsaved[0] + v6
    v8 = saved[1] - state_prev[0]
    v9 = dstate[0] * v8
    v10 = v7 + v9
    v11 = v10 * saved[0]
    v12 = 1.0 - saved[0]
    v13 = v11 * v12
    v14 = through * saved[0]
    v15 = v14 + dstate[0]
    v16 = v15 - v0
    return (v13, v4), (v13, v4), (v16,), ()


def mgu_operand(saved, state_prev, state, given):
    v0 = saved[0] * state_prev[0]
    return v0
