"""The README keeps its promises: its Python runs, and every file it names is there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from fastrnn.bench.rows import files, record
from fastrnn.bench.showing import report

ROOT = Path(__file__).resolve().parents[2]
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
    tests = set(re.findall(r"`(test_\w+\.py)`", README))
    assert len(tests) >= 9
    for name in tests:
        assert [*(ROOT / "tests").glob(f"*/{name}")], name
    for path in re.findall(r"`((?:kernels|bench|fastrnn|tests)/[\w/]+\.py)`", README):
        assert (ROOT / path).is_file(), path


def test_no_speed_is_claimed_without_a_committed_measurement() -> None:
    results = [path.read_text() for path in (ROOT / "bench" / "results").glob("*.jsonl")]
    if not any('"device": "cuda"' in rows for rows in results):
        assert "not yet measured on a GPU" in README
        assert not re.search(r"\d\s*(x|times|\u00d7) (faster|slower)", README)


@pytest.mark.parametrize(
    ("page", "fill"), [("README.md", report.fill), ("docs/inside/cpu.md", report.fill_cpu)], ids=["README", "CPU page"]
)
def test_what_stands_between_the_markers_is_generated(page: str, fill: Any, tmp_path: Path) -> None:
    """By `python -m bench report --readme README.md --cpu-page docs/inside/cpu.md`, from what is committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    text, copy = (ROOT / page).read_text(), tmp_path / "page.md"
    copy.write_text(text)
    rows = [row for file in files.committed() for row in record.read(file)]
    if report.on_gpus(rows):
        pytest.importorskip("matplotlib")
    fill(copy, rows)
    assert copy.read_text() == text


def test_the_front_page_shows_no_row_of_a_cpu() -> None:
    block = README.partition(report.BEGIN)[2].partition(report.END)[0]
    assert "no GPU**" not in block
    assert "torch.nn-packed |" not in block or "NVIDIA" in block


def test_the_first_screen_has_the_two_commands() -> None:
    first = README.splitlines()[:60]
    assert any(line.startswith("make bench ") for line in first)
    assert any(line.startswith("make test ") for line in first)
