"""torch.compile, torch.export, AOTInductor, ONNX and TorchScript: each must give the layer's own numbers."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import as_tuple, combinations, compiling_environment, initial_state, run_layer, worst_error
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import export

# torch's own, of torch.jit, of LeafSpec and of its tracing of a mutated attribute.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAMES = ["LSTM", "GRU", "RNN"]
DYNAMIC = ({0: Dim("T", min=1, max=1000), 1: Dim("B", min=1, max=1000)},)
SIZES = [(6, 2), (7, 9), (11, 8)]  # none equals another size: dynamo takes equal sizes for one
EXPORTED_SIZES = [*SIZES, (1, 4), (40, 1)]


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


def _case(name: str, **options: Any) -> nn.Module:
    """The layer of `_layer`, or of one of the names that it does not know."""
    if name == "relu":
        return _layer("RNN", nonlinearity="relu", **options)
    if name == "forward":
        return fastrnn.LSTM(3, 5, num_layers=2, proj_size=3, **options)
    return _layer("LSTM" if name == "unprojected" else name, projected=name != "unprojected", **options)


def _state_argument(layer: nn.Module, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """A state as a layer takes it, and what torch.export needs to keep its batch dynamic beside the input's sizes."""
    hx, batch_only = initial_state(layer, batch), {1: DYNAMIC[0][1]}
    return (hx, (*DYNAMIC, (batch_only, batch_only))) if len(hx) > 1 else (hx[0], (*DYNAMIC, batch_only))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "backend"),
    # The kernels' operator is the same for every cell, and their interpreter is slow.
    combinations(NAMES, ("auto", "persistent"), fast=lambda name, backend: name == "LSTM" or backend == "auto"),
)
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


@pytest.mark.parametrize(
    ("name", "grad"),
    combinations(NAMES, (True, False), fast=lambda name, grad: grad == (name != "GRU")),
    ids={True: "training", False: "inference"}.get,
)
def test_one_graph_with_lengths(name: str, grad: bool) -> None:
    """Where nothing traces, a CPU's lengths are looked at: compiled, and exported, they stay arguments."""
    layer = _layer(name)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    with torch.set_grad_enabled(grad):
        example = (torch.randn(5, 3, 3),), {"lengths": torch.tensor([5, 2, 4])}
        dynamic = {"input": DYNAMIC[0], "lengths": {0: DYNAMIC[0][1]}}
        exported = torch.export.export(layer, *example, dynamic_shapes=dynamic).module()
        for T, B in SIZES:
            x, lengths = torch.randn(T, B, 3), torch.randint(0, T + 1, (B,))
            expected = layer(x, lengths=lengths)
            for other in (compiled, exported):
                output, final = other(x, lengths=lengths)
                assert worst_error([output, *as_tuple(final)], [expected[0], *as_tuple(expected[1])]) < 1e-5
    assert counter.frame_count <= 2


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


class _Chain(nn.Module):
    """Every cell, one after the other, over a batch that is twice the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = fastrnn.LSTM(3, 5, bidirectional=True, proj_size=2)
        self.gru = fastrnn.GRU(4, 5, bidirectional=True)
        self.tanh = fastrnn.RNN(10, 5, bias=False)
        self.relu = fastrnn.RNN(5, 5, nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.cat([x, -x], 1)
        x, (h, c) = self.lstm(x)
        results = [h, c]
        for layer in (self.gru, self.tanh, self.relu):
            x, final = layer(x)
            results.append(final)
        return (x, *results)


def _decomposed(model: nn.Module, *args: Any, dynamic: Any = DYNAMIC) -> torch.export.ExportedProgram:
    program = torch.export.export(model, args, dynamic_shapes=dynamic)
    program = program.run_decompositions(export.decompositions())
    assert not [n for n in program.graph.nodes if "fastrnn" in str(n.target)]
    return program


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("LSTM", True),
        ("GRU", True),
        # `_Chain` below has both, and one without biases.
        *(pytest.param(name, name == "relu", marks=pytest.mark.slow) for name in ("RNN", "relu")),
    ],
)
def test_export_into_torchs_own_operators(name: str, bias: bool) -> None:
    """With dynamic sizes, from a given state, differentiable, stored and loaded."""
    layer = _case(name, bias=bias).eval()
    hx, dynamic = _state_argument(layer, 4)
    stored = io.BytesIO()
    torch.export.save(_decomposed(layer, torch.randn(6, 4, 3), hx, dynamic=dynamic), stored)
    stored.seek(0)
    again = torch.export.load(stored).module()
    for T, B in EXPORTED_SIZES:
        x, (hx, _) = torch.randn(T, B, 3), _state_argument(layer, B)
        with torch.no_grad():
            found, expected = again(x, hx), layer(x, hx)
        assert worst_error([found[0], *as_tuple(found[1])], [expected[0], *as_tuple(expected[1])]) < 1e-6
    x.requires_grad_()
    gradients = [torch.autograd.grad(m(x, hx)[0].sin().sum(), x) for m in (again, layer)]
    assert worst_error(*gradients) < 1e-5


class _Packed(nn.Module):
    """The operator over a PackedSequence: torch.export does not trace the layer over one, whose sizes are data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = fastrnn.GRU(3, 5)

    def forward(self, data: Tensor, batch_sizes: Tensor, h: Tensor) -> Tensor:
        weights = list(self.layer.parameters())
        return torch.ops.fastrnn.aten_layer(data, batch_sizes, [h], weights, "gru")[0]


