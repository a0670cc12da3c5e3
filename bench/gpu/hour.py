"""`hour`: all that a GPU is borrowed for, in parts that can be had one at a time and are each bounded.

Every part writes what it finds as it finds it, into one folder; a part that fails, hangs or runs out of time ends
itself and no other; called again, with the same folder, the whole goes on where it was. It needs this Python with
torch, Triton and, for the tests, pytest: no registry, no virtual environment, no git history.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from fastrnn.bench.gpu.workers import cores
from fastrnn.bench.rows import checkout, journal
from fastrnn.bench.showing.table import emit

LOG, STATE = "log.txt", "parts.jsonl"
LOST_TESTS, LOST_ROWS, NO_TESTS = 70, 3, 5  # exit codes: of tests/ledger.py, of `cli.main`, of pytest with none left
_TIME = "out of time"
_LEAST_S = 20  # what is worth starting something for
_GRACE_S = 5
_ROUNDS = 4  # how often a part that ran out of its own time gets another turn in one call


@dataclass(frozen=True)
class Step:
    """A command of a part.

    Attributes:
        words: the command.
        silence: seconds without a line of output after which it counts as hung.
        again: exit codes after which it is started once more, as it is where it hung: what failed, or had begun, it has
            recorded and passes over.
        good: exit codes that mean that it did what it is for.
    """

    words: Sequence[str]
    silence: float = 240
    again: frozenset[int] = frozenset()
    good: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Part:
    """One thing that the GPU is for. `seconds` is the most it may take at a time, all its steps together."""

    name: str
    text: str
    steps: Sequence[Step]
    seconds: float = 570
    summary: Callable[[], str] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Ended:
    """How a part ended: `done` is false where it goes on at the next call, `good` is true where all went well."""

    part: str
    done: bool
    good: bool
    reason: str
    seconds: float


def _workers() -> list[str]:
    """Several processes share the GPU where pytest-xdist is installed: what tests wait for is mostly the host."""
    if importlib.util.find_spec("xdist") is None:
        return []
    count = min(4, cores() // 4)
    return ["-n", str(count)] if count > 1 else []


def parts(folder: Path, commit: str | None) -> list[Part]:
    """What there is to do, in order, for results in `folder`: what finds faults first, the longest last."""
    python = sys.executable
    bench = [python, "-m", "fastrnn.bench"]
    tests = [python, "-m", "pytest", "-m", "gpu", "tests/gpu/test_gpu.py", "-v", "--tb=short", "-p", "no:cacheprovider"]
    files = ("launches.jsonl", "tests.jsonl", "rows.jsonl", "machine.jsonl", "steps.jsonl")
    launches, ledger, rows, constants, steps = (str(folder / name) for name in files)
    known = ["--commit", commit] if commit is not None else []
    recorded = [*bench, "run", "--json", rows, "--resume", "--pass-over-failed", *known]
    anything = frozenset(range(256))  # nothing is launched: what the tests say of it is nothing
    no_test, lost_tests, lost_rows = frozenset({0, NO_TESTS}), frozenset({LOST_TESTS}), frozenset({LOST_ROWS})
    short = [*tests, "-k", "test_a_short_wait_ends", "--ledger", ledger]

    def outcomes() -> str:
        return count_outcomes(Path(ledger))

    return [
        Part(
            "launches",
            "what the tests will launch, found by running them without launching",
            [Step([*tests, *_workers(), "--record-launches", launches], good=anything)],
        ),
        Part(
            "compile",
            "all of that and of the benchmark, compiled on all cores",
            [
                Step([*bench, "compile", "--launches", launches]),
                Step([*bench, "compile", "--quick"]),
                Step([*bench, "compile", "--full"]),
            ],
        ),
        Part(
            "waits",
            "a short run of each kernel whose programs wait, 60 seconds for each at most",
            [Step(short, silence=60, again=lost_tests, good=no_test)],
            summary=outcomes,
        ),
        Part(
            "tests",
            "the GPU tests",
            [Step([*tests, *_workers(), "--ledger", ledger], silence=180, again=lost_tests, good=no_test)],
            summary=outcomes,
        ),
        Part("steps", "a step of each kind of launch", [Step([*bench, "steps", "--json", steps, *known])]),
        Part("quick", "the quick benchmark, cuDNN beside", [Step([*recorded, "--quick"], again=lost_rows)]),
        Part("machine", "the cost model's constants", [Step([*bench, "machine", "--json", constants, *known])]),
        Part("full", "the full benchmark", [Step([*recorded, "--full"], again=lost_rows)]),
    ]


def count_outcomes(ledger: Path) -> str:
    """What became of the tests, in words."""
    last = {row["test"]: row["outcome"] for row in journal.objects(ledger)}
    counts = collections.Counter(last.values())
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no tests"


def _kill(process: subprocess.Popen[str], hung: bool) -> None:
    """End a command and what it started.

    Interrupted, it takes back that the test or row under way has begun, which the next call then begins anew. What hung
    stays begun, and is passed over.
    """
    for number in (signal.SIGKILL,) if hung else (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    process.wait()


def _say(text: str, log: TextIO) -> None:
    emit(text.removesuffix("\n"))
    log.write(text)
    log.flush()


def _pass_on(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """The lines of a stream as they come, and None after the last."""
    with stream:
        for text in stream:
            lines.put(text)
    lines.put(None)


def _run(step: Step, until: float, log: TextIO) -> int | str:
    """Run a command, showing and logging its lines as they come: its exit code, or why it was ended."""
    process = subprocess.Popen(
        step.words,
        cwd=checkout.root(),
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True)
    heard, hung = time.monotonic(), False
    try:  # from here on: whatever ends this ends the command
        reader.start()
        while (now := time.monotonic()) < until:
            if now >= heard + step.silence:
                hung = True
                return f"hung: not a line for {step.silence:.0f} seconds"
            with contextlib.suppress(queue.Empty, subprocess.TimeoutExpired):
                text = lines.get(timeout=min(until, heard + step.silence) - now)
                if text is None:
                    return process.wait(max(0.0, until - time.monotonic()))
                heard = time.monotonic()
                _say(text, log)
        return _TIME
    finally:
        _kill(process, hung)
        if reader.is_alive():
            reader.join(_GRACE_S)
        while not lines.empty():  # what it said when it was ended
            if text := lines.get():
                _say(text, log)


def _again(ended: int | str, step: Step) -> bool:
    return bool(step.again) and (ended in step.again or str(ended).startswith("hung"))


def run_part(part: Part, until: float, log: TextIO) -> Ended:
    """Run the steps of a part one after another; one that fails does not keep the next from its turn."""
    start = time.monotonic()
    until = min(until, start + part.seconds)
    wrong: list[str] = []
    ended: int | str = 0
    for step in part.steps:
        ended = _run(step, until, log)
        while _again(ended, step) and until - time.monotonic() > _LEAST_S:
            wrong.append(ended if isinstance(ended, str) else "a process lost its GPU")
            ended = _run(step, until, log)
        if ended not in step.good:
            wrong.append(ended if isinstance(ended, str) else f"exit code {ended}")
        if ended == _TIME:
            break
    told = [] if part.summary is None else [part.summary()]
    seconds = round(time.monotonic() - start, 1)
    return Ended(part.name, ended != _TIME, not wrong, "; ".join(wrong + told), seconds)


def finished(folder: Path) -> set[str]:
    """The parts that need not be run again."""
    last = {row["part"]: row["done"] for row in journal.objects(folder / STATE)}
    return {name for name, done in last.items() if done}


@contextlib.contextmanager
def _ending_what_runs() -> Iterator[None]:
    """A polite end from outside (`timeout`) ends the command under way, too: it has a session of its own."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts == signal.SIG_IGN:
        # As behind `nohup ... &`. Commands would inherit it, and not be told to end; a handler they do not inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupts)


