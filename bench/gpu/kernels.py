"""`kernels`: what the compiler makes of every scan kernel that would be chosen for a list of shapes; needs no GPU.

Triton is needed; torch only to count what a step executes (`executed.py`).
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

from fastrnn.bench.gpu import executed, workers
from fastrnn.bench.rows import journal
from fastrnn.bench.rows.cells import counts_of
from fastrnn.bench.rows.errors import said
from fastrnn.bench.showing.table import Column, columns, emit, heading, line
from fastrnn.kernels.plan.choice import choose
from fastrnn.kernels.plan.configs import LaunchConfig, ScanShape
from fastrnn.kernels.plan.cost import launch_cost
from fastrnn.kernels.plan.devices import DEVICES, Device

if TYPE_CHECKING:
    from fastrnn.kernels.offline.report import Report

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
HIDDEN = (32, 64, 128, 256, 512, 768, 1024, 1536, 2048)
_PROCESSES = 2
# Which launches there are to choose from: all that a GPU is given; none of Gluon's; of Gluon's grids those alone whose
# data are their own flag.
KINDS: dict[str, dict[str, Any]] = {"all": {}, "plain": {"gluon": False}, "flag": {"gluon_exchanges": ("flag",)}}

COLUMNS = columns(
    "arch<6 | cell<12 | pass<8 | dtype<8 | H>5 | B>4 | dirs>4 | tier<8 | units x rows, chunk<19 | warps>5 | regs>4 | "
    "spills>6 | KiB>6 | limit>5 | mma>4 | wgmma>5 | resident<8 | barriers>8 | loop>5"
)
# With what a step executes: the code's own figures of the loop, then those. The rest is in the JSON.
EXECUTED_COLUMNS = columns(
    "arch<6 | cell<12 | pass<8 | dtype<8 | H>5 | B>4 | dirs>4 | tier<8 | units x rows, chunk<19 | warps>5 | loop>5 | "
    "barriers>8 | PTX>5 | executed>8 | barriers>8 | bytes in>8 | out>7 | shared in>9 | out>7 | conflicts>9"
)
# How long a step takes, in cycles part by part, and in microseconds by that and by the cost model.
PATH_COLUMNS = columns(
    "arch<6 | cell<12 | pass<8 | dtype<8 | H>5 | B>4 | dirs>4 | tier<8 | units x rows, chunk<19 | warps>5 | loop>5 | "
    "before>6 | load>5 | matrix>6 | sum>5 | pointwise>9 | told>5 | after>5 | us>6 | model>6"
)
_PATH = ("before", "load", "matrix", "sum", "pointwise", "hand_over", "after")
_EXECUTED = (
    "code", "instructions", "barriers", "global_loaded", "global_stored", "shared_loaded", "shared_stored", "conflicts"
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One scan to choose a launch for, of those of a kind, and compile."""

    arch: str
    cell: str
    backward: bool
    dtype: str
    H: int
    B: int
    directions: int = 1
    schedule: str = "persistent"
    kind: str = "all"

    def shape(self) -> ScanShape:
        counts = counts_of(self.cell)
        sizes = (counts.gates, self.backward, ELEMENT_BYTES[self.dtype], self.B, self.H, self.directions)
        return ScanShape(*sizes, **counts.tiles(self.backward))

    def config(self) -> LaunchConfig | None:
        return choose(self.shape(), self.device(), self.schedule)

    def device(self) -> Device:
        return replace(DEVICES[self.arch], **KINDS[self.kind])

    def as_row(self) -> dict[str, Any]:
        """What names it in a report, where the launch says of what kind it is."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "kind"}


def jobs(
    archs: Iterable[str],
    cells: Iterable[str],
    dtypes: Iterable[str],
    hidden: Iterable[int],
    batches: Iterable[int],
    directions: int,
    schedule: str,
    kind: str = "all",
) -> list[Job]:
    """Every combination, forward and backward, once."""
    product = itertools.product(archs, dtypes, cells, (False, True), hidden, batches)
    return list(dict.fromkeys(Job(a, c, back, d, H, B, directions, schedule, kind) for a, d, c, back, H, B in product))


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
        return compile_scan(counts_of(job.cell), job.backward, job.dtype, job.H, job.directions, config, capability)
    except Exception as error:
        return said(error)


def _execute(job: Job, config: LaunchConfig) -> dict[str, Any] | str:
    """In a worker process: what a step executes, or what went wrong."""
    try:
        sizes = (job.cell, job.backward, job.dtype, job.B, job.H, job.directions)
        return executed.count(*sizes, config, job.arch)
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
    names = ("tier", "exchange", "block_h", "block_b", "block_k", "num_k", "split", "num_warps", "scatter")
    measures = ("registers", "spills", "shared", "mma", "wgmma", "resident", "barriers", "instructions")
    return {
        **job.as_row(),
        **{name: getattr(config, name, None) for name in names},
        **{name: getattr(found, name, None) for name in measures},
        "shared_limit": limit,
        "status": status,
        "triton": importlib.metadata.version("triton"),
    }


def _with_executed(row: dict[str, Any], counted: dict[str, Any] | str | None) -> dict[str, Any]:
    """The row with what a step executes, or why that is not known."""
    if isinstance(counted, str) and row["status"] in ("ok", "spills"):
        row["status"] = f"does not run: {counted}"
    return {**row, "executed": counted if isinstance(counted, dict) else None}


def _with_path(
    job: Job, row: dict[str, Any], config: LaunchConfig | None, report: Report | str | None
) -> dict[str, Any]:
    """The row with the path through a step, empty where its loop has others within it, and the model's time."""
    if config is None or report is None or isinstance(report, str):
        return {**row, "path": {}, "model_us": None}
    return {**row, "path": report.path, "model_us": round(launch_cost(job.shape(), config, job.device()), 3)}


