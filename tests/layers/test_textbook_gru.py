"""`GRU(reset_after=False)`: the reset gate before the matmul, against a literal transcription of its formula."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

pytest.importorskip("hypothesis")  # `make test-gpu` does without

from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import BACKENDS, assert_same, call, make, states_of
from torch import Tensor, nn

import fastrnn


def literally(layer: nn.RNNBase, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One layer, one direction, as Cho et al. 2014 print it, with torch's sense of the update gate."""
    W_ir, W_iz, W_in = layer.weight_ih_l0.chunk(3)
    W_hr, W_hz, W_hn = layer.weight_hh_l0.chunk(3)
    b_ir, b_iz, b_in = layer.bias_ih_l0.chunk(3)
    b_hr, b_hz, b_hn = layer.bias_hh_l0.chunk(3)
    outputs = []
    for x_t in x:
        r = torch.sigmoid(x_t @ W_ir.T + b_ir + h @ W_hr.T + b_hr)
        z = torch.sigmoid(x_t @ W_iz.T + b_iz + h @ W_hz.T + b_hz)
        n = torch.tanh(x_t @ W_in.T + b_in + (r * h) @ W_hn.T + b_hn)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs), h


@settings(max_examples=30, deadline=None)
@given(
    time=st.integers(1, 6),
    batch=st.integers(1, 4),
    inputs=st.integers(1, 5),
    hidden=st.integers(1, 9),
    backend=st.sampled_from(["auto", "reference"]),
    seed=st.integers(0, 99),
)
def test_it_is_its_formula(time: int, batch: int, inputs: int, hidden: int, backend: str, seed: int) -> None:
    torch.manual_seed(seed)
    layer = make("textbook GRU", {}, backend, inputs, hidden)
    x, (h0,) = torch.randn(time, batch, inputs, dtype=torch.float64), states_of(layer, batch)
    expected, expected_final = literally(layer, x, h0[0])
    output, final = call(layer, x, (h0,))
    assert_same([output, final[0]], [expected, expected_final])
    parameters = list(layer.parameters())
    upstream = torch.randn_like(expected)
    assert_same(
        list(torch.autograd.grad(output, parameters, upstream)),
        list(torch.autograd.grad(expected, parameters, upstream)),
    )


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_the_kernels_compute_its_formula(backend: str) -> None:
    layer = make("textbook GRU", {}, backend, 3, 20)
    x, (h0,) = torch.randn(4, 3, 3, dtype=torch.float64), states_of(layer, 3)
    assert_same([call(layer, x, (h0,))[0]], [literally(layer, x, h0[0])[0]])


def test_the_two_grus_differ_only_in_the_candidate() -> None:
    ours, torchs = make("textbook GRU", {}), make("GRU", {})
    torchs.load_state_dict(ours.state_dict())
    x, hx = torch.randn(4, 2, 3, dtype=torch.float64), states_of(ours, 2)
    assert (call(ours, x, hx)[0] - call(torchs, x, hx)[0]).abs().max() > 1e-4
    with torch.no_grad():
        for layer in (ours, torchs):
            layer.weight_hh_l0[8:].zero_()
            layer.bias_hh_l0[8:].zero_()
    assert_same(call(ours, x, hx), call(torchs, x, hx))


def test_weights_whose_update_gate_is_the_other_way_round() -> None:
    """README's recipe for texts with h = z n + (1 - z) h: the update gate's rows change sign."""
    layer = make("textbook GRU", {})
    x, (h,) = torch.randn(4, 2, 3, dtype=torch.float64), states_of(layer, 2)
    expected = call(layer, x, (h,))[0]
    theirs = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter[4:8].neg_()  # rows r, z, n of 4 units each

    h = h[0]
    W_i, W_h, b_i, b_h = (p.chunk(3) for p in theirs.parameters())
    for x_t, y_t in zip(x, expected, strict=True):
        r, z = (torch.sigmoid(x_t @ W_i[g].T + b_i[g] + h @ W_h[g].T + b_h[g]) for g in (0, 1))
        n = torch.tanh(x_t @ W_i[2].T + b_i[2] + (r * h) @ W_h[2].T + b_h[2])
        h = z * n + (1 - z) * h
        assert_same([y_t], [h])


def test_derivatives() -> None:
    layer = make("textbook GRU", {"bidirectional": True})
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (x,))
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))


def test_it_is_a_module_like_others() -> None:
    layer = fastrnn.GRU(3, 4, reset_after=False)
    assert repr(layer) == "GRU(3, 4, reset_after=False)"
    assert repr(fastrnn.GRU(3, 4)) == "GRU(3, 4)"
    x = torch.randn(3, 2, 3)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x)[0], layer(x)[0])
    nn.GRU(3, 4).load_state_dict(layer.state_dict())
    model = nn.Sequential(layer, fastrnn.GRU(3, 4))
    assert fastrnn.revert(model) == ["1"]
    assert type(model[0]) is fastrnn.GRU
    assert vars(model[1]).keys() == vars(nn.GRU(3, 4)).keys()
    assert fastrnn.convert(model).converted == ["1"]
    assert model[1].reset_after


def test_torch_jit_script_has_none() -> None:
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script has no GRU with reset_after=False"):
        torch.jit.script(fastrnn.GRU(3, 4, reset_after=False))
