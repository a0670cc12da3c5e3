"""The kernels for many rows as compiled, warpgroup products and asynchronous copies too; see test_ptx_scans.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compiled import Case, Worker

triton = pytest.importorskip("triton")


def _wide(cell: str, dtype: str, T: int, B: int, H: int, streamed: bool = False, **values: object) -> Case:
    tile = {"block_b": 64, "block_h": 32, "block_k": 32 if dtype == "float32" else 64, "scatter": True}
    tile |= {"stages": 2} if streamed else {}
    tier = "wide-streamed" if streamed else "wide"
    return Case(cell, dtype, tier, "persistent", "barrier", T, B, H, **(tile | values))  # type: ignore[arg-type]


CASES = (
    _wide("lstm", "float16", 3, 70, 40, lengths=True, resets=True, D=2),
    _wide("gru", "bfloat16", 3, 70, 72, True, lengths=True, weak=True),
    _wide("gru_textbook", "float32", 3, 70, 64, resets=True, scatter=False),
    _wide("lstm", "bfloat16", 4, 70, 128, weak=True, seed=1),
    _wide("lstm", "float16", 3, 70, 37, True, order="warps"),  # rows that are not aligned
    _wide("lstm", "float32", 3, 70, 64, block_h=16, resets=True),
    _wide("lstm", "bfloat16", 3, 130, 128, True, block_b=128, warps=8, stages=3),
    _wide("lstm", "float16", 3, 130, 256, block_b=128, block_k=128, warps=8),
    _wide("gru", "float16", 3, 70, 128, scatter=False, block_h=16, D=2, lengths=True),
    _wide("gru", "float32", 3, 70, 64, True, D=2, resets=True),
    _wide("gru_textbook", "bfloat16", 3, 70, 64, lengths=True, weak=True),
    _wide("rnn_tanh", "float16", 2, 70, 272, True, block_h=16, weak=True),  # more than 16 programs
    _wide("lstm", "bfloat16", 3, 70, 48, heads=2, lengths=True),
    _wide("lstm", "float16", 3, 200, 40, batch_tiles=2),  # waves
    _wide("lstm", "float16", 3, 70, 72, inputs="nan"),
    _wide("nas", "bfloat16", 2, 70, 40, block_h=16, lengths=True, resets=True),
    _wide("slstm", "bfloat16", 2, 70, 40, block_h=16, lengths=True, resets=True),
    _wide("lstm_decay", "float16", 3, 70, 40, block_h=16, lengths=True),
    _wide("lstm", "bfloat16", 3, 70, 128, True, stages=1, block_h=64, block_k=128, warps=8, lengths=True),
    _wide("lstm", "float32", 3, 70, 72, True, stages=1, weak=True),
    _wide("rnn_tanh", "bfloat16", 3, 70, 128, block_h=64, scatter=False, weak=True, resets=True),
    _wide("rnn_tanh", "float32", 3, 130, 64, block_b=128, block_h=64, warps=8, scatter=False, lengths=True),
    _wide("gru", "float32", 3, 130, 40, block_b=128, block_h=16, warps=8, lengths=True, D=2),
    _wide("cifg", "float16", 3, 70, 40, cc=80),
    _wide("lstm", "float32", 3, 70, 40, True, cc=80, block_h=16, lengths=True),
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[] if c in CASES[:3] else pytest.mark.slow) for c in CASES]
)
def test_as_compiled(case: Case, worker: Worker) -> None:
    if case.stages > 1 and case.cc == 90 and case.H % 8 == 0 and triton.__version__.startswith("3.6"):
        # It copies asynchronously what a warpgroup then multiplies, and puts no fence between: no plan is to choose it.
        outcome = worker.outcome(case)
        assert not outcome.good
        assert "load by wgmma with no proxy fence" in outcome.said
        return
    outcome = worker.outcome(case)
    assert outcome.good, outcome.said
    assert outcome.instructions > 0