def test_a_packed_sequence_is_refused_in_other_terms() -> None:
    model = _Packed().eval()
    args = (torch.randn(7, 3), torch.tensor([3, 2, 2]), torch.randn(1, 3, 5))
    with pytest.raises(NotImplementedError, match="PackedSequence"):
        _decomposed(model, *args, dynamic=None)
    if importlib.util.find_spec("onnxscript") is None:
        return
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as caught:
        torch.onnx.export(
            model, args, dynamo=True, custom_translation_table=export.onnx_translation_table(), verbose=False
        )
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, NotImplementedError):
        cause = cause.__cause__
    assert "PackedSequence" in str(cause)


# Of what calls the compiled code, which takes a quarter of the time otherwise.
UNOPTIMIZED = {"aot_inductor.compile_wrapper_opt_level": "O0"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_aot_inductor(tmp_path: Path) -> None:
    layer = fastrnn.GRU(3, 5).eval()
    x = torch.randn(6, 4, 3)
    with torch.no_grad():
        program = torch.export.export(layer, (x,), dynamic_shapes=DYNAMIC)
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "layer.pt2"), inductor_configs=UNOPTIMIZED
        )
        compiled = torch._inductor.aoti_load_package(package)
        for T, B in SIZES:
            x = torch.randn(T, B, 3)
            assert worst_error([compiled(x)[0]], [layer(x)[0]]) < 1e-5


_WITHOUT_FASTRNN = """
import sys
import torch
model = torch._inductor.aoti_load_package(sys.argv[1])
torch.save([model(x) for x in torch.load(sys.argv[2])], sys.argv[3])
assert "fastrnn" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="torch 2.11 asserts at a scan, of fixed sizes too: codegen_subgraph_prefix"
)
def test_aot_inductor_without_fastrnn(tmp_path: Path) -> None:
    """What a decomposed program was compiled to runs in a process that never imports fastrnn."""
    model = _Chain().eval()
    files = [str(tmp_path / name) for name in ("model.pt2", "inputs.pt", "results.pt")]
    inputs = [torch.randn(T, B, 3) for T, B in EXPORTED_SIZES]
    with torch.no_grad():
        program = _decomposed(model, torch.randn(6, 4, 3))
        torch._inductor.aoti_compile_and_package(program, package_path=files[0], inductor_configs=UNOPTIMIZED)
        torch.save(inputs, files[1])
        command = [sys.executable, "-c", _WITHOUT_FASTRNN, *files]
        subprocess.run(command, check=True, cwd=tmp_path, env=compiling_environment())
        for x, found in zip(inputs, torch.load(files[2]), strict=True):
            assert worst_error(found, model(x)) < 1e-5


# Each name, with and without biases, from a given state and from zeros; tests/graphs/test_onnx.py has the cells.
EXPORTED = (
    ("LSTM", True, True),
    ("GRU", True, False),
    ("RNN", False, True),
    ("relu", True, True),
    ("unprojected", True, True),
    ("forward", False, False),
)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnx, onnxscript and onnxruntime")
@pytest.mark.parametrize(
    ("name", "bias", "given"),
    combinations(
        (*NAMES, "relu", "unprojected", "forward"), (True, False), (True, False), fast=lambda *case: case in EXPORTED
    ),
)
def test_onnx_of_an_exported_program(name: str, bias: bool, given: bool, tmp_path: Path) -> None:
    """By the translation table; models need none, tests/graphs/test_onnx.py."""
    import onnxruntime

    layer = _case(name, bias=bias).eval()
    args, dynamic = [torch.randn(6, 4, 3)], DYNAMIC
    if given:
        hx, dynamic = _state_argument(layer, 4)
        args.append(hx)
    exported = torch.export.export(layer, tuple(args), dynamic_shapes=dynamic)
    assert "fastrnn.aten_layer" in str(exported.graph)
    program = torch.onnx.export(
        exported,
        dynamo=True,
        opset_version=18,
        custom_translation_table=export.onnx_translation_table(),
        verbose=False,
    )
    assert program is not None
    path = str(tmp_path / "layer.onnx")
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    for T, B in EXPORTED_SIZES:
        args = [torch.randn(T, B, 3)]
        if given:
            args.append(_state_argument(layer, B)[0])
        feed = [args[0], *(as_tuple(args[1]) if given else ())]
        names = [i.name for i in session.get_inputs()]
        found = session.run(None, {n: t.numpy() for n, t in zip(names, feed, strict=True)})
        output, final = layer(*args)
        assert worst_error([torch.from_numpy(r) for r in found], [output, *as_tuple(final)]) < 1e-5


class _Both(nn.Module):
    """What Dynamo refuses of torch.nn, and a cell, which it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTM(3, 5, 2, bidirectional=True), nn.GRU(10, 4), nn.RNN(4, 4)
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rnn(self.gru(self.lstm(x)[0])[0])[0]
        return self.cell(x[-1])[0] + 1


