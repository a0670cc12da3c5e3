"""Every command that the README and the documentation print is one that there is, and quick ones run as printed."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import compiled
import pytest
from benching import make_brief
from support import compiling_environment, load_example

from fastrnn.bench import cli
from fastrnn.bench.measuring import measure
from fastrnn.bench.rows import cases

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "NOTES.md", *sorted(ROOT.glob("docs/**/*.md"))]
BENCH = re.compile(r"(?:python -m bench|fastrnn-bench)(?: |$)")
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def commands(page: Path) -> Iterator[str]:
    """The commands of a page's shell blocks, without comments; those joined by && one by one."""
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            text = shlex.join(shlex.split(line, comments=True)).replace("'&&'", "&&")
            yield from filter(None, (part.strip() for part in text.split("&&")))


COMMANDS = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)]


def _takes_options(path: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An example's help names every option it is called with."""
    with pytest.raises(SystemExit):
        load_example(Path(path).stem).main(["--help"])
    text = capsys.readouterr().out
    for option in (word for word in arguments if word.startswith("--")):
        assert option in text, option


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 30
    assert sum(bool(BENCH.match(command)) for page, command in COMMANDS if page == "README.md") >= 10


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_command_is_one_there_is(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    if BENCH.match(command):
        arguments = BENCH.sub("", command).split()
        if arguments != ["--help"]:
            cli.build_parser().parse_args(arguments)  # a wrong one exits
    elif words[0] == "make":
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
        for variable in (word.partition("=")[0] for word in words[1:] if "=" in word):
            assert re.search(rf"^{variable} \?=", MAKEFILE, re.MULTILINE), variable
    elif words[:2] == ["python", "tests/compiled.py"]:
        assert compiled.named(" ".join(words[2:])).name
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
        assert len(words) == 3, "whose options nothing looks at"
    elif words[0] in ("python", "torchrun"):
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        _takes_options(words[script], words[script + 1 :], capsys)
    else:
        assert words[:2] == ["pip", "install"], command
        for what in words[2:]:
            for extra in re.findall(r"\[(\w+)\]", what):
                assert re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE), extra
            named = re.sub(r"^(?:\.|fastrnn)?(?:\[\w+\])?$", "", what)
            assert not named or f'"{named}"' in PYPROJECT, f"{named} is no dependency of any extra"


def test_the_readmes_benchmark_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As printed, one after another, in an empty folder; what takes long is spared by timing nothing."""
    pytest.importorskip("matplotlib")
    make_brief(monkeypatch, tmp_path)
    monkeypatch.setattr(measure, "time_calls", lambda *_: [1.0] * 5)
    tiny = cases.product(["lstm"], ["train"], ["float32"], [cases.Shape(5, 2, 3, 4)])
    monkeypatch.setattr(cases, "_quick_cpu", lambda: tiny)
    monkeypatch.setattr("fastrnn.bench.commands._quick_kernels", lambda: 0)  # minutes of compilation
    printed = [command for command in commands(ROOT / "README.md") if command.startswith("fastrnn-bench")]
    assert len(printed) >= 9
    for command in printed:
        assert cli.main(BENCH.sub("", command).split()) == 0, (command, capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"fastrnn-bench", "rows.jsonl", "pictures"}
    out = capsys.readouterr().out
    assert "2 finished before" in out  # --resume
    assert "4 rows: 0 faster, 0 slower, 4 same" in out  # a file and itself
    for folder in ("fastrnn-bench", "pictures"):
        assert list((tmp_path / folder).glob("*.svg")), folder


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["bench", "bench-full", "test-gpu", "gpu-hour"])
def test_what_a_gpu_machine_runs_needs_no_environment(target: str, tmp_path: Path) -> None:
    """With PYTHON given, that Python as it is; the benchmarks without it, that of the environment they set up."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def printed(*arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "OUT", "MAKEFLAGS")}
        command = ["make", "--dry-run", target, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    given = printed("PYTHON=some-python")
    assert "some-python -m " in given
    assert ".venv" not in given
    assert "pip" not in given
    assert (".venv/ready" in printed()) == target.startswith("bench")
    if target == "gpu-hour":
        told = printed("PYTHON=some-python", "OUT=a folder", "PARTS=waits tests", "LIMIT=570", "COMMIT=abc")
        expected = "some-python -m bench hour --out 'a folder' --part waits --part tests --seconds 570 --commit abc"
        assert expected in told


@pytest.mark.slow
def test_every_readme_command_of_a_checkout_runs(tmp_path: Path) -> None:
    """In a copy of the checkout, with the Python at hand on the PATH, exactly as printed."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".venv", "build"))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    tools = shlex.quote(str(Path(sys.executable).parent))
    failures = []
    for command in commands(ROOT / "README.md"):
        # Those left out need a GPU, install, are this very run, or have tests of their own.
        if command.startswith(
            ("make test", "make bench-full", "make gpu-hour", "pip", "python -m bench machine", "torchrun", "fastrnn-")
        ):
            continue
        program = f"PATH={tools}:$PATH {command}"
        done = subprocess.run(
            program, shell=True, cwd=copy, env=compiling_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            failures.append((command, done.stderr[-1000:]))
    assert not failures
