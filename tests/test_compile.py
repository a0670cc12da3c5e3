"""torch.compile, torch.export, AOTInductor, ONNX and TorchScript: each must give the layer's own numbers."""

from __future__ import annotations

import importlib.util
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import as_tuple, initial_state, run_layer, worst_error
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

import fastrnn
from fastrnn import export

# torch's own, of torch.jit, of LeafSpec and of its tracing of a mutated attribute.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAMES = ["LSTM", "GRU", "RNN"]
DYNAMIC = ({0: Dim("T", min=2, max=1000), 1: Dim("B", min=2, max=1000)},)
SIZES = [(6, 2), (7, 9), (11, 8)]  # none equals another size: dynamo takes equal sizes for one


def _layer(name: str, backend: str = "auto", projected: bool = True, **options: Any) -> nn.Module:
    """Two bidirectional layers, or one plain one for the interpreter, which takes its time."""
    if backend in ("persistent", "stepwise"):
        pytest.importorskip("triton")
    if name == "LSTM" and projected:
        options["proj_size"] = 3
    if backend == "auto":
        options |= {"num_layers": 2, "bidirectional": True}
    layer = getattr(fastrnn, name)(3, 5, backend=backend, **options)
    assert isinstance(layer, nn.Module)
    return layer


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["auto", "persistent"])
@pytest.mark.parametrize("name", NAMES)
def test_one_graph_for_every_length_and_batch(name: str, backend: str) -> None:
    """No graph break, forward and backward, and no second compilation when T and B change."""
    layer = _layer(name, backend, projected=backend == "auto")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for T, B in SIZES:
        x, hx = torch.randn(T, B, 3), initial_state(layer, B)
        results = run_layer(layer, x, hx)[1]
        layer.zero_grad()
        inputs = [x.clone().requires_grad_(), *(h.clone().requires_grad_() for h in hx)]
        output, final = compiled(inputs[0], tuple(inputs[1:]) if len(hx) > 1 else inputs[1])
        found = [output, *as_tuple(final)]
        generator = torch.Generator().manual_seed(7)
        upstream = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r) for r in found]
        torch.autograd.backward(found, upstream)
        gradients = [t.grad for t in (*inputs, *layer.parameters())]
        assert worst_error([*found, *(g for g in gradients if g is not None)], results) < 1e-5
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1], "compiled again for another T or B"


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_inductor(name: str) -> None:
    cell = name.endswith("Cell")
    layer = fastrnn.GRUCell(3, 5) if cell else _layer(name)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for T, B in SIZES[:2]:
        x = torch.randn(B, 3) if cell else torch.randn(T, B, 3)
        expected, found = as_tuple(layer(x))[0], as_tuple(compiled(x))[0]
        assert worst_error([found], [expected]) < 1e-5
        found.sin().sum().backward()
        assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("name", NAMES)
def test_export_with_dynamic_length_and_batch(name: str, strict: bool) -> None:
    layer = _layer(name).eval()
    program = torch.export.export(layer, (torch.randn(6, 4, 3),), dynamic_shapes=DYNAMIC, strict=strict)
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    again = torch.export.load(stored).module()
    for T, B in SIZES:
        x = torch.randn(T, B, 3)
        assert worst_error([again(x)[0]], [layer(x)[0]]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_export_into_torchs_own_operators(name: str) -> None:
    layer = _layer(name).eval()
    x = torch.randn(6, 4, 3)
    program = torch.export.export(layer, (x,)).run_decompositions(export.decompositions())
    assert not [n for n in program.graph.nodes if "fastrnn" in str(n.target)]
    assert worst_error([program.module()(x)[0]], [layer(x)[0]]) < 1e-6


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_aot_inductor(tmp_path: Path) -> None:
    layer = fastrnn.GRU(3, 5).eval()
    x = torch.randn(6, 4, 3)
    with torch.no_grad():
        program = torch.export.export(layer, (x,), dynamic_shapes=DYNAMIC)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
        compiled = torch._inductor.aoti_load_package(package)
        for T, B in SIZES:
            x = torch.randn(T, B, 3)
            assert worst_error([compiled(x)[0]], [layer(x)[0]]) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnx, onnxscript and onnxruntime")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [*NAMES, "relu"])
def test_onnx(name: str, bias: bool, tmp_path: Path) -> None:
    import onnxruntime

    options = {"nonlinearity": "relu"} if name == "relu" else {}
    layer = _layer("RNN" if name == "relu" else name, projected=False, bias=bias, **options).eval()
    program = torch.onnx.export(
        layer,
        (torch.randn(6, 4, 3),),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=DYNAMIC,
        custom_translation_table=export.onnx_translation_table(),
        verbose=False,
    )
    assert program is not None
    path = str(tmp_path / "layer.onnx")
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    for T, B in SIZES:
        x = torch.randn(T, B, 3)
        found = [torch.from_numpy(r) for r in session.run(None, {session.get_inputs()[0].name: x.numpy()})]
        output, final = layer(x)
        assert worst_error(found, [output, *as_tuple(final)]) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnxscript")
def test_onnx_refuses_what_its_operators_lack() -> None:
    layer = _layer("LSTM", projected=True).eval()
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as caught:
        torch.onnx.export(
            layer,
            (torch.randn(6, 4, 3),),
            dynamo=True,
            custom_translation_table=export.onnx_translation_table(),
            verbose=False,
        )
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, NotImplementedError):
        cause = cause.__cause__
    assert "no projection" in str(cause)


class _First(nn.Module):
    """The first result of a layer: TorchScript calls torch's layers, which are overloaded, only from another module."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize("name", [*NAMES, "LSTMCell", "GRUCell", "RNNCell"])
def test_torchscript_compiles_torchs_layer(name: str) -> None:
    model = _First(getattr(fastrnn, name)(3, 5))
    scripted = torch.jit.script(model)
    x = torch.randn(4, 3) if name.endswith("Cell") else torch.randn(6, 4, 3)
    assert worst_error([scripted(x)], [model(x)]) < 1e-6
    # torch puts what it scripts into the model it was given; converting again is all it takes.
    assert type(model.layer) is getattr(nn, name)
    fastrnn.convert(model)
    assert type(model.layer) is getattr(fastrnn, name)
    assert worst_error([scripted(x)], [model(x)]) < 1e-6
