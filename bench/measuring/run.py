"""`run`: every case with every provider, printed and recorded row by row."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fastrnn.bench.measuring.limits import limit_on
from fastrnn.bench.measuring.measure import Truth, make_truth, measure
from fastrnn.bench.measuring.timing import stop_if_lost
from fastrnn.bench.providers.table import PROVIDERS, peer_algorithm, peer_of
from fastrnn.bench.rows import journal, record
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.errors import BenchError, said
from fastrnn.bench.rows.record import Outcome, Row
from fastrnn.bench.showing.progress import Display, progress
from fastrnn.bench.showing.table import CASE_COLUMNS, Column, case_values, columns, emit, heading, line

RESULT_COLUMNS = columns(
    "provider<15 | backend<10 | us/step>9 | p20>9 | p80>9 | ratio>6 | peer<15 | peak_mb>8 | error>8"
)
LIMIT_COLUMNS = columns("limit>7 | % of it>7")


@dataclass(frozen=True)
class Plan:
    """What a run measures, and where it goes.

    Attributes:
        cases: the rows.
        providers: who is measured on each; fastrnn and the row's peer where this is empty.
        device: where.
        command: the command line, for the record.
        commit: of the code, for the record.
        json, csv: files to append to; the second may be None.
        done: rows that a run before this one finished; they are not measured again.
        pass_over_failed: whether those of them that failed are not, either.
    """

    cases: Sequence[Case]
    providers: Sequence[str]
    device: torch.device
    command: str
    commit: str | None
    json: str
    csv: str | None
    done: Sequence[Row]
    pass_over_failed: bool

    @property
    def note(self) -> Path:
        """A file for what is under way."""
        return Path(f"{self.json}.begun")

    def providers_of(self, case: Case) -> list[str]:
        """The peer first: the others' ratios need it."""
        peer = peer_of(case)
        return sorted(self.providers or ("fastrnn", peer), key=lambda name: name != peer)


def device(asked: str) -> torch.device:
    """Where to measure: the GPU if there is one, unless the CPU is asked for.

    Raises:
        BenchError: a GPU is asked for, and there is none.
    """
    cuda = torch.cuda.is_available()
    if asked == "cuda" and not cuda:
        raise BenchError("--device cuda: no CUDA GPU here")
    return torch.device("cuda" if cuda and asked != "cpu" else "cpu")


def introduction(env: record.Environment) -> str:
    """What this run compares, and on what."""
    if env.device == "cuda":
        tf32 = "allowed" if torch.backends.cudnn.allow_tf32 else "off"
        return (
            f"GPU: {env.gpu}, driver {env.driver}. torch {env.torch}, triton {env.triton}, cuDNN {env.cudnn}, "
            f"TF32 {tf32}.\nThis compares fastrnn's kernels with torch.nn, which is cuDNN here."
        )
    missing = "Not on a GPU" if torch.cuda.is_available() else "No CUDA GPU here"
    return (
        f"{missing}: this compares fastrnn's CPU path (torch's own kernels) with torch.nn on the CPU; "
        "it says nothing about GPU speed.\n"
        f"CPU: {env.processor()}. torch {env.torch}."
    )


def list_cases(cases: Sequence[Case]) -> None:
    """Print the rows that would be measured."""
    emit(heading(CASE_COLUMNS))
    for case in cases:
        emit(line(CASE_COLUMNS, case_values(case)))


def ratio_of(peer: float | None, us_per_step: float | None) -> float | None:
    """How many times faster than the peer."""
    return None if peer is None or us_per_step is None else peer / us_per_step


def _outcome(case: Case, provider: str, truth: Callable[[], Truth], where: torch.device) -> Outcome:
    """What raises is an outcome too: out of memory, or anything a backend may raise. The other rows go on."""
    try:
        return measure(case, PROVIDERS[provider], truth(), where)
    except Exception as error:
        return Outcome(status="FAILED", reason=said(error))


Done = dict[tuple[Case, str], list[Row]]


def finished(plan: Plan, env: record.Environment) -> tuple[Done, set[Case]]:
    """The rows that need not be measured again, of this code and this machine; and the cases of which one failed."""
    found: Done = {}
    failures: set[Case] = set()
    for row in plan.done:
        if row.commit != plan.commit or row.environment() != env:
            continue
        if row.status == "FAILED":
            failures.add(row.case())
        if row.status != "FAILED" or plan.pass_over_failed:
            found.setdefault((row.case(), row.provider), []).append(row)
    return found, failures


def _row(plan: Plan, case: Case, provider: str, outcome: Outcome, peer_us: float | None) -> Row:
    return Row(
        version=record.VERSION,
        **dataclasses.asdict(case),
        **dataclasses.asdict(outcome),
        **dataclasses.asdict(record.environment(plan.device.type == "cuda")),
        provider=provider,
        peer=peer_of(case),
        ratio=ratio_of(peer_us, outcome.us_per_step),
        peer_algorithm=peer_algorithm(case, plan.device),
        limit_us=limit_on(case, plan.device),
        command=plan.command,
        commit=plan.commit,
        time=journal.now(),
    )


