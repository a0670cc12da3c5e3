"""Gluon's kernels for few rows as compiled: layouts, the wire, with a counter and as its own flag, parts, what is kept
in shared memory, factors rounded to TF32; see test_ptx_scans.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compiled import Case, Worker, named

pytest.importorskip("triton")
pytest.importorskip("triton.experimental.gluon.language")

# Few of them fast; each has something that the others have not.
FAST = (
    "lstm float16 gluon-grid barrier T=4 B=17 H=40 D=2 block_h=8 lengths resets",
    "gru bfloat16 gluon-grid barrier T=4 B=37 H=140 D=2 warps=8 scatter lengths resets batch_tiles=2",
    "lstm bfloat16 gluon-solo T=4 B=17 H=40 D=2 lengths resets",
    "gru_textbook float16 gluon-grid barrier T=3 B=9 H=72 D=2 block_h=8 lengths resets",
    "lstm float32 gluon-grid barrier T=4 B=17 H=40 D=2 block_h=8 lengths resets",
    "lstm float32 gluon-grid barrier T=1 B=5 H=40 block_h=8 inputs=near",
    "gru_textbook float16 gluon-grid flag T=20 B=9 H=72 D=2 block_h=8 lengths resets",  # slots used again
)
SLOW = (
    "gru float32 gluon-grid barrier T=4 B=37 H=140 D=2 warps=8 scatter lengths resets batch_tiles=2",
    "lstm float32 gluon-solo T=4 B=17 H=40 D=2 lengths resets",
    "gru_textbook float32 gluon-grid barrier T=3 B=9 H=72 D=2 block_h=8 lengths resets order=warps",
    "lstm float32 gluon-grid barrier T=3 B=3 H=33 weak",
    "gru float32 gluon-grid barrier T=3 B=17 H=40 scatter weak order=warps",
    "rnn_tanh float32 gluon-grid barrier T=4 B=40 H=72 block_h=32 block_b=32 warps=8 lengths resets",
    "lstm float32 gluon-grid barrier T=2 B=3 H=600 warps=8",
    "gru float32 gluon-grid barrier T=2 B=3 H=800 warps=8 scatter",
    "gru float32 gluon-solo T=1 B=5 H=40 inputs=near",
    "lstm float32 gluon-solo T=3 B=9 H=64 weak",  # some gates of R in shared memory
    "lstm bfloat16 gluon-solo T=3 B=5 H=100 order=warps lengths",
    "lstm float32 gluon-grid barrier T=3 B=5 H=40 inputs=nan",
    "gru float32 gluon-grid barrier T=3 B=5 H=40 inputs=shifted scatter",
    "gru float32 gluon-grid barrier T=2 B=5 H=40 inputs=infinite scatter",
    "slstm float32 gluon-grid barrier T=3 B=5 H=36 lengths resets inputs=positive",
    "lstm float32 gluon-grid barrier T=3 B=17 H=40 cc=80 scatter lengths resets",
    "gru_textbook float32 gluon-solo T=3 B=17 H=64 cc=80",
    "lstm bfloat16 gluon-grid barrier T=4 B=5 H=40 block_h=8 weak order=warps",
    "lstm float16 gluon-grid barrier T=3 B=3 H=33 weak",
    "gru float16 gluon-grid barrier T=3 B=17 H=40 scatter weak order=warps",
    "lstm float16 gluon-grid barrier T=4 B=5 H=64 scatter order=programs lengths",
    "gru_textbook bfloat16 gluon-grid barrier T=3 B=3 H=24 block_h=8 weak order=warps",
    "rnn_tanh bfloat16 gluon-grid barrier T=4 B=40 H=72 block_h=32 block_b=32 warps=8 lengths resets",
    "lstm float16 gluon-grid barrier T=3 B=50 H=72 block_b=32 batch_tiles=1 lengths",
    "lstm bfloat16 gluon-grid barrier T=2 B=3 H=1100 warps=8",  # some of R in shared memory
    "gru float16 gluon-grid barrier T=2 B=3 H=1500 warps=8 scatter",
    "nas bfloat16 gluon-grid barrier T=2 B=3 H=600 warps=8 block_h=8",
    "slstm bfloat16 gluon-grid barrier T=3 B=5 H=36 lengths resets inputs=positive",
    "peephole_lstm float16 gluon-grid barrier T=3 B=5 H=40 scatter lengths resets",
    "lstm_decay bfloat16 gluon-solo T=3 B=5 H=24 lengths resets",
    "cfc float16 gluon-grid barrier T=3 B=5 H=40 D=2 lengths resets",
    "gru_textbook bfloat16 gluon-solo T=4 B=17 H=64 order=warps",
    "lstm float16 gluon-grid barrier T=1 B=1 H=1 block_h=8",
    "lstm float16 gluon-solo T=1 B=1 H=1",
    "lstm bfloat16 gluon-grid barrier T=5 B=20 H=40 block_h=8 inputs=short lengths D=2",
    "lstm float16 gluon-grid barrier T=3 B=4 H=40 inputs=empty lengths D=2",
    "gru float16 gluon-grid barrier T=3 B=4 H=40 inputs=ended lengths scatter",
    "lstm float16 gluon-grid barrier T=3 B=5 H=40 inputs=nan",
    "lstm float16 gluon-grid barrier T=3 B=5 H=40 inputs=shifted scatter",
    "lstm bfloat16 gluon-grid barrier T=2 B=5 H=40 inputs=infinite scatter",
    "gru float16 gluon-grid barrier T=2 B=5 H=40 inputs=infinite scatter",
    "lstm bfloat16 gluon-solo T=3 B=5 H=40 inputs=shifted",
    "lstm bfloat16 gluon-grid barrier T=3 B=5 H=48 heads=2 block_h=8 lengths",
    "lstm float16 gluon-grid barrier T=3 B=17 H=40 cc=80 scatter lengths resets",
    "gru bfloat16 gluon-solo T=3 B=17 H=64 cc=80",
    "lstm bfloat16 gluon-grid flag T=40 B=5 H=40 block_h=8 weak order=warps",
    "gru_textbook bfloat16 gluon-grid flag T=20 B=3 H=24 block_h=8 weak order=warps",
    "gru float32 gluon-grid flag T=20 B=3 H=40 weak order=warps",
    "lstm float16 gluon-grid flag T=21 B=5 H=64 order=programs lengths",
    "lstm float16 gluon-grid flag T=22 B=50 H=72 block_b=32 batch_tiles=1 lengths",
    "gru float32 gluon-grid flag T=19 B=37 H=140 D=2 warps=8 lengths resets batch_tiles=2",
    "rnn_tanh bfloat16 gluon-grid flag T=12 B=40 H=72 block_h=32 block_b=32 warps=8 lengths resets",
    "lstm float32 gluon-grid flag T=2 B=3 H=600 warps=8",  # some of R in shared memory, loads in rounds
    "lstm bfloat16 gluon-grid flag T=2 B=3 H=1100 warps=8",
    "nas bfloat16 gluon-grid flag T=2 B=3 H=600 warps=8 block_h=8",
    "slstm bfloat16 gluon-grid flag T=18 B=5 H=36 lengths resets inputs=positive",
    "peephole_lstm float16 gluon-grid flag T=3 B=5 H=40 lengths resets cc=80",
    "cfc float16 gluon-grid flag T=3 B=5 H=40 D=2 lengths resets",
    "lstm float16 gluon-grid flag T=3 B=5 H=40 inputs=nan",
    "lstm float32 gluon-grid flag T=3 B=5 H=40 inputs=nan",
    "gru float16 gluon-grid flag T=3 B=5 H=40 inputs=shifted",
    "lstm float16 gluon-grid flag T=1 B=1 H=1 block_h=8",
    "lstm bfloat16 gluon-grid flag T=19 B=20 H=40 block_h=8 inputs=short lengths D=2",
    "lstm float16 gluon-grid flag T=3 B=4 H=40 inputs=empty lengths D=2",
    "gru float16 gluon-grid flag T=3 B=4 H=40 inputs=ended lengths",
    "lstm bfloat16 gluon-grid flag T=3 B=5 H=48 heads=2 block_h=8 lengths",
    "lstm float32 gluon-grid flag T=1 B=5 H=40 block_h=8 inputs=near",
)
CASES = (*map(named, FAST), *map(named, SLOW))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[] if n < len(FAST) else pytest.mark.slow) for n, c in enumerate(CASES)]
)
def test_as_compiled(case: Case, worker: Worker) -> None:
    outcome = worker.outcome(case)
    assert outcome.good, outcome.said
    assert outcome.instructions > 0
