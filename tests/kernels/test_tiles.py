"""Several tiles at once, as the kernels load, sum and store them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from fastrnn.kernels.triton.matmul import sum_splits
from fastrnn.kernels.triton.tiles import load_packed, store_packed, unpack


@triton.jit
def _copy_and_sum(in_ptr, copy_ptr, sum_ptr, COUNT: tl.constexpr):
    m = tl.arange(0, 16)[:, None]
    n = tl.arange(0, 16)[None, :]
    tiles = unpack(load_packed(in_ptr + m * (COUNT * 16) + n, 16, m + n >= 0, COUNT), COUNT, tl.float32)
    store_packed(copy_ptr + m * (COUNT * 16) + n, 16, tiles, m + n >= 0, COUNT, False)
    splits = ()
    for i in tl.static_range(COUNT):
        splits = splits + (tiles[i].reshape([4, 4, 16]),)
    sums = sum_splits(splits, COUNT)
    for i in tl.static_range(COUNT):
        tl.store(sum_ptr + i * 64 + tl.arange(0, 4)[:, None] * 16 + n, sums[i])


@pytest.mark.parametrize("count", range(1, 17))
def test_any_number_of_tiles(count: int) -> None:
    """As many as a cell has gates, states or saved tensors: in groups of four, whose last has one to four."""
    given = torch.randn(16, count, 16)
    copy, sums = torch.empty_like(given), torch.empty(count, 4, 16)
    _copy_and_sum[(1,)](given, copy, sums, COUNT=count)
    assert torch.equal(copy, given)
    torch.testing.assert_close(sums, given.transpose(0, 1).reshape(count, 4, 4, 16).sum(1))
