"""torch.jit.trace, and the ONNX exporter that works by it: what was recorded at one size holds at every other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sequences import LAYERS
from support import as_tuple, combinations
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn

# torch's own: that TorchScript is deprecated, and which sizes a trace fixes.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers, two directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 2, "bidirectional": True},
}
SIZES = [(5, 3), (7, 1), (3, 6), (1, 2)]


class _Packing(nn.Module):
    """Packs, runs the layer, and pads again."""

    def __init__(self, layer: Any, is_sorted: bool, **options: Any) -> None:
        super().__init__()
        self.layer, self.is_sorted, self.options = layer, is_sorted, options

    def forward(self, x: Tensor, lengths: Tensor, *hx: Tensor) -> tuple[Tensor, ...]:
        packed = pack_padded_sequence(x, lengths, self.layer.batch_first, self.is_sorted)
        state = None if not hx else hx if len(hx) > 1 else hx[0]
        output, final, *cells = self.layer(packed, state, **self.options)
        return (*(pad_packed_sequence(p, self.layer.batch_first)[0] for p in (output, *cells)), *as_tuple(final))


class _Keywords(nn.Module):
    """Runs the layer with `lengths`, and with other keywords."""

    def __init__(self, layer: Any, **options: Any) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, x: Tensor, lengths: Tensor, *hx: Tensor) -> tuple[Tensor, ...]:
        state = None if not hx else hx if len(hx) > 1 else hx[0]
        output, final, *cells = self.layer(x, state, lengths=lengths, **self.options)
        return output, *cells, *as_tuple(final)


def _arguments(layer: Any, sizes: tuple[int, int], is_sorted: bool, given: bool) -> list[Tensor]:
    T, B = sizes
    lengths = torch.randint(1, T + 1, (B,))
    lengths[0] = T
    if is_sorted:
        lengths = lengths.sort(descending=True)[0]
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [torch.randn(count, B, layer.proj_size or layer.hidden_size)]
    if layer.mode == "LSTM":
        states.append(torch.randn(count, B, layer.hidden_size))
    return [torch.randn((B, T, 3) if layer.batch_first else (T, B, 3)), lengths, *(states if given else ())]


def _holds_everywhere(
    model: nn.Module, is_sorted: bool, given: bool, grad: bool, held: list[tuple[int, int]] = SIZES
) -> None:
    layer: Any = model.layer
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(model, tuple(_arguments(layer, held[0], is_sorted, given)))
        for sizes in held:
            arguments = _arguments(layer, sizes, is_sorted, given)
            found, expected = traced(*arguments), model(*arguments)
            torch.testing.assert_close(found, expected)
            if not grad:
                continue
            gradients = [
                torch.autograd.grad(sum(r.sin().sum() for r in results), list(layer.parameters()))
                for results in (found, expected)
            ]
            torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("given", [True, False], ids=["given state", "zero state"])
@pytest.mark.parametrize("is_sorted", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("which", OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_packed_input(name: str, which: str, is_sorted: bool, given: bool, grad: bool) -> None:
    if which == "projection" and name != "LSTM":
        pytest.skip("has no projection")
    layer = LAYERS[name](3, 4, batch_first=which == "plain", **OPTIONS[which])
    _holds_everywhere(_Packing(layer, is_sorted), is_sorted, given, grad)


@pytest.mark.parametrize(
    ("name", "grad"),
    combinations(("LSTM", "textbook GRU"), (True, False), fast=lambda name, grad: grad == (name == "LSTM")),
    ids={True: "grad", False: "no grad"}.get,
)
def test_packed_input_of_the_kernels(name: str, grad: bool) -> None:
    pytest.importorskip("triton")
    layer = LAYERS[name](3, 4, backend="stepwise")
    _holds_everywhere(_Packing(layer, False), False, False, grad, [(3, 2), (4, 1), (2, 3)])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "lengths"])
@pytest.mark.parametrize("which", OPTIONS)
def test_every_cell_state(which: str, packed: bool) -> None:
    layer = fastrnn.LSTM(3, 4, batch_first=which != "plain", **OPTIONS[which])
    model = _Packing(layer, False, return_cells=True) if packed else _Keywords(layer, return_cells=True)
    _holds_everywhere(model, False, True, True)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("which", ["plain", "two layers, two directions"])
@pytest.mark.parametrize("name", LAYERS)
def test_lengths(name: str, which: str, grad: bool) -> None:
    layer = LAYERS[name](3, 4, batch_first=True, **OPTIONS[which])
    _holds_everywhere(_Keywords(layer), False, which == "plain", grad)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_reference_is_refused(packed: bool) -> None:
    """Its loop over time would be recorded as so many steps; a cell takes one, whatever comes."""
    layer = fastrnn.GRU(3, 4, backend="reference")
    arguments = tuple(_arguments(layer, (5, 3), True, False))
    traced = (_Packing(layer, True), arguments) if packed else (layer, arguments[:1])
    with pytest.raises(RuntimeError, match="Trace the layer with backend='auto' or 'aten'"):
        torch.jit.trace(*traced)


@pytest.mark.parametrize("backend", ["auto", "reference", "stepwise"])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(name: str, backend: str) -> None:
    if backend == "stepwise":
        pytest.importorskip("triton")
    cell = getattr(fastrnn, name)(3, 4, backend=backend)
    traced = torch.jit.trace(cell, (torch.randn(2, 3),))
    for batch in (2, 1, 5):
        x = torch.randn(batch, 3)
        torch.testing.assert_close(traced(x), cell(x))


_LOADS = """
import sys
import fastrnn.ops
import torch
traced = torch.jit.load(sys.argv[1])
for arguments, expected in torch.load(sys.argv[2]):
    torch.testing.assert_close(traced(*arguments), expected)
"""


def test_a_stored_trace_needs_the_operators_alone(tmp_path: Path) -> None:
    model = _Keywords(fastrnn.LSTM(3, 4))
    files = [str(tmp_path / name) for name in ("model.pt", "cases.pt")]
    torch.jit.save(torch.jit.trace(model, tuple(_arguments(model.layer, (5, 3), False, True))), files[0])
    arguments = _arguments(model.layer, (4, 2), False, True)
    torch.save([(arguments, [r.detach() for r in model(*arguments)])], files[1])
    folder = Path(fastrnn.__file__).parent.parent
    subprocess.run([sys.executable, "-W", "ignore", "-c", _LOADS, *files], check=True, cwd=folder)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnx and onnxruntime")
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_the_onnx_exporter_that_traces(name: str, tmp_path: Path) -> None:
    import onnxruntime

    layer = LAYERS[name](3, 4, bidirectional=True, num_layers=2).eval()
    model = _Packing(layer, True).eval()
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(
        model,
        tuple(_arguments(layer, SIZES[0], True, False)),
        path,
        dynamo=False,
        input_names=["x", "lengths"],
        dynamic_axes={"x": {0: "T", 1: "B"}, "lengths": {0: "B"}},
    )
    session = onnxruntime.InferenceSession(path)
    for sizes in SIZES:
        x, lengths = _arguments(layer, sizes, True, False)
        found = session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})
        with torch.no_grad():
            for a, b in zip(found, model(x, lengths), strict=True):
                torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-5, rtol=1e-4)
