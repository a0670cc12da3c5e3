"""The operators as torch.library sees them: schema, fake kernels, autograd, derivatives by finite differences."""

from __future__ import annotations

import pytest
import torch
from support import combinations
from torch import Tensor

pytest.importorskip("triton")

import fastrnn
from fastrnn.backends import fused, reference
from fastrnn.cells import CELLS
from fastrnn.kernels.tensors import Inputs
from fastrnn.scan import operators
from fastrnn.scan.choice import BY_NAME


def _scan_arguments(cell: str, masked: bool, backend: str, heads: int = 1, K: int = 4) -> tuple[object, ...]:
    c = CELLS[cell]
    T, B, D, H = 3, 2, 2 * heads, 4

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    return (
        draw(T, B, D, c.gates, H),
        draw(D, c.gates, H, K),
        draw(D, c.gates, H) if c.splits_bias else None,
        draw(c.states, D, B, H),
        torch.tensor([3, 1], dtype=torch.int32) if masked else None,
        torch.tensor([[0, 1], [1, 0], [0, 0]], dtype=torch.bool) if masked else None,
        cell,
        backend,
        True,
        True,
    )


BACKENDS = ("stepwise", "aten")
MASKED = {False: "full", True: "lengths and resets"}
# An opcheck takes seconds: some cells; of the LSTM by the kernels, which takes most, the gradient's.
CHECKED = (
    ("gru", "aten", False),
    ("rnn_tanh", "stepwise", False),
    ("rnn_relu", "aten", False),
)
BACKWARD_CHECKED = (("lstm", "stepwise"), ("gru_textbook", "aten"))


# From torch 2.14 on opcheck itself reads the gradient of the copies that it makes of its arguments.
quiet_opcheck = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@quiet_opcheck
@pytest.mark.parametrize(
    ("cell", "backend", "masked"),
    combinations(CELLS, BACKENDS, MASKED, fast=lambda *case: case in CHECKED),
    ids=MASKED.get,
)
def test_opcheck(cell: str, backend: str, masked: bool) -> None:
    torch.library.opcheck(torch.ops.fastrnn.scan_layer.default, (*_scan_arguments(cell, masked, backend), masked))


# What torch.compile makes of them is asked of whole layers.
_CHEAP = ("test_schema", "test_autograd_registration", "test_faketensor")


@quiet_opcheck
@pytest.mark.parametrize(("heads", "K"), [(2, 4), (1, 1)], ids=["heads", "diagonal"])
@pytest.mark.parametrize("cell", ["lstm", "gru_textbook"])
def test_opcheck_of_heads(cell: str, heads: int, K: int) -> None:
    arguments = _scan_arguments(cell, True, "aten", heads, K)
    torch.library.opcheck(
        torch.ops.fastrnn.scan_layer.default, (*arguments, True, None, None, heads), test_utils=_CHEAP
    )
    given = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
    output, h, c, cells, saved = torch.ops.fastrnn.scan_layer(*given, False, None, None, heads)
    T, (P, B, H) = len(output), h.shape
    output, final = output.view(T, B, P, H), torch.stack((h, c) if c.numel() else (h,))
    cells = cells.view(T, B, P, len(final) - 1, H)
    kept = (given[1], *given[3:6], output, cells, saved)
    upstream = (output.cos(), final.cos(), cells.cos())
    torch.library.opcheck(
        torch.ops.fastrnn.scan_backward.default,
        (*upstream, *kept, cell, "aten", None, None, heads),
        test_utils=_CHEAP,
    )


@quiet_opcheck
@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_the_scan_of_programs_exported_before(cell: str) -> None:
    """Its schema and its layout stay: what was stored calls it."""
    x, weight, bias, state, lengths, resets, *names = _scan_arguments(cell, True, "aten")
    torch.library.opcheck(torch.ops.fastrnn.scan.default, (x, weight, bias, state, lengths, resets, *names))
    results = torch.ops.fastrnn.scan(x, weight, bias, state, lengths, resets, *names)
    expected = reference.scan(Inputs(x, weight, bias, state, lengths, resets), CELLS[cell])[:3]  # type: ignore[arg-type]
    for found, wanted in zip(results[:3], expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("cell", "backend"), combinations(CELLS, BACKENDS, fast=lambda *case: case in BACKWARD_CHECKED)
)
def test_opcheck_backward(cell: str, backend: str) -> None:
    arguments = [a.detach() if isinstance(a, Tensor) else a for a in _scan_arguments(cell, True, backend)]
    _, weight, _, state, lengths, resets, *_ = arguments
    output, final, cells, saved = torch.ops.fastrnn.scan(*arguments)
    upstream = (output.cos(), final.cos(), cells.cos())
    torch.library.opcheck(
        torch.ops.fastrnn.scan_backward.default,
        (*upstream, weight, state, lengths, resets, output, cells, saved, cell, backend),
    )


@pytest.mark.parametrize(
    ("cell", "backend", "masked"),
    # Those of the kernels take half a minute; a whole layer's is below, and tests/kernels has the reference beside.
    [pytest.param(cell, backend, masked, marks=[pytest.mark.slow] * (backend == "stepwise"))
     for cell in CELLS for backend in ("stepwise", "aten") for masked in (False, True)
     if masked or backend == "aten"],
)  # fmt: skip
def test_gradcheck(cell: str, backend: str, masked: bool) -> None:
    x, weight, bias, state, lengths, resets, *_ = _scan_arguments(cell, masked, backend)
    differentiable = [t for t in (x, weight, bias, state) if t is not None]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        parts = [None if t is None else next(given) for t in (x, weight, bias, state)]
        output, states, cells = operators.scan(
            Inputs(*parts, lengths, resets), CELLS[cell], BY_NAME[backend], True, masked
        )  # type: ignore[arg-type]
        return output, *states, cells

    assert torch.autograd.gradcheck(run, differentiable, fast_mode=True)
    if backend == "aten":
        assert torch.autograd.gradgradcheck(run, differentiable, fast_mode=True)


@pytest.mark.parametrize("name", ["LSTM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("GRU", "RNN"))])
def test_gradcheck_of_a_whole_layer(name: str) -> None:
    options = {"proj_size": 2} if name == "LSTM" else {}
    layer = getattr(fastrnn, name)(2, 3, bidirectional=True, dtype=torch.float64, backend="persistent", **options)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


def test_only_what_will_be_differentiated_is_saved() -> None:
    calls: list[bool] = []
    original = fused.scan

    def spy(*args: object) -> object:
        calls.append(bool(args[-2]))
        return original(*args)  # type: ignore[arg-type]  # passed through

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "scan", spy)
        layer = fastrnn.LSTM(2, 3, backend="stepwise")
        x = torch.randn(2, 2, 2)
        layer(x)
        with torch.no_grad():
            layer(x)
        with torch.inference_mode():
            layer(x)
        layer.requires_grad_(False)(x)
        layer(x.requires_grad_())
    assert calls == [True, False, False, False, True]


def test_results_do_not_depend_on_the_run() -> None:
    layer = fastrnn.GRU(3, 5, bidirectional=True, backend="stepwise")
    x = torch.randn(4, 3, 3)
    runs = []
    for _ in range(2):
        layer.zero_grad()
        output, _ = layer(x)
        output.sin().sum().backward()
        runs.append([output.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
