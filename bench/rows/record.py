"""What is kept of a run: one JSON object per row, provider and repetition, with what it was measured on.

Neither absolute paths nor host names go in. torch is imported only to ask it about the machine.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fastrnn
from fastrnn.bench.rows.cases import Case

VERSION = 3  # of the rows; a file of another version is refused, not guessed at


class BenchError(ValueError):
    """What ends a command with one line and exit code 1."""


class LostGPUError(BenchError):
    """An error after which this process can use its GPU no more: what is left needs another process. Exit code 3."""


@dataclass(frozen=True)
class Environment:
    """What a row was measured on. `fastrnn` is its version, `device` is `"cuda"` or `"cpu"`; what does not apply is
    None."""

    fastrnn: str
    device: str
    gpu: str | None
    driver: str | None
    cpu: str | None
    threads: int
    torch: str
    triton: str | None
    cudnn: str | None
    python: str

    def processor(self) -> str:
        """The CPU, and how many of its threads were used."""
        return f"{self.cpu or 'CPU'}, {self.threads} thread{'s' * (self.threads > 1)}"

    def versions(self, *names: str) -> str:
        """Of what is there among `names`, attributes of this class."""
        words = {"cudnn": "cuDNN", "python": "Python"}
        return ", ".join(f"{words.get(name, name)} {getattr(self, name)}" for name in names if getattr(self, name))


@dataclass(frozen=True)
class Row:
    """One line of a results file: `cases.Case`, provider, `measure.Outcome`, `Environment`, and

    Attributes:
        version: VERSION.
        peer: the provider this row is compared with: torch.nn, or what takes its place where it lacks something.
        ratio: the peer's us_per_step over this one's; above 1 is faster than the peer. None without either.
        peer_algorithm: what the peer should run for this case.
        limit_us: what the cost model gives the scans of one step (`limits`). None on a CPU.
        command: the command line that chose the rows, without its files.
        commit: of the code measured; `-dirty-` and a digest of the changes where there were any.
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
    input_share: float | None
    scan_share: float | None
    gradient_share: float | None
    status: str
    reason: str | None
    peer_algorithm: str
    limit_us: float | None
    fastrnn: str
    device: str
    gpu: str | None
    driver: str | None
    cpu: str | None
    threads: int
    torch: str
    triton: str | None
    cudnn: str | None
    python: str
    command: str
    commit: str | None
    time: str

    def case(self) -> Case:
        return Case(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Case)})

    def environment(self) -> Environment:
        return Environment(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Environment)})


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
def environment(cuda: bool) -> Environment:
    """This machine, its GPU or its CPU."""
    import torch

    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None
    return Environment(
        fastrnn=fastrnn.__version__,
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
    """The commit of the checkout fastrnn is imported from, as in `Row`; None where it is not imported from one."""
    file = Path(fastrnn.__file__)
    # An installed copy may lie inside some checkout, as in a virtual environment there, without being part of it.
    git = ("git", "--no-optional-locks", "-C", str(file.parent))
    if _output(*git, "ls-files", "--error-unmatch", file.name) is None:
        return None
    head, changes = _output(*git, "rev-parse", "HEAD"), _output(*git, "diff", "HEAD")
    # The digest tells one change from the next: a run that goes on must not take the one's rows for the other's.
    return f"{head}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if head and changes else head


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def append(path: str | os.PathLike[str], row: Mapping[str, Any]) -> None:
    """Add one line to a results file; on disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def append_csv(path: str | os.PathLike[str], row: Mapping[str, Any]) -> None:
    """Add one line to a CSV file, and the headings to one that is empty."""
    with open(path, "a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def mend(path: str | os.PathLike[str]) -> None:
    """Cut off a last line that was not written to its end, with a note: the next row would continue it."""
    content = Path(path).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        print(f"{Path(path).name}: the last line was cut short and is dropped", file=sys.stderr)
        os.truncate(path, len(whole))


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a results file; a last line that was cut short is left out, with a note.

    Raises:
        BenchError: there is no such file, a line is no row, or one is of another version.
    """
    name = Path(path).name
    try:
        *lines, rest = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {name}: {getattr(error, 'strerror', None) or 'not text'}") from None
    if rest:
        print(f"{name}: the last line was cut short and is dropped", file=sys.stderr)
    return [_row(line, f"{name}, line {number}") for number, line in enumerate(lines, 1)]


def _row(line: str, place: str) -> Row:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict) or "provider" not in values:
        raise BenchError(f"{place}: not a benchmark row")
    version = values.get("version", 1)
    if version != VERSION:
        raise BenchError(f"{place}: version {version}, this reads version {VERSION}; measure again, into another file")
    if set(values) != {field.name for field in dataclasses.fields(Row)}:
        raise BenchError(f"{place}: not a benchmark row")
    return Row(**values)
