"""What becomes of the benchmark's rows: files that go on after an interruption, reports, comparisons."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import ROW, TINY, bench, make_brief

from fastrnn.bench import cli, commands
from fastrnn.bench.measuring import run, timing
from fastrnn.bench.rows import cases, checkout, files, journal, record
from fastrnn.bench.showing import pairs, report
from fastrnn.bench.showing.pairs import Timing

ROOT = Path(__file__).resolve().parents[2]
PEER = dataclasses.replace(ROW, provider="torch.nn", us_per_step=5.0, p20=4.5, p80=5.5, ratio=1.0)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    make_brief(monkeypatch, tmp_path_factory.mktemp("here"))


def _write(file: Path, *rows: record.Row) -> Path:
    for row in rows:
        journal.append(file, dataclasses.asdict(row))
    return file


def _changed(us: float, half: float = 0.1, **changes: Any) -> record.Row:
    return dataclasses.replace(ROW, us_per_step=us, p20=us - half, p80=us + half, **changes)


# Files.


def test_resume_measures_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["run", *TINY, "--mode", "forward", "--commit", "abc", "--resume"]
    _, rows = bench(tmp_path, *options)
    assert len(rows) == 4
    file = tmp_path / "rows.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    capsys.readouterr()
    code, again = bench(tmp_path, *options)
    assert code == 0
    assert again[:3] == rows[:3]
    assert len(again) == 4
    assert (again[3]["provider"], again[3]["mode"]) == ("fastrnn", rows[3]["mode"])
    # The peer's time is the one in the file.
    assert again[3]["ratio"] == pytest.approx(rows[2]["us_per_step"] / again[3]["us_per_step"])
    assert "1 rows, 0 FAILED, 0 n/a, 3 finished before" in capsys.readouterr().out


def test_only_rows_of_this_code_and_machine_count_as_finished(tmp_path: Path) -> None:
    _, rows = bench(tmp_path, "run", *TINY, "--commit", "abc")
    for change in ({"commit": "abd"}, {"torch": "0.1"}, {"cpu": "another"}, {"status": "FAILED"}, {"H": 5}):
        (tmp_path / "rows.jsonl").unlink()
        for row in rows:
            journal.append(tmp_path / "rows.jsonl", row | change)
        _, after = bench(tmp_path, "run", *TINY, "--commit", "abc", "--resume")
        assert len(after) == 2 * len(rows), change
    _, after = bench(tmp_path, "run", *TINY, "--commit", "abc")
    assert len(after) == 3 * len(rows)  # not without being asked


def test_resume_counts_repetitions(tmp_path: Path) -> None:
    options = ["run", *TINY, "--commit", "abc", "--provider", "fastrnn", "--resume", "--repeat"]
    assert len(bench(tmp_path, *options, "2")[1]) == 2
    assert len(bench(tmp_path, *options, "3")[1]) == 3


def test_a_failed_row_is_tried_last_or_passed_over(tmp_path: Path) -> None:
    options = ["run", *TINY, "--mode", "forward", "--commit", "abc", "--provider", "fastrnn", "--resume"]
    _, rows = bench(tmp_path, *options)
    file = tmp_path / "rows.jsonl"
    file.unlink()
    journal.append(file, rows[0] | {"status": "FAILED"})
    assert [row["mode"] for row in bench(tmp_path, *options)[1][1:]] == [rows[1]["mode"], rows[0]["mode"]]
    file.unlink()
    journal.append(file, rows[0] | {"status": "FAILED"})
    _, after = bench(tmp_path, *options, "--pass-over-failed")
    assert [row["mode"] for row in after[1:]] == [rows[1]["mode"]]


def test_a_lost_gpu_ends_the_run_at_the_row_that_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was is recorded; the run that goes on passes over it. An error of one row's own ends nothing."""
    said: list[str | None] = []

    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(run, "measure", fail)
    monkeypatch.setattr(timing, "lost", lambda device: said[-1])
    said.append(None)
    code, rows = bench(tmp_path, "run", *TINY, "--mode", "forward", "--provider", "fastrnn")
    assert (code, [row["status"] for row in rows]) == (1, ["FAILED", "FAILED"])
    (tmp_path / "rows.jsonl").unlink()
    said.append("CUDA error: an illegal memory access was encountered")
    code, rows = bench(tmp_path, "run", *TINY, "--mode", "forward", "--provider", "fastrnn")
    assert (code, [row["status"] for row in rows]) == (3, ["FAILED"])
    assert "--resume --pass-over-failed goes on" in capsys.readouterr().err


