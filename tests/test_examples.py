"""The examples run, at sizes of seconds, and do what they say of themselves."""

from __future__ import annotations

import importlib.util
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def _load(name: str) -> ModuleType:
    """By its path: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"fastrnn_example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _quiet_thread_count() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog; " * 40)
    return path


def _small(text: Path, *more: str) -> list[str]:
    options = "--steps 4 --batch 4 --length 16 --hidden 16 --layers 1 --sample 8 --text"
    return [*options.split(), str(text), *more]


@pytest.mark.parametrize("name", EXAMPLES)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        _load(name).main(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_char_lm_trains_as_with_torch(cell: str, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    char_lm = _load("char_lm")
    ours = char_lm.main(_small(text, "--cell", cell, "--steps", "30", "--lr", "0.03"))
    assert ours[-1] < 0.8 * ours[0]
    theirs = char_lm.main(_small(text, "--cell", cell, "--steps", "30", "--lr", "0.03", "--torch"))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert "held out: " in capsys.readouterr().out


def test_char_lm_resumes_where_it_stopped(text: Path, tmp_path: Path) -> None:
    char_lm, out = _load("char_lm"), str(tmp_path / "out")
    whole = char_lm.main(_small(text))
    half = char_lm.main(_small(text, "--steps", "2", "--out", out))
    assert half == whole[:2]
    assert char_lm.main(_small(text, "--out", out, "--resume")) == pytest.approx(whole, rel=1e-5)
    assert (tmp_path / "out" / "checkpoint.pt").is_file()
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "out" / "loss.png").is_file()


def test_char_lm_does_without_matplotlib(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    char_lm = _load("char_lm")
    monkeypatch.setattr(char_lm.importlib.util, "find_spec", lambda name: None)
    char_lm.main(_small(text, "--out", str(tmp_path / "out")))
    assert "matplotlib is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "--out", "nowhere"]])
def test_char_lm_refuses_to_resume_from_nothing(
    arguments: list[str], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _load("char_lm").main(_small(text, *arguments))
    assert "checkpoint" in capsys.readouterr().err


def test_char_lm_wants_torchrun_for_ddp(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit, match="torchrun"):
        _load("char_lm").main(_small(text, "--ddp"))


def test_char_lm_over_two_processes_learns_the_same(text: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "out"
    launcher = f"-m torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port {port}".split()
    program = [str(ROOT / "examples" / "char_lm.py"), *_small(text, "--ddp", "--out", str(out))]
    done = subprocess.run(
        [sys.executable, *launcher, *program], env=_environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("held out: ") == 1
    kept = torch.load(out / "checkpoint.pt", weights_only=True)
    assert kept["losses"] == pytest.approx(_load("char_lm").main(_small(text)), rel=1e-4)


@pytest.mark.slow
def test_char_lm_compiles(text: Path) -> None:
    program = [sys.executable, str(ROOT / "examples" / "char_lm.py"), *_small(text, "--compile")]
    done = subprocess.run(program, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--train"]], ids=["inference", "training"])
def test_convert_model(arguments: list[str]) -> None:
    small = ["--frames", "12", "--bins", "33", "--hidden", "16", "--repeats", "1"]
    program = [sys.executable, str(ROOT / "examples" / "convert_model.py"), *small, *arguments]
    done = subprocess.run(program, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "Skipped: openunmix" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert "converted: 'lstm'" in done.stdout
    assert "runs: " in done.stdout


def test_convert_model_says_when_the_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openunmix", None)
    with pytest.raises(SystemExit) as end:
        _load("convert_model").main(["--frames", "4"])
    assert end.value.code == 0
    assert "pip install openunmix" in capsys.readouterr().out


def test_recurrent_ppo_runs(capsys: pytest.CaptureFixture[str]) -> None:
    returns = _load("recurrent_ppo").main(
        ["--updates", "2", "--steps", "16", "--rows", "8", "--hidden", "8", "--longest", "4"]
    )
    assert len(returns) == 2
    assert all(-1 <= mean <= 1 for mean in returns)
    assert "mean return" in capsys.readouterr().out


@pytest.mark.slow
def test_recurrent_ppo_learns() -> None:
    returns = _load("recurrent_ppo").main([])
    assert returns[0] < 0
    assert max(returns[-5:]) > 0.9


def test_recurrent_ppo_in_one_call_is_episode_by_episode() -> None:
    """Logits, values and gradients of a rollout in one call, and of each of its episodes apart."""
    ppo = _load("recurrent_ppo")
    policy = ppo.Policy(5, 4, 8).double()
    begins, hx = torch.zeros(6, dtype=torch.bool), torch.randn(1, 6, 8).double()
    world = ppo.Recall(6, 4, 5, 0, torch.device("cpu"))
    past, hx_after, begins_after = ppo.play(policy.float(), world, 20, hx.float(), begins)
    policy.double()
    seen, hx = past.seen.double(), past.hx.double()
    assert torch.equal(past.resets[1:], past.dones[:-1])
    assert torch.equal(begins_after, past.dones[-1])
    assert past.dones.sum() > 6

    def gradients(values: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(values.square().sum(), list(policy.rnn.parameters()), retain_graph=True))

    logits, values, after = policy(seen, hx, past.resets)
    torch.testing.assert_close(hx_after.double(), after, rtol=1e-4, atol=1e-5)
    rows = []
    for row in range(6):
        cuts = [0, *past.resets[:, row].nonzero().flatten().tolist(), len(seen)]
        parts = []
        for begin, end in itertools.pairwise(cuts):
            state = torch.zeros_like(hx[:, row : row + 1]) if begin else hx[:, row : row + 1]
            if end > begin:
                uncut = torch.zeros(end - begin, 1, dtype=torch.bool)
                parts.append(policy(seen[begin:end, row : row + 1], state, uncut)[:2])
        rows.append([torch.cat(piece) for piece in zip(*parts, strict=True)])
    apart_logits, apart_values = (torch.cat(piece, 1) for piece in zip(*rows, strict=True))
    torch.testing.assert_close(logits, apart_logits)
    torch.testing.assert_close(values, apart_values)
    for ours, theirs in zip(gradients(values), gradients(apart_values), strict=True):
        torch.testing.assert_close(ours, theirs)
