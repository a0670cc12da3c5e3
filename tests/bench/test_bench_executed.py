"""`kernels --executed`: the machine's counts of a step, against figures by hand and the compiler's own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import compiling_environment, gluon_launch, launch

from fastrnn.bench import cli
from fastrnn.bench.gpu import executed, kernels
from fastrnn.bench.gpu.kernels import Job

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "bench/compiled/executed-sm_90-triton-3.7.1.jsonl"
B, H, UNITS = 16, 48, 16  # of three programs, where they are several

pytest.importorskip("triton")

# Counted over the third and fourth step; where asked, again over the two that follow, and by the compiler.
PROGRAM = """
    import json, sys
    from fastrnn.bench.gpu import executed
    from fastrnn.kernels.counts import COUNTS
    from fastrnn.kernels.offline.report import compile_scan
    from fastrnn.kernels.plan.configs import LaunchConfig
    from ptx_machine import on_machine

    for cell, backward, config, also in json.loads(sys.argv[1]):
        config = LaunchConfig(**config)
        scan = cell, backward, "bfloat16", 16, 48, 1, config
        found = dict(step=executed.count(*scan, "sm_90"))
        if "later" in also:
            found["later"] = executed.count(*scan, "sm_90", (4, 6))
        if "barriers" in also:
            found["barriers"] = compile_scan(COUNTS[cell], backward, "bfloat16", 48, 1, config, (9, 0)).barriers
        with on_machine(order="programs") as launches:
            executed.execute(cell, backward, "bfloat16", 4, 16, 48, 1, config)
        found["waited"] = sum(map(executed._waited, launches))
        print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counts() -> dict[str, Any]:
    """By launch: what was counted, and the looks in vain where programs go one after another."""
    flag, barrier = (launch("split contraction", H, "persistent", exchange=e) for e in ("flag", "barrier"))
    cases = {
        "solo": ("rnn_tanh", True, launch("solo", H, "persistent"), "later, barriers"),
        "flag": ("lstm", False, flag, ""),
        "barrier": ("rnn_tanh", True, barrier, "later"),
        "streamed": ("lstm", False, launch("streamed", H, "persistent", exchange="flag"), "barriers"),
        "gluon": ("lstm", False, gluon_launch(H, units=UNITS), "later, barriers"),
    }
    given = json.dumps([(cell, backward, vars(config), also) for cell, backward, config, also in cases.values()])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), given],
        capture_output=True, text=True, env=compiling_environment(), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", [pytest.param("solo", marks=pytest.mark.slow), "barrier"])
def test_every_step_in_the_middle_is_the_same(counts: dict[str, Any], name: str) -> None:
    step = counts[name]["step"]
    assert step == counts[name]["later"]
    assert step["instructions"] == step["code"] > 100


def test_barriers_are_those_of_the_code(counts: dict[str, Any]) -> None:
    """More where the code has an inner loop; of launches over several programs, see the table below."""
    assert counts["solo"]["step"]["barriers"] == counts["solo"]["barriers"] > 0
    step = counts["streamed"]["step"]
    assert step["barriers"] > counts["streamed"]["barriers"]
    assert step["instructions"] > step["code"]


def test_looks_in_vain_are_told_from_the_step(counts: dict[str, Any]) -> None:
    assert {name: found["step"]["waited"] for name, found in counts.items()} == dict.fromkeys(counts, 0)
    assert {name for name, found in counts.items() if found["waited"]} == {"flag", "barrier", "streamed", "gluon"}


def test_bytes_by_hand(counts: dict[str, Any]) -> None:
    tile, whole = B * UNITS * 2, B * H * 2
    step = counts["flag"]["step"]
    assert step["programs"] == 3
    # All of h and four gates of x; h, c and four saved values.
    assert (step["global_loaded"], step["global_stored"], step["global_atomic"]) == (whole + 4 * tile, 6 * tile, 0)
    step = counts["barrier"]["step"]
    assert step["programs"] == 3
    # All of the gate's gradient, the output's, h, and the counter of 4 bytes, which is added to once.
    assert (step["global_loaded"], step["global_stored"], step["global_atomic"]) == (whole + 2 * tile + 4, tile, 4)
    step = counts["gluon"]["step"]
    assert step["programs"] == 3
    # The wire's 64 numbers a row, 16 of them nobody's; x, and the counter. What is handed over apart from h.
    given = (B * 64 * 2 + 4 * tile + 4, 7 * tile, 4)
    assert (step["global_loaded"], step["global_stored"], step["global_atomic"]) == given
    step = counts["solo"]["step"]
    assert step["programs"] == 1
    # The same without exchange.
    assert (step["global_loaded"], step["global_stored"], step["global_atomic"]) == (2 * whole, whole, 0)


def test_only_a_split_contraction_has_conflicts(counts: dict[str, Any]) -> None:
    """Its operands are swizzled across the split, not across their rows (bench/NOTES.md)."""
    assert counts["solo"]["step"]["conflicts"] == 0
    assert counts["flag"]["step"]["conflicts"] > 0
    assert counts["gluon"]["step"]["conflicts"] == 0


def _report(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(kernels, "unavailable", lambda: None)  # the tests' process interprets kernels
    return cli.main(["kernels", *arguments])


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("torch", "torch is not installed"),
        ("numpy", "numpy is not installed"),
        ("ptx_machine", "a folder of the checkout"),
    ],
)
def test_what_it_needs(
    missing: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = executed.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else find_spec(name))
    assert _report(monkeypatch, "--executed") == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_gpu_that_the_machine_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _report(monkeypatch, "--arch", "sm_90", "--arch", "sm_100", "--executed") == 1
    assert "the PTX machine is no sm_100" in capsys.readouterr().err


def test_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One counted, one that does not run, one that the compiler refuses; none where nobody asks."""
    rows = [json.loads(line) for line in TABLE.read_text().splitlines()]
    counted = kernels._with_executed({**rows[0], "executed": None}, rows[0]["executed"])
    assert counted == rows[0]
    broken = kernels._with_executed(rows[0], "FaultError: a trap")
    assert (broken["executed"], broken["status"]) == (None, "does not run: FaultError: a trap")
    refused = kernels._with_executed({**rows[0], "status": "does not compile: x"}, "x")
    assert refused["status"] == "does not compile: x"
    shown = kernels._show(counted, kernels.EXECUTED_COLUMNS)
    assert shown.split()[-1] == str(rows[0]["executed"]["conflicts"])
    assert kernels._show(broken, kernels.EXECUTED_COLUMNS).endswith("does not run: FaultError: a trap")
    assert "1 that do not run" in kernels._summary([counted, broken], 2)


def test_the_table_is_of_the_launches_that_are_chosen() -> None:
    rows = [json.loads(line) for line in TABLE.read_text().splitlines()]
    compiled = [json.loads(line) for line in (TABLE.parent / "sm_90-triton-3.7.1.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    for row in rows:
        counted = row.pop("executed")
        assert row in compiled
        job = Job(row["arch"], row["cell"], row["backward"], row["dtype"], row["H"], row["B"], row["directions"])
        config = job.config()
        assert config is not None
        assert counted["programs"] == -(-row["H"] // config.block_h) * -(-row["B"] // config.block_b)
        assert counted["barriers"] == row["barriers"]
        assert counted["waited"] == 0