def test_a_row_that_took_the_process_along_counts_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in a row, a run leaves a note of it; interrupted, it leaves none."""
    options = ["run", *TINY, "--commit", "abc", "--provider", "fastrnn", "--resume", "--pass-over-failed"]
    note = tmp_path / "rows.jsonl.begun"
    notes: list[str] = []

    def interrupted(*_: Any) -> Any:
        notes.append(note.read_text())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "measure", interrupted)
        assert bench(tmp_path, *options) == (130, [])
    assert not note.exists()
    note.write_text(notes[0])  # as where the process had been killed
    code, (row,) = bench(tmp_path, *options)
    assert (code, row["status"], row["provider"]) == (0, "FAILED", "fastrnn")
    assert row["reason"] == "it began, and the process ended before it did"
    assert not note.exists()
    # Another commit's is none of this one's.
    note.write_text(notes[0])
    (tmp_path / "rows.jsonl").unlink()
    _, (row,) = bench(tmp_path, *options, "--commit", "abd")
    assert row["status"] == "ok"


def test_a_gpu_is_lost_where_its_error_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, errors = torch.device("cuda"), [RuntimeError("once")]

    def synchronize(device: torch.device) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert timing.lost(cuda) is None  # gone when asked again
    errors += [RuntimeError("CUDA error: unspecified launch failure\nmore"), RuntimeError("first")]
    assert timing.lost(cuda) == "CUDA error: unspecified launch failure"
    assert timing.lost(torch.device("cpu")) is None


def test_a_torn_line_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _write(tmp_path / "rows.jsonl", ROW, PEER)
    whole = file.read_text()
    file.write_text(whole[:-40])
    assert record.read(file) == [ROW]
    assert capsys.readouterr().err == "rows.jsonl: the last line was cut short and is dropped\n"
    _, rows = bench(tmp_path, "run", *TINY, "--resume", "--provider", "fastrnn")
    assert [row["T"] for row in rows] == [512, 5]  # the new row stands on a line of its own
    assert capsys.readouterr().err.count("cut short") == 1


def test_csv(tmp_path: Path) -> None:
    options = ["run", *TINY, "--csv", str(tmp_path / "rows.csv")]
    _, rows = bench(tmp_path, *options)
    bench(tmp_path, *options)
    with (tmp_path / "rows.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 4
    assert list(found[0]) == record.FIELDS
    assert set(record.FIELDS) == {field.name for field in dataclasses.fields(record.Row)}
    assert float(found[0]["us_per_step"]) == rows[0]["us_per_step"]


def test_a_folder_takes_a_file_named_after_machine_and_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "now", lambda: "2030-01-02T03:04:05+00:00")
    torch.set_num_threads(2)
    assert cli.main(["run", *TINY, "--provider", "fastrnn", "--json", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    assert file.name == "cpu-2030-01-02.jsonl"
    assert [row.threads for row in record.read(file)] == [1]  # as it was measured
    arguments = cli.build_parser().parse_args(["run", "--json", str(tmp_path)])
    env = dataclasses.replace(ROW.environment(), gpu="NVIDIA Some (80 GB)")
    files.open_results(arguments, env)
    assert Path(arguments.json).name == "nvidia-some-80-gb-2030-01-02.jsonl"


def test_the_command_is_recorded_without_files(tmp_path: Path) -> None:
    options = ["--reset-rate", "0.25", "--return-cells", "--provider", "fastrnn", "--device", "cpu"]
    _, rows = bench(tmp_path, "run", *TINY, *options)
    assert rows[0]["command"] == (
        "python -m bench run --cell lstm --mode train --shape 5,2,3,4 --provider fastrnn --reset-rate 0.25 "
        "--return-cells --device cpu"
    )
    parsed = cli.build_parser().parse_args(rows[0]["command"].split()[3:])
    assert commands._command(parsed) == rows[0]["command"].split()[3:]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", *TINY, "--device", "cuda"], 1, "--device cuda: no CUDA GPU here"),
        (["run", *TINY, "--base", "no-such-ref"], 1, "--base: no commit 'no-such-ref' in this checkout"),
        (["run", *TINY, "--base", "HEAD", "--json", "x", "--resume"], 2, "it takes no --resume"),
        (["run", *TINY, "--repeat", "0"], 2, "argument --repeat: expected a whole number"),
        (["compare", "no-such-file", "x"], 1, "cannot read no-such-file: No such file or directory"),
        (["report", "no-such-file"], 1, "cannot read no-such-file: No such file or directory"),
        (["report", "--readme", "no-such-file"], 1, "cannot read no-such-file: No such file or directory"),
    ],
)
def test_one_line_of_what_is_wrong(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = cli.main(arguments)
    except SystemExit as exited:
        found = int(str(exited.code))
    assert found == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_version_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    journal.append(file, dataclasses.asdict(ROW) | {"version": 1})
    for arguments in (
        ["report", str(file)],
        ["compare", str(file), str(file)],
        ["run", "--json", str(file), "--resume"],
    ):
        assert cli.main(arguments) == 1
        error = capsys.readouterr().err
        assert "rows.jsonl, line 1: version 1, this reads version 3; measure again" in error
        assert error.count("\n") == 1
    assert len(file.read_text().splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m bench run --list --quick | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


# Comparing.


def test_verdicts() -> None:
    old = Timing(10, 9, 11)
    assert pairs.verdict(old, Timing(8, 7, 8.9)) == "faster"
    assert pairs.verdict(old, Timing(8, 7, 9)) == "same"
    assert pairs.verdict(old, Timing(12, 11, 13)) == "same"
    assert pairs.verdict(old, Timing(12, 11.1, 13)) == "slower"


def test_repetitions_are_pooled() -> None:
    assert pairs.pooled([_changed(3.0), _changed(2.0), _changed(9.0, 1.0)]) == Timing(3.0, 1.9, 10.0)
    failed = dataclasses.replace(ROW, us_per_step=None, p20=None, p80=None, status="FAILED")
    assert pairs.pooled([failed]) is None
    assert pairs.pooled([failed, _changed(3.0)]) == Timing(3.0, 2.9, 3.1)


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = _write(tmp_path / "old", _changed(10), _changed(10, H=512), _changed(10, B=64), _changed(1, T=1))
    new = _write(tmp_path / "new", _changed(5), _changed(20, H=512), _changed(10.1, B=64), _changed(1, cell="gru"))
    assert cli.main(["compare", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines()[2:5]] == ["faster", "slower", "same"]
    assert "-50.0 %" in out
    assert "3 rows: 1 faster, 1 slower, 1 same. 2 left out" in out
    assert "Not the same" not in out

    other = _write(tmp_path / "other", _changed(5, gpu="Another GPU"))
    assert cli.main(["compare", str(old), str(other)]) == 0
    assert capsys.readouterr().out.startswith("Not the same gpu: Some GPU before, Another GPU now.\n")
    none = _write(tmp_path / "none", _changed(5, T=9))
    assert cli.main(["compare", str(old), str(none)]) == 1
    assert "no timed row in common" in capsys.readouterr().err


@pytest.mark.slow
def test_base_measures_the_other_commit(tmp_path: Path) -> None:
    """In a repository of its own, whose commit is much slower than its working tree."""
    repo = tmp_path / "repo"
    for folder in ("bench", "fastrnn", "kernels"):
        shutil.copytree(ROOT / folder, repo / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(repo), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    modules, init = repo / "fastrnn" / "stack.py", repo / "bench" / "rows" / "cases.py"
    quick, slow = modules.read_text(), "    import time\n\n    time.sleep(0.05)\n    chosen, way ="
    assert "    chosen, way =" in quick
    modules.write_text(quick.replace("    chosen, way =", slow, 1))
    current = init.read_text()
    init.write_text("raise ImportError('an old benchmark')\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "slow"]):
        subprocess.run([*git, *command], check=True)
    modules.write_text(quick)
    init.write_text(current)

    arguments = [sys.executable, "-m", "bench", "run", "--shape", "5,2,3,4", "--mode", "forward", "--base", "HEAD"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*arguments, "--json", str(tmp_path / "rows")], cwd=repo, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 rows: 1 faster, 0 slower, 0 same" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["provider"] for row in rows] == ["fastrnn"]  # the file is this commit's
    trees = subprocess.run([*git, "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(trees.splitlines()) == 1
    assert not list(tmp_path.glob("fastrnn-base-*"))


def test_commit_names_the_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(checkout.fastrnn, "__file__", str(tmp_path / "__init__.py"))
    assert checkout.commit() is None
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    found = [checkout.commit()]
    for text in ("1", "2", "1"):
        (tmp_path / "__init__.py").write_text(text)
        found.append(checkout.commit())
    clean, one, two, again = found
    assert clean is not None
    assert one is not None
    assert len(clean) == 40
    assert one.startswith(f"{clean}-dirty-")
    assert one == again != two


# Reporting.


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lacking = dataclasses.replace(
        ROW, H=512, status="FAILED", reason="too bad", us_per_step=None, p20=None, p80=None, ratio=None, error=None
    )
    file = _write(tmp_path / "rows", PEER, ROW, lacking, dataclasses.replace(ROW, commit="def", lengths="uniform"))
    assert cli.main(["report", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count("**Some GPU, driver 1.2**. torch 9.9, triton 8.8, cuDNN 77, Python 3.0; fastrnn 0.1 at `") == 2
    assert "`abc`, 2030-01-02:" in out
    assert "python -m bench run --quick" in out
    assert "| lstm | train | bfloat16 | 512, 16, 256, 256 | 1 | - | 2.00 (1.90-2.10) | torch.nn |" in out
    assert "| 5.00 (4.50-5.50) | 2.50 | 1e-03 |" in out
    assert "| FAILED | torch.nn | - | - | - |" in out
    assert "| uniform |" in out
    assert "not yet measured" not in out


def test_report_of_nothing_and_of_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "committed", list)
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == report.NOT_MEASURED
    cpu = dataclasses.replace(ROW, device="cpu", gpu=None, driver=None, cudnn=None, cpu="Some CPU")
    assert cli.main(["report", str(_write(tmp_path / "rows", cpu))]) == 0
    out = capsys.readouterr().out
    assert out.startswith(report.NOT_MEASURED)
    assert "**Some CPU, 1 thread, no GPU**" in out


def test_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what was never committed nor what was changed since."""
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    (tmp_path / "fastrnn").mkdir()
    monkeypatch.setattr(checkout.fastrnn, "__file__", str(tmp_path / "fastrnn" / "__init__.py"))
    assert files.committed() == []
    for name in ("a.jsonl", "b.jsonl", "c.txt"):
        (results / name).write_text("\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    (results / "b.jsonl").write_text("changed\n")
    (results / "d.jsonl").write_text("new\n")
    assert files.committed() == [results / "a.jsonl"]


EMPTY_PAGE = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"


def test_readme_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    file, readme = _write(tmp_path / "rows", PEER, ROW), tmp_path / "README.md"
    readme.write_text(EMPTY_PAGE)
    for _ in range(2):
        assert cli.main(["report", str(file), "--readme", str(readme)]) == 0
        text = readme.read_text()
        assert text.startswith(
            "before\n<!-- bench:begin -->\n![The peer's time over fastrnn's, row by row](bench/results/"
        )
        assert text.endswith(" |\n<!-- bench:end -->\nafter\n")
        assert "\n**Some GPU" in text
        assert "old" not in text
    picture = (tmp_path / "bench" / "results" / "speed.svg").read_text()
    assert "GPU: Some GPU" in picture
    readme.write_text("nothing\n")
    assert cli.main(["report", str(file), "--readme", str(readme)]) == 1
    assert "README.md has no <!-- bench:begin -->" in capsys.readouterr().err
    assert readme.read_text() == "nothing\n"


def test_cpu_rows_have_a_page_of_their_own(tmp_path: Path) -> None:
    """No table and no picture of them on the front page, which says that no GPU was measured."""
    cpu = dataclasses.replace(ROW, device="cpu", gpu=None, cpu="Some CPU")
    file, readme, page = _write(tmp_path / "rows", cpu, ROW), tmp_path / "README.md", tmp_path / "cpu.md"
    page.write_text(EMPTY_PAGE)
    assert cli.main(["report", str(file), "--cpu-page", str(page)]) == 0
    assert "<!-- bench:begin -->\n**Some CPU" in page.read_text()
    assert "GPU: Some GPU" not in page.read_text()
    assert "not yet measured" not in page.read_text()
    readme.write_text(EMPTY_PAGE)
    assert cli.main(["report", str(_write(tmp_path / "cpu", cpu)), "--readme", str(readme)]) == 0
    assert (
        readme.read_text()
        == "before\n<!-- bench:begin -->\nSpeed: not yet measured on a GPU.\n<!-- bench:end -->\nafter\n"
    )
    assert not (tmp_path / "bench").exists()


def test_the_front_page_has_the_quick_set() -> None:
    quick = [dataclasses.replace(ROW, **dataclasses.asdict(case)) for case in cases.quick(cuda=True)[:2]]
    odd, cpu = dataclasses.replace(ROW, H=7), dataclasses.replace(ROW, H=7, device="cpu")
    assert report.for_front_page([*quick, odd, cpu]) == quick
    assert report.for_front_page([odd, cpu]) == [odd]


def test_report_counts_who_is_faster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for H, us in ((8, 3.0), (16, 1.0), (24, 2.0), (32, 4.0)):
        rows += [dataclasses.replace(ROW, H=H), _changed(us, H=H, provider="torch.nn")]
    rows.append(dataclasses.replace(ROW, H=40))  # without its peer
    assert cli.main(["report", str(_write(tmp_path / "rows", *rows))]) == 0
    summary = "Of 4 rows fastrnn is faster in 2, the peer in 1; the noise of both hides the rest."
    assert summary in capsys.readouterr().out


def test_report_names_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = _changed(4.0, provider="other")
    lacking = dataclasses.replace(other, provider="lacking", us_per_step=None, p20=None, p80=None, status="n/a")
    assert cli.main(["report", str(_write(tmp_path / "rows", PEER, ROW, other, lacking))]) == 0
    out = capsys.readouterr().out
    assert "| ratio | error | others |" in out
    assert "| 2.50 | 1e-03 | other 4.00 (3.90-4.10) |" in out
    assert cli.main(["report", str(_write(tmp_path / "two", PEER, ROW))]) == 0
    assert "others" not in capsys.readouterr().out


def test_report_shows_the_memory_of_a_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The larger of repetitions, beside the peer's; no columns where nobody's is known."""
    rows = [dataclasses.replace(ROW, peak_mb=mb) for mb in (700.4, 900.6)]
    file = _write(tmp_path / "a.jsonl", *rows, dataclasses.replace(PEER, peak_mb=1234.0))
    assert cli.main(["report", str(file)]) == 0
    out = capsys.readouterr().out
    assert "| ratio | error | MB | its MB |\n" in out
    assert "| 901 | 1234 |\n" in out
    assert "against float64; MB: the GPU memory that a call takes" in out
    assert cli.main(["report", str(_write(tmp_path / "b.jsonl", ROW, PEER))]) == 0
    assert " MB" not in capsys.readouterr().out


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["env"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(lines) == {"fastrnn", "platform"} | {field.name for field in dataclasses.fields(record.Environment)}
    assert (lines["torch"], lines["device"], lines["gpu"]) == (torch.__version__, "cpu", "-")


def test_rows_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    assert cli.main(["run", *TINY]) == 0
    plain = capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["run", *TINY]) == 0
    bar = capsys.readouterr().out
    assert "0/2" in bar
    assert "1/2" in bar
    assert "T=5 B=2 H=4" in bar
    assert "0/2" not in plain

    def rows(text: str) -> list[list[str]]:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r", "\n"))
        return [line.split()[:9] for line in text.splitlines() if line.startswith("lstm  ")]

    assert rows(plain) == rows(bar)
    assert len(rows(bar)) == 2
