"""What the benchmark says of a GPU's limits, with no GPU at hand: the model's bound, and the probes of the machine."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from benching import CPU, ROW, make_brief
from support import compiling_environment

from fastrnn.backends import fused
from fastrnn.bench import cli
from fastrnn.bench.gpu import machine
from fastrnn.bench.measuring import limits, run, timing
from fastrnn.bench.rows import files, record
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.errors import BenchError, LostGPUError
from fastrnn.bench.showing import progress
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan.choice import choose
from fastrnn.kernels.plan.configs import ScanShape
from fastrnn.kernels.plan.cost import step_cost
from fastrnn.kernels.plan.devices import DEVICES

H100 = DEVICES["sm_90"]
CASE = Case("lstm", "train", "bfloat16", 512, 16, 512, 512)


def _cost(backward: bool, schedule: str, **changes: int) -> float:
    shape = dataclasses.replace(ScanShape(4, backward, 2, 16, 512, 1), **changes)
    config = choose(shape, H100, schedule)
    assert config is not None
    return step_cost(shape, config, H100)


def test_the_limit_is_the_models() -> None:
    forward, backward = _cost(False, "persistent"), _cost(True, "persistent")
    assert limits.limit_us(CASE, H100) == pytest.approx(forward + backward)
    assert limits.limit_us(dataclasses.replace(CASE, mode="forward"), H100) == pytest.approx(forward)
    assert limits.limit_us(dataclasses.replace(CASE, layers=3), H100) == pytest.approx(3 * (forward + backward))
    both = dataclasses.replace(CASE, bidirectional=True, mode="forward")
    assert limits.limit_us(both, H100) == pytest.approx(_cost(False, "persistent", directions=2))
    textbook = dataclasses.replace(CASE, cell="gru_textbook", mode="forward")
    assert limits.limit_us(textbook, H100) == pytest.approx(_cost(False, "persistent", gates=3, inner=1))


def test_the_limit_is_the_better_schedules() -> None:
    huge = dataclasses.replace(CASE, H=4096, B=256, mode="forward")
    costs = []
    for schedule in ("persistent", "stepwise"):
        shape = ScanShape(4, False, 2, 256, 4096, 1, **COUNTS["lstm"].tiles(False))
        config = choose(shape, H100, schedule)
        costs += [] if config is None else [step_cost(shape, config, H100)]
    assert limits.limit_us(huge, H100) == pytest.approx(min(costs))


def test_no_limit_where_no_kernel_runs() -> None:
    assert limits.limit_us(dataclasses.replace(CASE, dtype="float64"), H100) is None
    assert limits.limit_on(CASE, CPU) is None
    assert limits.limit_on(CASE, torch.device("cpu")) is None


def test_percent_of_limit() -> None:
    assert run.percent_of_limit(ROW) == pytest.approx(75)
    assert run.percent_of_limit(dataclasses.replace(ROW, limit_us=None)) is None
    assert run.percent_of_limit(dataclasses.replace(ROW, us_per_step=None)) is None


def test_a_gpus_rows_show_the_limit() -> None:
    shown: list[str] = []
    for row in (ROW, dataclasses.replace(ROW, device="cpu", limit_us=None)):
        run._show(row, progress.Display(shown.append))
    assert shown[0].split()[-2:] == ["1.500", "75"]
    assert shown[1].split()[-1] == "1.0e-03"


# The probes of the machine.


def test_machine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_brief(monkeypatch, tmp_path)
    assert cli.main(["machine"]) == 1
    error = capsys.readouterr().err
    assert error == "fastrnn-bench machine: error: no CUDA GPU here: there is nothing to measure\n"


@pytest.mark.parametrize("kind", ["flag", "barrier"])
def test_the_exchange_probe_counts(kind: str) -> None:
    """One program, which waits for itself: the interpreter runs no two at a time."""
    pytest.importorskip("triton")
    probe = machine.exchange_probe(1, kind)
    one = machine.Exchange(probe, 1, 5, CPU)
    one.prepare()
    one.call()
    one.check()
    assert one.rows[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    one.rows[3] += 1
    with pytest.raises(BenchError, match="the exchange went wrong"):
        one.check()


@pytest.mark.parametrize("own", [False, True])
def test_the_read_probe_reads_all(own: bool) -> None:
    pytest.importorskip("triton")
    size = 16384 + 5
    source, sums = torch.ones(2, size), torch.empty(2)
    source[1] *= 2
    machine.read_probe(own).launch(2, source, sums, 3, size)
    assert sums.tolist() == [3 * size, (6 if own else 3) * size]


@pytest.mark.parametrize("name", ["shared", "matrix"])
def test_the_product_probe_multiplies(name: str) -> None:
    pytest.importorskip("triton")
    probe = machine.all_probes(4)[name]
    parts, rows, depth, columns = (probe.constants[key] for key in ("SPLIT", "ROWS", "DEPTH", "COLUMNS"))
    left, right = torch.randn(parts, rows, depth).half(), torch.randn(parts, depth, columns).half()
    out = torch.empty(1, parts, rows, columns)
    probe.launch(1, left, right, out, 3)
    times = 1.75 if probe.constants["HALVE"] else 3
    torch.testing.assert_close(out[0], times * (left.float() @ right.float()), rtol=1e-3, atol=1e-2)


def test_what_a_product_moves_and_does() -> None:
    """At the model's rates one product waits for shared memory, and the other for the matrix units."""
    sizes = {"SPLIT": 8, "ROWS": 16, "DEPTH": 64, "COLUMNS": 128, "HALVE": True}
    assert machine.macs(sizes) == 16 * 512 * 128
    assert machine.shared_traffic(sizes) == 2 * (512 * 128 + 2 * 16 * 512)
    for chosen, waits_for_shared in ((machine._SHARED_PRODUCT, True), (machine._MATRIX_PRODUCT, False)):
        shared_us = machine.shared_traffic(chosen) / H100.sm_shared_rate
        mac_us = machine.macs(chosen) / H100.sm_mac_rate
        assert (shared_us > 1.2 * mac_us, mac_us > 1.2 * shared_us) == (waits_for_shared, not waits_for_shared)


