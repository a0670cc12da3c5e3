"""`hour`, the one command for a borrowed GPU: its flow, with commands that fail, hang, lose the GPU or take long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compiling_environment

from fastrnn.bench import cli
from fastrnn.bench.gpu import hour
from fastrnn.bench.gpu.hour import Ended, Part, Step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour, "_LEAST_S", 0.05)
    monkeypatch.setattr(hour, "_GRACE_S", 2)


def _step(script: str, **options: object) -> Step:
    return Step([sys.executable, "-S", "-c", script], **options)  # type: ignore[arg-type]  # of its fields


def _kept(folder: Path) -> list[tuple[str, bool, bool]]:
    rows = map(json.loads, (folder / "parts.jsonl").read_text().splitlines())
    return [(row["part"], row["done"], row["good"]) for row in rows]


def test_one_failure_ends_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = [
        Part("fails", "x", [_step("print('one'); raise SystemExit(7)"), _step("print('two')")]),
        Part("hangs", "x", [_step("import time; print('begun', flush=True); time.sleep(60)", silence=1.5)]),
        Part("dies", "x", [_step("import os; os.kill(os.getpid(), 9)")]),
        Part("works", "x", [_step("print('three')")]),
    ]
    found = hour.run(todo, tmp_path, None)
    assert [(e.part, e.done, e.good) for e in found] == [
        ("fails", True, False),
        ("hangs", True, False),
        ("dies", True, False),
        ("works", True, True),
    ]
    assert [e.reason for e in found] == ["exit code 7", "hung: not a line for 2 seconds", "exit code -9", ""]
    log = (tmp_path / "log.txt").read_text()
    assert [line for line in log.splitlines() if not line.startswith("==")] == ["one", "two", "begun", "three"]
    capsys.readouterr()
    assert hour.report(found, tmp_path) == 1
    assert "works     done after" in capsys.readouterr().out
    # Nothing is left: called again, nothing runs.
    assert hour.run(todo, tmp_path, None) == []
    assert len(_kept(tmp_path)) == 4
    assert hour.run(todo[-1:], tmp_path, None, again=True)[0].good


def test_output_is_kept_as_it_comes(tmp_path: Path) -> None:
    """What a command said before everything was killed is in the log."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from fastrnn.bench.gpu import hour
child = "import time; print('early', flush=True); time.sleep(60)"
hour.run([hour.Part("a", "x", [hour.Step([sys.executable, "-S", "-c", child])])], Path({str(tmp_path)!r}), None)
"""
    process = subprocess.Popen([sys.executable, "-c", script], env=compiling_environment())
    log = tmp_path / "log.txt"
    deadline = time.monotonic() + 60
    while not (log.exists() and "early\n" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.kill()
    process.wait()
    assert "early\n" in log.read_text()


def test_a_part_without_time_goes_on_at_the_next_call(tmp_path: Path) -> None:
    """The second call finds what the first left, and the third that all is done."""
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    slow = f"import os, time; {count}; time.sleep(60 * (os.path.getsize({str(tmp_path / 'count')!r}) < 2))"
    todo = [Part("slow", "x", [_step(slow)]), Part("later", "x", [_step("pass")])]
    first = hour.run(todo, tmp_path, 2)
    assert [(e.done, e.reason) for e in first] == [(False, "out of time"), (False, "no time left")]
    assert hour.finished(tmp_path) == set()
    assert all(e.good for e in hour.run(todo, tmp_path, 60))
    assert hour.finished(tmp_path) == {"slow", "later"}


def test_a_part_past_its_own_bound_has_another_turn_after_the_others(tmp_path: Path) -> None:
    file = tmp_path / "count"
    slow = (
        f"import os, time; open({str(file)!r}, 'a').write('x'); time.sleep(60 * (os.path.getsize({str(file)!r}) < 2))"
    )
    found = hour.run([Part("slow", "x", [_step(slow)], seconds=3), Part("b", "x", [_step("pass")])], tmp_path, None)
    assert [e.good for e in found] == [True, True]
    assert _kept(tmp_path) == [("slow", False, False), ("b", True, True), ("slow", True, True)]


def test_a_lost_gpu_starts_the_command_again(tmp_path: Path) -> None:
    file = tmp_path / "count"
    script = (
        f"import os; open({str(file)!r}, 'a').write('x'); raise SystemExit(3 * (os.path.getsize({str(file)!r}) < 3))"
    )
    (ended,) = hour.run([Part("rows", "x", [_step(script, again=frozenset({3}))])], tmp_path, None)
    assert file.read_text() == "xxx"
    assert (ended.done, ended.good) == (True, False)
    assert ended.reason == "a process lost its GPU; a process lost its GPU"


def test_what_a_command_started_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = "import time; time.sleep(60)"
    script = f"""
