"""The scan kernels against the reference, tier by tier: every cell, direction, dtype, odd sizes, lengths, resets."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from scans import Scan
from support import (
    EVERY_CELL,
    FLOAT64_ERROR,
    LAUNCHES,
    TORCH_ERROR_FACTOR,
    combinations,
    launch,
    relative_error,
    worst_error,
)

from fastrnn.cells import CELLS
from fastrnn.kernels.launch.scan import scan_bwd, scan_fwd
from fastrnn.kernels.tensors import Upstream

SIZES = {"one of each": (1, 1, 1), "odd": (3, 5, 37), "two batch tiles": (2, 19, 20), "full tiles": (2, 16, 48)}


# The cells that differ most have every launch; "solo" and "split contraction" are padded in `test_any_size`.
FEWER_LAUNCHES = {
    "gru": (("solo", True), ("grouped chunks", False), ("streamed", True)),
    "rnn_tanh": (("solo", True), ("split contraction", True)),
    "rnn_relu": (("grouped chunks", True), ("streamed", False)),
    "lstm": (*((name, True) for name in LAUNCHES),),
    "gru_textbook": (("split contraction", True), ("streamed", False)),
}


@pytest.mark.parametrize(
    ("cell", "name", "every_option"),
    combinations(EVERY_CELL, LAUNCHES, (False, True), fast=lambda cell, *case: case in FEWER_LAUNCHES[cell]),
    ids={False: "padded", True: "lengths and resets"}.get,
)
def test_every_launch_computes_the_reference(cell: str, name: str, every_option: bool) -> None:
    directions = 2 if every_option else 1
    scan = Scan(CELLS[cell], 3, 5, 37, directions, torch.float64, every_option, every_option)
    scan.check(launch(name, 37))


@pytest.mark.parametrize(
    ("cell", "name", "option"),
    combinations(
        ("lstm", "gru_textbook"),
        ("solo", "split contraction"),
        ("lengths", "resets"),
        fast=lambda cell, name, option: (cell == "lstm") == (option == "lengths") == (name != "solo"),
    ),
)
def test_one_option_without_the_other(cell: str, name: str, option: str) -> None:
    scan = Scan(CELLS[cell], 3, 5, 20, 2, torch.float64, option == "lengths", option == "resets")
    scan.check(launch(name, 20))


FEWER_SIZES = {
    "gru": ("one of each", "odd"),
    "gru_textbook": ("one of each", "odd", "full tiles"),
    "rnn_tanh": ("one of each", "two batch tiles"),
    "rnn_relu": ("one of each", "full tiles"),
}


@pytest.mark.parametrize(
    ("cell", "size"), combinations(EVERY_CELL, SIZES, fast=lambda cell, size: size in FEWER_SIZES.get(cell, SIZES))
)
def test_any_size(cell: str, size: str) -> None:
    T, B, H = SIZES[size]
    scan = Scan(CELLS[cell], T, B, H, 1, torch.float64)
    scan.check(launch("solo", H))
    scan.check(launch("split contraction", H))


FEWER_DTYPES = {
    "gru": (torch.bfloat16, torch.float32),
    "rnn_tanh": (torch.float16,),
    "rnn_relu": (torch.bfloat16,),
    "gru_textbook": (torch.float16, torch.float32),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


# Over several programs every dtype runs as compiled, in tests/machine.
@pytest.mark.parametrize(
    ("cell", "name", "dtype"),
    combinations(
        EVERY_CELL,
        ("solo", "split contraction"),
        DTYPES,
        fast=lambda cell, name, dtype: name == "solo" and dtype in FEWER_DTYPES.get(cell, DTYPES),
    ),
    ids=str,
)
def test_every_dtype_is_as_good_as_the_reference_in_it(cell: str, name: str, dtype: torch.dtype) -> None:
    """The reference in `dtype` rounds every intermediate; the kernels accumulate and carry the state in float32."""
    scan = Scan(CELLS[cell], 4, 5, 37, 2, dtype)
    results = scan.by_kernels(launch(name, 37)), scan.by_reference(dtype), scan.by_reference()
    for a, b, t in zip(*([*outputs, *grads] for outputs, grads in results), strict=True):
        assert relative_error(a, t) <= TORCH_ERROR_FACTOR[dtype] * relative_error(b, t)


@pytest.mark.parametrize("cell", EVERY_CELL)
def test_the_persistent_time_loop(cell: str) -> None:
    """All steps in one launch; a solo program waits for nobody, so the interpreter can run it."""
    Scan(CELLS[cell], 5, 3, 20, 2, torch.float64, True, True).check(launch("solo", 20, schedule="persistent"))


@pytest.mark.parametrize("schedule", ["persistent", "stepwise"])
def test_batches_beyond_one_launch_run_in_waves(schedule: str) -> None:
    scan = Scan(CELLS["gru"], 2, 35, 8, 2, torch.float64, True)
    scan.check(launch("solo", 8, schedule=schedule, batch_tiles=2))


DIAGONAL = (("lstm", "persistent"), ("gru", "persistent"), ("rnn_tanh", "persistent"), ("gru_textbook", "stepwise"))


@pytest.mark.parametrize(
    ("cell", "schedule"),
    combinations(EVERY_CELL, ("persistent", "stepwise"), fast=lambda *case: case in DIAGONAL),
)
def test_diagonal_weights(cell: str, schedule: str) -> None:
    """By several programs, which do not wait for each other under any schedule."""
    scan = Scan(CELLS[cell], 2, 5, 37, 2, torch.float64, True, True, heads=37)
    scan.check(launch("diagonal", 37, schedule))


@pytest.mark.parametrize("cell", ["lstm", "gru_textbook"])
@pytest.mark.parametrize("name", ["solo", pytest.param("grouped chunks", marks=pytest.mark.slow), "streamed"])
def test_heads(name: str, cell: str) -> None:
    scan = Scan(CELLS[cell], 2, 3, 38, 2, torch.float64, True, True, heads=2)
    scan.check(launch(name, 19))


@pytest.mark.parametrize("cell", ["lstm", "gru_textbook"])
@pytest.mark.parametrize(("name", "heads"), [("solo", 3), ("diagonal", 21)])
def test_heads_in_16_bits(name: str, heads: int, cell: str) -> None:
    """h is rounded before it is multiplied, as where it comes from memory."""
    scan = Scan(CELLS[cell], 3, 5, 21, 1, torch.bfloat16, heads=heads)
    config = launch(name, 21 // scan.heads)
    results = scan.by_kernels(config), scan.by_reference(torch.bfloat16), scan.by_reference()
    for a, b, t in zip(*([*outputs, *grads] for outputs, grads in results), strict=True):
        assert relative_error(a, t) <= TORCH_ERROR_FACTOR[torch.bfloat16] * relative_error(b, t)


ENDING_EARLY = {
    "the first tile": [2] * 8 + [1] * 8 + [5],
    "the second tile": [5] * 16 + [2],
    "a tile without a step": [0] * 16 + [3],
    "every tile": [1] * 16 + [3],
    "none": [5] * 17,
    "no row has a step": [0] * 17,
}


@pytest.mark.parametrize("lengths", ENDING_EARLY)
def test_tiles_that_end_early(lengths: str) -> None:
    """Their last steps are not taken; what those would have written is there all the same."""
    scan = Scan(CELLS["lstm"], 5, 17, 8, 2, torch.float64, ENDING_EARLY[lengths], True)
    scan.check(launch("solo", 8, schedule="persistent"))


def test_tiles_that_end_early_step_by_step() -> None:
    Scan(CELLS["gru_textbook"], 3, 17, 8, 2, torch.float64, [2] * 15 + [1, 3], True).check(launch("streamed", 8))


@pytest.mark.parametrize("name", ["solo", "split contraction"])
@pytest.mark.parametrize("cell", ["lstm", "gru_textbook"])
def test_nothing_leaks_from_behind_a_row_s_end(cell: str, name: str) -> None:
    """NaN in what belongs to no step, and in the state behind a cut, stays out of everything else."""
    scan = Scan(CELLS[cell], 3, 3, 20, 1, torch.float64, [3, 2, 0], True)
    assert scan.resets is not None
    scan.resets[0, 0] = True
    expected_outputs, expected_grads = scan.by_reference()
    scan.state[:, :, 0] = float("nan")
    for tensor in (scan.x, scan.dout, scan.dcells):
        tensor[2:, 1], tensor[:, 2] = float("nan"), float("nan")
    outputs, grads = scan.by_kernels(launch(name, 20))
    assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
    assert worst_error(grads, expected_grads) < FLOAT64_ERROR


def test_without_upstream_gradients() -> None:
    scan = Scan(CELLS["lstm"], 3, 4, 8, 1, torch.float64)
    config = launch("solo", 8)
    results = scan_fwd(scan.inputs(), scan.cell, config, "ieee", True, False)
    zeros = Upstream(*map(torch.zeros_like, (results.output, results.final, results.cells)))
    for upstream in (Upstream(None, scan.dfinal, None), Upstream(scan.dout, None, scan.dcells)):
        made = [zero if given is None else given for given, zero in zip(upstream, zeros, strict=True)]
        without, with_zeros = (
            scan_bwd(each, scan.kept(results), scan.cell, config, "ieee") for each in (upstream, Upstream(*made))
        )
        assert all(torch.equal(a, b) for a, b in zip(without[:3], with_zeros[:3], strict=True))


@pytest.mark.parametrize("wanted", [False, True], ids=["nothing", "the cells"])
def test_what_is_kept_in_inference(wanted: bool) -> None:
    scan = Scan(CELLS["lstm"], 3, 4, 8, 1, torch.float64, True)
    _, _, cells, saved = scan_fwd(scan.inputs(), scan.cell, launch("solo", 8), "ieee", False, wanted)
    assert saved.numel() == 0
    assert cells.numel() == (3 * 4 * 8 if wanted else 0)
    if wanted:
        assert worst_error([cells], [scan.by_reference()[0][2]]) < FLOAT64_ERROR
