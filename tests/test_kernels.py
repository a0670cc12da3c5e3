"""The scan kernels against the reference, tier by tier: every cell, direction, dtype, odd sizes, unequal lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from support import CELLS as CELL_NAMES
from support import FLOAT64_ERROR, LAUNCHES, TORCH_ERROR_FACTOR, launch, relative_error, worst_error

from fastrnn.backends import reference
from fastrnn.cells import CELLS, Cell
from fastrnn.kernels.configs import LaunchConfig
from fastrnn.kernels.launch import scan_bwd, scan_fwd

SIZES = {"one of each": (1, 1, 1), "odd": (3, 5, 37), "two batch tiles": (2, 19, 20), "full tiles": (2, 16, 48)}


class Scan:
    """Random inputs of one scan, and the reference's results and gradients for them, in float64."""

    def __init__(self, cell: Cell, T: int, B: int, H: int, D: int, dtype: torch.dtype, lengths: bool) -> None:
        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)

        self.cell = cell
        self.x = draw(T, B, D, cell.gates, H)
        self.weight = draw(D, cell.gates, H, H, scale=H**-0.5)
        self.bias = draw(D, cell.gates, H) if cell.splits_bias else None
        self.state = draw(cell.states, D, B, H)
        self.lengths = torch.randint(0, T + 1, (B,), dtype=torch.int32) if lengths else None
        if cell.name == "rnn_relu":
            # Away from relu's kink: on it, a rounding changes a gradient from nothing to all, in any implementation.
            self.x, self.weight = 3 * self.x.sign() + 0.3 * self.x, 0.2 * self.weight
        self.dout, self.dfinal = draw(T, B, D, H), draw(cell.states, D, B, H)

    def by_reference(self, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
        """`[output, final]` and `[dx, dstate, dr summed over steps]` computed in `dtype`."""
        x, weight, state = (t.to(dtype, copy=True).requires_grad_() for t in (self.x, self.weight, self.state))
        bias = torch.zeros(self.weight.shape[:3], dtype=dtype) if self.bias is None else self.bias.to(dtype, copy=True)
        bias.requires_grad_()
        output, final = reference.scan(x, weight, bias, state, self.lengths, self.cell)
        grads = torch.autograd.grad((output, final), (x, state, bias), (self.dout.to(dtype), self.dfinal.to(dtype)))
        return [output.detach(), final.detach()], list(grads)

    def by_kernels(self, config: LaunchConfig) -> tuple[list[Tensor], list[Tensor]]:
        """The same through the kernels."""
        output, final, cells, saved = scan_fwd(
            self.x, self.weight, self.bias, self.state, self.lengths, self.cell, config, "ieee", True
        )
        dx, dr, dstate = scan_bwd(
            self.dout,
            self.dfinal,
            self.weight,
            self.state,
            self.lengths,
            output,
            cells,
            saved,
            self.cell,
            config,
            "ieee",
        )
        first = torch.stack([dr[-d, :, d] for d in range(dr.shape[2])])
        dstate[0] += first.flatten(2).to(dstate) @ self.weight.flatten(1, 2).to(dstate)
        return [output, final], [dx, dstate, dr.to(dstate).sum((0, 1))]


@pytest.mark.parametrize("lengths", [False, True], ids=["padded", "lengths"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_every_launch_computes_the_reference(cell: str, name: str, directions: int, lengths: bool) -> None:
    scan = Scan(CELLS[cell], 3, 5, 37, directions, torch.float64, lengths)
    outputs, grads = scan.by_kernels(launch(name, 37))
    expected_outputs, expected_grads = scan.by_reference()
    assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
    assert worst_error(grads, expected_grads) < FLOAT64_ERROR


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_any_size(cell: str, size: str) -> None:
    T, B, H = SIZES[size]
    scan = Scan(CELLS[cell], T, B, H, 1, torch.float64, False)
    results = scan.by_kernels(launch("solo", H)), scan.by_kernels(launch("split contraction", H))
    expected_outputs, expected_grads = scan.by_reference()
    for outputs, grads in results:
        assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
        assert worst_error(grads, expected_grads) < FLOAT64_ERROR


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["solo", "split contraction"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_every_dtype_is_as_good_as_the_reference_in_it(cell: str, name: str, dtype: torch.dtype) -> None:
    """The reference in `dtype` rounds every intermediate; the kernels accumulate and carry the state in float32."""
    scan = Scan(CELLS[cell], 4, 5, 37, 2, dtype, False)
    results = scan.by_kernels(launch(name, 37)), scan.by_reference(dtype), scan.by_reference()
    for a, b, t in zip(*([*outputs, *grads] for outputs, grads in results), strict=True):
        assert relative_error(a, t) <= TORCH_ERROR_FACTOR[dtype] * relative_error(b, t)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_the_persistent_time_loop(cell: str) -> None:
    """All steps in one launch; a solo program waits for nobody, so the interpreter can run it."""
    scan = Scan(CELLS[cell], 5, 3, 20, 2, torch.float64, True)
    outputs, grads = scan.by_kernels(launch("solo", 20, schedule="persistent"))
    expected_outputs, expected_grads = scan.by_reference()
    assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
    assert worst_error(grads, expected_grads) < FLOAT64_ERROR


@pytest.mark.parametrize("schedule", ["persistent", "stepwise"])
def test_batches_beyond_one_launch_run_in_waves(schedule: str) -> None:
    scan = Scan(CELLS["gru"], 2, 35, 8, 2, torch.float64, True)
    outputs, grads = scan.by_kernels(launch("solo", 8, schedule=schedule, batch_tiles=2))
    expected_outputs, expected_grads = scan.by_reference()
    assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
    assert worst_error(grads, expected_grads) < FLOAT64_ERROR


def test_without_upstream_gradient_of_the_output() -> None:
    scan = Scan(CELLS["lstm"], 3, 4, 8, 1, torch.float64, False)
    config = launch("solo", 8)
    output, _, cells, saved = scan_fwd(scan.x, scan.weight, None, scan.state, None, scan.cell, config, "ieee", True)
    with_zeros, without = (
        scan_bwd(dout, scan.dfinal, scan.weight, scan.state, None, output, cells, saved, scan.cell, config, "ieee")[0]
        for dout in (torch.zeros_like(output), None)
    )
    assert torch.equal(with_zeros, without)


def test_nothing_is_saved_in_inference() -> None:
    scan = Scan(CELLS["lstm"], 3, 4, 8, 1, torch.float32, False)
    _, _, cells, saved = scan_fwd(
        scan.x, scan.weight, None, scan.state, None, scan.cell, launch("solo", 8), "ieee", False
    )
    assert cells.numel() == saved.numel() == 0
