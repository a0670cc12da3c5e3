"""`kernels`: what the compiler makes of every scan kernel that would be chosen for a list of shapes; needs no GPU.

Triton is needed, torch is not.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastrnn.bench.gpu import workers
from fastrnn.bench.rows import journal
from fastrnn.bench.rows.errors import said
from fastrnn.bench.showing.table import columns, emit, heading, line
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan.choice import choose
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.devices import DEVICES

if TYPE_CHECKING:
    from fastrnn.kernels.offline.report import Report

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
HIDDEN = (32, 64, 128, 256, 512, 768, 1024, 1536, 2048)
_PROCESSES = 2

COLUMNS = columns(
    "arch<6 | cell<12 | pass<8 | dtype<8 | H>5 | B>4 | dirs>4 | tier<8 | units x rows, chunk<19 | warps>5 | regs>4 | "
    "spills>6 | KiB>6 | limit>5 | mma>4 | wgmma>5 | resident<8 | barriers>8 | loop>5"
)


@dataclass(frozen=True)
class Job:
    """One scan to choose a launch for, and compile."""

    arch: str
    cell: str
    backward: bool
    dtype: str
    H: int
    B: int
    directions: int = 1
    schedule: str = "persistent"

    def config(self) -> LaunchConfig | None:
        counts = COUNTS[self.cell]
        sizes = (counts.gates, self.backward, ELEMENT_BYTES[self.dtype], self.B, self.H, self.directions)
        return choose(ScanShape(*sizes, inner=counts.inner), DEVICES[self.arch], self.schedule)


def jobs(
    archs: Iterable[str],
    cells: Iterable[str],
    dtypes: Iterable[str],
    hidden: Iterable[int],
    batches: Iterable[int],
    directions: int,
    schedule: str,
) -> list[Job]:
    """Every combination, forward and backward, once."""
    product = itertools.product(archs, dtypes, cells, (False, True), hidden, batches)
    return list(dict.fromkeys(Job(a, c, back, d, H, B, directions, schedule) for a, d, c, back, H, B in product))


def quick() -> list[Job]:
    """The short report that follows a benchmark without a GPU."""
    return jobs(["sm_90"], ["lstm", "gru", "gru_textbook", "rnn_tanh"], ["bfloat16"], HIDDEN, [16], 1, "persistent")


def unavailable() -> str | None:
    """Why there can be no report here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; the kernel report needs its compiler"
    from fastrnn.kernels.triton.constants import interpreted

    if interpreted():
        return "TRITON_INTERPRET is set, so Triton interprets the kernels and compiles none; unset it for this report"
    return None


def _compile(job: Job, config: LaunchConfig) -> Report | str:
    """In a worker process: the report, or what the compiler said; not every exception of Triton's can be sent home."""
    from fastrnn.kernels.offline.report import compile_scan

    capability = DEVICES[job.arch].capability
    try:
        return compile_scan(COUNTS[job.cell], job.backward, job.dtype, job.H, job.directions, config, capability)
    except Exception as error:
        return said(error)


def _row(job: Job, config: LaunchConfig | None, report: Report | str | None) -> dict[str, Any]:
    """One object of the report, the same keys in each; `status` is "ok" or says what is wrong."""
    limit = DEVICES[job.arch].shared_bytes
    found = None if isinstance(report, str) else report
    if config is None:
        status = "no launch"
    elif found is None:
        status = f"does not compile: {report}"
    elif found.shared > limit:
        status = "too much shared memory"
    else:
        status = "spills" if found.spills else "ok"
    names = ("tier", "exchange", "block_h", "block_b", "block_k", "num_k", "split", "num_warps")
    measures = ("registers", "spills", "shared", "mma", "wgmma", "resident", "barriers", "instructions")
    return {
        **dataclasses.asdict(job),
        **{name: getattr(config, name, None) for name in names},
        **{name: getattr(found, name, None) for name in measures},
        "shared_limit": limit,
        "status": status,
        "triton": importlib.metadata.version("triton"),
    }


def _show(row: dict[str, Any]) -> str:
    name = "backward" if row["backward"] else "forward"
    start = [row["arch"], row["cell"], name, row["dtype"], row["H"], row["B"], row["directions"]]
    if row["registers"] is None:
        return f"{line(COLUMNS[: len(start)], start)}  {row['status']}"
    tile = f"{row['block_h']} x {row['block_b']}, {row['block_k']}"
    resident = "yes" if row["resident"] else "no"
    sizes = [f"{row['shared'] / 1024:.1f}", f"{row['shared_limit'] // 1024}"]
    end = [row["tier"], tile, row["num_warps"], row["registers"], row["spills"], *sizes]
    return line(COLUMNS, [*start, *end, row["mma"], row["wgmma"], resident, row["barriers"], row["instructions"]])


def _summary(rows: Sequence[dict[str, Any]], kernels: int) -> str:
    def count(start: str) -> int:
        return sum(row["status"].startswith(start) for row in rows)

    compiled = [row for row in rows if row["registers"] is not None]
    return (
        f"{len(rows)} rows, {kernels} kernels, {sum(row['spills'] > 0 for row in compiled)} with spills, "
        f"{sum(row['shared'] > row['shared_limit'] for row in compiled)} over the shared memory there is, "
        f"{count('does not compile')} that do not compile, {count('no launch')} without a launch, "
        f"{sum(row['resident'] for row in compiled)} with resident weights."
    )


def report(todo: Sequence[Job], json_path: str | None) -> int:
    """Compile, print and record; 1 if a kernel spills, does not fit or does not compile, else 0."""
    emit(heading(COLUMNS))
    rows: list[dict[str, Any]] = []
    futures: dict[tuple[Job, LaunchConfig], Future[Report | str]] = {}
    with workers.pool(_PROCESSES) as pool:
        pending: list[tuple[Job, LaunchConfig | None, Future[Report | str] | None]] = []
        for job in todo:
            config, future = job.config(), None
            if config is not None:
                # Rows that differ in what only the launch sees share a kernel.
                key = replace(job, B=0, schedule=""), replace(config, batch_tiles=0, schedule="")
                if key not in futures:
                    futures[key] = pool.submit(_compile, job, config)
                future = futures[key]
            pending.append((job, config, future))
        for job, config, future in pending:
            rows.append(_row(job, config, None if future is None else future.result()))
            if json_path is not None:
                journal.append(json_path, rows[-1])
            emit(_show(rows[-1]))
    emit("")
    emit(_summary(rows, len(futures)))
    return 0 if all(row["status"] in ("ok", "no launch") for row in rows) else 1
