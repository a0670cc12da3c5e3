"""The benchmark: its rows, its arithmetic, that it never times a wrong result, and the kernel report."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import CPU, TINY, bench, make_brief, provider
from torch import Tensor, nn

from fastrnn.bench import cli
from fastrnn.bench.measuring import measure, run, timing
from fastrnn.bench.providers import table as providers
from fastrnn.bench.providers.provider import State
from fastrnn.bench.providers.torchs import TorchNN
from fastrnn.bench.rows import cases, journal, record
from fastrnn.bench.rows.cases import Case, Shape
from fastrnn.kernels.counts import COUNTS

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "cell", "mode", "dtype", "T", "B", "I", "H", "layers", "bidirectional", "provider", "backend", "tier",
    "us_per_step", "p20", "p80", "ratio", "peak_mb", "first_call_s", "error", "device", "commit", "status", "gpu",
    "driver", "torch", "triton", "cudnn", "python", "peer_algorithm", "time", "version", "lengths", "reset_rate",
    "return_cells", "peer", "fastrnn", "input_share", "scan_share", "gradient_share",
}  # fmt: skip
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    make_brief(monkeypatch, tmp_path_factory.mktemp("here"))


def test_shapes() -> None:
    assert cases.parse_shape("512,16,256,128") == Shape(512, 16, 256, 128, 1)
    assert cases.parse_shape("1,2,3,4,5") == Shape(1, 2, 3, 4, 5)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5,6", "1,2,3,x", "1,2,3,0", "1,2,3,-4", "1,2,3,4.5", "1,,3,4"])
def test_bad_shapes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected T,B,I,H"):
        cases.parse_shape(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--shape", "1,2,3"], "argument --shape: expected T,B,I,H"),
        (["run", "--cell", "lstn"], "argument --cell: invalid choice: 'lstn'"),
        (["run", "--dtype", "int8"], "argument --dtype: invalid choice"),
        (["run", "--provider", "jax"], "argument --provider: invalid choice: 'jax' (choose from fastrnn, torch.nn"),
        (["run", "--quick", "--cell", "lstm"], "--quick is a set of its own"),
        (["run", *TINY, "--json", "/no/such/folder/rows"], "argument --json: cannot write"),
        (["run", "--lengths", "short"], "argument --lengths: invalid choice: 'short'"),
        (["run", "--reset-rate", "1.5"], "argument --reset-rate: expected a number from 0 to 1, got '1.5'"),
        (["run", "--reset-rate", "some"], "argument --reset-rate: expected a number from 0 to 1, got 'some'"),
        (["run", "--return-cells", "--cell", "gru"], "a gru has no cells to return"),
        (["run", "--quick", "--lengths", "zipf"], "--quick is a set of its own"),
        (["run", "--full", "--cell", "lstm"], "--full is a set of its own"),
        (["run", "--full", "--quick"], "not allowed with argument"),
        (["kernels", "--arch", "sm_75"], "argument --arch: invalid choice: 'sm_75'"),
        (["kernels", "--batch", "0"], "argument --batch: expected a whole number"),
        ([], "required"),
    ],
)
def test_bad_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unknown_arch_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["kernels", "--arch", "sm_75"])
    error = capsys.readouterr().err
    assert all(name in error for name in ("sm_80", "sm_90", "sm_100"))


def test_rows_are_the_product() -> None:
    rows = cases.product(["lstm", "gru"], ["forward"], ["float32"], [Shape(1, 2, 3, 4), Shape(5, 6, 7, 8)], True)
    assert len(rows) == len(set(rows)) == 4
    assert Case("gru", "forward", "float32", 5, 6, 7, 8, 1, True) in rows
    assert cases.product(["lstm", "lstm"], ["train"], ["float32"], [Shape(1, 2, 3, 4)], False) == [
        Case("lstm", "train", "float32", 1, 2, 3, 4)
    ]


@pytest.mark.parametrize("cuda", [False, True])
def test_quick_sets(cuda: bool) -> None:
    rows = cases.quick(cuda)
    assert 8 <= len(rows) == len(set(rows)) <= 34
    assert {row.cell for row in rows} >= {"lstm", "gru", "rnn_tanh"}
    assert {row.mode for row in rows} == {"forward", "train"}
    assert any(row.bidirectional and row.layers == 2 for row in rows)


def test_covering() -> None:
    axes = ["ab", "cd", "efg", "hijkl"]
    found = cases.covering(*axes)
    for one, other in itertools.combinations(range(4), 2):
        assert {(row[one], row[other]) for row in found} == set(itertools.product(axes[one], axes[other]))
    assert 15 <= len(found) <= 18
    assert found == cases.covering(*axes)


def test_full_set() -> None:
    rows = cases.full()
    assert len(rows) == len(set(rows)) <= 140
    best = [row for row in rows if (row.cell, row.dtype, row.mode) == ("lstm", "float16", "train")]
    sizes = itertools.product((256, 512, 768, 1024), (8, 16, 32, 64, 128))
    assert {(row.H, row.B) for row in best} == set(sizes)
    for cell, H in itertools.product(("lstm", "gru"), (64, 128, 192, 1536, 2048)):
        assert any((row.cell, row.H, row.dtype) == (cell, H, "bfloat16") for row in rows)
    for dtype, layers, both in itertools.product(("bfloat16", "float32"), (1, 2, 3, 4), (False, True)):
        assert any((row.dtype, row.layers) == (dtype, layers) for row in rows)
        assert any((row.bidirectional, row.layers) == (both, layers) for row in rows)
    assert {row.T for row in rows} >= {1, 512}
    assert sum(row.lengths == "uniform" for row in rows) >= 3


def test_the_full_set_has_many_rows() -> None:
    """Of batches whose steps are work; one of them of tensors whose elements 32 bits cannot count."""
    rows = [row for row in cases.full() if row.B >= 256 and row.layers == 1 and not row.bidirectional]
    batches = (256, 1024, 4096, 16384, 65536)
    trained = {(row.H, row.B) for row in rows if (row.cell, row.mode, row.dtype) == ("lstm", "train", "bfloat16")}
    assert trained >= set(itertools.product((64, 128, 192, 256, 512), batches))
    for kind in (("gru", "train", "bfloat16"), ("lstm", "forward", "bfloat16"), ("lstm", "train", "float32")):
        assert {row.B for row in rows if (row.cell, row.mode, row.dtype) == kind} >= set(batches), kind
    assert max(row.T * row.B * COUNTS[row.cell].gates * row.H for row in rows) > 2**31
    assert {providers.peer_of(row) for row in rows} == {"torch.nn"}


def test_the_full_set_fits_the_memory() -> None:
    """Of 80 GB: what a layer keeps, the gates' input part and its gradient, and the inputs that rotate; twice the
    outputs of the check in float64 beside."""
    for row in cases.full():
        counts, width = COUNTS[row.cell], row.layers * (2 if row.bidirectional else 1)
        kept = (counts.states + counts.saved + 1) * width if row.train else 2
        elements = row.T * row.B * row.H * (kept + 2 * counts.gates + 3 * 3 * width)
        assert elements * (4 if row.dtype == "float32" else 2) < 60e9, row


def test_full_set_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--full"]) == 1
    assert capsys.readouterr().err == "fastrnn-bench run: error: --full is for GPUs: no CUDA GPU here\n"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--list"]) == 0
    quick = capsys.readouterr().out
    assert cli.main(["run", "--list", "--quick"]) == 0
    assert capsys.readouterr().out == quick
    assert len(quick.splitlines()) == 2 + len(cases.quick(False))

    assert cli.main(["run", "--list", "--cell", "gru", "--shape", "9,8,7,6", "--shape", "1,2,3,4,5"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [
        ["gru", mode, "float32", *sizes, "no", "-"]
        for sizes in (["9", "8", "7", "6", "1"], ["1", "2", "3", "4", "5"])
        for mode in ("forward", "train")
    ]


def test_run_writes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cell", "lstm", "--cell", "rnn_relu", "--shape", "5,2,3,4,2", "--bidirectional", "--commit", "abc"]
    code, rows = bench(tmp_path, "run", *options)
    assert code == 0
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        assert set(row) >= KEYS
        assert row["status"] == "ok"
        assert (row["T"], row["B"], row["I"], row["H"], row["layers"], row["bidirectional"]) == (5, 2, 3, 4, 2, True)
        assert 0 < row["p20"] <= row["us_per_step"] <= row["p80"]
        assert 0 <= row["error"] <= measure.BOUNDS["float32"]
        assert row["first_call_s"] > 0
        assert (row["device"], row["backend"], row["peer_algorithm"]) == ("cpu", "aten", "cpu")
        assert (row["peak_mb"], row["gpu"], row["driver"], row["cudnn"]) == (None, None, None, None)
        assert (row["torch"], row["commit"]) == (torch.__version__, "abc")
        assert row["time"].endswith("+00:00")
    for baseline, ours in zip(rows[::2], rows[1::2], strict=True):
        assert (baseline["provider"], ours["provider"]) == ("torch.nn", "fastrnn")
        assert baseline["ratio"] == 1.0
        assert ours["ratio"] == pytest.approx(baseline["us_per_step"] / ours["us_per_step"])
    text = (tmp_path / "rows.jsonl").read_text()
    assert str(ROOT) not in text
    assert platform.node() not in text
    out = capsys.readouterr().out
    assert out.startswith("No CUDA GPU here: this compares fastrnn's CPU path")
    assert "8 rows, 0 FAILED, 0 n/a" in out
    assert [record.Row(**row) for row in rows] == record.read(tmp_path / "rows.jsonl")


def test_read_refuses_other_files(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    journal.append(file, {"cell": "lstm"})
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: not a benchmark row"):
        record.read(file)


def test_read_refuses_other_versions(tmp_path: Path) -> None:
    _, rows = bench(tmp_path, "run", *TINY, "--provider", "fastrnn")
    for name, version in (("first", 1), ("next", record.VERSION + 1)):
        row = {**rows[0], "version": version}
        if version == 1:
            del row["version"]  # the first had none
        journal.append(tmp_path / name, row)
        with pytest.raises(
            ValueError,
            match=f"^{name}, line 1: version {version}, this reads version 3; measure again, into another file$",
        ):
            record.read(tmp_path / name)


def test_no_ratio_without_torch(tmp_path: Path) -> None:
    code, rows = bench(tmp_path, "run", *TINY, "--provider", "fastrnn", "--provider", "reference")
    assert code == 0
    assert [(row["provider"], row["backend"], row["ratio"]) for row in rows] == [
        ("fastrnn", "aten", None),
        ("reference", "reference", None),
    ]


class _Wrong(nn.LSTM):
    """Right shapes, wrong results."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(input, hx)
        return output * 1.001, final


