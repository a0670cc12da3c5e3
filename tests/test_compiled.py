"""The committed compile reports say what the compiler makes of the kernels now: a sample is compiled again.

`bench/compiled/<arch>.jsonl` is written by `python -m bench kernels --arch <arch> ... --json`, see bench/NOTES.md. A
change to the kernels or to the choice of launches that moves these figures shows here, and is then to be looked at
before the table is written anew.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import compiling_environment

pytest.importorskip("triton")

TABLE = Path(__file__).resolve().parent.parent / "bench" / "compiled" / "sm_90.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in TABLE.read_text().splitlines()]
FIGURES = ("registers", "spills", "shared", "mma", "wgmma", "resident", "barriers", "instructions")
CONFIG = ("tier", "exchange", "block_h", "block_b", "block_k", "num_k", "split", "num_warps")
# One of each cell and pass, of each tier, with and without warpgroup instructions.
SAMPLE = [
    ("lstm", False, "bfloat16", 768, 16),
    ("lstm", True, "bfloat16", 768, 16),
    ("gru", False, "bfloat16", 32, 16),
    ("gru", True, "float32", 512, 16),
    ("gru_textbook", False, "bfloat16", 512, 16),
    ("rnn_tanh", True, "bfloat16", 2048, 64),
]
PROGRAM = """
    import json, sys
    from fastrnn.bench.kernels import Job, _row
    from fastrnn.kernels.configs import DEVICES
    from fastrnn.kernels.counts import COUNTS
    from fastrnn.kernels.offline import compile_scan

    for cell, backward, dtype, H, B in json.loads(sys.argv[1]):
        job = Job("sm_90", cell, backward, dtype, H, B)
        config = job.config()
        report = compile_scan(COUNTS[cell], backward, dtype, H, 1, config, DEVICES["sm_90"].capability)
        print(json.dumps(_row(job, config, report)))
"""


def _find(cell: str, backward: bool, dtype: str, H: int, B: int) -> dict[str, Any]:
    wanted = {"cell": cell, "backward": backward, "dtype": dtype, "H": H, "B": B, "directions": 1}
    (row,) = (row for row in ROWS if all(row[name] == value for name, value in wanted.items()))
    return row


def test_no_row_spills_or_asks_for_more_than_there_is() -> None:
    assert len(ROWS) >= 200
    assert {row["status"] for row in ROWS} == {"ok"}


def test_a_sample_compiles_to_what_the_table_says() -> None:
    recorded = {row["triton"] for row in ROWS}
    if recorded != {importlib.metadata.version("triton")}:
        pytest.skip(f"the table is of Triton {', '.join(sorted(recorded))}")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(SAMPLE)],
        capture_output=True, text=True, env=compiling_environment(), cwd=TABLE.parents[2],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    for case, line in zip(SAMPLE, result.stdout.splitlines(), strict=True):
        now, then = json.loads(line), _find(*case)
        assert {name: now[name] for name in CONFIG} == {name: then[name] for name in CONFIG}, case
        assert {name: now[name] for name in FIGURES} == {name: then[name] for name in FIGURES}, case
