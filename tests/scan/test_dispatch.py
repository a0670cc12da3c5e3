"""The choice of a backend: a pure table, its reasons, and what happens without Triton or without a fit GPU."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap

import pytest
import torch

import fastrnn
from fastrnn.backends import fused
from fastrnn.cells import CELLS
from fastrnn.kernels.plan.devices import DEVICES
from fastrnn.scan import choice
from fastrnn.scan.choice import explanation, select
from fastrnn.scan.problem import Problem

GPU_PROBLEM = Problem(CELLS["lstm"], torch.bfloat16, torch.device("cuda", 0), time=100, batch=16, hidden=512, grad=True)
CPU_PROBLEM = dataclasses.replace(GPU_PROBLEM, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def _h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Triton and an H100, as far as the choice can see."""
    monkeypatch.setattr(fused, "_triton_installed", lambda: True)
    monkeypatch.setattr(fused, "interpreting", lambda: False)
    monkeypatch.setattr(fused, "device_limits", lambda device: DEVICES["sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_gpu_takes_the_persistent_kernels(cell: str, dtype: torch.dtype) -> None:
    for hidden in (1, 7, 64, 128, 513, 1024, 2048):
        problem = dataclasses.replace(GPU_PROBLEM, cell=CELLS[cell], dtype=dtype, hidden=hidden)
        assert select(problem).name == "persistent", hidden


@pytest.mark.usefixtures("_h100")
def test_a_hidden_size_beyond_one_grid_goes_step_by_step() -> None:
    """With what torch's layers lack; without, torch's products are the better ones at that size."""
    problem = dataclasses.replace(GPU_PROBLEM, hidden=10_000, lengths=True)
    assert select(problem).name == "stepwise"
    assert select(dataclasses.replace(problem, lengths=False)).name == "aten"
    assert "no launch of 10000 hidden units fits this GPU at once" in explanation(problem)


@pytest.mark.usefixtures("_h100")
def test_float64_on_a_gpu_takes_aten() -> None:
    problem = dataclasses.replace(GPU_PROBLEM, dtype=torch.float64)
    assert select(problem).name == "aten"
    assert "not in float64" in explanation(problem)
    with pytest.raises(RuntimeError, match=r"backend='persistent' cannot run .*float64"):
        select(problem, "persistent")


@pytest.mark.usefixtures("_h100")
def test_an_old_gpu_takes_aten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert select(GPU_PROBLEM).name == "aten"
    assert "8.0 or newer, this GPU has 7.5" in explanation(GPU_PROBLEM)


@pytest.mark.usefixtures("_h100")
def test_a_gpu_without_triton_takes_aten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_triton_installed", lambda: False)
    assert select(GPU_PROBLEM).name == "aten"
    assert "triton is not installed" in explanation(GPU_PROBLEM)


@pytest.mark.usefixtures("_h100")
def test_the_cpu_takes_aten() -> None:
    assert select(CPU_PROBLEM).name == "aten"
    for backend in ("persistent", "stepwise"):
        with pytest.raises(RuntimeError, match=rf"backend='{backend}' cannot run .* need a CUDA GPU"):
            select(CPU_PROBLEM, backend)


@pytest.mark.usefixtures("_h100")
def test_explanation_names_every_backend_once() -> None:
    lines = explanation(GPU_PROBLEM).splitlines()
    assert lines[0] == "LSTM bfloat16 on cuda:0, T=100 B=16 H=512, training"
    assert [line.split()[0] for line in lines[1:]] == ["persistent", "stepwise", "aten", "reference", "scans"]
    assert [line for line in lines if " runs: " in line] == [lines[1]]
    assert "grid tier" in lines[1]
    assert "exchange" in lines[1]
    asked = explanation(GPU_PROBLEM, "reference").splitlines()
    assert " runs: " in asked[4]
    assert "backend='reference' was asked for" in asked[1]


def test_the_interpreter_is_never_chosen_by_itself() -> None:
    pytest.importorskip("triton")
    assert select(CPU_PROBLEM).name == "aten"
    assert "for tests" in explanation(CPU_PROBLEM)


def test_the_interpreter_refuses_programs_that_would_wait() -> None:
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="one after another"):
        select(dataclasses.replace(CPU_PROBLEM, hidden=300), "persistent")


def test_unknown_backend() -> None:
    for make in (lambda: fastrnn.LSTM(2, 3, backend="cudnn"), lambda: fastrnn.GRUCell(2, 3, backend="cudnn")):
        with pytest.raises(ValueError, match=r"backend should be one of 'auto', 'persistent', .* got 'cudnn'"):
            make()


def test_explain_prints_and_refuses_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    fastrnn.explain(fastrnn.GRU(3, 4), torch.randn(2, 5, 3))
    assert "GRU float32 on cpu, T=2 B=5 H=4, training" in capsys.readouterr().out
    fastrnn.explain(fastrnn.LSTMCell(3, 4), torch.randn(5, 3))
    assert "T=1 B=5 H=4" in capsys.readouterr().out
    with pytest.raises(TypeError, match=r"explain\(\) takes a fastrnn layer or cell, got torch"):
        fastrnn.explain(torch.nn.LSTM(3, 4), torch.randn(2, 5, 3))


def test_tf32_follows_cudnns_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not fused.tf32_allowed()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert fused.tf32_allowed()


def test_exact_float32_is_launched_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact products are not the matrix units': another launch, with fewer registers, is chosen for them."""
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert fused.scan_shape(CELLS["lstm"], False, torch.float32, 16, 512, 1).ieee is not allowed
        assert fused.scan_shape(CELLS["lstm"], False, torch.bfloat16, 16, 512, 1).ieee is False


def test_backends_are_in_one_order() -> None:
    assert choice.NAMES == ("auto", "persistent", "stepwise", "aten", "reference")


def test_without_triton_everything_still_runs() -> None:
    """In a fresh process where importing Triton fails, as on a Mac."""
    program = """
        import sys
        sys.modules["triton"] = None
        import torch, fastrnn
        layer = fastrnn.LSTM(3, 4, num_layers=2, bidirectional=True)
        layer(torch.randn(5, 2, 3))[0].sum().backward()
        assert layer.weight_hh_l0.grad is not None
        fastrnn.explain(layer, torch.randn(5, 2, 3))
        fastrnn.GRUCell(3, 4)(torch.randn(2, 3))
        try:
            fastrnn.LSTM(3, 4, backend="stepwise")(torch.randn(5, 2, 3))
        except RuntimeError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, cwd="."
    )
    assert result.stdout.count("triton is not installed") == 3


def test_importing_fastrnn_imports_neither_torch_nor_triton() -> None:
    program = """
        import sys, fastrnn, fastrnn.kernels.plan.choice, fastrnn.kernels.plan.peer, fastrnn.kernels.tensors
        print('torch' in sys.modules, 'triton' in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=".")
    assert result.stdout.split() == ["False", "False"]
