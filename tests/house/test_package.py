"""The package as users install it: a wheel that holds every module under its own name, and works from anywhere."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in files.stdout.splitlines():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("setuptools")
    subprocess.run(
        [sys.executable, "-c", f"import setuptools.build_meta as b; b.build_wheel({str(out)!r})"],
        cwd=source, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (built,) = out.glob("fastrnn-*.whl")
    return built


def test_the_wheel_holds_every_module_once(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        f"{to}/{path.relative_to(ROOT / source).as_posix()}"
        for to, source in (("fastrnn", "fastrnn"), ("fastrnn/kernels", "kernels"), ("fastrnn/bench", "bench"))
        for path in (ROOT / source).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    assert "fastrnn/py.typed" in names


def test_the_wheel_works_from_a_foreign_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = """
import torch, fastrnn, fastrnn.kernels.plan.choice, fastrnn.bench.cli
layer = fastrnn.LSTM(3, 4)
layer(torch.randn(5, 2, 3))[0].sum().backward()
fastrnn.explain(layer, torch.randn(5, 2, 3))
print(fastrnn.__file__)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(site) in result.stdout


def test_no_file_names_a_machine() -> None:
    """No absolute home or work path in any tracked file."""
    found = subprocess.run(
        ["git", "grep", "-nE", r"/(root|home|work)/", "--", ".", ":!tests/house/test_package.py", ":!LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode > 1:
        pytest.skip("needs a git checkout")
    assert found.stdout == ""


def test_gpu_tests_need_torch_triton_numpy_and_pytest_alone() -> None:
    """What a GPU machine lends has no more: a test module that imports more says so first."""
    local = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"fastrnn", "examples", "ptx_machine"}
    allowed = {*sys.stdlib_module_names, *local, "torch", "triton", "numpy", "pytest"}
    for path in (ROOT / "tests").rglob("*.py"):
        skipped: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Expr) and ast.unparse(node).startswith("pytest.importorskip("):
                skipped.add(ast.unparse(node).split("'")[1])
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in allowed | skipped, f"{path.name} imports {top}: pytest.importorskip({top!r}) first"
