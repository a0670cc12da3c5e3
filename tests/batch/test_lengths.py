"""`lengths=`: rows of unequal length in one batch, against torch.nn's packed layers and against each row alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("hypothesis")  # `make test-gpu` does without

from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import (
    BACKENDS,
    CASES,
    LAYERS,
    OPTIONS,
    assert_same,
    call,
    is_fast,
    make,
    reference_passes_gradcheck,
    states_of,
    twin,
    with_gradients,
)
from support import combinations
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn.backends import packed_cost
from fastrnn.cells import CELLS

LENGTHS = torch.tensor([3, 5, 1, 4])  # unsorted, one of them T


@pytest.fixture(autouse=True)
def packed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trains rows of unequal length on a CPU, whatever is the faster there: the scan, unless parametrized."""
    monkeypatch.setattr(packed_cost, "MARGIN", {"scan": 0.0, "layer": math.inf}[getattr(request, "param", "scan")])


BOTH_WAYS = pytest.mark.parametrize("packed_by", ["scan", "layer"], indirect=True)


@pytest.mark.parametrize(
    ("backend", "case"),
    combinations(BACKENDS, CASES, fast=lambda backend, case: is_fast(backend, *case)),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_the_reference_defines_them(backend: str, case: tuple[str, str]) -> None:
    name, which = case
    if backend == "reference" or (backend in ("stepwise", "persistent") and which == "plain"):
        pytest.skip("is the reference itself, or part of another case that takes the interpreter seconds")
    if backend == "persistent" and which != "two directions":
        pytest.skip("was tested by stepwise")
    layer = make(name, OPTIONS[which], backend)
    x, hx, lengths = torch.randn(5, 4, 3, dtype=torch.float64), states_of(layer, 4), torch.tensor([3, 0, 5, 1])
    assert_same(
        with_gradients(layer, x, hx, lengths=lengths),
        with_gradients(twin(layer, "reference"), x, hx, lengths=lengths),
    )


@BOTH_WAYS
@pytest.mark.parametrize(("name", "which"), [case for case in CASES if case[0] != "textbook GRU"])
@pytest.mark.parametrize("packed", [False, True], ids=["lengths", "PackedSequence"])
def test_torch_packed_agrees(name: str, which: str, packed: bool) -> None:
    """On the CPU, forward and backward, with `lengths` and with a PackedSequence of unsorted rows."""
    layer = make(name, OPTIONS[which])
    kind = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(layer.mode, nn.RNN)
    options = dict(OPTIONS[which])
    if name == "relu RNN":
        options["nonlinearity"] = "relu"
    theirs = kind(3, 4, dtype=torch.float64, **options)
    theirs.load_state_dict(layer.state_dict())
    x, hx = torch.randn(5, 4, 3, dtype=torch.float64), states_of(layer, 4)

    def through_packing(module: Any) -> Any:
        def forward(input: Tensor, hx: Any) -> Any:
            output, final = module(pack_padded_sequence(input, LENGTHS, enforce_sorted=False), hx)
            return pad_packed_sequence(output)[0], final

        forward.parameters = module.parameters  # type: ignore[attr-defined]  # all that `with_gradients` needs
        return forward

    expected = with_gradients(through_packing(theirs), x, hx)
    ours = with_gradients(through_packing(layer), x, hx) if packed else with_gradients(layer, x, hx, lengths=LENGTHS)
    assert_same(ours, expected)
    with torch.no_grad():
        without = call(through_packing(layer), x, hx) if packed else call(layer, x, hx, lengths=LENGTHS)
        assert_same(without, expected[: len(without)])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("direction", [0, 1])
def test_gradcheck_of_the_reference(cell: str, direction: int) -> None:
    assert reference_passes_gradcheck(cell, direction, torch.tensor([2, 0, 4]), None)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(LAYERS)),
    bidirectional=st.booleans(),
    layers=st.integers(1, 2),
    time=st.integers(1, 6),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    batch_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_row_alone_is_the_row_in_the_batch(
    name: str, bidirectional: bool, layers: int, time: int, lengths: list[int], batch_first: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = make(name, {"bidirectional": bidirectional, "num_layers": layers, "batch_first": batch_first})
    lengths = [min(n, time) for n in lengths]
    x, hx = torch.randn(time, len(lengths), 3, dtype=torch.float64), states_of(layer, len(lengths))
    output, *final = call(layer, x.transpose(0, 1) if batch_first else x, hx, lengths=torch.tensor(lengths))
    if batch_first:
        output = output.transpose(0, 1)
    for b, n in enumerate(lengths):
        assert not output[n:, b].any(), "zero past its length"
        own = tuple(h[:, b : b + 1] for h in hx)
        if n == 0:
            expected = list(own)
        else:
            alone = x[:n, b : b + 1]
            expected_output, *expected = call(layer, alone.transpose(0, 1) if batch_first else alone, own)
            if batch_first:
                expected_output = expected_output.transpose(0, 1)
            assert_same([output[:n, b : b + 1]], [expected_output])
        assert_same([h[:, b : b + 1] for h in final], expected)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("name", "backend"),
    # Of the kernels, whose interpreter is slow, those of the cells that differ most.
    combinations(
        LAYERS,
        BACKENDS,
        fast=lambda name, backend: (
            name in {"stepwise": ("LSTM", "RNN"), "persistent": ("textbook GRU", "GRU")}.get(backend, LAYERS)
        ),
    ),
)
def test_what_lies_past_a_row_does_not_matter(name: str, backend: str, request: pytest.FixtureRequest) -> None:
    if backend != "auto" and "layer" in request.node.name:
        pytest.skip("only a CPU's own backend has a choice")
    layer = make(name, {"bidirectional": True}, backend)
    x, hx, lengths = torch.randn(5, 4, 3, dtype=torch.float64), states_of(layer, 4), torch.tensor([3, 0, 5, 1])
    poisoned = x.clone()
    for b, n in enumerate(lengths.tolist()):
        poisoned[n:, b] = float("nan")
    results, expected = (with_gradients(layer, input, hx, lengths=lengths) for input in (poisoned, x))
    assert_same(results, expected, tolerance=1e-30)
    gradient = results[len(hx) + 1]
    assert all(not gradient[n:, b].any() for b, n in enumerate(lengths.tolist()))


