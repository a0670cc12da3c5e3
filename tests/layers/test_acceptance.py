"""What an acceptance run over torch.nn's uses and fastrnn's keywords found, once each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import combinations
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn

KERNELS = [pytest.param(name, id=name) for name in ("stepwise", "persistent")]
INTERPRETED = (("stepwise", True), ("persistent", False))  # fast, of what takes the interpreter seconds


@pytest.mark.parametrize("hidden", [33, 65, pytest.param(128, marks=pytest.mark.slow)])
def test_persistent_in_the_interpreter_never_waits_for_a_program_that_has_not_run(hidden: int) -> None:
    """The choice leaves the batch open, and the launch knows it: the two may not differ in whether programs wait."""
    code = (
        "import torch, fastrnn\n"
        f"layer = fastrnn.GRU(2, {hidden}, backend='persistent')\n"
        "x = torch.randn(2, 2, 2)\n"
        "expected = fastrnn.GRU(2, {0}, backend='reference')\n".format(hidden)
        + "expected.load_state_dict(layer.state_dict())\n"
        "torch.testing.assert_close(layer(x)[0], expected(x)[0], atol=1e-5, rtol=1e-4)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("backend", ["auto", "reference", *KERNELS])
@pytest.mark.parametrize("count", [1, 3])
def test_an_lstm_cell_wants_two_states(backend: str, count: int) -> None:
    h = torch.zeros(2, 4)
    with pytest.raises(RuntimeError, match="expects two hidden states"):
        fastrnn.LSTMCell(3, 4, backend=backend)(torch.zeros(2, 3), (h,) * count)
    if count == 3:
        h = torch.zeros(1, 2, 4)
        with pytest.raises(RuntimeError, match="expects two hidden states"):
            fastrnn.LSTM(3, 4, backend=backend)(torch.zeros(5, 2, 3), (h,) * 3)


@pytest.mark.parametrize("backend", ["auto", "reference", *KERNELS])
def test_states_of_a_cell_have_the_rank_of_its_input(backend: str) -> None:
    with pytest.raises(RuntimeError):
        fastrnn.GRUCell(3, 4, backend=backend)(torch.zeros(2, 3), torch.zeros(4))


@pytest.mark.parametrize("backend", ["auto", "reference", *KERNELS])
def test_no_rows_at_all(backend: str) -> None:
    layer = fastrnn.LSTM(3, 4, bidirectional=True, backend=backend)
    resets = torch.zeros(5, 0, dtype=torch.bool)
    output, _ = layer(torch.zeros(5, 0, 3), lengths=torch.zeros(0, dtype=torch.long), resets=resets)
    assert output.shape == (5, 0, 8)
    output.sum().backward()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.uint16, torch.uint64])
def test_lengths_narrower_than_the_time_axis(dtype: torch.dtype) -> None:
    layer, x = fastrnn.GRU(3, 4), torch.randn(300, 2, 3)
    expected = layer(x, lengths=torch.tensor([5, 100]))[0]
    assert torch.equal(layer(x, lengths=torch.tensor([5, 100], dtype=dtype))[0], expected)


@pytest.mark.parametrize("grad", [True, False])
def test_another_default_device(grad: bool) -> None:
    """As after torch.set_default_device("cuda"), with a model on the CPU or lengths that pack_padded_sequence keeps."""
    layer, x, lengths = fastrnn.LSTM(3, 4, bidirectional=True), torch.randn(5, 2, 3), torch.tensor([5, 3])
    packed, resets = pack_padded_sequence(x, lengths), torch.rand(5, 2) < 0.4
    with torch.device("meta"), torch.set_grad_enabled(grad):
        for options in ({"lengths": lengths}, {"resets": resets}, {"lengths": lengths, "resets": resets}):
            assert layer(x, **options)[0].device.type == "cpu"
        assert layer(packed)[0].data.device.type == "cpu"


class _Whole(nn.Module):
    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        self.rnn = fastrnn.LSTM(3, 4, batch_first=True, backend=backend)
        self.cell = fastrnn.GRUCell(4, 4, backend=backend)

    def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        output, (h, c) = self.rnn(x, lengths=lengths, resets=resets)
        return output, self.cell(h[-1], c[0])


def _arguments(batch: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.randint(0, time + 1, (batch,))
    return torch.randn(batch, time, 3), lengths, torch.rand(batch, time) < 0.4


def test_fx_takes_layers_for_leaves() -> None:
    model = _Whole()
    graph = torch.fx.symbolic_trace(model)
    assert {"rnn", "cell"} == {n.target for n in graph.graph.nodes if n.op == "call_module"}
    arguments = _arguments(2, 5)
    torch.testing.assert_close(graph(*arguments), model(*arguments))


@pytest.mark.parametrize(
    ("backend", "grad"),
    combinations(
        ("auto", "stepwise", "persistent"), (True, False), fast=lambda *case: case[0] == "auto" or case in INTERPRETED
    ),
)
@pytest.mark.filterwarnings("ignore")  # of torch: that TorchScript is deprecated, and which sizes a trace fixes
def test_jit_trace_makes_no_constants_of_masks(backend: str, grad: bool) -> None:
    model = _Whole(backend)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(model, _arguments(2, 5), check_trace=False)
        for sizes in ((2, 5), (2, 5), (3, 7)):
            arguments = _arguments(*sizes)
            torch.testing.assert_close(traced(*arguments), model(*arguments))


class _Doubling(fastrnn.GRU):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * 2


@pytest.mark.filterwarnings("ignore")  # of torch: that TorchScript is deprecated, and which sizes a trace fixes
def test_torchscript_keeps_a_subclasss_forward() -> None:
    x = torch.randn(5, 2, 3)
    assert torch.equal(torch.jit.script(nn.Sequential(_Doubling(3, 4)))(x), x * 2)


@pytest.mark.parametrize("which", ["lengths", "resets"])
@pytest.mark.parametrize("options", [{}, {"proj_size": 2, "bidirectional": True}])
def test_vmap_over_masks(which: str, options: dict[str, Any]) -> None:
    layer = fastrnn.LSTM(3, 4, **options).double()
    x = torch.randn(4, 5, 2, 3, dtype=torch.float64)
    masks = torch.randint(0, 6, (4, 2)) if which == "lengths" else torch.rand(4, 5, 2) < 0.3
    found = torch.func.vmap(lambda x, m: layer(x, **{which: m})[0])(x, masks)
    torch.testing.assert_close(found, torch.stack([layer(v, **{which: m})[0] for v, m in zip(x, masks, strict=True)]))


def test_autocast_of_another_device_leaves_meta_alone() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = fastrnn.LSTM(3, 4, device="meta")(torch.empty(5, 2, 3, device="meta"))
    assert output.shape == (5, 2, 4)


def test_the_references_output_can_be_viewed() -> None:
    output, _ = fastrnn.LSTM(3, 4, backend="reference")(torch.randn(5, 2, 3))
    assert output.view(-1, 4).shape == (10, 4)
