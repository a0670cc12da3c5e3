"""Derived of `fastrnn.cells.rnn_relu` by `python -m fastrnn.cells.generate`: change that, then run this."""

import torch


def rnn_relu_forward(x, r, state, given, inner):
    a0 = r[0] if x is None else x[0] + r[0]
    v1 = torch.relu(a0)
    return (v1,), ()


def rnn_relu_backward(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state[0] <= 0.0
    v1 = torch.where(v0, 0.0, dstate[0])
    return (v1,), (v1,), (torch.full_like(dstate[0], 0.0),), ()


def rnn_relu_coefficients(saved, state_prev, state, given):
    v0 = state[0] <= 0.0
    v1 = torch.where(v0, torch.full_like(state[0], 0.0), 1.0)
    return ((v1,),), ((v1,),), ((None,),), ()


def rnn_relu_backward_with_saved(dstate, dsaved, saved, state_prev, state, given, inner):
    v0 = state[0] <= 0.0
    v1 = torch.where(v0, 0.0, dstate[0])
    return (v1,), (v1,), (torch.full_like(dstate[0], 0.0),), ()