def run(todo: Sequence[Part], folder: Path, seconds: float | None, again: bool = False) -> list[Ended]:
    """Run the parts that are not finished, in order, as far as `seconds` reach; how each ended, at last.

    A part that ran out of its own time has another turn after the others.

    Args:
        todo: the parts.
        folder: where results go.
        seconds: for all of them together, or None for as long as they take.
        again: whether to run those that are finished, too.
    """
    until = float("inf") if seconds is None else time.monotonic() + seconds
    before = set() if again else finished(folder)
    for part in todo:
        if part.name in before:
            emit(f"== {part.name}: finished before")
    left = [part for part in todo if part.name not in before]
    found = {part.name: Ended(part.name, False, False, "no time left", 0.0) for part in left}
    with _ending_what_runs(), (folder / LOG).open("a", encoding="utf-8") as log:
        for _ in range(_ROUNDS):
            for part in left:
                if until - time.monotonic() < _LEAST_S:
                    break
                emit(f"== {part.name}: {part.text}")
                log.write(f"== {part.name}, {journal.now()}\n")
                found[part.name] = run_part(part, until, log)
                journal.append(folder / STATE, {**vars(found[part.name]), "time": journal.now()})
                emit(f"== {part.name}: {_verdict(found[part.name])}")
            left = [part for part in left if not found[part.name].done]
    return list(found.values())


def _verdict(ended: Ended) -> str:
    word = "done" if ended.good else "ended" if ended.done else "goes on when called again"
    return f"{word} after {ended.seconds:.0f} s{f' ({ended.reason})' if ended.reason else ''}"


def report(found: Sequence[Ended], folder: Path) -> int:
    """Say how each part ended; 0 if all of them did, and well."""
    emit("")
    for ended in found:
        emit(f"{ended.part:<9} {_verdict(ended)}")
    emit(f"Results are in {folder.name}: {', '.join(sorted(path.name for path in folder.iterdir()))}.")
    return 0 if all(ended.good for ended in found) else 1
