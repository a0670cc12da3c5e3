"""The kernels for many rows in Triton's interpreter, step by step, against the reference; at 16 rows a tile."""

from __future__ import annotations

import pytest
import torch
from support import combinations

pytest.importorskip("triton")

import triton
import triton.language as tl
from scans import Scan

from fastrnn.cells import CATALOGUE, CELLS
from fastrnn.kernels.plan.configs import LaunchConfig
from fastrnn.kernels.triton.wide import split_slots

EVERY = {**CELLS, **CATALOGUE}
TIERS = ("wide", "wide streamed")
WAYS = {False: "gather", True: "scatter"}
# In the interpreter a case takes seconds: each tier, way and kind of cell.
FAST = (
    ("lstm", "wide", True, True),
    ("lstm", "wide streamed", False, False),
    ("gru", "wide streamed", True, True),
    ("gru_textbook", "wide", False, True),
    ("nas", "wide", True, False),
    ("slstm", "wide", True, False),
)


def wide(hidden: int, tier: str, scatter: bool, batch_tiles: int = 65535) -> LaunchConfig:
    return LaunchConfig("stepwise", tier, "none", 16, 16, 16, -(-hidden // 16), 1, 1, 4, batch_tiles, scatter, 2)


@pytest.mark.parametrize(
    ("cell", "tier", "scatter", "every_option"),
    combinations(EVERY, TIERS, WAYS, (False, True), fast=lambda *case: case in FAST),
)
def test_the_reference_is_computed(cell: str, tier: str, scatter: bool, every_option: bool) -> None:
    """Two directions, two tiles of rows and two of units, the last of them half empty."""
    Scan(EVERY[cell], 3, 19, 20, 2, torch.float64, every_option, every_option).check(wide(20, tier, scatter))


def test_rows_beyond_one_launch_run_in_waves() -> None:
    """Gathered: what is sent has slots for one wave's tiles, and steps that are launched in turn would share them."""
    Scan(CELLS["gru"], 2, 35, 8, 1, torch.float64, True).check(wide(8, "wide", False, batch_tiles=2))


@pytest.mark.slow
def test_more_programs_than_are_unrolled() -> None:
    """Of what more than sixteen programs sent, four at a time are added."""
    Scan(CELLS["rnn_tanh"], 2, 3, 280, 1, torch.float64).check(wide(280, "wide streamed", True))


def test_heads_are_groups() -> None:
    Scan(CELLS["lstm"], 2, 5, 24, 2, torch.float64, True, True, heads=2).check(wide(12, "wide", True))


@triton.jit
def _split(in_ptr, out_ptr, SLOTS: tl.constexpr):
    m = tl.arange(0, 16)[:, None]
    n = tl.arange(0, 8)[None, :]
    tile = tl.load(in_ptr + m * (SLOTS * 8) + tl.arange(0, SLOTS * 8)[None, :])
    parts = split_slots(tile, SLOTS, 8)
    for i in tl.static_range(SLOTS):
        tl.store(out_ptr + i * 128 + m * 8 + n, parts[i])


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16])
def test_slots_come_apart_in_order(slots: int) -> None:
    given, found = torch.randn(16, slots, 8), torch.empty(slots, 16, 8)
    _split[(1,)](given, found, SLOTS=slots)
    assert torch.equal(found, given.transpose(0, 1))
