"""The committed compile reports say what the compiler makes of the kernels now: a sample is compiled again.

`bench/compiled/<arch>-triton-<version>.jsonl` is written by `python -m bench kernels --arch <arch> ... --json`, see
bench/NOTES.md. A change to the kernels or to the choice of launches that moves these figures shows here, and is then to
be looked at before the tables are written anew.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import compiling_environment

pytest.importorskip("triton")

from fastrnn.bench.gpu.kernels import Job
from fastrnn.bench.rows.cells import BUILTIN
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan.configs import LaunchConfig

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.6.0", "3.7.1", "3.8.0", "3.9.0")  # that of the oldest torch, of those between, of the newest
FIGURES = ("registers", "spills", "shared", "mma", "wgmma", "resident", "barriers", "instructions")
CONFIG = ("tier", "exchange", "block_h", "block_b", "block_k", "num_k", "split", "num_warps", "scatter")
# One of each cell and pass, of each tier, with and without warpgroup instructions.
SAMPLE = [
    ("lstm", False, "bfloat16", 768, 16),
    ("lstm", True, "bfloat16", 768, 16),
    ("gru", False, "bfloat16", 32, 16),
    ("gru", True, "float32", 512, 16),
    ("gru_textbook", False, "bfloat16", 512, 16),
    ("rnn_tanh", True, "bfloat16", 2048, 64),
]
# Of the catalogue: the most gates, the most states, vectors, constants.
CATALOGUE_SAMPLE = [
    ("nas", False, "bfloat16", 512, 16),
    ("slstm", True, "bfloat16", 512, 16),
    ("peephole_lstm", True, "bfloat16", 1024, 64),
    ("cfc", True, "bfloat16", 256, 16),
]
# Of many rows: resident and streamed, parts and gathered gradients, with a second contraction.
WIDE_SAMPLE = [
    ("lstm", False, "bfloat16", 256, 8192),
    ("lstm", True, "bfloat16", 512, 8192),
    ("gru", True, "float32", 256, 8192),
    ("gru_textbook", False, "bfloat16", 256, 512),
    ("rnn_tanh", True, "bfloat16", 1024, 8192),
]
WIDE_VERSIONS = {"sm_90": VERSIONS, "sm_80": ("3.6.0", "3.7.1", "3.9.0")}
PROGRAM = """
    import json, sys
    from fastrnn.bench.gpu.kernels import Job, _row
    from fastrnn.kernels.counts import COUNTS
    from fastrnn.kernels.offline.report import compile_scan
    from fastrnn.kernels.plan.devices import DEVICES

    for cell, backward, dtype, H, B in json.loads(sys.argv[1]):
        job = Job("sm_90", cell, backward, dtype, H, B)
        config = job.config()
        report = compile_scan(COUNTS[cell], backward, dtype, H, 1, config, DEVICES["sm_90"].capability)
        print(json.dumps(_row(job, config, report)))
"""


def _rows(version: str) -> list[dict[str, Any]]:
    table = ROOT / "bench" / "compiled" / f"sm_90-triton-{version}.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()]


def _catalogue_rows(version: str) -> list[dict[str, Any]]:
    """Of the catalogue's cells; not every version has such a table."""
    table = ROOT / "bench" / "compiled" / f"cells-sm_90-triton-{version}.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def _wide_rows(arch: str, version: str) -> list[dict[str, Any]]:
    """Of many rows."""
    table = ROOT / "bench" / "compiled" / f"wide-{arch}-triton-{version}.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()]


def _find(rows: list[dict[str, Any]], cell: str, backward: bool, dtype: str, H: int, B: int) -> dict[str, Any]:
    wanted = {"cell": cell, "backward": backward, "dtype": dtype, "H": H, "B": B, "directions": 1}
    (row,) = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return row


@pytest.mark.parametrize("version", VERSIONS)
def test_no_row_spills_or_asks_for_more_than_there_is(version: str) -> None:
    rows = _rows(version)
    assert len(rows) >= 200
    assert {row["triton"] for row in rows} == {version}
    assert {row["status"] for row in rows} == {"ok"}
    of_catalogue = _catalogue_rows(version)
    assert {row["triton"] for row in of_catalogue} <= {version}
    assert {row["status"] for row in of_catalogue} <= {"ok"}


def test_the_catalogue_is_compiled_ahead() -> None:
    assert {row["cell"] for row in _catalogue_rows("3.7.1")} == set(COUNTS) - set(BUILTIN)


