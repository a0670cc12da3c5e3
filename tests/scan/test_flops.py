"""torch.utils.flop_counter on fastrnn's operators: against counts by hand and against torch's own operators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sequences import LAYERS
from support import combinations
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fastrnn
from fastrnn.cells import BY_MODE
from fastrnn.graphs import node
from fastrnn.scan.problem import grouped

T, B, INPUT, H = 5, 4, 3, 6
GATES = {"LSTM": 4, "GRU": 3, "textbook GRU": 3, "RNN": 1}
LENGTHS = torch.tensor([5, 3, 0, 1])


def _counted(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "directions", "backend"),
    # Of the kernels, whose interpreter is slow, each cell once, and two directions once.
    combinations(
        GATES,
        (1, 2),
        ("auto", "stepwise"),
        fast=lambda name, directions, backend: backend == "auto" or (directions == 2) == (name == "RNN"),
    ),
)
def test_a_scan_by_hand(name: str, directions: int, backend: str) -> None:
    """Forward the input's and the recurrent product; backward two for each, but for the input's own gradient."""
    if backend == "stepwise":
        pytest.importorskip("triton")
    layer = LAYERS[name](INPUT, H, bidirectional=directions == 2, backend=backend)
    x, resets = torch.randn(T, B, INPUT), torch.zeros(T, B, dtype=torch.bool)
    into, through = (2 * T * B * GATES[name] * H * size * directions for size in (INPUT, H))
    with torch.no_grad():
        assert _counted(lambda: layer(x, resets=resets)) == into + through
    output, _ = layer(x, resets=resets)
    assert _counted(lambda: output.sum().backward()) in (
        into + 2 * through,
        # The kernels leave the matmul of each row's first step to torch.
        into + 2 * through + through // T,
    )


@pytest.mark.parametrize(("heads", "part"), [(2, 2), (H, 0)])
def test_heads_by_hand(heads: int, part: int) -> None:
    """A block's product takes less; a diagonal's elements are multiplied, which is not counted."""
    layer = fastrnn.GRU(INPUT, H, heads=heads)
    x = torch.randn(T, B, INPUT)
    into, through = (2 * T * B * 3 * H * size for size in (INPUT, H // part if part else 0))
    with torch.no_grad():
        assert _counted(lambda: layer(x)) == into + through
    output, _ = layer(x)
    assert _counted(lambda: output.sum().backward()) == into + 2 * through


@pytest.mark.parametrize("name", ["GRU", "LSTM", "RNN"])
def test_a_loop_over_the_cell(name: str) -> None:
    """What somebody without the layer would write takes as many."""
    layer, cell = LAYERS[name](INPUT, H), getattr(nn, f"{name}Cell")(INPUT, H)
    x = torch.randn(T, B, INPUT)

    def loop() -> None:
        hx: Any = None
        outputs: list[Tensor] = []
        for step in x:
            hx = cell(step, hx)
            outputs.append(hx[0] if name == "LSTM" else hx)
        torch.stack(outputs).sum().backward()

    def ours() -> None:
        layer(x, lengths=LENGTHS, resets=torch.zeros(T, B, dtype=torch.bool))[0].sum().backward()

    # The loop's first state needs no gradient, and lengths on a CPU shorten the products for the weights.
    recurrent = 2 * B * GATES[name] * H * H
    there = int(LENGTHS.sum())
    shorter = 2 * (2 * (T * B - there) * GATES[name] * H * INPUT) + 2 * (T * B - there) * GATES[name] * H * H
    assert _counted(ours) == _counted(loop) + recurrent - shorter


@pytest.mark.parametrize(("name", "bias"), [("GRU", True), ("RNN", False)])
def test_torchs_layer_as_one_node(name: str, bias: bool) -> None:
    """Against torch's own, which is torch's operators on a CPU."""
    layer = getattr(nn, name)(INPUT, H, bidirectional=True, bias=bias)
    x, hx = torch.randn(T, B, INPUT, requires_grad=True), torch.randn(2, B, H, requires_grad=True)
    (weights,) = grouped(list(layer.parameters()), 1, 2)
    forward = _counted(lambda: layer(x, hx))
    output, _ = layer(x, hx)
    backward = _counted(lambda: output.sum().backward())
    cell = BY_MODE[layer.mode]
    assert _counted(lambda: node.aten_layer(cell, x, None, (hx,), weights)) == forward
    output, _ = node.aten_layer(cell, x, None, (hx,), weights)
    assert _counted(lambda: output.sum().backward()) == forward + backward


_LATE = """
import sys
import torch
from fastrnn import LSTM
layer = LSTM(3, 6)
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    layer(torch.randn(5, 4, 3), return_cells=True)
print(counter.get_total_flops())
"""


def test_a_counter_imported_later_knows_them_too() -> None:
    """And is not imported for their sake."""
    folder = Path(fastrnn.__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", _LATE], capture_output=True, text=True, check=True, cwd=folder)
    assert int(result.stdout) == 2 * T * B * 4 * H * (INPUT + H)