@pytest.mark.parametrize("lengths", [[0, 0, 0, 0], [0, 2, 0, 5], [5, 5, 5, 5]], ids=str)
@pytest.mark.parametrize("which", OPTIONS)
def test_inference_by_torchs_packed_layer(which: str, lengths: list[int]) -> None:
    """Without gradients torch's own layer runs on the CPU, which knows no row of length 0."""
    layer = make("LSTM", OPTIONS[which])
    x, hx, given = torch.randn(5, 4, 3, dtype=torch.float64), states_of(layer, 4), torch.tensor(lengths)
    with torch.no_grad():
        assert_same(call(layer, x, hx, lengths=given), call(twin(layer, "reference"), x, hx, lengths=given))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_no_time_step_at_all(grad: bool) -> None:
    """What is wrong is said in the same words with and without gradients."""
    layer = make("LSTM", {})
    for lengths in (torch.zeros(4, dtype=torch.long), None):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
            call(layer, torch.randn(0, 4, 3, dtype=torch.float64), None, lengths=lengths)


@BOTH_WAYS
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_any_integer_dtype(dtype: torch.dtype) -> None:
    layer, x = make("GRU", {}), torch.randn(5, 4, 3, dtype=torch.float64)
    assert_same(call(layer, x, None, lengths=LENGTHS.to(dtype)), call(layer, x, None, lengths=LENGTHS))


@BOTH_WAYS
def test_unbatched() -> None:
    layer, x = make("LSTM", {"bidirectional": True}), torch.randn(5, 3, dtype=torch.float64)
    output, h, c = call(layer, x, None, lengths=torch.tensor(3))
    expected = call(layer, x[:3], None)
    assert_same([output[:3], h, c], expected)
    assert not output[3:].any()


@BOTH_WAYS
def test_autocast_and_sixteen_bits() -> None:
    """The aten backend computes 16-bit scans in float32; results come in the dtype asked for."""
    layer, x = fastrnn.LSTM(3, 4), torch.randn(5, 4, 3)
    exact = call(layer, x, None, lengths=LENGTHS)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            rounded = call(layer, x, None, lengths=LENGTHS)
        assert {r.dtype for r in rounded} == {dtype}
        assert_same([r.float() for r in rounded], exact, tolerance=3e-2)


def test_compiled_whole_with_dynamic_sizes() -> None:
    layer = fastrnn.LSTM(3, 4, bidirectional=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for T, B in ((5, 4), (7, 3), (6, 5)):
        x, lengths = torch.randn(T, B, 3), torch.randint(0, T + 1, (B,))
        output, final = compiled(x, lengths=lengths)
        expected, expected_final = layer(x, lengths=lengths)
        assert_same([output, *final], [expected, *expected_final], tolerance=1e-5)
        output.sum().backward()


class TestBadInput:
    layer = fastrnn.GRU(3, 4)
    x = torch.zeros(5, 4, 3)

    @pytest.mark.parametrize(
        ("lengths", "error", "message"),
        [
            (torch.tensor([1, -1, 2, 3]), ValueError, "between 0 and the 5 time steps of the input, got -1 to 3"),
            (torch.tensor([1, 6, 2, 3]), ValueError, "between 0 and the 5 time steps of the input, got 1 to 6"),
            (torch.tensor([1, 2, 3]), ValueError, r"should have shape \(4,\), one per row of the batch, got \(3,\)"),
            (torch.ones(4, 1, dtype=torch.long), ValueError, r"should have shape \(4,\).*got \(4, 1\)"),
            (torch.ones(4), TypeError, "a tensor of integers, got torch.float32"),
            (torch.ones(4, dtype=torch.bool), TypeError, "a tensor of integers, got torch.bool"),
            ([1, 2, 3, 4], TypeError, r"a tensor of integers, got list: torch.tensor\(lengths\)"),
        ],
    )
    def test_lengths(self, lengths: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            self.layer(self.x, lengths=lengths)

    def test_with_a_packed_sequence(self) -> None:
        packed = pack_padded_sequence(self.x, [5, 4, 3, 2])
        with pytest.raises(ValueError, match="a PackedSequence takes no lengths: pass the padded input with lengths="):
            self.layer(packed, lengths=torch.tensor([5, 4, 3, 2]))


@pytest.mark.parametrize(
    ("packed_by", "runs"),
    [("scan", "step by step, for lengths, whose gradient"), ("layer", "runs: torch's own kernels")],
    indirect=["packed_by"],
)
def test_explain_says_what_runs(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    fastrnn.explain(TestBadInput.layer, TestBadInput.x, lengths=LENGTHS)
    text = capsys.readouterr().out
    assert "lengths" in text.splitlines()[0]
    assert runs in text


@pytest.mark.parametrize("enabled", [True, False])
def test_debug_nests(enabled: bool) -> None:
    from fastrnn.layers.checks import _DEBUG

    with fastrnn.debug(), fastrnn.debug(enabled):
        assert _DEBUG.get() is enabled
    assert not _DEBUG.get()
