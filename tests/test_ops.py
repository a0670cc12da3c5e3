"""The operators as torch.library sees them: schema, fake kernels, autograd, derivatives by finite differences."""

from __future__ import annotations

import pytest
import torch
from support import CELLS as CELL_NAMES
from torch import Tensor

pytest.importorskip("triton")

import fastrnn
from fastrnn import ops
from fastrnn.cells import CELLS


def _scan_arguments(cell: str, lengths: bool, save: bool = True) -> tuple[object, ...]:
    c = CELLS[cell]
    T, B, D, H = 3, 2, 2, 4

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    return (
        draw(T, B, D, c.gates, H),
        draw(D, c.gates, H, H),
        draw(D, c.gates, H) if c.splits_bias else None,
        draw(c.states, D, B, H),
        torch.tensor([3, 1], dtype=torch.int32) if lengths else None,
        cell,
        "stepwise",
        save,
    )


@pytest.mark.parametrize("lengths", [False, True], ids=["padded", "lengths"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_opcheck(cell: str, lengths: bool) -> None:
    torch.library.opcheck(torch.ops.fastrnn.scan.default, _scan_arguments(cell, lengths))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_opcheck_backward(cell: str) -> None:
    arguments = [a.detach() if isinstance(a, Tensor) else a for a in _scan_arguments(cell, True)]
    _, weight, _, state, lengths, *_ = arguments
    output, final, cells, saved = torch.ops.fastrnn.scan(*arguments)
    torch.library.opcheck(
        torch.ops.fastrnn.scan_backward.default,
        (output.cos(), final.cos(), weight, state, lengths, output, cells, saved, cell, "stepwise"),
    )


@pytest.mark.parametrize("lengths", [False, True], ids=["padded", "lengths"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_gradcheck(cell: str, lengths: bool) -> None:
    x, weight, bias, state, rows, *_ = _scan_arguments(cell, lengths)
    differentiable = [t for t in (x, weight, bias, state) if t is not None]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = iter(tensors)
        parts = [None if t is None else next(given) for t in (x, weight, bias, state)]
        return ops.scan(*parts, rows, cell, "stepwise")  # type: ignore[arg-type]  # one of them may be None

    assert torch.autograd.gradcheck(run, differentiable, fast_mode=True)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
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
    original = ops.fused.scan

    def spy(*args: object) -> object:
        calls.append(bool(args[-1]))
        return original(*args)  # type: ignore[arg-type]  # passed through

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops.fused, "scan", spy)
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
