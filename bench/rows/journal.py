"""Files that grow by a line for each thing that is found, on disk as it is found: nothing finished is lost."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastrnn.bench.rows.errors import BenchError

PathLike = str | os.PathLike[str]


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def append(path: PathLike, row: Mapping[str, Any]) -> None:
    """Add one line to a file of JSON objects; on disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def append_csv(path: PathLike, row: Mapping[str, Any]) -> None:
    """Add one line to a CSV file, and the headings to one that is empty."""
    with open(path, "a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def _note(path: PathLike) -> None:
    print(f"{Path(path).name}: the last line was cut short and is dropped", file=sys.stderr)


def mend(path: PathLike) -> None:
    """Cut off a last line that was not written to its end, with a note: the next row would continue it."""
    content = Path(path).read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        _note(path)
        os.truncate(path, whole)


def lines(path: PathLike, note: bool = False) -> list[str]:
    """The lines of a file; a last one that was cut short is left out, with a note if it is asked for.

    Raises:
        BenchError: there is no such file, or it is not text.
    """
    try:
        *whole, rest = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise BenchError(f"cannot read {Path(path).name}: {reason}") from None
    if rest and note:
        _note(path)
    return whole


def objects(path: Path) -> list[dict[str, Any]]:
    """The objects of such a file; none where there is no file yet."""
    return [json.loads(line) for line in lines(path)] if path.exists() else []
