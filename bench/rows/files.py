"""Which files a command reads and writes. `run` keeps rows whether told where or not; `report` and `plot` find them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fastrnn.bench.rows import checkout, journal, record
from fastrnn.bench.rows.errors import BenchError, refusing
from fastrnn.bench.rows.record import Environment, Row

FOLDER = "fastrnn-bench"  # of the folder the command runs in
CONSTANTS = f"{FOLDER}/machine"  # what `machine` keeps: no rows, so apart from them


def make_folder(folder: Path | str, refusal: str, hint: str = "") -> Path:
    """Make a folder, if it is not there; what it cannot be made for is said in one line."""
    with refusing(f"cannot make {refusal}", hint):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _named(folder: Path, env: Environment) -> Path:
    """A file of the folder, named after the machine and the day."""
    words = re.sub(r"[^a-z0-9]+", "-", (env.gpu or env.device).lower()).strip("-")
    return folder / f"{words}-{journal.now()[:10]}.jsonl"


def check_writable(arguments: argparse.Namespace) -> None:
    """Refuse a file that cannot be written before minutes have gone into its rows, and end one that was cut short."""
    for option in ("json", "csv"):
        path = getattr(arguments, option, None)
        if path is not None:
            try:
                open(path, "a").close()
            except OSError as error:
                arguments.parser.error(f"argument --{option}: cannot write {path!r}: {error.strerror}")
            journal.mend(path)


def settle_constants(arguments: argparse.Namespace, env: Environment) -> None:
    """Settle which file `machine` writes to, in `arguments.json`."""
    if arguments.json is None:
        folder = make_folder(CONSTANTS, f"{CONSTANTS} here", "; say where: --json FILE")
        arguments.json = str(_named(folder, env))
    check_writable(arguments)


def open_results(arguments: argparse.Namespace, env: Environment) -> list[Row]:
    """Settle which file rows go to, in `arguments.json`; the rows that an earlier run left there.

    Without `--json` that is a file in FOLDER, as with a folder. Every file of a folder counts as left there, since a
    run that goes on may do so on another day.
    """
    if arguments.json is None:
        arguments.json = make_folder(FOLDER, f"{FOLDER} here", "; say where rows go: --json FILE")
    folder, others = Path(arguments.json), list[Path]()
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
    pattern = ("--", ":(glob)bench/results/*.jsonl")
    try:
        known, changed = (
            set(checkout.git(*command, "-z", *pattern).split("\0")) - {""}
            for command in (("ls-files",), ("diff", "HEAD", "--name-only"))
        )
    except BenchError:
        return []
    return sorted(checkout.root() / name for name in known - changed)


def to_show(given: Sequence[str], public: bool = False) -> list[Path]:
    """The files named; without names those in FOLDER, or the committed ones if it has none or the public is to see."""
    own = [] if public else sorted(Path(FOLDER).glob("*.jsonl"))
    return [Path(name) for name in given] or own or committed()
