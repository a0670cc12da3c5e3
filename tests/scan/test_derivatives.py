"""Derivatives beyond the first gradient: second ones, batched ones, forward mode, and the transforms of torch.func."""

from __future__ import annotations

import pytest
import torch
from support import FLOAT64_ERROR, as_tuple, combinations, worst_error
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn

NAMES = ["LSTM", "GRU", "RNN"]


def _layer(name: str, backend: str = "auto", **options: object) -> nn.Module:
    if backend in ("persistent", "stepwise"):
        pytest.importorskip("triton")
    layer = getattr(fastrnn, name)(2, 3, dtype=torch.float64, backend=backend, **options)
    assert isinstance(layer, nn.Module)
    return layer


def _input() -> Tensor:
    return torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "backend"),
    # The kernels' second derivatives are the reference's: of one cell, since their interpreter is slow.
    combinations(
        NAMES,
        ("auto", "persistent", "reference"),
        fast=lambda name, backend: name == "GRU" or backend != "persistent",
    ),
)
def test_gradgradcheck(name: str, backend: str) -> None:
    layer = _layer(name, backend)
    parameters = dict(layer.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        output: Tensor = functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))[0]
        return output

    assert torch.autograd.gradgradcheck(run, (_input()[:2], *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_penalty(name: str, packed: bool) -> None:
    """The loss of a WGAN-GP critic: a gradient's norm, differentiated to the parameters."""
    options = {"proj_size": 2} if name == "LSTM" else {}
    results = []
    reference = _layer(name, "reference", bidirectional=True, **options)
    x = _input()
    for backend in ("reference", "persistent"):
        layer = _layer(name, backend, bidirectional=True, **options)
        layer.load_state_dict(reference.state_dict())
        x.grad = None
        output, final = layer(pack_padded_sequence(x, torch.tensor([3, 2])) if packed else x)
        score = (output.data if packed else output).sin().sum() + sum(f.square().sum() for f in as_tuple(final))
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
        (slope.norm() - 1).square().backward()
        assert x.grad is not None
        # One of the two biases of a gate has no part in a second derivative's value alone: all must still get theirs.
        results.append([x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
        assert len(results[-1]) == 1 + len(list(layer.parameters()))
    assert worst_error(*results) < FLOAT64_ERROR


@pytest.mark.parametrize("name", NAMES)
def test_third_derivative(name: str) -> None:
    layer = _layer(name, "stepwise")
    expected = _layer(name, "reference")
    expected.load_state_dict(layer.state_dict())
    x = _input()
    results = []
    for m in (layer, expected):
        value = m(x)[0].sin().sum()
        for _ in range(2):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.square().sum()
        results.append(list(torch.autograd.grad(value, x)))
    assert worst_error(*results) < FLOAT64_ERROR


@pytest.mark.parametrize("backend", ["auto", "stepwise", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_backward_in_eval_mode(name: str, backend: str) -> None:
    layer = _layer(name, backend).eval()
    layer(_input())[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_batched_gradients(name: str) -> None:
    """`is_grads_batched`, which is how jacobians are taken in one go: vmap over the backward operator."""
    layer = _layer(name, "persistent")
    x = _input()[:2, :1]
    output = layer(x)[0]
    basis = torch.eye(output.numel(), dtype=output.dtype).view(-1, *output.shape)
    (rows,) = torch.autograd.grad(output, x, basis, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(output, x, row, retain_graph=True)[0] for row in basis]
    assert worst_error([rows], [torch.stack(one_by_one)]) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_jvp(name: str) -> None:
    layer = _layer(name, bidirectional=True)
    x, tangent = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    value, slope = jvp(lambda x: layer(x)[0], (x,), (tangent,))
    step = 1e-6
    with torch.no_grad():
        expected = (layer(x + step * tangent)[0] - layer(x - step * tangent)[0]) / (2 * step)
        assert worst_error([value], [layer(x)[0]]) < FLOAT64_ERROR
    assert worst_error([slope], [expected]) < 1e-7
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(x, tangent))[0]
        assert worst_error([forward_ad.unpack_dual(dual).tangent], [slope]) < 1e-12


@pytest.mark.parametrize("name", [*NAMES, "LSTMCell", "GRUCell", "RNNCell"])
def test_vmap_and_per_sample_gradients(name: str) -> None:
    layer = _layer(name)
    shape = (2, 2) if name.endswith("Cell") else (3, 2, 2)
    samples = torch.randn(4, *shape, dtype=torch.float64)
    parameters = {key: value.detach() for key, value in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        result = functional_call(layer, parameters, (x,))
        first: Tensor = as_tuple(result)[0]
        return first.sin().sum()

    batched = vmap(lambda x: as_tuple(layer(x))[0])(samples)
    assert worst_error([batched], [torch.stack([as_tuple(layer(x))[0] for x in samples])]) < FLOAT64_ERROR
    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, samples)
    for i, x in enumerate(samples):
        layer.zero_grad()
        loss(dict(layer.named_parameters()), x).backward()
        assert worst_error([g[i] for g in gradients.values()], [p.grad for p in layer.parameters()]) < FLOAT64_ERROR


def test_jacobian() -> None:
    layer = _layer("GRU")
    x = _input().detach()
    jacobian = jacrev(lambda x: layer(x)[0])(x)
    assert worst_error([jacobian], [torch.autograd.functional.jacobian(lambda x: layer(x)[0], x)]) < FLOAT64_ERROR


@pytest.mark.parametrize("backend", ["persistent", "stepwise", "aten"])
def test_a_backend_that_cannot_is_refused_with_the_alternative(backend: str) -> None:
    """Never zeros in silence."""
    layer = _layer("LSTM", backend)
    x, tangent = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"torch\.func transforms and forward-mode derivatives.*backend='auto'"):
        jvp(lambda x: layer(x)[0], (x,), (tangent,))
