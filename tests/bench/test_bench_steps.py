"""`steps`: each kind of launch checked and timed, with the PTX machine for a GPU and a clock of our own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import compiling_environment

from fastrnn.bench import cli

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
    import json, sys, torch
    from fastrnn.bench.gpu import steps
    from fastrnn.bench.gpu.kernels import Job
    from fastrnn.kernels.plan.devices import DEVICES
    from ptx_machine import on_machine

    steps.MANY, steps.CHECKED, cell, backward, error = 20, 20, sys.argv[1], sys.argv[2] == "backward", sys.argv[3:]
    if error == ["wrong"]:
        run = steps.Scan.run
        steps.Scan.run = lambda scan, config, T: [1.1 * found for found in run(scan, config, T)]
    elif error:
        steps.Scan.run = lambda scan, config, T: [torch.rand(3)]

    def slope(call, few, many):
        assert (few, many) == (200, 20)
        call(2)
        return 1.5

    def keep(row):
        print(json.dumps(row), file=sys.stderr)

    with on_machine(90, unwritten="ignore"):
        job = Job("sm_90", cell, backward, "bfloat16", 136, 3)
        print(steps.measure([job], DEVICES["sm_90"], torch.device("cpu"), keep, slope))
"""

COMPILE = """
    import torch
    from fastrnn.bench.gpu import ahead, steps
    from fastrnn.bench.gpu.kernels import Job
    from fastrnn.kernels.plan.devices import DEVICES

    steps.MANY = 20
    torch.cuda.get_device_capability = lambda device: (9, 0)
    ahead.compile_all = lambda launches, processes: print(
        *(f"{launch.kernel}:{dict(launch.constants).get('FLAG')}" for launch in launches)
    )
    steps.compile_all(
        [Job("sm_90", "gru", back, "float16", 136, 3) for back in (False, True)], DEVICES["sm_90"], torch.device("cpu")
    )
"""


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=compiling_environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def _measured(*arguments: str) -> tuple[list[dict[str, object]], str]:
    done = _run(MEASURE, *arguments)
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")], done.stdout


@pytest.mark.parametrize("cell", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["forward", pytest.param("backward", marks=pytest.mark.slow)])
def test_every_kind_is_checked_and_timed(cell: str, way: str) -> None:
    pytest.importorskip("triton.experimental.gluon.language")
    rows, printed = _measured(cell, way)
    assert [(row["kind"], row["tier"], row["exchange"]) for row in rows if row["kind"] != "plain"] == [
        ("all", "gluon grid", "barrier"),
        ("flag", "gluon grid", "flag"),
    ]
    assert [row["tier"] for row in rows if row["kind"] == "plain"] == ["grid"]
    assert {row["us"] for row in rows} == {1.5}
    assert all(0 < float(str(row["error"])) < 0.06 for row in rows)
    assert printed.splitlines()[-1] == "True"


@pytest.mark.parametrize(("error", "said"), [("wrong", "is allowed"), ("other", "two runs on the same data differ")])
def test_what_is_wrong_is_not_timed(error: str, said: str) -> None:
    pytest.importorskip("triton.experimental.gluon.language")
    rows, printed = _measured("gru", "forward", error)
    assert len(rows) == 3
    assert all(row["us"] is None and said in str(row["reason"]) for row in rows)
    assert printed.count("FAILED: BenchError") == 3
    assert printed.splitlines()[-1] == "False"


def test_all_that_is_launched_is_compiled_before() -> None:
    pytest.importorskip("triton.experimental.gluon.language")
    found = _run(COMPILE).stdout.split()
    assert sorted(found) == [
        "gluon_bwd_kernel:False",
        "gluon_bwd_kernel:True",
        "gluon_fwd_kernel:False",
        "gluon_fwd_kernel:True",
        "scan_bwd_kernel:None",
        "scan_fwd_kernel:None",
    ]


def test_steps_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["steps"]) == 1
    assert capsys.readouterr().err == "fastrnn-bench steps: error: no CUDA GPU here: there is nothing to measure\n"
