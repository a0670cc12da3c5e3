"""The layers against torch.nn's: every cell, backend and option, outputs and all gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import (
    CELLS,
    FLOAT64_ERROR,
    as_tuple,
    assert_as_good_as_torch,
    combinations,
    forced_launch,
    initial_state,
    layer_pair,
    run_layer,
    worst_error,
)
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "bidirectional": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "everything": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
    "projection": {"proj_size": 5},
    "projection, everything": {"proj_size": 5, "num_layers": 2, "bidirectional": True},
}
BACKENDS = ["auto", "persistent", "stepwise", "aten", "reference"]


def _skip_unless_available(cell: str, backend: str, options: dict[str, Any]) -> None:
    if "proj_size" in options and cell != "lstm":
        pytest.skip("only the LSTM has projections")
    if backend in ("persistent", "stepwise"):
        pytest.importorskip("triton")


# Of the kernels, whose interpreter is slow, the options that come from several launches: each once or twice.
SEVERAL_LAUNCHES = {
    "bidirectional": (("gru", "stepwise"), ("rnn_relu", "persistent")),
    "two layers": (("rnn_tanh", "stepwise"), ("gru", "persistent")),
    "everything": (("rnn_relu", "stepwise"), ("lstm", "persistent")),
    "projection, everything": (("lstm", "stepwise"),),
}


@pytest.mark.parametrize(
    ("cell", "backend", "which"),
    combinations(
        CELLS,
        BACKENDS,
        OPTIONS,
        fast=lambda cell, backend, which: (
            backend not in ("persistent", "stepwise")
            or (cell != "lstm" and "projection" in which)  # skipped
            or (cell, backend) in SEVERAL_LAUNCHES.get(which, ((cell, backend),))
        ),
    ),
)
def test_same_as_torch(cell: str, backend: str, which: str) -> None:
    options = OPTIONS[which]
    _skip_unless_available(cell, backend, options)
    theirs, ours = layer_pair(cell, 7, 13, torch.float64, backend, **options)
    input = torch.randn(3, 4, 7, dtype=torch.float64)
    hx = initial_state(ours, 3 if options.get("batch_first") else 4)
    names, expected = run_layer(theirs, input, hx)
    assert worst_error(run_layer(ours, input, hx)[1], expected) < FLOAT64_ERROR, names


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", CELLS)
def test_unbatched_and_without_state(cell: str, backend: str) -> None:
    _skip_unless_available(cell, backend, {})
    theirs, ours = layer_pair(cell, 3, 5, torch.float64, backend, bidirectional=True)
    input = torch.randn(4, 3, dtype=torch.float64)
    assert worst_error(run_layer(ours, input, None)[1], run_layer(theirs, input, None)[1]) < FLOAT64_ERROR


TIERS = {"split contraction": "lstm", "grouped chunks": "gru", "streamed": "gru"}


@pytest.mark.parametrize(("cell", "tier"), combinations(CELLS, TIERS, fast=lambda cell, tier: TIERS[tier] == cell))
def test_tiers_in_a_whole_layer(cell: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    theirs, ours = layer_pair(cell, 7, 37, torch.float64, "stepwise", bidirectional=True)
    input = torch.randn(2, 3, 7, dtype=torch.float64)
    hx = initial_state(ours, 3)
    with forced_launch(tier, monkeypatch):
        results = run_layer(ours, input, hx)[1]
    assert worst_error(results, run_layer(theirs, input, hx)[1]) < FLOAT64_ERROR


@pytest.mark.parametrize(
    ("cell", "which", "dtype"),
    combinations(
        CELLS[:3],  # test_kernels.py has relu, with inputs away from its kink
        ("bidirectional", "projection"),
        (torch.float16, torch.bfloat16, torch.float32),
        fast=lambda cell, which, dtype: cell == "lstm" or which == "projection" or dtype == torch.bfloat16,
    ),
    ids=str,
)
def test_every_dtype_is_as_good_as_torch(cell: str, which: str, dtype: torch.dtype) -> None:
    options = OPTIONS[which]
    _skip_unless_available(cell, "stepwise", options)
    theirs, ours = layer_pair(cell, 7, 24, dtype, "stepwise", **options)
    truth, _ = layer_pair(cell, 7, 24, torch.float64, "reference", **options)
    truth.load_state_dict(theirs.state_dict())
    input = torch.randn(5, 4, 7).to(dtype)
    hx = initial_state(ours, 4)
    names, results = run_layer(ours, input, hx)
    torchs = run_layer(theirs, input, hx)[1]
    exact = run_layer(truth, input.double(), tuple(h.double() for h in hx))[1]
    assert_as_good_as_torch(results, torchs, exact, dtype, names)


# Cell and `enforce_sorted`: of the kernels, whose interpreter is slow.
PACKED = {
    "persistent": (("lstm", False), ("rnn_relu", True)),
    "stepwise": (("lstm", True), ("gru", False), ("rnn_tanh", True)),
}


@pytest.mark.parametrize(
    ("cell", "backend", "enforce_sorted"),
    combinations(
        CELLS,
        BACKENDS,
        (True, False),
        fast=lambda cell, backend, enforce_sorted: (
            (cell, enforce_sorted) in PACKED.get(backend, ((cell, enforce_sorted),))
        ),
    ),
)
def test_packed_sequences(cell: str, backend: str, enforce_sorted: bool) -> None:
    options = OPTIONS["projection, everything"] if cell == "lstm" and enforce_sorted else OPTIONS["everything"]
    _skip_unless_available(cell, backend, options)
    theirs, ours = layer_pair(cell, 7, 13, torch.float64, backend, **{**options, "batch_first": False})
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 5, 1, 3]
    input = torch.randn(5, 4, 7, dtype=torch.float64)
    hx = initial_state(ours, 4)
    results = []
    for layer in (ours, theirs):
        x = input.clone().requires_grad_()
        states = tuple(h.clone().requires_grad_() for h in hx)
        layer.zero_grad()
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
        output, final = layer(packed, states if len(states) > 1 else states[0])
        padded, lengths_back = pad_packed_sequence(output)
        assert lengths_back.tolist() == lengths
        (padded.sin().sum() + sum((f * f).sum() for f in as_tuple(final))).backward()
        results.append(
            [padded, *as_tuple(final), x.grad, *(s.grad for s in states), *(p.grad for p in layer.parameters())]
        )
    assert worst_error(*results) < FLOAT64_ERROR


@pytest.mark.parametrize("backend", ["stepwise", "reference"])
@pytest.mark.parametrize("part", [0, 1, 2], ids=["output", "h_n", "c_n"])
def test_gradients_through_one_result_alone(part: int, backend: str) -> None:
    pytest.importorskip("triton")
    theirs, ours = layer_pair("lstm", 3, 5, torch.float64, backend, bidirectional=True)
    hx = initial_state(ours, 2)
    input = torch.randn(3, 2, 3, dtype=torch.float64)
    results = []
    for layer in (ours, theirs):
        x, states = input.clone().requires_grad_(), tuple(h.clone().requires_grad_() for h in hx)
        output, final = layer(x, states)
        (output, *final)[part].sin().sum().backward()
        results.append([x.grad, *(s.grad for s in states), layer.weight_hh_l0.grad, layer.weight_hh_l0_reverse.grad])
    assert worst_error(*results) < FLOAT64_ERROR


@pytest.mark.parametrize("backend", ["stepwise", "aten", "reference"])
def test_non_contiguous_tensors(backend: str) -> None:
    pytest.importorskip("triton")
    theirs, ours = layer_pair("gru", 6, 5, torch.float64, backend)
    input = torch.randn(6, 4, 3, dtype=torch.float64).permute(2, 1, 0)
    hx = (torch.randn(1, 5, 4, dtype=torch.float64).transpose(1, 2),)
    assert worst_error(run_layer(ours, input, hx)[1], run_layer(theirs, input, hx)[1]) < FLOAT64_ERROR
    strided = torch.randn(3, 8, 12, dtype=torch.float64)[:, ::2, ::2]
    output, final = ours(strided, hx[0])
    expected, expected_final = theirs(strided, hx[0])
    assert worst_error([output, final], [expected, expected_final]) < FLOAT64_ERROR
    upstream = torch.randn(1, 4, 1, dtype=torch.float64).expand(3, 4, 5)
    ours(strided, hx[0])[0].backward(upstream)
    theirs(strided, hx[0])[0].backward(upstream)
    assert worst_error([ours.weight_hh_l0.grad], [theirs.weight_hh_l0.grad]) < FLOAT64_ERROR


@pytest.mark.parametrize("backend", ["persistent", "aten", "reference"])
def test_parameters_of_any_layout(backend: str) -> None:
    """Transposed in memory, as after loading another framework's matrices without a copy."""
    pytest.importorskip("triton")
    theirs, ours = layer_pair("lstm", 6, 5, torch.float64, backend)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parameter = ours.get_parameter(name)
        parameter.data = parameter.data.t().contiguous().t()
        assert not parameter.is_contiguous()
    input = torch.randn(3, 2, 6, dtype=torch.float64)
    assert worst_error(run_layer(ours, input, None)[1], run_layer(theirs, input, None)[1]) < FLOAT64_ERROR


