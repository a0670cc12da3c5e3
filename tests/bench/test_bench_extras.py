"""The benchmark's rows of what torch.nn's layers lack, lengths, resets, cells and the textbook GRU, and their peers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import CPU, TINY, bench, make_brief

from fastrnn.bench.measuring import data, measure
from fastrnn.bench.providers import loops
from fastrnn.bench.providers import table as providers
from fastrnn.bench.rows import cases
from fastrnn.bench.rows.cases import Case, Shape

BASE = Case("lstm", "train", "float32", 7, 3, 5, 4, 2, True)
EXTRAS: list[dict[str, Any]] = [
    {"lengths": "uniform"},
    {"lengths": "zipf", "cell": "gru"},
    {"lengths": "uniform", "cell": "rnn_tanh"},
    {"reset_rate": 0.3},
    {"reset_rate": 0.3, "cell": "gru", "lengths": "uniform"},
    {"reset_rate": 0.3, "cell": "rnn_relu", "bidirectional": False},
    {"return_cells": True},
    {"return_cells": True, "lengths": "uniform", "reset_rate": 0.3},
    {"cell": "gru_textbook"},
    {"cell": "gru_textbook", "lengths": "zipf", "reset_rate": 0.3},
]


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    make_brief(monkeypatch, tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("changes", EXTRAS, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()))
@pytest.mark.parametrize("mode", cases.MODES)
def test_every_provider_that_can_agrees_in_float64(mode: str, changes: dict[str, Any]) -> None:
    """The peers are written from scratch, so that they check the reference as much as it checks them."""
    case = replace(BASE, mode=mode, dtype="float64", **changes)
    truth = measure.make_truth(case, CPU)
    assert ("cells" in truth.expected) == case.return_cells
    able = [name for name, provider in providers.PROVIDERS.items() if provider.unable(case, CPU) is None]
    able.remove("torch.compile")  # torch.nn-loop, once more; test_bench_others.py compiles it
    assert {"fastrnn", "torch.nn-loop", "reference", providers.peer_of(case)} <= set(able)
    for name in able:
        outcome = measure.check(case, providers.PROVIDERS[name], truth, CPU)
        assert outcome.status == "ok", (name, outcome.reason)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("cell", cases.CELLS)
def test_bounds_admit_the_peers(cell: str, dtype: str) -> None:
    case = Case(cell, "train", dtype, 40, 3, 8, 16, lengths="uniform")
    cell_cases = [case, replace(case, lengths="full", reset_rate=0.05)]
    if cell == "lstm":
        cell_cases.append(replace(case, lengths="full", return_cells=True))
    for each in cell_cases:
        truth = measure.make_truth(each, CPU)
        assert measure.check(each, providers.PROVIDERS[providers.peer_of(each)], truth, CPU).status == "ok"


@pytest.mark.parametrize(
    ("changes", "peer"),
    [
        ({}, "torch.nn"),
        ({"lengths": "zipf"}, "torch.nn-packed"),
        ({"lengths": "uniform", "reset_rate": 0.1}, "torch.nn-loop"),
        ({"reset_rate": 0.1}, "torch.nn-loop"),
        ({"return_cells": True}, "torch.nn-loop"),
        ({"return_cells": True, "lengths": "uniform"}, "torch.nn-loop"),
        ({"cell": "gru_textbook"}, "torch.nn-loop"),
        ({"cell": "gru_textbook", "lengths": "uniform"}, "torch.nn-loop"),
    ],
)
def test_peer_of(changes: dict[str, Any], peer: str) -> None:
    assert providers.peer_of(replace(BASE, **changes)) == peer


def test_what_the_peer_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    case, cuda = Case("lstm", "train", "float16", 512, 16, 768, 768), torch.device("cuda")
    assert providers.peer_algorithm(case, cuda) == "large persistent"
    assert providers.peer_algorithm(replace(case, lengths="uniform"), cuda) == "per-step GEMM"
    assert providers.peer_algorithm(replace(case, reset_rate=0.1), cuda) == "cells in a Python loop"
    # torch lays bfloat16 weights out as they come, and cuDNN gets a copy of them each time.
    copied = "per-step GEMM, weights copied at each call"
    assert providers.peer_algorithm(replace(case, dtype="bfloat16"), cuda) == copied
    assert providers.peer_algorithm(replace(case, dtype="bfloat16", lengths="uniform"), cuda) == copied


def test_lengths() -> None:
    case = Case("lstm", "train", "float32", 100, 64, 2, 2)
    assert data.make_lengths(case, 0) is None
    uniform = data.make_lengths(replace(case, lengths="uniform"), 0)
    zipf = data.make_lengths(replace(case, lengths="zipf"), 0)
    assert uniform is not None
    assert zipf is not None
    for lengths in (uniform, zipf):
        assert lengths.shape == (64,)
        assert 1 <= int(lengths.min()) <= int(lengths.max()) <= 100
    assert 35 < uniform.double().mean() < 65
    assert int(zipf.max()) == 100
    assert int((zipf > 50).sum()) == 1
    assert zipf.double().mean() < 12
    for kind in ("uniform", "zipf"):
        first, again, other = (data.make_lengths(replace(case, lengths=kind), seed) for seed in (0, 0, 1))
        assert first is not None
        assert again is not None
        assert other is not None
        assert first.equal(again)
        assert not first.equal(other)


def test_inputs_hold_what_the_case_asks_for() -> None:
    plain = data.make_inputs(BASE, CPU, 0)
    assert plain.options() == {}
    assert plain.valid() is None
    case = replace(BASE, T=200, reset_rate=0.25, return_cells=True, lengths="zipf")
    inputs = data.make_inputs(case, CPU, 0)
    assert set(inputs.options()) == {"lengths", "resets", "return_cells"}
    assert inputs.resets is not None
    assert inputs.resets.dtype == torch.bool
    assert inputs.resets.shape == (200, 3)
    assert inputs.resets.double().mean() == pytest.approx(0.25, abs=0.08)
    assert inputs.dcells is not None
    assert inputs.lengths is not None
    valid = inputs.valid()
    assert valid is not None
    assert valid.sum(0).equal(inputs.lengths)
    assert bool(valid[0].all())


@pytest.mark.parametrize(
    ("name", "time", "status"), [("output", 3, "ok"), ("output", 2, "FAILED"), ("cells", 0, "FAILED")]
)
def test_outputs_and_cells_count_where_there_are_steps(
    name: str, time: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past their ends rows may hold anything."""
    monkeypatch.setattr(data, "make_lengths", lambda case, seed: torch.tensor([3, 7]))
    case = Case("lstm", "forward", "float32", 7, 2, 3, 4, lengths="uniform", return_cells=True)

    class Changed(loops.Loop):
        def forward(self, x: torch.Tensor, **options: Any) -> Any:
            output, final, cells = super().forward(x, **options)
            (output if name == "output" else cells)[time, 0] += 1
            return output, final, cells

    found = measure.check(case, Changed, measure.make_truth(case, CPU), CPU)
    assert found.status == status
    if status == "FAILED":
        assert found.reason is not None
        assert found.reason.startswith(f"{name} is off by")


