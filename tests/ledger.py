"""What became of each test, on disk as it happens, so that a run that was cut off goes on where it was.

    python -m pytest -m gpu --ledger FILE

Tests with a line in FILE are passed over by the next run, whatever became of them; one that had begun and never ended
(it hung and was killed, or took the process with it) gets its line then. After an error that leaves a process no GPU,
the process ends: every test after it would fail.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import support
import torch

from fastrnn.bench.measuring.timing import lost
from fastrnn.bench.rows import journal

LOST = 70  # pytest's exit code where the GPU was lost: start again, with the same ledger


def outcomes(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each test, by its name; a last line that was cut short is left out."""
    return {row["test"]: row for row in journal.objects(path)}


class Ledger:
    """The plugin, in the process that reports: under pytest-xdist, the one that runs no test itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            journal.mend(path)
        self.rows: dict[str, dict[str, Any]] = {}
        for test, row in outcomes(path).items():
            if row["outcome"] == "begun":
                self._write(test, {"outcome": "lost", "reason": "it began, and the process ended before it did"})
        self.done = {test for test, row in outcomes(path).items() if row["outcome"] != "interrupted"}

    def _write(self, test: str, row: dict[str, Any]) -> None:
        journal.append(self.path, {"test": test, **row, "time": journal.now()})

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Under pytest-xdist: all processes must leave out the same tests, those that start later on, too."""
        node.workerinput["passed_over"] = sorted(self.done)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        pass_over(config, items, self.done)

    def pytest_keyboard_interrupt(self) -> None:
        """What was under way is to be begun anew."""
        for test in self.rows:
            self._write(test, {"outcome": "interrupted"})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(nodeid, {"outcome": "begun"})
        self.rows[nodeid] = {"outcome": "passed", "reason": None, "start": time.monotonic()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self.rows.get(report.nodeid)
        if row is None:
            return  # pytest-xdist tells of a process that ended after this test had
        if report.outcome != "passed" and row["outcome"] != "failed":
            row["outcome"] = report.outcome
            said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            row["reason"] = (said.strip().splitlines() or [""])[-1][:300]
        if report.when not in ("setup", "call", "teardown"):  # pytest-xdist's word for a process that ended in it
            self.pytest_runtest_logfinish(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        row = self.rows.pop(nodeid)
        seconds = round(time.monotonic() - row.pop("start"), 3)
        self._write(nodeid, {**row, "seconds": seconds})


def pass_over(config: pytest.Config, items: list[pytest.Item], done: set[str]) -> None:
    left_out = [item for item in items if item.nodeid in done]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in done]


class Worker:
    """The plugin in a process of pytest-xdist that runs tests."""

    def pytest_collection_modifyitems(self, config: Any, items: list[pytest.Item]) -> None:
        pass_over(config, items, set(config.workerinput["passed_over"]))


class Recorder:
    """The plugin of --record-launches: tests go through with no kernel launched. What they find says nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: set[object] = set()
        # Test modules import it by name, later than this: most of them measure, and stop at the first large error.
        support.relative_error = lambda *_: 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Written test by test: a run that is cut off leaves what it found."""
        from fastrnn.bench.gpu import ahead

        with ahead.recording() as found:
            result = yield
        new = [launch for launch in found if launch not in self.written]
        self.written.update(new)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(launch.line() for launch in new))
        return result


class Guard:
    """The plugin that ends a process whose GPU is gone, where the test that took it has been reported."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        result = yield
        if item.get_closest_marker("gpu") and torch.cuda.is_initialized():
            said = lost(torch.device("cuda"))
            if said is not None:
                reason = f"{item.nodeid} left this process no GPU: {said}"
                if hasattr(item.config, "workerinput"):
                    # pytest-xdist starts another process in place of one that has gone, and goes on with the others.
                    os.write(2, f"{reason}\n".encode())
                    os._exit(LOST)
                pytest.exit(reason, returncode=LOST)
        return result


def register(config: pytest.Config) -> None:
    """The plugins that the options ask for, and the guard."""
    plugins = config.pluginmanager
    plugins.register(Guard())
    worker = hasattr(config, "workerinput")
    if config.option.record_launches:
        plugins.register(Recorder(Path(config.option.record_launches)))
    if config.option.ledger:
        plugins.register(Worker() if worker else Ledger(Path(config.option.ledger)))
