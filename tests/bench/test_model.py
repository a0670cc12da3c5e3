"""What the models say: the committed table, what was promised of many rows, and the rule on the grid of its test."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastrnn.bench import cli
from fastrnn.bench.gpu import model
from fastrnn.bench.rows import modelled
from fastrnn.bench.rows.cases import MODES, Case
from fastrnn.bench.rows.errors import BenchError
from fastrnn.bench.rows.modelled import Modelled
from fastrnn.bench.showing.modelled import PARTS, fill, filled
from fastrnn.kernels.counts import COUNTS
from fastrnn.kernels.plan import peer, rule
from fastrnn.kernels.plan.choice import choose
from fastrnn.kernels.plan.configs import ScanShape
from fastrnn.kernels.plan.cost import step_cost
from fastrnn.kernels.plan.devices import DEVICES

ROOT = Path(__file__).resolve().parents[2]
H100 = DEVICES["sm_90"]
TABLE = modelled.read(ROOT / "bench" / "model" / "sm_90.jsonl")
# Of few rows, as it was before there were tiles for many.
BEFORE = modelled.read(ROOT / "bench" / "model" / "few-rows-before-sm_90.jsonl")
PAGES = ("docs/inside/model.md", "docs/guide/drop-in.md", "bench/NOTES.md")
CASE = Case("lstm", "train", "bfloat16", 100, 256, 64, 512)

# Of 256 rows and more, our time over torch's at the most, by hidden size.
PROMISED: dict[str, dict[int, float]] = {
    "float16": {64: 0.7, 128: 0.7, 192: 0.7, 256: 0.7, 512: 1.0},
    "bfloat16": {64: 0.7, 128: 0.7, 192: 0.7, 256: 0.7, 512: 1.0},
    "float32": {64: 1.0, 128: 1.0, 192: 1.0, 256: 1.0},
}
# Where that does not hold: the batches, from the first to the last power of two, and the worst of it. At 64 units few
# rows are few programs, and a step is a chain. Beyond, a program multiplies or computes, one by one, and a GRU's three
# gates take the place of four in its product.
NOT_MET: dict[tuple[str, str, str, int], tuple[int, int, float]] = {
    ("lstm", "forward", "16 bits", 64): (256, 1024, 0.82),
    ("lstm", "forward", "16 bits", 512): (16384, 65536, 1.04),
    ("lstm", "forward", "float32", 64): (256, 1024, 1.1),
    ("lstm", "train", "16 bits", 512): (8192, 65536, 1.06),
    ("gru", "forward", "16 bits", 256): (8192, 65536, 0.87),
    ("gru", "forward", "16 bits", 512): (2048, 65536, 1.66),
    ("gru", "forward", "float32", 256): (8192, 65536, 1.15),
    ("gru", "train", "16 bits", 256): (16384, 65536, 0.75),
    ("gru", "train", "16 bits", 512): (4096, 65536, 1.22),
    ("gru", "train", "float32", 64): (1024, 65536, 1.04),
    ("gru", "train", "float32", 256): (16384, 65536, 1.06),
}
CASES = [(c, m, d, h) for c, m, d in itertools.product(("lstm", "gru"), MODES, PROMISED) for h in PROMISED[d]]


@pytest.mark.parametrize(("cell", "mode", "dtype", "hidden"), CASES)
def test_what_was_promised_of_many_rows(cell: str, mode: str, dtype: str, hidden: int) -> None:
    rows = [row for row in TABLE if (row.cell, row.mode, row.dtype, row.H) == (cell, mode, dtype, hidden)]
    found = {row.B: row.ratio or 0.0 for row in rows if row.B >= 256}
    assert [*found] == [2**n for n in range(8, 17)]
    late = {batch: ratio for batch, ratio in found.items() if ratio > PROMISED[dtype][hidden]}
    kind = (cell, mode, "float32" if dtype == "float32" else "16 bits", hidden)
    first, last, worst = NOT_MET.get(kind, (0, 0, 0.0))
    assert [*late] == [batch for batch in found if first <= batch <= last]
    assert round(max(late.values(), default=0.0), 2) == worst


def test_few_rows_take_no_longer_than_before() -> None:
    now = {row.case(): row for row in TABLE}
    assert len(BEFORE) == 360
    assert {row.B for row in BEFORE} == {1, 4, 16, 64, 128}
    for before in BEFORE:
        assert (now[before.case()].ours_us or 0.0) <= 1.001 * (before.ours_us or 0.0), before


def test_the_table_is_what_the_models_say() -> None:
    """A sample of it; `make model` writes all of it anew."""
    assert [row.case() for row in TABLE] == modelled.table()
    for row in random.Random(0).sample(TABLE, 24):
        assert model.modelled(row.case(), H100) == row


@pytest.mark.slow
def test_all_of_the_table_is_what_the_models_say() -> None:
    assert [model.modelled(case, H100) for case in modelled.table()] == TABLE


# What "auto" chooses.


def _hold_to_the_margin(rows: Sequence[Modelled]) -> tuple[int, int]:
    """None of the rows takes longer than it may, nor is handed over to what is slower; how many are, and are not."""
    handed = 0
    for row in rows:
        assert row.ours_us is not None
        assert row.torch_us is not None
        ours, theirs = row.ours_us / row.T, row.torch_us / row.T
        if row.chosen == "aten":
            assert theirs <= 1.1 * ours, row
            handed += 1
        else:
            passes = (2 if row.mode == "train" else 1) * row.layers
            assert ours <= peer.allowed_us(theirs, passes) + 1e-3, row
    return handed, len(rows) - handed


def test_no_choice_of_the_table_is_slower_than_torchs_beyond_the_margin() -> None:
    handed, kept = _hold_to_the_margin(TABLE)
    assert handed > 0
    assert kept > 500


def test_no_choice_of_the_grid_is_slower_than_torchs_beyond_the_margin() -> None:
    """Of a few kinds of layers, all batches."""
    kinds: dict[Case, list[Case]] = {}
    for case in modelled.grid():
        kinds.setdefault(dataclasses.replace(case, B=1), []).append(case)
    chosen = random.Random(0).sample(list(kinds), 36)
    rows = [model.modelled(case, H100) for kind in chosen for case in kinds[kind]]
    handed, kept = _hold_to_the_margin(rows)
    assert handed > 20
    assert kept > 100


@pytest.mark.slow
def test_no_choice_of_the_whole_grid_is_slower_than_torchs_beyond_the_margin() -> None:
    handed, kept = _hold_to_the_margin([model.modelled(case, H100) for case in modelled.grid()])
    assert handed > 1000
    assert kept > 1000


def test_the_grid_has_all_that_the_choice_depends_on() -> None:
    grid = modelled.grid()
    assert len(grid) == len(set(grid))
    axes = {name: {getattr(case, name) for case in grid} for name in ("cell", "dtype", "B", "H", "layers", "mode")}
    assert axes["cell"] == {"lstm", "gru", "rnn_tanh"}
    assert axes["dtype"] == set(modelled.DTYPES)
    assert (min(axes["B"]), max(axes["B"]), min(axes["H"]), max(axes["H"])) == (1, 65536, 16, 2048)
    assert axes["mode"] == {"forward", "train"}
    assert len(axes["layers"]) == len({case.bidirectional for case in grid}) == 2


# A row.


def test_a_rows_times_are_a_calls() -> None:
    row = model.modelled(CASE, H100)
    counts, steps = COUNTS["lstm"], []
    for backward in (False, True):
        moved = counts.moved(backward, True)
        shape = ScanShape(4, backward, 2, 256, 512, 1, moved=moved, **counts.tiles(backward))
        config = choose(shape, H100, "persistent")
        assert config is not None
        steps.append(step_cost(shape, config, H100))
    layer = peer.Layer(counts, "bfloat16", 256, 512)
    theirs = [peer.step_us(layer, backward, H100) for backward in (False, True)]
    assert row.ours_us == pytest.approx(100 * sum(steps), rel=1e-6)
    assert row.torch_us == pytest.approx(100 * sum(theirs), rel=1e-6)
    assert (row.cell, row.T, row.I, row.H, row.directions, row.mode) == ("lstm", 100, 64, 512, 1, "train")
    forward = model.modelled(dataclasses.replace(CASE, mode="forward", layers=3), H100)
    assert forward.torch_us == pytest.approx(
        300 * peer.step_us(dataclasses.replace(layer, training=False), False, H100)
    )


def test_the_limit() -> None:
    """Many rows wait for memory, wide layers for the matrix units; layers and directions add up."""

    def limit(**changes: object) -> float:
        return model.modelled(dataclasses.replace(CASE, T=1, mode="forward", **changes), H100).limit_us  # type: ignore[arg-type]

    moved = 256 * 64 * 5 * 2  # x four, h
    assert limit(H=64) == pytest.approx(moved / H100.memory_rate, abs=1e-3)
    multiplied = 4 * 256 * 2048 * 2048 / (132 * H100.sm_mac_rate)
    assert limit(H=2048) == pytest.approx(multiplied, rel=1e-3)
    assert limit(H=2048, dtype="float32") == pytest.approx(2 * multiplied, rel=1e-3)
    assert limit(H=2048, dtype=modelled.EXACT) == pytest.approx(4 * 256 * 2048**2 / (132 * 32 * 4 * 1755), rel=1e-3)
    assert limit(H=2048, layers=3, bidirectional=True) == pytest.approx(6 * multiplied, rel=1e-3)
    training = model.modelled(dataclasses.replace(CASE, T=1, H=64), H100).limit_us
    assert training == pytest.approx(256 * 64 * (10 + 10) * 2 / H100.memory_rate, abs=1e-3)


def test_ours_are_not_below_the_limit() -> None:
    for row in TABLE:
        assert row.ours_us is not None
        assert row.limit_us <= 1.001 * row.ours_us, row


def test_what_is_chosen_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    few = model.modelled(dataclasses.replace(CASE, B=16), H100)
    assert few.chosen == "persistent"
    assert few.why.startswith("forward: gluon grid tier, ")
    monkeypatch.setattr(model, "_batches", lambda layer, device: ((97, 129),))
    many = model.modelled(dataclasses.replace(CASE, B=128), H100)
    assert many.chosen == "aten"
    assert many.why == "from B=97 to B=128 torch's kernels are expected to be faster (standard algorithm)"
    between = model.modelled(dataclasses.replace(CASE, H=1024), H100)
    assert between.chosen == "persistent"
    assert (between.ratio or 0.0) > 1
    assert between.why.endswith("; not the faster, but within the margin")
    nowhere = dataclasses.replace(H100, shared_bytes=0)
    assert model.modelled(CASE, nowhere).chosen == "aten"


def test_a_cell_that_torch_lacks_has_no_peer() -> None:
    row = model.modelled(dataclasses.replace(CASE, cell="slstm", B=65536), H100)
    assert (row.torch_us, row.ratio, row.chosen) == (None, None, "persistent")


# The command.


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("what was there\n")
    options = ["--cell", "gru", "--dtype", "float32", "--mode", "train", "--shape", "100,16,64,128", "--bidirectional"]
    assert cli.main(["model", *options, "--shape", "9,8,7,6,2", "--json", str(file)]) == 0
    keys = ["cell", "dtype", "T", "B", "I", "H", "layers", "directions", "mode"]
    keys += ["ours_us", "torch_us", "limit_us", "chosen"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [list(row) for row in rows] == [keys, keys]
    assert [list(row.values())[:9] for row in rows] == [
        ["gru", "float32", 100, 16, 64, 128, 1, 2, "train"], ["gru", "float32", 9, 8, 7, 6, 2, 2, "train"]
    ]  # fmt: skip
    assert modelled.read(file) == [model.modelled(row.case(), H100) for row in modelled.read(file)]
    out = capsys.readouterr().out
    assert "nothing here was measured" in out
    shown = next(line for line in out.splitlines() if line.startswith("gru")).split()
    assert float(shown[9]) == pytest.approx(rows[0]["ours_us"] / 100, abs=0.006)
    assert shown[-1] == "persistent"
    file.write_text('{"cell": "lstm"}\n')
    with pytest.raises(BenchError, match="line 1: no row of `model`"):
        modelled.read(file)


def test_wrong_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--grid", "--cell", "lstm"], "--grid is a set of its own"),
        (["--table", "--bidirectional"], "--table is a set of its own"),
        (["--table", "--grid"], "not allowed with argument"),
        (["--arch", "sm_1"], "invalid choice"),
        (["--page", "page.md"], "--page takes the rows of --table"),
        (["--json", str(tmp_path / "no" / "file")], "cannot write"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["model", *options])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_it_needs_neither_torch_nor_triton() -> None:
    program = """
        import sys
        sys.modules["torch"] = sys.modules["triton"] = None
        from fastrnn.bench import cli
        sys.exit(cli.main(["model", "--cell", "lstm", "--cell", "slstm"]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


# The pages.


def test_the_pages_have_what_the_models_say() -> None:
    texts = [(ROOT / page).read_text() for page in PAGES]
    for page, text in zip(PAGES, texts, strict=True):
        assert filled(text, TABLE, H100) == text, f"`make model` writes {page} anew"
    assert all(any(f"<!-- model:{part} -->" in text for text in texts) for part in PARTS)
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"--page {page}" in makefile for page in PAGES)


def test_pages_that_cannot_be_filled(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(BenchError, match=r"cannot read page\.md"):
        fill(page, TABLE, H100)
    for text, message in (
        ("nothing\n", r"page\.md: no <!-- model:NAME -->"),
        ("<!-- model:other -->\n\n<!-- model:end -->\n", r"page\.md: no part 'other'"),
    ):
        page.write_text(text)
        with pytest.raises(BenchError, match=message):
            fill(page, TABLE, H100)
        assert page.read_text() == text


def test_a_part_says_what_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "torchs_batches", lambda layer, device: ((97, 129), (500, None)))
    text = filled("a\n<!-- model:handed-over -->\n\n<!-- model:end -->\nb\n", TABLE, H100)
    assert text.startswith("a\n<!-- model:handed-over -->\n\n| hidden size | LSTM, 16 bits | ")
    assert "| 256 | 97 to 128, from 500 | " in text
    assert text.endswith(" |\n\n<!-- model:end -->\nb\n")
