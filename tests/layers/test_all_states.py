"""`return_cells=True`: every c_t of the last layer, against a loop of cells."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("hypothesis")  # `make test-gpu` does without

from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import BACKENDS, OPTIONS, assert_same, call, make, states_of, twin, with_gradients
from support import combinations
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn

# Of the kernels, whose interpreter is slow.
INTERPRETED = (
    ("stepwise", "plain", True),
    ("stepwise", "two directions", False),
    ("stepwise", "projection", True),
    ("persistent", "plain", False),
    ("persistent", "two directions", True),
    ("persistent", "two layers, two directions, no bias", False),
)


@pytest.mark.parametrize(
    ("backend", "which", "masked"),
    combinations(
        BACKENDS,
        OPTIONS,
        (False, True),
        fast=lambda *case: case[0] in ("auto", "reference") or case in INTERPRETED,
    ),
    ids={False: "full", True: "lengths and resets"}.get,
)
def test_the_reference_defines_them(backend: str, which: str, masked: bool) -> None:
    """With gradients: through the cells, the outputs and the final states at once."""
    layer = make("LSTM", OPTIONS[which], backend)
    x, hx = torch.randn(5, 4, 3, dtype=torch.float64), states_of(layer, 4)
    options = {"lengths": torch.tensor([3, 0, 5, 4]), "resets": torch.rand(5, 4) < 0.3} if masked else {}
    results = with_gradients(layer, x, hx, return_cells=True, **options)
    directions = 2 if layer.bidirectional else 1
    assert results[3].shape == (5, 4, directions * 4)
    assert_same(results, with_gradients(twin(layer, "reference"), x, hx, return_cells=True, **options))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_of_cells_agrees(backend: str) -> None:
    layer = make("LSTM", {}, backend)
    cell = nn.LSTMCell(3, 4, dtype=torch.float64)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, (h, c) = torch.randn(5, 2, 3, dtype=torch.float64), states_of(layer, 2)
    output, _, _, cells = call(layer, x, (h, c), return_cells=True)
    h, c = h[0], c[0]
    for t in range(5):
        h, c = cell(x[t], (h, c))
        assert_same([output[t], cells[t]], [h, c])


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    bidirectional=st.booleans(),
    proj_size=st.sampled_from([0, 2]),
    backend=st.sampled_from(["auto", "reference"]),
)
def test_the_last_of_a_row_is_its_final_state(
    lengths: list[int], bidirectional: bool, proj_size: int, backend: str
) -> None:
    layer = make("LSTM", {"bidirectional": bidirectional, "proj_size": proj_size}, backend)
    batch = len(lengths)
    x, hx = torch.randn(5, batch, 3, dtype=torch.float64), states_of(layer, batch)
    _, _, c, cells = call(layer, x, hx, lengths=torch.tensor(lengths), return_cells=True)
    for b, n in enumerate(lengths):
        assert_same([cells[n - 1, b, :4]], [c[0, b]])
        if bidirectional:
            assert_same([cells[0, b, 4:]], [c[1, b]])
        assert not cells[n:, b].any(), "zero past its length"


def test_inference_keeps_nothing_else() -> None:
    layer, x = fastrnn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)
    expected = [r.detach() for r in call(layer, x, None, return_cells=True)]
    with torch.no_grad():
        assert_same(call(layer, x, None, return_cells=True), expected, tolerance=1e-6)


def test_layouts() -> None:
    layer = make("LSTM", {"batch_first": True})
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    output, _, _, cells = call(layer, x, None, return_cells=True)
    assert cells.shape == output.shape == (4, 5, 4)
    assert_same([call(layer, x[1], None, return_cells=True)[3]], [cells[1]])
    packed = pack_padded_sequence(x, [5, 2, 4, 1], batch_first=True, enforce_sorted=False)
    packed_cells = layer(packed, return_cells=True)[2]
    assert isinstance(packed_cells, PackedSequence)
    padded, _ = pad_packed_sequence(packed_cells, batch_first=True)
    assert_same([padded], [call(layer, x, None, lengths=torch.tensor([5, 2, 4, 1]), return_cells=True)[3]])


def test_only_an_lstm_has_them() -> None:
    """A GRU's or RNN's only state is h, and its output holds every one."""
    with pytest.raises(TypeError, match="return_cells"):
        fastrnn.GRU(3, 4)(torch.zeros(1, 1, 3), return_cells=True)  # type: ignore[call-arg]  # the mistake meant


def test_a_second_derivative_passes_through_the_cells() -> None:
    layer, x = make("LSTM", {}), torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, return_cells=True)[2], (x,))
