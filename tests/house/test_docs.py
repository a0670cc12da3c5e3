"""The documentation keeps its promises: its Python runs, what it names is there, and it builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from fastrnn.cells import CATALOGUE
from fastrnn.derive.operators import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}

# What torch.export says of torch's own code, as in test_compile.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _blocks(text: str) -> list[tuple[int, str]]:
    """The Python of a page: each block's first line, and its code."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text[: block.start(1)].count("\n"), block[1]) for block in found]


WITH_CODE = [page for page, text in PAGES.items() if _blocks(text)]


@pytest.mark.parametrize("page", WITH_CODE)
def test_python_runs(page: str, tmp_path: Path) -> None:
    """The blocks of a page, one after another. From a file: what refuses a cell names a line of one."""
    lines: list[str] = []
    for first, code in _blocks(PAGES[page]):
        lines += [""] * (first - len(lines)) + code.splitlines()  # so that errors name the page's own lines
    program = tmp_path / "page.py"
    if page == "guide/distributed.md":
        # Gloo, as it is destroyed, may wait forever for a thread that waits for the interpreter: so it is not.
        lines.append("import os; os._exit(0)")
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if page == "guide/distributed.md":
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(program)], check=True, timeout=100, env=environment)
        return
    allowed = torch.backends.cudnn.allow_tf32
    try:
        runpy.run_path(str(program))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def test_there_is_code_to_run() -> None:
    assert len(WITH_CODE) >= 10
    for page, text in PAGES.items():
        languages = set(re.findall(r"^```(\S+)$", text, re.MULTILINE))
        assert languages <= {"python", "sh", "text", "diff"}, page  # none that looks like Python and does not run


@pytest.mark.parametrize("page", PAGES)
def test_files_it_names_exist(page: str) -> None:
    for name in re.findall(r"`((?:kernels|bench|fastrnn|tests|examples)/[\w/.]*\w)`", PAGES[page]):
        assert (ROOT / name).exists() or name == "bench/results", name


def test_every_page_is_in_the_navigation() -> None:
    yaml = pytest.importorskip("yaml")
    text = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(entries: list[dict[str, object]]) -> list[str]:
        found = []
        for entry in entries:
            for value in entry.values():
                found += pages(value) if isinstance(value, list) else [str(value)]
        return found

    assert sorted(pages(text["nav"])) == sorted(PAGES)


def test_public_names_are_in_the_reference() -> None:
    import fastrnn

    for name in fastrnn.__all__:
        assert re.search(rf"^::: fastrnn(\.\w+)+\.{name}$", PAGES["api.md"], re.MULTILINE), name


def _rows(page: str, heading: str) -> list[list[str]]:
    """The cells of each row of the first table under a heading."""
    _, _, below = PAGES[page].partition(f"\n{heading}\n")
    table = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", below, re.MULTILINE)
    assert table
    return [[entry.strip() for entry in row.strip("|").split("|")] for row in table[1].splitlines()]


def test_the_catalogue_is_the_code() -> None:
    found = {}
    for name, gates, states, besides, _ in _rows("guide/your-own-cell.md", "## The catalogue"):
        named = tuple(re.findall(r"`(\w+)`", besides))
        found[name.strip("`")] = (len(gates.split()), len(states.split()), named, int("inner gate" in besides))
    expected = {
        name: (cell.gates, cell.states, (*cell.vector_names, *cell.constant_names), cell.inner)
        for name, cell in CATALOGUE.items()
    }
    assert found == expected
    for name in CATALOGUE:
        assert f"::: fastrnn.cells.catalogue.{name}\n" in PAGES["api.md"], name


def test_operators_of_cells_are_the_codes() -> None:
    rows = _rows("guide/your-own-cell.md", "## What a cell cannot be")
    names = [name for _, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(names) == sorted({*OPERATORS} - {"number", "at_least", "at_most"})  # which nobody calls


def test_pictures_are_well_formed() -> None:
    pictures = list(DOCS.rglob("*.svg"))
    assert pictures
    for path in pictures:
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert any(f"{path.name})" in text for text in PAGES.values()), f"no page shows {path.name}"


def test_no_speed_is_claimed() -> None:
    """Figures belong to the committed measurements; the documentation has none."""
    for page, text in PAGES.items():
        assert not re.search(r"\d\s*(x|times|\u00d7|%) (faster|slower|less|more)", text), page
        assert not re.search(r"\d\s*(us|\u00b5s|microseconds|ms)\b", text), page


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings_handlers") is None:
        pytest.skip("needs mkdocs-material and mkdocstrings-python: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "hidden_size" in page
    assert (tmp_path / "site" / "images" / "scan.svg").is_file()
