"""What is kept of a run: one JSON object per row and provider, with what it was measured on.

Neither absolute paths nor host names go in. torch is imported only to ask it about the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fastrnn

VERSION = 2  # of the rows; a file of another version is refused, not guessed at


@dataclass(frozen=True)
class Environment:
    """What a row was measured on. `device` is `"cuda"` or `"cpu"`; what does not apply is None."""

    device: str
    gpu: str | None
    driver: str | None
    cpu: str | None
    threads: int
    torch: str
    triton: str | None
    cudnn: str | None
    python: str


@dataclass(frozen=True)
class Row:
    """One line of a results file: `cases.Case`, provider, `measure.Outcome`, `Environment`, and

    Attributes:
        version: VERSION.
        peer: the provider this row is compared with: torch.nn, or what takes its place where it lacks something.
        ratio: the peer's us_per_step over this one's; above 1 is faster than the peer. None without either.
        peer_algorithm: what the peer should run for this case.
        commit: of the code measured, `-dirty` where it was changed since.
        time: when the row was finished, UTC.
    """

    version: int
    cell: str
    mode: str
    dtype: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int
    bidirectional: bool
    lengths: str
    reset_rate: float
    return_cells: bool
    provider: str
    backend: str | None
    tier: str | None
    us_per_step: float | None
    p20: float | None
    p80: float | None
    peer: str
    ratio: float | None
    peak_mb: float | None
    first_call_s: float | None
    error: float | None
    status: str
    reason: str | None
    peer_algorithm: str
    device: str
    gpu: str | None
    driver: str | None
    cpu: str | None
    threads: int
    torch: str
    triton: str | None
    cudnn: str | None
    python: str
    commit: str | None
    time: str


def _output(*command: str) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str | None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine() or None


@functools.cache
def environment() -> Environment:
    """This machine."""
    import torch

    cuda = torch.cuda.is_available()
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None
    return Environment(
        device="cuda" if cuda else "cpu",
        gpu=torch.cuda.get_device_name() if cuda else None,
        driver=driver.splitlines()[0] if driver else None,
        cpu=_cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        triton=importlib.metadata.version("triton") if importlib.util.find_spec("triton") else None,
        cudnn=str(torch.backends.cudnn.version()) if cuda else None,
        python=platform.python_version(),
    )


def commit() -> str | None:
    """The commit of the checkout fastrnn is imported from; None where it is not imported from one."""
    file = Path(fastrnn.__file__)
    # An installed copy may lie inside some checkout, as in a virtual environment there, without being part of it.
    git = ("git", "--no-optional-locks", "-C", str(file.parent))
    if _output(*git, "ls-files", "--error-unmatch", file.name) is None:
        return None
    head, changes = _output(*git, "rev-parse", "HEAD"), _output(*git, "status", "--porcelain", "-uno")
    return f"{head}-dirty" if head and changes else head


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def append(path: str | os.PathLike[str], row: Mapping[str, Any]) -> None:
    """Add one line to a results file; on disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a results file.

    Raises:
        ValueError: a line is no row, or one of another version.
    """
    names = {field.name for field in dataclasses.fields(Row)}
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        values = json.loads(line)
        place = f"{Path(path).name}, line {number}"
        if not isinstance(values, dict) or "provider" not in values:
            raise ValueError(f"{place}: not a benchmark row")
        version = values.get("version", 1)
        if version != VERSION:
            raise ValueError(f"{place}: version {version}, this reads version {VERSION}; measure again")
        if set(values) != names:
            raise ValueError(f"{place}: not a benchmark row")
        rows.append(Row(**values))
    return rows