@pytest.mark.parametrize(("arch", "version"), [(a, v) for a, versions in WIDE_VERSIONS.items() for v in versions])
def test_many_rows_are_compiled_ahead(arch: str, version: str) -> None:
    """Of every cell; with the matrix instructions that there are, and R where the plan says it is."""
    rows = _wide_rows(arch, version)
    assert {(row["arch"], row["triton"], row["status"]) for row in rows} == {(arch, version, "ok")}
    wide = [row for row in rows if row["tier"].startswith("wide")]
    assert len(wide) >= (110 if arch == "sm_90" else 8)
    for row in wide:
        assert row["resident"] == (row["tier"] == "wide"), row
        assert row["wgmma" if arch == "sm_90" else "mma"] > 0, row
    if arch == "sm_90":
        assert {row["cell"] for row in wide} == set(COUNTS) - {"rnn_relu", "indrnn"}


# Of an LSTM's time loop, 16 rows, instructions of a warp at the most, forward and backward, by hidden size.
FEW = {
    "bfloat16": {64: (310, 340), 256: (200, 230), 512: (200, 230), 768: (200, 230), 1024: (250, 270)},
    "float32": {64: (330, 440), 256: (190, 230), 512: (240, 270), 768: (230, 350), 1024: (260, 450)},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", FEW)
def test_few_rows_take_few_instructions(dtype: str, version: str) -> None:
    for hidden, passes in FEW[dtype].items():
        for backward, instructions in zip((False, True), passes, strict=True):
            row = _find(_rows(version), "lstm", backward, dtype, hidden, 16)
            assert row["tier"] == ("gluon grid" if hidden > 64 else "gluon solo"), row
            assert row["instructions"] <= instructions, row
            assert row["barriers"] == (4 if row["scatter"] else 3 if hidden > 64 else 2), row


def _few_rows(version: str) -> list[dict[str, Any]]:
    """Of few rows on an A100: the cells of torch.nn, and the textbook's GRU."""
    table = ROOT / "bench" / "compiled" / f"few-sm_80-triton-{version}.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
def test_few_rows_on_an_a100(version: str) -> None:
    rows = _few_rows(version)
    assert {(row["arch"], row["triton"], row["status"]) for row in rows} == {("sm_80", version, "ok")}
    assert len(rows) == 40 + 32  # in 16 bits, and in float32 up to 768 units
    assert {row["tier"] for row in rows if row["H"] == 64} == {"gluon solo"}
    assert {row["tier"] for row in rows if row["H"] > 64} == {"gluon grid"}
    for row in rows:
        assert row["mma"] > 0
        assert row["barriers"] <= (3 if row["H"] > 64 else 2) * (1 + COUNTS[row["cell"]].inner), row


def test_the_tables_are_of_the_launches_that_are_chosen() -> None:
    """Of every version's: most are of the same launches."""
    chosen = functools.cache(Job.config)
    for version in VERSIONS:
        _are_chosen(version, chosen)


def _are_chosen(version: str, chosen: Callable[[Job], LaunchConfig | None]) -> None:
    of_many = [
        row for arch, versions in WIDE_VERSIONS.items() if version in versions for row in _wide_rows(arch, version)
    ]
    for row in _rows(version) + _catalogue_rows(version) + of_many + _few_rows(version):
        job = Job(row["arch"], row["cell"], row["backward"], row["dtype"], row["H"], row["B"], row["directions"])
        config = chosen(job)
        assert {name: row[name] for name in CONFIG} == {name: getattr(config, name) for name in CONFIG}, job


def test_a_sample_compiles_to_what_the_table_says() -> None:
    version = importlib.metadata.version("triton")
    if version not in VERSIONS:
        pytest.skip(f"there is no table of Triton {version}")
    rows, sample = _rows(version) + _wide_rows("sm_90", version), SAMPLE + WIDE_SAMPLE
    if of_catalogue := _catalogue_rows(version):
        rows, sample = rows + of_catalogue, sample + CATALOGUE_SAMPLE
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(sample)],
        capture_output=True, text=True, env=compiling_environment(), cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    for case, line in zip(sample, result.stdout.splitlines(), strict=True):
        now, then = json.loads(line), _find(rows, *case)
        assert {name: now[name] for name in CONFIG} == {name: then[name] for name in CONFIG}, case
        assert {name: now[name] for name in FIGURES} == {name: then[name] for name in FIGURES}, case