def test_dropout_between_layers_only() -> None:
    """A fully dropped first layer leaves the second with its biases alone; eval mode drops nothing."""
    pytest.importorskip("triton")
    for backend in ("stepwise", "reference", "aten"):
        layer = fastrnn.GRU(3, 5, num_layers=2, dropout=1.0, backend=backend)
        x, y = torch.randn(2, 4, 2, 3)
        assert torch.allclose(layer(x)[0], layer(y)[0])
        layer.eval()
        assert not torch.allclose(layer(x)[0], layer(y)[0])


@pytest.mark.parametrize("backend", ["auto", "persistent", "stepwise", "aten", "reference"])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(name: str, backend: str) -> None:
    if backend in ("persistent", "stepwise"):
        pytest.importorskip("triton")
    for options in ({}, {"bias": False}, {"nonlinearity": "relu"}):
        if "nonlinearity" in options and name != "RNNCell":
            continue
        theirs = getattr(nn, name)(3, 5, dtype=torch.float64, **options)
        ours = getattr(fastrnn, name)(3, 5, dtype=torch.float64, backend=backend, **options)
        ours.load_state_dict(theirs.state_dict())
        for shape in ((4, 3), (3,)):
            x = torch.randn(shape, dtype=torch.float64)
            h, c = torch.randn(2, *shape[:-1], 5, dtype=torch.float64)
            for hx in (None, (h, c) if name == "LSTMCell" else h):
                assert worst_error(as_tuple(ours(x, hx)), as_tuple(theirs(x, hx))) < FLOAT64_ERROR


