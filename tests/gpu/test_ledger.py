"""The GPU tests' ledger: what it keeps of a run that ends early, and where the next one goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ledger
import pytest
from support import compiling_environment

ROOT = Path(__file__).resolve().parents[2]

# A suite with this one's hooks, where "the GPU" is a variable.
CONFTEST = """
import sys
import pytest, torch
sys.path[:0] = [{tests!r}, {root!r}]
import ledger

GPU = dict(lost=None)
torch.cuda.is_initialized = lambda: True
ledger.lost = lambda device: GPU["lost"]

def pytest_addoption(parser):
    parser.addoption("--ledger")
    parser.addoption("--record-launches")

def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: x")
    ledger.register(config)

@pytest.fixture
def gpu():
    return GPU
"""
SUITE = """
import os, time
import pytest
pytestmark = pytest.mark.gpu

def test_right():
    pass

def test_wrong():
    assert 1 == 2

def test_left_out():
    pytest.skip("not here")

def test_poison(gpu):
    gpu["lost"] = "CUDA error: an illegal memory access was encountered"
    raise RuntimeError(gpu["lost"])

def test_after(gpu):
    assert gpu["lost"] is None

def test_death():
    if os.path.exists("deadly"):
        os._exit(9)

def test_last(gpu):
    assert gpu["lost"] is None
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(tests=str(ROOT / "tests"), root=str(ROOT)))
    (tmp_path / "test_it.py").write_text(SUITE)
    return tmp_path


def _run(suite: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "--ledger", "ledger.jsonl", *options]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, env=compiling_environment(), check=False)
    return done.returncode, done.stdout + done.stderr


def _outcomes(suite: Path) -> dict[str, str]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (suite / "ledger.jsonl").read_text().splitlines()]
    return {row["test"].partition("::test_")[2]: row["outcome"] for row in rows}


@pytest.mark.slow
def test_a_lost_gpu_ends_the_process_and_the_next_goes_on(suite: Path) -> None:
    (suite / "deadly").touch()
    code, said = _run(suite, "-p", "no:xdist")
    assert code == 70, said
    assert "test_it.py::test_poison left this process no GPU: CUDA error: an illegal memory access" in said
    assert _outcomes(suite) == {"right": "passed", "wrong": "failed", "left_out": "skipped", "poison": "failed"}
    code, said = _run(suite, "-p", "no:xdist")
    assert code == 9, said
    assert _outcomes(suite)["death"] == "begun"
    code, said = _run(suite, "-p", "no:xdist")
    assert code == 0, said
    assert _outcomes(suite) == {
        "right": "passed",
        "wrong": "failed",
        "left_out": "skipped",
        "poison": "failed",
        "after": "passed",
        "death": "lost",
        "last": "passed",
    }
    rows = [json.loads(line) for line in (suite / "ledger.jsonl").read_text().splitlines()]
    (wrong,) = (row for row in rows if row["test"].endswith("wrong") and row["outcome"] == "failed")
    assert "assert 1 == 2" in wrong["reason"] or "AssertionError" in wrong["reason"]


def test_an_interrupted_test_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    plugin = ledger.Ledger(path)
    plugin.pytest_runtest_logstart("test_a")
    plugin.pytest_runtest_logfinish("test_a")
    plugin.pytest_runtest_logstart("test_b")
    plugin.pytest_keyboard_interrupt()
    assert ledger.Ledger(path).done == {"test_a"}
    plugin.pytest_runtest_logstart("test_c")  # and then it was killed
    assert ledger.Ledger(path).done == {"test_a", "test_c"}
    assert {test: row["outcome"] for test, row in ledger.outcomes(path).items()} == {
        "test_a": "passed",
        "test_b": "interrupted",
        "test_c": "lost",
    }


@pytest.mark.slow
def test_other_processes_go_on_where_one_lost_its_gpu(suite: Path) -> None:
    """Under pytest-xdist, in one run."""
    pytest.importorskip("xdist")
    (suite / "deadly").touch()
    code, said = _run(suite, "-n", "1")
    assert code == 1, said
    found = _outcomes(suite)
    assert found.pop("death") == "failed"
    assert found == {
        "right": "passed",
        "wrong": "failed",
        "left_out": "skipped",
        "poison": "failed",
        "after": "passed",
        "last": "passed",
    }
    assert _run(suite, "-n", "1")[0] == 5  # nothing is left
