"""The plan of the house (docs/inside/house.md): what may import what, and how large a room may grow."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import stack
from fastrnn.backends import aten, aten_scan, aten_scan_backward
from fastrnn.scan import choice

ROOT = Path(__file__).parents[2]

# From the ground up: a module imports from floors below its own, and from its own where that makes no circle.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("ptx_machine.errors", "ptx_machine.types"),
    ("ptx_machine.text",),
    ("ptx_machine.decode", "ptx_machine.report"),
    ("ptx_machine.registers",),
    ("ptx_machine.memory", "ptx_machine.clocks", "ptx_machine.flights"),
    ("ptx_machine.delivery", "ptx_machine.tensors"),
    ("ptx_machine.shared", "ptx_machine.global_memory"),
    ("ptx_machine.table",),
    ("ptx_machine.grid",),
    ("ptx_machine.machine",),
    ("ptx_machine",),
    ("fastrnn.kernels.derived.table",),
    ("fastrnn.kernels",),  # counts and tensors
    ("fastrnn.kernels.plan",),
    ("fastrnn.kernels.triton.pointwise",),
    ("fastrnn.kernels.derived",),
    ("fastrnn.kernels.triton",),
    ("fastrnn.kernels.gluon",),
    ("fastrnn.kernels.launch",),
    ("fastrnn.kernels.offline",),
    ("fastrnn.derive",),
    ("fastrnn.cells", "fastrnn.tracers"),
    ("fastrnn.scan.problem",),
    ("fastrnn.backends",),
    ("fastrnn.scan.choice",),
    ("fastrnn.scan",),
    ("fastrnn.batch", "fastrnn.graphs"),
    ("fastrnn.ops",),
    ("fastrnn.stack",),
    ("fastrnn.layers",),
    ("fastrnn.converted", "fastrnn.export", "fastrnn.interop"),
    ("fastrnn",),  # whose names are loaded on first use
    ("fastrnn.bench.rows",),
    ("fastrnn.bench.showing",),  # which asks nobody how anything was measured
    ("fastrnn.bench.providers",),
    ("fastrnn.bench.measuring",),
    ("fastrnn.bench.gpu",),
    ("fastrnn.bench",),
)
MOST_LINES, MOST_BODY = 400, 60
# What may be larger, and why.
EXCEPTIONS = dict.fromkeys(
    (
        "fastrnn.kernels.triton.forward.scan_fwd_kernel",
        "fastrnn.kernels.triton.backward.scan_bwd_kernel",
        "fastrnn.kernels.triton.wide_forward.wide_fwd_kernel",
        "fastrnn.kernels.triton.wide_backward.wide_bwd_kernel",
        "fastrnn.kernels.gluon.forward.gluon_fwd_kernel",
        "fastrnn.kernels.gluon.backward.gluon_bwd_kernel",
    ),
    "one kernel: a function for its parts would take dozens of values, and what is compiled might change",
)


def _modules() -> dict[str, Path]:
    """Every module of the package by name, kernels and benchmark included."""
    found = {}
    folders = {
        "fastrnn": "fastrnn",
        "kernels": "fastrnn.kernels",
        "bench": "fastrnn.bench",
        "ptx_machine": "ptx_machine",
    }
    for folder, prefix in folders.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it, but for what only type checkers read."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from (name for name in (whole if whole in MODULES else node.module,) if name in MODULES)


IMPORTS = {name: sorted({*_imported(path)} - {name}) for name, path in MODULES.items()}


def _floor(module: str) -> int:
    """The floor whose name is longest of those that the module's begins with."""
    homes = [(len(room), i) for i, rooms in enumerate(FLOORS) for room in rooms if f"{module}.".startswith(f"{room}.")]
    return max(homes)[1]


def test_imports_go_down() -> None:
    upwards = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if other not in ("fastrnn", "ptx_machine") and _floor(other) > _floor(module)
    ]
    assert not upwards
    assert IMPORTS["fastrnn.stack"], "the test would pass if it found no imports"


def test_no_circle() -> None:
    """Deferred imports count as well."""
    assert set(graphlib.TopologicalSorter(IMPORTS).static_order()) == {*IMPORTS}  # a circle raises


def _bodies(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file, and how many lines its body has, its docstring apart."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            if statements:
                yield node.name, (node.end_lineno or 0) - statements[0].lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module: str) -> None:
    path = MODULES[module]
    if ".derived." in module:
        return  # printed, by what is no longer than it may be
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES or module in EXCEPTIONS, f"{lines} lines"
    large = {f"{module}.{name}": body for name, body in _bodies(path) if body > MOST_BODY}
    assert {name: body for name, body in large.items() if name not in EXCEPTIONS} == {}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_are_needed(name: str) -> None:
    module = max((m for m in MODULES if f"{name}.".startswith(f"{m}.")), key=len)
    path = MODULES[module]
    if name == module:
        assert len(path.read_text().splitlines()) > MOST_LINES
    else:
        assert dict(_bodies(path))[name.removeprefix(f"{module}.")] > MOST_BODY


# A call, followed down: the page has the files of each.
CALLS = dict(
    re.findall(r"^(\S.*?) {2,}(\S+\.py(?: \S+\.py)*)$", (ROOT / "docs/inside/house.md").read_text(), re.MULTILINE)
)
X, LENGTHS = torch.randn(300, 2, 3), torch.tensor([300, 150])


def _followed(call: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files on the way to where the work of a call is done, as frames lie on each other there."""
    seen: list[str] = []
    home = Path(fastrnn.__file__).parent

    def watch(owner: Any, name: str) -> None:
        original = owner[name] if isinstance(owner, dict) else getattr(owner, name)

        def spy(*args: Any, **options: Any) -> Any:
            frame: Any = sys._getframe(1)
            while frame is not None:
                path = Path(frame.f_code.co_filename)
                if path.is_relative_to(home):
                    seen.append(path.relative_to(home).as_posix())
                frame = frame.f_back
            return original(*args, **options)

        patch = monkeypatch.setitem if isinstance(owner, dict) else monkeypatch.setattr
        patch(owner, name, spy)

    kernels = "kernels" in call
    if kernels:
        pytest.importorskip("triton")
        from fastrnn.kernels.launch import scan as launch
    layer = fastrnn.LSTM(3, 5, backend="persistent" if kernels else "auto")
    x = X[:3] if kernels else X
    if not call.startswith("backward"):
        owner, name = (launch, "_launch") if kernels else (aten_scan, "plans")
        watch(*((aten._FUNCTIONS, "LSTM") if call.startswith("layer(x) ") else (owner, name)))
    if call == "packed input":
        layer(pack_padded_sequence(x, LENGTHS))
    elif call == "layer(x, lengths=)":
        layer(x, lengths=LENGTHS)
    else:
        resets = torch.zeros(len(x), 2, dtype=torch.bool) if call == "backward on a CPU" else None
        output, _ = layer(x, resets=resets)
        if call.startswith("backward"):
            watch(*((launch, "_launch") if kernels else (aten_scan_backward, "plans")))
            output.sum().backward()
    way = list(reversed(seen))
    return [file for before, file in zip([None, *way], way, strict=False) if file != before]


@pytest.mark.parametrize("call", CALLS)
def test_the_way_down(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _followed(call, monkeypatch)
    assert " ".join(files) == CALLS[call]
    assert len({*files}) == len(files), "none twice"


def test_the_choice_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(stack, "choose", lambda *args: asked.append(args) or choice.choose(*args))
    fastrnn.LSTM(3, 5, num_layers=2, bidirectional=True)(X, lengths=LENGTHS)
    assert len(asked) == 1
    assert len(CALLS) == 6
