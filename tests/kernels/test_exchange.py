"""Programs that wait for each other, on a machine without a GPU: one process per program, over shared memory.

The interpreter runs the programs of a grid one after another, so a persistent scan spread over several programs would
wait for ever in it. Here each program has an interpreter, and a process, of its own.
"""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from scans import Scan
from support import FLOAT64_ERROR, combinations, launch, worst_error

from fastrnn.cells import CELLS
from fastrnn.kernels.launch.scan import (
    BackwardBuffers,
    ForwardBuffers,
    counters,
    exchange_buffer,
    first_step,
    inner_operand,
    launch_bwd,
    launch_fwd,
    parts_buffer,
)
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.tensors import Results, Upstream
from fastrnn.kernels.triton.sync import COUNTER_STRIDE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork")

HIDDEN = 40  # three programs of 16 units


def _as_one_program(index: tuple[int, int, int], run: Any) -> None:
    """Make the interpreter of this process run only program `index` of every grid, then `run`."""
    from triton.runtime import interpreter

    class OneProgram(interpreter.GridExecutor):  # type: ignore[misc]  # untyped
        def _restore_args_dev(self, *args: Any) -> None:
            """On the CPU this copies every tensor onto itself, over what other programs write meanwhile."""

        def __call__(self, *args: Any, **kwargs: Any) -> None:
            grid = self.grid
            builder = interpreter.interpreter_builder
            set_dim, set_idx = type(builder).set_grid_dim, type(builder).set_grid_idx
            self.grid = (1, 1, 1)
            builder.set_grid_dim = lambda *_: set_dim(builder, *grid)
            builder.set_grid_idx = lambda *_: set_idx(builder, *index)
            super().__call__(*args, **kwargs)

    interpreter.GridExecutor = OneProgram
    run()


def _run_together(programs: list[tuple[int, int, int]], run: Any, seconds: float = 60.0) -> None:
    """`run` in one process per program; fails if any does, or waits too long."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_as_one_program, args=(index, run)) for index in programs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds)
    stuck = [worker for worker in workers if worker.is_alive()]
    for worker in stuck:
        worker.kill()
    assert not stuck, f"{len(stuck)} of {len(workers)} programs still wait after {seconds} s"
    assert all(worker.exitcode == 0 for worker in workers)


def _shared(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"), dtype=torch.float64).share_memory_()


def _spread(exchange: str) -> LaunchConfig:
    return launch("split contraction", HIDDEN, "persistent", exchange=exchange)


def _exchange(scan: Scan, config: LaunchConfig) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Forward and backward under the persistent schedule, every program in a process of its own.

    Returns outputs and gradients as `Scan` has them, and the barriers' counters of both.
    """
    cell = scan.cell
    T, B, D, gates, H = scan.x.shape
    units, tiles = -(-H // config.block_h), -(-B // config.block_b)
    programs = [(x, y, d) for x in range(units) for y in range(tiles) for d in range(D)]
    output, dr = (
        exchange_buffer(config, *shape, like=scan.x).share_memory_() for shape in ((T, B, D, H), (T, B, D, gates, H))
    )
    cells, saved, final = (
        _shared(T, B, D, cell.states - 1, H),
        _shared(T, B, D, cell.saved, H),
        _shared(*scan.state.shape),
    )
    dx, dstate = _shared(T, B, D, gates, H) if cell.splits_bias else dr, _shared(*scan.state.shape)
    inner = inner_operand(cell, config, scan.x)
    if inner is not None:
        inner.share_memory_()
    arrivals = [counters(config, B, D, scan.x).share_memory_() for _ in range(2)]
    forward = ForwardBuffers(scan.state, final, output, inner, cells, saved, arrivals[0])
    _run_together(programs, lambda: launch_fwd(scan.inputs(), forward, cell, config, "ieee"))
    parts = parts_buffer(config, output)
    if parts is not None:
        parts.fill_(float("nan")).share_memory_()
    upstream, kept = Upstream(scan.dout, scan.dfinal, scan.dcells), scan.kept(Results(output, final, cells, saved))
    backward = BackwardBuffers(scan.dfinal, dstate, None, dx, dr, parts, arrivals[1])
    _run_together(programs, lambda: launch_bwd(upstream, kept, backward, cell, config, "ieee"))
    dstate[0] += first_step(dr, kept, cell)
    return [output, final, cells], [dx, dstate, dr.sum((0, 1))], arrivals


def _check(scan: Scan, config: LaunchConfig) -> list[Tensor]:
    """Compares with the reference; returns the counters."""
    outputs, grads, arrivals = _exchange(scan, config)
    expected_outputs, expected_grads = scan.by_reference()
    assert worst_error(outputs, expected_outputs) < FLOAT64_ERROR
    assert worst_error(grads, expected_grads) < FLOAT64_ERROR
    return arrivals


HANDED_OVER = (
    ("lstm", "flag", True), ("lstm", "barrier", False), ("gru", "barrier", True), ("gru_textbook", "flag", False),
)  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "exchange", "options"),
    combinations(
        ("lstm", "gru", "gru_textbook"),
        ("flag", "barrier"),
        (False, True),
        fast=lambda *case: case in HANDED_OVER,
    ),
    ids={False: "padded", True: "lengths and resets"}.get,
)
def test_programs_hand_over_each_step(cell: str, exchange: str, options: bool) -> None:
    directions = 1 if cell == "lstm" else 2
    # No row takes the last step, which the reverse direction would start with.
    lengths = [2, 0, 3] if options else False
    _check(Scan(CELLS[cell], 4, 3, HIDDEN, directions, torch.float64, lengths, options), _spread(exchange))


