"""Autocast: its dtype is the one that runs, in every backend, and gradients come back in the parameters' own."""

from __future__ import annotations

import pytest
import torch
from support import as_tuple, combinations, initial_state, relative_error
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn

DTYPES = [torch.bfloat16, torch.float16]
# A rounding of inputs and weights to the dtype, and as many again for the states of four steps.
ERROR = {torch.bfloat16: 2e-2, torch.float16: 3e-3}


# Of the kernels, whose interpreter is slow.
INTERPRETED = (
    ("LSTM", "persistent", torch.float16),
    ("RNN", "persistent", torch.bfloat16),
    ("GRU", "stepwise", torch.float16),
)


@pytest.mark.parametrize(
    ("name", "backend", "dtype"),
    combinations(
        ("LSTM", "GRU", "RNN"),
        ("auto", "persistent", "stepwise", "reference"),
        DTYPES,
        fast=lambda *case: case[1] in ("auto", "reference") or case in INTERPRETED,
    ),
    ids=str,
)
def test_layers(name: str, backend: str, dtype: torch.dtype) -> None:
    if backend in ("persistent", "stepwise"):
        pytest.importorskip("triton")
    layer = getattr(fastrnn, name)(3, 5, num_layers=2, bidirectional=True, backend=backend)
    x, hx = torch.randn(4, 2, 3, requires_grad=True), initial_state(layer, 2)
    given = hx if len(hx) > 1 else hx[0]
    exact = layer(x, given)[0]
    with torch.autocast("cpu", dtype=dtype):
        output, final = layer(x, given)
        packed, _ = layer(pack_padded_sequence(x, torch.tensor([4, 2])), given)
    assert {output.dtype, packed.data.dtype, *(h.dtype for h in as_tuple(final))} == {dtype}
    assert relative_error(output, exact) < ERROR[dtype]
    output.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(name: str, dtype: torch.dtype) -> None:
    cell = getattr(fastrnn, name)(3, 5)
    x = torch.randn(2, 3)
    with torch.autocast("cpu", dtype=dtype):
        states = as_tuple(cell(x))
    assert {s.dtype for s in states} == {dtype}
    assert relative_error(states[0], as_tuple(cell(x))[0]) < ERROR[dtype]


def test_half_precision_input_meets_float32_weights() -> None:
    """What a preceding autocast layer hands over."""
    layer = fastrnn.LSTM(3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(4, 2, 3, dtype=torch.bfloat16))[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="does not match weight dtype"):
        layer(torch.randn(4, 2, 3, dtype=torch.bfloat16))


def test_off_inside_and_float64() -> None:
    layer = fastrnn.GRU(3, 5)
    double = fastrnn.GRU(3, 5, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            assert layer(torch.randn(4, 2, 3))[0].dtype == torch.float32
        assert double(torch.randn(4, 2, 3, dtype=torch.float64))[0].dtype == torch.float64


def test_the_launch_is_chosen_for_autocasts_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    layer = fastrnn.LSTM(3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fastrnn.explain(layer, torch.randn(4, 2, 3))
    assert "LSTM bfloat16 on cpu" in capsys.readouterr().out
