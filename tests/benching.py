"""What the benchmark's tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastrnn.bench import cli
from fastrnn.bench.measuring import timing
from fastrnn.bench.providers.provider import Provider, State
from fastrnn.bench.rows import record
from fastrnn.bench.rows.cases import Case

CPU = torch.device("cpu")
TINY = ["--shape", "5,2,3,4", "--cell", "lstm", "--mode", "train"]
# A row as a GPU would give it; every value is made up.
ROW = record.Row(
    version=record.VERSION, cell="lstm", mode="train", dtype="bfloat16", T=512, B=16, I=256, H=256, layers=1,
    bidirectional=False, lengths="full", reset_rate=0.0, return_cells=False, provider="fastrnn", backend="persistent",
    tier=None, us_per_step=2.0, p20=1.9, p80=2.1, peer="torch.nn", ratio=2.5, peak_mb=None, first_call_s=None,
    error=1e-3, input_share=0.1, scan_share=0.7, gradient_share=0.2, status="ok", reason=None,
    peer_algorithm="per-step GEMM", limit_us=1.5, fastrnn="0.1", device="cuda", gpu="Some GPU", driver="1.2", cpu=None,
    threads=1, torch="9.9", triton="8.8", cudnn="77", python="3.0", command="python -m bench run --quick",
    commit="abc", time="2030-01-02T03:04:05+00:00",
)  # fmt: skip


def make_brief(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """On the CPU, whatever the machine, with little repetition, and run in a folder where rows may be left."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(timing._BUDGET_S, "cpu", 0.01)
    record.environment.cache_clear()


def bench(tmp_path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command line with --json; the exit code and the objects written."""
    file = tmp_path / "rows.jsonl"
    code = cli.main([*arguments, "--json", str(file)])
    return code, [json.loads(line) for line in file.read_text().splitlines()]


def provider(build: Callable[[Case, State], nn.Module]) -> type[Provider]:
    """One of whom only the module matters."""
    members = {"build": staticmethod(build), "runs": staticmethod(lambda *_: ("some", "other"))}
    return type("Some", (Provider,), members)
