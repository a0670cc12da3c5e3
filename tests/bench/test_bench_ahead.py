"""Compiling ahead: what rows and tests will launch, and that a later launch finds it in Triton's cache."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import compiling_environment, gluon_launch, launch

from fastrnn.bench import cli
from fastrnn.bench.gpu import ahead
from fastrnn.bench.rows.errors import BenchError
from fastrnn.kernels.gluon.layouts import gluon_constants

triton = pytest.importorskip("triton")

# On the CPU as if on a GPU: nothing is launched, so that the tensors may lie anywhere.
PRETEND = """
import sys
import torch
import triton
from types import SimpleNamespace
from triton.backends.compiler import GPUTarget
from fastrnn.backends import fused
from fastrnn.bench.gpu import ahead
from fastrnn.bench.rows import cases
from fastrnn.kernels.plan.devices import DEVICES

fused._INTERPRETER = DEVICES["sm_90"]  # that of the interpreter has no Gluon
torch.cuda.get_device_capability = lambda device=None: (9, 0)
fused.unmet_requirement = lambda problem: None
CASES = [
    cases.Case("rnn_tanh", "train", "bfloat16", 9, 3, 5, 16, lengths="uniform"),
    cases.Case("gru", "forward", "float16", 1, 3, 5, 16, layers=2, reset_rate=0.5),
]
"""
RECORD = """
with open(sys.argv[1], "w") as file:
    file.writelines(launch.line() for launch in ahead.of_cases(CASES, torch.device("cpu")))
"""
# The launcher's own path, up to the launch.
LAUNCH = """
target = GPUTarget("cuda", 90, 32)
triton.runtime.driver.set_active(
    SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda d: 0, get_current_target=lambda: target)
)
made = []

class Launched(ahead.Recorder):
    def _note(self, *arguments, **constants):
        made.append(self.kernel.warmup(*arguments, grid=(1, 1, 1), **constants))

ahead.Recorder = Launched
ahead.of_cases(CASES, torch.device("cpu"))
print(len(made))
"""


def _python(script: str, *arguments: str, cache: Path) -> str:
    environment = compiling_environment() | {"TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PRETEND + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _entries(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*.cubin")}


@pytest.mark.slow
def test_what_is_compiled_ahead_is_what_a_launch_looks_for(tmp_path: Path) -> None:
    """Recorded, compiled by the command, and then launched but for the launch: nothing is compiled a second time."""
    file, cache = tmp_path / "launches.jsonl", tmp_path / "cache"
    _python(RECORD, str(file), cache=cache)
    launches = ahead.read(file)
    assert len(launches) == 3  # the two layers of the GRU launch one kernel
    assert [launch.kernel for launch in launches] == ["gluon_fwd_kernel", "gluon_bwd_kernel", "gluon_fwd_kernel"]
    assert not _entries(cache)
    command = [sys.executable, "-m", "fastrnn.bench", "compile", "--launches", str(file), "--processes", "1"]
    environment = compiling_environment() | {"TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "3 compiled, 0 failed."
    compiled = _entries(cache)
    assert len(compiled) == 3
    assert int(_python(LAUNCH, cache=cache)) >= 4
    assert _entries(cache) == compiled


def test_a_launch_survives_its_line() -> None:
    from fastrnn.kernels.counts import COUNTS
    from fastrnn.kernels.triton.cells import steps_of

    step = steps_of(COUNTS["lstm"]).fwd
    constants = tuple(
        sorted(
            (name, ahead._encoded(value))
            for name, value in {"H": 3, "FLAG": True, "NONE": None, "WORD": "tf32", "STEP": step}.items()
        )
    )
    launch = ahead.Launch("scan_fwd_kernel", ("float16", "int8?", 3), constants, (9, 0))
    assert ahead.parse(launch.line()) == launch
    decoded = {name: ahead._decoded(value) for name, value in launch.constants}
    assert decoded == {"H": 3, "FLAG": True, "NONE": None, "WORD": "tf32", "STEP": step}
    assert ahead._decoded(ahead._encoded(triton.language.bfloat16)) == triton.language.bfloat16
    for config in (gluon_launch(64), gluon_launch(64, units=16, scatter=True)):
        for name, value in gluon_constants(4, 2, config).items():
            assert ahead._decoded(ahead._encoded(value)) == value, name


def test_pointers_keep_what_triton_looks_at() -> None:
    tensor = torch.empty(33, dtype=torch.float32)
    assert tensor.data_ptr() % 16 == 0
    assert ahead._kind(tensor, False) == "float32"
    assert ahead._kind(tensor[1:], False) == "float32?"
    assert [ahead._Pointer(kind).data_ptr() % 16 == 0 for kind in ("float32", "float32?")] == [True, False]
    assert ahead._kind(17, False) == 17
    assert ahead._kind(17, True) == ahead._kind(1, True)  # one kernel for both
    assert ahead._kind(2**31, True) != ahead._kind(1, True)


def test_kernels_are_their_own_again_after_a_recording() -> None:
    before = ahead.which.kernel_of
    config = launch("solo", 16, "persistent")

    def fail() -> None:
        with ahead.recording():
            assert isinstance(ahead.which.kernel_of(config, False), ahead.Recorder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ahead.which.kernel_of is before
    assert ahead.which.kernel_of(config, False) is ahead.which.kernel_named("scan_fwd_kernel")


def test_a_recorded_kernel_is_neither_launched_nor_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    param = SimpleNamespace(name="x_ptr", is_constexpr=False, do_not_specialize=True)
    kernel = SimpleNamespace(params=[param], fn=SimpleNamespace(__name__="a_kernel"))
    found: dict[ahead.Launch, None] = {}
    recorder = ahead.Recorder(kernel, found)
    recorder[(1,)](x_ptr=torch.empty(3), H=5)
    assert recorder.warmup(x_ptr=torch.empty(3), grid=(1,), H=6) is None  # type: ignore[func-returns-value]  # as Triton's may
    assert [(launch.kernel, launch.constants) for launch in found] == [("a_kernel", (("H", n),)) for n in (5, 6)]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "launches.jsonl"
    with pytest.raises(BenchError, match=r"cannot read launches.jsonl"):
        ahead.read(file)
    file.write_text('{"provider": "fastrnn"}\n')
    with pytest.raises(BenchError, match=r"launches.jsonl: a line is no launch"):
        ahead.read(file)


def test_a_kernel_that_fails_is_told_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are compiled all the same."""
    good = ahead.Launch("scan_fwd_kernel", (), (), (9, 0))
    bad = ahead.Launch("scan_bwd_kernel", (), (), (9, 0))
    threads = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda processes, *_: threads(processes))
    monkeypatch.setattr(ahead, "_compile", lambda launch: None if launch == good else "scan_bwd_kernel: ValueError: no")
    assert ahead.compile_all([good, bad], 1) == 1
    out = capsys.readouterr().out
    assert "  scan_bwd_kernel: ValueError: no\n" in out
    assert out.endswith("1 compiled, 1 failed.\n")


def test_rows_are_compiled_for_the_gpu_at_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("fastrnn.bench.gpu.kernels.unavailable", lambda: None)
    assert cli.main(["compile", "--quick"]) == 1
    assert "no CUDA GPU here" in capsys.readouterr().err
