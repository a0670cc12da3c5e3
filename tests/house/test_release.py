"""What goes out: the source distribution builds a checkout's wheel, and the files for CI, issues and citation hold."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
GITHUB = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / ".github").rglob("*.yml"))
WORKFLOWS = [path for path in GITHUB if "/workflows/" in path]


def _yaml(path: str) -> Any:
    return pytest.importorskip("yaml").safe_load((ROOT / path).read_text(encoding="utf-8"))


def _jobs(path: str) -> dict[str, Any]:
    jobs = _yaml(path)["jobs"]
    assert isinstance(jobs, dict)
    return jobs


def _commands(path: str) -> list[str]:
    """The shell lines of a workflow, with `value` for what GitHub puts in."""
    steps = [step for job in _jobs(path).values() for step in job["steps"]]
    scripts = [re.sub(r"\$\{\{.*?\}\}", "value", step.get("run", "")) for step in steps]
    return [line.strip() for script in scripts for line in script.splitlines()]


@pytest.mark.parametrize("path", GITHUB)
def test_github_files_parse(path: str) -> None:
    assert isinstance(_yaml(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS)
def test_workflows_call_what_there_is(path: str) -> None:
    called = [command for command in _commands(path) if command.startswith("make ")]
    assert called
    for command in called:
        words = [word for word in shlex.split(command)[1:] if "=" not in word]
        for target in words:
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), target
        for variable in re.findall(r"\b([A-Z]+)=", command):
            assert re.search(rf"^{variable} \?=", MAKEFILE, re.MULTILINE), variable


@pytest.mark.parametrize("path", WORKFLOWS)
def test_workflows_hold_no_more_rights_than_they_need(path: str) -> None:
    workflow = _yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_the_matrix_covers_what_is_supported() -> None:
    matrix = _jobs(".github/workflows/cpu.yml")["test"]["strategy"]["matrix"]
    classified = re.findall(r"Python :: (3\.\d+)", PYPROJECT)
    assert matrix["python"] == classified
    assert f'requires-python = ">={classified[0]}"' in PYPROJECT
    files = {entry["torch"]: (ROOT / entry["constraints"]).read_text() for entry in matrix["include"]}
    pins = {name: re.findall(r"^torch==(\d+\.\d+)", text, re.MULTILINE) for name, text in files.items()}
    assert f'"torch>={pins["oldest"][0]}"' in PYPROJECT
    assert pins["newest"] > pins["pinned"] > pins["oldest"]


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_each_end_of_the_range_has_an_environment_of_its_own(end: str) -> None:
    (step,) = (step for step in _jobs(".github/workflows/cpu.yml")["test"]["steps"] if f"'{end}'" in step.get("if", ""))
    assert step["run"] == f"make test-{end} PYTHON=python"
    command = ["make", "-n", f"test-{end}", "PYTHON=some-python"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"some-python -m venv .venv-{end}" in plan
    assert f"--constraint .github/constraints-{end}.txt" in plan
    assert f".venv-{end}/bin/python -m pytest" in plan
    assert "/.venv/" not in plan.replace(str(ROOT), "")


def test_code_of_strangers_does_not_reach_the_gpu() -> None:
    # YAML 1.1, and so PyYAML, takes the key `on` for true.
    triggers = _yaml(".github/workflows/gpu.yml")[True]
    assert set(triggers) == {"push", "workflow_dispatch"}
    for job in _jobs(".github/workflows/gpu.yml").values():
        assert job["runs-on"] == ["self-hosted", "gpu"]


def test_issue_forms_ask_for_the_environment() -> None:
    forms = [path for path in GITHUB if "ISSUE_TEMPLATE" in path and not path.endswith("config.yml")]
    assert forms
    for path in forms:
        form = _yaml(path)
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields)
        (env,) = (field for field in fields if field["id"] == "env")
        assert "fastrnn-bench env" in env["attributes"]["label"]
        assert env["validations"]["required"]
    assert "fastrnn-bench env" in (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()


def test_citation_is_of_this_version() -> None:
    citation = _yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert f'version = "{citation["version"]}"' in PYPROJECT
    assert f'license = "{citation["license"]}"' in PYPROJECT


def _built(call: str, source: Path, out: Path) -> Path:
    """What a call of setuptools' backend leaves in `out`."""
    out.mkdir()
    program = f"import setuptools.build_meta as b; b.{call}({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution of the checkout's files, and the wheel built from that alone."""
    pytest.importorskip("setuptools")
    place = tmp_path_factory.mktemp("release")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        source, target = ROOT / name, place / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            shutil.copyfile(source, target)
    sdist = _built("build_sdist", place / "checkout", place / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    return sdist, _built("build_wheel", unpacked, place / "wheel")


def test_the_source_distribution_builds_the_wheel(distributions: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(distributions[1]).namelist()
    folders = {"fastrnn": "fastrnn", "kernels": "fastrnn/kernels", "bench": "fastrnn/bench"}
    modules = {
        f"{to}/{path.relative_to(ROOT / of).as_posix()}"
        for of, to in folders.items()
        for path in (ROOT / of).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    assert "fastrnn/py.typed" in names


def test_the_source_distribution_holds_no_links_and_no_tests(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    inside = {member.name.partition("/")[2] for member in members}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= inside
    assert {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "fastrnn/kernels", "fastrnn/bench"))]


def test_the_wheel_of_the_source_distribution_works_from_a_foreign_folder(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(distributions[1]).extractall(site)
    program = """
import torch, fastrnn, fastrnn.bench.cli, fastrnn.kernels.plan.choice
fastrnn.LSTM(3, 4)(torch.randn(5, 2, 3))[0].sum().backward()
print(fastrnn.__file__)
"""
    environment = {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout


def test_an_index_would_take_them(distributions: tuple[Path, Path]) -> None:
    try:
        importlib.metadata.version("twine")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs twine: pip install '.[release]'")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