import subprocess, sys, time
open({str(file)!r}, "w").write(str(subprocess.Popen([sys.executable, "-S", "-c", {child!r}]).pid))
time.sleep(60)
"""
    hour.run([Part("a", "x", [_step(script, silence=2)])], tmp_path, None)
    state = Path(f"/proc/{file.read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["in front", "behind nohup"])
def interrupts(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What this process does with them, and what its commands would inherit."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_what_hangs_is_killed_and_what_has_no_time_is_interrupted(interrupts: Any, tmp_path: Path) -> None:
    """Interrupted, a command can say what it had begun and did not end; what hung must stay begun."""
    script = """
import time
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("taken back", flush=True)
"""
    log = tmp_path / "log.txt"
    hour.run([Part("a", "x", [_step(script, silence=1.5)])], tmp_path, None)
    assert "taken back" not in log.read_text()
    hour.run([Part("b", "x", [_step(script)])], tmp_path, 1.5)
    assert "taken back" in log.read_text()
    assert signal.getsignal(signal.SIGINT) is interrupts


def test_an_end_from_outside_ends_the_command_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`timeout` sends SIGTERM to this process alone."""
    script = f"import os, time; os.kill({os.getpid()}, {int(signal.SIGTERM)}); time.sleep(60)"
    monkeypatch.setattr(hour, "parts", lambda folder, commit: [Part("a", "x", [_step(script)])])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    assert cli.main(["hour", "--out", str(tmp_path)]) == 130
    assert time.monotonic() - start < 30
    assert signal.getsignal(signal.SIGTERM) is before
    assert f"what was found is in {tmp_path}; run again to go on" in capsys.readouterr().err


def test_every_part_is_bounded_and_its_commands_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ten minutes; each command line is one that its program takes; the commit goes where it is recorded."""
    todo = hour.parts(tmp_path, "abc")
    assert [part.name for part in todo] == [
        "launches",
        "compile",
        "waits",
        "tests",
        "steps",
        "quick",
        "machine",
        "full",
    ]
    assert all(part.seconds < 600 for part in todo)
    for part in todo:
        for step in part.steps:
            words = list(step.words)
            if words[2] == "fastrnn.bench":
                arguments = cli.build_parser().parse_args(words[3:])
                assert (getattr(arguments, "commit", None) == "abc") == ("--json" in words), words
            else:
                assert words[2] == "pytest"
    waits = next(part for part in todo if part.name == "waits")
    assert waits.steps[0].silence == 60


def test_outcomes_are_counted(tmp_path: Path) -> None:
    ledger = tmp_path / "tests.jsonl"
    assert hour.count_outcomes(ledger) == "no tests"
    rows = [("a", "begun"), ("a", "passed"), ("b", "failed"), ("c", "passed"), ("d", "begun")]
    ledger.write_text("".join(json.dumps({"test": t, "outcome": o}) + "\n" for t, o in rows) + '{"cut')
    assert hour.count_outcomes(ledger) == "1 begun, 1 failed, 2 passed"


def test_hour_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["hour"]) == 1
    assert "no CUDA GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as error:
        cli.main(["hour", "--part", "test"])
    assert error.value.code == 2
    assert "invalid choice: 'test' (choose from launches, compile, waits" in capsys.readouterr().err
    assert cli.main(["hour", "--list"]) == 0
    assert "full      the full benchmark\n" in capsys.readouterr().out


def test_a_verdict_says_what_comes_next() -> None:
    assert hour._verdict(Ended("a", True, True, "", 3.2)) == "done after 3 s"
    assert hour._verdict(Ended("a", True, False, "exit code 1", 3.2)) == "ended after 3 s (exit code 1)"
    assert hour._verdict(Ended("a", False, False, "out of time", 3)).startswith("goes on when called again after 3 s")
