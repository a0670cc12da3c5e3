"""What the benchmark's tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastrnn.bench import cli, record, timing

CPU = torch.device("cpu")
TINY = ["--shape", "5,2,3,4", "--cell", "lstm", "--mode", "train"]


def make_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, whatever the machine, and with little repetition."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(timing._BUDGET_S, "cpu", 0.01)
    record.environment.cache_clear()


def bench(tmp_path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command line with --json; the exit code and the objects written."""
    file = tmp_path / "rows.jsonl"
    code = cli.main([*arguments, "--json", str(file)])
    return code, [json.loads(line) for line in file.read_text().splitlines()]