@pytest.mark.parametrize(
    ("options", "peer", "reason"),
    [
        (["--lengths", "uniform"], "torch.nn-packed", "torch.nn's layers take no lengths"),
        (["--reset-rate", "0.2"], "torch.nn-loop", "torch.nn's layers take no resets"),
        (["--return-cells"], "torch.nn-loop", "torch.nn's layers return no cells"),
    ],
)
def test_rows_name_their_peer(
    options: list[str], peer: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = bench(tmp_path, "run", *TINY, *options)
    assert code == 0
    assert [(row["provider"], row["peer"], row["status"]) for row in rows] == [
        (peer, peer, "ok"),
        ("fastrnn", peer, "ok"),
    ]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[0]["us_per_step"] / rows[1]["us_per_step"])

    code, rows = bench(tmp_path, "run", *TINY, *options, "--provider", "torch.nn")
    assert code == 0  # n/a is no failure
    assert (rows[-1]["status"], rows[-1]["reason"], rows[-1]["us_per_step"]) == ("n/a", reason, None)
    out = capsys.readouterr().out
    assert f"n/a: {reason}" in out
    assert "1 rows, 0 FAILED, 1 n/a" in out


def test_row_fields(tmp_path: Path) -> None:
    options = ["--lengths", "zipf", "--reset-rate", "0.2", "--return-cells"]
    _, rows = bench(tmp_path, "run", *TINY, *options, "--provider", "fastrnn")
    (row,) = rows
    assert (row["lengths"], row["reset_rate"], row["return_cells"]) == ("zipf", 0.2, True)
    assert row["version"] == 3
    assert row["ratio"] is None


def test_textbook_gru(tmp_path: Path) -> None:
    code, rows = bench(tmp_path, "run", "--cell", "gru_textbook", "--shape", "5,2,3,4")
    assert code == 0
    assert [(row["provider"], row["mode"], row["backend"]) for row in rows] == [
        ("torch.nn-loop", "forward", "loop"),
        ("fastrnn", "forward", "aten"),
        ("torch.nn-loop", "train", "loop"),
        ("fastrnn", "train", "aten"),
    ]


@pytest.mark.parametrize("cuda", [False, True])
def test_quick_sets_have_a_row_of_each(cuda: bool) -> None:
    rows = cases.quick(cuda)
    assert {row.lengths for row in rows} == set(cases.LENGTHS)
    assert any(row.reset_rate == 0.01 for row in rows)
    assert any(row.return_cells for row in rows)
    assert any(row.cell == "gru_textbook" for row in rows)
    for row in rows:  # torch's packed training on a CPU takes time quadratic in T
        assert cuda or row.T <= 100


def test_cells_are_lstms() -> None:
    with pytest.raises(ValueError, match="a gru has no cells to return; lstm has"):
        cases.product(["gru"], ["train"], ["float32"], [Shape(1, 2, 3, 4)], return_cells=True)