@pytest.mark.parametrize(
    ("subclass", "allow_rnn"),
    # What compiles without allow_rnn does with it.
    combinations((True, False), (True, False), fast=lambda subclass, allow_rnn: subclass != allow_rnn),
)
def test_fullgraph_of_a_converted_model(subclass: bool, allow_rnn: bool) -> None:
    """Instances of torch.nn's classes compile in one graph with allow_rnn, and others without it, too."""
    model, counter = _Both(), CompileCounterWithBackend("aot_eager")
    fastrnn.convert(model, subclass=subclass)
    assert isinstance(model.gru, nn.GRU) is subclass
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch._dynamo.config.patch(allow_rnn=allow_rnn):
        if subclass and not allow_rnn:
            with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
                compiled(torch.randn(6, 2, 3))
            return
        for T, B in SIZES:
            x = torch.randn(T, B, 3)
            assert worst_error([compiled(x)], [model(x)]) < 1e-6
            compiled(x).sum().backward()
    assert counter.frame_count <= 2  # the second with T and B dynamic


def test_where_dynamo_breaks_its_graph_it_leaves_the_layer_alone() -> None:
    """As it does torch.nn's: what the layer calls is not compiled piece by piece."""
    model, counter = _Both(), CompileCounterWithBackend("eager")
    fastrnn.convert(model)
    compiled = torch.compile(model, backend=counter)
    for T, B in SIZES:
        x = torch.randn(T, B, 3)
        assert worst_error([compiled(x)], [model(x)]) < 1e-6
    nodes = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert nodes.count("<built-in function add>") <= 2
    assert not any("aten_layer" in node for node in nodes)
    torchs = CompileCounterWithBackend("eager")
    fastrnn.revert(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=torchs)
    for T, B in SIZES:
        compiled(torch.randn(T, B, 3))
    assert counter.frame_count <= torchs.frame_count + 2  # the cell's own frame, which torch.nn's is without


class _First(nn.Module):
    """The first result of a layer: TorchScript calls torch's layers, which are overloaded, only from another module."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("subclass", [True, False], ids=["subclass", "plain"])
@pytest.mark.parametrize("name", [*NAMES, "LSTMCell", "GRUCell", "RNNCell"])
def test_torchscript_and_fx_of_a_converted_layer(name: str, subclass: bool) -> None:
    model = _First(getattr(nn, name)(3, 5))
    x = torch.randn(4, 3) if name.endswith("Cell") else torch.randn(6, 4, 3)
    expected = model(x)
    fastrnn.convert(model, subclass=subclass)
    traced = torch.fx.symbolic_trace(model)
    assert [str(node.target) for node in traced.graph.nodes if node.op == "call_module"] == ["layer"]
    assert worst_error([traced(x), torch.jit.trace(model, (x,))(x)], [expected, expected]) < 1e-6
    scripted = torch.jit.script(model)
    assert "aten::" in str(scripted.inlined_graph)
    assert worst_error([scripted(x)], [expected]) < 1e-6


@pytest.mark.parametrize("name", [*NAMES, "LSTMCell", "GRUCell", "RNNCell"])
def test_torchscript_compiles_torchs_layer(name: str) -> None:
    model = _First(getattr(fastrnn, name)(3, 5))
    scripted = torch.jit.script(model)
    x = torch.randn(4, 3) if name.endswith("Cell") else torch.randn(6, 4, 3)
    assert worst_error([scripted(x)], [model(x)]) < 1e-6
    # torch puts what it scripts into the model it was given; converting again is all it takes.
    assert type(model.layer) is getattr(nn, name)
    fastrnn.convert(model)
    assert isinstance(model.layer, getattr(fastrnn, name))
    assert worst_error([scripted(x)], [model(x)]) < 1e-6


class _Packing(nn.Module):
    """What models do around a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = getattr(fastrnn, name)(3, 5, bidirectional=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        output, final = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return self.head(pad_packed_sequence(output)[0]), final


@pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="after any break, torch 2.11's Dynamo fails in pad_packed_sequence"
)
@pytest.mark.parametrize("name", NAMES)
def test_dynamo_stays_out_of_a_call_with_a_packed_sequence(name: str) -> None:
    """One graph, of the layer after it; the call itself was five, and one more compilation for each size."""
    model, counter = _Packing(name), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter)
    for lengths in ([7, 2, 4], [3, 5], [6, 6, 1, 1]):
        x = torch.randn(max(lengths), len(lengths), 3)
        for ours, expected in zip(
            as_tuple(compiled(x, torch.tensor(lengths))[1]), as_tuple(model(x, torch.tensor(lengths))[1]), strict=True
        ):
            torch.testing.assert_close(ours, expected)
    operators = {node.target for graph in counter.graphs for node in graph.graph.nodes if node.op == "call_function"}
    assert operators == {torch._C._nn.linear}
    assert counter.frame_count <= 2