def test_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch of 5 us, and 3 us for each step."""
    made: list[int] = []

    def seconds(call: object) -> float:
        assert callable(call)
        call()
        return 5e-6 + 3e-6 * made[-1]

    monkeypatch.setattr(machine, "_seconds", seconds)
    assert machine.slope_us(made.append, 100, 1100) == pytest.approx(3)


def test_every_constant_of_the_model_has_a_measurement() -> None:
    names = {field.name for field in dataclasses.fields(H100)} - {"name", "capability", "sms", "shared_bytes"}
    names -= {"gluon", "gluon_exchanges"}
    assert set(machine.measurements(132, CPU)) == names - {"sm_issue_rate"}  # a count of instructions, not of time


def test_each_constant_is_shown_and_kept_before_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    """One that fails says so, and the others are measured all the same."""
    kept: list[dict[str, object]] = []

    def broken() -> float:
        raise ZeroDivisionError("no slope")

    def last() -> float:
        assert [row["measured"] for row in kept] == [1.2, None, None]
        out = capsys.readouterr().out.splitlines()
        assert out[2].split() == ["hop_us", "0.6", "1.2", "2.00", "microseconds"]
        assert out[3].split()[:3] == ["barrier_us", "1.1", "FAILED"]
        assert out[4] == "  FAILED: ZeroDivisionError: no slope"
        return H100.sm_mac_rate

    todo = {"hop_us": lambda: 1.2, "barrier_us": broken, "l2_rate": lambda: float("inf"), "sm_mac_rate": last}
    assert not machine.measure(todo, H100, CPU, lambda row: kept.append(dict(row)))
    assert kept[-1] == {
        "constant": "sm_mac_rate",
        "measured": H100.sm_mac_rate,
        "model": H100.sm_mac_rate,
        "unit": "multiply-adds per microsecond",
        "reason": None,
    }
    assert kept[2]["reason"] == "l2_rate came out as inf"
    assert machine.measure({"hop_us": lambda: 1.0}, H100, CPU, kept.append)  # type: ignore[arg-type]  # only kept


def test_a_lost_gpu_ends_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []

    def broken() -> float:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(timing, "lost", lambda device: "CUDA error: unspecified launch failure")
    with pytest.raises(LostGPUError, match=r"\(CUDA error: unspecified launch failure\): stopped at hop_us"):
        machine.measure({"hop_us": broken, "barrier_us": broken}, H100, CPU, kept.append)
    assert len(kept) == 1


def test_machine_writes_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a GPU; without --json in a folder of its own, where `report` does not look for rows."""
    make_brief(monkeypatch, tmp_path)
    env = record.environment(False)
    monkeypatch.setattr(machine, "unavailable", lambda: None)
    monkeypatch.setattr(machine, "measurements", lambda sms, device: {"hop_us": lambda: 0.5})
    monkeypatch.setattr(fused, "device_limits", lambda device: H100)
    monkeypatch.setattr(record, "environment", lambda cuda: env)
    assert cli.main(["machine", "--commit", "abc"]) == 0
    assert cli.main(["machine", "--commit", "abc", "--json", "constants.jsonl"]) == 0
    (found,) = (tmp_path / "fastrnn-bench" / "machine").iterdir()
    for file in (found, tmp_path / "constants.jsonl"):
        row = json.loads(file.read_text())
        assert (row["constant"], row["measured"], row["commit"]) == ("hop_us", 0.5, "abc")
        assert row["torch"] == env.torch
    assert files.to_show([]) == files.committed()


