"""What is kept of a run: one JSON object per row, provider and repetition, with what it was measured on.

Neither absolute paths nor host names go in. torch is imported only to ask it about the machine.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastrnn
from fastrnn.bench.rows import journal
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.errors import BenchError

VERSION = 3  # of the rows; a file of another version is refused, not guessed at


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found for one provider on one case.

    Attributes:
        status: `"ok"`; `"FAILED"` or, where the provider has no such thing, `"n/a"`: then `reason` says why, and there
            are no times.
        backend, tier: what ran.
        us_per_step, p20, p80: median and percentiles of the time of one call, over T, in microseconds.
        peak_mb: GPU memory of one call: weights, inputs and all it allocates. None on a CPU.
        first_call_s: building the module and its first call, on the shortened sequence of the check; kernels that are
            not in Triton's cache yet are compiled in it.
        error: see `measure.BOUNDS`; None where it is not finite or no result came.
        input_share, scan_share, gradient_share: how the call's time divides, see `split.Shares`; None where the call
            is one operator of torch's, or not fastrnn's.
    """

    backend: str | None = None
    tier: str | None = None
    us_per_step: float | None = None
    p20: float | None = None
    p80: float | None = None
    peak_mb: float | None = None
    first_call_s: float | None = None
    error: float | None = None
    input_share: float | None = None
    scan_share: float | None = None
    gradient_share: float | None = None
    status: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row(Environment, Outcome, Case):
    """One line of a results file: a case, what was found, on which machine, and

    Attributes:
        version: VERSION.
        provider: who was measured.
        peer: the provider this row is compared with: torch.nn, or what takes its place where it lacks something.
        ratio: the peer's us_per_step over this one's; above 1 is faster than the peer. None without either.
        peer_algorithm: what the peer should run for this case.
        limit_us: what the cost model gives the scans of one step (`limits`). None on a CPU.
        command: the command line that chose the rows, without its files.
        commit: of the code measured; `-dirty-` and a digest of the changes where there were any.
        time: when the row was finished, UTC.
    """

    version: int
    provider: str
    peer: str
    ratio: float | None
    peer_algorithm: str
    limit_us: float | None
    command: str
    commit: str | None
    time: str

    def case(self) -> Case:
        return Case(**{name: getattr(self, name) for name in _names(Case)})

    def environment(self) -> Environment:
        return Environment(**{name: getattr(self, name) for name in _names(Environment)})


_found = _names(Outcome)
# In the order that files have them in.
FIELDS = ["version", *_names(Case), "provider", *_found[:5], "peer", "ratio", *_found[5:]]
FIELDS += ["peer_algorithm", "limit_us", *_names(Environment), "command", "commit", "time"]


def as_object(row: Row) -> dict[str, Any]:
    """A row as files have it."""
    return {name: getattr(row, name) for name in FIELDS}


def _cpu_name() -> str | None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine() or None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[0] if said else None


@functools.cache
def environment(cuda: bool) -> Environment:
    """This machine, its GPU or its CPU."""
    import torch

    return Environment(
        fastrnn=fastrnn.__version__,
        device="cuda" if cuda else "cpu",
        gpu=torch.cuda.get_device_name() if cuda else None,
        driver=_driver() if cuda else None,
        cpu=_cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        triton=importlib.metadata.version("triton") if importlib.util.find_spec("triton") else None,
        cudnn=str(torch.backends.cudnn.version()) if cuda else None,
        python=platform.python_version(),
    )


def read(path: journal.PathLike) -> list[Row]:
    """The rows of a results file; a last line that was cut short is left out, with a note.

    Raises:
        BenchError: there is no such file, a line is no row, or one is of another version.
    """
    name = Path(path).name
    return [_row(line, f"{name}, line {number}") for number, line in enumerate(journal.lines(path, note=True), 1)]


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
    if set(values) != set(FIELDS):
        raise BenchError(f"{place}: not a benchmark row")
    return Row(**values)
