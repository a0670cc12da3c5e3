"""The benchmark's rooms: imports go one way through them, deferred ones too, and never in a circle."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "bench"
# Each imports from its own room and those before it. `showing` asks nobody how anything was measured.
ROOMS = ("rows", "providers", "showing", "measuring", "gpu", "")
MODULES = {path.relative_to(BENCH).with_suffix("").as_posix().replace("/", "."): path for path in BENCH.rglob("*.py")}


def _imports(path: Path) -> set[str]:
    """The benchmark's modules that a file names, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.name for node in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        found |= {name.removeprefix("fastrnn.bench.") for name in names if name.startswith("fastrnn.bench.")}
    return found & set(MODULES)


def test_imports_go_one_way() -> None:
    for module, path in MODULES.items():
        own = ROOMS.index(module.rpartition(".")[0])
        for used in _imports(path):
            assert ROOMS.index(used.rpartition(".")[0]) <= own, f"{module} imports {used}"
            assert {module.split(".")[0], used.split(".")[0]} != {"showing", "providers"}, f"{module} imports {used}"


def test_no_circle() -> None:
    order = graphlib.TopologicalSorter({module: _imports(path) for module, path in MODULES.items()}).static_order()
    assert set(order) == set(MODULES)  # a circle raises
