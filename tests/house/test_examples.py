"""The examples run, at sizes of seconds, and do what they say of themselves."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import load_example
from torch import Tensor

import fastrnn

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


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
        load_example(name).main(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_char_lm_trains_as_with_torch(cell: str, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    char_lm = load_example("char_lm")
    ours = char_lm.main(_small(text, "--cell", cell, "--steps", "30", "--lr", "0.03"))
    assert ours[-1] < 0.8 * ours[0]
    theirs = char_lm.main(_small(text, "--cell", cell, "--steps", "30", "--lr", "0.03", "--torch"))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert "held out: " in capsys.readouterr().out


def test_char_lm_resumes_where_it_stopped(text: Path, tmp_path: Path) -> None:
    char_lm, out = load_example("char_lm"), str(tmp_path / "out")
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
    char_lm = load_example("char_lm")
    monkeypatch.setattr(char_lm.importlib.util, "find_spec", lambda name: None)
    char_lm.main(_small(text, "--out", str(tmp_path / "out")))
    assert "matplotlib is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "--out", "nowhere"]])
def test_char_lm_refuses_to_resume_from_nothing(
    arguments: list[str], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_example("char_lm").main(_small(text, *arguments))
    assert "checkpoint" in capsys.readouterr().err


def test_char_lm_wants_torchrun_for_ddp(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit, match="torchrun"):
        load_example("char_lm").main(_small(text, "--ddp"))


@pytest.mark.slow
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
    assert kept["losses"] == pytest.approx(load_example("char_lm").main(_small(text)), rel=1e-4)


@pytest.mark.slow
def test_char_lm_compiles(text: Path) -> None:
    program = [sys.executable, str(ROOT / "examples" / "char_lm.py"), *_small(text, "--compile")]
    done = subprocess.run(program, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout


def _skip_without(module: str) -> None:
    try:
        pytest.importorskip(module)
    except OSError as error:  # a torchaudio built for another torch
        pytest.skip(str(error))


MODULES = {"stanza": "stanza.models.tokenizer", "openunmix": "openunmix.model"}
SMALL = ["--batch", "3", "--length", "12", "--hidden", "16", "--repeats", "1"]


@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(("model", "layers"), [("stanza", ["rnn", "rnn2"]), ("openunmix", ["lstm"])], ids=MODULES)
def test_convert_model(model: str, layers: list[str], train: bool) -> None:
    _skip_without(MODULES[model])
    # Training on packed rows differs where they are long; the other rows are torch's layers' in both.
    length = ["--length", "400"] if model == "stanza" and train else []
    program = [sys.executable, str(ROOT / "examples" / "convert_model.py"), "--model", model, *SMALL, *length]
    environment = {**_environment(), "CUDA_VISIBLE_DEVICES": ""}  # what is expected below is a CPU's
    done = subprocess.run(
        [*program, "--train"] if train else program, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert f"converted: {', '.join(map(repr, layers))}\n" in done.stdout
    assert done.stdout.count("runs: ") == len(layers)
    quadratic = model == "stanza" and train  # the one that is packed, and torch.nn's only with gradients
    assert done.stdout.count("quadratic in the length") == (len(layers) if quadratic else 0)
    assert done.stdout.count("expect the same times") == (0 if quadratic else len(layers))


def test_convert_model_has_stanzas_own_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    _skip_without(MODULES["stanza"])
    load_example("convert_model").main(["--repeats", "1"])
    assert re.search(r"batch 32, rows of \d+ to 100 characters", capsys.readouterr().out)


def test_convert_model_fails_where_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    _skip_without(MODULES["stanza"])
    convert_model = load_example("convert_model")

    def convert_wrongly(model: torch.nn.Module) -> fastrnn.Conversion:
        with torch.no_grad():
            model.get_submodule("rnn2").get_parameter("bias_hh_l0").add_(0.1)
        return fastrnn.convert(model)

    monkeypatch.setattr(convert_model, "fastrnn", SimpleNamespace(convert=convert_wrongly, explain=fastrnn.explain))
    with pytest.raises(SystemExit, match="The results differ by"):
        convert_model.main(SMALL)


@pytest.mark.parametrize("model", MODULES)
def test_convert_model_says_which_package_is_missing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES[model], None)
    with pytest.raises(SystemExit, match=rf"^{model} cannot be imported .*: pip install {model}$"):
        load_example("convert_model").main(["--model", model])


def test_recurrent_ppo_runs(capsys: pytest.CaptureFixture[str]) -> None:
    returns = load_example("recurrent_ppo").main(
        ["--updates", "2", "--steps", "16", "--rows", "8", "--hidden", "8", "--longest", "4"]
    )
    assert len(returns) == 2
    assert all(-1 <= mean <= 1 for mean in returns)
    assert "mean return" in capsys.readouterr().out


def test_own_cell_is_what_it_is_asked_for() -> None:
    """Its cell, with the right weights, is the sum itself; and it trains."""
    own_cell = load_example("own_cell")
    model = own_cell.Reader("fading", 1)
    values, gaps, totals = own_cell.draw(12, 5, 1.0, torch.device("cpu"))
    rate = torch.tensor(1 / own_cell.FADES_IN).expm1().log()  # softplus, inverted
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.rnn.bias_ih_l0[0], model.rnn.weight_ih_l0[1], model.head.weight[0, 0] = rate, 1.0, 1.0
    torch.testing.assert_close(model(values, gaps), totals)
    errors = own_cell.main(["--steps", "3", "--length", "6", "--rows", "4", "--hidden", "4"])
    assert {name: len(found) for name, found in errors.items()} == {"fading": 2, "lstm": 2}


@pytest.mark.slow
def test_own_cell_learns() -> None:
    errors = load_example("own_cell").main([])
    assert errors["fading"][1] < 0.1 * errors["lstm"][1]


@pytest.mark.slow
def test_recurrent_ppo_learns() -> None:
    returns = load_example("recurrent_ppo").main([])
    assert returns[0] < 0
    assert max(returns[-5:]) > 0.9


def test_recurrent_ppo_in_one_call_is_episode_by_episode() -> None:
    """Logits, values and gradients of a rollout in one call, and of each of its episodes apart."""
    ppo = load_example("recurrent_ppo")
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