@pytest.mark.parametrize(
    ("cell", "tier", "scatter"),
    combinations(
        ("lstm", "gru", "gru_textbook"),
        ("wide", "wide streamed"),
        (True, False),
        fast=lambda *case: case == ("lstm", "wide", True),
    ),
)
def test_many_rows_hand_over_each_step(cell: str, tier: str, scatter: bool) -> None:
    """By parts, whose two slots are written in turns, or by gradients."""
    config = LaunchConfig("persistent", tier, "barrier", 16, 16, 16, 3, 1, 1, 4, 2, scatter)
    directions = 2 if cell == "gru_textbook" else 1
    scan = Scan(CELLS[cell], 6, 17, HIDDEN, directions, torch.float64, [2] * 15 + [1] + [6], True)
    for counter in _check(scan, config):
        expected = [3 * (steps - 1 + steps * scan.cell.inner) for steps in (2, 6) for _ in range(directions)]
        assert counter[0, :: COUNTER_STRIDE.value].tolist() == expected


@pytest.mark.parametrize(
    ("cell", "exchange", "directions"),
    [("lstm", "barrier", 2), ("gru_textbook", "flag", 1)],
)
def test_a_tile_that_ended_waits_for_nobody(cell: str, exchange: str, directions: int) -> None:
    """Nor does anybody wait for it: the other tile's programs take their steps alone."""
    scan = Scan(CELLS[cell], 5, 17, HIDDEN, directions, torch.float64, [2] * 15 + [1] + [4], True)
    if exchange == "flag":
        _check(scan, _spread(exchange))
        return
    for counter in _check(scan, _spread(exchange)):
        # One arrival of each of three programs after every step but the last, and one within each step.
        expected = [3 * (steps - 1 + steps * scan.cell.inner) for steps in (2, 4) for _ in range(directions)]
        assert counter[0, :: COUNTER_STRIDE.value].tolist() == expected


def test_a_nan_with_the_flag_pattern_is_not_waited_for() -> None:
    """The all-ones NaN means "not written yet"; the user's own, in a state or an input, must still come through."""
    scan = Scan(CELLS["rnn_tanh"], 3, 3, HIDDEN, 1, torch.float64)
    pattern = torch.full((), -1, dtype=torch.int64).view(torch.float64)
    scan.state[0, 0, 1] = pattern
    scan.x[0, 2] = pattern
    scan.dfinal[0, 0, 0] = pattern
    outputs, grads, _ = _exchange(scan, _spread("flag"))
    expected_outputs, expected_grads = scan.by_reference()
    for ours, expected in zip(outputs + grads, expected_outputs + expected_grads, strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())
