"""The benchmark's rows of cells that torch.nn lacks: the catalogue's, and a user's own by `module:function`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benching import CPU, bench, make_brief

from fastrnn.bench.gpu.kernels import Job
from fastrnn.bench.measuring import data, measure
from fastrnn.bench.providers.table import PROVIDERS
from fastrnn.bench.rows.cases import Case
from fastrnn.bench.rows.cells import counts_of, parse_cell
from fastrnn.cells import CATALOGUE

BASE = Case("cifg", "train", "float64", 7, 3, 5, 4, 2, True)
PLAIN = {"lengths": "uniform", "reset_rate": 0.3}
MINE = """
import torch
import fastrnn

@fastrnn.cell(gates=2, states=2, vectors=("decay",), constants=("gap",), initial=(0.0, 0.5))
def leaky(x, r, state, decay, gap):
    new, gate = (a + b for a, b in zip(x, r))
    slow = state[1] * torch.exp(-torch.abs(decay) * gap)
    return torch.sigmoid(gate) * torch.tanh(new) + slow, 0.9 * slow + 0.1 * state[0]
"""


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    make_brief(monkeypatch, tmp_path_factory.mktemp("here"))


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's cell, whose module is in the current folder."""
    Path("cell_of_mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cell_of_mine", raising=False)
    counts_of.cache_clear()
    return "cell_of_mine:leaky"


def agree(case: Case) -> None:
    truth = measure.make_truth(case, CPU)
    for name in ("fastrnn", "loop", "torch.nn-loop"):
        outcome = measure.check(case, PROVIDERS[name], truth, CPU)
        assert outcome.status == "ok", (name, outcome.reason)


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("cell", CATALOGUE)
def test_loops_and_layers_agree(cell: str, mode: str) -> None:
    """The loops call the cell's function; `tests/literal.py` has the equations once more."""
    agree(replace(BASE, cell=cell, mode=mode, **PLAIN))


def test_a_cell_of_ones_own(mine: str, tmp_path: Path) -> None:
    agree(replace(BASE, cell=mine, **PLAIN))
    agree(replace(BASE, cell=mine, return_cells=True))
    code, rows = bench(tmp_path, "run", "--cell", mine, "--shape", "5,2,3,4", "--mode", "train", "--device", "cpu")
    assert code == 0
    assert {(row["cell"], row["provider"], row["peer"], row["status"]) for row in rows} == {
        (mine, "fastrnn", "loop", "ok"),
        (mine, "loop", "loop", "ok"),
    }
    for backward in (False, True):
        config = Job("sm_90", mine, backward, "bfloat16", 256, 16).config()
        assert config is not None


def test_the_bound_is_by_the_equations_own_error() -> None:
    case = replace(BASE, cell="nas", dtype="bfloat16", layers=1, bidirectional=False)
    truth = measure.make_truth(case, CPU)
    assert truth.rounding > 0
    assert measure.make_truth(replace(case, cell="lstm"), CPU).rounding == 0
    wrong = {name: value * 2 for name, value in truth.expected.items()}
    outcome = measure.check(case, PROVIDERS["fastrnn"], replace(truth, expected=wrong), CPU)
    assert outcome.status == "FAILED"


def test_constants_are_drawn_last() -> None:
    case = replace(BASE, cell="cfc", reset_rate=0.3)
    inputs, others = data.make_inputs(case, CPU, 0), data.make_inputs(replace(case, cell="cifg"), CPU, 0)
    assert inputs.options()["dt"].shape == (case.T, case.B)
    assert "dt" not in others.options()
    assert inputs.resets is not None
    assert others.resets is not None
    assert torch.equal(inputs.resets, others.resets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaky", "invalid choice: 'leaky' \\(choose from lstm, .*, or module:function\\)"),
        ("no_such_module:leaky", "No module named 'no_such_module'"),
        ("argparse:ArgumentParser", "no cell: make ArgumentParser of argparse one with @fastrnn.cell"),
        ("argparse:", "is no cell: make a function of argparse"),
    ],
)
def test_what_is_no_cell(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse_cell(text)


def test_cells_of_several_kinds_are_not_returned() -> None:
    with pytest.raises(ValueError, match="cells of several kinds"):
        replace(BASE, cell="slstm", return_cells=True)
