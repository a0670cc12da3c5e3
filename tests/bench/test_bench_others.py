"""The benchmark's peers of other projects: what their adapters compute, what they lack, and what is not installed."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
import types
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import CPU, TINY, bench, make_brief
from torch import Tensor, nn

from fastrnn.bench import cli
from fastrnn.bench.measuring import measure
from fastrnn.bench.providers.flashrnn import FlashRNN
from fastrnn.bench.providers.haste import Haste
from fastrnn.bench.providers.loops import CompiledLoop, Loop
from fastrnn.bench.providers.provider import Provider, State
from fastrnn.bench.providers.table import PROVIDERS
from fastrnn.bench.providers.torchrl import TorchRL
from fastrnn.bench.rows import cases, record
from fastrnn.bench.rows.cases import Case

BASE = Case("lstm", "train", "float32", 7, 3, 5, 4)
CUDA = torch.device("cuda")
NAMES = ("haste", "flashrnn", "flashrnn-triton", "torchrl")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    make_brief(monkeypatch, tmp_path_factory.mktemp("here"))


def check(case: Case, provider: type[Provider]) -> record.Outcome:
    outcome = measure.check(case, provider, measure.make_truth(case, CPU), CPU)
    assert outcome.status == "ok", outcome.reason
    assert outcome.error is not None
    return outcome


class FakeLayer(nn.Module):
    """haste_pytorch's layers by their documentation: their arguments, layouts, equations and results."""

    def __init__(self, input_size: int, hidden_size: int, gates: int, biases: tuple[str, ...]) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.kernel = nn.Parameter(torch.empty(input_size, hidden_size * gates))
        self.recurrent_kernel = nn.Parameter(torch.empty(hidden_size, hidden_size * gates))
        for name in biases:
            self.register_parameter(name, nn.Parameter(torch.empty(hidden_size * gates)))
        for gate in range(gates):
            nn.init.orthogonal_(self.recurrent_kernel[:, gate * hidden_size : (gate + 1) * hidden_size])

    def zeros(self, x: Tensor) -> Tensor:
        # As haste chooses its kernels: by where the parameters are.
        assert {weight.device.type for weight in self.parameters()} == {"cpu"}
        return x.new_zeros(x.shape[1], self.hidden_size)


class FakeLSTM(FakeLayer):
    """Gates `i g f o`."""

    bias: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 4, ("bias",))

    def forward(self, input: Tensor, state: None = None, lengths: None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = c = self.zeros(input)
        outputs = []
        for x in input:
            i, g, f, o = (x @ self.kernel + h @ self.recurrent_kernel + self.bias).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), (h.unsqueeze(0), c.unsqueeze(0))