@pytest.mark.parametrize("cell", CELLS)
def test_constructor_matches_torch(cell: str) -> None:
    """Names, shapes, order, initial values, repr and state dicts, both ways."""
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}
    if cell == "lstm":
        options["proj_size"] = 3
    theirs, ours = layer_pair(cell, 4, 6, torch.float64, "auto", **options)
    assert repr(ours) == repr(theirs)
    assert [(n, p.shape, p.dtype) for n, p in ours.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in theirs.named_parameters()
    ]
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(3)
    theirs.reset_parameters()
    torch.manual_seed(3)
    ours.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert "backend='reference'" in repr(fastrnn.LSTM(3, 4, backend="reference"))


def test_autocast_computes_in_its_dtype() -> None:
    pytest.importorskip("triton")
    layer = fastrnn.LSTM(3, 5, backend="stepwise")
    x = torch.randn(2, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (h, c) = layer(x)
    assert output.dtype == h.dtype == c.dtype == torch.bfloat16
    output.float().sum().backward()
    assert layer.weight_hh_l0.grad is not None
    assert layer.weight_hh_l0.grad.dtype == torch.float32


def test_an_empty_batch() -> None:
    pytest.importorskip("triton")
    for backend in BACKENDS:
        layer = fastrnn.GRU(3, 5, backend=backend)
        output, h = layer(torch.randn(2, 0, 3))
        assert output.shape == (2, 0, 5)
        assert h.shape == (1, 0, 5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_states_may_be_changed_in_place(name: str, backend: str) -> None:
    """As a loop does that resets rows whose episode has ended."""
    if backend in ("persistent", "stepwise"):
        pytest.importorskip("triton")
    if name == "RNNCell" and backend in ("auto", "aten"):
        pytest.skip("torch's own RNNCell keeps its result for backward")
    for options in ({}, {"proj_size": 2}) if name == "LSTM" else ({},):
        layer = getattr(fastrnn, name)(2, 3, backend=backend, **options)
        result = layer(torch.randn(2, 2) if name.endswith("Cell") else torch.randn(2, 2, 2))
        states = as_tuple(result if name.endswith("Cell") else result[1])
        for state in states:
            state[..., 0, :] = 0
        sum(state.sum() for state in states).backward()
        assert layer.get_parameter("weight_hh" if name.endswith("Cell") else "weight_hh_l0").grad is not None
