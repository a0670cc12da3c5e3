"""Random cells, as a user could have written them: what is derived of each agrees with autograd."""

from __future__ import annotations

import pytest
import random_cells
import torch
from scans import Scan
from support import FLOAT64_ERROR, launch, worst_error
from torch import Tensor

import fastrnn
from fastrnn.backends import aten, reference
from fastrnn.cells import Cell
from fastrnn.kernels.tensors import Inputs, Kept, Upstream

SEEDS = range(200)
T, B, H = 4, 3, 5


def cell_of(seed: int) -> Cell:
    function, options = random_cells.random_cell(seed)
    cell = fastrnn.cell(**options)(function)
    assert isinstance(cell, Cell)
    return cell


def drawn(cell: Cell, D: int) -> Inputs:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    return Inputs(
        normal(T, B, D, cell.gates, H),
        normal(D, cell.gates, H, H) * H**-0.5,
        normal(D, cell.gates, H) if cell.splits_bias else None,
        2 * torch.tanh(normal(cell.states, D, B, H)),  # as small as the states that follow
        torch.tensor([3, 4, 1], dtype=torch.int32),
        torch.rand(T, B) < 0.3,
        normal(D, cell.vectors, H) if cell.vectors else None,
        torch.rand(T, B, cell.constants, dtype=torch.float64) if cell.constants else None,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_in_torchs_operators(seed: int) -> None:
    """Results, and the gradients of everything, in both directions under all masks; and second derivatives' formula."""
    cell = cell_of(seed)
    # torch's own kernel of the one multiplies by a sixth in float32, whatever the dtype.
    error = 1e-6 if "hardsigmoid" in random_cells.write(seed)[2] else FLOAT64_ERROR
    inputs = drawn(cell, 2)
    leaves = {name: t for name, t in inputs._asdict().items() if name in ("x", "state", "bias", "vectors")}
    leaves = {name: t.clone().requires_grad_() for name, t in leaves.items() if t is not None}
    expected = reference.scan(inputs._replace(**leaves), cell)[:3]
    upstream = Upstream(*(torch.randn_like(r) for r in expected))
    gradients = torch.autograd.grad(expected, list(leaves.values()), list(upstream), materialize_grads=True)
    truth = dict(zip(leaves, gradients, strict=True))

    results = aten.BACKEND.scan(inputs, cell, True, True)
    assert worst_error(results[:3], expected) < FLOAT64_ERROR
    of_results = (results.output, results.cells, results.saved)
    besides = (inputs.vectors, inputs.constants)
    kept = Kept(inputs.weight, inputs.state, inputs.lengths, inputs.resets, *of_results, *besides)
    found = [aten.BACKEND.scan_backward(upstream, kept, cell)]
    found.append(reference.scan_backward(upstream, kept, cell))
    if cell.keeps_enough and cell.saved:
        found.append(reference.scan_backward(upstream, kept, cell, torch.zeros_like(results.saved)))
    for gradient in found:
        ours = {"x": gradient.x, "state": gradient.state}
        ours |= {"vectors": gradient.vectors} if gradient.vectors is not None else {}
        ours |= {"bias": gradient.r.sum((0, 1))} if inputs.bias is not None else {}
        assert worst_error([ours[name] for name in truth], truth.values()) < error


@pytest.mark.parametrize("seed", [s if s % 40 == 0 else pytest.param(s, marks=pytest.mark.slow) for s in SEEDS])
def test_by_the_kernels(seed: int) -> None:
    pytest.importorskip("triton")
    cell = cell_of(seed)
    Scan(cell, 3, 3, 5, 2, torch.float64, True, True).check(launch("solo", 5))
