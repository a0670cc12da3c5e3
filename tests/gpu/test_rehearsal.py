"""The GPU tests, rehearsed where there is no GPU (rehearsal.py): a part of them always, all of them among the slow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import compiling_environment

from fastrnn.bench.gpu import ahead

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
# Of each kind of fault one that a rehearsal has found: what waits, captures, refuses, looks at values.
SOME = (
    "short_wait or cuda_graph or wait_for_nothing or refused or clamped or flag_pattern or (resets_and_cells and 2048)"
)


def _rehearse(*options: str) -> str:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    command = [sys.executable, "-m", "pytest", "-p", "rehearsal", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["-m", "gpu", "tests/gpu/test_gpu.py", "-q", "--tb=short", *options]
    environment = compiling_environment() | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_rehearsal_of_some_gpu_tests() -> None:
    said = _rehearse("-k", SOME)
    assert "rehearsed: " in said
    assert " passed" in said
    assert " skipped" not in said  # a machine with no GPU skips them all


@pytest.mark.slow
def test_a_rehearsal_of_all_gpu_tests() -> None:
    assert "rehearsed: " in _rehearse()


def test_what_the_gpu_tests_launch_is_recorded(tmp_path: Path) -> None:
    """For each cell and dtype, forward and backward, either exchange, Gluon's; and with many rows."""
    file = tmp_path / "launches.jsonl"
    _rehearse("-k", "short_wait", "--record-launches", str(file))
    launches = ahead.read(file)
    others = [dict(launch.constants) for launch in launches if not launch.kernel.startswith("gluon")]
    assert {row["EXCHANGE"] for row in others} == {"str:flag", "str:barrier"}
    assert len(others) == 5 * 3 * 2 * 3
    assert len(launches) - len(others) == 5 * 3 * 2 * 2
