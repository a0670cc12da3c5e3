"""torch.onnx.export of a model with layers in it, as a package calls it: no table, no keyword of ours."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from support import worst_error
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None,
        reason="needs onnx, onnxscript and onnxruntime",
    ),
    # The exporters' own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

BOTH = {"num_layers": 2, "bidirectional": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", BOTH),
    "batch first": ("LSTM", {**BOTH, "batch_first": True}),
    "projected": ("LSTM", {**BOTH, "proj_size": 3}),
    "no bias": ("LSTM", {**BOTH, "bias": False}),
    "projected without bias": ("LSTM", {"bias": False, "proj_size": 3}),
    "gru": ("GRU", BOTH),
    "textbook gru": ("GRU", {**BOTH, "reset_after": False}),
    "rnn": ("RNN", BOTH),
    "relu": ("RNN", {"nonlinearity": "relu"}),
}
SIZES = [(6, 2), (7, 9), (1, 4), (40, 1)]


class Model(nn.Module):
    """A layer, between others."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, 2)

    def forward(self, x: Tensor, lengths: Tensor | None = None, hx: Any = None) -> Any:
        options = {} if lengths is None else {"lengths": lengths}
        output, final = self.layer(x, hx, **options)
        return output, final, self.head(final[1][-1] if isinstance(final, tuple) else final[-1])


def _flat(results: Any) -> list[Tensor]:
    return (
        [results] if isinstance(results, Tensor) else [t for part in results if part is not None for t in _flat(part)]
    )


def _arguments(layer: nn.Module, T: int, B: int, lengths: bool, given: bool) -> tuple[Any, ...]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h, c = torch.randn(count, B, layer.proj_size or layer.hidden_size), torch.randn(count, B, layer.hidden_size)
    return (
        torch.randn(*((B, T, 3) if layer.batch_first else (T, B, 3))),
        torch.randint(0, T + 1, (B,)) if lengths else None,
        None if not given else (h, c) if layer.mode == "LSTM" else h,
    )


def _session(program: Any, path: Path) -> Any:
    import onnxruntime

    program.save(str(path))
    return onnxruntime.InferenceSession(str(path))


# The cases that are fast without lengths and from zeros, and those that are fast with both.
ZERO = ("lstm", "projected without bias", "relu")
GIVEN = ("batch first", "projected")


def _variants() -> list[Any]:
    """With lengths and a state given, or with neither. The rest, which take seconds each, are slow."""
    found = []
    for case in CASES:
        for lengths, given in itertools.product([True, False], repeat=2):
            fast = case in (GIVEN if lengths else ZERO) and lengths == given
            name = f"{case}, {'lengths' if lengths else 'no lengths'}, {'given' if given else 'zero'} state"
            found.append(pytest.param(case, lengths, given, id=name, marks=[] if fast else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("case", "lengths", "given"), _variants())
def test_a_layer_becomes_onnxs_own_operator(case: str, lengths: bool, given: bool, tmp_path: Path) -> None:
    """One node a layer, whatever T and N; rows of no steps included."""
    kind, options = CASES[case]
    model = Model(getattr(fastrnn, kind)(3, 5, **options)).eval()
    layer = model.layer
    time, batch = Dim("T", min=1, max=1000), Dim("N", min=1, max=1000)
    state = ({1: batch}, {1: batch}) if kind == "LSTM" else {1: batch}
    dynamic = (
        {0: batch, 1: time} if layer.batch_first else {0: time, 1: batch},
        {0: batch} if lengths else None,
        state if given else None,
    )
    args = _arguments(layer, 6, 4, lengths, given)
    program = torch.onnx.export(model, args, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    found = [node.op_type for node in program.model.graph if node.op_type in ("LSTM", "GRU", "RNN", "Scan", "Loop")]
    assert found == [kind] * layer.num_layers
    session = _session(program, tmp_path / "model.onnx")
    for T, B in SIZES:
        args = _arguments(layer, T, B, lengths, given)
        feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), _flat(args), strict=True)}
        results = [torch.from_numpy(r) for r in session.run(None, feed)]
        assert worst_error(results, _flat(model(*args))) < 1e-5