class _NotANumber(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(input, hx)
        return output * float("nan"), final


class _Raising(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        raise RuntimeError("no such luck\nand more")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(_Wrong, "is off by 1.0"), (_NotANumber, "is off by nan"), (_Raising, "RuntimeError: no such luck")],
)
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_wrong_results_are_not_timed(
    kind: type[nn.LSTM],
    reason: str,
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(case: Case, state: State) -> nn.Module:
        layer = kind(case.I, case.H)
        layer.load_state_dict(state)
        return layer

    monkeypatch.setitem(providers.PROVIDERS, "wrong", provider(build))
    options = ["--shape", "5,2,3,4", "--cell", "lstm", "--mode", mode]
    code, (right, wrong) = bench(tmp_path, "run", *options, "--provider", "wrong", "--provider", "torch.nn")
    assert code == 1
    assert (right["provider"], right["status"], wrong["status"]) == ("torch.nn", "ok", "FAILED")
    assert reason in wrong["reason"]
    assert [wrong[key] for key in ("us_per_step", "p20", "p80", "ratio")] == [None] * 4
    assert (wrong["error"] is not None) == (kind is _Wrong)
    out = capsys.readouterr().out
    assert "2 rows, 1 FAILED" in out
    assert reason in out


def test_a_wrong_gradient_is_found() -> None:
    """The output may be right and the gradients not."""
    case, device = Case("gru", "train", "float32", 6, 2, 3, 4), CPU

    def build(case: Case, state: State) -> nn.Module:
        layer = TorchNN.build(case, state)
        layer.get_parameter("weight_hh_l0").register_hook(lambda gradient: gradient * 1.1)
        return layer

    outcome = measure.check(case, provider(build), measure.make_truth(case, device), device)
    assert outcome.status == "FAILED"
    assert outcome.error == pytest.approx(0.1, rel=1e-3)
    assert outcome.reason is not None
    assert "d(weight_hh_l0)" in outcome.reason


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("cell", cases.CELLS)
def test_bounds_admit_torch(cell: str, dtype: str) -> None:
    case = Case(cell, "train", dtype, 40, 3, 8, 16)
    truth = measure.make_truth(case, CPU)
    assert truth.inputs.x.shape == (32, 3, 8)  # fewer steps, all else as it is timed
    peer = providers.PROVIDERS[providers.peer_of(case)]
    assert measure.check(case, peer, truth, CPU).status == "ok"


def test_percentiles_and_ratio() -> None:
    assert timing.percentiles([float(n) for n in range(11)]) == (2.0, 5.0, 8.0)
    assert timing.percentiles([3.0, 3.0]) == (3.0, 3.0, 3.0)
    assert run.ratio_of(6.0, 1.5) == 4.0
    assert run.ratio_of(6.0, 6.0) == 1.0
    assert run.ratio_of(None, 1.5) is run.ratio_of(6.0, None) is None


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case("lstm", "forward", "float16", 512, 16, 768, 768), "large persistent"),
        (Case("lstm", "forward", "bfloat16", 512, 16, 768, 768), "per-step GEMM, weights copied at each call"),
        (Case("gru", "forward", "float16", 512, 16, 768, 768), "per-step GEMM"),
        (Case("lstm", "train", "float16", 512, 12, 768, 768), "per-step GEMM"),
        (Case("lstm", "train", "float16", 512, 16, 768, 768, 2), "per-step GEMM"),
        (Case("gru", "train", "float32", 512, 16, 128, 128), "small-H persistent"),
        (Case("gru", "train", "float32", 512, 16, 128, 192), "forward: small-H persistent; backward: per-step GEMM"),
    ],
)
def test_peer_algorithm(case: Case, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    assert providers.peer_algorithm(case, CUDA) == expected
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91200)
    assert providers.peer_algorithm(case, CUDA) == ("PyTorch's own loop" if case.dtype == "bfloat16" else expected)


