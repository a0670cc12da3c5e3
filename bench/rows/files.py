"""Which files a command reads and writes. `run` keeps rows whether told where or not; `report` and `plot` find them."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import fastrnn
from fastrnn.bench.rows import record
from fastrnn.bench.rows.record import BenchError, Environment, Row

FOLDER = "fastrnn-bench"  # of the folder the command runs in
CONSTANTS = f"{FOLDER}/machine"  # what `machine` keeps: no rows, so apart from them


def _named(folder: Path, env: Environment) -> Path:
    """A file of the folder, named after the machine and the day."""
    words = re.sub(r"[^a-z0-9]+", "-", (env.gpu or env.device).lower()).strip("-")
    return folder / f"{words}-{record.now()[:10]}.jsonl"


def check_writable(arguments: argparse.Namespace) -> None:
    """Refuse a file that cannot be written before minutes have gone into its rows, and end one that was cut short."""
    for option in ("json", "csv"):
        path = getattr(arguments, option, None)
        if path is not None:
            try:
                open(path, "a").close()
            except OSError as error:
                arguments.parser.error(f"argument --{option}: cannot write {path!r}: {error.strerror}")
            record.mend(path)


def settle_constants(arguments: argparse.Namespace, env: Environment) -> None:
    """Settle which file `machine` writes to, in `arguments.json`."""
    if arguments.json is None:
        try:
            Path(CONSTANTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchError(f"cannot make {CONSTANTS} here: {error.strerror}; say where: --json FILE") from None
        arguments.json = str(_named(Path(CONSTANTS), env))
    check_writable(arguments)


def open_results(arguments: argparse.Namespace, env: Environment) -> list[Row]:
    """Settle which file rows go to, in `arguments.json`; the rows that an earlier run left there.

    Without `--json` that is a file in FOLDER, as with a folder. Every file of a folder counts as left there, since a
    run that goes on may do so on another day.
    """
    given = arguments.json
    folder = Path(FOLDER if given is None else given)
    if given is None:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise BenchError(f"cannot make {FOLDER} here: {error.strerror}; say where rows go: --json FILE") from None
    others: list[Path] = []
    if folder.is_dir():
        file = _named(folder, env)
        others = [path for path in sorted(folder.glob("*.jsonl")) if path != file]
        arguments.json = str(file)
    check_writable(arguments)
    # A file of another version is not to get rows of this one; one beside it may stay.
    rows = record.read(arguments.json)
    for path in others:
        try:
            rows += record.read(path)
        except BenchError as error:
            print(f"left out: {error}", file=sys.stderr)
    return rows


def committed() -> list[Path]:
    """The files in `bench/results/` that are as committed; others are no evidence that a reader could check."""
    root = Path(fastrnn.__file__).parent.parent
    git = ["git", "-C", str(root)]

    def names(*arguments: str) -> set[str]:
        done = subprocess.run([*git, *arguments], capture_output=True, text=True, check=False)
        return set(done.stdout.split("\0")) - {""} if done.returncode == 0 else set()

    pattern = ":(glob)bench/results/*.jsonl"
    unchanged = names("ls-files", "-z", pattern) - names("diff", "HEAD", "--name-only", "-z", "--", pattern)
    return sorted(root / name for name in unchanged)


def to_show(given: Sequence[str], public: bool = False) -> list[Path]:
    """The files named; without names those in FOLDER, or the committed ones if it has none or the public is to see."""
    own: Iterable[Path] = () if public else sorted(Path(FOLDER).glob("*.jsonl"))
    return [Path(name) for name in given] or list(own) or committed()
