"""`resets=`: sequences that start in the middle of a row, against separate runs of the pieces."""

from __future__ import annotations

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
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn.cells import CELLS

PLACES = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 0, 5, 4])], ids=["full", "lengths"])
@pytest.mark.parametrize(
    ("backend", "case"),
    combinations(BACKENDS, CASES, fast=lambda backend, case: is_fast(backend, *case)),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_the_reference_defines_them(backend: str, case: tuple[str, str], lengths: Tensor | None) -> None:
    name, which = case
    if backend == "reference" or (backend in ("stepwise", "persistent") and (which == "plain" or lengths is None)):
        pytest.skip("is the reference itself, or part of another case that takes the interpreter seconds")
    if backend == "persistent" and which != "two directions":
        pytest.skip("was tested by stepwise")
    layer = make(name, OPTIONS[which], backend)
    x, hx = torch.randn(5, 4, 3, dtype=torch.float64), states_of(layer, 4)
    assert_same(
        with_gradients(layer, x, hx, lengths=lengths, resets=PLACES),
        with_gradients(twin(layer, "reference"), x, hx, lengths=lengths, resets=PLACES),
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("direction", [0, 1])
def test_gradcheck_of_the_reference(cell: str, direction: int) -> None:
    resets = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    assert reference_passes_gradcheck(cell, direction, None, resets)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(LAYERS)),
    bidirectional=st.booleans(),
    layers=st.integers(1, 2),
    time=st.integers(2, 7),
    at=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_a_reset_is_two_separate_runs(
    name: str, bidirectional: bool, layers: int, time: int, at: int, seed: int
) -> None:
    """The piece before keeps the forward direction's initial state, the piece after the reverse direction's."""
    torch.manual_seed(seed)
    at = min(at, time - 1)
    layer = make(name, {"bidirectional": bidirectional, "num_layers": layers})
    x, hx = torch.randn(time, 2, 3, dtype=torch.float64), states_of(layer, 2)
    resets = torch.zeros(time, 2, dtype=torch.bool)
    resets[at] = True
    output, *final = call(layer, x, hx, resets=resets)
    directions = 2 if bidirectional else 1
    reverse = (torch.arange(layers * directions) % directions == 1).view(-1, 1, 1)
    before, *before_final = call(layer, x[:at], tuple(h.masked_fill(reverse, 0) for h in hx))
    after, *after_final = call(layer, x[at:], tuple(h.masked_fill(~reverse, 0) for h in hx))
    assert_same([output], [torch.cat((before, after))])
    assert_same(final, [torch.where(reverse, b, a) for b, a in zip(before_final, after_final, strict=True)])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_gradient_crosses(name: str, backend: str) -> None:
    layer = make(name, {"bidirectional": True, "num_layers": 2}, backend)
    x, hx = torch.randn(5, 1, 3, dtype=torch.float64).requires_grad_(), states_of(layer, 1)
    resets = torch.zeros(5, 1, dtype=torch.bool)
    resets[3] = True
    output = call(layer, x, hx, resets=resets)[0]
    (gradient,) = torch.autograd.grad(output[:3].sum(), x, retain_graph=True)
    assert gradient[:3].all()
    assert not gradient[3:].any()
    (gradient,) = torch.autograd.grad(output[3:].sum(), x)
    assert gradient[3:].all()
    assert not gradient[:3].any()


@pytest.mark.parametrize("name", LAYERS)
def test_none_anywhere_changes_nothing_and_at_the_start_drops_hx(name: str) -> None:
    layer = make(name, {})
    x, hx = torch.randn(4, 2, 3, dtype=torch.float64), states_of(layer, 2)
    resets = torch.zeros(4, 2, dtype=torch.bool)
    assert_same(call(layer, x, hx, resets=resets), call(layer, x, hx))
    resets[0] = True
    assert_same(call(layer, x, hx, resets=resets), call(layer, x, None))
    results = with_gradients(layer, x, hx, resets=resets)
    assert not any(g.any() for g in results[len(hx) + 2 : 2 * len(hx) + 2]), "hx gets no gradient"


def test_an_infinite_state_does_not_survive() -> None:
    """Zero state, not the state times zero, which for infinities and NaNs is another thing."""
    layer = make("relu RNN", {})
    x, resets = torch.randn(4, 1, 3, dtype=torch.float64), torch.tensor([[0], [0], [1], [0]], dtype=torch.bool)
    output = layer(x, torch.full((1, 1, 4), float("nan"), dtype=torch.float64), resets=resets)[0]
    assert output[:2].isnan().all()
    assert output[2:].isfinite().all()


def test_batch_first_and_unbatched() -> None:
    layer = make("GRU", {"batch_first": True, "bidirectional": True})
    plain = twin(layer, "auto")
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    output, final = call(layer, x, None, resets=PLACES.t())
    assert_same([output.transpose(0, 1), final], call(plain, x.transpose(0, 1), None, resets=PLACES))
    output, final = call(layer, x[0], None, resets=PLACES[:, 0])
    expected, expected_final = call(plain, x[:1].transpose(0, 1), None, resets=PLACES[:, :1])
    assert_same([output, final], [expected[:, 0], expected_final[:, 0]])


def test_dones_are_one_step_early() -> None:
    """README's line for code that marks an episode's last step."""
    layer, x = make("LSTM", {}), torch.randn(6, 1, 3, dtype=torch.float64)
    dones = torch.tensor([[0], [1], [0], [0], [1], [0]], dtype=torch.bool)
    resets = torch.cat((torch.zeros_like(dones[:1]), dones[:-1]))
    output = call(layer, x, None, resets=resets)[0]
    episodes = [call(layer, x[a:b], None)[0] for a, b in ((0, 2), (2, 5), (5, 6))]
    assert_same([output], [torch.cat(episodes)])


@pytest.mark.slow
def test_compiled_whole_with_dynamic_sizes() -> None:
    layer = fastrnn.GRU(3, 4, num_layers=2, reset_after=False)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for T, B in ((5, 4), (7, 3), (6, 5)):
        x, resets = torch.randn(T, B, 3), torch.rand(T, B) < 0.3
        output, final = compiled(x, resets=resets)
        assert_same([output, final], call(layer, x, None, resets=resets), tolerance=1e-5)
        output.sum().backward()


@pytest.mark.parametrize(
    ("resets", "error", "message"),
    [
        (torch.zeros(5, 4), TypeError, r"a tensor of bool, got torch.float32: resets.bool\(\), or resets > 0"),
        (torch.zeros(5, 4, dtype=torch.long), TypeError, "a tensor of bool, got torch.int64"),
        ([[True]], TypeError, "a tensor of bool, got list"),
        (
            torch.zeros(4, 5, dtype=torch.bool),
            ValueError,
            r"the input's time and batch axes, \(5, 4\), got \(4, 5\)",
        ),
        (torch.zeros(5, dtype=torch.bool), ValueError, r"time and batch axes, \(5, 4\), got \(5,\)"),
    ],
)
def test_bad_input(resets: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastrnn.LSTM(3, 4)(torch.zeros(5, 4, 3), resets=resets)


def test_with_a_packed_sequence() -> None:
    packed = pack_padded_sequence(torch.zeros(5, 4, 3), [5, 4, 3, 2])
    with pytest.raises(ValueError, match="a PackedSequence takes no resets: pass the padded input with lengths="):
        fastrnn.RNN(3, 4)(packed, resets=torch.zeros(5, 4, dtype=torch.bool))