def test_interrupt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that are finished stay."""

    def build(case: Case, state: State) -> nn.Module:
        raise KeyboardInterrupt

    monkeypatch.setitem(providers.PROVIDERS, "slow", provider(build))
    code, rows = bench(tmp_path, "run", *TINY, "--provider", "torch.nn", "--provider", "slow")
    assert code == 130
    assert [row["provider"] for row in rows] == ["torch.nn"]
    assert capsys.readouterr().err.count("\n") == 1


def test_interpreted_kernels_are_no_report(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton")
    assert cli.main(["kernels"]) == 1
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err


def test_kernel_report_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not installed')")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = str(tmp_path)
    options = ["--arch", "sm_90", "--cell", "rnn_tanh", "--dtype", "bfloat16", "--hidden", "32", "--batch", "16"]
    command = [sys.executable, "-m", "bench", "kernels", *options, "--json", str(tmp_path / "kernels.jsonl")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "kernels.jsonl").read_text().splitlines()]
    assert [row["backward"] for row in rows] == [False, True]
    for row in rows:
        assert (row["status"], row["spills"], row["tier"], row["resident"]) == ("ok", 0, "gluon solo", True)
        assert row["mma"] > 0
        assert 0 < row["registers"] <= 255
        assert 0 < row["shared"] <= row["shared_limit"] == 227 * 1024
    assert "2 rows, 2 kernels, 0 with spills" in done.stdout.splitlines()[-1]
