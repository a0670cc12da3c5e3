"""Where the benchmark's rows are kept and found again without being told: in a folder of the current one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from benching import ROW, TINY, make_brief, provider
from torch import nn

from fastrnn.bench import cli
from fastrnn.bench.providers import table as providers
from fastrnn.bench.providers.provider import State
from fastrnn.bench.rows import files, journal, record
from fastrnn.bench.rows.cases import Case

pytest.importorskip("matplotlib")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    make_brief(monkeypatch, tmp_path)
    monkeypatch.setattr(journal, "now", lambda: "2030-01-02T03:04:05+00:00")
    return tmp_path


def test_run_report_and_plot_need_no_file_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", *TINY]) == 0
    file = Path("fastrnn-bench/cpu-2030-01-02.jsonl")
    assert f"Kept in {file}, for `report` and `plot`." in capsys.readouterr().out
    assert len(record.read(file)) == 2
    assert cli.main(["report"]) == 0
    assert "| lstm | train | float32 | 5, 2, 3, 4 |" in capsys.readouterr().out
    assert cli.main(["plot"]) == 0
    assert "in fastrnn-bench" in capsys.readouterr().out
    assert [path.suffix for path in sorted(file.parent.iterdir())].count(".png") >= 1


def test_an_interrupted_run_loses_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(case: Case, state: State) -> nn.Module:
        raise KeyboardInterrupt

    ours = providers.PROVIDERS["fastrnn"]
    monkeypatch.setitem(providers.PROVIDERS, "fastrnn", provider(build))
    assert cli.main(["run", *TINY, "--commit", "abc"]) == 130
    error = capsys.readouterr().err
    assert error == (
        "fastrnn-bench run: interrupted; finished rows are in fastrnn-bench/cpu-2030-01-02.jsonl; "
        "run again with --resume to go on\n"
    )
    monkeypatch.setitem(providers.PROVIDERS, "fastrnn", ours)
    # The next day: the rows of the day before still count.
    monkeypatch.setattr(journal, "now", lambda: "2030-01-03T03:04:05+00:00")
    assert cli.main(["run", *TINY, "--commit", "abc", "--resume"]) == 0
    assert "1 rows, 0 FAILED, 0 n/a, 1 finished before" in capsys.readouterr().out
    days = [record.read(path) for path in sorted(Path(files.FOLDER).glob("*.jsonl"))]
    assert [[row.provider for row in rows] for rows in days] == [["torch.nn"], ["fastrnn"]]
    assert days[1][0].ratio is not None


def test_an_old_file_beside_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / files.FOLDER
    folder.mkdir()
    journal.append(folder / "old.jsonl", dataclasses.asdict(ROW) | {"version": 1})
    assert cli.main(["run", *TINY, "--resume"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("left out: old.jsonl, line 1: version 1, this reads version")
    assert "2 rows, 0 FAILED" in captured.out


def test_what_cannot_be_kept_is_not_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / files.FOLDER).write_text("a file")
    assert cli.main(["run", *TINY]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "fastrnn-bench run: error: cannot make fastrnn-bench here: File exists; say where rows go: --json FILE\n"
    )
    assert captured.out == ""


def test_the_public_is_shown_what_is_committed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "committed", lambda: [Path("committed")])
    assert files.to_show([]) == [Path("committed")]
    (here / files.FOLDER).mkdir()
    (here / files.FOLDER / "rows.jsonl").touch()
    assert files.to_show([]) == [Path("fastrnn-bench/rows.jsonl")]
    assert files.to_show([], public=True) == [Path("committed")]
    assert files.to_show(["other"]) == files.to_show(["other"], public=True) == [Path("other")]
