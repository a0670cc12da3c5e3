"""`run`: every case with every provider, printed and recorded row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from fastrnn.bench import record
from fastrnn.bench.cases import Case
from fastrnn.bench.measure import Outcome, failed, make_truth, measure
from fastrnn.bench.providers import PROVIDERS, peer_algorithm, peer_of
from fastrnn.bench.table import Column, emit, heading, line

CASE_COLUMNS = (
    Column("cell", 12, right=False),
    Column("mode", 7, right=False),
    Column("dtype", 8, right=False),
    Column("T", 5),
    Column("B", 4),
    Column("I", 5),
    Column("H", 5),
    Column("layers", 6),
    Column("bidir", 5),
    Column("extras", 20, right=False),
)
RESULT_COLUMNS = (
    Column("provider", 15, right=False),
    Column("backend", 10, right=False),
    Column("us/step", 9),
    Column("p20", 9),
    Column("p80", 9),
    Column("ratio", 6),
    Column("peer", 15, right=False),
    Column("peak_mb", 8),
    Column("error", 8),
)
COLUMNS = (*CASE_COLUMNS, *RESULT_COLUMNS)


def device() -> torch.device:
    """Where to measure: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def introduction() -> str:
    """What this run compares, and on what."""
    env = record.environment()
    if env.device == "cuda":
        tf32 = "allowed" if torch.backends.cudnn.allow_tf32 else "off"
        return (
            f"GPU: {env.gpu}, driver {env.driver}. torch {env.torch}, triton {env.triton}, cuDNN {env.cudnn}, "
            f"TF32 {tf32}.\nThis compares fastrnn's kernels with torch.nn, which is cuDNN here."
        )
    return (
        "No CUDA GPU here: this compares fastrnn's CPU path (torch's own kernels) with torch.nn on the CPU; "
        "it says nothing about GPU speed.\n"
        f"CPU: {env.cpu}, {env.threads} thread{'s' * (env.threads > 1)}. torch {env.torch}."
    )


def _case_values(case: Case) -> list[object]:
    sizes = [case.cell, case.mode, case.dtype, case.T, case.B, case.I, case.H, case.layers]
    return [*sizes, "yes" if case.bidirectional else "no", case.extras() or None]


def list_cases(cases: Sequence[Case]) -> None:
    """Print the rows that would be measured."""
    emit(heading(CASE_COLUMNS))
    for case in cases:
        emit(line(CASE_COLUMNS, _case_values(case)))


def ratio_of(peer: Outcome | None, outcome: Outcome) -> float | None:
    """How many times faster than the peer."""
    if peer is None or peer.us_per_step is None or outcome.us_per_step is None:
        return None
    return peer.us_per_step / outcome.us_per_step


def outcomes(case: Case, providers: Sequence[str], where: torch.device) -> Iterator[tuple[str, Outcome, float | None]]:
    """Provider, outcome and ratio, the peer first: the others' ratios need it. What raises is an outcome too.

    Without providers, fastrnn and the case's peer are measured.
    """
    peer_name = peer_of(case)
    providers = providers or ("fastrnn", peer_name)
    try:
        truth = make_truth(case, where)
    except Exception as error:  # out of memory, or anything a backend may raise: the other rows go on
        yield from ((name, failed(error), None) for name in providers)
        return
    peer = None
    for name in sorted(providers, key=lambda name: name != peer_name):
        try:
            outcome = measure(case, PROVIDERS[name], truth, where)
        except Exception as error:
            outcome = failed(error)
        if name == peer_name:
            peer = outcome
        yield name, outcome, ratio_of(peer, outcome)


def _show(row: record.Row, case: Case) -> None:
    def number(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    time = row.status if row.status != "ok" else number(row.us_per_step, ".3f")
    values = [row.provider, row.backend, time, number(row.p20, ".3f"), number(row.p80, ".3f"), number(row.ratio, ".2f")]
    values += [row.peer, number(row.peak_mb, ".1f"), number(row.error, ".1e")]
    emit(line(COLUMNS, [*_case_values(case), *values]))
    if row.reason is not None:
        emit(f"  {row.status}: {row.reason}")


def run(cases: Sequence[Case], providers: Sequence[str], json_path: str | None, commit: str | None) -> int:
    """Measure and report; 1 if any row failed, else 0."""
    where = device()
    if where.type == "cpu":
        # torch's threads wait for each other at every step: on two cores with another process about, the same call took
        # 15 us a step, and 15,000. One thread is steady, and both providers run the same kernels.
        torch.set_num_threads(1)
    env = dataclasses.asdict(record.environment())
    emit(introduction())
    emit("")
    emit(heading(COLUMNS))
    statuses: list[str] = []
    for case in cases:
        for provider, outcome, ratio in outcomes(case, providers, where):
            row = record.Row(
                version=record.VERSION,
                **dataclasses.asdict(case),
                **dataclasses.asdict(outcome),
                **env,
                provider=provider,
                peer=peer_of(case),
                ratio=ratio,
                peer_algorithm=peer_algorithm(case, where),
                commit=commit,
                time=record.now(),
            )
            if json_path is not None:
                record.append(json_path, dataclasses.asdict(row))
            _show(row, case)
            statuses.append(row.status)
    emit("")
    failures, lacking = statuses.count("FAILED"), statuses.count("n/a")
    emit(
        f"{len(statuses)} rows, {failures} FAILED, {lacking} n/a. "
        "ratio: the peer's time over the provider's, above 1 is faster than the peer."
    )
    return 1 if failures else 0
