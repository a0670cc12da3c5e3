"""The README keeps its promises: its Python runs, and every file it names is there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from fastrnn.bench import files, record, report

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    scope: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            exec(block, scope)
    assert "runs: " in capsys.readouterr().out


def test_files_it_names_exist() -> None:
    tests = set(re.findall(r"`(?:tests/)?(test_\w+\.py)`", README))
    assert len(tests) >= 9
    for name in tests:
        assert (ROOT / "tests" / name).is_file(), name
    for path in re.findall(r"`((?:kernels|bench|fastrnn)/[\w/]+\.py)`", README):
        assert (ROOT / path).is_file(), path


def test_no_speed_is_claimed_without_a_committed_measurement() -> None:
    results = [path.read_text() for path in (ROOT / "bench" / "results").glob("*.jsonl")]
    if not any('"device": "cuda"' in rows for rows in results):
        assert "not yet measured on a GPU" in README
        assert not re.search(r"\d\s*(x|times|\u00d7) (faster|slower)", README)


def test_what_stands_between_the_markers_is_generated(tmp_path: Path) -> None:
    """By `python -m bench report --readme README.md`, from what is committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    copy = tmp_path / "README.md"
    copy.write_text(README)
    rows = [row for file in files.committed() for row in record.read(file)]
    if report.on_gpus(rows):
        pytest.importorskip("matplotlib")
    report.fill(copy, rows)
    assert copy.read_text() == README
