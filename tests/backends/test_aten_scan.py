"""The scan in torch's own operators against the reference, and what decides between it and torch's packed layer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastrnn
from fastrnn.backends import aten_scan, aten_scan_backward, packed_cost, reference
from fastrnn.bench.measuring import packed
from fastrnn.cells import CELLS, Cell
from fastrnn.kernels.tensors import Inputs, Kept, Upstream

T, B, H = 7, 5, 3
LENGTHS = {
    "full": None,
    "sorted": torch.tensor([7, 4, 4, 1, 0], dtype=torch.int32),
    "equal": torch.tensor([5, 5, 5, 5, 5], dtype=torch.int32),
    "unsorted": torch.tensor([2, 0, 7, 3, 7], dtype=torch.int32),
}
RESETS = {"none": None, "some": torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.3}


BLOCKS = {"steps alone": 1, "a few steps": 4 * H, "all steps": 1 << 15}


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many steps' coefficients and views are made at once."""
    for module in (aten_scan, aten_scan_backward):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", BLOCKS[request.param])


def _tensors(cell: Cell, directions: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(5)
    shapes = ((T, B, directions, cell.gates, H), (directions, cell.gates, H, H), (cell.states, directions, B, H))
    x, weight, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    bias = torch.randn(directions, cell.gates, H, dtype=torch.float64) if cell.splits_bias else None
    return x, weight, bias, state


@pytest.mark.parametrize(
    ("block", "upstream"),
    [*((block, "all") for block in BLOCKS), ("a few steps", "output"), ("a few steps", "final")],
    indirect=["block"],
)
@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", CELLS)
def test_the_reference_defines_it(block: None, name: str, lengths: str, resets: str, upstream: str) -> None:
    cell, masks = CELLS[name], (LENGTHS[lengths], RESETS[resets])
    x, weight, bias, state = _tensors(cell, 2)
    x.requires_grad_()
    state.requires_grad_()
    inputs = Inputs(x, weight, bias, state, *masks)
    expected = reference.scan(inputs, cell)[:3]
    with torch.no_grad():
        *results, saved = aten_scan.scan(inputs, cell, True, True)
    for ours, truth in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, truth.detach())
    given: list[Tensor | None] = [torch.randn_like(r) for r in results]
    if upstream != "all":
        given = [g if which == upstream else None for g, which in zip(given, ("output", "final", "cells"), strict=True)]
    if cell.states == 1:
        given[2] = None
    pairs = [(r, g) for r, g in zip(expected, given, strict=True) if g is not None]
    dx, dstate = torch.autograd.grad([r for r, _ in pairs], [x, state], [g for _, g in pairs])
    output, _, cells = results
    with torch.no_grad():
        ours = aten_scan_backward.scan_backward(
            Upstream(*given), Kept(weight, state, *masks, output, cells, saved), cell
        )
    torch.testing.assert_close(ours[0], dx)
    torch.testing.assert_close(ours[2], dstate)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", CELLS)
def test_an_infinite_gradient_stays_in_its_row_and_its_episode(name: str, lengths: str) -> None:
    """A zero coefficient times infinity would be NaN: nothing may multiply across a boundary."""
    cell, given = CELLS[name], LENGTHS[lengths]
    x, weight, bias, state = _tensors(cell, 2)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[1] = True
    output, final, cells, saved = aten_scan.scan(Inputs(x, weight, bias, state, given, resets), cell, True, True)
    kept = Kept(weight, state, given, resets, output, cells, saved)
    dout, dfinal = torch.randn_like(output), torch.randn_like(final)
    expected = aten_scan_backward.scan_backward(Upstream(dout, dfinal, None), kept, cell)
    dfinal[:, :, 0] = float("inf")
    dx, *_ = aten_scan_backward.scan_backward(Upstream(dout, dfinal, None), kept, cell)
    torch.testing.assert_close(dx[:, 1:], expected[0][:, 1:])
    torch.testing.assert_close(dx[0, 0, 0], expected[0][0, 0, 0])  # before the reset, in the direction that ends after
    if given is not None:
        for b, n in enumerate(given.tolist()):
            assert not dx[n:, b].any()