COMPILE = """
    import json, re, triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from fastrnn.bench.gpu import machine, probes
    from fastrnn.kernels.offline.report import _disassemble

    for name, probe in machine.all_probes(132).items():
        kernel = getattr(probes, probe.kernel)
        assert set(kernel.arg_names) == set(probe.types) | set(probe.constants)
        signature = {n: probe.types.get(n, "constexpr") for n in kernel.arg_names}
        consts = {(kernel.arg_names.index(n),): value for n, value in probe.constants.items()}
        attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n][0] == "*"}
        source = ASTSource(kernel, signature, consts, attrs)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=probe.options())
        _, sass = _disassemble(compiled.asm["cubin"])
        print(json.dumps(dict(
            name=name, spills=len(re.findall(r"STL|LDL", sass)), shared=compiled.metadata.shared,
            mma=len(re.findall("HMMA", sass)), wgmma=len(re.findall("HGMMA", sass)),
            trap="trap" in compiled.asm["ptx"], cooperative=compiled.metadata.launch_cooperative_grid,
            operands=compiled.asm["ttgir"].partition("scf.for")[2].count("ttg.local_load"),
            past_l1="ld.global.cg" in compiled.asm["ptx"],
        )))
"""


@pytest.mark.slow
def test_the_probes_compile_for_a_gpu_that_is_not_here() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-c", textwrap.dedent(COMPILE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=".", env=compiling_environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = {report["name"]: report for report in map(json.loads, done.stdout.splitlines())}
    assert set(reports) == set(machine.all_probes(132))
    for name, report in reports.items():
        assert report["spills"] == 0, name
        assert report["shared"] <= H100.shared_bytes, name
        # What waits for other programs is bounded, and resident all at once.
        waits = name in ("flag", "barrier")
        assert (report["trap"], report["cooperative"]) == (waits, waits), name
        assert report["past_l1"] == (name in ("l2", "memory", "barrier")), name
        if name in ("shared", "matrix"):
            assert (report["mma"] > 0, report["wgmma"]) == (True, 0), name
            assert report["operands"] == 2, name