def _show(row: dict[str, Any], columns: Sequence[Column] = COLUMNS) -> str:
    name = "backward" if row["backward"] else "forward"
    start = [row["arch"], row["cell"], name, row["dtype"], row["H"], row["B"], row["directions"]]
    counted = row.get("executed")
    if row["registers"] is None or (counted is None and columns is EXECUTED_COLUMNS):
        return f"{line(columns[: len(start)], start)}  {row['status']}"
    tile = f"{row['block_h']} x {row['block_b']}, {row['block_k']}"
    start += [row["tier"], tile, row["num_warps"]]
    if counted is not None:
        read, step = [row["instructions"], row["barriers"]], [counted[name] for name in _EXECUTED]
        return line(columns, [*start, *read, *step])
    if columns is PATH_COLUMNS:
        path = row["path"]
        parts = [path[part] for part in _PATH] if path else ["-"] * len(_PATH)
        us = f"{path['path_us']:.2f}" if path else "-"
        return line(columns, [*start, row["instructions"], *parts, us, f"{row['model_us']:.2f}"])
    resident = "yes" if row["resident"] else "no"
    sizes = [f"{row['shared'] / 1024:.1f}", f"{row['shared_limit'] // 1024}"]
    end = [row["registers"], row["spills"], *sizes, row["mma"], row["wgmma"], resident]
    return line(columns, [*start, *end, row["barriers"], row["instructions"]])


def _summary(rows: Sequence[dict[str, Any]], kernels: int) -> str:
    def count(start: str) -> int:
        return sum(row["status"].startswith(start) for row in rows)

    compiled = [row for row in rows if row["registers"] is not None]
    runs = f"{count('does not run')} that do not run, " if any("executed" in row for row in rows) else ""
    return (
        f"{len(rows)} rows, {kernels} kernels, {sum(row['spills'] > 0 for row in compiled)} with spills, "
        f"{sum(row['shared'] > row['shared_limit'] for row in compiled)} over the shared memory there is, "
        f"{count('does not compile')} that do not compile, {runs}{count('no launch')} without a launch, "
        f"{sum(row['resident'] for row in compiled)} with resident weights."
    )


def report(todo: Sequence[Job], json_path: str | None, execute: bool = False, path: bool = False) -> int:
    """Compile, print and record; 1 if a kernel spills, does not fit or does not compile, else 0.

    With `execute`, what a step executes, too: 1 then as well where a kernel does not run. With `path`, how long it is.
    """
    shown = EXECUTED_COLUMNS if execute else PATH_COLUMNS if path else COLUMNS
    emit(heading(shown))
    rows: list[dict[str, Any]] = []
    futures: dict[tuple[Job, LaunchConfig], Future[Report | str]] = {}
    with workers.pool(_PROCESSES) as pool:
        pending: list[tuple[Job, LaunchConfig | None, Future[Report | str] | None]] = []
        runs: list[Future[dict[str, Any] | str] | None] = []
        for job in todo:
            config, future = job.config(), None
            if config is not None:
                # Rows that differ in what only the launch sees share a kernel.
                key = replace(job, B=0, schedule=""), replace(config, batch_tiles=0, schedule="")
                if key not in futures:
                    futures[key] = pool.submit(_compile, job, config)
                future = futures[key]
            pending.append((job, config, future))
            runs.append(None if config is None or not execute else pool.submit(_execute, job, config))
        for (job, config, future), run in zip(pending, runs, strict=True):
            found = None if future is None else future.result()
            row = _row(job, config, found)
            if path:
                row = _with_path(job, row, config, found)
            rows.append(_with_executed(row, None if run is None else run.result()) if execute else row)
            if json_path is not None:
                journal.append(json_path, rows[-1])
            emit(_show(rows[-1], shown))
    emit("")
    emit(_summary(rows, len(futures)))
    return 0 if all(row["status"] in ("ok", "no launch") for row in rows) else 1