def test_what_no_gradient_reaches_is_zero() -> None:
    """Of memory that holds anything: gates on which no state depends."""
    place = torch.full((5, 2, H), torch.nan)
    aten_scan_backward._accumulate(place, (torch.ones(5, 1, H),), (None,), False)
    assert not place.any()


def _measured(name: str) -> list[dict[str, Any]]:
    text = (Path(__file__).parents[2] / "bench" / "calibration" / name).read_text()
    return [json.loads(row) for row in text.splitlines()]


def test_the_constants_are_those_of_the_measurements() -> None:
    rows = _measured("packed-cpu.jsonl")
    for costs, key, quadratic in ((packed_cost._TORCH, "torch_us", True), (packed_cost._SCAN, "scan_us", False)):
        for cell, cost in costs.items():
            found = packed.fitted([row for row in rows if row["cell"] == cell], key, quadratic)
            assert found == pytest.approx(cost, rel=0.01)


def test_what_was_chosen_was_never_much_slower() -> None:
    """The committed measurement of the whole grid, as docs/inside/cpu.md tells of it."""
    rows = _measured("packed-cpu-chosen.jsonl")
    sizes = {(row["cell"], row["directions"], row["H"], row["B"], row["T"]) for row in rows}
    assert sizes == set(itertools.product(packed.CELLS, (1, 2), packed.HIDDEN, packed.BATCHES, packed.TIMES))
    ratios = [row["torch_us"] / row["fastrnn_us"] for row in rows]
    assert len(ratios) == len(sizes)
    assert min(ratios) > 0.95
    assert 16 < max(ratios) < 18
    assert round(1 / min(ratios), 2) == 1.05


class TestChoice:
    """Torch's packed layer where rows are short, the scan where its time, quadratic in T, has grown past it."""

    @pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
    def test_turns_once_with_the_length(self, mode: str) -> None:
        for batch, hidden, directions in itertools.product((1, 4, 64), (32, 256), (1, 2)):
            chosen = [
                packed_cost.layer_is_faster(
                    mode, time, batch, batch * time // 2, hidden, directions, packed_cost.MARGIN
                )
                for time in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
            ]
            assert chosen == sorted(chosen, reverse=True)
            assert chosen[0]
            assert not chosen[-1]

    @pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH"])
    def test_few_steps_are_known_without_the_lengths(self, mode: str) -> None:
        """Below `scan_from` no lengths make the scan the faster one; from there on, some do, within an eighth."""
        for batch, hidden, directions in itertools.product((1, 4, 64), (32, 256), (1, 2)):
            sizes = (mode, batch, hidden, directions)
            first = packed_cost.scan_from(*sizes, packed_cost.MARGIN)
            for time in range(1, first):
                for rows in (0, time, time * batch // 2, time * batch):
                    assert packed_cost.layer_is_faster(mode, time, batch, rows, hidden, directions, packed_cost.MARGIN)
            later = first + first // 8 + 1
            ends = [
                packed_cost.layer_is_faster(mode, later, batch, n, hidden, directions, packed_cost.MARGIN)
                for n in (0, later * batch)
            ]
            assert not all(ends)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize(("time", "scans"), [(4, False), (300, True)])
    def test_a_layer_makes_it(self, time: int, scans: bool, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        real = aten_scan.scan
        monkeypatch.setattr(aten_scan, "scan", lambda *args: calls.append(args) or real(*args))
        layer, lengths = fastrnn.LSTM(16, 32), torch.tensor([time, time // 2, 1])
        x = torch.randn(time, 3, 16)
        if packed:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
        layer(x) if packed else layer(x, lengths=lengths)
        assert bool(calls) == scans