@contextlib.contextmanager
def _begun(plan: Plan, case: Case, provider: str) -> Iterator[None]:
    """Leave a note beside the results while a row is measured: all that is left of it if it takes the process along."""
    note = {"provider": provider, "commit": plan.commit, "case": dataclasses.asdict(case)}
    plan.note.write_text(json.dumps(note))
    try:
        yield
    finally:
        plan.note.unlink(missing_ok=True)


def _never_ended(plan: Plan) -> list[Row]:
    """The row that a run before this one began and did not end, as a failed one; none without."""
    if not plan.note.exists():
        return []
    try:
        found = json.loads(plan.note.read_text())
    except ValueError:  # it was just being written
        found = {}
    plan.note.unlink()
    if not found or found["commit"] != plan.commit:
        return []
    outcome = Outcome(status="FAILED", reason="it began, and the process ended before it did")
    return [_row(plan, Case(**found["case"]), found["provider"], outcome, None)]


def rows_of(plan: Plan, done: Done, repetition: int, display: Display) -> Iterator[Row]:
    """Measure what is not done yet. Rows that are done only lend their time to the ratio."""
    for case in plan.cases:
        peer, peer_us, truth = peer_of(case), None, functools.cache(functools.partial(make_truth, case, plan.device))
        for provider in plan.providers_of(case):
            before = done.get((case, provider), [])
            if repetition < len(before):
                peer_us = before[repetition].us_per_step if provider == peer else peer_us
                continue
            words = (case.mode, case.cell, case.dtype, f"T={case.T} B={case.B} H={case.H}", case.extras(), provider)
            display.next(" ".join(filter(None, words)))
            with _begun(plan, case, provider):
                outcome = _outcome(case, provider, truth, plan.device)
            peer_us = outcome.us_per_step if provider == peer else peer_us
            yield _row(plan, case, provider, outcome, peer_us)


def _columns(device: str) -> tuple[Column, ...]:
    """Those of a run; the cost model has limits of GPUs only."""
    return (*CASE_COLUMNS, *RESULT_COLUMNS, *(LIMIT_COLUMNS if device == "cuda" else ()))


def percent_of_limit(row: Row) -> float | None:
    """How near a time comes to the cost model's."""
    if row.limit_us is None or row.us_per_step is None:
        return None
    return 100 * row.limit_us / row.us_per_step


def _show(row: Row, display: Display) -> None:
    def number(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    times = [number(value, ".3f") for value in (row.us_per_step, row.p20, row.p80)]
    values = [row.provider, row.backend, times[0] if row.status == "ok" else row.status, *times[1:]]
    values += [number(row.ratio, ".2f"), row.peer, number(row.peak_mb, ".1f"), number(row.error, ".1e")]
    if row.device == "cuda":
        values += [number(row.limit_us, ".3f"), number(percent_of_limit(row), ".0f")]
    display.emit(line(_columns(row.device), [*case_values(row), *values]))
    if row.reason is not None:
        display.emit(f"  {row.status}: {row.reason}")


def prepare(where: torch.device) -> None:
    """Settle the machine: before `record.environment` looks at it."""
    if where.type == "cpu":
        # torch's threads wait for each other at every step: on two cores with another process about, the same call took
        # 15 us a step, and 15,000. One thread is steady, and both providers run the same kernels.
        torch.set_num_threads(1)


def _keep(row: Row, plan: Plan) -> None:
    """Write a row to the files."""
    journal.append(plan.json, record.as_object(row))
    if plan.csv is not None:
        journal.append_csv(plan.csv, record.as_object(row))


def run(plan: Plan, repetitions: Sequence[int] = (0,)) -> list[Row]:
    """Measure, print and record; the rows measured.

    Raises:
        LostGPUError: a row failed in a way that leaves this process no GPU. It is recorded.
    """
    env = record.environment(plan.device.type == "cuda")
    for killed in _never_ended(plan):
        _keep(killed, plan)
        plan = dataclasses.replace(plan, done=[*plan.done, killed])
    done, failures = finished(plan, env)
    # What failed before may do so again and end the run: the others come first.
    plan = dataclasses.replace(plan, cases=sorted(plan.cases, key=lambda case: case in failures))
    emit(introduction(env))
    wanted = [(case, provider) for case in plan.cases for provider in plan.providers_of(case)]
    skipped = sum(n < len(done.get(key, ())) for n in repetitions for key in wanted)
    rows: list[Row] = []
    with progress(len(repetitions) * len(wanted) - skipped) as display:
        display.emit(f"\n{heading(_columns(env.device))}")
        for repetition in repetitions:
            for row in rows_of(plan, done, repetition, display):
                _keep(row, plan)
                _show(row, display)
                rows.append(row)
                if row.status == "FAILED":  # every row after it might fail, too, and say nothing of itself
                    rest = "--resume --pass-over-failed goes on with the others"
                    stop_if_lost(plan.device, f"the row above; {rest}")
    failed, lacking = (sum(row.status == status for row in rows) for status in ("FAILED", "n/a"))
    emit(
        f"\n{len(rows)} rows, {failed} FAILED, {lacking} n/a{f', {skipped} finished before' if skipped else ''}. "
        "ratio: the peer's time over the provider's, above 1 is faster than the peer."
    )
    emit(f"Kept in {plan.json}, for `report` and `plot`.")
    if env.device == "cuda":
        emit("limit: the cost model's microseconds per step for the scans alone, under published rates of the GPU.")
    return rows