class FakeGRU(FakeLayer):
    """Gates `z r h`."""

    bias: Tensor
    recurrent_bias: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 3, ("bias", "recurrent_bias"))

    def forward(self, input: Tensor, state: None = None, lengths: None = None) -> tuple[Tensor, Tensor]:
        h = self.zeros(input)
        outputs = []
        for x in input:
            x_z, x_r, x_n = (x @ self.kernel + self.bias).chunk(3, 1)
            h_z, h_r, h_n = (h @ self.recurrent_kernel + self.recurrent_bias).chunk(3, 1)
            z = torch.sigmoid(x_z + h_z)
            h = z * h + (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            outputs.append(h)
        return torch.stack(outputs), h.unsqueeze(0)


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("haste_pytorch")
    fake.__spec__ = ModuleSpec("haste_pytorch", None)
    fake.__dict__.update(__version__="0.5.0", LSTM=FakeLSTM, GRU=FakeGRU)
    monkeypatch.setitem(sys.modules, "haste_pytorch", fake)


@pytest.mark.usefixtures("haste")
@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_haste(cell: str, mode: str) -> None:
    outcome = check(replace(BASE, cell=cell, mode=mode, dtype="float64"), Haste)
    assert (outcome.backend, outcome.tier) == ("haste", "haste_pytorch 0.5.0")


@pytest.mark.usefixtures("haste")
def test_haste_knows_whether_it_trains() -> None:
    """Its kernels keep what backward needs by that flag."""
    for mode in cases.MODES:
        case = replace(BASE, mode=mode)
        module = Haste(case, measure.make_truth(case, CPU).state).train(case.train)
        module(torch.zeros(2, 3, 5))
        assert module._layer[0].training == case.train


def flashrnn(side_by_side: bool) -> type[Provider]:
    class Plain(FlashRNN):
        backend = "vanilla"

        def __init__(self, case: Case, state: State) -> None:
            super().__init__(case, state)
            self._side_by_side = side_by_side  # a matter of strides, so that the plain backend checks it too

    return Plain


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_flashrnn(cell: str, mode: str, side_by_side: bool) -> None:
    pytest.importorskip("flashrnn")
    case = replace(BASE, cell=cell, mode=mode, dtype="float64")
    outcome = check(case, flashrnn(side_by_side))
    assert outcome.backend == "flashrnn"
    assert str(outcome.tier).startswith("vanilla, flashrnn ")
    if cell == "lstm":
        check(replace(case, return_cells=True), flashrnn(side_by_side))


def test_flashrnn_reads_projections_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fused kernels want `(T, B, heads, H, gates)`; what is not laid out so is copied."""
    pytest.importorskip("flashrnn")
    for cell, backend, layout in (
        ("lstm", "cuda_fused", (1, 0, 3, 4, 2)),
        ("gru", "cuda_fused", (1, 0, 3, 2, 4)),
        ("lstm", "vanilla", (1, 0, 2, 3, 4)),
    ):
        case = replace(BASE, cell=cell)
        monkeypatch.setattr(FlashRNN, "backend", backend)
        layer = FlashRNN(case, measure.make_truth(case, CPU).state)
        projected = layer._projected(torch.randn(7, 3, 5))
        assert projected.shape == (3, 7, 3 if cell == "gru" else 4, 1, 4)
        assert projected.permute(layout).is_contiguous()


@pytest.mark.parametrize("changes", [{}, {"reset_rate": 0.3}, {"layers": 2, "reset_rate": 0.3}])
@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_torchrl(cell: str, mode: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchrl")
    monkeypatch.setattr(TorchRL, "backend", "pad")
    outcome = check(replace(BASE, cell=cell, mode=mode, **changes), TorchRL)
    assert outcome.backend == "torchrl"
    assert str(outcome.tier).startswith("pad, torchrl ")


@pytest.mark.parametrize("allowed", [False, True])
def test_torchrl_follows_the_switch_of_cudnn(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchrl")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    layer = TorchRL(BASE, measure.make_truth(BASE, CPU).state)
    assert layer.module.recurrent_matmul_precision == ("tf32" if allowed else "ieee")
    assert layer.module.recurrent_backend == "triton"


COMPILED: list[dict[str, Any]] = [
    {"dtype": "float64"},
    {"cell": "gru", "layers": 2, "bidirectional": True, "lengths": "uniform", "reset_rate": 0.3},
    {"cell": "gru_textbook", "reset_rate": 0.3},
    {"cell": "rnn_relu", "layers": 2},
    {"cell": "lstm_decay", "layers": 2, "reset_rate": 0.3},
    {"cell": "mgu", "bidirectional": True},
    {"layers": 4, "bidirectional": True, "return_cells": True, "dtype": "bfloat16"},
]
# What torch's compiler says of torch's own code.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def check_compiled(case: Case) -> None:
    counters = torch._dynamo.utils.counters
    for _ in range(3):  # as for the rows of a run; all that is compiled counts against one limit
        counters.clear()
        outcome = check(case, CompiledLoop)
        assert (outcome.backend, outcome.tier) == ("inductor", "compiled cells in a Python loop")
        # At most for two widths of the input, with and without a gradient of the state.
        assert 1 <= counters["stats"]["unique_graphs"] <= 4


@quiet
@pytest.mark.parametrize("changes", COMPILED)
@pytest.mark.parametrize("mode", cases.MODES)
def test_steps_are_one_graph(mode: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    check_compiled(replace(BASE, mode=mode, **changes))


@quiet
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("changes", COMPILED)
@pytest.mark.parametrize("mode", cases.MODES)
def test_compiled(mode: str, changes: dict[str, Any]) -> None:
    check_compiled(replace(BASE, mode=mode, **changes))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("haste", {"cell": "rnn_tanh"}, "haste has no rnn_tanh"),
        ("haste", {"dtype": "bfloat16"}, "haste takes float32 and float64 only"),
        ("haste", {"layers": 2}, "haste runs one layer"),
        ("haste", {"bidirectional": True}, "haste runs in one direction"),
        ("haste", {"lengths": "uniform"}, "haste does not end rows at their lengths"),
        ("haste", {"reset_rate": 0.1}, "haste takes no resets"),
        ("haste", {"return_cells": True}, "haste returns no cells"),
        ("haste", {"dtype": "float64"}, None),
        ("flashrnn", {"cell": "rnn_relu", "H": 16}, "flashrnn has no rnn_relu"),
        ("flashrnn", {"cell": "gru_textbook"}, "flashrnn has no gru_textbook"),
        ("flashrnn", {"dtype": "float64", "H": 16}, "flashrnn takes float16 and bfloat16 and float32 only"),
        ("flashrnn", {"H": 72}, "flashrnn's cuda_fused takes multiples of 16 hidden units"),
        ("flashrnn", {"H": 72, "cell": "gru"}, None),
        ("flashrnn", {"H": 80, "return_cells": True}, None),
        ("flashrnn-triton", {"cell": "gru", "H": 64}, "flashrnn's triton_fused has no gru"),
        ("flashrnn-triton", {"H": 128}, "flashrnn's triton_fused takes 16, 32 or 64 hidden units"),
        ("flashrnn-triton", {"H": 64, "dtype": "bfloat16"}, "flashrnn's triton_fused trains in float32 only"),
        ("flashrnn-triton", {"H": 64, "dtype": "bfloat16", "mode": "forward"}, None),
        ("flashrnn-triton", {"H": 64}, None),
        ("torchrl", {"dtype": "float16"}, "torchrl's triton takes float32 only"),
        ("torchrl", {"return_cells": True}, "torchrl's triton returns no cells"),
        ("torchrl", {"layers": 3, "reset_rate": 0.1, "cell": "gru"}, None),
        ("torch.compile", {"layers": 3, "lengths": "zipf", "return_cells": True}, None),
    ],
)
def test_what_they_lack(
    name: str, changes: dict[str, Any], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert PROVIDERS[name].unable(replace(BASE, **changes), CUDA) == reason


@pytest.mark.parametrize("name", NAMES)
def test_on_a_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = PROVIDERS[name].needs
    monkeypatch.setattr(Provider, "missing", lambda: None)
    code, rows = bench(tmp_path, "run", *TINY, "--provider", name)
    assert code == 0
    assert [(row["status"], row["reason"]) for row in rows] == [("n/a", f"{needs} is measured on CUDA GPUs only")]


@pytest.mark.parametrize("name", NAMES)
def test_not_installed(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    needs, found = PROVIDERS[name].needs, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == needs else found(name))
    assert cli.main(["run", *TINY, "--provider", "fastrnn", "--provider", name]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"fastrnn-bench run: error: --provider {name}: {needs} is not installed; ")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("there", [False, True])
def test_all(there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    modules = {PROVIDERS[name].needs for name in NAMES}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (object() if there else None) if name in modules else found(name)
    )
    # It has tests of its own, and takes its time to compile.
    monkeypatch.setitem(PROVIDERS, "torch.compile", Loop)
    code, rows = bench(tmp_path, "run", *TINY, "--provider", "all", "--provider", "fastrnn")
    assert code == 0
    own = ["torch.nn", "fastrnn", "torch.nn-packed", "loop", "torch.nn-loop", "torch.compile"]
    assert [row["provider"] for row in rows] == own + list(NAMES) * there
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["n/a"] + ["ok"] * 2 + ["n/a"] * 4 * there
    assert rows[1]["ratio"] is not None