class Packages(nn.Module):
    """What a package's model may hold: a layer, and a cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell = nn.LSTM(3, 5, bidirectional=True, batch_first=True), nn.GRUCell(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        output, h = self.encoder(x)[0], None
        for step in range(3):
            h = self.cell(output[:, step], h)
        assert h is not None
        return h


@pytest.mark.parametrize("subclass", [True, False], ids=["subclass", "plain"])
@pytest.mark.parametrize("dynamo", [True, False], ids=["default", "TorchScript"])
def test_a_converted_model_by_either_exporter(subclass: bool, dynamo: bool, tmp_path: Path) -> None:
    import onnxruntime

    model, x = Packages().eval(), torch.randn(2, 6, 3)
    expected = model(x)
    fastrnn.convert(model, subclass=subclass)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(path)
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert worst_error([torch.from_numpy(results[0])], [expected]) < 1e-5
    assert worst_error([model(x)], [expected]) < 1e-6  # and afterwards it computes as before


def test_backends_that_the_exporting_machine_prefers_do_not_matter(tmp_path: Path) -> None:
    layer, x = fastrnn.GRU(3, 5, backend="reference").eval(), torch.randn(6, 4, 3)
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False)
    assert program is not None
    assert [n.op_type for n in program.model.graph].count("GRU") == 1


class Packs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(3, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Of a model that does not pad again this exporter makes nothing, with torch.nn's layer either.
        output, h_n = self.layer(pack_padded_sequence(x, torch.tensor([6, 5, 5, 1])))
        return pad_packed_sequence(output)[0], h_n


def test_the_older_exporter_takes_packed_input_as_torch_nns(tmp_path: Path) -> None:
    import onnxruntime

    model, x = Packs(), torch.randn(6, 4, 3)
    expected = model(x)
    fastrnn.convert(model)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=False)
    session = onnxruntime.InferenceSession(path)
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert worst_error([torch.from_numpy(r) for r in results], list(expected)) < 1e-5


def _causes(error: BaseException | None) -> str:
    return "" if error is None else f"{error} {_causes(error.__cause__)}"


RESETS, LENGTHS = torch.zeros(6, 4, dtype=torch.bool), torch.tensor([6, 5, 5, 1])


class Asks(nn.Module):
    def __init__(self, layer: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, **self.options)[0]


@pytest.mark.parametrize(
    ("make", "dynamo", "remedy"),
    [
        (Packs, True, "pass the padded input with lengths="),
        (lambda: Asks(fastrnn.LSTM(3, 5), {"resets": RESETS}), True, "cut its input where episodes begin"),
        (lambda: Asks(fastrnn.LSTM(3, 5), {"return_cells": True}), True, "calls a cell step by step"),
        (lambda: Asks(fastrnn.LSTM(3, 5), {"lengths": LENGTHS}), False, "leave dynamo=False out"),
        (lambda: Asks(fastrnn.LSTM(3, 5), {"resets": RESETS}), False, "cut its input where episodes begin"),
        (lambda: Asks(fastrnn.GRU(3, 5, reset_after=False), {}), False, "leave dynamo=False out"),
        (lambda: Asks(fastrnn.GRU(3, 6, heads=2), {}), True, "heads=2: torch.export takes it"),
    ],
    ids=["packed", "resets", "cells", "lengths, older", "resets, older", "textbook, older", "heads"],
)
def test_what_onnx_does_not_have_is_an_error_with_a_remedy(
    make: Any, dynamo: bool, remedy: str, tmp_path: Path
) -> None:
    model = make()
    fastrnn.convert(model)
    with pytest.raises(Exception, match=r".") as caught:
        torch.onnx.export(model, (torch.randn(6, 4, 3),), str(tmp_path / "m.onnx"), dynamo=dynamo, verbose=False)
    assert remedy in _causes(caught.value)
